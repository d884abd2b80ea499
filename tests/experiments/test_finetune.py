"""Runs that go on online from offline ones: the switch, what is frozen, what is retained, resume, refusals, the command."""

from __future__ import annotations

import dataclasses
import functools
import re
import sys

import jax
import numpy as np
import pytest

from rljax import data, envs, store
from rljax.agents import bc, calql, cql, iql, moorl, rlpd, sac, td3_bc, wsrl
from rljax.base import Array, InputError, Spec
from rljax.config import override
from rljax.experiments import cli, presets, report
from rljax.experiments.collect import collect
from rljax.experiments.setup import Reward, Start, prepare, read_setup
from rljax.experiments.train import load, load_ring, train

NETS = {"actor_width": 8, "critic_width": 8, "actor_depth": 1, "critic_depth": 1, "num_critics": 3, "layer_norm": True}
SIZES = {"batch_size": 8}
CQL = override(cql.Config(), NETS | SIZES | {"num_actions": 2})
CALQL = override(presets.find("calql", "pendulum").config, NETS | SIZES)
WSRL = override(wsrl.Config(), NETS | SIZES | {"warmup": 30, "utd": 2})
COUNTS = {"steps": 80, "eval_every": 40, "eval_episodes": 2, "log_every": 10}
CHANGED = Reward(scale=0.5, bias=-1.0)


@functools.cache
def recorded():
    """Random steps of the pendulum."""
    return collect(envs.make("pendulum?horizon=20"), kinds=["random"], steps=200)["random"]


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    """The folder of an offline run of two seeds."""
    out = tmp_path_factory.mktemp("runs") / "cql"
    train(cql, CQL, "pendulum", data=recorded(), seeds=2, reward=CHANGED, out=out, **COUNTS)
    return out


def go_on(run, out=None, agent=wsrl, config=WSRL, start=None, **changes):
    """An online run of two seeds from ``run``."""
    options = {"seeds": 2} | COUNTS | changes
    return train(agent, config, "pendulum", start=Start(run, **(start or {})), out=out, **options)


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_nothing_changes_until_learning_begins(before, tmp_path):
    """After K steps networks, moments and targets are bit for bit those of the offline run, and the replay holds K steps."""
    result = go_on(before, tmp_path / "run", steps=30, start={"warmup": 30})
    old = load(before).state
    for name in ("actor", "critic", "target", "alpha", "stats"):
        same(getattr(result.state, name), getattr(old, name))
    _, ring, rows = load_ring(tmp_path / "run")
    assert rows == 30 and ring.reward.shape == (30, 1)
    offline = recorded().transition.obs
    assert not (np.asarray(ring.obs)[:, 0, None] == offline[None]).all(-1).any()
    assert (np.diff(np.asarray(ring.obs)[:, 0], axis=0) != 0).any()


def test_phases_and_counts(before):
    """Learning begins at the warm-up's end: U critic steps and one of the actor per env step, from the counts before."""
    result, old = go_on(before, start={"warmup": 30}), load(before).state
    phases = {row["step"]: row["phase"] for row in result.rows if row["kind"] == "train"}
    assert phases == {
        10: "warmup",
        20: "warmup",
        30: "warmup",
        40: "online",
        50: "online",
        60: "online",
        70: "online",
        80: "online",
    }
    assert (result.state.critic.opt_state[0].count - old.critic.opt_state[0].count == 50 * 2).all()
    for name in ("actor", "alpha"):
        assert (getattr(result.state, name).opt_state[0].count - getattr(old, name).opt_state[0].count == 50).all()
    assert result.setup.reward == CHANGED


@pytest.mark.slow
def test_warm_up_of_no_steps(before):
    """Then learning begins with the first step."""
    result = go_on(before, start={"warmup": 0}, steps=20)
    assert {row["phase"] for row in result.rows} == {"online"}
    assert (result.state.alpha.opt_state[0].count - load(before).state.alpha.opt_state[0].count == 20).all()


def test_each_seed_goes_on_from_its_own(before):
    """And seeds that the offline run does not know only from a run of one seed."""
    one = go_on(before, seeds=[1], steps=20, start={"warmup": 20})
    same(one.agent(0)[1].actor, load(before).agent(1)[1].actor)
    with pytest.raises(InputError, match="no seed 5: its seeds are 0, 1"):
        go_on(before, seeds=[0, 5])
    single = train(cql, CQL, "pendulum", data=recorded(), **COUNTS)
    two = go_on(single, seeds=[3, 4], steps=20, start={"warmup": 20})
    for i in (0, 1):
        same(two.agent(i)[1].actor, single.agent(0)[1].actor)


