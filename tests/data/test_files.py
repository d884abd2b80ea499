"""Readers: each format's rule for ends and successors, and one sentence for whatever is wrong with a file."""

from __future__ import annotations

import os
import pickle
import re
import shutil
import tempfile
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rljax import data
from rljax.base import Array, Discrete, InputError


def test_d4rl(write, arrays):
    """The last step of a timed-out episode, and of one cut off, is no transition; a terminal is."""
    dataset = data.load(write("x.hdf5", arrays))
    t = dataset.transition
    rows = [0, 1, 2, 3, 4, 5, 6, 7, 9, 10]
    np.testing.assert_array_equal(t.obs, arrays["observations"][rows])
    np.testing.assert_array_equal(t.action, arrays["actions"][rows])
    np.testing.assert_array_equal(t.reward, rows)
    other = np.arange(10) != 3  # nothing is promised of a terminal's successor but that it is finite
    np.testing.assert_array_equal(t.next_obs[other], arrays["observations"][[r + 1 for r in rows]][other])
    assert np.isfinite(t.next_obs).all()
    np.testing.assert_array_equal(t.terminated, [r == 3 for r in rows])
    assert not t.truncated.any()
    np.testing.assert_array_equal(dataset.episode, [0, 0, 0, 0, 1, 1, 1, 1, 2, 2])
    np.testing.assert_array_equal(dataset.length, [4, 5, 3])
    np.testing.assert_array_equal(dataset.returns, [6, 30, 30])
    np.testing.assert_array_equal(dataset.dropped, [0, 8, 11])
    assert [data.ENDS[code] for code in dataset.end] == ["terminated", "truncated", "cut off"]


def test_d4rl_keeps_a_terminals_own_successor(write, arrays):
    own = arrays["observations"] + 100
    dataset = data.load(write("x.hdf5", arrays | {"next_observations": own}))
    np.testing.assert_array_equal(dataset.transition.next_obs[3], own[3])
    assert len(dataset.episode) == 10


def test_d4rl_reads_npz_too(write, arrays):
    assert data.digest(data.load(write("x.npz", arrays))) == data.digest(data.load(write("x.hdf5", arrays)))


def test_d4rl_name_brings_its_reference(write, arrays):
    info = data.load(write("hopper_medium-v2.hdf5", arrays)).info
    assert info.name == "hopper-medium-v2"
    assert info.reference == (-20.272305, 3234.3)


def test_d3rlpy(write, arrays):
    ends = arrays.pop("timeouts") | arrays["terminals"]
    file = {**arrays, "episode_terminals": ends.astype(np.float32)[:, None], "discrete_action": False, "version": "1.0"}
    dataset = data.load(write("x.h5", file))
    assert dataset.info.format == "d3rlpy"
    np.testing.assert_array_equal(dataset.transition.reward, [0, 1, 2, 3, 4, 5, 6, 7, 9, 10])


def test_d3rlpy_discrete_actions(write, arrays):
    arrays["episode_terminals"] = arrays.pop("timeouts") | arrays["terminals"]
    arrays["actions"] = np.arange(12)[:, None] % 3
    dataset = data.load(write("x.h5", arrays | {"discrete_action": True}))
    assert dataset.transition.action.dtype == np.int32
    assert dataset.transition.action.shape == (10,)
    assert data.spec_of(dataset).action == Discrete(3)


@pytest.mark.parametrize("folder", [True, False])
def test_minari(minari, minari_episode, folder):
    """Every step has a successor, in the order of the episodes' numbers."""
    episodes = [minari_episode(n, n % 2, seed=n) for n in range(2, 14)]  # past episode_9: not in alphabetical order
    box = {"type": "Box", "shape": [2], "low": [-2, -1], "high": [2, 1]}
    path = minari(episodes, ref_min_score=1, ref_max_score=3, dataset_id="a/b-v0", action_space=box)
    dataset = data.load(path if folder else path / "data/main_data.hdf5")
    t = dataset.transition
    np.testing.assert_array_equal(dataset.length, range(2, 14))
    np.testing.assert_allclose(dataset.returns, [e["rewards"].sum() for e in episodes])
    np.testing.assert_array_equal(t.obs, np.concatenate([e["observations"][:-1] for e in episodes]).astype(np.float32))
    np.testing.assert_array_equal(t.next_obs, np.concatenate([e["observations"][1:] for e in episodes]).astype(np.float32))
    np.testing.assert_array_equal(t.terminated, np.concatenate([e["terminations"] for e in episodes]))
    np.testing.assert_array_equal(t.truncated, np.concatenate([e["truncations"] for e in episodes]))
    assert dataset.info == data.Info("a/b-v0", "Minari", Array((2,), "float32", (-2.0, -1.0), (2.0, 1.0)), (1.0, 3.0))


