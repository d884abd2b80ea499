"""What is made of the rows: fitting a spec, Monte-Carlo returns, selections, summaries, scores."""

from __future__ import annotations

import numpy as np
import pytest

from rljax import data
from rljax.base import Array, Discrete, InputError, Spec
from rljax.data.summary import duplicates, summary

SPEC = Spec(Array((3,)), Array((2,), "float32", (-1.0, -2.0), (1.0, 2.0)), 10)


@pytest.fixture
def dataset(write, arrays):
    return data.load(write("x.hdf5", arrays))


def slow_mc(arrays, discount, scale, bias, failure):
    """Return-to-go of every step, by hand."""
    ends = np.flatnonzero(arrays["terminals"] | arrays["timeouts"]).tolist() + [len(arrays["rewards"]) - 1]
    out, start = np.zeros(len(arrays["rewards"])), 0
    for end in ends:
        rewards = [scale * float(r) + bias for r in arrays["rewards"][start : end + 1]]
        for i in range(len(rewards)):
            out[start + i] = sum(discount**k * r for k, r in enumerate(rewards[i:]))
        if failure is not None and (arrays["rewards"][start : end + 1] == failure).all():
            out[start : end + 1] = (scale * failure + bias) / (1 - discount)
        start = end + 1
    return out


@pytest.mark.parametrize("failure", [None, 5.0])
@pytest.mark.parametrize("transform", [(1.0, 0.0), (10.0, -5.0)])
def test_mc_returns(write, arrays, transform, failure):
    arrays["rewards"][4:9] = 5.0
    dataset = data.load(write("x.hdf5", arrays))
    rows = [0, 1, 2, 3, 4, 5, 6, 7, 9, 10]
    expected = slow_mc(arrays, 0.9, *transform, failure)[rows]
    np.testing.assert_allclose(data.mc_returns(dataset, 0.9, *transform, failure), expected, rtol=1e-6)


def test_sparse_failure_counts_the_dropped_step(write, arrays):
    """An episode that succeeds in the one step that is no transition has not failed."""
    arrays["rewards"][4:8], arrays["rewards"][8] = 0.0, 1.0
    dataset = data.load(write("x.hdf5", arrays))
    np.testing.assert_allclose(data.mc_returns(dataset, 0.5, failure=0.0)[4:8], 0.5 ** np.arange(4, 0, -1))


def test_sparse_failure_is_the_value_for_ever(write, arrays):
    arrays["rewards"][:] = 0
    dataset = data.load(write("x.hdf5", arrays))
    np.testing.assert_allclose(data.mc_returns(dataset, 0.99, 10, -5, failure=0), -500, rtol=1e-5)


def test_fit_maps_actions_and_keeps_the_rest(dataset, arrays):
    fitted = data.fit(dataset, SPEC)
    np.testing.assert_allclose(fitted.transition.action, dataset.transition.action / [1, 2], atol=1e-6)
    np.testing.assert_array_equal(fitted.transition.reward, dataset.transition.reward)
    assert fitted.info.action == SPEC.action


def test_fit_twice_is_fit_once(dataset, tmp_path):
    fitted = data.fit(dataset, SPEC)
    assert data.fit(fitted, SPEC) is fitted
    with pytest.raises(InputError, match="was fitted to another environment"):
        data.fit(fitted, Spec(SPEC.obs, Array((2,), "float32", -1.0, 1.0), 10))
    with pytest.raises(InputError, match="has been fitted"):
        data.save(fitted, tmp_path / "x.npz")


def test_fit_clips_within_the_tolerance_and_refuses_beyond(dataset):
    action = dataset.transition.action
    action[6, 0] = 1.00005
    assert data.fit(dataset, SPEC).transition.action.max() == 1
    action[6, 0] = 1.001
    with pytest.raises(InputError, match=r"transition 6: action .* lies outside the bounds"):
        data.fit(dataset, SPEC)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (SPEC.__class__(Array((4,)), SPEC.action, 10), r"observations of shape \(3,\), the environment has \(4,\)"),
        (
            SPEC.__class__(SPEC.obs, Array((3,), "float32", -1.0, 1.0), 10),
            r"actions of shape \(2,\), the environment has \(3,\)",
        ),
        (SPEC.__class__(SPEC.obs, Discrete(2), 10), "has continuous actions, the environment has discrete ones"),
    ],
)
def test_fit_refuses_another_spec(dataset, spec, sentence):
    with pytest.raises(InputError, match=sentence):
        data.fit(dataset, spec)


def test_fit_refuses_an_unknown_discrete_action(write, arrays):
    dataset = data.load(write("x.hdf5", arrays | {"actions": np.arange(12) % 4}))
    assert data.fit(dataset, Spec(SPEC.obs, Discrete(4), 10)).transition.action.max() == 3
    with pytest.raises(InputError, match="transition 3: action 3 lies outside the bounds 0 to 2"):
        data.fit(dataset, Spec(SPEC.obs, Discrete(3), 10))


def test_spec_needs_bounds(dataset):
    """They are never taken from the range of the data."""
    with pytest.raises(InputError, match="--action-low and --action-high"):
        data.spec_of(dataset)
    assert data.spec_of(dataset, -1, 1) == Spec(Array((3,)), Array((2,), "float32", -1.0, 1.0), 5)


def test_select(dataset):
    chosen = data.select(dataset, np.array([0, 2]))
    np.testing.assert_array_equal(chosen.transition.reward, [0, 1, 2, 3, 9, 10])
    np.testing.assert_array_equal(chosen.episode, [0, 0, 0, 0, 1, 1])
    np.testing.assert_array_equal(chosen.returns, [6, 30])
    np.testing.assert_array_equal(chosen.starts, [0, 4])


def test_digest_sees_every_array(dataset):
    changed = dataset.transition.reward.copy()
    changed[5] += 1
    assert data.digest(dataset) != data.digest(dataset._replace(transition=dataset.transition._replace(reward=changed)))
    assert data.digest(dataset) != data.digest(dataset._replace(dropped=dataset.dropped + 1))


def test_summary(dataset):
    numbers = summary(dataset)
    assert (numbers["episodes"], numbers["steps"], numbers["transitions"]) == (3, 12, 10)
    assert (numbers["return_min"], numbers["return_max"]) == (6, 30)
    assert numbers["ends"] == {"terminated": 1, "truncated": 1, "cut off": 1}
    np.testing.assert_allclose(numbers["obs_mean"], dataset.transition.obs.mean(0), rtol=1e-5)


def test_duplicates(dataset):
    assert duplicates(dataset) == 0
    t = dataset.transition
    twice = dataset._replace(
        transition=t._replace(**{k: np.tile(v, (3,) + (1,) * (v.ndim - 1)) for k, v in t._asdict().items()})
    )
    assert duplicates(twice) == 20


def test_scores():
    np.testing.assert_allclose(data.normalized_score([-20.272305, 3234.3], "hopper-medium-v2"), [0, 100])
    assert data.normalized_score(5.0, (0.0, 10.0)) == 50
    with pytest.raises(InputError, match="no reference score for 'x'"):
        data.normalized_score(1.0, "x")


@pytest.mark.parametrize("bounds", [(3.0, 3.0), (1.0, 2.0, 3.0)])
def test_references_are_two_different_numbers(bounds):
    with pytest.raises(InputError, match="must be two different numbers"):
        data.normalized_score(1.0, bounds)


@pytest.mark.parametrize("discount", [1.0, -0.1, float("nan")])
def test_mc_returns_need_a_discount_below_one(dataset, discount):
    with pytest.raises(InputError, match="discount must be in"):
        data.mc_returns(dataset, discount)
