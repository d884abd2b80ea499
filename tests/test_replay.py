"""The ring against a deque, its samples, and the shape of its writes in compiled code."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from rljax import replay
from rljax.base import Batch, Transition
from rljax.data import weights

pytestmark = pytest.mark.usefixtures("no_rank_promotion")


class Row(NamedTuple):
    """A row with leaves of several ranks and dtypes."""

    image: jax.Array
    reward: jax.Array
    done: jax.Array
    action: jax.Array


OPTIMIZED = True  # a compiled program is looked at


def row(t, num_envs):
    """Row ``t``: every element says which time and env it belongs to."""
    number = t * num_envs + jnp.arange(num_envs)
    image = jnp.broadcast_to((number % 251)[:, None, None], (num_envs, 2, 3)).astype(jnp.uint8)
    return Row(image, number.astype(jnp.float32), number % 3 == 0, jnp.stack([number, -number], -1).astype(jnp.int32))


def filled(capacity, num_envs, steps):
    """The ring after ``steps`` rows, written by one compiled scan."""

    @jax.jit
    def run(ring):
        return jax.lax.scan(lambda r, t: (replay.add(r, row(t, num_envs), t), None), ring, jnp.arange(steps))[0]

    return run(replay.init(row(0, num_envs), capacity))


@pytest.mark.parametrize("steps", [0, 1, 4, 5, 6, 13])
@pytest.mark.parametrize("num_envs", [1, 3])
def test_holds_what_a_deque_holds(num_envs, steps):
    """Before, at and after the wrap-around; each row lies at slot t mod slots."""
    slots = 5
    reference = deque(maxlen=slots)
    for t in range(steps):
        reference.append((t, jax.tree.map(np.asarray, row(t, num_envs))))
    ring = filled(slots * num_envs, num_envs, steps)
    held = [np.asarray(x).reshape(slots, num_envs, *x.shape[1:]) for x in ring]
    for t, expected in reference:
        jax.tree.map(np.testing.assert_array_equal, Row(*(x[t % slots] for x in held)), expected)
    for slot in range(steps, slots):
        assert not any(np.any(x[slot]) for x in held)


def test_dtypes_are_kept():
    """uint8, bool and int32 stay what they are, in the ring and in samples; a wider row is cast to the ring's."""
    ring = filled(6, 2, 3)
    ring = replay.add(ring, jax.tree.map(lambda x: x.astype(jnp.float32), row(3, 2)), 3)
    dtypes = [np.dtype(x) for x in ("uint8", "float32", "bool", "int32")]
    assert [x.dtype for x in ring] == dtypes
    assert [x.dtype for x in replay.sample(ring, 4, jax.random.key(0), (2, 5), 2)] == dtypes


def test_capacity_counts_transitions():
    """Rounded up to whole slots."""
    assert [replay.init(row(0, 3), c).reward.shape for c in (1, 3, 4, 9)] == [(3,), (3,), (6,), (9,)]


@pytest.mark.parametrize("steps", [1, 2, 7, 11, 23])
def test_samples_are_the_newest_rows_and_whole(steps):
    """Every valid transition turns up, no other does, and the leaves of one sample belong together."""
    slots, num_envs = 7, 2
    ring = filled(slots * num_envs, num_envs, steps)
    x = replay.sample(ring, jnp.int32(steps), jax.random.key(steps), (3, 500), num_envs)
    assert x.image.shape == (3, 500, 2, 3) and x.reward.shape == (3, 500)
    assert set(np.ravel(x.reward)) == set(range(max(0, steps - slots) * num_envs, steps * num_envs))
    number = np.asarray(x.reward).astype(int)
    np.testing.assert_array_equal(x.action, np.stack([number, -number], -1))
    np.testing.assert_array_equal(x.image, np.broadcast_to((number % 251)[..., None, None], (3, 500, 2, 3)))
    np.testing.assert_array_equal(x.done, number % 3 == 0)


@pytest.mark.parametrize("steps", [5, 30])
def test_samples_are_uniform(steps):
    """Chi-square over transitions, half full and wrapped around; batches of one draw are independent."""
    slots, num_envs, num = 10, 3, 30_000
    ring = filled(slots * num_envs, num_envs, steps)
    x = np.asarray(replay.sample(ring, steps, jax.random.key(0), (2, num), num_envs).reward)
    valid = min(steps, slots) * num_envs
    counts = np.unique(x, return_counts=True)[1]
    assert len(counts) == valid and stats.chisquare(counts).pvalue > 1e-3
    pairs = np.unique(np.stack([x[0], x[1]]), axis=1, return_counts=True)[1]
    assert len(pairs) == valid**2 and stats.chisquare(pairs).pvalue > 1e-3


