"""Statistics over seeds and tasks (arXiv:2108.13264), on scipy. Arrays are numpy: T tasks, and S seeds on the last axis.

A score that is NaN makes the statistic NaN: nothing is left out in silence.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import stats

from rljax.base import InputError


def _scores(scores: np.ndarray, axes: int) -> np.ndarray:
    """``scores`` as float, of at least this many axes, none of them empty."""
    found = np.asarray(scores, float)
    if found.ndim < axes or not found.size:
        raise InputError(f"scores must be numbers [{'..., S' if axes == 1 else '..., T, S'}], got shape {found.shape}")
    return found


def iqm(scores: np.ndarray) -> np.ndarray:
    """Interquartile mean [...] of scores [..., S]: the mean without the lowest and the highest quarter of the seeds.

    NaN if there are no seeds, or one of the scores is NaN, which scipy before 1.15 would trim.
    """
    if np.ndim(scores) and not np.shape(scores)[-1]:
        return np.full(np.shape(scores)[:-1], np.nan)
    scores = _scores(scores, 1)
    return np.where(np.isnan(scores).any(-1), np.nan, stats.trim_mean(scores, 0.25, axis=-1))


def interval(scores: np.ndarray, level: float = 0.95, resamples: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """``(low, high)``, each [...]: percentile-bootstrap interval of the `iqm` of scores [..., S], from a fixed seed.

    With one seed, no seeds, or a non-finite score, both are the IQM itself.
    """
    if np.ndim(scores) and not np.shape(scores)[-1]:
        return iqm(scores), iqm(scores)
    scores = _scores(scores, 1)
    index = np.random.default_rng(0).integers(0, scores.shape[-1], (resamples, scores.shape[-1]))
    finite, centre = np.isfinite(scores).all(-1), iqm(scores)
    draws = iqm(np.where(finite[..., None], scores, 0.0)[..., index])
    low, high = np.percentile(draws, [50 - 50 * level, 50 + 50 * level], axis=-1)
    return np.where(finite, low, centre), np.where(finite, high, centre)


def pooled_iqm(scores: np.ndarray) -> np.ndarray:
    """IQM [...] of all scores [..., T, S] of tasks and seeds together, on one scale such as normalised returns."""
    scores = _scores(scores, 2)
    return iqm(scores.reshape(*scores.shape[:-2], -1))


def optimality_gap(scores: np.ndarray, target: float = 1.0) -> np.ndarray:
    """How far [...] scores [..., T, S] lie below ``target`` on average; those above count as ``target``."""
    return (target - np.minimum(_scores(scores, 2), target)).mean((-2, -1))


def improvement(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Probability [...] that a score of x [..., T, S] is above one of y [..., T, R] on the same task; ties count half.

    The mean over tasks of the Mann-Whitney statistic.
    """
    left, right = _scores(x, 2)[..., :, None], _scores(y, 2)[..., None, :]
    if left.shape[-3] != right.shape[-3]:
        raise InputError(f"scores must be of the same tasks, got {left.shape[-3]} and {right.shape[-3]} tasks")
    above = np.where(np.isnan(left) | np.isnan(right), np.nan, (left > right) + 0.5 * (left == right))
    return above.mean((-3, -2, -1))


def profile(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Share [..., K] of the scores [..., T, S] that are above each of K thresholds: a performance profile."""
    scores = _scores(scores, 2)[..., None]
    return np.where(np.isnan(scores), np.nan, scores > np.asarray(thresholds, float)).mean((-3, -2))


def stratified(
    statistic: Callable[..., np.ndarray], *scores: np.ndarray, level: float = 0.95, resamples: int = 2000
) -> tuple[np.ndarray, np.ndarray]:
    """``(low, high)``: percentile-bootstrap interval of ``statistic(*scores)``, where seeds are drawn anew within each task.

    Each of ``scores`` is [..., T, S]; leading axes, such as steps of a curve, share the draws. From a fixed seed. With a score
    that is not finite, both are the statistic itself: give seeds that failed the worst score there can be.
    """
    rng, drawn = np.random.default_rng(0), []
    for x in (_scores(x, 2) for x in scores):
        if not np.isfinite(x).all():
            return statistic(*scores), statistic(*scores)
        tasks, seeds = x.shape[-2:]
        index = rng.integers(0, seeds, (resamples, tasks, seeds))
        drawn.append(np.moveaxis(x[..., np.arange(tasks)[:, None], index], -3, 0))
    low, high = np.percentile(statistic(*drawn), [50 - 50 * level, 50 + 50 * level], axis=0)
    return low, high
