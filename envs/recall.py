"""A test of memory: a cue is shown at the beginning of an episode, and asked for at its end."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rljax.base import Array, Discrete, Env, InputError, Spec, batch_env

OBS = Array((2,), "float32", (-1.0, 0.0), (1.0, 1.0))


class State(NamedTuple):
    """The cue, 0 or 1, and the env steps so far."""

    cue: jax.Array
    time: jax.Array


def ids() -> tuple[str, ...]:
    """The one id, which is empty: the name is ``recall``."""
    return ("",)


def defaults(env_id: str) -> dict[str, Any]:
    """Options and their defaults."""
    return {"horizon": 52, "shown": 1, "asked": 1}


def build(env_id: str, num_envs: int, name: str, horizon: int, shown: int, asked: int) -> Env:
    """`Env` whose episodes all have ``horizon`` steps: 50 between cue and question by default.

    Observations float32 [2]: -1 or 1 in the first ``shown`` steps, the cue; 1 in the last ``asked`` steps, the question; else
    0. Each action at a question is an answer, 0 or 1: it gives 1 if it is right and -1 if not. Nothing else is rewarded.
    """
    if max(shown, asked) > horizon:
        raise InputError(f"shown and asked of recall must be at most its horizon, {horizon}, got {shown} and {asked}")

    def observe(state: State) -> jax.Array:
        cue = jnp.where(state.time < shown, 2.0 * state.cue - 1.0, 0.0)
        return jnp.stack([cue, (state.time >= horizon - asked).astype(float)])

    def reset(key: jax.Array) -> tuple[State, jax.Array]:
        state = State(jax.random.bernoulli(key).astype(jnp.int32), jnp.int32(0))
        return state, observe(state)

    def step(state: State, action: jax.Array, key: jax.Array) -> tuple[State, jax.Array, jax.Array, jax.Array]:
        reward = jnp.where(state.time >= horizon - asked, jnp.where(action == state.cue, 1.0, -1.0), 0.0)
        state = State(state.cue, state.time + 1)
        return state, observe(state), reward, state.time == horizon

    return batch_env(Spec(OBS, Discrete(2), horizon), reset, step, num_envs, name)
