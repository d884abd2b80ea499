"""Presets of SQIRL. The paper searches for the least number of episodes, and for k, of each environment; this is a start."""

from __future__ import annotations

from rljax.agents.sqirl import Config
from rljax.data import Dataset
from rljax.experiments.presets import Preset, size


def preset(env: str, data: Dataset | None = None) -> Preset:
    """The preset for the environment named ``env``: as many iterations as its episodes have steps; there are no data sets."""
    horizon, _ = size(env)
    config = Config(lr=1e-3, episodes=max(1, min(1_000, 20_000 // horizon)))
    stride = config.episodes * horizon
    return Preset(config, steps=horizon * stride, eval_every=max(1, horizon // 10) * stride)
