"""Runs of an agent that learns from sequences: phases, resume, bad input, and a look at what its world model imagines."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

from rljax import envs, loops, store
from rljax import world_model as wm
from rljax.agents import drama
from rljax.base import InputError
from rljax.config import override
from rljax.experiments import presets
from rljax.experiments.cli import run
from rljax.experiments.setup import Start
from rljax.experiments.train import load, load_ring, prepare, train

TINY = drama.Config(
    size=wm.Size(2, 3, 16, 4, 5, 16, 1, 8, 1, 8, 1, 8),
    batch_size=2,
    length=8,
    starts=4,
    context=2,
    ahead=3,
    every=5,
    warmup=100,
    capacity=150,
)
NAME = "recall?horizon=7"
COUNTS = {"seeds": 2, "steps": 400, "eval_every": 200, "eval_episodes": 2}


def short(out=None, **changes):
    """A run of 400 steps with two seeds, ten in each iteration, saved each 200; the ring of 150 rows wraps around."""
    return train(drama, TINY, NAME, out=out, num_envs=2, **(COUNTS | {"log_every": 50} | changes))


def test_rows_and_phases(whole):
    """Random actions first, then updates every ten env steps; all episodes have seven steps."""
    rows = store.read_rows(whole / "metrics.jsonl")
    assert [r["phase"] for r in rows if r["kind"] == "train" and r["seed"] == 0] == ["warmup"] * 2 + ["online"] * 6
    assert sorted({r["step"] for r in rows if r["kind"] == "eval"}) == [0, 200, 400]
    assert {"model/kl", "critic/loss", "dream/reward"} <= {name for r in rows for name in r}
    assert {r["train/length"] for r in rows if r.get("train/episodes")} == {7.0}
    assert abs(sum(r.get("train/episodes", 0) for r in rows if r["seed"] == 0) - 2 * (200 // 7)) < 1e-3
    timings = store.read_rows(whole / "timing.jsonl")
    assert {r["compiled"] for r in timings if "compiled" in r} == {"sequences", "sequences_warm_up"}


@pytest.mark.parametrize("first", [50, pytest.param(200, marks=pytest.mark.slow)])
def test_run_that_stopped_goes_on_bit_for_bit(whole, tmp_path, first, contents):
    """In the warm-up and while learning: the ring, its counts and the acting memory are in the checkpoint."""
    short(tmp_path / "run", steps=first)
    assert short(tmp_path / "run").step == 400
    rows, learned = contents(tmp_path / "run")
    extra = [line for line in rows.splitlines(True) if first == 50 and b'"step": 50,' in line and b'"eval"' in line]
    assert (b"".join(line for line in rows.splitlines(True) if line not in extra), learned) == contents(whole)


def test_which_loop_an_agent_learns_in():
    """The module names it; a warm-up of 100 steps are ten iterations, and the ring is no larger than the run."""
    setup = prepare(drama, TINY, NAME, num_envs=2, **COUNTS)
    assert (setup.learning, setup.replays, setup.stride, setup.warmup) == (loops.sequences, False, 10, 10)
    assert [phase.name for phase in setup.phases] == ["warmup", "online"] and setup.capacity() == 150


@pytest.mark.parametrize(
    ("changes", "num_envs", "says"),
    [
        ({"length": 60}, 2, "config.warmup must be at least 120: 60 steps of a sequence in 2 envs"),
        ({"context": 200, "warmup": 500}, 1, "config.capacity must be at least 200"),
        ({"unimix": 1.0}, 1, r"config.unimix must be in \[0, 1\), got 1"),
        ({"size.head": 7}, 1, "config.size.head must divide twice config.size.width, 32, got 7"),
        ({"size": "large"}, 1, "config.size must be one of xs, s, drama, got 'large'"),
    ],
)
def test_bad_numbers(changes, num_envs, says):
    """Each in one sentence, before anything is compiled."""
    with pytest.raises(InputError, match=says):
        prepare(drama, override(TINY, changes), NAME, num_envs=num_envs, **COUNTS)


def test_what_it_cannot_do(whole, tmp_path):
    """A replay of transitions, a data set, fine-tuning, and a policy without memory: one sentence each."""
    with pytest.raises(InputError, match="learned from sequences of env steps: it has no replay of transitions"):
        load_ring(whole)
    with pytest.raises(InputError, match="agent drama cannot go on from a run"):
        prepare(drama, TINY, NAME, start=Start(load(whole)), **COUNTS)
    with pytest.raises(InputError, match="what drama does depends on more than one observation"):
        load(whole).policy()


@pytest.mark.slow
def test_a_seed_that_diverges_is_told(capsys):
    """With a step size that no network survives; the run ends, and says so."""
    config = override(TINY, {"model_lr": 1e30, "model_norm": 1e30})
    result = train(drama, config, NAME, num_envs=2, **(COUNTS | {"seeds": 1}))
    assert result.diverged == (True,) and any(row.get("diverged") for row in result.rows)
    assert "diverged" in "".join(capsys.readouterr())


def test_the_imagination_is_drawn(whole, capsys):
    """`rljax play --imagine` of vectors; and the sentence for agents without a world model."""
    assert run(["play", str(whole), "--imagine", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["file"].endswith("imagine.png") and said["lengths"] == [7]
    assert (whole / "imagine.png").read_bytes()[:4] == b"\x89PNG"


def test_foresight_is_that_of_the_steps_seen():
    """What is imagined depends on the observations seen and on all actions, and not on later observations."""
    spec = envs.make("gymnax/Breakout-MinAtar").spec
    state = jax.jit(lambda key: drama.init(TINY, spec, key))(jax.random.key(0))
    obs = jax.random.bernoulli(jax.random.key(1), 0.3, (12, *spec.obs.shape)).astype("uint8")
    action = jax.random.randint(jax.random.key(2), (12,), 0, spec.action.n)
    foresee = jax.jit(lambda obs, action: drama.foresee(TINY, state, obs, action, 5, jax.random.key(3)))
    found = foresee(obs, action)
    assert found.reconstruction.shape == obs.shape and found.imagined.shape == (7, *obs.shape[1:])
    assert found.reward.shape == found.end.shape == (12,) and ((found.end > 0) & (found.end < 1)).all()
    later, seen = foresee(obs.at[5:].set(0), action), foresee(obs.at[4].set(0), action)
    np.testing.assert_array_equal(later.imagined, found.imagined)
    assert np.any(seen.imagined != found.imagined)
    other = foresee(obs, action.at[5].add(1))
    np.testing.assert_array_equal(other.imagined[0], found.imagined[0])
    assert np.any(other.imagined[1:] != found.imagined[1:])


def test_presets_fit():
    """Small images and vectors have the size for a CPU, Atari that of the paper."""
    assert presets.find("drama", "ale/Pong").config.size == wm.DRAMA
    for env, steps in (("gymnax/Breakout-MinAtar", 100_000), ("pendulum", 20_000)):
        preset = presets.find("drama", env)
        drama.check(preset.config, envs.make("pendulum").spec)
        assert preset.config.size == wm.XS and preset.steps == steps
        assert preset.config.warmup >= preset.config.length
