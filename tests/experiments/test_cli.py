"""The command `rljax`: what it prints, what it refuses, and that a refusal leaves nothing behind."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys

import numpy as np
import pytest

from rljax import world_model as wm
from rljax.agents import drama
from rljax.experiments import cli, forms
from rljax.experiments import train as training

TINY = [
    *("--config.batch-size", "8", "--config.warmup", "100", "--config.actor-width", "8", "--config.critic-width", "8"),
    *("--eval-every", "200", "--eval-episodes", "2"),
]


@pytest.fixture
def rljax(tmp_path, monkeypatch, capsys):
    """``rljax("train sac pendulum")`` in an empty folder: its exit code, standard output and standard error."""
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run(line, *more):
        monkeypatch.setattr(sys, "argv", ["rljax", *line.split(), *map(str, more)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code, *capsys.readouterr()

    run.folder = folder
    return run


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(28, "No space left on device", "rows"), "No space left on device: rows; free some space and give the same "),
        (OSError(30, "Read-only file system", "rows"), "Read-only file system: rows\n"),
    ],
)
def test_a_full_disk_is_told(rljax, monkeypatch, error, sentence):
    def fail(*args):
        raise error

    monkeypatch.setattr(cli, "agent_names", fail)
    code, out, err = rljax("agents")
    assert (code, out) == (2, "") and err.startswith(f"rljax: error: {sentence}") and err.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("tarin sac pendulum", "unknown command 'tarin'"),
        ("train", "rljax train needs AGENT and ENV"),
        ("train sac", "rljax train needs AGENT and ENV"),
        ("train sac pendulum hopper", "does not know what to do with 'hopper'"),
        ("train sca pendulum", "unknown agent 'sca': did you mean sac?"),
        ("train xyz pendulum", "unknown agent 'xyz': choose one of bc, "),
        ("train sac gymnax/Pendulm-v1", "did you mean gymnax/Pendulum-v1?"),
        (
            "train sqirl tabular/trap?k=3 --steps 10 --config.episodes 1000",
            "sqirl takes 3000 env steps, 1000 episodes of 3: raise",
        ),
        ("train sac atari/Pong", "unknown environment 'atari/Pong'"),
        ("train sac brax/swimmer", "brax/swimmer is not supported"),
        ("train sac brax/hopper?backend=spirng", "unknown backend 'spirng'"),
        ("train sac pendulum?gravity=3", "has no option 'gravity'"),
        ("train sac pendulum --config.lr 3", "config has no field 'lr': did you mean actor_lr or critic_lr or alpha_lr?"),
        ("train sac pendulum --config.dicsount 0.9", "did you mean discount?"),
        ("train sac pendulum --config.actor-lr fast", "--config.actor-lr"),
        ("train sac pendulum --config.actor-lr", "--config.actor-lr"),
        ("train sac pendulum --config.actor-lr -1", "config.actor_lr must be in (0, inf), got -1"),
        ("train sac pendulum --config.actor-lr 0", "config.actor_lr must be in (0, inf), got 0"),
        ("train sac pendulum --config.discount nan", "config.discount must be in [0, 1), got nan"),
        ("train sac pendulum --config.discount 1", "config.discount must be in [0, 1), got 1"),
        ("train sac pendulum --config.tau=2", "config.tau must be in (0, 1], got 2"),
        ("train sac pendulum --config.batch-size 1.5", "--config.batch-size"),
        ("train sac pendulum --config.batch_size 0", "config.batch_size must be in [1, inf), got 0"),
        ("train sac pendulum --config.head hl", "--config.head"),
        ("train sac pendulum --config.head.low 3", "config.head has no field 'low': it has initial"),
        ("train sac pendulum --config.head c51 --config.head.sigma 3", "config.head has no field 'sigma'"),
        ("train sac pendulum --config.head c51 --config.head.lo 3", "config.head has no field 'lo': its fields are initial"),
        ("train sac pendulum --config.head c51 --config.head.bins 2", "config.head.bins must be in [3, inf), got 2"),
        ("train sac pendulum --config.head c51 --config.head.low x", "--config.head.low"),
        ("train sac pendulum --config.head c51 --config.head.low 9 --config.head.high 9", "config.head.low must be below"),
        ("train sac pendulum --config.tau.low 3", "config.tau has no field 'low': its fields are none"),
        ("train sac pendulum --config.layer-norm maybe", "--config.layer-norm"),
        ("train sac pendulum --steps -5", "steps must be at least 1, got -5"),
        ("train sac pendulum --steps 0", "steps must be at least 1, got 0"),
        ("train sac pendulum --steps 1e3", "--steps"),
        ("train sac pendulum --eval-every 0", "eval_every must be at least 1"),
        ("train sac pendulum --eval-episodes 0", "eval_episodes must be at least 1"),
        ("train sac pendulum --num-envs 0", "num_envs must be at least 1"),
        ("train sac pendulum --seeds a", "--seeds must be"),
        ("train sac pendulum --seeds -1", "--seeds must be"),
        ("train sac pendulum --seeds 0", "--seeds must be at least 1, got '0'"),
        ("collect pendulum --kinds random --seed -1", "--seed must be from 0 to 4294967295, got -1"),
        ("train sac pendulum --seeds 1000001", "--seeds must be at most 1000000, got '1000001'"),
        ("train sac pendulum --seeds 1,1", "seeds must be"),
        ("train sac pendulum --frobnicate 3", "--frobnicate"),
        ("train sac pendulum --out /proc/there/run", "cannot write to /proc/there/run"),
        ("train sac pendulum --steps 90000000000 --config.capacity 90000000000", "lower config.capacity"),
        ("train sac gymnax/CartPole-v1", "agent sac does not take discrete actions; use sac_discrete"),
        ("train sac_discrete pendulum", "agent sac_discrete does not take continuous actions; use sac"),
        ("train iql pendulum", "agent iql learns from recorded data: give a data set with --data"),
        ("train iql pendulum --data nowhere.hdf5", "there is no data set nowhere.hdf5"),
        ("train iql", "rljax train needs AGENT and ENV"),
        ("train iql pendulum --eval some", "--eval"),
        ("data", "FILE"),
        ("data nowhere.hdf5", "there is no data set nowhere.hdf5"),
        ("data .", "a folder without main_data.hdf5"),
        ("collect", "rljax collect needs ENV, or files to mix"),
        ("collect nowhere", "unknown environment 'nowhere'"),
        ("collect pendulum --kinds best", "unknown kind of data 'best'"),
        ("collect pendulum --kinds expert", "give its folder with --agent"),
        ("collect pendulum --kinds medium-replay", "give one with --medium"),
        ("collect pendulum --agent nowhere", "is not a run folder"),
        ("collect pendulum --steps 0", "--steps must be at least 1, got 0"),
        ("collect pendulum --mix random", "--mix must be names with fractions"),
        ("collect pendulum --mix random=0.5", "must sum to 1"),
        ("collect pendulum --out /proc/there", "cannot write to /proc/there"),
        ("collect gymnasium/Pendulum-v1", "runs on the host"),
        ("collect --mix a.npz=0.5,b.npz=0.5", "rljax collect needs ENV, or files to mix"),
        ("collect --mix a.npz=0.5,b.npz=0.5 --out c.npz", "there is no data set a.npz"),
        ("agents please", "takes no arguments"),
        ("envs please", "takes no arguments"),
        ("show", "RUN"),
        ("show nowhere", "is not a run folder"),
        ("show . --params-hash", "is not a run folder"),
        ("play nowhere", "is not a run folder"),
        ("play . --episodes 0", "--episodes must be at least 1"),
        ("play . --seed x", "--seed"),
    ],
)
def test_bad_input_is_one_sentence(rljax, line, sentence):
    """One line on stderr that says it, exit code 2, no traceback, and not one file."""
    code, _, err = rljax(line)
    assert code == 2
    assert err.count("\n") == 1 and err.startswith("rljax: error: ") and sentence in err
    assert not list(rljax.folder.iterdir())


@pytest.mark.parametrize("name", ["a\nb", "\x1b[31mred", "a\rb"])
def test_a_name_cannot_write_lines_of_its_own(rljax, name):
    """Nor move a terminal's cursor."""
    code, _, err = rljax("data", name)
    assert code == 2 and err.count("\n") == 1 and err[:-1].isprintable() and "there is no data set" in err


