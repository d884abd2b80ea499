"""What needs Minari's own library (extra ``data``): its Arrow format, and writing data sets that it lists and uploads."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from rljax.base import Array, Discrete, InputError, bounds
from rljax.data.dataset import Dataset, Info, Steps, from_steps, whole


def read(folder: Path) -> Dataset:
    """The data set in a Minari folder that is not HDF5; observations in groups are flattened by gymnasium.

    Raises:
        InputError: if Minari is not installed, or cannot read it.
    """
    minari = _library(f"{folder} is kept in Minari's Arrow format")
    import gymnasium

    try:
        recorded = minari.MinariDataset(folder)
        spec, episodes = recorded.spec, list(recorded.iterate_episodes())
    except Exception as error:  # Minari raises nearly everything on damaged folders
        raise InputError(f"{folder} cannot be read by Minari, it is damaged or cut short ({error})") from None
    if not episodes:
        raise InputError(f"{folder} holds no steps")
    parts = []
    for episode in episodes:
        obs = episode.observations
        if not isinstance(obs, np.ndarray):
            rows = range(len(episode.rewards) + 1)
            flat = [gymnasium.spaces.flatten(spec.observation_space, _row(obs, i)) for i in rows]
            obs = np.stack(flat)
        last = np.arange(len(episode.rewards)) == len(episode.rewards) - 1
        flags = (np.asarray(episode.terminations, bool), np.asarray(episode.truncations, bool))
        rewards, known = np.asarray(episode.rewards), np.ones(len(last), bool)
        parts.append(Steps(obs[:-1], _actions(np.asarray(episode.actions)), rewards, obs[1:], *flags, last, known))
    low, high = recorded.storage.metadata.get("ref_min_score"), recorded.storage.metadata.get("ref_max_score")
    reference = None if low is None or high is None else (float(low), float(high))
    info = Info(spec.dataset_id, "Minari", _space(spec.action_space), reference)
    return from_steps(Steps(*(np.concatenate(x) for x in zip(*parts, strict=True))), info)


def write(dataset: Dataset, dataset_id: str) -> Path:
    """Write ``dataset`` where Minari keeps its data sets, under an id such as "rljax/hopper-medium-v0"; its folder.

    Raises:
        InputError: if Minari is not installed, refuses the id, or has a data set of that id.
    """
    minari = _library("writing Minari data sets")
    t, info = dataset.transition, dataset.info
    buffers = []
    for i, (start, size) in enumerate(zip(dataset.starts, dataset.sizes, strict=True)):
        rows = slice(start, start + size)
        ends = np.arange(size) == size - 1
        buffers.append(
            minari.data_collector.EpisodeBuffer(
                id=i,
                observations=np.concatenate([t.obs[rows], t.next_obs[start + size - 1][None]]),
                actions=t.action[rows],
                rewards=t.reward[rows].astype(float),
                terminations=t.terminated[rows],
                truncations=ends & ~t.terminated[rows],
                infos={},
            )
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of authors and code that are not named
            made = minari.create_dataset_from_buffers(
                dataset_id,
                buffers,
                observation_space=_box(Array(t.obs.shape[1:], str(t.obs.dtype))),
                action_space=_box(info.action),
                data_format="hdf5",
            )
        if info.reference is not None:  # without a gymnasium env Minari would leave them out
            made.storage.update_metadata({"ref_min_score": info.reference[0], "ref_max_score": info.reference[1]})
    except ValueError as error:
        raise InputError(f"Minari cannot make {dataset_id!r}: {error}") from None
    return Path(made.spec.data_path)


def _library(why: str) -> Any:
    try:
        import minari
        import minari.data_collector
    except ImportError:
        raise InputError(f"{why}, which needs Minari: pip install 'rljax[data]'") from None
    return minari


def _row(tree: Any, i: int) -> Any:
    if isinstance(tree, dict):
        return {key: _row(x, i) for key, x in tree.items()}
    return tuple(_row(x, i) for x in tree) if isinstance(tree, tuple) else tree[i]


def _actions(action: np.ndarray) -> np.ndarray:
    return (
        whole(action, "an episode's action")
        if action.dtype.kind in "iu"
        else action.reshape(len(action), -1).astype(np.float32)
    )


def _space(space: Any) -> Array | Discrete | None:
    if hasattr(space, "n"):
        return Discrete(int(space.n))
    if not hasattr(space, "low"):
        return None
    return Array(tuple(space.shape), "float32", *(tuple(np.ravel(b).astype(float).tolist()) for b in (space.low, space.high)))


def _box(space: Array | Discrete | None) -> Any:
    import gymnasium

    if isinstance(space, Discrete):
        return gymnasium.spaces.Discrete(space.n)
    if space is None:
        raise InputError("Minari needs the actions' bounds, which this data set does not tell")
    low, high = bounds(space)
    return gymnasium.spaces.Box(low.astype(space.dtype), high.astype(space.dtype), dtype=np.dtype(space.dtype).type)
