"""Studies: what becomes one program, what is trained, skipped and continued, the table, and what is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from rljax import store
from rljax.base import InputError
from rljax.data.dataset import Info, Steps, from_steps
from rljax.experiments import sweep, train
from rljax.experiments.cli import run as rljax
from rljax.experiments.sweep import Run, log_uniform, uniform

TINY = {"actor_width": 8, "critic_width": 8, "batch_size": 8, "warmup": 100}
COUNTS = {"steps": 300, "eval_every": 100, "eval_episodes": 2}
RATES = {"actor_lr": [1e-4, 1e-3], "critic_lr": [1e-4, 3e-4, 1e-3]}


def sac(**changes):
    return Run("sac", "pendulum", **(COUNTS | {"config": TINY} | changes))


def settings(program):
    """``(actor_lr, critic_lr)`` of each config."""
    return [(config.actor_lr, config.critic_lr) for config in program.setup.configs]


def test_numbers_are_one_program_and_choices_one_each():
    programs = sweep.plan([sac(grid={"critic_width": [8, 16]} | RATES, seeds=2)])
    assert [len(program.setup.learners) for program in programs] == [12, 12]
    assert [program.setup.configs[0].critic_width for program in programs] == [8, 16]
    assert settings(programs[0]) == settings(programs[1]) == [(a, c) for a in RATES["actor_lr"] for c in RATES["critic_lr"]]
    assert programs[1].varied[4] == {"critic_width": 16, "actor_lr": 1e-3, "critic_lr": 3e-4}
    assert len({program.folder for program in programs}) == 2


def test_each_config_has_a_support_of_its_own():
    """The head's is computed from the rewards and the config's discount, but for ends that vary."""
    run = sac(config=TINY | {"head": "hl_gauss"}, grid={"discount": [0.9, 0.99], "head.low": [-500.0, -300.0]})
    (program,) = sweep.plan([run])
    found = [(config.discount, config.head.low, config.head.high) for config in program.setup.configs]
    assert [(discount, low) for discount, low, _ in found] == [(0.9, -500.0), (0.9, -300.0), (0.99, -500.0), (0.99, -300.0)]
    assert found[0][2] == found[1][2] < found[2][2] == found[3][2]


def test_monte_carlo_returns_have_one_discount():
    last, no = np.arange(20) % 5 == 4, np.zeros(20, bool)
    obs, action = np.zeros((20, 3)), np.zeros((20, 1))
    recorded = from_steps(Steps(obs, action, np.zeros(20), obs, no, last, last, ~no), Info("zeros", "rljax"))
    run = Run("calql", "pendulum", grid={"discount": [0.9, 0.99], "actor_lr": [1e-4, 1e-3]}, data=recorded)
    assert [sorted({c.discount for c in program.setup.configs}) for program in sweep.plan([run])] == [[0.9], [0.99]]


def test_random_numbers_are_the_same_each_time():
    run = sac(grid={"critic_lr": [1e-4, 1e-3]}, draws={"actor_lr": log_uniform(1e-5, 1e-2), "tau": uniform(0.1, 0.2)}, num=50)
    (program,), (again,) = sweep.plan([run]), sweep.plan([run])
    rates = np.array([config.actor_lr for config in program.setup.configs])
    assert len(np.unique(rates)) == 100 and program.folder == again.folder
    assert (rates > 1e-5).all() and (rates < 1e-2).all() and 25 < (rates < 10**-3.5).sum() < 75
    assert all(0.1 < config.tau < 0.2 for config in program.setup.configs)
    assert [config.critic_lr for config in program.setup.configs] == [1e-4] * 50 + [1e-3] * 50


@pytest.mark.parametrize(("most", "sizes"), [(100, [12]), (12, [12]), (6, [6, 6]), (5, [4, 4, 4]), (1, [1] * 12)])
def test_split_into_parts_that_are_alike(most, sizes):
    programs = sweep.plan([sac(grid=RATES, seeds=2)], most)
    assert [len(program.setup.learners) for program in programs] == sizes
    found = [(rates, seed) for program in programs for rates in settings(program) for seed in program.setup.seeds]
    assert sorted(found) == sorted((rates, seed) for rates in settings(sweep.plan([sac(grid=RATES)])[0]) for seed in (0, 1))


def test_rates_are_of_all_learners(monkeypatch):
    """Ten iterations per second, however many learners are in the program: all at once are the fastest."""
    monkeypatch.setattr(train, "speed", lambda setup, seconds: (1.0, 10.0))
    (program,) = sweep.plan([sac(grid=RATES, seeds=2)])
    assert list(program.rates()) == [(1, 1.0, 10.0), (4, 1.0, 40.0), (12, 1.0, 120.0)]
    assert list(sweep.measured(program))[-1] == "  all steps take about 1 min, and evaluations beside"


def test_a_study_goes_on_where_it_was(tmp_path, capsys, contents):
    """Of two programs one is finished and one was killed: the first is left alone, the second ends as if nothing had been."""
    config = TINY | {"capacity": 150}  # a ring, and so a program, of one size however far the run went
    runs = [sac(config=config, grid={"actor_lr": [1e-4, 1e-3], "critic_width": [8, 16]}, seeds=2)]
    before, whole = train.programs(), sweep.sweep(runs, tmp_path / "whole")
    assert train.programs() - before == 4  # of each width the warm-up and the updates
    first, second = sweep.plan(runs)
    out = tmp_path / "broken"
    sweep.write([first, second], out)
    first.train(out)
    train.train(second.setup.agent, second.setup.configs, second.env, out=out / second.folder, **second.kwargs | {"steps": 200})
    stamp = (out / first.folder / "metrics.jsonl").stat().st_mtime_ns
    capsys.readouterr()
    assert sweep.sweep(runs, out).equals(whole)
    said = capsys.readouterr().out
    assert f"program 1 of 2, {first.folder}, is finished" in said and "resumed at step 200" in said
    assert (out / first.folder / "metrics.jsonl").stat().st_mtime_ns == stamp
    for program in (first, second):
        assert contents(out / program.folder) == contents(tmp_path / "whole" / program.folder)
    assert list(whole["critic_width"]) == [8, 8, 16, 16] and set(whole["seeds"]) == {2} and set(whole["step"]) == {300}


def test_a_program_that_cannot_be_trained_does_not_stop_the_others(tmp_path):
    runs = [sac(config=TINY | {"actor_width": width}) for width in (4, 8)]
    first, second = sweep.plan(runs)
    (tmp_path / "study").mkdir()
    sweep.write([first, second], tmp_path / "study")
    (tmp_path / "study" / first.folder).mkdir()
    (tmp_path / "study" / first.folder / "metrics.jsonl").write_text("")
    with pytest.raises(InputError, match=r"1 of 2 programs could not be trained: .*config\.json is missing"):
        sweep.train([first, second], tmp_path / "study")
    assert second.finished(tmp_path / "study") and not first.finished(tmp_path / "study")


def test_diverged_seeds_are_counted(tmp_path):
    found = sweep.sweep([sac(grid={"critic_lr": [3e-4, 1e30]}, seeds=3)], tmp_path / "study")
    assert list(found["diverged"]) == [0, 3] and list(found["seeds"]) == [3, 3]
    assert np.isfinite(found["IQM"][0]) and np.isnan(found["IQM"][1])
    assert sweep.text(found).splitlines()[2].split()[-4:] == ["NaN"] * 4


def test_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    study = tmp_path / "study.py"
    study.write_text(
        "from rljax.experiments.sweep import Run\n"
        f"RATES, TINY = {{'actor_lr': [1e-4, 1e-3]}}, {TINY}\n"
        "RUNS = [Run('sac', 'pendulum', config=TINY, grid=RATES, seeds=2, steps=300, eval_every=300)]\n"
    )
    options = [f"--config.{name.replace('_', '-')}={value}" for name, value in TINY.items()]
    line = ["train", "sac", "pendulum", "--seeds", "2", "--steps", "300", "--eval-every", "300", *options]
    assert rljax([*line, "--sweep", "actor-lr=1e-4,1e-3", "--plan"]) == 0
    said = capsys.readouterr().out
    assert "1 program, 4 learners" in said and "actor_lr 0.0001 0.001" in said and "4 at once: " in said
    assert not (tmp_path / "runs").exists()
    assert rljax(["sweep", str(study)]) == 0
    (run,) = store.read_json(tmp_path / "runs" / "study" / "study.json")
    assert run["varied"] == [{"actor_lr": 1e-4}, {"actor_lr": 1e-3}]
    assert capsys.readouterr().out.splitlines()[-3].split()[:4] == ["sac-pendulum", "0.0001", "300", "2"]
    assert rljax([*line, "--sweep", "actor_lr=1e-4,1e-3", "--out", str(tmp_path / "runs" / "study")]) == 0  # the same study
    assert f"{run['folder']}, is finished" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("--sweep actor=1", "config has no field 'actor': did you mean actor_lr or actor_width or actor_depth?"),
        ("--sweep actor_lr=", "--sweep must be FIELD=1,2,3 or FIELD=log:LOW:HIGH, each field once, got 'actor_lr='"),
        ("--sweep actor_lr", "--sweep must be FIELD=1,2,3 or FIELD=log:LOW:HIGH, each field once, got 'actor_lr'"),
        ("--sweep actor_lr=1,2 --sweep actor-lr=3", "each field once, got 'actor-lr=3'"),
        ("--sweep actor_lr=1e-3,-1", "config.actor_lr must be in (0, inf), got -1"),
        ("--sweep actor_lr=1,,2", "'' is no value for actor_lr"),
        ("--sweep critic_width=8.5", "'8.5' is no value for critic_width"),
        ("--sweep head=foo", "'foo' is no value for head"),
        ("--sweep actor_lr=1e-3,0.001", "grid['actor_lr'] has the same value twice"),
        ("--sweep actor_lr=log:1e-4:1e-3", "--sweep actor_lr draws random numbers: say how many with --samples"),
        ("--sweep head.sigma=0.5", "config.head has no field 'sigma': it has initial"),
        ("--sweep actor_lr=log:0:1", "log_uniform needs two numbers above 0, the smaller one first, got 0 and 1"),
        ("--sweep actor_lr=log:1", "--sweep must be FIELD=1,2,3 or FIELD=log:LOW:HIGH"),
        ("--sweep actor_lr=1,2 --samples 3", "--samples is how many random numbers are drawn"),
        ("--sweep tau=0.1 --at-once 0", "at once must be at least 1 learner, got 0"),
        ("--sweep tau=0.1 --fresh", "--fresh does not go with --sweep"),
        ("--plan", "--plan, --samples and --at-once go with --sweep"),
    ],
)
def test_what_the_command_line_refuses(tmp_path, monkeypatch, line, sentence):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as refusal:
        rljax(["train", "sac", "pendulum", *line.split()])
    assert sentence in str(refusal.value) and not list(tmp_path.iterdir())


def test_a_stop_in_the_last_steps_of_a_program_stops_the_study(tmp_path, monkeypatch):
    """The program is finished, and the next one is not begun; with the last one the study is finished."""
    programs, real = sweep.plan([sac(grid={"critic_width": [8, 16]})]), train.train
    monkeypatch.setattr(train, "train", lambda *args, **kwargs: dataclasses.replace(real(*args, **kwargs), stopped=True))
    assert not sweep.train(programs, tmp_path)
    assert [program.step(tmp_path) for program in programs] == [300, None]
    assert sweep.train(programs, tmp_path)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file is a file: choose a folder"):
        sweep.sweep([sac()], tmp_path / "file")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("1 / 0", "raises ZeroDivisionError: division by zero"),
        ("x =", "raises SyntaxError"),
        ("RUN = []", "must have a list RUNS"),
        ("RUNS = 3", "must have a list RUNS"),
        ("RUNS = []", "the study has no runs"),
        ("RUNS = [3]", "its element 0 is 3"),
        ("RUNS = [Run('sca', 'pendulum')]", "there is no preset for agent 'sca'"),
        ("RUNS = [Run('sac', 'pendulums')]", "pendulums"),
        ("RUNS = [Run('sac', 'pendulum', grid={'tau': []})]", "grid['tau'] must be a list of values, got []"),
        ("RUNS = [Run('sac', 'pendulum', grid={'tau': 0.1})]", "grid['tau'] must be a list of values, got 0.1"),
        ("RUNS = [Run('sac', 'pendulum', grid={'tua': [1.0]})]", "config has no field 'tua'"),
        ("RUNS = [Run('sac', 'pendulum', grid={'tau': ['a']})]", "config.tau must be a number, got 'a'"),
        ("RUNS = [Run('sac', 'pendulum', num=0)]", "a run must have from 1 to 10000 configs, got 0"),
        ("RUNS = [Run('sac', 'pendulum', grid={'tau': [0.1]}, draws={'tau': uniform(0, 1)})]", "tau is in the grid and in"),
        ("RUNS = [Run('sac', 'pendulum', data='none.h5')]", "none.h5"),
        ("RUNS = [Run('sac', 'pendulum', seeds=0)]", "seeds must be"),
    ],
)
def test_what_a_study_may_not_be(tmp_path, monkeypatch, text, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.py").write_text(f"from rljax.experiments.sweep import Run, uniform\n{text}\n")
    with pytest.raises(InputError) as refusal:
        rljax(["sweep", "study.py"])
    assert sentence in str(refusal.value) and not (tmp_path / "runs").exists()


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty and holds no study"):
        sweep.sweep([sac()], tmp_path)
