"""Observation statistics: a state that travels with the policy, and functions that update and apply it.

`fixed`, `running` and `dataset` are the updates an agent can be given; all keep the statistics' structure, so a network
sees the same program with each.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.base import Array, bounds


class Stats(NamedTuple):
    """Number of observations seen, and their mean and variance per element (scalars for images)."""

    count: jax.Array  # type: ignore[assignment]  # it hides tuple.count
    mean: jax.Array
    var: jax.Array


def init(space: Array) -> Stats:
    """Statistics before any data: mean 0 and variance 1, or high^2 (at most 255^2) for uint8 observations, giving [0, 1]."""
    shape = () if len(space.shape) == 3 else space.shape
    scale = min(float(np.max(bounds(space)[1])), 255.0) if space.dtype == "uint8" else 1.0
    return Stats(jnp.zeros(()), jnp.zeros(shape), jnp.full(shape, scale**2, float))


def fixed(stats: Stats, obs: jax.Array) -> Stats:
    """``stats`` as they are."""
    return stats


def dataset(stats: Stats, obs: jax.Array) -> Stats:
    """``stats`` as they are: those of the data set (`of`), which the offline loop puts into the fresh state."""
    return stats


def of(obs: np.ndarray, space: Array) -> Stats:
    """The statistics of all observations [N, *shape] of a data set, computed in float64 on the host."""
    axes = tuple(range(obs.ndim - len(init(space).mean.shape)))
    mean, var = obs.mean(axes, np.float64), obs.var(axes, np.float64)
    return Stats(jnp.asarray(len(obs), float), jnp.asarray(mean, float), jnp.asarray(var, float))


def running(stats: Stats, obs: jax.Array) -> Stats:
    """``stats`` merged with those of ``obs`` [..., *shape] (Chan et al. 1979, parallel variance).

    Deviation from on-policy codes: an agent calls it on the batches that it learns from, not on each env step once.
    """
    axes = tuple(range(obs.ndim - stats.mean.ndim))
    obs = obs.astype(stats.mean.dtype)
    count = np.prod([obs.shape[a] for a in axes]).astype(stats.mean.dtype)
    mean, var = obs.mean(axes), obs.var(axes)
    total = stats.count + count
    delta = mean - stats.mean
    merged = (stats.var * stats.count + var * count + delta**2 * stats.count * count / total) / total
    return Stats(total, stats.mean + delta * count / total, merged)


def apply(stats: Stats, obs: jax.Array) -> jax.Array:
    """``obs`` [..., *shape] shifted and scaled to zero mean and unit variance, as floats; deviations are at least 1e-3."""
    return (obs.astype(stats.mean.dtype) - stats.mean) / jnp.maximum(jnp.sqrt(stats.var), 1e-3)


CHOICES = MappingProxyType({"fixed": fixed, "dataset": dataset, "running": running})
