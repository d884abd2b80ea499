"""The interquartile mean and its interval, against scipy and a slow reference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rljax import statistics
from rljax.base import InputError

FLOATS = st.floats(-1e6, 1e6)


@pytest.mark.parametrize("scores", [3.0, [], np.zeros((2, 0))])
def test_no_scores_are_told(scores):
    """But no seeds, as when all have diverged, have the IQM NaN."""
    for statistic in (statistics.pooled_iqm, statistics.optimality_gap):
        with pytest.raises(InputError, match=r"scores must be numbers \["):
            statistic(scores)


def test_scores_of_other_tasks_are_not_compared():
    with pytest.raises(InputError, match="scores must be of the same tasks, got 1 and 2 tasks"):
        statistics.improvement(np.zeros((1, 3)), np.zeros((2, 3)))


def test_a_score_that_is_no_number_is_not_left_out():
    """It makes NaN of the probability of improvement and of the profile, as of the means."""
    x, y = np.array([[1.0, np.nan]]), np.array([[0.0, 2.0]])
    assert np.isnan(statistics.improvement(x, y)) and np.isnan(statistics.improvement(y, x))
    assert np.isnan(statistics.profile(x, np.array([0.0, 1.0]))).all() and np.isnan(statistics.pooled_iqm(x))


@settings(deadline=None)
@given(st.lists(FLOATS, min_size=1, max_size=60))
def test_iqm_is_the_mean_of_the_middle(scores):
    """A quarter of the seeds, rounded down, is left out at either end; as scipy's trimmed mean has it."""
    cut = len(scores) // 4
    middle = sorted(scores)[cut : len(scores) - cut]
    np.testing.assert_allclose(statistics.iqm(np.array(scores)), np.mean(middle), rtol=1e-9, atol=1e-6)
    np.testing.assert_allclose(statistics.iqm(np.array(scores)), stats.trim_mean(scores, 0.25), rtol=1e-12)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [([7], 7), ([1, 2], 1.5), ([1, 2, 6], 3), ([-100, 1, 2, 100], 1.5), ([100, 1, 2, -100, 6], 3)],
)
def test_iqm_of_few_seeds(scores, expected):
    """Up to three seeds it is the mean; from four on the extremes do not count. Whole numbers are fine."""
    np.testing.assert_allclose(statistics.iqm(np.array(scores)), expected)


def test_no_seeds():
    with pytest.raises(InputError, match=r"scores must be numbers \["):
        statistics.iqm(3.0)
    assert np.isnan(statistics.iqm(np.zeros(0))) and np.isnan(statistics.interval(np.zeros((3, 0)))).all()


def test_leading_axes_are_free():
    """Scores [2, 3, S] give [2, 3], each as it would be alone, for the IQM and both ends of the interval."""
    scores = np.random.default_rng(0).normal(size=(2, 3, 9))
    low, high = statistics.interval(scores)
    center = statistics.iqm(scores)
    assert center.shape == low.shape == high.shape == (2, 3)
    for i in np.ndindex(2, 3):
        assert center[i] == statistics.iqm(scores[i])
        assert (low[i], high[i]) == statistics.interval(scores[i])


def test_the_interval_is_deterministic_and_ordered():
    """Two calls agree to the last bit; it holds the IQM, lies within the scores, and shrinks with the level."""
    scores = np.random.default_rng(1).normal(size=10)
    low, high = statistics.interval(scores)
    assert (low, high) == statistics.interval(scores)
    assert scores.min() <= low < statistics.iqm(scores) < high <= scores.max()
    inner = statistics.interval(scores, level=0.5)
    assert low < inner[0] < inner[1] < high


def test_the_interval_is_the_percentile_bootstrap():
    """Of the IQMs of 20 000 resamples 2.5 % lie below and 2.5 % above."""
    scores = np.random.default_rng(2).normal(size=12)
    draws = np.random.default_rng(99).choice(scores, (20_000, 12))
    expected = np.percentile(np.sort(draws)[:, 3:9].mean(1), [2.5, 97.5])
    np.testing.assert_allclose(statistics.interval(scores, resamples=20_000), expected, atol=0.03)