def test_two_keys_give_two_samples():
    """Draws depend on the key, and on nothing else."""
    ring = filled(30, 3, 10)
    a, b, c = (replay.sample(ring, 10, jax.random.key(k), (4, 50), 3).reward for k in (0, 1, 0))
    np.testing.assert_array_equal(a, c)
    assert np.mean(np.asarray(a) != np.asarray(b)) > 0.8


def test_a_sample_of_a_full_ring_reaches_offline_data():
    """A dataset is a ring that is full: t only has to be large enough."""
    x = replay.sample(row(0, 9), jnp.iinfo(jnp.int32).max, jax.random.key(0), (400,), 3)
    assert set(np.asarray(x.reward)) == set(range(9))


def test_writes_under_vmap_are_slices():
    """With one clock for all seeds, the compiled write is a dynamic-update-slice; a clock per seed would scatter."""
    seeds = 4
    ring = jax.tree.map(lambda x: jnp.stack([x] * seeds), replay.init(row(0, 2), 64))
    rows = jax.tree.map(lambda x: jnp.stack([x] * seeds), row(0, 2))

    def compiled(axis, t):
        add = jax.jit(jax.vmap(replay.add, (0, 0, axis)), donate_argnums=0)
        return add.lower(ring, rows, t).compile().as_text()

    shared, own = compiled(None, jnp.int32(3)), compiled(0, jnp.arange(seeds))
    assert " dynamic-update-slice(" in shared
    assert " scatter(" not in shared and " while(" not in shared
    assert " scatter(" in own or " while(" in own  # else the words above prove nothing


def test_write_under_vmap_equals_a_loop():
    """Seeds with the same clock write what they would write alone."""
    rings = [filled(8, 2, 6), jax.tree.map(jnp.zeros_like, filled(8, 2, 6))]
    rows = [row(6, 2), row(9, 2)]
    both = jax.vmap(replay.add, (0, 0, None))(*(jax.tree.map(lambda *x: jnp.stack(x), *x) for x in (rings, rows)), 6)
    for i in range(2):
        alone = replay.add(rings[i], rows[i], 6)
        jax.tree.map(np.testing.assert_array_equal, jax.tree.map(lambda x, i=i: x[i], both), alone)


class Extras(NamedTuple):
    """What Cal-QL asks for."""

    mc_return: jax.Array


def numbered(*shape, start):
    """A `Batch` [*shape] whose rewards count up from ``start``."""
    number = start + jnp.arange(np.prod(shape), dtype=jnp.float32).reshape(shape)
    flag = jnp.zeros(shape, bool)
    return Batch(Transition(number[..., None], number[..., None], number, number[..., None], flag, flag), Extras(-number))


OLD, NEW = replay.Recorded(numbered(50, start=10_000)), numbered(6_000, start=0)


@pytest.mark.parametrize(("fraction", "num"), [(0.0, 0), (0.5, 4), (0.3, 2), (1.0, 8)])
def test_mixed_batches_hold_the_fraction(fraction, num):
    """In each batch the first are recorded, the rest come from the rows added; the leaves of a row stay together."""
    batch = jax.jit(lambda key: replay.mixed(fraction)(NEW, 4, OLD, key, (3, 5, 8)))(jax.random.key(0))
    reward = np.asarray(batch.transition.reward)
    assert reward.shape == (3, 5, 8)
    assert (reward[..., :num] >= 10_000).all() and (reward[..., num:] < 4 * 3).all()
    np.testing.assert_array_equal(batch.extras.mc_return, -reward)
    np.testing.assert_array_equal(batch.transition.obs[..., 0], reward)
    assert len(np.unique(reward)) > 10


def test_either_source_for_a_whole_update():
    """All batches of one update are of one source; the recorded one comes up with the probability given."""
    draw = jax.jit(lambda key, p: replay.either(p)(NEW, 10, OLD, key, (400, 2, 3)).transition.reward)
    for probability in (0.0, 0.25, 1.0):
        old = np.asarray(draw(jax.random.key(1), probability)) >= 10_000
        assert (old.all((1, 2)) | ~old.any((1, 2))).all()
        low, high = stats.binom.interval(0.9999, 400, probability)
        assert low <= old.all((1, 2)).sum() <= high


