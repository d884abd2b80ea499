"""What is bit-equal, agent by agent: ``python tests/faults/determinism.py [--agents sac iql] [--out determinism.json]``.

Each agent learns with three seeds, and then again in five ways: the same once more; stopped on the way and gone on with; its
second seed alone; that stopped and gone on with; and all spread over devices, on a CPU three virtual ones of eight. Compared
are the bits of all that is learned and logged, and if they differ the numbers of the first and of the last logged step.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any
from unittest import mock

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"

import jax
import numpy as np
import tyro

from rljax import store
from rljax.data import save
from rljax.data.dataset import Info, Steps, from_steps
from rljax.experiments import cli, devices
from rljax.experiments import train as training

DATA, CHOICES = "pendulum.npz", "choices.npz"
LEARNED = "--steps 300 --eval-every 150 --eval-episodes 2"
RUNS = {
    **dict.fromkeys(("bc", "td3_bc", "iql", "cql", "calql"), f"pendulum --data {DATA} {LEARNED}"),
    **dict.fromkeys(("bc_discrete", "iql_discrete", "cql_discrete"), f"gymnax/CartPole-v1 --data {CHOICES} {LEARNED}"),
    **dict.fromkeys(("sac", "drama"), f"pendulum {LEARNED}"),
    **dict.fromkeys(("dqn", "sac_discrete"), f"gymnax/CartPole-v1 {LEARNED}"),
    **dict.fromkeys(("rlpd", "moorl"), f"pendulum --data {DATA} {LEARNED}"),
    "ppo": "pendulum --num-envs 2 --steps 320 --eval-every 160 --eval-episodes 2",
    **dict.fromkeys(("sqirl", "gorp"), "tabular/trap?k=3 --steps 300 --eval-every 1 --eval-episodes 2"),
    "wsrl": f"pendulum --data {DATA} --offline-steps 100 --warmup 50 {LEARNED}",
}
TINY = {"width": 8, "depth": 1, "batch_size": 8, "warmup": 60, "rollout": 8, "epochs": 1, "minibatches": 1, "k": 3}
TINY |= {"num_critics": 3, "starts": 4, "length": 6, "context": 3, "ahead": 3, "episodes": 3}
DREAM = "--config.size.width 16 --config.size.hidden 16 --config.size.groups 4 --config.size.classes 4 --config.every 20"
WAYS = ("again", "resumed", "alone", "alone, resumed", "eight devices")


@dataclass(frozen=True)
class Table:
    """Compare the ways in which an agent can learn the same."""

    agents: tuple[str, ...] = tuple(RUNS)
    out: Path | None = None


def main() -> None:
    """Print the table, and write it."""
    table = tyro.cli(Table)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        record()
        for agent in table.agents:
            found[agent] = compared(agent)
            print(f"{agent:<13}", *(f"{way}: {found[agent][way]}" for way in WAYS), sep="  ", flush=True)
    if table.out:
        text = json.dumps({"backend": jax.default_backend(), "jax": jax.__version__, "agents": found}, indent=1)
        table.out.write_text(text + "\n")


def record() -> None:
    """Data sets of noise in the shapes of both environments."""
    rng, last = np.random.default_rng(0), np.arange(200) % 20 == 19
    for file, obs, action in ((DATA, 3, rng.uniform(-2, 2, (200, 1))), (CHOICES, 4, rng.integers(0, 2, 200))):
        seen, successors = rng.normal(size=(2, 200, obs))
        steps = Steps(seen, action, rng.normal(size=200), successors, np.zeros(200, bool), last, last, ~np.zeros(200, bool))
        save(from_steps(steps, Info(file, "rljax")), Path(file))


def compared(agent: str) -> dict[str, str]:
    """For each way "equal", or how far the numbers are apart."""
    with mock.patch.object(devices, "mesh", lambda num: None):
        whole = learned(agent, "whole")
        again, alone = learned(agent, "again"), learned(agent, "alone", "1,")
        with stopping():
            learned(agent, "resumed")
            learned(agent, "gone on", "1,")
        resumed, alone_resumed = learned(agent, "resumed"), learned(agent, "gone on", "1,")
    spread = learned(agent, "spread")
    jax.clear_caches()  # programs of a dozen agents are more than a process may map
    second = {key: value for key, value in whole.items() if key[0] == 1}
    pairs = ((whole, again), (whole, resumed), (second, alone), (alone, alone_resumed), (whole, spread))
    return {way: same(*pair) for way, pair in zip(WAYS, pairs, strict=True)}


def learned(agent: str, out: str, seeds: str = "3") -> dict[tuple[int, str], Any]:
    """By seed, a digest of what it has learned and the numbers that it has logged."""
    command = "finetune" if agent == "wsrl" else "train"
    out = f"{agent}-{out}"
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        cli.run([command, agent, *RUNS[agent].split(), "--seeds", seeds, "--out", out, *small(agent)])
    folders = sorted(path.parent for path in Path(out).rglob("metrics.jsonl"))
    found: dict[tuple[int, str], Any] = {}
    for folder in folders:
        run, rows = training.load(folder), store.read_rows(folder / "metrics.jsonl")
        for index, (seed, _) in enumerate(run.setup.learners):
            found[seed, f"{folder.name} learned"] = store.digest(jax.tree.map(itemgetter(index), run.state))
            found[seed, f"{folder.name} logged"] = [row for row in rows if row["seed"] == seed]
    return {(seed, key.replace(out, "run")): value for (seed, key), value in found.items()}


def small(agent: str) -> list[str]:
    """Options that make the agent's networks and batches tiny."""
    names = [field.name for field in dataclasses.fields(cli.find_agent(agent).Config)]
    sizes = {name: size for name in names for end, size in TINY.items() if name.endswith(end)}
    options = [part for name, size in sizes.items() for part in (f"--config.{name.replace('_', '-')}", str(size))]
    return options + (DREAM.split() if agent == "drama" else [])


@contextlib.contextmanager
def stopping() -> Iterator[None]:
    """Ctrl-C in the first chunk of every run."""
    chunk = training._chunk

    def stopped(*args: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return chunk(*args)

    with mock.patch.object(training, "_chunk", stopped):
        yield


def same(first: dict, second: dict) -> str:
    """In one word, or how far the numbers of the first and of the last logged step are apart."""
    if first == second:
        return "equal"
    assert first.keys() == second.keys()
    rows = [[row for key in sorted(run) if "logged" in key[1] for row in run[key]] for run in (first, second)]
    steps = sorted({row["step"] for row in rows[0] if row["kind"] == "train"})
    apart = [max(difference(*pair) for pair in zip(*rows, strict=True) if pair[0]["step"] == x) for x in (steps[0], steps[-1])]
    first, last = (f"{x:.0e}" if x else "0" for x in apart)
    return f"bits differ, numbers by {first} at step {steps[0]} and {last} at {steps[-1]}"


def difference(a: dict[str, Any], b: dict[str, Any]) -> float:
    """The largest of two rows, relative to their numbers but to no less than 1e-3."""
    names = [name for name in a if isinstance(a[name], float)]
    return max((abs(a[x] - b[x]) / max(abs(a[x]), abs(b[x]), 1e-3) for x in names), default=0.0)


if __name__ == "__main__":
    main()
