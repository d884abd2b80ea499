"""A run that is killed again and again ends as one that never was: ``pytest -m slow tests/experiments/test_kill.py``."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest

from rljax import store
from rljax.agents import sac
from rljax.config import override
from rljax.experiments import train

RLJAX = [sys.executable, "-c", "from rljax.experiments.cli import main; main()"]
RUN = """train sac pendulum --seeds 2 --steps 12000 --eval-every 1000 --eval-episodes 2 --config.batch-size 16
    --config.warmup 200 --config.actor-width 16 --config.critic-width 16""".split()

FINETUNE = """finetune wsrl pendulum --seeds 2 --offline-steps 2000 --steps 6000 --warmup 3000 --eval-every 500
    --eval-episodes 2 --config.batch-size 8 --config.actor-width 8 --config.critic-width 8 --config.num-critics 2
    --config.utd 2""".split()


ROLLOUTS = """train ppo pendulum --seeds 2 --steps 60000 --num-envs 4 --eval-every 1600 --eval-episodes 2
    --config.rollout 20 --config.actor-width 16 --config.critic-width 16""".split()
SEQUENCES = """train drama recall?horizon=20 --seeds 2 --steps 12000 --eval-every 800 --eval-episodes 2 --config.every 8
    --config.size.width 16 --config.size.hidden 16 --config.size.groups 4 --config.size.classes 4 --config.starts 8
    --config.size.actor-width 16 --config.size.critic-width 16 --config.length 8 --config.warmup 1600""".split()


@pytest.fixture
def environment(tmp_path, pytestconfig):
    """Variables of the child processes: one compilation cache for all of them."""
    import os

    return os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(pytestconfig.cache.mkdir("jax")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }


def start(out, environment, command=RUN):
    """The run's command, as a live process."""
    return subprocess.Popen([*RLJAX, *command, "--out", out], env=environment, stdout=subprocess.PIPE, text=True)


def finish(out, environment, command=RUN):
    """Run to the end: the rows, the parameters' hash, and what was said."""
    done = subprocess.run([*RLJAX, *command, "--out", out], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shown = subprocess.run([*RLJAX, "show", out, "--params-hash"], env=environment, capture_output=True, text=True)
    assert re.fullmatch(r"[0-9a-f]{64}\n", shown.stdout), shown.stderr
    return (out / "metrics.jsonl").read_bytes(), shown.stdout, done.stdout


def last_step(out):
    rows = store.read_rows(out / "metrics.jsonl")
    return rows[-1]["step"] if rows else 0


def last_phase(out):
    return store.read_rows(out / "metrics.jsonl")[-1]["phase"]


def kill(out, environment, step, in_write, command=RUN):
    """Kill the run when its metrics pass ``step`` - or then in the next write of a checkpoint; what it had said.

    Returns ``(output, whether a checkpoint was being written)``.
    """
    resumes = (out / "checkpoints").exists()
    process = start(out, environment, command)
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


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
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


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("command", "first", "second"),
    [(ROLLOUTS, 5_000, 20_000), (SEQUENCES, 1_000, 6_000)],
    ids=["rollouts", "sequences, in the warm-up and later"],
)
def test_a_killed_run_of_another_loop_equals_an_unkilled_one(tmp_path, environment, command, first, second):
    """Between checkpoints and while one is written: without a ring, and with one of sequences, their counts and a memory."""
    rows, learned, _ = finish(tmp_path / "whole", environment, command)
    resumed = 0
    for step, in_write in ((first, False), (second, True)):
        resumed += "resumed at step" in kill(tmp_path / "killed", environment, step, in_write, command)[0]
    ended, hashed, said = finish(tmp_path / "killed", environment, command)
    assert (ended, hashed) == (rows, learned) and resumed == 1 and "resumed at step" in said


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_fine_tuning_killed_in_each_phase(tmp_path, environment):
    """While it learns offline, in the warm-up and online: rows and parameters of both parts are those of an unkilled run."""
    collect = [*RLJAX, "collect", "pendulum", "--kinds", "random", "--steps", "1000", "--out", tmp_path]
    subprocess.run(collect, env=environment, check=True)
    command = [*FINETUNE, "--data", str(tmp_path / "random.hdf5")]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    expected = finish(whole, environment, command)[:2]
    for folder, step, phase in ((killed / "offline", 1_000, "offline"), (killed, 500, "warmup"), (killed, 4_000, "online")):
        process = start(killed, environment, command)
        while process.poll() is None and last_step(folder) < step:
            time.sleep(0.0005)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL and last_phase(folder) == phase
    rows, learned, said = finish(killed, environment, command)
    assert (rows, learned) == expected and "finished at step 2000" in said and "resumed at step" in said
    assert (killed / "offline" / "metrics.jsonl").read_bytes() == (whole / "offline" / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_stopped_run_continues(tmp_path, environment, number):
    """Ctrl-C and SIGTERM stop at the end of a chunk with a checkpoint there, and exit code 130."""
    command = [*RUN, "--steps", "4000"]
    process = start(tmp_path / "run", environment, command)
    while process.poll() is None and last_step(tmp_path / "run") < 1_500:
        time.sleep(0.005)
    process.send_signal(number)
    said = process.communicate()[0]
    stopped = re.search(r"stopped at step (\d+); the same command continues", said)
    assert process.returncode == 130 and stopped, said
    _, _, said = finish(tmp_path / "run", environment, command)
    assert f"resumed at step {stopped[1]}" in said


def test_a_signal_between_a_chunk_and_the_next(tmp_path, monkeypatch, capsys):
    """The rows of a chunk are on disk, without a checkpoint: the next chunk is run, and the run stops where one is."""
    config = override(
        sac.Config(), {"actor_width": 8, "critic_width": 8, "actor_depth": 1, "critic_depth": 1, "batch_size": 8, "warmup": 100}
    )
    log, signalled = train._log, []

    def signal_at_once(out, rows, name="metrics.jsonl"):
        done = log(out, rows, name)
        if name == "timing.jsonl" and rows[0].get("step") == 1_500 and not signalled:
            signalled.append(os.kill(os.getpid(), signal.SIGTERM))
        return done

    monkeypatch.setattr(train, "_log", signal_at_once)
    run = train.train(sac, config, "pendulum", seeds=1, steps=8_000, eval_every=4_000, eval_episodes=1, out=tmp_path / "run")
    assert signalled and run.stopped and 1_500 < run.step < 8_000
    assert f"stopped at step {run.step};" in capsys.readouterr().out
    assert store.newest(tmp_path / "run", print)[0] == run.step
