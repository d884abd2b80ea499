"""A study on Slurm: an array of jobs through submitit, one for each program, requeued before their time is over."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import io
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from rljax import store
from rljax.base import InputError
from rljax.experiments import clusters, progress
from rljax.experiments.clusters import Begin, Command, Engine, Job

MINUTES = 60  # that a job may take before it is requeued
WARNING_SECONDS = 90  # between Slurm's signal and the end of a job's time
REQUEUES = 10_000  # of one job; each goes on where the one before was
KILL_SECONDS = 300  # that a job which was told to end waits for its end


@dataclass(frozen=True)
class Requeued:
    """What submitit runs as a job, again and again until the program is finished."""

    command: Command

    def __call__(self) -> int:
        """The exit code of the program's command.

        When Slurm says that time is nearly over, the run makes a checkpoint first, and is then requeued by submitit. When
        it says to end, because of a cancellation or of a preemption after which it requeues the job itself, the run makes
        a checkpoint and waits for that end: a job that ends by itself counts as done.
        """
        requeue, ignore, warned = signal.getsignal(signal.SIGUSR2), signal.getsignal(signal.SIGTERM), []

        def warn(number: int, frame: FrameType | None) -> None:
            if signal.getsignal(signal.SIGTERM) == ignore:  # nothing is being trained that could be lost
                requeue(number, frame)  # type: ignore[operator,misc]
            warned.append(number)
            signal.raise_signal(signal.SIGTERM)

        signal.signal(signal.SIGUSR2, warn)
        code = clusters.run(self.command)
        if code == 130 and warned:
            requeue(warned[0], None)  # type: ignore[operator,misc]
        if code == 130:
            time.sleep(KILL_SECONDS)
        return code

    def checkpoint(self) -> Any:
        """What submitit runs after a requeue: the same, since all that has been done is in the run folder."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def connect(given: Any) -> Begin:
    """Look for submitit and Slurm.

    Raises:
        InputError: if one of them is not installed; later, if Slurm refuses the jobs.
    """
    if importlib.util.find_spec("submitit") is None:
        raise InputError('submitit is not installed: pip install "rljax[slurm]"')
    for program in ("sbatch", "squeue", "srun"):
        if shutil.which(program) is None:
            raise InputError(f"there is no {program} on this machine: give the command where jobs are submitted")
    return functools.partial(_begin, given)


def _begin(given: Any, jobs: Mapping[str, Job], out: Path) -> Engine:
    """Submit those of ``jobs`` that are not with Slurm already."""
    name, path = f"rljax-{hashlib.sha256(str(out).encode()).hexdigest()[:8]}", out / "slurm" / "jobs.json"
    submit = _submitter(name, out, given)
    ids, there = store.read_json(path) if path.exists() else {}, _states(name)
    if there is None:
        raise InputError("Slurm does not answer: squeue fails on this machine")
    old = {folder: ids[folder] for folder in jobs if ids.get(folder) in there}
    for folder in old:
        progress.say(f"{jobs[folder].title}, is with Slurm already")
    new = {folder: Requeued(job.command) for folder, job in jobs.items() if folder not in old}
    ids = old | (submit(new) if new else {})
    store.write_json(path, ids)
    progress.say(f"Slurm's jobs {' '.join(ids[folder] for folder in jobs)}; squeue --name {name} shows them")

    def look() -> tuple[set[str], set[str]]:
        time.sleep(clusters.LOOK_SECONDS)
        states = _states(name)
        if states is None:  # a busy controller
            return running, set()
        running.clear()
        running.update(folder for folder, number in ids.items() if states.get(number) == "RUNNING")
        ended = {folder for folder, number in ids.items() if number not in states}
        for folder in ended:
            del ids[folder]
        return set(running), ended

    def stop() -> None:
        progress.say(f"the jobs go on: the same command follows them again, scancel --name {name} stops them")

    running: set[str] = set()
    return Engine(look, stop)


def _submitter(name: str, out: Path, given: Any) -> Any:
    """``submit(calls)``: the id of each call's job, by folder."""
    import submitit

    executor = submitit.SlurmExecutor(out / "slurm", max_num_timeout=REQUEUES)
    asked = {"partition": given.partition, "mem": given.memory and f"{given.memory}G", "gpus_per_node": given.gpus or None}
    executor.update_parameters(
        job_name=name,
        time=given.minutes or MINUTES,
        cpus_per_task=given.cpus or 1,
        signal_delay_s=WARNING_SECONDS,
        stderr_to_stdout=True,
        additional_parameters={"requeue": True},
        **{key: value for key, value in asked.items() if value is not None},
    )

    def submit(calls: Mapping[str, Requeued]) -> dict[str, str]:
        try:
            with contextlib.redirect_stderr(io.StringIO()), executor.batch():
                submitted = [executor.submit(call) for call in calls.values()]
        except submitit.core.utils.FailedJobError as error:
            said = [line.removeprefix("sbatch: error: ") for line in str(error).splitlines()]
            raise InputError(f"Slurm refuses the jobs: {'; '.join(said)}") from None
        return {folder: job.job_id for folder, job in zip(calls, submitted, strict=True)}

    return submit


def _states(name: str) -> dict[str, str] | None:
    """The states of this user's jobs of this name that have not ended, by their ids; None if Slurm does not answer."""
    asked = subprocess.run(
        ["squeue", "--me", "--array", "--noheader", f"--name={name}", "--format=%i %T"],
        capture_output=True,
        text=True,
    )
    return None if asked.returncode else dict(line.split(maxsplit=1) for line in asked.stdout.splitlines())
