"""`train` and `load`: rows, resume, extension, refusals, divergence, compilation."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rljax
from rljax import envs, heads, store
from rljax.agents import sac
from rljax.base import InputError
from rljax.config import config, leaf, override
from rljax.experiments.train import Setup, load, prepare, programs, read_rows, train

OFFLINE = {"name": "x", "hash": "0", "reference": None, "sampling": "uniform"}
SPEC = {"obs": {"shape": [3]}, "action": {"n": 2}, "horizon": 5}
TINY = override(
    sac.Config(),
    {"actor_width": 8, "critic_width": 8, "actor_depth": 1, "critic_depth": 1, "batch_size": 8, "warmup": 100, "capacity": 150},
)


def short(out=None, config=TINY, env="pendulum", **changes):
    """A run of 600 steps with two seeds, evaluated and saved each 200; its ring is that of a shorter run."""
    arguments = {"seeds": 2, "steps": 600, "eval_every": 200, "eval_episodes": 2, "log_every": 100} | changes
    return train(sac, config, env, out=out, **arguments)


@config
class Loud:
    """A head of a user: regression with a factor, which calls its metric as the categorical heads do."""

    factor: float = leaf(2.0)
    size = 1

    def bias(self):
        return jnp.zeros(1)

    def value(self, out):
        return self.factor * out[..., 0]

    def backup(self, target, scale, out):
        return target

    def loss(self, out, target):
        return (self.value(out) - target) ** 2

    def metrics(self, target):
        return {"clipped": jnp.float32(1.0)}


def test_train_is_at_the_top():
    assert rljax.train is train


def test_rows_are_one_per_step_and_learner(whole):
    """Every log boundary has a train row per seed, every evaluation an eval row beside it, in order of the steps."""
    rows = store.read_rows(whole / "metrics.jsonl")
    train_rows = [(r["step"], r["seed"]) for r in rows if r["kind"] == "train"]
    eval_rows = [(r["step"], r["seed"]) for r in rows if r["kind"] == "eval"]
    assert train_rows == [(step, seed) for step in range(100, 700, 100) for seed in (0, 1)]
    assert eval_rows == [(step, seed) for step in (0, 200, 400, 600) for seed in (0, 1)]
    assert [r["step"] for r in rows] == sorted(r["step"] for r in rows)
    assert {r["phase"] for r in rows if r["step"] <= 100} == {"warmup"}
    assert {r["phase"] for r in rows if r["step"] > 100} == {"online"}
    assert all(r["config"] == 0 and "seconds" not in r for r in rows)
    assert {"critic/loss", "actor/entropy"} <= rows[-1].keys() | rows[-2].keys()
    assert all(r["eval/length"] == 200 and r["eval/episodes"] == 2 for r in rows if r["kind"] == "eval")
    assert [r["train/episodes"] for r in rows if r["kind"] == "train" and r["seed"] == 0] == [0, 1, 0, 1, 0, 1]


def test_folder_says_what_was_run(whole):
    """config.json can be read back, versions.json names the packages, timings stand apart, two checkpoints are kept."""
    described = store.read_json(whole / "config.json")
    assert described["agent"] == "sac" and described["env"] == "pendulum" and described["config"]["batch_size"] == 8
    versions = store.read_json(whole / "versions.json")
    assert {"jax", "flax", "optax"} <= versions[0]["packages"].keys() and versions[0]["device"]
    timings = store.read_rows(whole / "timing.jsonl")
    assert {r["compiled"] for r in timings if "compiled" in r} == {"warm_up", "online"}
    assert sorted(p.name for p in (whole / "checkpoints").iterdir()) == ["400", "600"]


def test_load_gives_what_train_gave(whole):
    """Agent, policy and curve of a run on disk; the policy speaks the env's units, for one observation or several."""
    result, again = short(), load(whole)
    assert store.digest(again.state) == store.digest(result.state)
    assert again.step == 600 and again.rows == result.rows == store.read_rows(whole / "metrics.jsonl")
    obs = np.array([[1.0, 0.0, 0.0], [-1.0, 0.0, 8.0]], np.float32)
    one, both = again.policy(1)(obs[0]), again.policy(1)(obs)
    assert one.shape == (1,) and both.shape == (2, 1) and np.abs(both).max() <= 2
    np.testing.assert_allclose(one, both[0], rtol=1e-5)
    agent, state = again.agent(1)
    unit, _ = agent.mode(state, agent.memory(2), obs)
    np.testing.assert_allclose(both, 2 * unit, rtol=1e-5)
    assert again.plot().axes[0].get_ylabel() == "eval/return"


