"""`rljax.statistics` against rliable, which needs an environment of its own: it fails with the pandas that rljax has.

``python -m venv rliable && rliable/bin/pip install rliable "pandas<3" pytest``, then
``rliable/bin/python -m pytest --noconftest -o addopts= tests/test_rliable.py``.
"""

from __future__ import annotations

import numpy as np
import pytest

from rljax import statistics

library = pytest.importorskip("rliable.library", reason="rliable is not installed")
metrics = pytest.importorskip("rliable.metrics", reason="rliable is not installed")

RESAMPLES = 50_000
ONE = np.random.default_rng(0).beta(2, 2, (5, 10))  # [T, S]; rliable has seeds first
OTHER = np.random.default_rng(1).beta(2, 3, (5, 12))
PAIRS = {
    "iqm": (statistics.pooled_iqm, metrics.aggregate_iqm),
    "gap": (statistics.optimality_gap, metrics.aggregate_optimality_gap),
}


@pytest.mark.parametrize("name", PAIRS)
def test_aggregates(name):
    ours, theirs = PAIRS[name]
    np.testing.assert_allclose(ours(ONE), theirs(ONE.T), rtol=0, atol=1e-12)
    _, interval = library.get_interval_estimates({"one": ONE.T}, lambda x: np.array([theirs(x)]), reps=RESAMPLES)
    np.testing.assert_allclose(statistics.stratified(ours, ONE, resamples=RESAMPLES), interval["one"][:, 0], rtol=0, atol=3e-3)


def test_probability_of_improvement():
    theirs = metrics.probability_of_improvement
    np.testing.assert_allclose(statistics.improvement(ONE, OTHER), theirs(ONE.T, OTHER.T), rtol=0, atol=1e-12)
    pair = {"pair": (ONE.T, OTHER.T)}
    _, interval = library.get_interval_estimates(pair, lambda x, y: np.array([theirs(x, y)]), reps=5_000)
    found = statistics.stratified(statistics.improvement, ONE, OTHER, resamples=RESAMPLES)
    np.testing.assert_allclose(found, interval["pair"][:, 0], rtol=0, atol=6e-3)  # of fewer draws, which are slow there


def test_performance_profile():
    thresholds = np.linspace(0, 1, 11)
    profiles, intervals = library.create_performance_profile({"one": ONE.T}, thresholds, reps=RESAMPLES)
    np.testing.assert_allclose(statistics.profile(ONE, thresholds), profiles["one"], rtol=0, atol=1e-12)
    found = statistics.stratified(lambda x: statistics.profile(x, thresholds), ONE, resamples=RESAMPLES)
    np.testing.assert_allclose(found, intervals["one"], rtol=0, atol=1.001 / ONE.size)  # one score on the other side
