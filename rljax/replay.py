"""Replay: a ring of arrays of transitions, and what an update draws from it, or from recorded data.

A slot holds one transition of each of E envs, which lie side by side: leaves are [slots * E, ...]. The state holds arrays only;
the clock is the caller's: ``t`` counts the slots filled before. Because seeds share it, a write under ``vmap`` stays one
contiguous slice. Nor may XLA copy a ring (tests/agents/test_replay_in_place.py): an axis of its own for E, mostly 1, would
leave the layout open, and `_take` keeps reads apart from the write beside them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rljax.base import Batch, where
from rljax.data import weights

PyTree = Any
Draw = Callable[[Batch, jax.Array, Any, jax.Array, tuple[int, ...]], Batch]


class Recorded(NamedTuple):
    """Recorded data on the device: a `Batch` with leaves [N, ...], and a `weights.Table`, or () to draw uniformly."""

    batch: Batch
    table: Any = ()


class Returns(NamedTuple):
    """Monte-Carlo returns of new experience: the agent's ``Extras``, the discount, and `rljax.data.mc_returns`' changes."""

    extras: Callable[..., Any]
    discount: jax.Array | float
    scale: float = 1.0
    bias: float = 0.0
    failure: float | None = None


def init(row: PyTree, capacity: int) -> PyTree:
    """An empty ring for rows whose leaves are [E, ...]: zeros [capacity, ...], rounded up to a multiple of E."""
    num_envs = jax.tree.leaves(row)[0].shape[0]
    size = -(-capacity // num_envs) * num_envs
    return jax.tree.map(lambda x: jnp.zeros((size, *x.shape[1:]), x.dtype), row)


def add(ring: PyTree, row: PyTree, t: jax.Array) -> PyTree:
    """The ring with ``row`` (leaves [E, ...]) in slot t mod (capacity / E); the oldest row gives way."""
    num_envs = jax.tree.leaves(row)[0].shape[0]
    first = t % _slots(ring, num_envs) * num_envs
    return jax.tree.map(lambda r, x: jax.lax.dynamic_update_slice_in_dim(r, x.astype(r.dtype), first, 0), ring, row)


def add_some(ring: PyTree, rows: PyTree, mask: jax.Array, stored: jax.Array) -> tuple[PyTree, jax.Array]:
    """``(ring, stored)`` after those of ``rows`` (leaves [T, E, ...]) for which ``mask`` [T, E] holds, of at most all slots.

    The ring's slots hold one row each; ``stored`` rows were added before.
    """
    slots = jax.tree.leaves(ring)[0].shape[0]
    chosen = mask.reshape(-1)
    slot = jnp.where(chosen, (stored + jnp.cumsum(chosen) - 1) % slots, slots)

    def put(ring: jax.Array, rows: jax.Array) -> jax.Array:
        flat = rows.reshape(-1, *rows.shape[mask.ndim :]).astype(ring.dtype)
        return ring.at[slot].set(flat, mode="drop", unique_indices=False)

    return jax.tree.map(put, ring, rows), stored + chosen.sum(dtype=jnp.int32)


def sample(ring: PyTree, t: jax.Array, key: jax.Array, shape: tuple[int, ...], num_envs: int) -> PyTree:
    """Transitions [*shape, ...] drawn uniformly with replacement from all of t slots, or of as many as there are; t >= 1."""
    return _take(ring, jax.random.randint(key, shape, 0, _filled(ring, t, num_envs)), num_envs)


def replayed(ring: Batch, t: jax.Array, data: Any, key: jax.Array, shape: tuple[int, ...]) -> Batch:
    """A `Batch` [E, ...] of new experience alone, from a ring of which t slots were filled; its ``shape`` begins with E."""
    batch: Batch = sample(ring, t, key, shape, shape[0])
    return batch


def windows(num: int) -> Draw:
    """A `Draw` of batches [E, U, B]: windows of ``num`` consecutive rows of one env, as that many neighbours along U.

    Their first rows are uniform over all that the ring holds. The newest row has ``truncated`` set, unless it terminated: what
    follows it in a window is not known yet. Nor do rows after the end of an episode belong to it (`rljax.losses.n_step`).
    """

    def draw(ring: Batch, t: jax.Array, data: Any, key: jax.Array, shape: tuple[int, ...]) -> Batch:
        num_envs, many, size = shape
        slots = _slots(ring, num_envs)
        first = jax.random.randint(key, (num_envs, many // num, 1, size), 0, _filled(ring, t, num_envs))
        ahead = jax.lax.broadcasted_iota(jnp.int32, (num_envs, many // num, num, size), 2)
        index = ((first + num_envs * ahead) % (num_envs * slots)).reshape(shape)
        batch: Batch = _take(ring, index, num_envs)
        x, newest = batch.transition, index // num_envs == (t - 1) % slots
        return batch._replace(transition=x._replace(truncated=x.truncated | (newest & ~x.terminated)))

    return draw


def recorded(ring: Any, t: jax.Array, data: Recorded, key: jax.Array, shape: tuple[int, ...]) -> Batch:
    """A `Batch` [*shape, ...] of recorded data alone."""
    if isinstance(data.table, weights.Table):
        index = weights.draw(data.table, key, shape)
    else:
        index = jax.random.randint(key, shape, 0, data.batch.transition.reward.shape[0])
    batch: Batch = jax.tree.map(lambda x: x[index], data.batch)
    return batch


def mixed(fraction: float) -> Draw:
    """A `Draw` of batches [E, ..., B] whose first round(``fraction`` B) transitions are recorded, and the others new (RLPD)."""

    def draw(ring: Batch, t: jax.Array, data: Recorded, key: jax.Array, shape: tuple[int, ...]) -> Batch:
        key_old, key_new = jax.random.split(key)
        num = round(fraction * shape[-1])
        old = recorded(ring, t, data, key_old, (*shape[:-1], num))
        new = _as(old, replayed(ring, t, data, key_new, (*shape[:-1], shape[-1] - num)))
        batch: Batch = jax.tree.map(lambda *x: jnp.concatenate(x, len(shape) - 1), old, new)
        return batch

    return draw


def either(probability: jax.Array | float) -> Draw:
    """A `Draw` of batches [E, U, B] that are, for each of E alone, all recorded with this probability, and else new (MOORL)."""

    def draw(ring: Batch, t: jax.Array, data: Recorded, key: jax.Array, shape: tuple[int, ...]) -> Batch:
        key_source, key_old, key_new = jax.random.split(key, 3)
        old = recorded(ring, t, data, key_old, shape)
        new = _as(old, replayed(ring, t, data, key_new, shape))
        batch: Batch = where(jax.random.bernoulli(key_source, probability, shape[:1]), old, new)
        return batch

    return draw


class Counts(NamedTuple):
    """How often each row [slots * E] of a ring began a sequence to learn from, and one that imagination went on from."""

    learned: Any
    imagined: Any


def newest_first(counts: Counts, ratio: float) -> tuple[jax.Array, Callable[[Counts], jax.Array]]:
    """Drama's dynamic frequency-based sampling (arXiv:2410.08893): scores to learn from, and to imagine from.

    The model learns from p ~ exp(-v / 10), v the times that it has, new rows first; imagination goes on from
    p ~ exp(min(0, v - b) / 10), b its own times divided by ``ratio``, how many times more often it draws.
    """

    def to_imagine(counts: Counts) -> jax.Array:
        return jnp.minimum(counts.learned - counts.imagined / ratio, 0.0) / 10

    return -counts.learned / 10, to_imagine


def evenly(counts: Counts, ratio: float) -> tuple[jax.Array, Callable[[Counts], jax.Array]]:
    """Scores of uniform sampling: 0."""
    return jnp.zeros(counts.learned.shape), lambda counts: jnp.zeros(counts.imagined.shape)


def starts(scores: jax.Array, t: jax.Array, length: int, key: jax.Array, num: int, num_envs: int) -> jax.Array:
    """First rows [num] of windows of ``length`` consecutive rows of one env each, different ones with p ~ exp(``scores``).

    ``scores`` [slots * E] are one per row. ``t`` slots of the ring were filled, no fewer than ``length``. Where it holds fewer
    than ``num`` windows, all come again.
    The largest of scores plus Gumbel noise are a sample without replacement.
    """
    slots = _slots(scores, num_envs)
    filled = jnp.minimum(t, slots)
    age = (jnp.arange(scores.size) // num_envs - (t - filled)) % slots  # 0 is the oldest slot
    fits = age <= filled - length
    noisy = jnp.where(fits, scores + jax.random.gumbel(key, scores.shape), -jnp.inf)
    size = min(num, scores.size)
    best = jax.lax.top_k(noisy, size)[1]
    return best[jnp.arange(num) % jnp.minimum(fits.sum(), size)]


def window(ring: PyTree, first: jax.Array, length: int, num_envs: int) -> PyTree:
    """Windows [num, length, ...] of consecutive rows of one env each, from rows ``first`` [num] on."""
    index = (first[:, None] + num_envs * jnp.arange(length)[None]) % jax.tree.leaves(ring)[0].shape[0]
    return _take(ring, index, num_envs)


def sequences(scores: Callable, num: int, length: int, num_dreams: int, context: int) -> Callable[..., tuple[Batch, Counts]]:
    """What `rljax.loops.sequences` draws: ``draw(ring, counts, t, key, num_envs) -> (batch, counts)``.

    The batch has transitions [num, length, ...] to learn from, and as extras those [num_dreams, context, ...] that
    imagination goes on from. ``scores`` is `newest_first`, `evenly` or the like.
    """

    def draw(ring: PyTree, counts: Counts, t: jax.Array, key: jax.Array, num_envs: int) -> tuple[Batch, Counts]:
        key_learn, key_imagine = jax.random.split(key)
        to_learn, to_imagine = scores(counts, num_dreams / num)
        first = starts(to_learn, t, length, key_learn, num, num_envs)
        counts = counts._replace(learned=counts.learned.at[first].add(1))
        dreams = starts(to_imagine(counts), t, context, key_imagine, num_dreams, num_envs)
        counts = counts._replace(imagined=counts.imagined.at[dreams].add(1))
        return Batch(window(ring, first, length, num_envs), window(ring, dreams, context, num_envs)), counts

    return draw


def fill_returns(extras: Any, ring: PyTree, t: jax.Array, horizon: int, returns: Returns, num_envs: int) -> Any:
    """``extras`` with the ``mc_return`` of every row of ``ring`` whose episode has ended, where it was -inf.

    It is discounted, of changed rewards, and 0 after the end, as that of recorded data. To be called whenever t is a multiple
    of ``horizon``, the longest that an episode lasts: the newest 2 ``horizon`` slots then hold all of each new episode.
    """
    slots = _slots(ring, num_envs)
    age = jnp.arange(min(2 * horizon, slots))[::-1]
    index = ((t - 1 - age) % slots * num_envs)[:, None] + jnp.arange(num_envs)[None]
    reward, old = ring.reward[index], extras.mc_return[index]
    done = (ring.terminated | ring.truncated)[index]
    failed = jnp.zeros(reward.shape, bool) if returns.failure is None else reward == jnp.float32(returns.failure)

    def back(carry: tuple, x: tuple) -> tuple[tuple, tuple]:
        total, known, failing = carry
        reward, done, failed = x
        total = returns.scale * reward + returns.bias + returns.discount * jnp.where(done, 0.0, total)
        carry = total, known | done, failed & (failing | done)
        return carry, carry

    def forth(carry: tuple, x: tuple) -> tuple[tuple, jax.Array]:
        begins, failing = carry
        done, from_here, first = x
        failing = jnp.where(begins | first, from_here, failing)
        return (done, failing), failing

    no = jnp.zeros(reward.shape[1:], bool)
    start = (jnp.zeros(reward.shape[1:]), no, no)
    _, (total, known, failing) = jax.lax.scan(back, start, (reward, done, failed), reverse=True)
    _, failing = jax.lax.scan(forth, (~no, no), (done, failing, age == t - 1))
    if returns.failure is not None:
        total = jnp.where(failing, (returns.scale * returns.failure + returns.bias) / (1 - returns.discount), total)
    filled = jnp.where(known & jnp.isneginf(old) & (age < t)[:, None], total, old)
    return extras._replace(mc_return=extras.mc_return.at[index].set(filled))


def _as(like: Batch, batch: Batch) -> Batch:
    """``batch`` with the dtypes of ``like``."""
    return jax.tree.map(lambda x, y: y.astype(x.dtype), like, batch)


def _take(ring: PyTree, index: jax.Array, num_envs: int) -> PyTree:
    """Rows of the ring. Two indices, of slot and env, keep XLA from making the newest write a part of each read."""
    at = index // num_envs, index % num_envs
    return jax.tree.map(lambda x: x.reshape(-1, num_envs, *x.shape[1:])[at], ring)


def _slots(ring: PyTree, num_envs: int) -> int:
    return int(jax.tree.leaves(ring)[0].shape[0]) // num_envs


def _filled(ring: PyTree, t: jax.Array, num_envs: int) -> jax.Array:
    """How many rows there are to draw from, after t slots were filled."""
    return jnp.minimum(t, _slots(ring, num_envs)) * num_envs
