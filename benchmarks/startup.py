"""How long one waits: ``python benchmarks/startup.py [--rounds 5] [--json F]``.

Seconds, medians over rounds: ``import rljax``, without starting Python; and ``rljax train sac pendulum``, from process start to
the first update, with nothing in the cache of compiled programs and with all that the same command has left there. In both
cases also the time until the chunk of updates is compiled, or read from the cache, of which the rest of the run is waiting.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from rljax import store
from rljax.experiments import machine

TRAIN = [sys.executable, "-c", "from rljax.experiments.cli import main; main()", *"train sac pendulum --steps 3000".split()]


@dataclass(frozen=True)
class Startup:
    """Measure how long one waits."""

    rounds: int = 5
    json: Path | None = None


def main() -> None:
    """Measure, print and write."""
    given = tyro.cli(Startup)
    found: dict[str, list[float]] = {}
    for _ in range(given.rounds):
        python = run("pass")
        numbers = {"import rljax": run("import rljax") - python, "import jax": run("import jax") - python}
        with tempfile.TemporaryDirectory() as folder:
            for cache in ("cold", "warm"):
                first, compiled = first_update(Path(folder), cache)
                numbers |= {f"{cache}: first update": first, f"{cache}: chunk of updates": compiled}
        for name, seconds in numbers.items():
            found.setdefault(name, []).append(round(seconds, 3))
    medians = {name: statistics.median(seconds) for name, seconds in found.items()}
    for name, seconds in medians.items():
        print(f"{name:<24} {seconds:7.3f} s")
    if given.json is not None:
        given.json.write_text(json.dumps({"machine": machine.versions(), "medians": medians, "all": found}, indent=1) + "\n")


def run(code: str) -> float:
    """Seconds of a Python process."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - begin


def first_update(folder: Path, name: str) -> tuple[float, float]:
    """Seconds from process start until updates begin, and of compiling their chunk."""
    begin, timing = time.perf_counter(), folder / name / "timing.jsonl"
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(folder / "cache")}
    process = subprocess.Popen([*TRAIN, "--out", folder / name], env=environment, stdout=subprocess.DEVNULL)
    try:
        while process.poll() is None:
            compiled = [row for row in store.read_rows(timing) if "compiled" in row]
            if len(compiled) > 1:  # the warm-up's comes first
                return time.perf_counter() - begin, compiled[-1]["seconds"]
            time.sleep(0.005)
    finally:
        process.kill()
        process.wait()
    raise RuntimeError("the run ended before it learned")


if __name__ == "__main__":
    main()