def test_finished_run_is_left_alone(whole, capsys, contents):
    """The same call again computes nothing and gives the same result."""
    before = contents(whole)
    assert short(whole).step == 600
    assert contents(whole) == before and "finished at step 600" in capsys.readouterr().out


@pytest.fixture
def optimized():
    """Programs as users have them: without optimisations, those of two sizes of a ring may round differently."""
    jax.clear_caches()
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)
    jax.clear_caches()


@pytest.mark.parametrize("first", [pytest.param(200, marks=pytest.mark.slow), 300])
def test_extended_run_equals_a_long_one(optimized, tmp_path, first, contents):
    """More steps go on from where the run ended, with a larger ring; an end between evaluations adds one there."""
    config = override(TINY, {"capacity": 10_000})
    short(whole := tmp_path / "whole", config)
    short(tmp_path / "run", config, steps=first)
    assert short(tmp_path / "run", config).step == 600
    rows, learned = contents(tmp_path / "run")
    lines = rows.splitlines(True)
    extra = [line for line in lines if b'"step": 300' in line and b'"eval"' in line]
    assert len(extra) == (0 if first == 200 else 2)
    assert (b"".join(line for line in lines if line not in extra), learned) == contents(whole)


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damaged_checkpoint_is_passed_over(whole, tmp_path, capsys, damage, contents):
    """The checkpoint before a broken one is used, with one sentence, and the run ends as if nothing had happened."""
    out = tmp_path / "run"
    short(out)
    newest = out / "checkpoints" / "600"
    file = max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    {"flip": lambda: file.write_bytes(content), "cut": lambda: file.write_bytes(content[:-9]), "remove": file.unlink}[damage]()
    capsys.readouterr()
    short(out)
    said = capsys.readouterr().out
    assert said.count("the checkpoint of step 600 is damaged") == 1 and "resumed at step 400" in said
    assert contents(out) == contents(whole)


