"""CleanRL's SAC (PyTorch) on gymnasium's pendulum, one update per env step.

Needs torch, tyro and gymnasium[classic-control]==0.29.1 installed, and a clone of https://github.com/vwxyzjn/cleanrl.
"""

from __future__ import annotations

import math
import os
import queue
import runpy
import sys
import threading
import traceback
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import worker

EVERY = 100  # steps between two logs of the script


def build(options: Any) -> worker.Work:
    """CleanRL's script in a thread, which waits wherever it would log its speed."""
    if options.agent != "sac" or options.seeds != 1 or options.depth != 2:
        worker.refuse("of CleanRL only sac with one seed and two hidden layers is measured")
    sys.path.insert(0, options.clone)
    go, done = queue.Queue(), queue.Queue()

    def log(name: str, value: float, step: int) -> None:
        if name == "charts/SPS":
            done.put(step)
            go.get()

    worker.stand_in("torch.utils.tensorboard")
    sys.modules["torch.utils.tensorboard"].SummaryWriter = lambda folder: mock.Mock(add_scalar=log)
    threading.Thread(target=script, args=(options,), daemon=True).start()
    done.get()

    def run(num: int) -> int:
        for _ in range(turns := math.ceil(num / EVERY)):
            go.put(None)
            done.get()
        return turns * EVERY

    return worker.Work(run, "env steps", ("torch", "gymnasium", "numpy"))


def script(options: Any) -> None:
    """Run the script for ever; the process ends if it fails."""
    torch.set_num_threads(options.threads)
    sizes = {"batch-size": worker.BATCH, "buffer-size": worker.CAPACITY, "learning-starts": 0, "total-timesteps": 10**9}
    flags = [text for name, number in sizes.items() for text in (f"--{name}", str(number))]
    sys.argv[1:] = ["--env-id", "Pendulum-v1", "--no-cuda", *flags]
    try:
        runpy.run_path(str(Path(options.clone) / "cleanrl" / "sac_continuous_action.py"), run_name="__main__")
    except BaseException:
        traceback.print_exc()
    os._exit(1)


if __name__ == "__main__":
    worker.serve(build)
