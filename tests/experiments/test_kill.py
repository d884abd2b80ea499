"""A run that is killed again and again ends as one that never was: ``pytest -m slow tests/experiments/test_kill.py``."""

from __future__ import annotations

import random
import re
import signal
import subprocess
import sys
import time

import pytest

from rljax import store

RLJAX = [sys.executable, "-c", "from rljax.experiments.cli import main; main()"]
RUN = """train sac pendulum --seeds 2 --steps 12000 --eval-every 1000 --eval-episodes 2 --config.batch-size 16
    --config.warmup 200 --config.actor-width 16 --config.critic-width 16""".split()


@pytest.fixture
def environment(tmp_path, pytestconfig):
    """Variables of the child processes: one compilation cache for all of them."""
    import os

    return os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(pytestconfig.cache.mkdir("jax")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def start(out, environment):
    """The run's command, as a live process."""
    return subprocess.Popen([*RLJAX, *RUN, "--out", out], env=environment, stdout=subprocess.PIPE, text=True)


def finish(out, environment):
    """Run to the end: the rows, the parameters' hash, and what was said."""
    done = subprocess.run([*RLJAX, *RUN, "--out", out], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shown = subprocess.run([*RLJAX, "show", out, "--params-hash"], env=environment, capture_output=True, text=True)
    assert re.fullmatch(r"[0-9a-f]{64}\n", shown.stdout), shown.stderr
    return (out / "metrics.jsonl").read_bytes(), shown.stdout, done.stdout


def last_step(out):
    rows = store.read_rows(out / "metrics.jsonl")
    return rows[-1]["step"] if rows else 0


def kill(out, environment, step, in_write):
    """Kill the run when its metrics pass ``step`` - or then in the next write of a checkpoint; what it had said.

    Returns ``(output, whether a checkpoint was being written)``.
    """
    resumes = (out / "checkpoints").exists()
    process = start(out, environment)
    said = ""
    while resumes and "resumed at step" not in said and process.poll() is None:
        said += process.stdout.readline()  # until then the rows are those of the process before
    while process.poll() is None and last_step(out) < step:
        time.sleep(0.001)
    while in_write and process.poll() is None and not list(out.glob("checkpoints/*.part")):
        time.sleep(0.0002)
    process.kill()
    said += process.communicate()[0]
    assert process.returncode == -signal.SIGKILL, "the run ended before it could be killed"
    return said, bool(list(out.glob("checkpoints/*.part")))


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.timeout(1800)
def test_killed_run_equals_an_unkilled_one(tmp_path, environment, kills):
    """Each restart resumes above step 0 and never before the last; rows and parameters are equal byte for byte."""
    rows, learned, _ = finish(tmp_path / "whole", environment)
    rng = random.Random(kills)
    steps = sorted(rng.sample(range(200, 10_500), kills))
    resumed, writes = [], 0
    for i, step in enumerate(steps):
        said, writing = kill(tmp_path / "killed", environment, step, in_write=i % 3 == 1)
        writes += writing
        resumed += [int(number) for number in re.findall(r"resumed at step (\d+)", said)]
    ended, hashed, said = finish(tmp_path / "killed", environment)
    resumed += [int(number) for number in re.findall(r"resumed at step (\d+)", said)]
    print(f"killed past steps {steps}, {writes} times inside a write; resumed at {resumed}")
    assert len(resumed) == kills and resumed[0] > 0 and resumed == sorted(resumed)
    assert writes >= kills // 4
    assert (ended, hashed) == (rows, learned)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_run_continues(tmp_path, environment, number):
    """Ctrl-C and SIGTERM stop at the end of a chunk with a checkpoint there, and exit code 130."""
    process = start(tmp_path / "run", environment)
    while process.poll() is None and last_step(tmp_path / "run") < 1_500:
        time.sleep(0.005)
    process.send_signal(number)
    said = process.communicate()[0]
    stopped = re.search(r"stopped at step (\d+); the same command continues", said)
    assert process.returncode == 130 and stopped, said
    _, _, said = finish(tmp_path / "run", environment)
    assert f"resumed at step {stopped[1]}" in said
