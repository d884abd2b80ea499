"""Studies on a real Slurm of this machine, as root: ``pytest tests/cluster/test_slurm.py`` with the extra slurm; see slurm.sh.

Jobs and the launcher are killed, time is over, another job has precedence; what comes out is, byte for byte, what an
undisturbed study gives.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import psutil
import pytest

pytest.importorskip("submitit")
if not (shutil.which("slurmctld", path="/usr/sbin") and shutil.which("sbatch")):
    pytest.skip("apt-get install slurmctld slurmd slurm-client munge", allow_module_level=True)

pytestmark = pytest.mark.timeout(1200)
SCRIPT = Path(__file__).with_name("slurm.sh")
OPTIONS = ("--on", "slurm", "--memory", "1", "--minutes", "3")


@pytest.fixture(scope="module", autouse=True)
def slurm(environment):
    """A running Slurm, whose folder's name is short, as a socket's has to be."""
    folder = Path(tempfile.mkdtemp(prefix="slurm"))
    subprocess.run([SCRIPT, "start", folder], check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        yield
    subprocess.run([SCRIPT, "stop", folder], check=True)
    shutil.rmtree(folder, ignore_errors=True)


def queue():
    """``{id: state}`` of all jobs."""
    command = ["squeue", "--array", "--noheader", "--format=%i %T"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return dict(line.split() for line in lines)


def job(study, name):
    """The id of a program's job."""
    return json.loads((study.out / "slurm" / "jobs.json").read_text())[name]


def kill_job(study, name):
    """SIGKILL for the process that trains a program."""
    number = job(study, name)
    for process in psutil.process_iter(["cmdline", "environ"]):
        variables = process.info["environ"] or {}
        mine = f"{variables.get('SLURM_ARRAY_JOB_ID')}_{variables.get('SLURM_ARRAY_TASK_ID')}" == number
        if mine and "submitit.core._submit" in (process.info["cmdline"] or []):
            process.kill()


def test_a_job_and_the_launcher_are_killed(study, expected, wait, kill):
    """A killed job fails and its program goes on with the same command, which follows the jobs of a killed launcher."""
    launcher = study.launch(*OPTIONS)
    wait(lambda: len(study.begun()) == 2)
    kill(launcher)
    lost, kept = study.begun()
    kill_job(study, lost)
    wait(lambda: job(study, lost) not in queue())
    assert job(study, kept) in queue()
    said = study.finish(*OPTIONS)
    assert f"{kept}, is with Slurm already" in said and f"{lost}, is with Slurm already" not in said
    assert study.contents() == expected and study.log().count("resumed at step") == 1
    assert study.log(lost).count("resumed at step") == 1
    stamps = study.stamps(study.programs)
    assert study.finish(*OPTIONS).count("is finished") == 3 and study.stamps(study.programs) == stamps


def test_a_killed_job_is_told_about(study, wait):
    launcher = study.launch(*OPTIONS)
    wait(lambda: len(study.begun()) == 2)
    (lost, _) = study.begun()
    kill_job(study, lost)
    said = launcher.communicate()[0]
    assert launcher.returncode == 2 and "1 of 3 programs could not be trained" in said.splitlines()[-1], said
    assert f"{lost}: its worker has ended, and {study.out}" in said and len(study.done()) == 2


def test_a_job_of_higher_priority_comes(study, expected, wait):
    """Slurm tells the study's jobs to end, which make a checkpoint, and requeues them."""
    launcher = study.launch(*OPTIONS)
    wait(lambda: len(study.begun()) == 2)
    subprocess.run(["sbatch", "--partition=high", "--exclusive", "--wrap=sleep 5", "--output=/dev/null"], check=True)
    said = launcher.communicate()[0]
    assert launcher.returncode == 0 and study.contents() == expected, said
    assert 2 <= study.log().count("stopped at step") == study.log().count("resumed at step")


def test_ctrl_c_leaves_the_jobs_alone(study, expected, wait, kill):
    launcher = study.launch(*OPTIONS)
    wait(lambda: len(study.begun()) == 2)
    said = kill(launcher, signal.SIGINT)
    assert launcher.returncode == 130 and "the jobs go on" in said and len(queue()) == 3
    waiting = study.programs[2]
    said = study.finish(*OPTIONS, "--detach")
    assert f"{waiting}, is with Slurm already" in said and job(study, waiting) in queue()
    assert study.finish(*OPTIONS).count("is finished") == 3
    assert study.contents() == expected and "resumed" not in study.log()


def test_time_is_over(study, wait):
    """Before the end of three minutes the run makes a checkpoint, is requeued, and goes on from there."""
    text = study.file.read_text().replace("50_000", "2_000_000").replace('"critic_width": [8, 16, 24], ', "")
    (long := study.out.parent / "long.py").write_text(text)
    launcher = study._replace(file=long).launch(*OPTIONS)
    try:
        (log,) = wait(lambda: list(study.out.glob("logs/*.log"))) or list(study.out.glob("logs/*.log"))
        wait(lambda: "resumed at step" in log.read_text())
    finally:
        subprocess.run(["scancel", "--me"], check=True)
    said = launcher.communicate()[0]
    stopped, resumed = (next(x for x in log.read_text().splitlines() if x.startswith(y)) for y in ("stopped at", "resumed at"))
    assert stopped.removeprefix("stopped at ").split(";")[0] == resumed.removeprefix("resumed at "), said


def test_what_slurm_refuses(study):
    launcher = study.launch(*OPTIONS, "--partition", "nope")
    said = launcher.communicate()[0].splitlines()
    assert launcher.returncode == 2 and said[-1].startswith("rljax: error: Slurm refuses the jobs: invalid partition")
