"""A corridor of ten cells: an episode begins at its left end and terminates at its right end, with reward 1."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rljax.base import Array, Discrete, Env, Spec, batch_env

CELLS = 10


def reset(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``(state, obs [10])``: the left end; the observation is the cell, one-hot."""
    return jnp.int32(0), jax.nn.one_hot(0, CELLS)


def step(state: jax.Array, action: jax.Array, key: jax.Array) -> tuple[jax.Array, ...]:
    """``(state, obs [10], reward, terminated)`` after a step to the left (action 0) or to the right (action 1)."""
    state = jnp.clip(state + 2 * action - 1, 0, CELLS - 1)
    end = state == CELLS - 1
    return state, jax.nn.one_hot(state, CELLS), end.astype(float), end


def make(num_envs: int = 1) -> Env:
    """``num_envs`` corridors with a time limit of 50 env steps."""
    return batch_env(Spec(Array((CELLS,), "float32", 0.0, 1.0), Discrete(2), horizon=50), reset, step, num_envs, "corridor")
