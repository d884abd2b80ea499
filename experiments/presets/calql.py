"""Presets of Cal-QL. Sources: CORL (tinkoff-ai/CORL at 6afec90) for antmaze, the code of arXiv:2412.07762 otherwise.

The pendulum's and the mazes' were tuned here on seeds 100 and up.
"""

from __future__ import annotations

from rljax import conservative
from rljax.agents.calql import Config
from rljax.config import override
from rljax.data import Dataset
from rljax.experiments.presets import Preset, domain, task
from rljax.experiments.setup import Reward


def preset(env: str, data: Dataset | None = None) -> Preset:
    """The preset for a data set, evaluated on the environment named ``env``."""
    fixed = Config(gap_min=-1e6, backup=conservative.one_sample, constraint=conservative.fixed, actor_depth=2, critic_depth=2)
    match domain(env, data):
        case "pendulum" | "maze" as kind:
            actor_lr = 1e-3 if kind == "maze" else 3e-4
            penalty = 20.0 if task(env) == "brax/inverted_pendulum" else 1.0
            rates = {"actor_lr": actor_lr, "critic_lr": 1e-3, "alpha_lr": actor_lr, "penalty": penalty}
            sizes = {"actor_width": 64, "critic_width": 64, "num_actions": 4, "batch_size": 128}
            small = override(fixed, {**rates, **sizes})
            reward = Reward(scale=10.0, bias=-5.0, failure=0.0) if kind == "maze" else Reward()
            return Preset(small, steps=20_000, reward=reward, retain=0.5)
        case "antmaze":
            reward = Reward(scale=10.0, bias=-5.0, failure=0.0)
            return Preset(Config(), steps=1_000_000, eval_every=50_000, eval_episodes=100, reward=reward, retain=0.5)
        case _:
            return Preset(fixed, steps=250_000, eval_every=20_000, retain=0.5)
