"""Presets of IQL. Sources: arXiv:2110.06169, and CORL (tinkoff-ai/CORL at 6afec90) for D4RL.

The pendulum's and the mazes' were tuned here on seeds 100 and up.
"""

from __future__ import annotations

from rljax import normalize
from rljax.agents import iql as agent
from rljax.agents.iql import Config
from rljax.config import override
from rljax.data import Dataset
from rljax.experiments.presets import Preset, domain, normalized_rewards
from rljax.experiments.setup import Reward


def preset(env: str, data: Dataset | None = None) -> Preset:
    """The preset for a data set, evaluated on the environment named ``env``."""
    name = "" if data is None else data.info.name
    corl = Config(order=agent.corl, obs_stats=normalize.dataset)
    match domain(env, data):
        case "pendulum":
            small = Config(actor_lr=1e-3, critic_lr=1e-3, value_lr=1e-3, actor_decay=20_000.0, actor_width=64, critic_width=64)
            return Preset(small, steps=20_000)
        case "maze":
            rates = {
                "actor_lr": 1e-3,
                "critic_lr": 1e-3,
                "value_lr": 1e-3,
                "expectile": 0.9,
                "beta": 10.0,
                "actor_decay": 20_000.0,
            }
            small = override(Config(actor_width=64, critic_width=64, batch_size=128), rates)
            return Preset(small, steps=20_000, reward=Reward(scale=10.0, bias=-5.0))
        case "antmaze":
            config = override(corl, {"expectile": 0.9, "beta": 10.0})
            return Preset(config, steps=1_000_000, eval_every=50_000, eval_episodes=100, reward=Reward(bias=-1.0))
        case "locomotion" if name.startswith("hopper-medium-expert"):
            return Preset(override(corl, {"expectile": 0.5, "beta": 6.0}), steps=1_000_000, eval_every=20_000)
        case "locomotion" if name.startswith("hopper-medium"):
            config = override(corl, {"tau": 0.001, "policy": agent.deterministic})
            return Preset(config, steps=1_000_000, eval_every=20_000, reward=normalized_rewards(data))
        case "locomotion" if data is not None and data.info.reference is not None:
            return Preset(corl, steps=1_000_000, eval_every=20_000)
        case _:
            config = Config(obs_stats=normalize.dataset)  # needed on few episodes of the half-cheetah: benchmarks/README.md
            return Preset(config, steps=1_000_000, eval_every=20_000, reward=normalized_rewards(data))
