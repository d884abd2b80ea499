"""``python tests/faults/soak.py OUT --hours 2``: does a long run of SAC stay as it began?

Trains with evaluations, checkpoints and logging, and notes every half minute the resident memory, the open files, the step and
the processor time of the process, and how long checkpoints took. Writes OUT/soak.jsonl and OUT/soak.png; the run is OUT/run.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import psutil
import tyro
from matplotlib.figure import Figure

from rljax import store
from rljax.experiments import cli

RUN = ["train", "sac", "gymnax/Pendulum-v1", "--steps", "1000000000", "--eval-every", "5000", "--config.capacity", "100000"]
SHOWN = {
    "memory_mib": "resident memory [MiB]",
    "files": "open files",
    "steps_per_cpu_s": "env steps per processor second",
    "checkpoint_s": "checkpoint [s]",
}


@dataclass(frozen=True)
class Soak:
    """Train for some hours, and watch."""

    out: tyro.conf.Positional[Path]
    hours: float = 2.0
    every: float = 30.0  # seconds between looks


def main() -> None:
    """Watch, then tell whether the last quarter is like the second."""
    soak = tyro.cli(Soak)
    soak.out.mkdir(parents=True, exist_ok=True)
    watch(soak)
    rows = store.read_rows(soak.out / "soak.jsonl")
    for before, row in zip(rows, rows[1:], strict=False):
        row["steps_per_cpu_s"] = (row["step"] - before["step"]) / (row["cpu_s"] - before["cpu_s"])
    draw(rows, soak.out / "soak.png")
    for name, title in SHOWN.items():
        print(
            f"{title}: {mean(rows, name, 0.25, 0.5):.4g} in the second quarter, {mean(rows, name, 0.75, 1.0):.4g} in the last"
        )


def watch(soak: Soak) -> None:
    """Write a row for each look at a run in this process, which is stopped in the end as Ctrl-C does."""
    took: list[float] = []
    process, begin, save = psutil.Process(), time.monotonic(), store.save

    def timed(*args: Any, **kwargs: Any) -> None:
        start = time.monotonic()
        save(*args, **kwargs)
        took.append(time.monotonic() - start)

    def look() -> None:
        while time.monotonic() - begin < 3600 * soak.hours:
            time.sleep(soak.every)
            row = {
                "hours": round((time.monotonic() - begin) / 3600, 4),
                "memory_mib": round(process.memory_info().rss / 2**20, 1),
                "files": process.num_fds(),
                "threads": process.num_threads(),
                "cpu_s": round(sum(process.cpu_times()[:2]), 1),
                "step": last_step(soak.out / "run" / "timing.jsonl"),
                "checkpoints": len(took),
                **({"checkpoint_s": round(float(np.median(took)), 4)} if took else {}),
            }
            store.append(soak.out / "soak.jsonl", store.encode(row))
            took.clear()
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=look, daemon=True).start()
    with mock.patch.object(store, "save", timed):
        cli.run([*RUN, "--out", str(soak.out / "run")])


def last_step(path: Path) -> int:
    """The step of the last whole line."""
    lines = path.read_text().splitlines() if path.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


def mean(rows: list[dict[str, Any]], name: str, start: float, end: float) -> float:
    """Over this part of the time."""
    part = rows[int(start * len(rows)) : int(end * len(rows))]
    return float(np.mean([row[name] for row in part if name in row]))


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """A curve for each figure."""
    figure = Figure(figsize=(9, 6), layout="constrained")
    for axis, (name, title) in zip(figure.subplots(2, 2).flat, SHOWN.items(), strict=True):
        x, y = zip(*((row["hours"], row[name]) for row in rows if name in row), strict=True)
        axis.plot(x, y)
        axis.set(title=title, xlabel="hours", ylim=(0, 1.2 * max(y)))
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