@pytest.mark.parametrize(("parts", "fresh"), [("actor", "critic"), ("critic", "actor")])
def test_parts(before, parts, fresh):
    result, old = go_on(before, steps=20, start={"warmup": 20, "initialise": parts}), load(before).state
    same(getattr(result.state, parts), getattr(old, parts))
    assert (getattr(result.state, fresh).opt_state[0].count == 0).all()


@pytest.mark.parametrize("warmup", [60, 20])
def test_resumed_run_equals_the_whole(before, tmp_path, warmup):
    """In the warm-up and after it."""
    start, config = {"warmup": warmup}, override(WSRL, {"capacity": 40})
    go_on(before, tmp_path / "whole", config=config, start=start)
    go_on(before, tmp_path / "run", config=config, start=start, steps=40)
    go_on(before, tmp_path / "run", config=config, start=start)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    assert store.digest(load(tmp_path / "run").state) == store.digest(load(tmp_path / "whole").state)


@pytest.mark.slow
def test_calql_online_keeps_its_bound(tmp_path):
    """Half of the batches is retained; a run made longer, whose ring has grown, equals one that was as long from the start."""
    env = "pendulum?horizon=20"
    offline = train(calql, CALQL, env, data=recorded(), reward=CHANGED, **COUNTS)
    out, start = tmp_path / "run", Start(offline, retain=0.5)
    train(calql, CALQL, env, data=recorded(), start=start, out=out, **(COUNTS | {"steps": 40}))
    train(calql, CALQL, env, data=recorded(), start=start, out=out, **COUNTS)
    train(calql, CALQL, env, data=recorded(), start=start, out=tmp_path / "whole", **COUNTS)
    same(load(out).state, load(tmp_path / "whole").state)
    setup = load(out).setup
    assert setup.reward == CHANGED and setup.switch.warmup == 20 and setup.switch.retain == 0.5
    rows = [row for row in store.read_rows(out / "metrics.jsonl") if row["phase"] == "online" and row["kind"] == "train"]
    assert rows and all(np.isfinite(row["critic/gap"]) for row in rows)


@pytest.mark.parametrize("agent", [rlpd, pytest.param(moorl, marks=pytest.mark.slow)])
def test_agents_that_draw_recorded_data_themselves(agent, tmp_path):
    """They learn from data and env in one run, resumed exactly."""
    nets = {"actor_width": 8, "critic_width": 8, "actor_depth": 1, "critic_depth": 1}
    config = override(agent.Config(), nets | SIZES | {"warmup": 20, "capacity": 30})
    for steps, out in ((80, "whole"), (40, "run"), (80, "run")):
        options = COUNTS | {"steps": steps, "num_envs": 2, "seeds": 2}
        train(agent, config, "pendulum", data=recorded(), out=tmp_path / out, **options)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    rows = store.read_rows(tmp_path / "run" / "metrics.jsonl")
    assert [row["phase"] for row in rows if row["kind"] == "train" and row["seed"] == 0] == ["warmup"] * 2 + ["online"] * 6
    same(load(tmp_path / "run").state, load(tmp_path / "whole").state)


@pytest.mark.slow
def test_diverged_before_the_switch():
    """A learner that had diverged offline stays frozen and marked; the other goes on."""
    result = train(cql, CQL, "pendulum", data=recorded(), seeds=2, **COUNTS)
    broken = jax.tree.map(lambda x: x.at[0].set(np.nan) if x.dtype.kind == "f" else x, result.state)
    broken = type(result)(result.setup, result.step, result.rows, broken, (True, False), None)
    after = go_on(broken, steps=40)
    assert after.diverged == (True, False)
    assert {row["seed"] for row in after.rows if row.get("diverged")} == {0}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"env": "gymnax/CartPole-v1", "agent": wsrl}, "does not take discrete actions"),
        ({"start": {"retain": 1.0}}, r"retain must be in \[0, 1\), got 1"),
        ({"start": {"retain": 0.01}, "data": True}, "retain 0.01 of a batch of 8 leaves one source without a transition"),
        ({"config": override(WSRL, {"head": "c51"})}, "config.head must be the one that the critics were trained with"),
        ({"agent": bc, "config": None}, "agent bc does not learn from rewards"),
        ({"start": {"retain": 0.5}}, "give a data set with --data, or --retain 0"),
        ({"start": {"warmup": -1}}, "warmup must be a whole number of env steps, at least 0, got -1"),
        ({"start": {"initialise": "q"}}, "initialise must be one of both, actor, critic, got 'q'"),
        ({"data": True}, "leave out --data, or keep a fraction of it in each batch with --retain"),
        ({"config": override(WSRL, {"num_critics": 2})}, "critic of the offline run does not fit"),
        ({"agent": iql, "config": override(iql.Config(), NETS | SIZES)}, "actor of the offline run does not fit"),
        ({"agent": rlpd, "config": None, "data": True, "start": {"retain": 0.2}}, "config.recorded for the share"),
        ({"agent": rlpd, "config": None}, "agent rlpd learns from recorded data beside its own"),
        ({"env": None}, "an environment is needed to learn in"),
    ],
)
def test_refusals(before, arguments, sentence):
    """Before anything is computed."""
    options = {"agent": wsrl, "config": WSRL, "env": "pendulum", "start": {}} | arguments
    options["start"] = Start(before, **options["start"])
    agent, config, env = (options.pop(name) for name in ("agent", "config", "env"))
    options = COUNTS | {"seeds": 2} | options | ({"data": recorded()} if options.get("data") else {})
    if env is None:
        options["data"], options["action_bounds"] = recorded(), (-2.0, 2.0)
    with pytest.raises(InputError, match=sentence):
        train(agent, config, env, **options)


