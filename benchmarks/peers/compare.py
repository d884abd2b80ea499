"""Ours beside peers, in turns: ``python benchmarks/peers/compare.py td3_bc --peers jax_corl=PYTHON:CLONE --rounds 5``.

Run it with the Python of an environment in which rljax is installed. A peer's name is that of a script in this folder, which is
run by that peer's own PYTHON on a CLONE of its repository. All that is measured lies in processes that wait until they are
asked, so only one computes at a time. A peer that fails is told and left out. Rates are per second; rates per second of the
processors, summed over threads, tell more on a machine that has other work, and are the same on a quiet one with one thread.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import worker

HERE = Path(__file__).resolve().parent
AGENTS = ("td3_bc", "iql", "cql", "sac")
SIZES = ("threads", "rows", "seeds", "depth", "actions")
ORDERS = ("official", "corl")
NAMES = tuple(sorted(path.stem for path in HERE.glob("*.py") if path.stem not in ("compare", "worker")))
FORMAT = "rljax peers 1"


class Failed(Exception):
    """A worker has ended; the last line that it wrote."""


class Peer(NamedTuple):
    """Who is measured: the name of a script, the Python that runs it, and the clone of a repository."""

    name: str
    python: str
    clone: str = ""


class Worker(NamedTuple):
    """A process that waits for questions, and the file of what it complains about."""

    process: subprocess.Popen[str]
    errors: Any


def main() -> None:
    """Print the table, and write the JSON file."""
    options = parse()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    found = measure(options)
    print(table(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


def parse() -> argparse.Namespace:
    """What was asked for; it ends with one sentence if that is not possible."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("agent", help=", ".join(AGENTS))
    parser.add_argument("--peers", nargs="+", required=True, metavar="NAME=PYTHON:CLONE", help=", ".join(NAMES))
    parser.add_argument("--rounds", type=int, default=5, help="turns of each")
    parser.add_argument("--seconds", type=float, default=5.0, help="seconds of a turn, about")
    parser.add_argument("--json", type=Path, help="file for all that was measured")
    worker.arguments(parser)
    options = parser.parse_args()
    if options.agent not in AGENTS:
        worker.refuse(f"cannot compare {options.agent!r}: choose of {', '.join(AGENTS)}")
    for name in ("rounds", "seconds", *SIZES):
        if not getattr(options, name) > 0:
            worker.refuse(f"--{name} must be above 0, got {getattr(options, name):g}")
    if options.threads > len(os.sched_getaffinity(0)):
        worker.refuse(f"--threads {options.threads} is more than the {len(os.sched_getaffinity(0))} that this process may use")
    if options.seeds > 1 and options.agent != "sac":
        worker.refuse("--seeds is for sac: no peer vmaps the others")
    if options.order not in ORDERS or (options.order != ORDERS[0] and options.agent != "iql"):
        worker.refuse(f"--order is one of {', '.join(ORDERS)}, and for iql, got {options.order}")
    options.peers = [peer(text) for text in options.peers]
    return options


