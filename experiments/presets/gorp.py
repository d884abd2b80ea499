"""Presets of GORP. The paper searches for the least number of episodes, for each k and environment; this is a start."""

from __future__ import annotations

from rljax.agents.gorp import Config
from rljax.data import Dataset
from rljax.experiments.presets import Preset, size


def preset(env: str, data: Dataset | None = None) -> Preset:
    """The preset for the environment named ``env``: as many iterations as its episodes have steps; there are no data sets."""
    horizon, actions = size(env)
    config = Config(episodes=100)
    stride = config.episodes * actions * horizon
    return Preset(config, steps=horizon * stride, eval_every=max(1, horizon // 10) * stride)
