"""Files to data sets: D4RL, d3rlpy, Minari, OGBench and our own. The format is found by content; pickle is never read.

Every function here that reads takes an untrusted file: whatever is wrong becomes one sentence with the file and the row.
"""

from __future__ import annotations

import contextlib
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from rljax.base import Array, Discrete, InputError, Space
from rljax.data import scores, with_minari
from rljax.data.dataset import Dataset, Info, Steps, from_steps, whole

Arrays = dict[str, np.ndarray]

FORMATS = "D4RL (.hdf5), d3rlpy (.h5), Minari (a folder), OGBench (.npz), or files written by rljax"
WITHOUT_TASK = (
    "if it is OGBench's, they come with a task: let ogbench.make_env_and_datasets load a name with singletask, "
    "and keep the arrays that it gives with numpy.savez"
)
STEP_KEYS = ("observations", "actions", "rewards", "terminals")
LARGE = 2**29  # bytes of an array that are read however small they are in the file
DENSE = 200  # times smaller than in memory that a larger array may be there
FLAGS = ("terminals", "timeouts", "episode_terminals", "terminations", "truncations", "masks")


def load(source: str | Path) -> Dataset:
    """The data set in a file or folder, or of a D4RL, Minari or OGBench name where these libraries keep their files.

    * D4RL: an episode ends where ``terminals`` or ``timeouts`` is set; as in D4RL's ``qlearning_dataset`` the last step of
      a timed-out episode is no transition. Deviation: a terminal keeps its own successor where the file has one.
    * d3rlpy: as D4RL, with ``episode_terminals`` for the ends.
    * Minari: one observation more than actions, so every step is a transition. Observations in groups are concatenated
      in alphabetical order, as gymnasium's FlattenObservation does. HDF5 is read directly, Arrow with Minari's library.
    * OGBench: ``terminals`` ends a trajectory, ``masks`` = 0 is a terminal, also within a trajectory.
    * rljax: D4RL's keys with ``next_observations``, where every step is a transition.

    Raises:
        InputError: if the file is missing, damaged, of another format, or holds what cannot be learned from.
    """
    path = find(source)
    folder = _minari_file(path) if path.is_dir() else None
    if path.is_dir() and folder is None:
        for inner in (path, path / "data"):
            if (inner / "metadata.json").is_file():
                return with_minari.read(inner)
        raise InputError(f"{path} is a folder without main_data.hdf5: the formats are {FORMATS}")
    path = folder or path
    if not path.is_file():
        raise InputError(f"{path} is neither a file nor a folder")
    with path.open("rb") as file:
        magic = file.read(8)
    if magic == b"\x89HDF\r\n\x1a\n":
        return _from_hdf5(path)
    if magic[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return _from_npz(path)
    if not magic:
        raise InputError(f"{path} is empty")
    never = " (pickle is never read)" if magic[:1] == b"\x80" else ""
    raise InputError(f"{path} is neither HDF5 nor npz{never}: the formats are {FORMATS}")


def find(source: str | Path) -> Path:
    """The path that ``source`` names: itself, or a downloaded data set of that name."""
    if not str(source):
        raise InputError("the name of the data set is empty")
    path, name = Path(source).expanduser(), str(source)
    if path.exists():
        return path
    if path.is_absolute():
        raise InputError(f"there is no data set {path}")
    home = Path.home()
    entry = scores.d4rl().get(name)
    places = [home / ".minari/datasets" / name, home / ".ogbench/data" / f"{name}.npz"]
    if entry:
        places.insert(0, home / ".d4rl/datasets" / entry["dataset_file"])
    for place in places:
        if place.exists():
            return place
    raise InputError(f"there is no data set {name}: neither a file or folder, nor {' nor '.join(str(p) for p in places)}")


def _from_hdf5(path: Path) -> Dataset:
    with reading(path), h5py.File(path, "r") as file:
        if any(re.fullmatch(r"episode_\d+", key) for key in file):
            return _from_minari(path, file)
        arrays = {key: _array(path, file, key) for key in file if isinstance(file[key], h5py.Dataset) and _wanted(key)}
        metadata = file.attrs.get("rljax")
        discrete = bool(file["discrete_action"][()]) if "discrete_action" in file else False
    return _from_arrays(path, arrays, metadata, discrete)


def _from_npz(path: Path) -> Dataset:
    arrays = read_npz(path, lambda key: _wanted(key) or key == "rljax")
    description = arrays.pop("rljax", None)
    return _from_arrays(path, arrays, None if description is None else str(description), False)


def read_npz(path: Path, wanted: Callable[[str], bool]) -> Arrays:
    """The arrays of an npz file whose keys are ``wanted``.

    Raises:
        InputError: if the file is damaged, or one of these arrays holds Python objects.
    """
    arrays = {}
    with reading(path), np.load(path, allow_pickle=False) as file:
        for key in filter(wanted, file.files):
            found = file.zip.getinfo(key if key in file.zip.namelist() else f"{key}.npy")
            _require_dense(path, key, found.file_size, found.compress_size)
            try:
                arrays[key] = file[key]
            except ValueError as error:
                if "pickle" not in str(error):
                    raise
                raise InputError(f"{path}: {key!r} holds Python objects (pickle), which is never read") from None
    return arrays


def _wanted(key: str) -> bool:
    return key in (*STEP_KEYS, *FLAGS, "next_observations", "cut_offs")


def _from_arrays(path: Path, arrays: Arrays, metadata: Any, discrete: bool) -> Dataset:
    """The data set of flat arrays; their keys tell the format."""
    if not arrays:
        raise InputError(f"{path} has none of the keys {', '.join(STEP_KEYS)}: the formats are {FORMATS}")
    if "masks" in arrays:
        name, ends = "OGBench", ("masks",)
    elif "episode_terminals" in arrays:
        name, ends = "d3rlpy", ("episode_terminals",)
    else:
        name, ends = ("rljax" if metadata is not None else "D4RL"), ("timeouts",)
    needed = (*STEP_KEYS, *ends, *(["next_observations"] if name == "rljax" else []))
    for key in needed:
        if key not in arrays:
            if path.suffix == ".npz" and not {"rewards", "timeouts"} & arrays.keys():
                raise InputError(f"{path} has no rewards; {WITHOUT_TASK}")
            raise InputError(f"{path} has no key {key!r}; as {name} data it needs {', '.join(needed)}")
    arrays = {key: arrays[key] for key in (*needed, *({"next_observations", "cut_offs"} & arrays.keys() - set(needed)))}
    _check_lengths(path, arrays)
    arrays = {key: _numbers(path, key, x) for key, x in arrays.items()}
    flags = {key: _flag(path, key, arrays[key]) for key in ("terminals", *ends)}
    if name == "OGBench":
        terminated, timeout = ~flags["masks"], flags["terminals"]
    else:
        terminated, timeout = flags["terminals"], flags[ends[0]]
        _check_ends(path, terminated, timeout, ends[0])
    last = timeout | (terminated & (name != "OGBench"))
    if name == "rljax" and "cut_offs" in arrays:
        timeout = timeout & ~_flag(path, "cut_offs", arrays["cut_offs"])
    if not last.any():
        raise InputError(f"{path} has no end of an episode: {' and '.join(flags)} are never set")
    last[-1] = True
    obs, action = arrays["observations"], _actions(path, arrays["actions"], discrete)
    given = arrays.get("next_observations")
    if given is not None and given.shape != obs.shape:
        raise InputError(f"{path}: 'next_observations' have shape {given.shape[1:]}, 'observations' {obs.shape[1:]}")
    known = np.ones(len(obs), bool) if name == "rljax" or (name == "OGBench" and given is not None) else ~last
    next_obs = np.concatenate([obs[1:], obs[-1:]])  # a terminal without a successor keeps an observation, never used
    next_obs[last] = (obs if given is None else given)[last]
    steps = Steps(obs, action, arrays["rewards"].reshape(len(obs)), next_obs, terminated, timeout, last, known)
    return from_steps(steps, _info(path, name, metadata))


def _from_minari(path: Path, file: h5py.File) -> Dataset:
    """Episodes as groups; metadata.json beside the file tells the action space and reference scores."""
    numbers = sorted(int(key.removeprefix("episode_")) for key in file if re.fullmatch(r"episode_\d+", key))
    episodes = [_minari_episode(path, file, number) for number in numbers]
    metadata_path, metadata = path.parent / "metadata.json", {}
    if metadata_path.exists():
        try:
            metadata = dict(json.loads(metadata_path.read_text()))
        except (ValueError, TypeError):
            raise InputError(f"{metadata_path} is damaged: it must be one JSON object") from None
    low, high = metadata.get("ref_min_score"), metadata.get("ref_max_score")
    info = Info(
        name=metadata.get("dataset_id") or (path.parent.parent if path.parent.name == "data" else path.parent).name,
        format="Minari",
        action=_space(metadata.get("action_space")),
        reference=None if low is None or high is None else (float(low), float(high)),
    )
    return from_steps(Steps(*(np.concatenate(x) for x in zip(*episodes, strict=True))), info)


def _minari_episode(path: Path, file: h5py.File, number: int) -> Steps:
    group, where = file[f"episode_{number}"], f"episode_{number}/"
    for key in ("observations", "actions", "rewards", "terminations", "truncations"):
        if key not in group:
            raise InputError(f"{path} has no key {where + key!r}")
    flat = {key: _array(path, group, key) for key in ("actions", "rewards", "terminations", "truncations")}
    _check_lengths(path, flat, where)
    obs = _numbers(path, where + "observations", _minari_observations(path, group["observations"], where))
    num = len(flat["rewards"])
    if len(obs) != num + 1:
        raise InputError(f"{path}: {where}observations has {len(obs)} rows, it must have one more than the {num} actions")
    terminated, timeout = (_flag(path, where + key, flat[key]) for key in ("terminations", "truncations"))
    early = np.flatnonzero((terminated | timeout)[:-1])
    if early.size:
        raise InputError(f"{path}: {where[:-1]} ends at row {early[0]}, but has {num} rows")
    action = _actions(path, _numbers(path, where + "actions", flat["actions"]), False)
    reward = _numbers(path, where + "rewards", flat["rewards"]).reshape(num)
    last = np.arange(num) == num - 1
    return Steps(obs[:-1], action, reward, obs[1:], terminated, timeout, last, np.ones(num, bool))


def _minari_observations(path: Path, node: Any, where: str) -> np.ndarray:
    if isinstance(node, h5py.Dataset):
        return _array(path, node.parent, node.name.rpartition("/")[2])
    parts = [_minari_observations(path, node[key], where) for key in sorted(node)]
    if len({len(part) for part in parts}) != 1:
        raise InputError(f"{path}: the members of {where}observations have unequal lengths")
    return np.concatenate([part.reshape(len(part), -1) for part in parts], 1)


def _minari_file(folder: Path) -> Path | None:
    found = [folder / name for name in ("main_data.hdf5", "data/main_data.hdf5") if (folder / name).is_file()]
    return found[0] if found else None


def _info(path: Path, format: str, metadata: Any) -> Info:
    if format == "rljax":
        try:
            said: Mapping[str, Any] = json.loads(metadata)
            reference = said["reference"] and (float(said["reference"][0]), float(said["reference"][1]))
            return Info(str(said["name"]), format, _space(said["action"]), reference)
        except (ValueError, KeyError, TypeError, IndexError):
            raise InputError(f"{path}: its description 'rljax' is damaged") from None
    name = scores.d4rl_id(path.name) or path.stem
    return Info(name, format, None, scores.reference(name))


def _space(text: Any) -> Space | None:
    """A space as Minari (and we) write it into JSON; None if there is none or it is of another kind."""
    said = json.loads(text) if isinstance(text, str) else text
    if said is None or said.get("type") not in ("Box", "Discrete"):
        return None
    if said["type"] == "Discrete":
        return Discrete(int(said["n"]))
    low, high = (tuple(float(x) for x in np.ravel(said[key])) for key in ("low", "high"))
    return Array(tuple(said["shape"]), "float32", low, high)


def _array(path: Path, group: Any, key: str) -> np.ndarray:
    node = group[key]
    if node.dtype.kind == "O":
        raise InputError(f"{path}: {node.name[1:]!r} holds Python objects or text, not numbers")
    _require_dense(path, node.name[1:], node.nbytes, node.id.get_storage_size())
    return np.asarray(node[()])


def _require_dense(path: Path, key: str, size: int, stored: int) -> None:
    """Raise `InputError` for what is small as a file and would fill the memory, which no recording does."""
    if size > LARGE and size > DENSE * stored:
        raise InputError(f"{path}: {key!r} would be {size} bytes and takes {stored} in the file: this is no recording")


def _numbers(path: Path, key: str, x: np.ndarray) -> np.ndarray:
    """``x`` if it holds finite numbers."""
    if x.dtype.kind not in "biuf":
        raise InputError(f"{path}: {key!r} holds {x.dtype}, not numbers")
    if len(x) and not x.size:
        raise InputError(f"{path}: {key!r} has rows without numbers, shape {x.shape}")
    if x.dtype.kind != "f":
        return x
    with np.errstate(over="ignore"):
        finite = np.isfinite(x.astype(np.float32)).reshape(len(x), -1)
    if not finite.all():
        row = int(np.argmin(finite.all(1)))
        bad = x[row].reshape(-1)[~finite[row]][0]
        note = ", more than float32 can hold" if np.isfinite(bad) else ""
        raise InputError(f"{path}: {key!r} is {bad} in row {row}{note}")
    return x


def _flag(path: Path, key: str, x: np.ndarray) -> np.ndarray:
    x = x.reshape(len(x), -1)
    if x.shape[1] != 1:
        raise InputError(f"{path}: {key!r} has {x.shape[1]} numbers in each row, it must have one")
    wrong = (x[:, 0] != 0) & (x[:, 0] != 1)
    if wrong.any():
        row = int(wrong.argmax())
        raise InputError(f"{path}: {key!r} is {x[row, 0]} in row {row}, it must be 0 or 1")
    return x[:, 0] == 1


def _actions(path: Path, action: np.ndarray, discrete: bool) -> np.ndarray:
    """Continuous actions float32 [N, A], or discrete ones int32 [N]."""
    if action.dtype.kind in "iub" or discrete:
        if action.size != len(action):
            raise InputError(f"{path}: integer actions must be one number in each row, they have shape {action.shape[1:]}")
        return whole(action.reshape(len(action)), f"{path}: 'actions'")
    return action.reshape(len(action), -1).astype(np.float32)


def _check_lengths(path: Path, arrays: Arrays, where: str = "") -> None:
    for key, x in arrays.items():
        if x.ndim == 0:
            raise InputError(f"{path}: {where + key!r} is a single number, it must have one row for each step")
    first = next(iter(arrays))
    for key, x in arrays.items():
        if len(x) != len(arrays[first]):
            raise InputError(f"{path}: {where + key!r} has {len(x)} rows, {where + first!r} has {len(arrays[first])}")
    if not len(arrays[first]):
        raise InputError(f"{path}: {where + first!r} has no rows")
    if "rewards" in arrays and arrays["rewards"].size != len(arrays["rewards"]):
        raise InputError(f"{path}: {where}rewards must be one number in each row, shape is {arrays['rewards'].shape[1:]}")


def _check_ends(path: Path, terminated: np.ndarray, timeout: np.ndarray, key: str) -> None:
    twice = np.flatnonzero(terminated[1:] & terminated[:-1])
    if twice.size:
        raise InputError(f"{path}: 'terminals' is set in rows {twice[0]} and {twice[0] + 1}: an episode of one step is no data")
    if key == "episode_terminals" and (terminated & ~timeout).any():
        row = int((terminated & ~timeout).argmax())
        raise InputError(f"{path}: 'terminals' is set in row {row}, but 'episode_terminals' is not")


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """What h5py and numpy raise on a damaged file becomes one sentence."""
    try:
        yield
    except (InputError, KeyboardInterrupt):
        raise
    except zipfile.BadZipFile as error:
        raise InputError(f"{path} is damaged or cut short: {error}") from None
    except Exception as error:  # h5py and numpy raise nearly everything on damaged bytes
        said = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path} cannot be read, it is damaged or cut short ({said})") from None
