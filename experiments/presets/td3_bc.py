"""Presets of TD3+BC. Sources: arXiv:2106.06860, and CORL for antmaze; the pendulum's were tuned here on seeds 100 and up."""

from __future__ import annotations

from rljax.agents.td3_bc import Config
from rljax.data import Dataset
from rljax.experiments.presets import Preset, domain
from rljax.experiments.setup import Reward


def preset(env: str, data: Dataset | None = None) -> Preset:
    """The preset for a data set, evaluated on the environment named ``env``."""
    match domain(env, data):
        case "pendulum" | "maze" as kind:
            small = Config(actor_lr=1e-3, critic_lr=1e-3, actor_width=64, critic_width=64)
            return Preset(small, steps=20_000, reward=Reward(bias=-1.0) if kind == "maze" else Reward())
        case "antmaze":
            return Preset(Config(), steps=1_000_000, eval_every=50_000, eval_episodes=100, reward=Reward(bias=-1.0))
        case _:
            return Preset(Config(), steps=1_000_000, eval_every=20_000)
