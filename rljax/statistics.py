"""Statistics over seeds (arXiv:2108.13264), on scipy. Arrays are numpy, with seeds on the last axis."""

from __future__ import annotations

import numpy as np
from scipy import stats


def iqm(scores: np.ndarray) -> np.ndarray:
    """Interquartile mean [...] of scores [..., S]: the mean without the lowest and the highest quarter of the seeds."""
    return stats.trim_mean(np.asarray(scores, float), 0.25, axis=-1)


def interval(scores: np.ndarray, level: float = 0.95, resamples: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """``(low, high)``, each [...]: percentile-bootstrap interval of the `iqm` of scores [..., S], from a fixed seed.

    With one seed, or a non-finite score, both are the IQM itself.
    """
    scores = np.asarray(scores, float)
    index = np.random.default_rng(0).integers(0, scores.shape[-1], (resamples, scores.shape[-1]))
    finite, centre = np.isfinite(scores).all(-1), iqm(scores)
    draws = iqm(np.where(finite[..., None], scores, 0.0)[..., index])
    low, high = np.percentile(draws, [50 - 50 * level, 50 + 50 * level], axis=-1)
    return np.where(finite, low, centre), np.where(finite, high, centre)
