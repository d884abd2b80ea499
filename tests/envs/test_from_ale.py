"""Atari games through the adapter: the contract, ALE's own frames and rewards, lives, whole games, exact resume."""

from __future__ import annotations

import sys

import jax
import numpy as np
import pytest
from PIL import Image

from rljax import envs, train
from rljax.agents import dqn
from rljax.base import InputError
from rljax.envs import from_ale

ale_py = pytest.importorskip("ale_py")


@pytest.fixture(scope="module")
def pong():
    return envs.make("ale/Pong?horizon=40", 2)


def play(env, num, seed=0):
    """``(states, first observation, actions, steps)`` of random play, [num, E, ...]; states before the steps."""
    key, key_reset = jax.random.split(jax.random.key(seed))
    state, first = jax.jit(env.reset)(key_reset)
    step, out = jax.jit(env.step), []
    for i in range(num):
        key_act, key_step = jax.random.split(jax.random.fold_in(key, i))
        action = jax.random.randint(key_act, (env.num_envs,), 0, env.spec.action.n)
        new, row = step(state, action, key_step)
        out.append((state, action, row))
        state = new
    states, actions, steps = jax.tree.map(lambda *x: np.stack(x), *out)
    return states, np.asarray(first), actions, steps


def by_hand(ale, actions, action):
    """``(reward, observation)`` of an env step, from ALE's own frames."""
    screens, reward = [], 0
    for _ in range(4):
        reward += ale.act(actions[action])
        screens.append(ale.getScreenRGB())
    frame = np.maximum(*screens[-2:])
    return reward, np.asarray(Image.fromarray(frame).resize((64, 64), Image.Resampling.BOX))


def test_keeps_the_contract():
    """With episodes short enough for the check."""
    envs.check(envs.make("ale/Freeway?horizon=12"))


def test_frames_and_rewards_are_those_of_ale():
    """The same actions, given to an emulator that nothing else is asked of: equal to the last bit for three hundred steps."""
    env = envs.make("ale/Pong", 1)
    states, first, actions, steps = play(env, 300)
    ale = ale_py.ALEInterface()
    ale.setFloat("repeat_action_probability", 0.0)
    ale.loadROM(ale_py.roms.get_rom_path("pong"))
    ale.restoreState(ale_py.ALEState(states.emulator[0, 0].tobytes()))
    minimal = ale.getMinimalActionSet()
    assert env.spec.action.n == len(minimal) == 6 and first.shape == (1, 64, 64, 3)
    for i in range(300):
        reward, obs = by_hand(ale, minimal, actions[i, 0])
        assert steps.reward[i, 0] == reward
        np.testing.assert_array_equal(steps.next_obs[i, 0], obs)
    assert steps.reward.sum() < 0


def test_a_step_depends_on_its_arguments_alone(pong):
    """Steps repeated in another order, one by one and all under one vmap, are the same steps."""
    states, _, actions, steps = play(pong, 45)
    keys = jax.random.split(jax.random.key(5), 45)
    step = jax.jit(pong.step)
    order = np.random.default_rng(0).permutation(45)
    alone = {i: step(jax.tree.map(lambda x, i=i: x[i], states), actions[i], keys[i]) for i in order}
    together = jax.jit(jax.vmap(pong.step))(states, actions, keys)
    for i in order:
        jax.tree.map(np.testing.assert_array_equal, alone[i], jax.tree.map(lambda x, i=i: x[i], together))
    same = ("reward", "next_obs", "terminated", "truncated")
    for name in same:  # what does not depend on the key
        np.testing.assert_array_equal(getattr(together[1], name), getattr(steps, name))


