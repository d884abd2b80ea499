"""Gymnasium's environments on the host: spaces, true successors at both kinds of end, action units."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

from rljax import envs, evaluate
from rljax.base import Array, Discrete, HostEnv, InputError

LIMIT, END = 5, 3


class Counter(gymnasium.Env):
    """Counts its steps: terminates at 3 if it was reset to an odd seed, else is cut by time; reports the action."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,))
    action_space = gymnasium.spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 10.0], np.float32))

    def reset(self, *, seed=None, options=None):
        self.odd = self.odd if seed is None else seed % 2
        self.count = 0
        return np.array([0.0, self.odd]), {}

    def step(self, action):
        self.count += 1
        return np.array([self.count, self.odd]), float(action.sum()), bool(self.odd and self.count == END), False, {}


@pytest.fixture
def counter():
    gymnasium.register("rljax/Counter-v0", Counter, max_episode_steps=LIMIT)
    yield envs.make("gymnasium/rljax/Counter-v0", 2)
    del gymnasium.registry["rljax/Counter-v0"]


def test_spec(counter):
    assert isinstance(counter, HostEnv)
    assert counter.spec.horizon == LIMIT
    assert counter.spec.action == Array((2,), "float32", (-2.0, 0.0), (2.0, 10.0))
    assert counter.resize(7).num_envs == 7
    assert isinstance(envs.make("gymnasium/CartPole-v1").spec.action, Discrete)


def test_ends_and_successors(counter):
    """The successor is the last observation of the episode, ``obs`` the first of the next one; the flags are apart."""
    reset, step, close = counter.start(2)
    np.testing.assert_array_equal(reset(np.array([0, 1], np.uint32)), [[0, 0], [0, 1]])
    for t in range(1, 16):
        new = step(np.zeros((2, 2), np.float32))
        ended = t % LIMIT == 0, t % END == 0
        np.testing.assert_array_equal(new.truncated, [ended[0], False])
        np.testing.assert_array_equal(new.terminated, [False, ended[1]])
        position = (t - 1) % LIMIT + 1, (t - 1) % END + 1
        np.testing.assert_array_equal(new.next_obs, [[position[0], 0], [position[1], 1]])
        np.testing.assert_array_equal(new.obs, [[t % LIMIT, 0], [t % END, 1]])
    close()


def test_actions_are_mapped_to_the_env_units(counter):
    reset, step, close = counter.start(2)
    reset(np.array([0, 0], np.uint32))
    np.testing.assert_allclose(step(np.array([[-1, 1], [0.5, 0]], np.float32)).reward, [-2 + 10, 1 + 5])
    close()


def test_an_evaluation_counts_first_episodes_only(counter):
    """Episodes of 5 and 3 steps at a reward of 5: what comes after the shorter one's end is not counted."""

    def act(obs):
        return np.zeros((*obs.shape[:-1], 2), np.float32)

    seeds = np.array([[0, 1]], np.uint32)
    returns, lengths = evaluate.host_episodes(act, counter, seeds)
    np.testing.assert_allclose(returns, [[25, 15]])
    np.testing.assert_array_equal(lengths, [[5, 3]])
    obs, reward, alive = evaluate.host_rollout(act, counter, seeds[0])
    np.testing.assert_array_equal(alive.sum(0), [5, 3])
    np.testing.assert_array_equal(obs[:, 0, 0], range(5))
    assert reward.shape == (5, 2)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("gymnasium/Nope-v1", "gymnasium cannot make gymnasium/Nope-v1"),
        ("gymnasium/FrozenLake-v1", "discrete observations"),
        ("gymnasium/Pendulum-v1?horizon=3", "has no option 'horizon'"),
        ("gymnasium", "unknown environment"),
    ],
)
def test_refusals(name, sentence):
    with pytest.raises(InputError, match=sentence):
        envs.make(name)


def test_mujoco_is_silent_and_leaves_no_file(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    _, _, close = envs.make("gymnasium/HalfCheetah-v5", 2).start(2)
    close()
    assert "WARNING" not in "".join(capfd.readouterr()) and not list(tmp_path.iterdir())