def test_the_interval_covers():
    """Over 400 experiments of 20 normal scores the 95 % interval holds the true IQM in 88 % to 98 % of them."""
    scores = np.random.default_rng(3).normal(5.0, 2.0, (400, 20))
    low, high = statistics.interval(scores, resamples=500)
    assert 0.88 < np.mean((low <= 5.0) & (high >= 5.0)) < 0.98


@pytest.mark.parametrize("num", [1, 2, 3, 4, 5, 30])
def test_constant_scores_have_no_width(num):
    """Equal scores, or one seed: both ends are the score."""
    assert statistics.interval(np.full(num, 3.5)) == (3.5, 3.5)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("num", [1, 3, 8])
def test_a_score_that_is_not_finite(bad, num):
    """Both ends are the IQM, and a row of other scores beside it is not touched."""
    scores = np.stack([np.arange(float(num)), np.arange(float(num))])
    scores[0, 0] = bad
    low, high = statistics.interval(scores)
    np.testing.assert_array_equal([low[0], high[0]], [statistics.iqm(scores[0])] * 2)
    assert (low[1], high[1]) == statistics.interval(scores[1])


def some(*shape, seed=0):
    """Scores that differ between tasks, with ties."""
    return np.random.default_rng(seed).normal(np.linspace(0, 1, shape[-2])[:, None], 0.3, shape).round(1)


def test_statistics_over_tasks_by_hand():
    x, y = np.array([[0.0, 1.0, 2.0, 9.0], [4.0, 4.0, 4.0, 4.0]]), np.array([[1.0, 1.0, 3.0], [4.0, 5.0, 3.0]])
    assert statistics.pooled_iqm(x) == np.mean([2, 4, 4, 4])
    assert statistics.optimality_gap(x, 3.0) == np.mean([3, 2, 1, 0, 0, 0, 0, 0])
    assert statistics.improvement(x, y) == ((0 + 2 * 0.5 + 2 + 3) / 12 + (4 * (0.5 + 0 + 1)) / 12) / 2
    assert statistics.improvement(x, y) + statistics.improvement(y, x) == 1
    np.testing.assert_array_equal(statistics.profile(x, np.array([-1.0, 1.0, 4.0, 9.0])), [1, 6 / 8, 1 / 8, 0])


@pytest.mark.parametrize(
    "statistic", [statistics.pooled_iqm, statistics.optimality_gap, lambda x: statistics.profile(x, [0.5, 1])]
)
def test_leading_axes_are_free_over_tasks(statistic):
    scores = some(5, 3, 8)
    low, high = statistics.stratified(statistic, scores)
    for i in range(5):
        np.testing.assert_allclose(statistic(scores)[i], statistic(scores[i]))
        np.testing.assert_allclose((low[i], high[i]), statistics.stratified(statistic, scores[i]))
    assert (low <= statistic(scores)).all() and (statistic(scores) <= high).all()


def test_seeds_are_drawn_within_their_task():
    """Two tasks of very different scores: drawn within them, the mean hardly moves; its deviation is that of the two means."""
    scores = np.array([0.0, 1000.0])[:, None] + np.random.default_rng(0).normal(size=(2, 20))
    low, high = statistics.stratified(lambda x: x.mean((-2, -1)), scores, resamples=20_000)
    deviation = np.sqrt((scores.var(-1) / 20).sum()) / 2
    np.testing.assert_allclose([low, high], scores.mean() + 1.96 * deviation * np.array([-1, 1]), atol=0.02)


def test_both_sides_of_an_improvement_are_drawn():
    x, y = some(2, 30), some(2, 20, seed=1)
    low, high = statistics.stratified(statistics.improvement, x, y)
    only = statistics.stratified(lambda x: statistics.improvement(x, np.broadcast_to(y, (*x.shape[:-1], 20))), x)
    assert low < statistics.improvement(x, y) < high and high - low > only[1] - only[0]


def test_a_failed_seed_leaves_no_interval():
    """Among four seeds the worst does not count for the IQM, -inf or not."""
    low, high = statistics.stratified(statistics.pooled_iqm, np.array([[1.0, 2.0, 3.0, -np.inf]]))
    assert low == high == 1.5