@pytest.mark.parametrize("start", ["runs/x", Start(None), Start(3)])
def test_a_start_that_is_none(start):
    with pytest.raises(InputError, match="start must be rljax.Start|must be a run's folder or a result"):
        train(wsrl, WSRL, "pendulum", start=start, **COUNTS)


def test_a_refused_run_changes_nothing(before, tmp_path):
    """Neither settings that the run in the folder does not have, nor a run in the place of its own origin."""
    out = tmp_path / "run"
    train(wsrl, WSRL, "pendulum", seeds=2, out=out, **COUNTS)
    there = {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
    with pytest.raises(InputError, match=r"holds another configuration \(reward"):
        train(wsrl, WSRL, "pendulum", seeds=2, out=out, reward=CHANGED, **COUNTS)
    with pytest.raises(InputError, match=r"holds another configuration \(switch"):
        go_on(before, out)
    assert {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()} == there
    with pytest.raises(InputError, match="holds the run to go on from"):
        go_on(before, before, fresh=True)


def test_the_same_actions_in_other_words(before):
    """Bounds that are told by floats or by tuples are the same."""
    result = load(before)
    spec = Spec(result.setup.spec.obs, Array((1,), "float32", (-2.0,), (2.0,)), 200)
    told = dataclasses.replace(result, setup=dataclasses.replace(result.setup, spec=spec))
    assert go_on(told, steps=10, start={"warmup": 10}).step == 10


def test_a_run_with_several_configs_is_no_start():
    several = train(cql, [CQL, override(CQL, {"penalty": 1.0})], "pendulum", data=recorded(), **COUNTS)
    with pytest.raises(InputError, match="holds 2 configs"):
        go_on(several, seeds=1)


def test_what_a_run_remembers(before, tmp_path):
    """The folder can be loaded alone, tells another start from this one, and has the curve before the switch."""
    go_on(before, tmp_path / "run", start={"warmup": 20})
    setup = read_setup(tmp_path / "run")
    assert setup.switch.agent == "cql" and setup.switch.step == 80 and setup.interacts
    with pytest.raises(InputError, match=r"another configuration \(switch.warmup is 20 there, 10 here\)"):
        go_on(before, tmp_path / "run", start={"warmup": 10})
    earlier = report.read_before(tmp_path / "run")
    assert [row["step"] for row in earlier] == [-80, -80, -40, -40]
    rows = store.read_rows(tmp_path / "run" / "metrics.jsonl")
    figure = report.curve(earlier + rows, "eval/return", setup.describe())
    assert figure.axes[0].get_xlim()[0] < -70 and "switch" in figure.axes[0].get_legend().get_texts()[-1].get_text()
    assert re.match(r"from -[\d.]+ at the switch, lowest -[\d.]+ at step \d+", report.switch(rows))


COMMAND = """--offline-steps 80 --steps 80 --warmup 30 --eval-every 40 --eval-episodes 2 --seeds 2 --config.actor-width 8
    --config.critic-width 8 --config.actor-depth 1 --config.critic-depth 1 --config.batch-size 8 --config.num-critics 3
    --config.utd 2""".split()


@pytest.fixture
def file(tmp_path):
    data.save(recorded(), tmp_path / "data.npz")
    return tmp_path / "data.npz"


def run(monkeypatch, *args):
    """The exit code of ``rljax finetune``."""
    monkeypatch.setattr(sys, "argv", ["rljax", "finetune", *map(str, args)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code or 0


def test_command_with_data(monkeypatch, file, tmp_path, capsys):
    """One command trains offline and goes on online; the same one finds both finished; the offline part is a run of its own."""
    args = ["wsrl", "pendulum", "--data", file, *COMMAND, "--out", tmp_path / "run"]
    assert run(monkeypatch, *args) == 0
    said = capsys.readouterr().out
    assert "at the switch, lowest" in said and (tmp_path / "run" / "curve.png").exists()
    offline, online = load(tmp_path / "run" / "offline"), load(tmp_path / "run")
    assert offline.setup.agent is calql and online.setup.agent is wsrl
    assert offline.setup.configs[0].critic_width == online.setup.configs[0].critic_width == 8
    assert run(monkeypatch, *args) == 0
    assert capsys.readouterr().out.count("finished at step 80") == 2
    assert run(monkeypatch, *args[:4], *COMMAND, "--warmup", "20", "--out", tmp_path / "run") == 2
    assert "switch.warmup is 30 there, 20 here" in capsys.readouterr().err
    assert run(monkeypatch, *args, "--offline-steps", "120") == 2
    assert "switch.step is 80 there, 120 here" in capsys.readouterr().err
    assert load(tmp_path / "run" / "offline").step == 80


def test_command_from_a_run(monkeypatch, before, tmp_path, capsys):
    """Networks and seeds are the run's own without a word of them."""
    args = ["--from", before, "--steps", 80, "--warmup", 20, "--config.batch-size", 8, "--config.utd", 2, "--eval-episodes", 2]
    assert run(monkeypatch, "wsrl", "pendulum", *args, "--out", tmp_path / "run") == 0
    made = load(tmp_path / "run").setup
    assert made.configs[0].num_critics == 3 and made.configs[0].layer_norm and made.seeds == (0, 1)


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["wsrl"], "rljax finetune needs METHOD and ENV"),
        (["wsrl", "pendulum"], "--from RUN, or a data set to begin with, --data FILE"),
        (["sac", "pendulum", "--data", "FILE"], "agent sac has no offline part"),
        (["wsrl", "pendulum", "--from", "nowhere"], "is not a run folder"),
        (["rlpd", "pendulum", "--data", "FILE", "--offline-steps", "5"], "--offline-steps are for the offline part"),
        (["wsrl", "pendulum", "--data", "FILE", "--warmup", "-1"], "warmup must be a whole number"),
        (["wsrl", "pendulum", "--data", "FILE", "--config.widht", "3"], "widht"),
        (["rlpd", "pendulum", "--data", "FILE", "--warmup", "5"], "are for going on from a run"),
        (["bc", "pendulum", "--data", "FILE"], "agent bc does not learn from rewards"),
        (["wsrl", "gymnax/CartPole-v1", "--data", "FILE"], "agent wsrl does not take discrete actions"),
        (["wsrl", "gymnasium/Pendulum-v1", "--data", "FILE"], "runs on the host"),
    ],
)
def test_command_refusals(monkeypatch, file, tmp_path, capsys, args, sentence):
    """One sentence, exit code 2, and nothing written."""
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *(file if arg == "FILE" else arg for arg in args), "--out", tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_the_config_of_a_run_that_goes_on():
    """Of another agent networks, discount and head; of the same one all; IQL's with a constant step size."""
    earlier = override(CQL, {"discount": 0.9, "critic_lr": 1.0, "head": "c51"})
    carried = presets.carried(WSRL, earlier)
    assert carried.discount == 0.9 and carried.head == earlier.head and carried.critic_lr == WSRL.critic_lr
    assert presets.carried(cql.Config(), earlier) == earlier
    assert presets.going_on(iql.Config()).actor_decay == 1e12
    assert presets.going_on(CQL) == CQL