def test_a_picture_is_not_drawn_through_a_link(rljax, recorded):
    """Out of the run's folder, that is; and the curve of a damaged run is none."""
    assert rljax(f"train bc --data {recorded} --eval none --action-low -2 --action-high 2 --out r", *TINY_OFFLINE)[0] == 0
    (rljax.folder / "mine").write_text("mine")
    (rljax.folder / "r" / "curve.png").symlink_to(rljax.folder / "mine")
    code, _, err = rljax("show r")
    assert code == 2 and "curve.png is a link that leads out" in err and (rljax.folder / "mine").read_text() == "mine"


def test_unwritable_folder_is_refused(rljax):
    """An existing file where the folder should be."""
    (rljax.folder / "taken").write_text("mine")
    code, _, err = rljax("train sac pendulum --out taken")
    assert code == 2 and "cannot write to" in err
    assert (rljax.folder / "taken").read_text() == "mine" and len(list(rljax.folder.iterdir())) == 1


def test_train_show_play(rljax):
    """The life of a run: made, shown, played, left alone, extended, refused under another configuration."""
    code, out, _ = rljax("train sac pendulum --seeds 3,5 --steps 400", *TINY)
    assert code == 0 and "config 0: IQM" in out
    (run,) = (rljax.folder / "runs").iterdir()
    assert re.fullmatch("sac-pendulum-[0-9a-f]{8}", run.name) and f"runs/{run.name}" in out
    assert (run / "curve.png").read_bytes()[:4] == b"\x89PNG"

    code, out, _ = rljax(f"show {run}")
    table = [line.split() for line in out.splitlines()[2:4]]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = {str(r["seed"]): f"{r['eval/return']:.1f}" for r in rows if r["kind"] == "eval" and r["step"] == 400}
    assert code == 0 and {line[1]: line[2] for line in table} == last
    assert rljax(f"show {run} --params-hash")[1] == rljax(f"show {run} --params-hash")[1]

    code, out, _ = rljax(f"play {run} --seed 5 --episodes 2 --json")
    played = json.loads(out)
    assert code == 0 and played["seed"] == 5 and played["lengths"] == [200, 200] and len(played["returns"]) == 2
    assert (run / "play.gif").read_bytes()[:3] == b"GIF"
    assert rljax(f"play {run} --seed 4")[0] == 2

    code, out, _ = rljax("train sac pendulum --seeds 3,5 --steps 400", *TINY)
    assert code == 0 and "finished at step 400" in out and len(list((rljax.folder / "runs").iterdir())) == 1
    code, out, _ = rljax("train sac pendulum --seeds 3,5 --steps 600", *TINY)
    assert code == 0 and "resumed at step 400" in out and "return at step 600" in out
    code, _, err = rljax("train sac pendulum --seeds 3,5 --config.discount 0.9 --out", run, *TINY)
    assert code == 2 and "config.discount is 0.99 there, 0.9 here" in err