def test_recorded_draws_follow_their_table():
    """With a table episodes come up by their probability, here the second one alone."""
    table = weights.Table(jnp.array([0], jnp.uint32), jnp.array([0, 20]), jnp.array([20, 30]))
    batch = replay.recorded((), 0, replay.Recorded(OLD.batch, table), jax.random.key(0), (200,))
    assert set(np.asarray(batch.transition.reward)) <= set(range(10_020, 10_050))


def history(num, num_envs, horizon, failures, seed=0):
    """Rewards, terminated and truncated [num, E]; episodes end by chance or at ``horizon``, some with rewards of -1 alone."""
    rng = np.random.default_rng(seed)
    reward, terminated, truncated = rng.normal(size=(num, num_envs)), *np.zeros((2, num, num_envs), bool)
    for e in range(num_envs):
        start = 0
        while start < num:
            length = int(rng.integers(1, horizon + 1))
            if failures and rng.random() < 0.5:
                reward[start : start + length, e] = -1
            if start + length <= num:
                (truncated if length == horizon else terminated)[start + length - 1, e] = True
            start += length
    return reward.astype(np.float32), terminated, truncated


def brute_force(reward, done, returns):
    """The return of each row from the whole history; -inf if its episode has not ended."""
    out = np.full(reward.shape, -np.inf)
    for e in range(reward.shape[1]):
        start = 0
        for end in np.flatnonzero(done[:, e]):
            total = 0.0
            for t in range(end, start - 1, -1):
                total = returns.scale * reward[t, e] + returns.bias + returns.discount * total
                out[t, e] = total
            if returns.failure is not None and (reward[start : end + 1, e] == returns.failure).all():
                out[start : end + 1, e] = (returns.scale * returns.failure + returns.bias) / (1 - returns.discount)
            start = end + 1
    return out


@pytest.mark.parametrize("slots", [200, 30, 7])
@pytest.mark.parametrize("failure", [None, -1.0])
def test_returns_of_new_experience(slots, failure):
    """At each multiple of the horizon every row of an episode that has ended knows its return; also failures, also wrapped.

    With fewer slots than two horizons a failing episode that was cut in part may be taken for one that did not fail, or not
    known; rows that are known without the failure rule are right with any number of slots.
    """
    num, num_envs, horizon = 96, 3, 8
    returns = replay.Returns(Extras, 0.9, 2.0, -0.5, failure)
    reward, terminated, truncated = history(num, num_envs, horizon, failure is not None)
    row = numbered(num_envs, start=0).transition
    ring = replay.init(row, slots * num_envs)
    extras = replay.init(Extras(jnp.zeros(num_envs)), slots * num_envs)
    fill = jax.jit(lambda extras, ring, t: replay.fill_returns(extras, ring, t, horizon, returns, num_envs))
    for t in range(num):
        new = row._replace(reward=jnp.array(reward[t]), terminated=jnp.array(terminated[t]), truncated=jnp.array(truncated[t]))
        ring = replay.add(ring, new, t)
        extras = replay.add(extras, Extras(jnp.full(num_envs, -jnp.inf)), t)
        if (t + 1) % horizon == 0:
            extras = fill(extras, ring, t + 1)
            expected = brute_force(reward[: t + 1], (terminated | truncated)[: t + 1], returns)
            rows = np.arange(max(0, t + 1 - slots), t + 1)
            if failure is None or slots >= 2 * horizon:
                known = np.asarray(extras.mc_return).reshape(slots, num_envs)
                np.testing.assert_allclose(known[rows % slots], expected[rows], rtol=1e-5, atol=1e-5)
    assert np.isfinite(np.asarray(extras.mc_return)).any()


