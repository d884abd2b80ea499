"""`train` on recorded data: rows, resume, sampling, transforms, evaluation with and without a simulator, refusals."""

from __future__ import annotations

import importlib
import re

import jax
import numpy as np
import pytest

from rljax import data, store
from rljax.agents import bc, calql, iql, sac, td3_bc
from rljax.base import Array, InputError, Spec
from rljax.config import override
from rljax.data.dataset import Info, Steps, from_steps
from rljax.experiments import presets
from rljax.experiments.setup import Reward, prepare
from rljax.experiments.train import load, train

SMALL = {"actor_width": 8, "critic_width": 8, "actor_depth": 1, "critic_depth": 1, "batch_size": 8}
TINY = override(td3_bc.Config(), SMALL)
COUNTS = {"seeds": 2, "steps": 60, "eval_every": 20, "eval_episodes": 2}


def recorded(num=200, length=20, seed=0):
    """Random steps in the pendulum's shapes and units, episodes ended by time; returns rise with their number."""
    rng = np.random.default_rng(seed)
    last = np.arange(num) % length == length - 1
    return from_steps(
        Steps(
            obs=rng.normal(size=(num, 3)).astype(np.float32) * [1, 5, 0.1] + [3, 0, 0],
            action=rng.uniform(-2, 2, (num, 1)).astype(np.float32),
            reward=(np.arange(num) // length + rng.normal(size=num)).astype(np.float32),
            next_obs=rng.normal(size=(num, 3)),
            terminated=np.zeros(num, bool),
            timeout=last,
            last=last,
            known=np.ones(num, bool),
        ),
        Info("recorded", "rljax"),
    )


def short(out=None, agent=td3_bc, config=TINY, env="pendulum", dataset=None, **changes):
    """A run of 60 critic steps with two seeds, evaluated and saved each 20."""
    arguments = {"seeds": 2, "steps": 60, "eval_every": 20, "eval_episodes": 2, "log_every": 10} | changes
    return train(agent, config, env, data=recorded() if dataset is None else dataset, out=out, **arguments)


def test_steps_count_critic_steps(whole):
    """TD3+BC makes two in an update: 60 steps are 30 actor steps; rows stand at multiples of 10."""
    rows = store.read_rows(whole / "metrics.jsonl")
    assert [r["step"] for r in rows if r["kind"] == "train" and r["seed"] == 0] == [10, 20, 30, 40, 50, 60]
    assert [r["step"] for r in rows if r["kind"] == "eval" and r["seed"] == 1] == [0, 20, 40, 60]
    assert {r["phase"] for r in rows} == {"offline"}
    state = load(whole).state
    assert (np.asarray(state.critic.opt_state[0].count) == 60).all()
    assert (np.asarray(state.actor.opt_state[0].count) == 30).all()


def test_rounding_is_said(capsys):
    short(steps=21, eval_every=20)
    assert "steps 21 is rounded up to 22, a multiple of one update's critic steps, 2" in capsys.readouterr().out


@pytest.mark.parametrize("stop", [20, 40])
def test_resumed_run_equals_the_whole(whole, tmp_path, stop, contents):
    short(tmp_path / "run", steps=stop)
    short(tmp_path / "run")
    assert contents(tmp_path / "run") == contents(whole)


def test_statistics_of_the_data_set_travel_with_the_policy(whole):
    """The policy normalises with the mean and deviation of all observations, not those of a batch."""
    stats, obs = load(whole).state.stats, recorded().transition.obs
    for i in range(2):
        np.testing.assert_allclose(stats.mean[i], obs.mean(0), rtol=1e-4)
        np.testing.assert_allclose(np.sqrt(stats.var[i]), obs.std(0), rtol=1e-4)


def test_policy_of_a_loaded_run_speaks_env_units(whole):
    again, result = load(whole), short()
    obs = recorded().transition.obs[:5]
    np.testing.assert_array_equal(again.policy(1)(obs), result.policy(1)(obs))
    assert again.policy(0)(obs[0]).shape == (1,)


def test_another_data_set_is_refused(whole):
    changed = recorded(seed=1)
    with pytest.raises(InputError, match="holds another configuration .*offline.hash"):
        short(whole, dataset=changed)
    with pytest.raises(InputError, match="offline.sampling is uniform there, aw:0.5 here"):
        short(whole, sampling="aw:0.5")


def test_without_a_simulator(tmp_path, capsys):
    """No env, no evaluation; bounds are given, and the run can be loaded and its policy used."""
    out = tmp_path / "run"
    result = short(out, env=None, action_bounds=(-2.0, 2.0))
    assert {row["kind"] for row in result.rows} == {"train"}
    again = load(out)
    assert again.setup.spec == Spec(Array((3,)), Array((1,), "float32", -2.0, 2.0), 20)
    np.testing.assert_array_equal(again.policy(0)(np.ones(3)), result.policy(0)(np.ones(3)))
    assert store.digest(short(out, env=None, action_bounds=(-2.0, 2.0)).state) == store.digest(result.state)


def test_learning_does_not_hang_on_the_evaluation(whole):
    """The same seeds learn the same without an env."""
    with_env, without = load(whole), short(env=None, action_bounds=(-2.0, 2.0))
    assert store.digest(with_env.state) == store.digest(without.state)


def test_transform_changes_what_is_learned_from_and_not_what_is_reported():
    """Rewards 0 * r + 7 give the critics' loss of rewards 7; the data set stays as it was."""
    dataset = recorded()
    before = data.digest(dataset)
    constant = dataset._replace(transition=dataset.transition._replace(reward=np.full(200, 7, np.float32)))
    a = short(dataset=dataset, reward=Reward(0.0, 7.0), env=None, action_bounds=(-2.0, 2.0))
    b = short(dataset=constant, env=None, action_bounds=(-2.0, 2.0))
    assert store.digest(a.state) == store.digest(b.state)
    assert data.digest(dataset) == before


class Seen:
    """An agent that remembers how often it was given each reward and Monte-Carlo return."""

    Config, Extras, check = calql.Config, calql.Extras, staticmethod(calql.check)
    __name__ = "rljax.agents.seen"

    @staticmethod
    def make(spec, config):
        def update(state, batch, key):
            rewards = batch.transition.reward.ravel()
            counts = state[0] + jax.nn.one_hot(rewards.astype(int), 10).sum(0)
            return (counts, batch.extras.mc_return[0]), {"a/b": rewards.mean()}

        agent = calql.make(spec, config)
        zeros = jax.numpy.zeros(10), jax.numpy.zeros(config.batch_size)
        return agent._replace(init=lambda key: zeros, update=update)


def episodes_of(rewards, length):
    """Episodes whose every reward is its entry in ``rewards``."""
    num = len(rewards) * length
    dataset = recorded(num, length)
    reward = np.repeat(np.float32(rewards), length)
    returns = np.float64(rewards) * length
    return dataset._replace(transition=dataset.transition._replace(reward=reward), returns=returns)


@pytest.mark.parametrize(("sampling", "expected"), [("uniform", [0.25] * 4), ("top:25", [0, 0, 0, 1]), ("rw:0.5", None)])
def test_sampling_decides_which_episodes_are_seen(sampling, expected):
    """Shares of the batches' rows, to four deviations; rw:0.5 weights returns 0, 1/3, 2/3, 1."""
    weights = np.exp(np.arange(4) / 3 / 0.5)
    expected = np.array(weights / weights.sum() if expected is None else expected)
    config = override(calql.Config(), SMALL | {"batch_size": 50, "obs_stats": "fixed"})
    dataset = episodes_of([1, 2, 3, 4], 20)
    result = train(Seen(), config, None, data=dataset, steps=200, sampling=sampling, action_bounds=(-2.0, 2.0))
    counts, _ = result.state
    share = np.asarray(counts)[0, 1:5] / 10_000
    assert counts.sum() == 10_000
    np.testing.assert_array_less(np.abs(share - expected), 4 * np.sqrt(expected * (1 - expected) / 10_000) + 1e-12)


def test_few_effective_episodes_are_warned_of(capsys):
    short(sampling="top:10")
    assert "effectively 1.0 of 10 episodes, fewer than 20" in capsys.readouterr().out


def test_monte_carlo_returns_reach_the_agent():
    """Of transformed rewards, with the rule for episodes that fail."""
    config = override(calql.Config(), SMALL | {"batch_size": 400, "discount": 0.5, "obs_stats": "fixed"})
    result = train(
        Seen(),
        config,
        None,
        data=episodes_of([0, 1], 2),
        steps=1,
        reward=Reward(10.0, -5.0, 0.0),
        action_bounds=(-2.0, 2.0),
    )
    assert set(np.asarray(result.state[1])[0].tolist()) == {-10.0, 7.5, 5.0}


@pytest.mark.parametrize(("agent", "parts"), [("td3_bc", ["head"]), ("iql", ["head", "value_head"])])
def test_support_comes_from_the_data_set(agent, parts):
    """Every categorical head gets the padded range of the transformed returns; a support that was given is left alone."""
    module = importlib.import_module(f"rljax.agents.{agent}")
    config = override(module.Config(), SMALL | dict.fromkeys(parts, "hl_gauss"))
    reward = Reward(scale=2.0, bias=-3.0)
    setup = prepare(module, config, None, **COUNTS, data=recorded(), reward=reward, action_bounds=(-2.0, 2.0))
    found, said = presets.with_supports(setup, presets.find(agent, "none", setup.data))
    returns = data.mc_returns(setup.data, 0.99, 2.0, -3.0)
    margin = 0.1 * float(returns.max() - returns.min())
    for part in parts:
        head = getattr(found, part)
        np.testing.assert_allclose([head.low, head.high], [returns.min() - margin, returns.max() + margin], rtol=1e-5)
    assert len(said) == len(parts)
    setup = prepare(module, override(config, {"head.low": -5.0}), None, **COUNTS, data=recorded(), action_bounds=(-2.0, 2.0))
    head = presets.with_supports(setup, presets.find(agent, "none", setup.data))[0].head
    assert head.low == -5.0 and head.high != 10.0
    head = presets.with_supports(setup, presets.find(agent, "none", setup.data), ["head.low", "head.high"])[0].head
    assert (head.low, head.high) == (-5.0, 10.0)


def test_scores_are_normalised_where_there_is_a_reference():
    dataset = recorded()
    dataset = dataset._replace(info=Info("recorded", "rljax", None, (-1000.0, 1000.0)))
    row = next(r for r in short(dataset=dataset).rows if r["kind"] == "eval")
    assert row["eval/normalized"] == pytest.approx(100 * (row["eval/return"] + 1000) / 2000)


def test_evaluation_in_a_simulator_on_the_host(tmp_path, contents):
    """Gymnasium's pendulum gives the scores of gymnax's, of which it is a copy but for the resets; a run is resumed."""
    result = short(tmp_path / "run", env="gymnasium/Pendulum-v1", eval_episodes=20)
    scores = [r for r in result.rows if r["kind"] == "eval"]
    assert all(r["eval/length"] == 200 and r["eval/episodes"] == 20 for r in scores)
    assert all(-1900 < r["eval/return"] < -500 for r in scores)
    before = contents(tmp_path / "run")
    short(tmp_path / "run", env="gymnasium/Pendulum-v1", eval_episodes=20)
    assert contents(tmp_path / "run") == before


def test_diverged_seed_is_frozen_and_told(capsys):
    """Both agents' rows are marked, and the run goes on to its end."""
    config = override(TINY, {"critic_lr": 1e30, "actor_lr": 1e30})
    result = short(config=config)
    assert result.diverged == (True, True)
    assert "diverged by step" in capsys.readouterr().out


def test_data_is_an_argument_and_not_a_constant(compilations):
    """Another data set of the same shape compiles nothing: it is not baked into the program."""
    short(env=None, action_bounds=(-2.0, 2.0))
    with compilations() as names:
        short(env=None, action_bounds=(-2.0, 2.0), dataset=recorded(seed=3))
    assert not [name for name in names if "run" in name]


def test_a_name_does_not_identify_the_data(whole, contents):
    """A copy of the file under another name goes on with the same run."""
    dataset = recorded()
    before = contents(whole)
    short(whole, dataset=dataset._replace(info=Info("copy", "rljax")))
    assert contents(whole) == before


def test_a_seed_that_is_never_finite_is_told(capsys):
    """Also when the first parameters are not."""
    dataset = recorded()
    t = dataset.transition._replace(obs=np.full_like(dataset.transition.obs, np.nan))
    assert short(dataset=dataset._replace(transition=t)).diverged == (True, True)
    assert "seed 0 diverged by step 10" in capsys.readouterr().out


def test_sampling_is_refused_without_data():
    with pytest.raises(InputError, match="sampling is for recorded data: leave it out"):
        train(sac, None, "pendulum", sampling="top:10")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"agent": sac, "config": None}, "agent sac learns from its own experience: leave out --data"),
        ({"sampling": "best"}, "sampling must be uniform, rw:TEMPERATURE"),
        ({"sampling": "rw:0"}, "sampling must be uniform, rw:TEMPERATURE"),
        ({"sampling": "top:101"}, "sampling must be uniform, rw:TEMPERATURE"),
        ({"env": "gymnax/CartPole-v1", "agent": bc, "config": None}, "bc does not take discrete actions"),
        ({"env": "brax/hopper"}, "recorded has observations of shape (3,), the environment has (11,)"),
        ({"action_bounds": (-1.0, 1.0)}, "leave out --action-low and --action-high"),
        ({"env": None}, "does not say its actions' bounds"),
        ({"env": None, "action_bounds": (2.0, -2.0)}, "the lower bound of actions must be below the upper one"),
        ({"env": None, "action_bounds": (-2.0, float("nan"))}, "and both finite, got -2.0 and nan"),
        ({"reward": Reward(float("nan"))}, "the scale of rewards must be finite"),
        ({"sampling": "aw"}, "sampling must be uniform, rw:TEMPERATURE"),
        ({"sampling": "rw:inf"}, "sampling must be uniform, rw:TEMPERATURE"),
        ({"dataset": 3}, "data must be a data set, a path or a name, got int"),
        ({"env": None, "action_bounds": (-1.0, 1.0)}, "lies outside the bounds"),
        ({"env": "gymnasium/Nope-v1"}, "gymnasium cannot make gymnasium/Nope-v1"),
        (
            {"agent": calql, "config": [calql.Config(discount=0.9), calql.Config()]},
            "needs Monte-Carlo returns, so all configs must have one discount",
        ),
    ],
)
def test_bad_input(changes, sentence, tmp_path):
    with pytest.raises(InputError, match=re.escape(sentence)):
        short(tmp_path / "run", **changes)
    assert not list(tmp_path.iterdir())


def test_offline_agents_need_data_and_host_envs_do_not_train():
    with pytest.raises(InputError, match="agent iql learns from recorded data: give a data set with --data"):
        train(iql, None, "pendulum")
    with pytest.raises(InputError, match="runs on the host"):
        train(sac, None, "gymnasium/Pendulum-v1")
