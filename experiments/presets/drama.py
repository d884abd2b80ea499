"""Presets of Drama: the paper's for Atari (arXiv:2410.08893), else size xs, for two CPU cores.

The step sizes of size xs are larger than the paper's, and not tuned yet.
"""

from __future__ import annotations

from rljax import world_model as wm
from rljax.agents.drama import Config
from rljax.data import Dataset
from rljax.experiments.presets import Preset


def preset(env: str, data: Dataset | None = None) -> Preset:
    """The preset for the environment named ``env``; there are no data sets for this agent."""
    if env.startswith("ale/"):
        return Preset(Config(size=wm.DRAMA), steps=100_000, eval_every=10_000)
    small = Config(model_lr=4e-4, lr=3e-4, batch_size=8, length=32, starts=64, every=4, warmup=1_024)
    return Preset(small, steps=100_000, eval_every=10_000)
