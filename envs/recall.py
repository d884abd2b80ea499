"""A test of memory: a cue is shown at the first step of an episode, and asked for at the last one."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rljax.base import Array, Discrete, Env, Spec, batch_env

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
    return {"horizon": 52}


def build(env_id: str, num_envs: int, name: str, horizon: int) -> Env:
    """`Env` whose episodes all have ``horizon`` steps: 50 between cue and question by default.

    Observations float32 [2]: -1 or 1 at the first step, the cue; 1 at the last step, the question; else 0. The action at the
    last step is the answer, 0 or 1: it gives 1 if it is right and -1 if not. Nothing else is rewarded.
    """

    def observe(state: State) -> jax.Array:
        cue = jnp.where(state.time == 0, 2.0 * state.cue - 1.0, 0.0)
        return jnp.stack([cue, (state.time == horizon - 1).astype(float)])

    def reset(key: jax.Array) -> tuple[State, jax.Array]:
        state = State(jax.random.bernoulli(key).astype(jnp.int32), jnp.int32(0))
        return state, observe(state)

    def step(state: State, action: jax.Array, key: jax.Array) -> tuple[State, jax.Array, jax.Array, jax.Array]:
        asked = state.time == horizon - 1
        reward = jnp.where(asked, jnp.where(action == state.cue, 1.0, -1.0), 0.0)
        state = State(state.cue, state.time + 1)
        return state, observe(state), reward, asked

    return batch_env(Spec(OBS, Discrete(2), horizon), reset, step, num_envs, name)
