"""`collect`: what each kind holds, their references, mixtures, and refusals."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from rljax import data, envs, evaluate
from rljax.agents import sac
from rljax.base import InputError
from rljax.config import override
from rljax.experiments import presets
from rljax.experiments.collect import collect, mix_files, possible
from rljax.experiments.train import load, train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that has learned a little; its replay has been filled more than once."""
    out = tmp_path_factory.mktemp("runs") / "run"
    config = override(presets.find("sac", "pendulum").config, {"capacity": 2000})
    train(sac, config, "pendulum", steps=3100, eval_every=3100, eval_episodes=2, out=out)
    return out


@pytest.fixture(scope="module")
def made(run):
    return collect(envs.make("pendulum"), run, run, steps=2000, mix={"random": 0.75, "expert": 0.25})


def test_names_and_sizes(made):
    assert set(made) == {"random", "medium", "medium-replay", "medium-expert", "expert", "random-75-expert-25"}
    assert {name: len(d.episode) for name, d in made.items() if name != "medium-replay"} == dict.fromkeys(
        ("random", "medium", "medium-expert", "expert", "random-75-expert-25"), 2000
    )
    assert made["random"].info.name == "pendulum-random"


def test_steps_follow_each_other(made):
    """Within an episode the successor of a row is the next row's observation; episodes end by time."""
    for dataset in made.values():
        t, same = dataset.transition, np.diff(dataset.episode) == 0
        np.testing.assert_allclose(t.next_obs[:-1][same], t.obs[1:][same], 1e-5, 1e-5)  # the compiler may make both
        assert not t.terminated.any()
        assert (dataset.length <= 200).all() and (dataset.length == 200).sum() >= 1


def test_actions_are_in_the_env_units(made):
    action = made["random"].transition.action
    assert 1.9 < np.abs(action).max() <= 2
    assert abs(action.mean()) < 0.1 and abs(action.std() - 2 / np.sqrt(3)) < 0.05


def test_expert_acts_as_the_first_seeds_policy(made, run):
    """Actions of the expert's data are spread around its mode, closer than uniform ones."""
    policy, t = load(run).policy(0), made["expert"].transition
    ours = np.abs(t.action - policy(t.obs)).mean()
    uniform = np.abs(made["random"].transition.action - policy(made["random"].transition.obs)).mean()
    assert ours < 0.97 * uniform


def test_replay_is_what_the_run_saw_oldest_first(made, run):
    """The ring of 2000 transitions after 3100 steps: from the middle of an episode to the middle of another."""
    dataset = made["medium-replay"]
    assert len(dataset.episode) == 2000
    np.testing.assert_array_equal(dataset.length, [100, *[200] * 9, 100])
    assert data.ENDS[dataset.end[-1]] == "cut off"


def test_references(made, run):
    """All sets carry the returns of the random and of the greedy expert policy."""
    references = {d.info.reference for d in made.values()}
    assert len(references) == 1
    random, expert = references.pop()
    assert random == pytest.approx(-1200, abs=150)
    agent, state = load(run).agent(0)

    returns, _ = jax.jit(lambda key: evaluate.episodes(agent, envs.make("pendulum", 100), state, key))(jax.random.key(5))
    assert expert == pytest.approx(float(returns.mean()), abs=150)


def test_mixture_holds_both_parts(made):
    mixed, parts = made["random-75-expert-25"], {n: set(made[n].transition.reward.tolist()) for n in ("random", "expert")}
    rewards = mixed.transition.reward.tolist()
    assert sum(r in parts["random"] for r in rewards) == pytest.approx(1500, abs=5)
    assert sum(r in parts["expert"] for r in rewards) == pytest.approx(500, abs=5)


def test_files_are_mixed_by_fraction(made, tmp_path):
    paths = [tmp_path / "a.npz", tmp_path / "b.hdf5"]
    for path, name in zip(paths, ("random", "expert"), strict=True):
        data.save(made[name], path)
    mixed = mix_files({paths[0]: 0.9, paths[1]: 0.1}, None)
    assert len(mixed.episode) == 2222
    assert mixed.info.name == "pendulum-random-90-pendulum-expert-10"
    assert len(mix_files({paths[0]: 0.5, paths[1]: 0.5}, 1000).episode) == 1000


def test_possible():
    assert possible(None, None) == ["random"]
    assert possible("x", None) == ["random", "expert"]
    assert "medium-expert" in possible("x", "y")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"kinds": ["best"]}, "unknown kind of data 'best'"),
        ({"kinds": ["expert"]}, "expert data needs the run of a policy: give its folder with --agent"),
        ({"kinds": ["medium-replay"]}, "medium data|medium-replay is the replay"),
        ({"kinds": [], "mix": {"random": 0.5}}, "must sum to 1"),
    ],
)
def test_refusals(changes, sentence):
    with pytest.raises(InputError, match=sentence):
        collect(envs.make("pendulum"), **changes)


def test_a_run_on_another_env_is_refused(run):
    with pytest.raises(InputError, match="whose observations or actions are not those of"):
        collect(envs.make("brax/hopper"), run, kinds=["expert"])


def test_an_expert_no_better_than_random_is_no_reference(run, monkeypatch, capsys):
    """It is said, and normalised scores are not turned upside down."""
    monkeypatch.setattr("rljax.experiments.collect._returns", lambda *args: np.array([-7.0]))
    made = collect(envs.make("pendulum"), run, kinds=["expert"], steps=100)
    assert made["expert"].info.reference is None
    assert "return -7.0 is not above the random policy's -7.0" in capsys.readouterr().out