def test_time_limit_starts_a_new_game(pong):
    """After 40 steps both copies are cut off, not terminated, and their games begin anew; starts vary."""
    states, first, _, steps = play(pong, 41)
    assert (steps.truncated.sum(1) == [0] * 39 + [2, 0]).all() and not steps.terminated.any()
    assert states.age[:, 0].tolist() == [*range(40), 0]
    assert (steps.obs[39] != steps.next_obs[39]).any() and (steps.obs[38] == steps.next_obs[38]).all()
    _, starts = jax.jit(envs.make("ale/Freeway", 16).reset)(jax.random.key(1))
    assert len(np.unique(np.asarray(starts).reshape(16, -1), axis=0)) > 1


def test_a_lost_life_ends_the_value_and_not_the_game():
    """In Breakout five lives are lost before the game is over; evaluations play on until then."""
    env = envs.make("ale/Breakout", 1)
    states, _, _, steps = play(env, 400)
    lost = np.flatnonzero(steps.terminated[:, 0])
    over = [i for i in lost if (steps.obs[i] != steps.next_obs[i]).any()]
    assert len(lost) > len(over) > 0 and over[0] == lost[4]
    assert (states.age[lost[:4] + 1] > 0).all() and states.age[over[0] + 1] == 0
    *_, whole = play(env.evaluation, 400)
    assert np.flatnonzero(whole.terminated[:, 0]).tolist() == over
    assert whole.reward.sum() == steps.reward.sum() > 0
    assert env.evaluation.spec == env.spec and env.reference == (1.7, 30.5)


def test_games_for_one_are_known():
    """Ids are those of gymnasium; all of Atari 100k are there, games for two are not."""
    assert set(from_ale.REFERENCE) < set(from_ale.ids()) and not set(from_ale.PAIRS) & set(from_ale.ids())
    assert len(from_ale.REFERENCE) == 26


@pytest.mark.parametrize("game", ["Qbert", "Tetris", "Klax"])
def test_states_are_complete(game):
    """Games whose states are special: two emulators, one of which has played before, agree for fifty steps."""
    env = envs.make(f"ale/{game}", 1)
    play(env, 30, seed=3)
    *_, used = play(env, 50)
    from_ale._load.cache_clear()
    *_, fresh = play(env, 50)
    jax.tree.map(np.testing.assert_array_equal, used, fresh)


def test_an_evaluation_compiles_once():
    """Every copy of equal size is the same object, also of what evaluations play."""
    env = envs.make("ale/Pong")
    assert env.evaluation.resize(3) == env.evaluation.resize(3) == envs.make("ale/Pong", 2).evaluation.resize(3)


@pytest.mark.slow
def test_a_run_resumes_exactly(tmp_path):
    """DQN for 60 steps, and for 30 and then 60: the same rows, with scores normalised by those of a human."""
    config = dqn.Config(warmup=20, batch_size=4, critic_width=8, critic_depth=1)
    sizes = {"eval_every": 30, "eval_episodes": 1, "log_every": 30}
    env = envs.make("ale/Pong?horizon=15")
    whole = train(dqn, config, env, seeds=2, steps=60, out=tmp_path / "whole", **sizes)
    train(dqn, config, env, seeds=2, steps=30, out=tmp_path / "run", **sizes)
    train(dqn, config, env, seeds=2, steps=60, out=tmp_path / "run", **sizes)
    assert (tmp_path / "whole/metrics.jsonl").read_bytes() == (tmp_path / "run/metrics.jsonl").read_bytes()
    assert all("eval/normalized" in row for row in whole.rows if row["kind"] == "eval")


def test_bad_options_are_told(monkeypatch):
    with pytest.raises(InputError, match="terminal of ale/Pong must be life or game, got 'never'"):
        envs.make("ale/Pong?terminal=never")
    with pytest.raises(InputError, match="ale/Pong"):
        envs.make("ale/Pnog")
    monkeypatch.setitem(sys.modules, "ale_py", None)
    from_ale._load.cache_clear()
    assert from_ale.ids() == tuple(from_ale.REFERENCE)
    with pytest.raises(InputError, match=r"ale/Pong needs ale-py: pip install 'rljax\[atari\]'"):
        envs.make("ale/Pong?horizon=17")