def test_minari_concatenates_groups(minari, minari_episode):
    episode = minari_episode(4)
    obs = episode.pop("observations")
    episode |= {"observations/b": obs[:, :1], "observations/a": obs[:, 1:]}
    np.testing.assert_array_equal(data.load(minari([episode])).transition.obs, obs[:-1, [1, 2, 0]].astype(np.float32))


def test_minari_episode_that_stops(minari, minari_episode):
    episode = minari_episode(4)
    episode["terminations"] = np.zeros(4, bool)
    dataset = data.load(minari([episode]))
    assert data.ENDS[dataset.end[0]] == "cut off"
    assert len(dataset.episode) == 4


def test_ogbench(write, arrays):
    """``terminals`` ends a trajectory, a mask of 0 forbids to bootstrap and ends nothing."""
    masks = np.ones(12, np.float32)
    masks[[1, 5]] = 0
    file = {"terminals": arrays["terminals"] | arrays["timeouts"], "masks": masks}
    dataset = data.load(write("x.npz", {k: arrays[k] for k in ("observations", "actions", "rewards")} | file))
    np.testing.assert_array_equal(dataset.transition.reward, [0, 1, 2, 4, 5, 6, 7, 9, 10])
    np.testing.assert_array_equal(np.flatnonzero(dataset.transition.terminated), [1, 4])
    np.testing.assert_array_equal(dataset.length, [4, 5, 3])
    assert dataset.info.format == "OGBench"


def test_images_stay_uint8(write, arrays):
    arrays["observations"] = np.random.default_rng(0).integers(0, 255, (12, 4, 4, 3), np.uint8)
    assert data.load(write("x.hdf5", arrays)).transition.obs.dtype == np.uint8


def test_real_pendulum(shared):
    dataset = data.load(shared / "d3rlpy/pendulum_v1.1.0.h5")
    assert (len(dataset.length), dataset.length.sum(), len(dataset.episode)) == (500, 99_500, 99_000)
    assert dataset.returns.max() == pytest.approx(-0.70, abs=0.005)
    assert not dataset.transition.terminated.any()


def test_real_door(shared):
    dataset = data.load(shared / "minari/D4RL/door/human-v2")
    assert (len(dataset.length), dataset.length.sum(), len(dataset.episode)) == (25, 6_729, 6_729)
    assert (dataset.returns.min(), dataset.returns.max()) == pytest.approx((234.9, 1505.0), abs=0.05)
    assert dataset.info.reference == pytest.approx((-45.807, 2940.578), abs=1e-3)


@pytest.mark.parametrize("name", ["D4RL/door/human-v2", "hopper-medium-v2", "cube-v0"])
def test_names_are_found_where_their_library_keeps_them(name, tmp_path, monkeypatch, write, arrays, minari, minari_episode):
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    with pytest.raises(InputError, match="there is no data set"):
        data.load(name)
    places = {
        "D4RL/door/human-v2": (".minari/datasets/D4RL/door/human-v2", lambda: minari([minari_episode(4)])),
        "hopper-medium-v2": (".d4rl/datasets/hopper_medium-v2.hdf5", lambda: write("x.hdf5", arrays)),
        "cube-v0": (".ogbench/data/cube-v0.npz", lambda: write("x.npz", arrays)),
    }
    place, make = places[name]
    (tmp_path / "home" / place).parent.mkdir(parents=True)
    shutil.move(make(), tmp_path / "home" / place)
    assert len(data.load(name).episode)


def at(x, row, value):
    x = np.array(x, np.asarray(x).dtype if np.asarray(x).dtype.kind == "f" else float)
    x[row] = value
    return x


