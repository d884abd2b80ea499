"""MDPs in files: what BRIDGE's keys mean, our own format there and back, and one sentence for whatever is wrong."""

from __future__ import annotations

import pickle
import re

import numpy as np
import pytest

from rljax.base import InputError
from rljax.data import mdps
from rljax.mdp import MDP

CHAIN = {"transitions": np.array([[1, 0], [2, 0], [-1, 0]]), "rewards": np.array([[0, 0], [0, 0], [1, 0.25]], np.float32)}
PICTURES = {"screens": np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3), "screen_mapping": np.array([0, 1, 1])}


def test_bridge(write):
    mdp, screens, mapping = mdps.read(write("chain_7_fs30.npz", CHAIN))
    np.testing.assert_array_equal(mdp.successor[..., 0], CHAIN["transitions"])
    np.testing.assert_array_equal(mdp.reward[..., 0], CHAIN["rewards"])
    np.testing.assert_array_equal(mdp.probability, np.ones((3, 2, 1)))
    assert (mdp.successor.dtype, mdp.reward.dtype, mdp.horizon) == (np.int32, np.float64, 7)
    assert screens is None and mapping is None


@pytest.mark.parametrize("mapping", [np.array([0, 1, 1]), np.array([[0, 0, 1, 1], [0, 1, 1, 1], [1, 1, 1, 0]])])
def test_pictures(write, mapping):
    """Frame stacks have one picture for each frame."""
    path = write("chain_7_fs30.npz", CHAIN | PICTURES | {"screen_mapping": mapping})
    recording = mdps.read(path)
    np.testing.assert_array_equal(recording.screens, PICTURES["screens"])
    np.testing.assert_array_equal(recording.screen_mapping, mapping)
    assert mdps.read(path, pixels=False).screens is None


@pytest.mark.parametrize(
    ("name", "horizon"),
    [
        ("maze_easy_l0_30_fs1.npz", 30),
        ("pong_50_fs30_consolidated.npz", 50),
        ("freeway_10_fs30/consolidated.npz", 10),
        ("MiniGrid-Empty-5x5-v0/consolidated.npz", 100),
        ("MiniGrid-Empty-5x5-v0.npz", 100),
    ],
)
def test_horizon_of_the_name(write, tmp_path, name, horizon):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    path = write(name, CHAIN)
    assert mdps.read(path).mdp.horizon == horizon
    assert mdps.read(path, 3).mdp.horizon == 3


def test_unknown_horizon(write):
    with pytest.raises(InputError, match="horizon, the number of steps of an episode: give --horizon"):
        mdps.read(write("chain_100.npz", CHAIN))


def test_own_format_there_and_back(tmp_path):
    mdp = MDP(
        np.array([[[1, -1], [0, 1]], [[0, 0], [1, 1]]], np.int32),
        np.array([[[0.1, 0.9], [1, 0]], [[0.5, 0.5], [1, 0]]]),
        np.array([[[1, 2], [3, 4]], [[5, 6], [7, np.pi]]]),
        12,
    )
    mdps.save(tmp_path / "a.npz", mdp)
    again = mdps.read(tmp_path / "a.npz")
    for x, y in zip(mdp, again.mdp, strict=True):
        np.testing.assert_array_equal(x, y)
        assert np.asarray(x).dtype == np.asarray(y).dtype
    assert mdps.read(tmp_path / "a.npz", 5).mdp.horizon == 5
    with pytest.raises(InputError, match=r"must end in .npz"):
        mdps.save(tmp_path / "a.hdf5", mdp)


