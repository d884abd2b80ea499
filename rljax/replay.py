"""Replay: a ring of arrays with axes (time, env). The state holds arrays only; the clock ``t`` is the caller's.

``t`` counts the rows added before. Because seeds share it, a write under ``vmap`` stays one contiguous slice.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

PyTree = Any


def init(row: PyTree, capacity: int) -> PyTree:
    """An empty ring for rows whose leaves are [E, ...]: zeros [capacity / E, E, ...], rounded up."""
    num_envs = jax.tree.leaves(row)[0].shape[0]
    return jax.tree.map(lambda x: jnp.zeros((-(-capacity // num_envs), *x.shape), x.dtype), row)


def add(ring: PyTree, row: PyTree, t: jax.Array) -> PyTree:
    """The ring with ``row`` (leaves [E, ...]) at slot t mod (capacity / E); the oldest row gives way."""
    slots = jax.tree.leaves(ring)[0].shape[0]
    return jax.tree.map(lambda r, x: jax.lax.dynamic_update_index_in_dim(r, x.astype(r.dtype), t % slots, 0), ring, row)


def sample(ring: PyTree, t: jax.Array, key: jax.Array, shape: tuple[int, ...]) -> PyTree:
    """Transitions [*shape, ...] drawn uniformly with replacement from the newest min(t, capacity / E) rows; t >= 1."""
    slots, num_envs = jax.tree.leaves(ring)[0].shape[:2]
    index = jax.random.randint(key, shape, 0, jnp.minimum(t, slots) * num_envs)
    return jax.tree.map(lambda r: r.reshape(slots * num_envs, *r.shape[2:])[index], ring)
