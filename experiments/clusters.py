"""Studies on clusters: each program of a study is one plain command, which Ray, Slurm or any other scheduler can run.

Workers share the study's folder with the launcher. Whether a program is finished, and from where it goes on, is read there and
nowhere else; the lock of its run folder keeps two workers from training it at once.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from rljax import store
from rljax.base import InputError
from rljax.experiments import progress, sweep
from rljax.experiments.machine import stop_signals

LOOK_SECONDS = 1.0  # between looks at what a cluster does
SHORTEST = 3  # minutes of a job: Slurm's warning of its end may come a minute early

# The engines that each option is for.
_ENGINES = MappingProxyType(
    {
        "cpus": ("ray", "slurm"),
        "gpus": ("ray", "slurm"),
        "memory": ("ray", "slurm"),
        "address": ("ray",),
        "partition": ("slurm",),
        "minutes": ("slurm",),
        "detach": ("slurm",),
    }
)


class Command(NamedTuple):
    """What trains one program: arguments of ``rljax``, the folder to run it in, the file for what it says, and its CPUs."""

    args: tuple[str, ...]
    folder: str
    log: str
    cpus: int

    def line(self) -> str:
        """It for a shell."""
        return shlex.join(["rljax", *self.args])


class Job(NamedTuple):
    """A program that is not finished: what messages call it, the program, and what trains it."""

    title: str
    program: sweep.Program
    command: Command


class Engine(NamedTuple):
    """A cluster that has been given jobs, each known by its program's folder.

    ``look()`` gives those that run and those that have ended, finished or not; ``stop()`` is for Ctrl-C.
    """

    look: Callable[[], tuple[set[str], set[str]]]
    stop: Callable[[], None]


Begin = Callable[[Mapping[str, Job], Path], Engine]  # gives the cluster the jobs of the study in this folder


def check(given: Any) -> None:
    """Raise `InputError` for options of ``rljax sweep`` that do not go together, or are out of range."""
    modes = [name for name in ("plan", "commands") if getattr(given, name)]
    modes += ["only"] * (given.only is not None) + [f"on {given.on}"] * (given.on != "here")
    if len(modes) > 1:
        raise InputError(f"--{modes[0]} does not go with --{modes[1]}: give one of them")
    for name, engines in _ENGINES.items():
        if given.on not in engines and getattr(given, name) not in (None, False):
            raise InputError(f"--{name} goes with --on {' or --on '.join(engines)}")
    for name, least in (("cpus", 1), ("gpus", 0), ("memory", 1), ("minutes", SHORTEST)):
        value = getattr(given, name)
        if value is not None and value < least:
            raise InputError(f"--{name} must be at least {least}, got {value}")


def command(given: Any, out: Path, number: int, folder: str) -> Command:
    """What trains program ``number`` of a study, whose run folder has this name, as ``rljax sweep`` was ``given`` it."""
    parts = () if given.at_once is None else ("--at-once", str(given.at_once))
    args = ("sweep", str(given.study.absolute()), "--out", str(out), *parts, "--only", str(number))
    return Command(args, os.getcwd(), str(out / "logs" / f"{folder}.log"), given.cpus or 1)


def unfinished(programs: Sequence[sweep.Program], out: Path, given: Any) -> dict[str, Job]:
    """The job of each program that is not finished, by the name of its folder."""
    jobs = {}
    for number, (title, program) in enumerate(zip(sweep.titles(programs), programs, strict=True), 1):
        if not program.finished(out):
            jobs[program.folder] = Job(title, program, command(given, out, number, program.folder))
    return jobs


def run(command: Command) -> int:
    """Train a program in this process, which is a worker's and has not computed anything yet; the exit code of its command.

    All that is said is added to the command's log; the last line tells of an error.
    """
    from rljax.experiments import cli

    os.chdir(command.folder)
    os.environ["NPROC"] = str(command.cpus)  # so many threads XLA starts on a CPU
    log = open(command.log, "a", buffering=1)  # not closed: handlers of logging that are made in the meantime keep it
    with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        progress.say(command.line())
        try:
            return cli.run(command.args)
        except InputError as error:
            progress.say(f"rljax: error: {error}")
            return 2
        except Exception:
            traceback.print_exc()
            raise


def train(programs: Sequence[sweep.Program], out: Path, given: Any) -> bool:
    """As `sweep.train`, by workers of the cluster that ``given`` names; with its ``detach``, jobs are begun and not waited for.

    Raises:
        InputError: if the cluster cannot be used; after all others, for programs that could not be trained.
    """
    from rljax.experiments import cluster_ray, cluster_slurm

    connect: Callable[[Any], Any] = {"ray": cluster_ray.connect, "slurm": cluster_slurm.connect}[given.on]
    jobs = unfinished(programs, out, given)
    begin = connect(given) if jobs else None
    sweep.write(programs, out)
    (out / "logs").mkdir(exist_ok=True)
    for title, program in zip(sweep.titles(programs), programs, strict=True):
        if program.folder not in jobs:
            progress.say(f"{title}, is finished")
    if begin is None:
        return True
    engine = begin(jobs, out)
    return given.detach or follow(jobs, out, engine)


def follow(jobs: Mapping[str, Job], out: Path, engine: Engine) -> bool:
    """Say which programs begin and end until all have, and whether that is so and not Ctrl-C came.

    Raises:
        InputError: in the end, for those that could not be trained.
    """
    left, running, failed = dict(jobs), set[str](), []
    with stop_signals(lambda said: None) as stopped:
        while left and not stopped():
            before, (running, ended) = running, engine.look()
            for folder in sorted((running - before) & left.keys()):
                progress.say(f"{left[folder].title}, runs")
            for folder in sorted(ended):
                fault = _fault(left.pop(folder), out)
                failed += [fault] if fault else []
        if left:
            engine.stop()
            return False
    sweep.refuse(failed, len(jobs))
    return True


def active(jobs: Mapping[str, Job], out: Path) -> set[str]:
    """Those whose run folder is locked, which is so while they are trained."""
    return {folder for folder in jobs if store.is_locked(out / folder)}


def _fault(job: Job, out: Path) -> str:
    """Why a program whose job has ended is not finished, which is said, or ""."""
    if job.program.finished(out):
        progress.say(f"{job.title}, is finished")
        return ""
    log = Path(job.command.log)
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    last = next((line for line in reversed(lines) if line.strip()), "nothing")
    mine = last.startswith("rljax: error: ")
    fault = last.removeprefix("rljax: error: ") if mine else f"its worker has ended, and {log} with: {last}"
    progress.say(f"{job.title}, failed: {fault}")
    return f"{job.program.folder}: {fault}"
