"""Studies for schedulers: plain commands, programs that another process trains, what is told of jobs, and what is refused."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from rljax import store
from rljax.base import InputError
from rljax.experiments import cluster_ray, clusters, sweep
from rljax.experiments.cli import run as rljax

TEXT = """
from rljax.experiments.sweep import Run

TINY = {"actor_width": 8, "critic_width": 8, "batch_size": 8, "warmup": 100}
COUNTS = {"steps": 300, "eval_every": 100, "eval_episodes": 2}
RUNS = [Run("sac", "pendulum", config=TINY, grid={"critic_width": [8, 16]}, seeds=2, **COUNTS)]
"""


@pytest.fixture
def study(tmp_path, monkeypatch):
    """The file of a study of two programs, in the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.py").write_text(TEXT)
    return tmp_path / "study.py"


@pytest.fixture(scope="module")
def expected(tmp_path_factory, contents):
    """What each program gives, by the name of its folder."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "study.py").write_text(TEXT)
    programs = sweep.plan(sweep.read(folder / "study.py"))
    sweep.train(programs, folder / "out")
    return {program.folder: contents(folder / "out" / program.folder) for program in programs}


@pytest.fixture
def environment(pytestconfig):
    """Variables of child processes, which compile as the tests themselves do."""
    cache = {"JAX_COMPILATION_CACHE_DIR": str(pytestconfig.cache.mkdir("jax")), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    return os.environ | cache | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_NUM_CPU_DEVICES": "1"}


def commands(capsys, *options):
    """The lines that ``--commands`` prints."""
    capsys.readouterr()
    assert rljax(["sweep", "study.py", "--commands", *options]) == 0
    return capsys.readouterr().out.splitlines()


def test_each_program_has_a_plain_command(study, tmp_path, expected, contents, capsys):
    """Given in any order they make the study, its table and its list of programs; what is finished has none."""
    lines = commands(capsys)
    assert lines == [f"rljax sweep {study} --out {tmp_path}/runs/study --only {number}" for number in (1, 2)]
    assert not (tmp_path / "runs").exists()
    out, (first, second) = tmp_path / "runs" / "study", expected
    assert rljax(shlex.split(lines[1])[1:]) == 0
    names, row, _ = capsys.readouterr().out.splitlines()[-3:]
    assert names.split()[:2] == ["run", "critic_width"] and row.split()[:2] == ["sac-pendulum", "16"]
    assert not (out / first).exists() and commands(capsys) == lines[:1]
    assert [run["folder"] for run in store.read_json(out / "study.json")] == [first, second]
    assert rljax(shlex.split(lines[0])[1:]) == 0 and commands(capsys) == []
    assert rljax(["sweep", "study.py", "--commands"]) == 0 and "all programs are finished" in capsys.readouterr().err
    assert {name: contents(out / name) for name in expected} == expected


def test_a_command_keeps_what_divides_the_study(study, tmp_path, capsys):
    out = tmp_path / "a folder"
    lines = commands(capsys, "--at-once", "1", "--out", str(out))
    assert lines == [f"rljax sweep {study} --out '{out}' --at-once 1 --only {number}" for number in (1, 2, 3, 4)]


def test_what_another_process_trains_is_left_to_it(study, tmp_path, expected, contents, capsys, monkeypatch):
    """And taken over when that ends before its last step."""
    monkeypatch.setattr(sweep, "LOOK_SECONDS", 0.01)
    out, (first, second), held = tmp_path / "out", expected, threading.Event()
    sweep.write(sweep.plan(sweep.read(study)), out)

    def hold():
        with store.locked(out / first):
            held.set()
            while not (out / second / "checkpoints" / "300").exists():
                time.sleep(0.01)

    holder = threading.Thread(target=hold, daemon=True)
    holder.start()
    held.wait()
    assert rljax(["sweep", "study.py", "--out", str(out)]) == 0
    holder.join()
    said = capsys.readouterr().out
    assert "not begun" in said and "being trained; critic_width 8" in said
    assert said.count(f"program 1 of 2, {first}, is being trained by another process") == 1
    assert said.index("is being trained by another process") < said.index(f"program 2 of 2, {second}\n")
    assert said.index(f"program 2 of 2, {second}\n") < said.index(f"program 1 of 2, {first}\n")
    assert {name: contents(out / name) for name in expected} == expected


def test_two_launchers_divide_a_study(study, tmp_path, expected, contents, environment):
    """Started together, each trains what the other does not, and both end with the whole table."""
    command = [sys.executable, "-c", "from rljax.experiments.cli import main; main()", "sweep", "study.py", "--out", "out"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    both = [subprocess.Popen(command, env=environment, **pipes) for _ in range(2)]
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert {name: contents(tmp_path / "out" / name) for name in expected} == expected
    assert said[0].splitlines()[-4:] == said[1].splitlines()[-4:]
    assert "".join(said).count("compiling the agent") == 2


def test_a_look_at_the_lock_disturbs_nobody(tmp_path):
    """`store.locked` is not refused because of a look that happens at the same moment."""
    assert not store.is_locked(tmp_path / "none")
    with store.locked(tmp_path / "run"):
        assert store.is_locked(tmp_path / "run")
        (tmp_path / "run" / "kept").touch()
    stop = time.monotonic() + 0.5

    def look():
        while time.monotonic() < stop:
            store.is_locked(tmp_path / "run")

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    count = 0
    while time.monotonic() < stop:
        with store.locked(tmp_path / "run"):
            count += 1
    for thread in threads:
        thread.join()
    assert count > 10


def engine(*looks):
    """A cluster that answers with ``(running, ended)``, one after the other."""
    answers, stopped = list(looks), []
    return clusters.Engine(lambda: answers.pop(0), lambda: stopped.append(True)), stopped


def test_what_is_told_of_jobs(study, tmp_path, expected, capsys):
    """Which run, which are finished and, from the last line of its log, why one is not; that is raised in the end."""
    out, (first, second) = tmp_path / "out", expected
    given = parsed(study, "--on", "ray", "--cpus", "2")
    jobs = clusters.unfinished(sweep.plan(sweep.read(study)), out, given)
    assert [job.command.cpus for job in jobs.values()] == [2, 2]
    (out / "logs").mkdir(parents=True)
    (out / "logs" / f"{second}.log").write_text("step 100\nrljax: error: no good\n")
    found, stopped = engine(({first}, set()), ({first, second}, set()), ({second}, set()), (set(), {first, second}))
    with pytest.raises(InputError) as refusal:
        clusters.follow(jobs, out, found)
    lost = f"its worker has ended, and {out}/logs/{first}.log with: nothing"
    assert sorted(str(refusal.value).removeprefix("2 of 2 programs could not be trained: ").split("; ")) == sorted(
        [f"{first}: {lost}", f"{second}: no good"]
    )
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == [f"program 1 of 2, {first}, runs", f"program 2 of 2, {second}, runs"] and len(said) == 4
    assert not stopped


def test_a_worker_writes_a_log(study, tmp_path, expected, contents, environment):
    """In a process of its own, in the launcher's folder, with as many threads as it has CPUs; also an error."""
    out, (first, _) = tmp_path / "out", expected
    (out / "logs").mkdir(parents=True)
    (out / "study.json").touch()
    code = "import os, sys; from rljax.experiments.clusters import Command, run; os.chdir('/'); "
    made = clusters.command(parsed(study, "--on", "ray"), out, 1, first)
    for command, exit_code in ((made, 0), (made._replace(args=(*made.args[:-1], "7")), 2)):
        script = f"{code} c = run({command!r}); assert os.environ['NPROC'] == '1'; sys.exit(c)"
        done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
        assert done.returncode == exit_code and not done.stdout, done.stderr
    log = (out / "logs" / f"{first}.log").read_text().splitlines()
    assert log[-1] == "rljax: error: --only must be from 1 to 2, the programs of the study, got 7"
    assert log[-2].endswith(" --only 7") and log[-3] == f"study in {out}" and contents(out / first) == expected[first]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGUSR2, 3), pytest.param(signal.SIGTERM, 130, marks=pytest.mark.slow)])