def test_half_written_checkpoint_and_rows_are_removed(whole, tmp_path, capsys, contents):
    """What a kill leaves behind: a checkpoint without its final name, rows past the last checkpoint, half a line."""
    out = tmp_path / "run"
    short(out, steps=400)
    (out / "checkpoints" / "500.part").mkdir()
    (out / "checkpoints" / "500.part" / "host.json").write_text("{")
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 500, "seed": 0}\n{"step": 5')
    store.append(out / "timing.jsonl", '{"step": 5')
    short(out)
    assert "resumed at step 400" in capsys.readouterr().out
    assert store.read_rows(out / "timing.jsonl")[-1]["step"] == 600
    assert contents(out) == contents(whole)
    assert not list(out.rglob("*.part"))


@pytest.mark.parametrize(
    ("file", "text", "sentence"),
    [
        ("config.json", "{", "cannot be read"),
        ("config.json", "[]", "config.json is damaged, 'agent' is missing or wrong"),
        ("config.json", '{"agent": "sac"}', "config.json is damaged, 'env' is missing or wrong"),
        ("metrics.jsonl", "", "has lost rows"),
        ("metrics.jsonl", None, "has lost rows"),
    ],
)
def test_damaged_files_are_refused(whole, tmp_path, file, text, sentence):
    """A run whose settings or rows are gone does not go on as if they were there."""
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    (out / file).unlink() if text is None else (out / file).write_text(text)
    with pytest.raises(InputError, match=sentence):
        short(out, steps=800)


@pytest.mark.parametrize(
    ("file", "change", "sentence"),
    [
        ("config.json", {"seeds": ["x"]}, "seeds must be a number from 1 to 1000000"),
        ("config.json", {"steps": "many"}, "'steps' is missing or wrong"),
        ("config.json", {"steps": -1}, "steps must be at least 1, got -1"),
        ("config.json", {"eval_every": 10**30}, "'eval_every' is missing or wrong"),
        ("config.json", {"agent": "os"}, "agent os, which is not part of rljax"),
        ("config.json", {"agent": ".."}, "agent .., which is not part of rljax"),
        ("config.json", {"env": "nowhere"}, "an environment of your own"),
        ("config.json", {"config": [1]}, "'config' is missing or wrong"),
        ("config.json", {"config": {"head": {}}}, "which is not part of rljax"),
        ("config.json", {"config": {"head": {"type": "rljax.store:save"}}}, "is damaged"),
        ("config.json", {"config": {"discount": 3}}, "discount must be in"),
        ("config.json", {"reward": {"scale": "x"}}, "is damaged"),
        ("config.json", {"reward": {"scail": 1.0}}, "is damaged"),
        ("config.json", {"offline": {"name": "x"}}, "is damaged"),
        ("config.json", {"offline": OFFLINE, "spec": SPEC | {"obs": {"shape": [3], "low": None}}}, "must be numbers"),
        ("config.json", {"offline": OFFLINE, "spec": SPEC | {"obs": {"shape": [3], "dtype": "x"}}}, "is damaged"),
        ("config.json", {"offline": OFFLINE, "spec": SPEC | {"action": {"n": "two"}}}, "n must be a whole number"),
        ("config.json", {"offline": OFFLINE, "spec": SPEC | {"horizon": 0}}, "horizon must be at least 1"),
        ("config.json", {"offline": OFFLINE}, "is damaged"),
        ("config.json", {"switch": 3}, "'switch' is missing or wrong"),
        ("checkpoints/600/host.json", {"capacity": None}, "'capacity' is missing or wrong"),
        ("checkpoints/600/host.json", {"capacity": 2**40}, "its numbers are no sizes"),
        ("checkpoints/600/host.json", {"iteration": -1}, "its numbers are no sizes"),
        ("checkpoints/600/host.json", {"pending": "3\n"}, "is damaged in line 1"),
        ("checkpoints/600/host.json", {"pending": '{"step": 3}\n'}, "'seed' is missing or wrong"),
        ("checkpoints/600/host.json", {"diverged": [False]}, "was changed after the run began"),
    ],
)
def test_what_a_stranger_wrote_is_refused(whole, tmp_path, file, change, sentence):
    """Also with a manifest to match: one sentence, whatever stands there."""
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    store.write_json(out / file, store.read_json(out / file) | change)
    store.write_json(out / "checkpoints/600/manifest.json", store._digests(out / "checkpoints/600"))
    with pytest.raises(InputError) as error:
        load(out)
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_a_link_out_of_the_run_is_not_followed(whole, tmp_path):
    """Nothing is written to where it leads."""
    out, mine = tmp_path / "run", tmp_path / "mine"
    shutil.copytree(whole, out)
    mine.write_text("mine")
    (out / "timing.jsonl").unlink()
    (out / "timing.jsonl").symlink_to(mine)
    with pytest.raises(InputError, match="timing.jsonl is a link that leads out of the run folder"):
        short(out, steps=800)
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("row", [{"seed": 7}, {"config": 1}, {"step": "x"}, {"eval/return": [1]}, {"kind": None}])
def test_rows_of_others_are_refused(whole, tmp_path, row):
    """Seeds and configs that the run does not have, and what is no number."""
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    shutil.rmtree(out / "checkpoints")
    lines = (out / "metrics.jsonl").read_text().splitlines(True)
    (out / "metrics.jsonl").write_text(json.dumps(json.loads(lines[0]) | row) + "\n" + "".join(lines[1:]))
    with pytest.raises(InputError, match="metrics.jsonl is damaged"):
        read_rows(out)


def test_damaged_rows_are_refused(whole, tmp_path):
    """The line is named."""
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    lines = (out / "metrics.jsonl").read_text().splitlines(True)
    (out / "metrics.jsonl").write_text("".join([lines[0], "x" * (len(lines[1]) - 1) + "\n", *lines[2:]]))
    with pytest.raises(InputError, match="is damaged in line 2"):
        load(out)


def test_all_checkpoints_damaged_begins_anew(whole, tmp_path, contents):
    out = tmp_path / "run"
    short(out)
    for checkpoint in (out / "checkpoints").iterdir():
        (checkpoint / "manifest.json").unlink()
    short(out)
    assert contents(out) == contents(whole)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"config": override(TINY, {"discount": 0.9})}, r"config\.discount is 0\.99 there, 0\.9 here"),
        ({"config": [TINY, TINY]}, "config"),
        ({"seeds": [0, 2]}, "seeds"),
        ({"eval_every": 300}, "eval_every is 200 there, 300 here"),
        ({"num_envs": 2}, "num_envs"),
        ({"env": "pendulum?horizon=100"}, "env is pendulum there"),
    ],
)
def test_other_configuration_is_refused(whole, changes, field, contents):
    """The sentence names the fields that differ, and nothing is touched."""
    before = contents(whole)
    with pytest.raises(InputError, match=field):
        short(whole, **changes)
    assert contents(whole) == before


