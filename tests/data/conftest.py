"""Small files in every format, and the real ones that a checkout may have beside it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import h5py
import numpy as np
import pytest


@pytest.fixture
def shared():
    """The folder of real data sets."""
    folder = Path(os.environ.get("RLJAX_SHARED", Path(__file__).parents[2].parent / "shared")) / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data sets: {folder} does not exist")
    return folder


@pytest.fixture
def arrays():
    """Twelve D4RL steps: episodes of 4 (terminal), 5 (time limit) and 3 steps (cut off)."""
    rng = np.random.default_rng(0)
    flag = np.zeros((2, 12), bool)
    flag[0, 3] = flag[1, 8] = True
    return {
        "observations": rng.normal(size=(12, 3)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (12, 2)).astype(np.float32),
        "rewards": np.arange(12, dtype=np.float32),
        "terminals": flag[0],
        "timeouts": flag[1],
    }


def _hdf5(path, arrays, **attributes):
    with h5py.File(path, "w") as file:
        for key, x in arrays.items():
            file[key] = x
        file.attrs.update(attributes)
    return path


def _npz(path, arrays):
    np.savez(path, **arrays)
    return path


@pytest.fixture
def write(tmp_path):
    """``write("x.hdf5", arrays)`` or ``write("x.npz", arrays)``: the file's path."""

    def write(name, arrays, **attributes):
        path = tmp_path / name
        return _npz(path, arrays) if name.endswith(".npz") else _hdf5(path, arrays, **attributes)

    return write


@pytest.fixture
def minari(tmp_path):
    """``minari(episodes, **metadata)``: a folder in Minari's layout."""

    def write(episodes, **metadata):
        folder = tmp_path / "minari" / "data"
        folder.mkdir(parents=True)
        with h5py.File(folder / "main_data.hdf5", "w") as file:
            for number, episode in enumerate(episodes):
                group = file.create_group(f"episode_{number}")
                for key, x in episode.items():
                    group[key] = x
        (folder / "metadata.json").write_text(json.dumps({"data_format": "hdf5"} | metadata))
        return folder.parent

    return write


@pytest.fixture
def minari_episode():
    """``minari_episode(length)``: the members of an episode's group."""

    def make(length, terminated=True, seed=0):
        rng = np.random.default_rng(seed)
        flag = np.arange(length) == length - 1
        return {
            "observations": rng.normal(size=(length + 1, 3)),
            "actions": rng.uniform(-1, 1, (length, 2)).astype(np.float32),
            "rewards": rng.normal(size=length),
            "terminations": flag & terminated,
            "truncations": flag & (not terminated),
        }

    return make