BROKEN = {
    "missing key": (lambda a: a.pop("rewards"), "no key 'rewards'"),
    "missing timeouts": (lambda a: a.pop("timeouts"), "no key 'timeouts'"),
    "unequal lengths": (lambda a: a.update(actions=a["actions"][:-1]), "'actions' has 11 rows, 'observations' has 12"),
    "nan": (lambda a: a.update(rewards=at(a["rewards"], 7, np.nan)), "'rewards' is nan in row 7"),
    "inf": (lambda a: a.update(observations=at(a["observations"], 5, np.inf)), "'observations' is inf in row 5"),
    "overflow": (
        lambda a: a.update(observations=at(a["observations"].astype(float), 5, 1e300)),
        "'observations' is 1e+300 in row 5, more than float32 can hold",
    ),
    "two terminals": (lambda a: a.update(terminals=at(a["terminals"], [3, 4], 1)), "set in rows 3 and 4"),
    "no end": (lambda a: a.update(terminals=np.zeros(12), timeouts=np.zeros(12)), "has no end of an episode"),
    "flag": (lambda a: a.update(timeouts=at(a["timeouts"], 2, 0.5)), "'timeouts' is 0.5 in row 2"),
    "wide flag": (lambda a: a.update(terminals=np.zeros((12, 2))), "'terminals' has 2 numbers in each row"),
    "wide reward": (lambda a: a.update(rewards=np.zeros((12, 2))), "rewards must be one number in each row"),
    "no rows": (lambda a: a.update({k: x[:0] for k, x in a.items()}), "has no rows"),
    "text": (lambda a: a.update(rewards=np.array([b"x"] * 12)), "'rewards' holds |S1, not numbers"),
    "scalar": (lambda a: a.update(rewards=np.float32(3)), "'rewards' is a single number"),
    "other keys": (lambda a: (a.clear(), a.update(x=np.zeros(3))), "has none of the keys"),
    "pairs of integers": (lambda a: a.update(actions=np.zeros((12, 2), int)), "integer actions must be one number"),
    "huge integers": (lambda a: a.update(actions=at(np.zeros(12), 4, 2**32).astype(np.int64)), "is 4294967296 in row 4"),
    "no action": (lambda a: a.update(actions=np.zeros((12, 0))), "'actions' has rows without numbers, shape (12, 0)"),
    "successor's shape": (lambda a: a.update(next_observations=np.zeros((12, 5))), "'next_observations' have shape (5,)"),
}


