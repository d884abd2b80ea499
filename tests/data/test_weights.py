"""Trajectory weights against hand-computed numbers, and the sampler against them."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from scipy import stats

from rljax.base import Transition
from rljax.data import dataset as ds
from rljax.data import weights


def make(returns, lengths, first=None):
    """A data set of episodes with these returns and lengths, whose first observations are ``first``."""
    num, m = sum(lengths), len(lengths)
    episode = np.repeat(np.arange(m), lengths).astype(np.int32)
    obs = np.random.default_rng(0).normal(size=(num, 2)).astype(np.float32)
    if first is not None:
        obs[np.cumsum(lengths) - lengths] = first
    t = Transition(
        obs, np.zeros((num, 1), np.float32), np.zeros(num, np.float32), obs, np.zeros(num, bool), np.zeros(num, bool)
    )
    info = ds.Info("x", "rljax")
    return ds.Dataset(t, episode, np.array(lengths), np.array(returns, float), np.zeros(m), np.zeros(m, np.uint8), info)


def test_rw_by_hand():
    """Three trajectories: weights exp(0), exp(1), exp(2) at temperature 0.5, times 1, 2 and 4 transitions."""
    expected = np.array([1, 2 * np.e, 4 * np.e**2])
    np.testing.assert_allclose(weights.rw(make([10, 15, 20], [1, 2, 4]), 0.5), expected / expected.sum())


def test_rw_ignores_shift_and_scale():
    a, b = make([1, 2, 4], [3, 2, 5]), make([1070, 1140, 1280], [3, 2, 5])
    np.testing.assert_allclose(weights.rw(a), weights.rw(b))


@pytest.mark.parametrize("weight", [weights.rw, weights.aw])
def test_limits_of_the_temperature(weight):
    dataset = make([1, 2, 4], [3, 2, 5], np.eye(3, 2))
    np.testing.assert_allclose(weights.rw(dataset, 1e9), weights.uniform(dataset), rtol=1e-6)
    np.testing.assert_allclose(weights.rw(dataset, 1e-9), [0, 0, 1])
    assert np.isfinite(weight(dataset, 1e-300)).all()


def test_equal_returns_are_uniform():
    dataset = make([3, 3, 3], [3, 2, 5])
    np.testing.assert_allclose(weights.rw(dataset), [0.3, 0.2, 0.5])


def test_aw_equals_rw_for_one_first_observation():
    dataset = make([1, 2, 4], [3, 2, 5], [7.0, 8.0])
    np.testing.assert_allclose(weights.aw(dataset), weights.rw(dataset))


def test_aw_takes_out_what_the_first_observation_predicts():
    """Returns 100 s0 + advantage: the advantage, which is uncorrelated with s0, decides."""
    s0, advantage = np.array([-1, -1, 1, 1.0]), np.array([0, 1, 0, 1.0])
    dataset = make(100 * s0 + advantage, [2, 2, 2, 2], np.stack([s0, 0 * s0], 1))
    expected = np.exp(advantage / 0.1)
    np.testing.assert_allclose(weights.aw(dataset, 0.1), expected / expected.sum(), rtol=1e-4)


def test_top():
    returns = np.arange(20.0)
    np.testing.assert_allclose(weights.top(make(returns, [1] * 18 + [3, 1]), 10), [0] * 18 + [0.75, 0.25])


def test_effective_episodes():
    assert weights.effective_episodes(np.full(8, 1 / 8)) == pytest.approx(8)
    assert weights.effective_episodes(np.array([1.0, 0, 0])) == 1


def test_draw_has_the_probabilities():
    """Chi-squared over transitions at 1e5 draws; an episode of probability 0, and one without transitions, never."""
    dataset = make([0, 3, 1, 2, 9], [5, 1, 7, 3, 4])
    p = np.array([0.5, 0.2, 0.0, 0.1, 0.2])
    index = np.asarray(weights.draw(weights.table(dataset, p), jax.random.key(3), (100, 1000)))
    expected = (p / dataset.sizes)[dataset.episode] * index.size
    counts = np.bincount(index.ravel(), minlength=20)
    assert not counts[expected == 0].any()
    assert stats.chisquare(counts[expected > 0], expected[expected > 0]).pvalue > 1e-3


def test_draw_from_one_episode():
    dataset = make([0, 3], [5, 4])
    index = np.asarray(weights.draw(weights.table(dataset, np.array([0.0, 1.0])), jax.random.key(0), (1000,)))
    assert set(index) == {5, 6, 7, 8}


def test_draw_never_leaves_the_data():
    """Also where rounding carries a cumulative sum to 1 before the last episode."""
    dataset = make(np.zeros(3), [2, 2, 2])
    index = np.asarray(weights.draw(weights.table(dataset, np.array([1.0, 1e-18, 1e-18])), jax.random.key(0), (10_000,)))
    assert index.min() == 0
    assert index.max() <= 5
