"""Runs of an agent that learns from rollouts: steps, resume, and what needs a replay."""

from __future__ import annotations

import pytest

from rljax import data, envs, loops, store
from rljax.agents import ppo, sac
from rljax.base import InputError
from rljax.config import override
from rljax.experiments import presets
from rljax.experiments.collect import collect
from rljax.experiments.setup import Reward, Start
from rljax.experiments.train import load, load_ring, prepare, train

TINY = override(
    ppo.Config(),
    {"actor_width": 8, "critic_width": 8, "actor_depth": 1, "critic_depth": 1, "rollout": 25, "epochs": 2, "minibatches": 1},
)
ENV = envs.make("pendulum", 4)  # one object, so that all runs are one program
COUNTS = {"seeds": 2, "steps": 600, "eval_every": 200, "eval_episodes": 2}


def short(out=None, **changes):
    """A run of 600 steps with two seeds, 100 in each iteration, evaluated and saved each 200."""
    return train(ppo, TINY, ENV, out=out, **(COUNTS | {"log_every": 100} | changes))


def test_rows_stand_at_rollouts(whole):
    """A train row per seed and rollout of 4 x 25 steps, all of the one phase; episodes of 200 steps end in each 8th."""
    rows = store.read_rows(whole / "metrics.jsonl")
    assert [(r["step"], r["seed"]) for r in rows if r["kind"] == "train"] == [
        (s, i) for s in range(100, 700, 100) for i in (0, 1)
    ]
    assert sorted({r["step"] for r in rows if r["kind"] == "eval"}) == [0, 200, 400, 600]
    assert {r["phase"] for r in rows} == {"online"}
    assert {"actor/clip_fraction", "critic/loss"} <= {name for r in rows for name in r}
    assert sum(r.get("train/episodes", 0) for r in rows) == 0
    timings = store.read_rows(whole / "timing.jsonl")
    assert {r["compiled"] for r in timings if "compiled" in r} == {"on_policy"}


@pytest.mark.parametrize("first", [100, 400])
def test_run_that_stopped_goes_on_bit_for_bit(whole, tmp_path, first, contents):
    """From the checkpoint after the first rollout, and from one at an evaluation."""
    short(tmp_path / "run", steps=first)
    assert short(tmp_path / "run").step == 600
    rows, learned = contents(tmp_path / "run")
    extra = [line for line in rows.splitlines(True) if first == 100 and b'"step": 100,' in line and b'"eval"' in line]
    assert (b"".join(line for line in rows.splitlines(True) if line not in extra), learned) == contents(whole)


def test_steps_are_rounded_up_to_rollouts(capsys):
    """550 steps are six rollouts, and that is said; there is no replay to say the size of."""
    result = short(steps=550)
    said = capsys.readouterr().out
    assert result.step == 600 and "steps 550 is rounded up to 600, a multiple of one rollout's env steps, 100" in said
    assert "replay takes 0 B" in said


def test_which_loop_an_agent_learns_in():
    """PPO's module names it; the others' configs tell."""
    mine, other = (prepare(agent, None, "pendulum", **COUNTS) for agent in (ppo, sac))
    assert (mine.learning, mine.interacts, mine.replays, mine.stride) == (loops.on_policy, True, False, 128)
    assert (other.learning, other.interacts, other.replays, other.stride) == (loops.online, True, True, 1)
    assert mine.capacity() == 0 and mine.warmup == 0 and [p.name for p in mine.phases] == ["online"]


def test_what_needs_a_replay_is_refused(whole, tmp_path):
    """medium-replay, a data set and fine-tuning: one sentence each."""
    with pytest.raises(InputError, match="learned from episodes that it did not keep: it has no replay"):
        load_ring(whole)
    with pytest.raises(InputError, match="it has no replay"):
        collect(envs.make("pendulum"), medium=whole, kinds=["medium-replay"], steps=100)
    made = collect(envs.make("pendulum"), medium=whole, kinds=["medium"], steps=100)
    assert abs(made["medium"].transition.action).max() <= 2
    data.save(made["medium"], tmp_path / "medium.npz")
    with pytest.raises(InputError, match="agent ppo learns from its own episodes alone: use rljax train, without --data"):
        prepare(ppo, TINY, "pendulum", data=tmp_path / "medium.npz", **COUNTS)
    with pytest.raises(InputError, match="agent ppo cannot go on from a run"):
        prepare(ppo, TINY, "pendulum", start=Start(load(whole)), **COUNTS)


def test_rewards_change_before_advantages(whole):
    """Scaled rewards change what is learned, and not what is logged at step 0 and in the first rollout."""
    mine, scaled = short(steps=100), short(steps=100, reward=Reward(scale=0.1))
    losses = [row["critic/loss"] for result in (mine, scaled) for row in result.rows if row["kind"] == "train"]
    assert max(losses[2:]) < 0.05 * min(losses[:2])


def test_presets_are_for_several_envs():
    for env in ("gymnax/CartPole-v1", "brax/inverted_pendulum", "brax/ant", "gymnax/Breakout-MinAtar", "pendulum"):
        preset = presets.find("ppo", env)
        ppo.check(preset.config, envs.make("pendulum").spec)
        assert preset.num_envs >= 8 and preset.steps % preset.eval_every == 0
