"""Normalised scores, 100 (return - random) / (expert - random), with the bounds of D4RL (arXiv:2004.07219).

The bounds are those of ``d4rl/infos.py`` in Farama-Foundation/D4RL at commit 89141a6 and belong to D4RL's own simulators:
a data set made with another version of an environment carries references of its own.
"""

from __future__ import annotations

import functools
import json
from importlib import resources
from types import MappingProxyType
from typing import Any

import numpy as np

from rljax.base import InputError


@functools.cache
def d4rl() -> MappingProxyType[str, dict[str, Any]]:
    """D4RL's ids, each with ``min``, ``max`` (or None) and ``dataset_file``."""
    text = resources.files("rljax.data").joinpath("d4rl_ref_scores.json").read_text()
    return MappingProxyType(json.loads(text)["scores"])


def d4rl_id(file_name: str) -> str | None:
    """The D4RL id whose data set is kept in a file of this name, if there is one."""
    found = [name for name, entry in d4rl().items() if entry["dataset_file"] == file_name]
    return found[0] if found else None


def reference(name: str) -> tuple[float, float] | None:
    """``(random, expert)`` returns of a D4RL id; None if D4RL has none for it."""
    entry = d4rl().get(name)
    return None if entry is None or entry["min"] is None else (entry["min"], entry["max"])


def normalized_score(returns: Any, bounds: str | tuple[float, float]) -> np.ndarray:
    """100 for the expert, 0 for the random policy: ``returns`` [...] under ``bounds``, a D4RL id or ``(random, expert)``.

    Raises:
        InputError: if the id has no reference.
    """
    pair = reference(bounds) if isinstance(bounds, str) else bounds
    if pair is None:
        raise InputError(f"there is no reference score for {bounds!r}: give (random, expert) returns")
    if len(pair) != 2 or pair[0] == pair[1]:
        raise InputError(f"reference returns must be two different numbers, random and expert, got {pair}")
    return 100 * (np.asarray(returns, np.float64) - pair[0]) / (pair[1] - pair[0])