def test_a_job_of_slurm_is_told_to_end(study, tmp_path, environment, number, code):
    """It makes a checkpoint; ahead of the end of its time it is then requeued, by the handler that submitit has set."""
    study.write_text(TEXT.replace('"steps": 300', '"steps": 100_000'))
    (tmp_path / "out" / "logs").mkdir(parents=True)
    (tmp_path / "out" / "study.json").touch()
    (job, _) = clusters.unfinished(sweep.plan(sweep.read(study)), tmp_path / "out", parsed(study, "--on", "slurm")).values()
    script = f"""
        import signal, sys
        from rljax.experiments import cluster_slurm
        from rljax.experiments.clusters import Command
        cluster_slurm.KILL_SECONDS = 0
        signal.signal(signal.SIGTERM, lambda *_: None)
        signal.signal(signal.SIGUSR2, lambda *_: sys.exit(3))
        sys.exit(cluster_slurm.Requeued({job.command!r})())
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], env=environment)
    rows = tmp_path / "out" / job.program.folder / "metrics.jsonl"
    while process.poll() is None and len(store.read_rows(rows)) < 20:
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait(120) == code
    (said,) = re.findall(r"stopped at step (\d+);", Path(job.command.log).read_text())
    assert job.program.step(tmp_path / "out") == int(said) < 100_000


def parsed(study, *options):
    """The options of ``rljax sweep``, checked."""
    from rljax.experiments import cli, forms

    given = forms.parse(cli.Sweep, [str(study), *options], "rljax sweep")
    clusters.check(given)
    return given


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("--only 0", "--only must be from 1 to 2, the programs of the study, got 0"),
        ("--only 3", "--only must be from 1 to 2, the programs of the study, got 3"),
        ("--only x", "--only"),
        ("--only 1 --plan", "--plan does not go with --only: give one of them"),
        ("--commands --plan", "--plan does not go with --commands: give one of them"),
        ("--commands --on ray", "--commands does not go with --on ray: give one of them"),
        ("--only 1 --on slurm", "--only does not go with --on slurm: give one of them"),
        ("--on pbs", "--on"),
        ("--cpus 2", "--cpus goes with --on ray or --on slurm"),
        ("--gpus 1 --commands", "--gpus goes with --on ray or --on slurm"),
        ("--detach", "--detach goes with --on slurm"),
        ("--on ray --detach", "--detach goes with --on slurm"),
        ("--on ray --minutes 5", "--minutes goes with --on slurm"),
        ("--on ray --partition gpu", "--partition goes with --on slurm"),
        ("--on slurm --address a:1", "--address goes with --on ray"),
        ("--on slurm --minutes 2", "--minutes must be at least 3, got 2"),
        ("--on slurm --cpus 0", "--cpus must be at least 1, got 0"),
        ("--on ray --gpus -1", "--gpus must be at least 0, got -1"),
        ("--on ray --gpus 0.5", "--gpus"),
        ("--on ray --memory 0", "--memory must be at least 1, got 0"),
        ("--on slurm --at-once 0", "at once must be at least 1 learner, got 0"),
    ],
)
def test_what_the_command_line_refuses(study, tmp_path, line, sentence):
    with pytest.raises(InputError) as refusal:
        rljax(["sweep", "study.py", *line.split()])
    assert sentence in str(refusal.value) and "\n" not in str(refusal.value) and not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("head", "the address of a Ray cluster must be HOST:PORT, such as 10.0.0.1:6379, got 'head'"),
        ("ray://head:10001", "must be HOST:PORT"),
        ("head:port", "must be HOST:PORT"),
        ("127.0.0.1:99999", "must be HOST:PORT"),
        ("127.0.0.1:1", "there is no Ray cluster at 127.0.0.1:1 (Connection refused)"),
    ],
)
def test_an_address_without_a_cluster(address, sentence):
    with pytest.raises(InputError) as refusal:
        cluster_ray.require_answer(address)
    assert sentence in str(refusal.value)


@pytest.mark.parametrize(("engine", "library"), [("ray", "ray"), ("slurm", "submitit")])
def test_an_extra_that_is_missing(study, tmp_path, monkeypatch, engine, library):
    """Is told before anything is written."""
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(InputError) as refusal:
        rljax(["sweep", "study.py", "--on", engine])
    assert str(refusal.value) == f'{library} is not installed: pip install "rljax[{engine}]"'
    assert not (tmp_path / "runs").exists()


def test_slurm_is_missing(study, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(InputError, match="there is no sbatch on this machine: give the command where jobs are submitted"):
        rljax(["sweep", "study.py", "--on", "slurm"])
