"""Presets of behaviour cloning. Sources: the actor of arXiv:2106.06860; the pendulum's were tuned here on seeds 100 and up."""

from __future__ import annotations

from rljax.agents.bc import Config
from rljax.data import Dataset
from rljax.experiments.presets import Preset, domain


def preset(env: str, data: Dataset | None = None) -> Preset:
    """The preset for a data set, evaluated on the environment named ``env``."""
    match domain(env, data):
        case "pendulum":
            return Preset(Config(actor_lr=1e-3, actor_width=64), steps=20_000)
        case "antmaze":
            return Preset(Config(), steps=1_000_000, eval_every=50_000, eval_episodes=100)
        case _:
            return Preset(Config(), steps=1_000_000, eval_every=20_000)