@pytest.mark.parametrize(
    ("line", "sentence", "low", "high"),
    [
        ("pendulum --config.head hl_gauss --config.head.sigma 0.5", "the support [-1", (-2000, -1628), (100, 300)),
        (
            "pendulum --config.head c51 --config.head.low -10 --config.head.high 10",
            "the support [-10, 10]",
            (-10, -10),
            (10, 10),
        ),
        ("pendulum --config.head c51 --config.head.low=-500 --fresh", "the support [-500, ", (-500, -500), (100, 300)),
        ("pendulum --config.head two_hot --config.head.transform symlog", "the support [-7.", (-8, -7), (5, 6)),
        ("gymnax/Reacher-misc --config.head c51", "[-10, 10], a guess: set config.head.low", (-10, -10), (10, 10)),
    ],
)
def test_a_head_gets_its_support(rljax, monkeypatch, capsys, line, sentence, low, high):
    """From the env's rewards, but for the ends that are given; it is printed, and said to be a guess where it is one."""
    seen = []
    monkeypatch.setattr(training, "train", lambda agent, config, env, **kwargs: seen.append(config) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        rljax(f"train sac {line} --steps 300", *TINY)
    assert low[0] <= seen[0].head.low <= low[1] and high[0] <= seen[0].head.high <= high[1]
    assert sentence in capsys.readouterr().out


@pytest.mark.slow
def test_a_support_that_is_too_small_is_told_once(rljax):
    """Also when the run goes on; the head is in config.json, and the support is printed when the run begins."""
    narrow = "train sac pendulum --config.head two_hot --config.head.low -1 --config.head.high=1 --config.head.bins 9 --out off"
    code, out, _ = rljax(f"{narrow} --steps 800", *TINY)
    assert code == 0 and out.count("outside the support [-1, 1]") == 1 and "widen config.head.low" in out
    assert "config.head has the support [-1, 1]\n" in out
    code, out, _ = rljax(f"{narrow} --steps 1400", *TINY)
    assert code == 0 and "resumed at step 800" in out and "support" not in out
    head = json.loads((rljax.folder / "off/config.json").read_text())["config"]["head"]
    assert head["type"] == "rljax.heads:TwoHot" and head["bins"] == 9


def test_seeds_are_a_number_or_a_list():
    assert cli.parse_seeds("4") == (0, 1, 2, 3)
    assert cli.parse_seeds("7,") == (7,)
    assert cli.parse_seeds("3, 5,7") == (3, 5, 7)


def test_help_lists_the_fields_of_the_agents_config(rljax):
    """Each field with its comment and the preset's value."""
    code, out, _ = rljax("train sac gymnax/Pendulum-v1 --help")
    plain = re.sub(r"[│\s]+", " ", out)
    assert code == 0 and "--config.tau FLOAT Polyak step of the target critics" in plain
    assert "--config.actor-width INT units per hidden layer of the actor (default: 64)" in plain
    assert "AGENT one of" in plain and "ENV one of" in plain


@pytest.fixture
def recorded(tmp_path):
    """A D4RL file of 10 timed-out episodes in the pendulum's shapes and units."""
    rng, path = np.random.default_rng(0), tmp_path / "recorded.npz"
    ends = np.arange(200) % 20 == 19
    np.savez(
        path,
        observations=rng.normal(size=(200, 3)),
        actions=rng.uniform(-2, 2, (200, 1)),
        rewards=rng.normal(size=200),
        terminals=np.zeros(200),
        timeouts=ends,
    )
    return path


TINY_OFFLINE = ["--steps", "40", "--eval-every", "20", "--config.actor-width", "8", "--config.batch-size", "8"]


def test_offline_run(rljax, recorded):
    """Train from a file, evaluate on an env, show, and hash; the preset of the data set is taken."""
    code, out, _ = rljax(f"train bc pendulum --data {recorded} --seeds 2 --eval-episodes 2 --out r", *TINY_OFFLINE)
    assert code == 0 and "the data set takes 6.3 KiB" in out and "IQM" in out
    assert rljax("show r")[0] == 0
    code, again, _ = rljax(f"train bc pendulum --data {recorded} --seeds 2 --eval-episodes 2 --out r", *TINY_OFFLINE)
    assert code == 0 and "finished at step 40" in again
    code, _, err = rljax(f"train bc pendulum --data {recorded} --sampling aw:0.1 --seeds 2 --out r", *TINY_OFFLINE)
    assert code == 2 and "offline.sampling is uniform there, aw:0.1 here" in err


def test_play_in_a_simulator_on_the_host(rljax, recorded):
    """The pendulum is drawn as ever; its episodes are those of gymnasium."""
    line = f"train bc gymnasium/Pendulum-v1 --data {recorded} --eval-episodes 2 --out r"
    assert rljax(line, *TINY_OFFLINE)[0] == 0
    code, out, _ = rljax("play r --episodes 2 --json")
    played = json.loads(out)
    assert code == 0 and played["lengths"] == [200, 200] and all(-1900 < x < 0 for x in played["returns"])
    assert (rljax.folder / played["file"]).read_bytes()[:3] == b"GIF"


@pytest.mark.parametrize("env", ["", "anything"])
def test_offline_run_without_a_simulator(rljax, recorded, env):
    line = f"train bc {env} --data {recorded} --eval none --action-low -2 --action-high 2 --out r"
    code, out, err = rljax(line, *TINY_OFFLINE)
    assert code == 0 and "it was not evaluated" in out, err
    assert len(rljax("show r --params-hash")[1]) == 65
    code, out, _ = rljax("show r")
    assert code == 0 and "actor/loss at step 40" in out
    code, _, err = rljax("play r")
    assert code == 2 and "play needs an environment" in err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--eval none", "does not say its actions' bounds"),
        ("--eval none --action-low -2", "give both --action-low and --action-high"),
        ("--eval none --action-low -1 --action-high 1", "lies outside the bounds"),
        ("--sampling best", "sampling must be uniform"),
        ("--reward-scale 1e39", "the scale of rewards must be finite, and what float32 can hold, got 1e+39"),
    ],
)
def test_bad_offline_input(rljax, recorded, options, sentence):
    code, _, err = rljax(f"train bc pendulum --data {recorded} {options}")
    assert code == 2 and sentence in err and not list(rljax.folder.iterdir())