BROKEN = {
    "no transitions": ({"transitions": None}, "has no key 'transitions'"),
    "no rewards": ({"rewards": None}, "has no key 'rewards'"),
    "nothing": ({"transitions": None, "rewards": None}, "has no key 'successor'"),
    "one axis": ({"transitions": np.zeros(3, int)}, r"'transitions' must have the axes \[S, A\], its shape is \(3,\)"),
    "no states": ({"transitions": np.zeros((0, 2), int)}, "'transitions' must have the axes"),
    "shapes differ": ({"rewards": np.zeros((3, 3))}, r"'transitions' \(3, 2\) and 'rewards' \(3, 3\) must both be \[S, A\]"),
    "fractions": ({"transitions": np.zeros((3, 2))}, "'transitions' must be of an integer type, got float64"),
    "text": ({"rewards": np.full((3, 2), "x")}, "'rewards' holds <U1, not numbers"),
    "no such state": ({"transitions": np.array([[1, 0], [2, 3], [-1, 0]])}, "states from 0 to 2, or -1: .* state 1, action 1"),
    "below": ({"transitions": np.array([[1, 0], [2, 0], [-2, 0]])}, "states from 0 to 2, or -1: not so in state 2, action 0"),
    "nan": ({"rewards": np.array([[0, 0], [0, np.nan], [1, 0]])}, "rewards must be finite: not so in state 1, action 1"),
    "mapping alone": ({"screens": None}, "has the key 'screen_mapping' but not 'screens'"),
    "screens alone": ({"screen_mapping": None}, "has the key 'screens' but not 'screen_mapping'"),
    "bright": ({"screens": np.zeros((2, 3, 4, 3))}, "'screens' must be uint8"),
    "flat": ({"screens": np.zeros((2, 3, 4), np.uint8)}, "'screens' must be uint8"),
    "short mapping": ({"screen_mapping": np.array([0, 1])}, r"'screen_mapping' must hold whole numbers \[3\]"),
    "no such screen": ({"screen_mapping": np.array([0, 2, 1])}, "'screen_mapping' is 2 in row 1, but there are 2 screens"),
    "negative screen": ({"screen_mapping": np.array([0, 0, -1])}, "'screen_mapping' is -1 in row 2"),
    "objects": ({"rewards": np.array([[1, None]] * 3)}, r"'rewards' holds Python objects \(pickle\)"),
    "horizon": ({"horizon": np.array([1, 2])}, "'horizon' must be one whole number"),
    "no steps": ({"horizon": np.array(0)}, "the horizon must be at least 1 step, got 0"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files(write, name):
    changes, message = BROKEN[name]
    arrays = {k: v for k, v in (CHAIN | PICTURES | changes).items() if v is not None}
    path = write("chain_7_fs30.npz", arrays)
    with pytest.raises(InputError, match=message) as raised:
        mdps.read(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("key", ["successor", "probability", "reward", "horizon"])
def test_own_format_needs_all(write, key):
    arrays = {
        "successor": np.zeros((1, 1, 1), int),
        "probability": np.ones((1, 1, 1)),
        "reward": np.ones((1, 1, 1)),
        "horizon": 3,
    }
    del arrays[key]
    with pytest.raises(InputError, match="horizon" if key == "horizon" else f"has no key '{key}'"):
        mdps.read(write("a.npz", arrays))


def test_no_mdp_at_all(tmp_path, write):
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "empty.npz").write_bytes(b"")
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps([1]))
    whole = write("chain_7_fs30.npz", CHAIN).read_bytes()
    (tmp_path / "cut_7_fs30.npz").write_bytes(whole[: len(whole) // 2])
    for name, message in {
        "text.npz": "is no npz file",
        "empty.npz": "is no npz file",
        "pickle.npz": "is no npz file",
        "cut_7_fs30.npz": "damaged or cut short",
        "missing.npz": "there is no file",
        ".": "is a folder",
    }.items():
        with pytest.raises(InputError, match=message) as raised:
            mdps.read(tmp_path / name)
        assert re.search(re.escape(str(tmp_path)), str(raised.value))


def test_damage_anywhere_is_one_sentence(write, tmp_path):
    """A byte changed anywhere: the file is read, or refused; nothing else is raised."""
    whole, rng = write("chain_7_fs30.npz", CHAIN | PICTURES).read_bytes(), np.random.default_rng(0)
    path = tmp_path / "bad_7_fs30.npz"
    for place in rng.integers(len(whole), size=300):
        path.write_bytes(whole[:place] + bytes([rng.integers(256)]) + whole[place + 1 :])
        try:
            mdps.read(path)
        except InputError as error:
            assert str(path) in str(error)


def test_freeway(shared):
    path = shared / "effective_horizon/freeway_10_fs30.npz"
    if not path.exists():
        pytest.skip(f"{path} does not exist")
    mdp, screens, mapping = mdps.read(path)
    assert (mdp.successor.shape, mdp.horizon) == ((197, 3, 1), 10)
    assert (screens.shape, mapping.shape, mapping.max()) == ((263, 210, 160, 3), (197,), 262)
