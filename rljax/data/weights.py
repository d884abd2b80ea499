"""Which trajectories to learn from: probabilities of episodes, and an exact sampler on the device.

RW and AW: Hong et al., "Harnessing mixed offline reinforcement learning datasets via trajectory weighting",
arXiv:2306.13085. Every transition of an episode has the episode's weight w, so an episode of T transitions is drawn with a
probability in proportion to T w. Nothing corrects for it: any agent learns as if the data had been like that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.base import InputError
from rljax.data.dataset import Dataset


def uniform(dataset: Dataset) -> np.ndarray:
    """Probability float64 [M] of each episode when every transition is equally likely."""
    return dataset.sizes / dataset.sizes.sum()


def rw(dataset: Dataset, temperature: float = 0.1) -> np.ndarray:
    """Probability float64 [M] of each episode, w = exp(G / temperature), G the return scaled to [0, 1] over episodes."""
    return _boltzmann(dataset, dataset.returns, temperature)


def aw(dataset: Dataset, temperature: float = 0.1) -> np.ndarray:
    """Probability float64 [M] of each episode, as `rw` with returns less what the first observation predicts.

    The prediction is a linear regression of returns on first observations.
    """
    has = dataset.sizes > 0
    first = dataset.transition.obs[dataset.starts[has]].reshape(has.sum(), -1).astype(np.float64)
    first = np.concatenate([first - first.mean(0), np.ones((len(first), 1))], 1)
    solution = np.linalg.lstsq(first, dataset.returns[has], rcond=None)[0]
    advantage = np.zeros(len(has))
    advantage[has] = dataset.returns[has] - first @ solution
    return _boltzmann(dataset, advantage, temperature)


def top(dataset: Dataset, percent: float = 10.0) -> np.ndarray:
    """Probability float64 [M] of each episode, uniform over the transitions of the ``percent`` best by return."""
    num = max(1, round(len(dataset.returns) * percent / 100))
    chosen = np.zeros(len(dataset.returns))
    chosen[np.argsort(-dataset.returns, kind="stable")[:num]] = 1
    weight = chosen * dataset.sizes
    return weight / weight.sum()


def effective_episodes(probability: np.ndarray) -> float:
    """Effective sample size in episodes, 1 / sum p^2."""
    return float(1 / np.sum(probability**2))


def parse(text: str) -> tuple[Callable[..., np.ndarray], float | None]:
    """``(function, parameter)`` of "uniform", "rw:0.1", "aw:0.1" (temperature) or "top:10" (percent).

    Raises:
        InputError: for anything else.
    """
    name, _, number = text.partition(":")
    functions = {"uniform": uniform, "rw": rw, "aw": aw, "top": top}
    try:
        parameter = float(number) if number else None
    except ValueError:
        parameter = 0.0
    most = 100.0 if name == "top" else 1e9
    plain = name == "uniform" and ":" not in text
    if not plain and not (name in ("rw", "aw", "top") and parameter is not None and 0 < parameter <= most):
        raise InputError(
            "sampling must be uniform, rw:TEMPERATURE or aw:TEMPERATURE (above 0), or top:PERCENT (above 0, at most 100), "
            f"got {text!r}"
        )
    return functions[name], parameter


def probabilities(dataset: Dataset, sampling: str) -> np.ndarray:
    """Probability float64 [M] of each episode under ``sampling``, as `parse` reads it."""
    function, parameter = parse(sampling)
    return function(dataset) if parameter is None else function(dataset, parameter)


class Table(NamedTuple):
    """What `draw` needs on the device: the edges uint32 [M - 1] between episodes, their first rows and lengths [M]."""

    edges: jax.Array
    starts: jax.Array
    sizes: jax.Array


def table(dataset: Dataset, probability: np.ndarray) -> Table:
    """The `Table` for these probabilities float64 [M]; they are kept to 2^-32, episodes of probability 0 are left out."""
    kept = np.flatnonzero((probability > 0) & (dataset.sizes > 0))
    edge = np.cumsum(probability[kept] / probability[kept].sum())[:-1] * 2.0**32
    edge = np.minimum(edge, 2.0**32 - 1)
    start, count = dataset.starts[kept], dataset.sizes[kept]
    return Table(jnp.asarray(edge.astype(np.uint32)), jnp.asarray(start, jnp.int32), jnp.asarray(count, jnp.int32))


def draw(table: Table, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Indices of transitions int32 [*shape]: first an episode, then uniformly one of its transitions."""
    key_episode, key_step = jax.random.split(key)
    episode = jnp.searchsorted(table.edges, jax.random.bits(key_episode, shape, jnp.uint32), side="right")
    return table.starts[episode] + jax.random.randint(key_step, shape, 0, table.sizes[episode])


def _boltzmann(dataset: Dataset, score: np.ndarray, temperature: float) -> np.ndarray:
    spread = score.max() - score.min()
    scaled = (score - score.min()) / (spread if spread > 0 else 1.0)
    weight = dataset.sizes * np.exp((scaled - 1) / temperature)
    return weight / weight.sum()
