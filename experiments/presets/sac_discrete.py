"""Presets of discrete SAC, tuned here."""

from __future__ import annotations

from rljax.agents.sac_discrete import Config
from rljax.data import Dataset
from rljax.experiments.presets import Preset, task


def preset(env: str, data: Dataset | None = None) -> Preset:
    """The preset for the environment named ``env``; there are no data sets for this agent."""
    if task(env).endswith("-MinAtar"):
        return Preset(Config(warmup=5_000, capacity=100_000), steps=500_000, num_envs=8, eval_every=20_000, soft=True)
    small = Config(actor_lr=1e-3, critic_lr=1e-3, alpha_lr=1e-3, actor_width=64, critic_width=64, batch_size=128)
    return Preset(small, steps=50_000, eval_every=2_500, soft=True)
