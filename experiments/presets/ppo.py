"""Presets of PPO. Sources: CleanRL (arXiv:2111.08819) and PureJaxRL (arXiv:2210.05639), with their decay of the step size.

What is said to be tuned was tuned here. A run that goes on after ``lr_decay`` gradient steps learns nothing more.
"""

from __future__ import annotations

from rljax import normalize
from rljax.agents.ppo import Config
from rljax.data import Dataset
from rljax.experiments.presets import Preset, task


def preset(env: str, data: Dataset | None = None) -> Preset:
    """The preset for the environment named ``env``; there are no data sets for this agent."""
    match task(env):
        case "gymnax/CartPole-v1":
            # CleanRL's, but for a larger step size, tuned on seeds 100-104.
            return Preset(Config(lr=1e-3, lr_decay=4_700.0), steps=300_000, num_envs=8, eval_every=25_000)
        case "brax/inverted_pendulum":
            # As above, with what CleanRL changes for continuous actions: normalised observations and no entropy bonus.
            config = Config(lr=1e-3, lr_decay=4_700.0, entropy=0.0, obs_stats=normalize.running)
            return Preset(config, steps=300_000, num_envs=8, eval_every=25_000)
        case name if name.startswith("brax/"):
            # CleanRL's for MuJoCo, with its 2 048 steps per rollout made by eight envs; widths as there, rewards as they are.
            config = Config(
                lr=3e-4, lr_decay=156_250.0, entropy=0.0, rollout=256, epochs=10, minibatches=32, obs_stats=normalize.running
            )
            return Preset(config, steps=1_000_000, num_envs=8, eval_every=50_000)
        case name if name.endswith("-MinAtar"):
            # PureJaxRL's.
            config = Config(lr=5e-3, lr_decay=39_000.0, minibatches=8)
            return Preset(config, steps=10_000_000, num_envs=64, eval_every=500_000)
        case _:
            return Preset(Config(), steps=500_000, num_envs=8, eval_every=25_000)