def test_second_process_is_refused(whole):
    """A folder in use is not written to, and not moved aside either."""
    with store.locked(whole):
        for fresh in (False, True):
            with pytest.raises(InputError, match="another process is writing"):
                short(whole, fresh=fresh)
    assert (whole / "config.json").exists()


def test_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="is not empty and holds no run"):
        short(tmp_path)
    assert [p.name for p in tmp_path.iterdir() if p.name != ".lock"] == ["thesis.tex"]


def test_fresh_keeps_the_earlier_run(tmp_path, contents):
    out = tmp_path / "run"
    short(out, steps=200)
    before = contents(out)
    short(out, steps=200, config=override(TINY, {"discount": 0.5}), fresh=True)
    assert contents(tmp_path / "run.old-1") == before
    assert store.read_json(out / "config.json")["config"]["discount"] == 0.5


def test_diverged_learner_leaves_its_neighbours_alone(tmp_path, capsys):
    """Its rows are marked from the chunk in which it happened, its agent stays as it was; the others do not change."""
    wild = override(TINY, {"critic_lr": 1e30})
    mixed = short(tmp_path / "mixed", config=[TINY, wild])
    said = capsys.readouterr().out
    calm = short(tmp_path / "calm", config=[TINY, override(TINY, {"critic_lr": 1e-3})])
    assert mixed.diverged == (False, True, False, True) and not any(calm.diverged)
    assert said.count("diverged by step") == 2 and "seed 1 of config 1 diverged by step 200" in said
    lines = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("mixed", "calm")]
    mine, theirs = ([line for line in x if json.loads(line)["config"] == 0] for x in lines)
    assert mine == theirs
    marked = [row["step"] for row in mixed.rows if row["config"] == 1 and row.get("diverged")]
    assert set(marked) == {200, 300, 400, 500, 600} and not any(row.get("diverged") for row in calm.rows)
    assert any(not np.isfinite(v) for row in mixed.rows for v in row.values() if isinstance(v, float))
    assert load(tmp_path / "mixed").diverged == mixed.diverged


def test_scores_of_many_learners_are_said_in_short(capsys):
    scores = [row for row in short(seeds=13, steps=200).rows if row["kind"] == "eval" and row["step"] == 200]
    low, high = (f(row["eval/return"] for row in scores) for f in (min, max))
    assert re.search(rf"step 200  eval/return of 13: median .*, from {low:.1f} to {high:.1f}\n", capsys.readouterr().out)


def test_other_numbers_and_seeds_compile_nothing(compilations):
    """Step sizes, discount, tau and seeds are arguments of the programs, not part of them."""
    short()
    changed = override(TINY, {"actor_lr": 1e-2, "critic_lr": 1e-2, "alpha_lr": 1e-2, "discount": 0.5, "tau": 0.1})
    with compilations() as names:
        short(config=changed, seeds=[7, 9])
    assert names == []


