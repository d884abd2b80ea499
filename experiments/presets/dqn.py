"""Presets of DQN. Sources: arXiv:1903.03176 for MinAtar; that of CartPole was tuned here on seeds 100-105."""

from __future__ import annotations

from rljax.agents.dqn import Config, averaged
from rljax.config import override
from rljax.data import Dataset
from rljax.experiments.presets import Preset, task


def preset(env: str, data: Dataset | None = None) -> Preset:
    """The preset for the environment named ``env``; there are no data sets for this agent."""
    if task(env).endswith("-MinAtar"):
        # The paper's but for Adam, with a step for each frame as there; eight envs at once keep that.
        minatar = Config(
            warmup=5_000,
            capacity=100_000,
            batch_size=32,
            critic_depth=1,
            exploration=0.1,
            exploration_steps=100_000.0,
        )
        return Preset(minatar, steps=1_000_000, num_envs=8, eval_every=50_000)
    # With copies of the critic as targets returns of 500 come later, and go again.
    config = Config(critic_lr=5e-4, batch_size=128, targets=averaged, tau=0.01)
    if task(env) == "gymnax/CartPole-v1":  # with one critic, and by regression, they go again too
        config = override(config, {"num_critics": 2, "head": "hl_gauss"})
    return Preset(config, steps=60_000, eval_every=5_000)