def test_data(rljax, recorded):
    """The summary as text with a picture, and as JSON without one."""
    code, out, _ = rljax(f"data {recorded} --json")
    numbers = json.loads(out)
    assert code == 0 and (numbers["episodes"], numbers["steps"], numbers["transitions"]) == (10, 200, 190)
    assert not list(rljax.folder.iterdir())
    code, out, _ = rljax(f"data {recorded}")
    assert code == 0 and "200, 190 transitions" in out and (rljax.folder / "data.png").stat().st_size > 10_000


def test_collect(rljax):
    """Random data of an env, and a mixture of it with itself; nothing is overwritten."""
    code, out, _ = rljax("collect pendulum --steps 1000")
    assert code == 0 and "random.hdf5: 1000 transitions" in out
    code, _, err = rljax("collect pendulum --steps 1000")
    assert code == 2 and "exists already" in err
    code, out, _ = rljax("collect --mix data/random.hdf5=1 --steps 300 --out few.npz")
    assert code == 0 and "few.npz: 300 transitions" in out
    assert json.loads(rljax("data few.npz --json")[1])["transitions"] == 300


def test_lists(rljax):
    """Agents with their papers; environments, none of which is broken."""
    agents, envs = rljax("agents")[1], rljax("envs")[1].split()
    assert {"bc", "iql", "sac", "sac_discrete"} <= {line.split()[0] for line in agents.splitlines()} and "arXiv:" in agents
    assert {"pendulum", "maze/open", "gymnax/CartPole-v1", "brax/hopper"} <= set(envs) and "brax/swimmer" not in envs


def test_console_command_is_installed(tmp_path):
    """The script of the installed package, in a process of its own: version, usage, an error's code."""

    def run(*args):
        return subprocess.run([f"{sys.prefix}/bin/rljax", *args], cwd=tmp_path, capture_output=True, text=True)

    assert re.match(r"\d+\.\d+\.\d+", run("--version").stdout)
    assert run("--help").stdout.startswith("usage: rljax") and run("--help").returncode == 0
    bad = run("train", "sca", "pendulum")
    assert bad.returncode == 2 and bad.stderr.count("\n") == 1


def test_each_size_can_be_asked_for_whatever_the_preset_has():
    for name, size in wm.SIZES.items():
        preset = drama.Config(size=size)
        filled = forms.form(preset)
        assert filled.size == name and forms.read(filled, preset) == preset
        for other in wm.SIZES:
            assert forms.read(dataclasses.replace(filled, size=other), preset).size == wm.SIZES[other]