@pytest.mark.parametrize("name", ["x.hdf5", "x.npz"])
@pytest.mark.parametrize("case", BROKEN)
def test_broken_arrays(write, arrays, name, case):
    damage, sentence = BROKEN[case]
    damage(arrays)
    path = write(name, arrays)
    with pytest.raises(InputError, match=re.escape(sentence)) as error:
        data.load(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_names_that_are_no_files(tmp_path, write, arrays, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write("x.npz", arrays)
    assert len(data.load("~/x.npz").episode)
    with pytest.raises(InputError, match="the name of the data set is empty"):
        data.load("")
    with pytest.raises(InputError, match="there is no data set /nowhere/x$"):
        data.load("/nowhere/x")


def test_bounds_are_not_for_discrete_actions(write, arrays):
    discrete = data.load(write("x.npz", arrays | {"actions": np.arange(12) % 3}))
    with pytest.raises(InputError, match="has discrete actions: leave out --action-low and --action-high"):
        data.spec_of(discrete, 0.0, 2.0)


def test_files_without_a_task(write, arrays):
    """OGBench's own, as they are downloaded."""
    path = write("x.npz", {key: arrays[key] for key in ("observations", "actions", "terminals")})
    with pytest.raises(InputError, match="has no rewards; if it is OGBench's, they come with a task"):
        data.load(path)


MINARI = {
    "missing key": (lambda e: e.pop("rewards"), "no key 'episode_1/rewards'"),
    "lengths": (lambda e: e.update(rewards=np.zeros(3)), "'episode_1/rewards' has 3 rows"),
    "no last observation": (lambda e: e.update(observations=np.zeros((4, 3))), "it must have one more than the 4 actions"),
    "nan": (lambda e: e.update(actions=at(e["actions"], 2, np.nan)), "'episode_1/actions' is nan in row 2"),
    "early end": (lambda e: e.update(truncations=np.array([0, 1, 0, 0], bool)), "episode_1 ends at row 1, but has 4 rows"),
}


@pytest.mark.parametrize("case", MINARI)
def test_broken_minari(minari, minari_episode, case):
    episode = minari_episode(4)
    damage, sentence = MINARI[case]
    damage(episode)
    with pytest.raises(InputError, match=re.escape(sentence)):
        data.load(minari([minari_episode(3), episode]))


def test_broken_minari_description(minari, minari_episode):
    folder = minari([minari_episode(3)])
    (folder / "data" / "metadata.json").write_text("{not json")
    with pytest.raises(InputError, match="metadata.json is damaged"):
        data.load(folder)


def test_objects_are_never_unpickled(write, arrays, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (tmp_path.joinpath("exploded").touch, ())

    path = write("x.npz", arrays | {"rewards": np.array([Bomb()] * 12, object)})
    with pytest.raises(InputError, match="'rewards' holds Python objects"):
        data.load(path)
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(InputError, match="pickle is never read"):
        data.load(path)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("name", ["x.hdf5", "x.npz"])
def test_what_would_fill_the_memory_is_refused(write, arrays, name, tmp_path):
    """A small file of a large array, of zeros or of nothing at all; where it is not large, it is read."""
    path = write(name, {k: x for k, x in arrays.items() if k != "observations"})
    for rows, refused in ((2**29 + 2**20, True), (2**20, False)):
        if name == "x.hdf5":
            with h5py.File(path, "a") as file:
                file.pop("observations", None)
                file.create_dataset("observations", (rows, 1), "u1", chunks=(2**16, 1), compression="gzip")
        else:
            path = write(name, {k: x for k, x in arrays.items() if k != "observations"})
            header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({rows}, 1), }}".ljust(117).encode() + b"\n"
            with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as file, file.open("observations.npy", "w") as out:
                out.write(b"\x93NUMPY\x01\x00v\x00" + header)
                for _ in range(rows >> 20):
                    out.write(bytes(2**20))
        with pytest.raises(InputError, match="this is no recording" if refused else "rows, 'observations' has 1048576"):
            data.load(path)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.npz")
    with pytest.raises(InputError, match="is neither a file nor a folder"):
        data.load(tmp_path / "x.npz")


def test_objects_in_hdf5(write, arrays):
    path = write("x.hdf5", {k: x for k, x in arrays.items() if k != "rewards"})
    with h5py.File(path, "a") as file:
        file.create_dataset("rewards", data=["a"] * 12, dtype=h5py.string_dtype())
    with pytest.raises(InputError, match="'rewards' holds Python objects or text"):
        data.load(path)


@pytest.mark.parametrize("name", ["x.hdf5", "x.npz"])
def test_truncated(write, arrays, name):
    path = write(name, arrays)
    whole = path.read_bytes()
    for size in range(9, len(whole), max(len(whole) // 50, 1)):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match="damaged or cut short"):
            data.load(path)


@pytest.mark.parametrize(("contents", "sentence"), [(b"", "is empty"), (b"a,b,c\n1,2,3\n", "neither HDF5 nor npz")])
def test_other_files(tmp_path, contents, sentence):
    (tmp_path / "x").write_bytes(contents)
    with pytest.raises(InputError, match=sentence):
        data.load(tmp_path / "x")


def test_other_folder(tmp_path):
    with pytest.raises(InputError, match="a folder without main_data.hdf5"):
        data.load(tmp_path)


@settings(max_examples=150, deadline=None, database=None)
@given(
    name=st.sampled_from(["x.hdf5", "x.npz"]),
    places=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=20),
)
def test_random_damage(name, places):
    """Whatever bytes change, a file is either read or refused in one sentence."""
    rng = np.random.default_rng(0)
    flags = {"terminals": np.arange(12) == 5, "timeouts": np.arange(12) == 11}
    arrays = {"observations": rng.normal(size=(12, 3)), "actions": rng.normal(size=(12, 2)), "rewards": rng.normal(size=12)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        if name == "x.npz":
            np.savez(path, **arrays, **flags)
        else:
            with h5py.File(path, "w") as file:
                file.update(arrays | flags)
        contents = bytearray(path.read_bytes())
        for place, byte in places:
            contents[int(place * (len(contents) - 1))] = byte
        path.write_bytes(contents)
        try:
            data.load(path)
        except InputError as error:
            assert "\n" not in str(error)


@pytest.fixture
def minari_home(tmp_path, monkeypatch):
    """Minari's library, with a home of its own."""
    library = pytest.importorskip("minari", reason="the extra data is not installed")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "home"))
    return library


@pytest.mark.parametrize("discrete", [False, True])
def test_written_for_minari_and_read_back(minari_home, minari, minari_episode, discrete):
    """Minari lists it and gives its episodes; we read the same steps from its folder."""
    from rljax.data import with_minari

    made = data.load(minari([minari_episode(n, n % 2, seed=n) for n in (3, 4)]))
    action = Discrete(3) if discrete else Array((2,), "float32", (-1.0, -1.0), (1.0, 1.0))
    made = made._replace(info=data.Info("made", "rljax", action, (1.0, 5.0)))
    if discrete:
        made = made._replace(transition=made.transition._replace(action=np.arange(7, dtype=np.int32) % 3))
    path = with_minari.write(made, "rljax/made-v0")
    assert minari_home.load_dataset("rljax/made-v0").total_steps == 7
    for again in (data.load(path), with_minari.read(path)):
        for a, b in zip((*again.transition, *again[1:6]), (*made.transition, *made[1:6]), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)
        assert again.info.action == action and again.info.reference == (1.0, 5.0)
    with pytest.raises(InputError, match="Minari cannot make"):
        with_minari.write(made, "rljax/made-v0")


def test_minaris_library_reads_the_same(minari_home, shared):
    """The door's demonstrations, read directly and by the library."""
    from rljax.data import with_minari

    folder = shared / "minari/D4RL/door/human-v2/data"
    assert data.digest(with_minari.read(folder)) == data.digest(data.load(folder))


def test_arrow_without_minari_is_told(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "minari", None)
    (tmp_path / "metadata.json").write_text("{}")
    with pytest.raises(InputError, match=r"pip install 'rljax\[data\]'"):
        data.load(tmp_path)
