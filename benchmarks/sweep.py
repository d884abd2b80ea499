"""A sweep in one program beside single runs of a part of it: ``python benchmarks/sweep.py OUT``.

SAC on the pendulum with 6 step sizes of the critic x 4 discounts x 5 seeds, 20 000 env steps each, by one command; then three
of the 24 configs with each seed by a command of its own. All wall clock is from process start to end, with a cache of compiled
programs that is empty at first. Prints, for these configs, the IQM and interval of the last returns of both ways, and the
seconds; OUT/sweep.jsonl has each seed's score.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rljax import statistics, store
from rljax.experiments import report

RATES, DISCOUNTS, SEEDS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2), (0.9, 0.95, 0.98, 0.99), 5
PART = ((3e-4, 0.95), (1e-3, 0.98), (3e-3, 0.99))


def train(cache: Path, *args: object) -> float:
    """Seconds of ``rljax train sac pendulum`` with these arguments."""
    begin, code = time.monotonic(), "from rljax.experiments.cli import main; main()"
    command = [sys.executable, "-c", code, "train", "sac", "pendulum", *map(str, args)]
    subprocess.run(command, check=True, env=os.environ | {"XDG_CACHE_HOME": str(cache)})
    return time.monotonic() - begin


def joined(values: Sequence[float]) -> str:
    """The values as ``--sweep`` takes them."""
    return ",".join(map(str, values))


def last(run: Path) -> np.ndarray:
    """The last returns of a run [config, seed]."""
    return report.scores(store.read_rows(run / "metrics.jsonl")).iloc[-1].unstack("seed").to_numpy()


def main(out: Path) -> None:
    """Both ways."""
    grid = ("--sweep", f"critic_lr={joined(RATES)}", "--sweep", f"discount={joined(DISCOUNTS)}")
    seconds = train(out / "cache", *grid, "--seeds", SEEDS, "--out", out / "sweep")
    (run,) = (path.parent for path in (out / "sweep").glob("*/metrics.jsonl"))
    compiled = [row["compiled"] for row in store.read_rows(run / "timing.jsonl") if "compiled" in row]
    together, rows, singles = last(run), [], []
    for rate, discount in PART:
        row = RATES.index(rate) * len(DISCOUNTS) + DISCOUNTS.index(discount)
        alone = []
        for seed in range(SEEDS):
            folder, config = (
                out / f"single-{rate}-{discount}-{seed}",
                ("--config.critic-lr", rate, "--config.discount", discount),
            )
            singles.append(train(out / "cache", *config, "--seeds", f"{seed},", "--out", folder))
            alone.append(float(last(folder)[0, 0]))
        for way, scores in (("sweep", together[row]), ("single", np.array(alone))):
            low, high = statistics.interval(scores)
            print(f"critic_lr {rate:g}, discount {discount:g}, {way:6}: {statistics.iqm(scores):7.1f} [{low:.1f}, {high:.1f}]")
            rows.append({"critic_lr": rate, "discount": discount, "way": way, "returns": scores.tolist()})
    (out / "sweep.jsonl").write_text("".join(map(store.encode, rows)))
    num = len(RATES) * len(DISCOUNTS) * SEEDS
    print(f"programs compiled for the sweep: {', '.join(compiled)}")
    print(f"sweep of {num} learners: {seconds:.0f} s; one run alone: {np.median(singles):.1f} s (median of {len(singles)}),")
    print(f"so {num} of them {num * np.median(singles):.0f} s, {num * np.median(singles) / seconds:.1f} times as long")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