def peer(text: str) -> Peer:
    """The peer of ``NAME=PYTHON:CLONE``."""
    name, _, place = text.partition("=")
    python, _, clone = place.partition(":")
    if name not in NAMES:
        worker.refuse(f"there is no peer {name!r}: choose of {', '.join(NAMES)}")
    if not os.access(python, os.X_OK) or not Path(clone or HERE).is_dir():
        worker.refuse(f"{text} must be NAME=PYTHON:CLONE, a program and a folder")
    return Peer(name, python, clone)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All rates, round by round: ``{"format", "agent", "settings", "machine", "reference", "rows"}``; the first row is ours."""
    us = Peer("ours", sys.executable, str(HERE.parents[1]))
    with contextlib.ExitStack() as stack:
        workers, rows = [], []
        for agent, one in (("gemm", us), (options.agent, us), *((options.agent, peer) for peer in options.peers)):
            try:
                print(f"{one.name}, {agent}: builds", file=sys.stderr)
                found = stack.enter_context(started(one, agent, options))
                row = {"name": one.name} | answer(found) | {"rates": [], "cpu_rates": []}
                ask(found, options.seconds / 4)
            except Failed as reason:
                if one is us:
                    worker.refuse(f"rljax did not run: {reason}")
                print(f"{one.name} did not run: {reason}", file=sys.stderr)
            else:
                workers.append(found)
                rows.append(row)
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
            for found, row in zip(workers, rows, strict=True):
                done = ask(found, options.seconds)
                row["rates"].append(done["count"] / done["seconds"])
                row["cpu_rates"].append(done["count"] / done["cpu"])
    settings = {name: getattr(options, name) for name in ("rounds", "seconds", *SIZES, "order")}
    return {
        "format": FORMAT,
        "agent": options.agent,
        "settings": settings,
        "machine": machine(),
        "reference": rows[0],
        "rows": rows[1:],
    }


@contextlib.contextmanager
def started(peer: Peer, agent: str, options: argparse.Namespace) -> Iterator[Worker]:
    """The peer's process, which ends with the block."""
    threads = {f"{name}_NUM_THREADS": str(options.threads) for name in ("OMP", "MKL", "OPENBLAS")}
    device = {
        "JAX_PLATFORMS": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
        "JAX_ENABLE_COMPILATION_CACHE": "false",
        "JAX_TRACEBACK_FILTERING": "off",
    }
    sizes = [text for name in (*SIZES, "order") for text in (f"--{name}", str(getattr(options, name)))]
    command = [peer.python, str(HERE / f"{peer.name}.py"), agent, "--clone", peer.clone, *sizes]
    env = os.environ | threads | device | {"NPROC": str(options.threads)}
    with tempfile.TemporaryFile("w+") as errors:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors}
        process = subprocess.Popen(command, text=True, env=env, **pipes)
        try:
            yield Worker(process, errors)
        finally:
            process.kill()
            process.communicate()


def ask(found: Worker, seconds: float) -> dict[str, float]:
    """What the worker has done when it was asked to run for ``seconds``."""
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps({"seconds": seconds}), file=found.process.stdin, flush=True)
    return answer(found)


def answer(found: Worker) -> dict[str, Any]:
    """The worker's next message."""
    line = found.process.stdout.readline()
    if not line:
        found.process.wait()
        found.errors.seek(0)
        raise Failed((found.errors.read().strip().splitlines() or ["it said nothing"])[-1])
    return json.loads(line)


def machine() -> dict[str, Any]:
    """The processor, and the load of the last minute, which tells whether the machine was quiet."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {"cpu": names[0] if names else "", "load": round(os.getloadavg()[0], 1)}


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Ours over theirs, round by round."""
    return [a / b for a, b in zip(ours, theirs, strict=True)]


def spread(values: Sequence[float], digits: int) -> str:
    """``median (least - most)``."""
    return "{:.{d}f} ({:.{d}f} - {:.{d}f})".format(statistics.median(values), min(values), max(values), d=digits)


def table(found: dict[str, Any]) -> str:
    """The rates and ratios, each a median with least and most over the rounds."""
    settings, (ours, *_) = found["settings"], found["rows"]
    told = ", ".join(f"{settings[name]} {name}" for name in ("threads", "seeds", "rounds"))
    lines = [
        f"{found['agent']}: {told} of {settings['seconds']:g} s",
        f"rates: {ours['unit']} of all seeds per second; ratios: ours / peer, per second and per second of the processors",
        f"products of 256 x 256 x 256: {spread(found['reference']['rates'], 0)} GFLOP/s",
        f"{'':<10}  {'rate':>26}  {'ratio':>20}  {'of processors':>20}  {'compile':>8}",
    ]
    for row in found["rows"]:
        both = ["" if row is ours else spread(ratios(ours[name], row[name]), 2) for name in ("rates", "cpu_rates")]
        lines.append(
            f"{row['name']:<10}  {spread(row['rates'], 1):>26}  {both[0]:>20}  {both[1]:>20}  {row['compile_s']:>6.1f} s"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
