"""``rljax track``: the rows of a run for TensorBoard or Weights & Biases, one of their runs per seed; also while it goes on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rljax import store
from rljax.base import InputError
from rljax.experiments.setup import identity, read_settings
from rljax.experiments.train import Rows, read_rows

SECONDS = 5.0  # between looks at a run that goes on


class Tracker(NamedTuple):
    """Where numbers go: ``log(step, numbers)`` of one learner, and ``close()``."""

    log: Callable[[int, dict[str, float]], None]
    close: Callable[[], None]


Open = Callable[[str, dict[str, Any]], Tracker]  # a learner's tracker, of its name and config


def tensorboard(out: Path) -> Open:
    """Trackers that write event files, in a folder of ``out`` for each learner.

    Raises:
        InputError: if tensorboardX is not installed.
    """
    try:
        from tensorboardX import SummaryWriter  # type: ignore[import-untyped]
    except ImportError:
        raise InputError('tensorboardX is not installed: pip install "rljax[track]"') from None

    def opened(name: str, config: dict[str, Any]) -> Tracker:
        if (out / name).exists():
            raise InputError(f"{out / name} exists: remove it, or choose another folder with --out")
        writer = SummaryWriter(str(out / name))

        def log(step: int, numbers: dict[str, float]) -> None:
            for key, value in numbers.items():
                writer.add_scalar(key, value, step)

        return Tracker(log, writer.close)

    return opened


def wandb(project: str, run: Path) -> Open:
    """Trackers of W&B runs in ``project``, grouped by the name of ``run``; WANDB_MODE=offline needs no account.

    Raises:
        InputError: if wandb is not installed.
    """
    try:
        import wandb as library
    except ImportError:
        raise InputError('wandb is not installed: pip install "rljax[track]"') from None

    def opened(name: str, config: dict[str, Any]) -> Tracker:
        begun = library.init(
            project=project, group=run.name, name=f"{run.name} {name}", config=config, dir=str(run), reinit="create_new"
        )

        def log(step: int, numbers: dict[str, float]) -> None:
            begun.log(numbers | {"step": step})

        begun.define_metric("*", step_metric="step")
        return Tracker(log, begun.finish)

    return opened


def track(run: Path, open_: Open, follow: bool = False) -> int:
    """Give all rows of a run to trackers, and, to ``follow``, those that come until it is finished; how many there were.

    Raises:
        InputError: if there is no run, or its rows change while they are followed.
    """
    settings, trackers, count = read_settings(run), {}, 0
    configs = settings["config"] if isinstance(settings["config"], list) else [settings["config"]]
    try:
        for row in _rows(run, settings["steps"], follow):
            key = row["seed"], row["config"]
            if key not in trackers:
                name = f"seed{row['seed']}" + (f"-config{row['config']}" if len(configs) > 1 else "")
                described = {k: settings[k] for k in ("agent", "env")} | {"config": configs[row["config"]], "seed": row["seed"]}
                trackers[key] = open_(name, described | {"run": identity(settings)})
            numbers = {k: float(v) for k, v in row.items() if "/" in k}
            trackers[key].log(row["step"], {k: v for k, v in numbers.items() if math.isfinite(v)})
            count += 1
    finally:
        for tracker in trackers.values():
            tracker.close()
    return count


def _rows(run: Path, steps: int, follow: bool) -> Iterator[dict[str, Any]]:
    seen = 0
    while True:
        rows: Rows = read_rows(run)
        if len(rows) < seen:
            raise InputError(f"{run} was stopped and went back to its last checkpoint: track it again, from its beginning")
        yield from rows[seen:]
        seen = len(rows)
        host = store.newest_host(run)
        if not follow or (host is not None and rows and rows[-1]["step"] >= steps):
            return
        time.sleep(SECONDS)
