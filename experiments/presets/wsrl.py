"""Presets of WSRL. Source: the code of arXiv:2412.07762 (zhouzypaul/wsrl at 891ee35); the small ones were tuned here."""

from __future__ import annotations

from dataclasses import replace

from rljax import normalize
from rljax.agents.wsrl import Config
from rljax.data import Dataset
from rljax.experiments.presets import Preset, calql, cql, domain, task


def preset(env: str, data: Dataset | None = None) -> Preset:
    """The preset for the environment named ``env``, fine-tuning after Cal-QL on the data set, or CQL for locomotion."""
    before = calql.preset(env, data)
    found = Preset(Config(), steps=500_000, eval_every=20_000, reward=before.reward, before=("calql", before))
    match domain(env, data):
        case "pendulum" | "maze":
            small = Config(actor_lr=3e-4, alpha_lr=3e-4, actor_width=64, critic_width=64)
            return replace(
                found, config=replace(small, num_critics=4, batch_size=128, warmup=1_000), steps=10_000, eval_every=500
            )
        case "antmaze":
            return replace(found, config=Config(critic_depth=4, num_actions=10), eval_episodes=100)
        case "locomotion":
            conservative = cql.Config(actor_lr=1e-4, alpha_lr=1e-4, penalty=5.0, obs_stats=normalize.fixed)
            before = Preset(conservative, steps=250_000, eval_every=20_000)
            return replace(found, num_envs=8 if task(env).startswith("brax/") else 1, before=("cql", before))
        case _:
            return found
