"""Write data sets in our own format: D4RL's keys, every row with its successor, and a description as JSON.

``cut_offs`` marks the rows of ``timeouts`` at which only the recording stopped. The key ``rljax`` (an attribute in HDF5)
holds name, action space and reference returns. Files are written whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from rljax.base import Array, InputError, Space, bounds
from rljax.data.dataset import ENDS, Dataset

SUFFIXES = (".npz", ".hdf5", ".h5")


def save(dataset: Dataset, path: str | Path) -> None:
    """Write ``dataset``, as it was loaded (actions in the env's units), to ``path``: .npz, .hdf5 or .h5.

    A last step that had no successor is not written, so the return that is read back lacks its reward.

    Raises:
        InputError: for another suffix.
    """
    path, t = Path(path), dataset.transition
    if path.suffix not in SUFFIXES:
        raise InputError(f"a data set is written as one of {', '.join(SUFFIXES)}, got {path}")
    if dataset.info.fitted:
        raise InputError(f"{dataset.info.name} has been fitted, its actions are not in env units: save what was loaded")
    last = np.append(np.diff(dataset.episode) > 0, True)
    arrays = {
        "observations": t.obs,
        "actions": t.action,
        "rewards": t.reward,
        "next_observations": t.next_obs,
        "terminals": t.terminated,
        "timeouts": last & ~t.terminated,
        "cut_offs": last & (dataset.end[dataset.episode] == ENDS.index("cut off")),
    }
    info = dataset.info
    said = json.dumps({"name": info.name, "action": _space_to_json(info.action), "reference": info.reference})
    part = path.with_name(path.name + ".part")
    try:
        _write(part, path.suffix, arrays, said)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def concatenate(datasets: Mapping[str, Dataset], name: str) -> Dataset:
    """All episodes of several data sets of one environment, in order, with the reference of the first.

    Raises:
        InputError: if their shapes or kinds of action differ.
    """
    first, *others = datasets.values()
    for other in others:
        for field in ("obs", "action"):
            a, b = getattr(first.transition, field), getattr(other.transition, field)
            if a.shape[1:] != b.shape[1:] or a.dtype != b.dtype:
                raise InputError(
                    f"{first.info.name} has {field} of {a.dtype} {a.shape[1:]}, {other.info.name} of {b.dtype} {b.shape[1:]}: "
                    "only data sets of one environment can be mixed"
                )
    parts = list(datasets.values())
    shift = np.cumsum([0, *(len(d.length) for d in parts[:-1])])
    joined = [np.concatenate([getattr(d, field) for d in parts]) for field in ("length", "returns", "dropped", "end")]
    episode = np.concatenate([d.episode + s for d, s in zip(parts, shift, strict=True)]).astype(np.int32)
    transition = type(first.transition)(*(np.concatenate(x) for x in zip(*(d.transition for d in parts), strict=True)))
    return Dataset._make([transition, episode, *joined, replace(first.info, name=name, format="rljax")])


def take(dataset: Dataset, steps: int, rng: np.random.Generator) -> Dataset:
    """Whole episodes drawn without replacement until they hold ``steps`` transitions; the last one is cut off there.

    Raises:
        InputError: if there are not as many.
    """
    total = len(dataset.episode)
    if steps > total:
        raise InputError(f"{dataset.info.name} has {total} transitions, {steps} are needed: ask for fewer, or collect more")
    order = rng.permutation(len(dataset.length))
    chosen = order[: np.searchsorted(np.cumsum(dataset.sizes[order]), steps) + 1]
    starts, sizes = dataset.starts[chosen], dataset.sizes[chosen]
    rows = np.concatenate([np.arange(a, a + n) for a, n in zip(starts, sizes, strict=True)])[:steps]
    episode = np.repeat(np.arange(len(chosen)), sizes)[:steps].astype(np.int32)
    transition = type(dataset.transition)(*(x[rows] for x in dataset.transition))
    taken = Dataset._make([transition, episode, *(x[chosen] for x in dataset[2:6]), dataset.info])
    return _cut_last(taken) if steps < sizes.sum() else taken


def _cut_last(dataset: Dataset) -> Dataset:
    """``dataset`` whose last episode goes no further than its last transition."""
    length, returns, dropped, end = (x.copy() for x in dataset[2:6])
    rewards = dataset.transition.reward[dataset.starts[-1] :].astype(np.float64)
    length[-1], returns[-1], dropped[-1], end[-1] = len(rewards), rewards.sum(), 0.0, ENDS.index("cut off")
    return dataset._replace(length=length, returns=returns, dropped=dropped, end=end)


def _write(path: Path, suffix: str, arrays: dict[str, np.ndarray], said: str) -> None:
    if suffix == ".npz":
        with path.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, rljax=np.array(said), **arrays)
        return
    with h5py.File(path, "w") as file:
        for key, x in arrays.items():
            file.create_dataset(key, data=x, compression="gzip")
        file.attrs["rljax"] = said


def _space_to_json(space: Space | None) -> dict[str, Any] | None:
    if space is None:
        return None
    if isinstance(space, Array):
        low, high = (b.ravel().tolist() for b in bounds(space))
        return {"type": "Box", "shape": list(space.shape), "low": low, "high": high}
    return {"type": "Discrete", "n": space.n}
