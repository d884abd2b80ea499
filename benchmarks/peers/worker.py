"""What the scripts of this folder share: sizes, data, and the conversation with `compare.py`.

A script defines ``build(options) -> Work`` and ends with ``worker.serve(build)``. It runs in the environment of its peer, so
this module needs nothing but Python and NumPy. Each message is a line of JSON: the script says what it is, and then, for each
number of seconds that it is asked to run, what it has done.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

OBS, ACTION, BATCH, WIDTH, CRITICS = 11, 3, 256, 256, 2  # the hopper's shapes, and networks as of `rljax bench`
CAPACITY = 20_000  # transitions of the replay

# ``import rejax`` in rejax.py means the package, and not the script itself.
sys.path[:] = [path for path in sys.path if Path(path).resolve() != Path(__file__).resolve().parent]


class Work(NamedTuple):
    """``run(num)`` does about ``num`` of its ``unit``, waits until they are done, and says how many they were.

    ``packages`` are those whose versions matter. The seconds of compiling are what the first two runs took longer than
    the third, unless they are known (``compiled``): some peers compile again for what their first update gives back.
    """

    run: Callable[[int], float]
    unit: str
    packages: tuple[str, ...]
    compiled: float | None = None


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options that `compare.py` hands on to each script."""
    parser.add_argument("--threads", type=int, default=1, help="threads that may compute")
    parser.add_argument("--rows", type=int, default=1_000_000, help="transitions of the data set")
    parser.add_argument("--seeds", type=int, default=1, help="seeds under one vmap")
    parser.add_argument("--depth", type=int, default=2, help="hidden layers of all networks")
    parser.add_argument("--actions", type=int, default=10, help="actions that CQL samples from each distribution")
    parser.add_argument("--order", default="official", help="of our IQL's steps: official, or corl, which values once less")


def serve(build: Callable[[Any], Work]) -> None:
    """Build, say so, and then run whenever asked until there are no more questions."""
    parser = argparse.ArgumentParser()
    parser.add_argument("agent")
    parser.add_argument("--clone", default="")
    arguments(parser)
    options = parser.parse_args()
    sys.argv[1:] = []  # some peers read them
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a peer prints

    def tell(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")

    work = build(options)
    *first, last = (_timed(work, 1) for _ in range(3))
    longer = sum(each["seconds"] - last["seconds"] for each in first)
    compiled = max(0.0, longer) if work.compiled is None else work.compiled
    tell({"unit": work.unit, "compile_s": compiled, "versions": versions(work.packages, options.clone)})
    for line in sys.stdin:
        last = _timed(work, max(1, round(json.loads(line)["seconds"] * last["count"] / last["seconds"])))
        tell(last)


def recorded(rows: int) -> dict[str, Any]:
    """A data set of random numbers by D4RL's names, none of which ends an episode; the same for all."""
    import numpy as np

    rng = np.random.default_rng(0)
    return {
        "observations": rng.standard_normal((rows, OBS), np.float32),
        "actions": rng.uniform(-1, 1, (rows, ACTION)).astype(np.float32),
        "rewards": rng.standard_normal(rows, np.float32),
        "next_observations": rng.standard_normal((rows, OBS), np.float32),
        "terminals": np.zeros(rows, np.float32),
    }


def stand_in(*names: str) -> None:
    """Let modules be imported that only load data, print, log or evaluate, and are not installed."""
    sys.modules.update({name: mock.MagicMock() for name in names})


def refuse(sentence: str) -> None:
    """End with this sentence as the reason."""
    raise SystemExit(sentence)


def versions(packages: tuple[str, ...], clone: str) -> dict[str, str]:
    """Versions of Python and of packages that are installed, and the commit of the clone."""
    found = {"python": platform.python_version()}
    for name in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    if clone:
        command = ["git", "-C", clone, "rev-parse", "HEAD"]
        found["commit"] = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    return found


def _timed(work: Work, num: int) -> dict[str, float]:
    """What was done, in how many seconds, and in how many of the processors."""
    cpu, begin = time.process_time(), time.perf_counter()
    count = work.run(num)
    return {"count": count, "seconds": time.perf_counter() - begin, "cpu": time.process_time() - cpu}
