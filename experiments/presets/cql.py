"""Presets of CQL. Sources: CORL (tinkoff-ai/CORL at 6afec90); the pendulum's and the mazes' were tuned here."""

from __future__ import annotations

from rljax import conservative, normalize
from rljax.agents.cql import Config
from rljax.data import Dataset
from rljax.experiments.presets import Preset, domain, task
from rljax.experiments.setup import Reward


def preset(env: str, data: Dataset | None = None) -> Preset:
    """The preset for a data set, evaluated on the environment named ``env``."""
    match domain(env, data):
        case "pendulum" | "maze" as kind:
            actor_lr = 1e-3 if kind == "maze" else 3e-4
            small = Config(
                actor_lr=actor_lr,
                critic_lr=1e-3,
                alpha_lr=actor_lr,
                penalty=20.0 if task(env) == "brax/inverted_pendulum" else 1.0,
                actor_width=64,
                actor_depth=2,
                critic_width=64,
                critic_depth=2,
                num_actions=4,
                batch_size=128,
            )
            return Preset(small, steps=20_000, reward=Reward(scale=10.0, bias=-5.0) if kind == "maze" else Reward())
        case "antmaze":
            config = Config(
                actor_lr=1e-4,
                alpha_lr=1e-4,
                penalty=5.0,
                gap_min=-200.0,
                critic_depth=5,
                backup=conservative.max_of_samples,
                constraint=conservative.lagrange,
                obs_stats=normalize.fixed,
            )
            reward = Reward(scale=10.0, bias=-5.0)
            return Preset(config, steps=1_000_000, eval_every=50_000, eval_episodes=100, reward=reward)
        case _:
            return Preset(Config(), steps=1_000_000, eval_every=20_000)