@pytest.mark.parametrize("seed", range(3))
def test_add_some_holds_what_a_deque_holds(seed):
    """Rows that are chosen are appended in order, across several wrap-arounds; the others leave no trace."""
    rng, slots, reference = np.random.default_rng(seed), 11, deque(maxlen=11)
    ring, stored = replay.init({"x": jnp.zeros((1, 2))}, slots), jnp.int32(0)
    add = jax.jit(replay.add_some)
    for i in range(8):
        rows = jnp.arange(20.0).reshape(5, 2, 2) + 100 * i
        mask = rng.random((5, 2)) < 0.6
        ring, stored = add(ring, {"x": rows}, jnp.asarray(mask), stored)
        reference += list(np.asarray(rows)[mask])
        held = ring["x"][(np.arange(int(stored) - len(reference), int(stored))) % slots]
        assert np.array_equal(held, reference)
        drawn = replay.sample(ring, stored, jax.random.key(i), (500,), 1)["x"]
        assert {tuple(x) for x in np.asarray(drawn)} == {tuple(x) for x in reference}


def counted(slots, num_envs, steps, seed=0):
    """``(ring, counts)`` after so many rows, which hold their number, with random counts."""
    ring = {"number": jnp.zeros(slots * num_envs, jnp.int32)}
    for i in range(steps):
        ring = replay.add(ring, {"number": jnp.full(num_envs, i)}, i)
    learned, imagined = np.random.default_rng(seed).integers(0, 60, (2, slots * num_envs))
    return ring, replay.Counts(jnp.asarray(learned), jnp.asarray(imagined))


@pytest.mark.parametrize("steps", [4, 5, 9, 10, 17, 33])
def test_windows_are_whole_and_different(steps):
    """Consecutive rows of one env, none over the write head; none comes twice before all have come."""
    slots, num_envs, length = 10, 2, 4
    ring, counts = counted(slots, num_envs, steps)
    there = min(steps, slots)
    possible = [(i, e) for i in range(steps - there, steps - length + 1) for e in range(num_envs)]
    draw = jax.jit(replay.starts, static_argnums=(2, 4, 5))
    for seed, num in enumerate((1, len(possible), len(possible) + 3)):
        first = draw(-counts.learned / 10, steps, length, jax.random.key(seed), num, num_envs)
        rows = np.asarray(replay.window(ring, first, length, num_envs)["number"])
        np.testing.assert_array_equal(rows, rows[:, :1] + np.arange(length))
        drawn = list(zip(rows[:, 0].tolist(), np.asarray(first % num_envs).tolist(), strict=True))
        assert set(drawn) <= set(possible) and len(set(drawn)) == min(num, len(possible))


@pytest.mark.parametrize("kind", [replay.newest_first, replay.evenly])
def test_windows_follow_their_scores(kind):
    """The first of a draw has probability softmax(score), as counted over 20 000 draws, against the formulas in numpy."""
    slots, num_envs, steps, length, ratio = 8, 2, 8, 3, 4.0
    _, counts = counted(slots, num_envs, steps)
    v, b = (np.asarray(x, float) for x in counts)
    fits = np.arange(slots * num_envs) // num_envs <= slots - length
    to_learn, to_imagine = kind(counts, ratio)
    even = kind is replay.evenly
    for scores, exact in ((to_learn, -v / 10), (to_imagine(counts), (v - b / ratio - np.maximum(0, v - b / ratio)) / 10)):
        p = np.where(fits, np.exp(0 * exact if even else exact), 0)
        one = jax.jit(jax.vmap(lambda key, scores=scores: replay.starts(scores, steps, length, key, 1, num_envs)))
        first = np.asarray(one(jax.random.split(jax.random.key(0), 20_000)))[:, 0]
        seen = np.bincount(first, minlength=slots * num_envs) / 20_000
        np.testing.assert_allclose(seen, p / p.sum(), atol=4 * np.sqrt(0.25 / 20_000))


def test_sequences_count_what_they_draw():
    """One more for each start of a sequence to learn from, and of one to imagine from; batches hold those windows."""
    ring, counts = counted(10, 2, 25)
    draw = replay.sequences(replay.newest_first, 3, 4, 5, 2)
    batch, after = draw(ring, counts, 25, jax.random.key(0), 2)
    assert batch.transition["number"].shape == (3, 4) and batch.extras["number"].shape == (5, 2)
    for windows, old, new in (
        (batch.transition, counts.learned, after.learned),
        (batch.extras, counts.imagined, after.imagined),
    ):
        first = np.asarray(windows["number"])[:, 0]
        assert (np.asarray(new - old).sum(), np.asarray(new - old).max()) == (len(first), 1)
        assert sorted(np.nonzero(np.asarray(new - old).reshape(10, 2).sum(1))[0]) == sorted(set(first % 10))
