"""Presets of MOORL. The paper (arXiv:2506.09574) prints none that could be had: SAC's, with sizes for small tasks."""

from __future__ import annotations

from rljax.agents.moorl import Config
from rljax.config import override
from rljax.data import Dataset
from rljax.experiments.presets import Preset, domain, wsrl


def preset(env: str, data: Dataset | None = None) -> Preset:
    """The preset for the environment named ``env`` and a data set."""
    sizes = wsrl.preset(env, data)
    made = {"steps": sizes.steps, "num_envs": sizes.num_envs, "eval_every": sizes.eval_every, "soft": True}
    match domain(env, data):
        case "pendulum" | "maze":
            names = ("actor_lr", "critic_lr", "alpha_lr", "actor_width", "critic_width", "batch_size", "warmup")
            reward = sizes.before[1].reward
            return Preset(override(Config(), {name: getattr(sizes.config, name) for name in names}), **made, reward=reward)
        case "antmaze":
            return Preset(Config(), **made, eval_episodes=100, reward=sizes.before[1].reward)
        case _:
            return Preset(Config(), **made)
