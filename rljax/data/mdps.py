"""Finite MDPs in npz files: those of the BRIDGE data set (arXiv:2304.09853), and our own, which may be stochastic.

Reading takes an untrusted file: whatever is wrong becomes one sentence with the file and the place. Pickle is never read.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rljax.base import InputError
from rljax.data.files import Arrays, read_npz, reading
from rljax.mdp import MDP, checked, deterministic

BRIDGE = ("transitions", "rewards")
PIXELS = ("screens", "screen_mapping")
OWN = ("successor", "probability", "reward", "horizon")
FORMATS = f"an MDP's npz file has the keys {' and '.join(BRIDGE)}, or {', '.join(OWN)}"


class Recording(NamedTuple):
    """An `MDP`, and what its states look like if the file tells.

    ``screens`` is uint8 [N, height, width, channels]; ``screen_mapping`` int64 [S] or [S, frames] (oldest first) says which
    of them show a state. Both are None without pictures.
    """

    mdp: MDP
    screens: np.ndarray | None
    screen_mapping: np.ndarray | None


def read(path: str | Path, horizon: int | None = None, pixels: bool = True) -> Recording:
    """The MDP in an npz file, and its pictures unless ``pixels`` is False.

    BRIDGE: ``transitions`` [S, A] (-1 ends the episode), ``rewards`` [S, A], and maybe ``screens`` with ``screen_mapping``.
    Own files: the fields of `MDP`, as `save` writes them. The horizon (steps) is the argument, else the file's own, else what
    the name of the file or of its folder tells: 10 for ``freeway_10_fs30``, and 100 for names that begin with ``MiniGrid-``.

    Raises:
        InputError: if the file is missing, damaged, of another format, describes no MDP, or tells no horizon.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder: {FORMATS}")
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    with path.open("rb") as file:
        if file.read(4) not in (b"PK\x03\x04", b"PK\x05\x06"):
            raise InputError(f"{path} is no npz file: {FORMATS}")
    keys = (*BRIDGE, *OWN, *(PIXELS if pixels else ()))
    arrays = read_npz(path, lambda key: key in keys)
    own = not set(BRIDGE) & set(arrays)
    for key in OWN[:3] if own else BRIDGE:
        if key not in arrays:
            raise InputError(f"{path} has no key {key!r}: {FORMATS}")
        _require_numbers(path, key, arrays[key], 3 if own else 2)
    if not own:
        _require_bridge(path, *(arrays[key] for key in BRIDGE))
    steps = horizon if horizon is not None else _horizon(path, arrays)
    try:
        if own:
            mdp = checked(MDP(arrays["successor"], arrays["probability"], arrays["reward"], steps))
        else:
            mdp = deterministic(arrays["transitions"], arrays["rewards"], steps)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return Recording(mdp, *_pixels(path, arrays, len(mdp.successor)))


def save(path: str | Path, mdp: MDP) -> None:
    """Write ``mdp`` to an npz file that `read` takes; the name must end in .npz.

    Raises:
        InputError: if the name ends otherwise, or ``mdp`` is none (see `rljax.mdp.checked`).
    """
    if Path(path).suffix != ".npz":
        raise InputError(f"the name of an MDP's file must end in .npz, got {path}")
    np.savez_compressed(path, **checked(mdp)._asdict())


def read_policy(path: str | Path) -> np.ndarray:
    """The array in an npy file, such as an exploration policy [T, S, A].

    Raises:
        InputError: if the file is missing, damaged, of another format, or holds no numbers.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} is a folder" if path.is_dir() else f"there is no file {path}")
    with reading(path), path.open("rb") as file:
        if file.read(6) != b"\x93NUMPY":
            raise InputError(f"{path} is no npy file")
        file.seek(0)
        found = np.lib.format.read_array(file, allow_pickle=False)
    if found.dtype.kind not in "iuf":
        raise InputError(f"{path} holds {found.dtype}, not numbers")
    return found


def _horizon(path: Path, arrays: Arrays) -> int:
    if "horizon" in arrays:
        said = arrays["horizon"]
        if said.shape or said.dtype.kind not in "iu":
            raise InputError(f"{path}: 'horizon' must be one whole number, it is {said.dtype} of shape {said.shape}")
        return int(said)
    for name in (path.stem, path.absolute().parent.name):
        found = re.search(r"_(\d+)_fs\d+", name)
        if found:
            return int(found[1])
        if name.startswith("MiniGrid-"):
            return 100
    raise InputError(f"{path} does not tell its horizon, the number of steps of an episode: give --horizon")


def _require_numbers(path: Path, key: str, x: np.ndarray, ndim: int) -> None:
    axes = ("S", "A", "K")[:ndim]
    if x.dtype.kind not in "iuf":
        raise InputError(f"{path}: {key!r} holds {x.dtype}, not numbers")
    if x.ndim != ndim or not x.size:
        raise InputError(f"{path}: {key!r} must have the axes [{', '.join(axes)}], its shape is {x.shape}")


def _require_bridge(path: Path, transitions: np.ndarray, rewards: np.ndarray) -> None:
    if transitions.dtype.kind not in "iu":
        raise InputError(f"{path}: 'transitions' must be of an integer type, got {transitions.dtype}")
    if transitions.shape != rewards.shape:
        raise InputError(f"{path}: 'transitions' {transitions.shape} and 'rewards' {rewards.shape} must both be [S, A]")


def _pixels(path: Path, arrays: Arrays, states: int) -> tuple[np.ndarray | None, np.ndarray | None]:
    screens, mapping = (arrays.get(key) for key in PIXELS)
    if screens is None and mapping is None:
        return None, None
    if screens is None or mapping is None:
        there, missing = PIXELS if mapping is None else PIXELS[::-1]
        raise InputError(f"{path} has the key {there!r} but not {missing!r}")
    if screens.ndim != 4 or screens.dtype != np.uint8 or not screens.size:
        raise InputError(f"{path}: 'screens' must be uint8 [N, height, width, 3], it is {screens.dtype} {screens.shape}")
    if mapping.dtype.kind not in "iu" or mapping.ndim not in (1, 2) or len(mapping) != states or not mapping.size:
        raise InputError(
            f"{path}: 'screen_mapping' must hold whole numbers [{states}] or [{states}, frames], "
            f"it is {mapping.dtype} {mapping.shape}"
        )
    wrong = (mapping < 0) | (mapping >= len(screens))
    if wrong.any():
        where = tuple(np.argwhere(wrong)[0])
        raise InputError(
            f"{path}: 'screen_mapping' is {mapping[where]} in row {where[0]}, but there are {len(screens)} screens"
        )
    return screens, mapping.astype(np.int64)
