"""Our own files give back what was written; mixtures hold whole episodes in the fractions asked for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rljax import data
from rljax.base import Array, Discrete, InputError


@pytest.fixture
def dataset(minari, minari_episode):
    """Episodes of 2 to 7 steps that end either way, every step with its successor."""
    made = data.load(minari([minari_episode(n, n % 2, seed=n) for n in range(2, 8)]))
    info = data.Info("made", "rljax", Array((2,), "float32", (-1.0, -2.0), (1.0, 2.0)), (1.0, 5.0))
    return made._replace(info=info)


@pytest.mark.parametrize("suffix", [".npz", ".hdf5", ".h5"])
def test_a_file_gives_back_what_was_written(dataset, tmp_path, suffix):
    path = tmp_path / f"made{suffix}"
    data.save(dataset, path)
    again = data.load(path)
    assert again.info == dataset.info
    for a, b in zip((*again.transition, *again[1:6]), (*dataset.transition, *dataset[1:6]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    assert [p.name for p in tmp_path.glob("made*")] == [path.name]


def test_discrete_actions(dataset, tmp_path):
    t = dataset.transition
    action = np.arange(len(t.reward), dtype=np.int32) % 3
    discrete = dataset._replace(transition=t._replace(action=action), info=replace(dataset.info, action=Discrete(3)))
    data.save(discrete, tmp_path / "x.npz")
    again = data.load(tmp_path / "x.npz")
    np.testing.assert_array_equal(again.transition.action, action)
    assert again.info.action == Discrete(3)


def test_a_cut_off_episode_is_kept_apart(dataset, tmp_path):
    """Its last row is marked as an end, so two episodes never become one."""
    cut = data.take(dataset, 1, np.random.default_rng(0))
    data.save(cut, tmp_path / "x.npz")
    again = data.load(tmp_path / "x.npz")
    np.testing.assert_array_equal(again.length, cut.length)
    np.testing.assert_array_equal(again.end, cut.end)
    assert data.ENDS[cut.end[-1]] == "cut off"


def test_a_failure_leaves_nothing(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(np, "savez_compressed", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        data.save(dataset, tmp_path / "x.npz")
    assert not list(tmp_path.glob("x*"))
    with pytest.raises(InputError, match="is written as one of .npz, .hdf5, .h5"):
        data.save(dataset, tmp_path / "x.csv")


@pytest.mark.parametrize("steps", [1, 9, 27])
def test_take_keeps_episodes_whole_but_the_last(dataset, steps):
    taken = data.take(dataset, steps, np.random.default_rng(1))
    assert len(taken.episode) == steps == taken.length.sum()
    starts = {tuple(x) for x in dataset.transition.obs[dataset.starts]}
    assert {tuple(x) for x in taken.transition.obs[taken.starts]} <= starts
    for i in range(len(taken.length)):
        rows = taken.episode == i
        assert taken.returns[i] == pytest.approx(taken.transition.reward[rows].sum(dtype=np.float64), rel=1e-5)
        source = np.flatnonzero((dataset.transition.obs == taken.transition.obs[rows][0]).all(1))[0]
        np.testing.assert_array_equal(taken.transition.obs[rows], dataset.transition.obs[source : source + rows.sum()])
    ends = [data.ENDS[e] for e in taken.end]
    assert ends.count("cut off") <= 1 and "cut off" not in ends[:-1]


def test_take_refuses_more_than_there_is(dataset):
    with pytest.raises(InputError, match="made has 27 transitions, 28 are needed"):
        data.take(dataset, 28, np.random.default_rng(0))


def test_concatenate(dataset):
    both = data.concatenate({"a": dataset, "b": dataset}, "both")
    np.testing.assert_array_equal(both.length, [*dataset.length, *dataset.length])
    np.testing.assert_array_equal(both.starts[6:], dataset.starts + 27)
    assert both.info.name == "both" and both.info.reference == (1.0, 5.0)


def test_concatenate_refuses_other_shapes(dataset):
    t = dataset.transition
    other = dataset._replace(transition=t._replace(obs=t.obs[:, :2], next_obs=t.next_obs[:, :2]))
    with pytest.raises(InputError, match="only data sets of one environment can be mixed"):
        data.concatenate({"a": dataset, "b": other}, "both")