def test_a_resumed_run_compiles_nothing(tmp_path, compilations):
    """Loaded arrays take the programs of fresh ones; the ring is as large as before."""
    config = override(TINY, {"capacity": 100})
    short(tmp_path / "run", config=config, steps=400)
    before = programs()
    with compilations() as names:
        assert short(tmp_path / "run", config=config, steps=800).step == 800
    assert programs() == before and not {"jit(_jit_run)", "jit(_episodes)"} & set(names)


def test_whole_numbers_are_the_same_configuration(tmp_path, capsys):
    """-2000 and -2000.0 are one run, which is found again; the name of a head will do."""
    for head in (heads.HLGauss(low=-2000, high=0), heads.HLGauss(low=-2000.0, high=0.0)):
        result = short(tmp_path / "run", config=override(TINY, {"head": head}))
    assert "finished at step" in capsys.readouterr().out and result.step == load(tmp_path / "run").step
    assert isinstance(short(config=dataclasses.replace(TINY, head="two_hot")).setup.configs[0].head, heads.TwoHot)


def test_a_head_of_ones_own(tmp_path):
    """Any config with a head's methods learns, and may call its metrics what it likes; what is none is refused."""
    result = short(tmp_path / "own", config=override(TINY, {"head": Loud()}))
    assert {row["critic/clipped"] for row in result.rows if "critic/clipped" in row} == {1.0}
    methods = dict.fromkeys(("size", "bias", "value", "backup", "loss", "metrics"))
    for wrong in (heads.HLGauss, object(), SimpleNamespace(**methods)):
        with pytest.raises(InputError, match="config.head must be"):
            short(config=dataclasses.replace(TINY, head=wrong))


def test_what_evaluations_play():
    """Another environment, if the one to learn in says so, and scores normalized by its reference."""
    pendulum, shorter = envs.make("pendulum"), envs.make("pendulum?horizon=7")
    result = short(env=pendulum._replace(evaluation=shorter, reference=(-50.0, 0.0)), seeds=1, steps=10, eval_every=10)
    row = result.rows[-1]
    assert row["eval/length"] == 7 and result.setup.spec.horizon == 200
    assert row["eval/normalized"] == pytest.approx(100 * (row["eval/return"] + 50) / 50)


def test_parallel_envs_and_configs():
    """Steps are summed over a seed's envs; a number that does not divide is rounded up; configs vary fastest."""
    result = short(config=[TINY, override(TINY, {"discount": 0.9})], num_envs=3, steps=200)
    assert result.step == 201
    last = [(r["step"], r["seed"], r["config"]) for r in result.rows if r["kind"] == "eval"][-4:]
    assert last == [(201, 0, 0), (201, 0, 1), (201, 1, 0), (201, 1, 1)]


def test_rounding_is_said(capsys):
    short(num_envs=3, steps=200, eval_every=99)
    said = capsys.readouterr().out
    assert "steps 200 is rounded up to 201, a multiple of num_envs 3" in said and "eval_every" not in said


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"eval_episodes": -1}, "eval_episodes must be at least 1"),
        ({"num_envs": 0}, "num_envs must be at least 1"),
        ({"seeds": 0}, "seeds must be"),
        ({"seeds": [1, 1]}, "seeds must be"),
        ({"seeds": [-1]}, "seeds must be"),
        ({"env": "gymnax/CartPole-v1"}, "does not take discrete actions"),
        ({"config": override(TINY, {"tau": 0.0})}, r"config.tau must be in \(0, 1\]"),
        ({"config": [TINY, override(TINY, {"batch_size": 9})]}, "batch_size"),
        ({"config": override(TINY, {"capacity": 10**13}), "steps": 10**13}, "lower config.capacity"),
    ],
)
def test_bad_input_leaves_nothing_behind(tmp_path, changes, sentence):
    with pytest.raises(InputError, match=sentence):
        short(tmp_path / "a" / "run", **changes)
    assert not list(tmp_path.iterdir())


def test_load_refuses_what_is_no_run(tmp_path):
    with pytest.raises(InputError, match="is not a run folder"):
        load(tmp_path)


