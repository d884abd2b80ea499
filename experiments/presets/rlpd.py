"""Presets of RLPD. Source: arXiv:2302.02948, at the update ratio and warm-up of arXiv:2412.07762; the small ones are WSRL's."""

from __future__ import annotations

from dataclasses import replace

from rljax.agents.rlpd import Config
from rljax.config import override
from rljax.data import Dataset
from rljax.experiments.presets import Preset, domain, wsrl

SHARED = ("actor_lr", "critic_lr", "alpha_lr", "actor_width", "critic_width", "num_critics", "batch_size", "warmup")


def preset(env: str, data: Dataset | None = None) -> Preset:
    """The preset for the environment named ``env`` and a data set."""
    sizes = replace(wsrl.preset(env, data), before=None)
    match domain(env, data):
        case "pendulum" | "maze":
            small = override(Config(), {name: getattr(sizes.config, name) for name in SHARED})
            return replace(sizes, config=small, soft=True)
        case "antmaze":
            return replace(sizes, config=Config(critic_depth=3, num_targets=1, bonus=0.0))
        case _:
            return replace(sizes, config=Config(), soft=True)
