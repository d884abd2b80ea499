"""What is in a data set, in numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from rljax.data.dataset import ENDS, Dataset

QUANTILES = (0, 10, 25, 50, 75, 90, 100)


def summary(dataset: Dataset) -> dict[str, Any]:
    """Counts, returns, ends, ranges and duplicates of a data set, as JSON-able values; states and actions per element."""
    t, returns = dataset.transition, dataset.returns
    obs = t.obs.reshape(len(t.obs), -1)
    continuous = t.action.dtype.kind == "f"
    return {
        "name": dataset.info.name,
        "format": dataset.info.format,
        "episodes": len(returns),
        "steps": int(dataset.length.sum()),
        "transitions": len(t.reward),
        "return_min": float(returns.min()),
        "return_mean": float(returns.mean()),
        "return_max": float(returns.max()),
        "return_quantiles": {str(q): float(np.percentile(returns, q)) for q in QUANTILES},
        "length_min": int(dataset.length.min()),
        "length_max": int(dataset.length.max()),
        "ends": {name: int((dataset.end == code).sum()) for code, name in enumerate(ENDS)},
        "reward_min": float(t.reward.min()),
        "reward_max": float(t.reward.max()),
        "actions": "continuous" if continuous else "discrete",
        "action_min": t.action.min(0).tolist(),
        "action_max": t.action.max(0).tolist(),
        "obs_shape": list(t.obs.shape[1:]),
        "obs_mean": obs.mean(0, dtype=np.float64).tolist() if t.obs.ndim == 2 else float(obs.mean(dtype=np.float64)),
        "obs_std": obs.std(0, dtype=np.float64).tolist() if t.obs.ndim == 2 else float(obs.std(dtype=np.float64)),
        "duplicates": duplicates(dataset),
        "reference": list(dataset.info.reference) if dataset.info.reference else None,
    }


def duplicates(dataset: Dataset) -> int:
    """Number of transitions that equal an earlier one in every bit of observation, action, reward and successor."""
    parts = [np.ascontiguousarray(x.reshape(len(x), -1)).view(np.uint8) for x in dataset.transition[:4]]
    rows = np.concatenate(parts, 1)
    return len(rows) - len(np.unique(rows.view(np.dtype((np.void, rows.shape[1])))[:, 0]))
