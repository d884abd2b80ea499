"""Presets of MOORL. The paper (arXiv:2506.09574) prints none that could be had: SAC's, with sizes for small tasks."""

from __future__ import annotations

from dataclasses import replace

from rljax.agents.moorl import Config
from rljax.config import override
from rljax.data import Dataset
from rljax.experiments.presets import Preset, domain, wsrl

SHARED = ("actor_lr", "critic_lr", "alpha_lr", "actor_width", "critic_width", "batch_size", "warmup")


def preset(env: str, data: Dataset | None = None) -> Preset:
    """The preset for the environment named ``env`` and a data set."""
    sizes = replace(wsrl.preset(env, data), before=None, soft=True)
    small = domain(env, data) in ("pendulum", "maze")
    return replace(sizes, config=override(Config(), {name: getattr(sizes.config, name) for name in SHARED if small}))
