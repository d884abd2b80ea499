"""Presets of RLPD. Source: arXiv:2302.02948, at the update ratio and warm-up of arXiv:2412.07762; the small ones are WSRL's."""

from __future__ import annotations

from rljax.agents.rlpd import Config
from rljax.config import override
from rljax.data import Dataset
from rljax.experiments.presets import Preset, domain, wsrl


def preset(env: str, data: Dataset | None = None) -> Preset:
    """The preset for the environment named ``env`` and a data set."""
    sizes = wsrl.preset(env, data)
    made = {"steps": sizes.steps, "num_envs": sizes.num_envs, "eval_every": sizes.eval_every}
    match domain(env, data):
        case "pendulum" | "maze":
            names = ("actor_lr", "critic_lr", "alpha_lr", "actor_width", "critic_width", "num_critics", "batch_size", "warmup")
            return Preset(
                override(Config(), {name: getattr(sizes.config, name) for name in names}),
                **made,
                soft=True,
                reward=sizes.before[1].reward,
            )
        case "antmaze":
            config = Config(critic_depth=3, num_targets=1, bonus=0.0)
            return Preset(config, **made, eval_episodes=100, reward=sizes.before[1].reward)
        case _:
            return Preset(Config(), **made, soft=True)