def test_setup_marks_every_boundary_once():
    """Chunks end at the warm-up's end, at logs, at evaluations and at the end, and nowhere else."""
    setup: Setup = prepare(sac, TINY, "pendulum", seeds=1, steps=730, eval_every=250, eval_episodes=1, log_every=200)
    marks, t = [], 0
    while t < setup.total:
        t = setup.boundary(t)
        marks.append(t)
    assert marks == [100, 200, 250, 400, 500, 600, 730]
    assert [t for t in marks if setup.evaluates(t)] == [250, 500, 730]


def test_an_index_that_does_not_exist_is_refused(whole):
    """Indices count the seeds given; neither a seed's value nor a negative number passes for one."""
    result = load(whole)
    for index in (2, -1):
        with pytest.raises(
            InputError, match=re.escape(f"the run has 2 seeds (0, 1): the index must be from 0 to 1, got {index}")
        ):
            result.policy(index)
    with pytest.raises(InputError, match="observations must have shape"):
        result.policy(0)(np.zeros(4))


@pytest.mark.parametrize(("old", "new"), [(b'"seed": 1', b'"seed": 7'), (b"}\n", b', "x": 1}\n'), (b'"eval"', b'"evel"')])
def test_changed_metrics_are_refused_and_left_alone(tmp_path, old, new):
    """Nothing is written to a file that is not what the checkpoint remembers."""
    out = tmp_path / "run"
    short(out, steps=200)
    path = out / "metrics.jsonl"
    path.write_bytes(changed := path.read_bytes().replace(old, new, 1))
    for again in (lambda: short(out), lambda: load(out)):
        with pytest.raises(InputError, match="was changed after it was written"):
            again()
    assert path.read_bytes() == changed


def test_changed_settings_are_refused(tmp_path):
    """Other shapes than the checkpoint's are told, not left to the reader of arrays."""
    out = tmp_path / "run"
    short(out, steps=200)
    path = out / "config.json"
    path.write_text(path.read_text().replace('"actor_width": 8', '"actor_width": 9'))
    with pytest.raises(InputError, match="config.json was changed after the run began"):
        load(out)


def test_missing_settings_are_told(tmp_path):
    out = tmp_path / "run"
    short(out, steps=200)
    (out / "config.json").unlink()
    with pytest.raises(InputError, match="config.json is missing from a run"):
        short(out)
    assert short(out, steps=200, fresh=True).step == 200


@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_that_is_no_run_is_never_touched(tmp_path, fresh):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty and holds no run"):
        short(tmp_path, fresh=fresh)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_all_checkpoints_damaged(tmp_path, capsys):
    """The run begins again, and says so."""
    out = tmp_path / "run"
    short(out, steps=400)
    for folder in (out / "checkpoints").iterdir():
        (folder / "host.json").unlink()
    capsys.readouterr()
    assert short(out, steps=400).step == 400
    assert "no whole checkpoint is left: starting from step 0" in capsys.readouterr().out


def test_a_run_without_learning_is_told(capsys):
    short(steps=100, eval_every=100)
    assert "nothing will be learned" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("sac", None, "pendulum"), "agent must be a module such as rljax.agents.sac, got 'sac'"),
        ((sac, {"tau": 1}, "pendulum"), "config must be rljax.agents.sac.Config or a list of them, got {'tau': 1}"),
        ((sac, sac.Config(tau="a"), "pendulum"), "config.tau must be a number, got 'a'"),
    ],
)
def test_arguments_of_the_wrong_kind(arguments, sentence):
    with pytest.raises(InputError, match=re.escape(sentence)):
        train(*arguments)


@pytest.mark.parametrize("changes", [{"seeds": "2"}, {"steps": 1e2}, {"eval_every": "a"}])
def test_numbers_of_the_wrong_kind(changes):
    with pytest.raises(InputError, match=next(iter(changes))):
        short(**changes)


def test_seeds_may_be_an_array():
    assert prepare(sac, TINY, "pendulum", seeds=np.arange(3), steps=1, eval_every=1, eval_episodes=1).seeds == (0, 1, 2)