def test_methods_have_presets():
    """Of the offline agents with the sizes of WSRL's online part; Cal-QL retains half."""
    found = presets.online("calql", "pendulum")
    assert found.retain == 0.5 and found.before[0] == "calql" and found.steps == presets.find("wsrl", "pendulum").steps
    assert presets.online("cql", "pendulum").retain == 0.0
    assert presets.find("wsrl", "brax/hopper").before[0] == "cql"
    assert presets.find("wsrl", "antmaze").config.num_actions == 10
    for env in ("pendulum", "antmaze", "maze/umaze", "brax/hopper", "else"):
        for name in ("wsrl", "rlpd", "moorl"):
            prepared = presets.find(name, env)
            cli.find_agent(name).check(prepared.config, _spec())


def _spec():
    return prepare(sac, None, "pendulum", seeds=1, steps=1, eval_every=1, eval_episodes=1).spec


@pytest.mark.slow
def test_td3_bc_online():
    """Two critic steps per env step, as its update makes them."""
    config = override(td3_bc.Config(), {k: v for k, v in NETS.items() if k != "num_critics"} | SIZES)
    offline = train(td3_bc, config, "pendulum", data=recorded(), **COUNTS)
    online = go_on(offline, agent=td3_bc, config=config, seeds=1, steps=40, start={"warmup": 20})
    gained = online.state.critic.opt_state[0].count - offline.state.critic.opt_state[0].count
    assert int(gained[0]) == 40
