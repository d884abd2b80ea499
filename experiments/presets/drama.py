"""Presets of Drama: the paper's for Atari (arXiv:2410.08893), else size xs, for two CPU cores.

The step sizes of size xs are larger than the paper's, and not tuned yet. Those for the test of memory are, on seed 100: layers
that first remember longer and latents with fewer numbers, which are less noise, are what the model needs to learn there at all;
contexts hold the whole episode; less entropy than this and the policy settles on answers that are wrong.
"""

from __future__ import annotations

from rljax import ssm
from rljax import world_model as wm
from rljax.agents.drama import Config
from rljax.config import override
from rljax.data import Dataset
from rljax.experiments.presets import Preset, task


def preset(env: str, data: Dataset | None = None) -> Preset:
    """The preset for the environment named ``env``; there are no data sets for this agent."""
    if env.startswith("ale/"):
        return Preset(Config(size=wm.DRAMA), steps=100_000, eval_every=10_000)
    small = Config(model_lr=4e-4, lr=3e-4, batch_size=8, length=32, starts=64, every=4, warmup=1_024)
    if task(env) == "recall":
        size = override(wm.XS, {"groups": 8, "classes": 8, "head": 16, "decays": ssm.long})
        steps = {"model_lr": 3e-3, "lr": 5e-4, "rise": 200.0, "entropy": 0.1}
        recall = override(small, steps | {"size": size, "length": 128, "context": 64, "starts": 32})
        return Preset(recall, steps=20_000, eval_every=2_000, eval_episodes=100)
    return Preset(small, steps=100_000, eval_every=10_000)
