"""A study of three small programs, what an undisturbed one gives, and what is looked at in its folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from rljax import store
from rljax.experiments import sweep
from rljax.experiments.train import load

RLJAX = [sys.executable, "-c", "from rljax.experiments.cli import main; main()"]
STUDY = """
from rljax.experiments.sweep import Run

TINY = {"actor_width": 8, "critic_width": 8, "batch_size": 8, "warmup": 100}
COUNTS = {"steps": 50_000, "eval_every": 5_000, "eval_episodes": 2}
RUNS = [Run("sac", "pendulum", config=TINY, grid={"critic_width": [8, 16, 24], "actor_lr": [1e-4, 1e-3]}, **COUNTS)]
"""


class Study(NamedTuple):
    """The study's file, the names of its run folders, and the folder ``out``."""

    file: Path
    programs: list[str]
    out: Path

    def launch(self, *options):
        """The launcher's process, the leader of a process group."""
        command = [*RLJAX, "sweep", self.file, "--out", self.out, *options]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)

    def finish(self, *options):
        """What the launcher says until the study is finished."""
        process = self.launch(*options)
        said = process.communicate()[0]
        assert process.returncode == 0, said
        return said

    def contents(self):
        """All that must not depend on interruptions: of each program the metrics' bytes and a hash of what was learned."""
        folders = [self.out / name for name in self.programs]
        return [((folder / "metrics.jsonl").read_bytes(), store.digest(load(folder).state)) for folder in folders]

    def begun(self):
        """The programs that have come to step 1000."""
        rows = {name: store.read_rows(self.out / name / "metrics.jsonl") for name in self.programs}
        return [name for name in rows if rows[name] and rows[name][-1]["step"] > 1_000]

    def log(self, *names):
        """What the workers of these programs have said, or of all."""
        logs = [self.out / "logs" / f"{name}.log" for name in names or self.programs]
        return "".join(log.read_text() for log in logs if log.exists())

    def done(self):
        """The programs whose workers have said that they are finished."""
        return [name for name in self.programs if "study in" in self.log(name)]

    def stamps(self, names):
        """When the metrics of these programs were last written."""
        return [(self.out / name / "metrics.jsonl").stat().st_mtime_ns for name in names]


@pytest.fixture(scope="session")
def kill():
    """``kill(launcher)`` and all of its process group; what it had said."""

    def send(process, number=signal.SIGKILL):
        os.killpg(process.pid, number)
        return process.communicate()[0]

    return send


@pytest.fixture
def wait():
    """``wait(condition)`` until it holds."""

    def until(condition):
        deadline = time.monotonic() + 400
        while not condition():
            assert time.monotonic() < deadline, "nothing happens"
            time.sleep(0.02)

    return until


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """Variables of all processes: one compilation cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("jax")))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("NPROC", "1")  # as workers with one CPU: compiled code may depend on the number of threads
        yield


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory, environment):
    """The study, trained on this machine."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "study.py").write_text(STUDY)
    programs = [program.folder for program in sweep.plan(sweep.read(folder / "study.py"))]
    whole = Study(folder / "study.py", programs, folder / "whole")
    whole.finish()
    return whole


@pytest.fixture(scope="session")
def expected(undisturbed):
    """What the undisturbed study has given."""
    return undisturbed.contents()


@pytest.fixture
def study(undisturbed, tmp_path):
    """The study, in a folder of the test's own."""
    return undisturbed._replace(out=tmp_path / "out")
