"""Presets of Drama: the paper's for Atari (arXiv:2410.08893), else size xs, for two CPU cores.

Size xs was tuned on MinAtar's Breakout, seeds 100 to 102. With a step size five times as large the model learns as much in
10 000 env steps as it did in 25 000, and a nat of free KL divergence hides what matters in frames as simple as these; with less
entropy returns stopped rising sooner. Elsewhere it was tuned on the pendulum without its velocity, seeds 101 and 102: entropy
is the paper's, for with more the deviation of continuous actions only grows; and a nat of free KL divergence is more than such
a model ever pays, so that it would not learn to predict. For the test of memory, on seed 100, too: layers that first remember
longer and latents with fewer numbers, which are less noise, are what the model needs to learn there at all; contexts hold the
whole episode; less entropy than this and the policy settles on answers that are wrong.
"""

from __future__ import annotations

from rljax import ssm
from rljax import world_model as wm
from rljax.agents.drama import Config
from rljax.config import override
from rljax.data import Dataset
from rljax.experiments.presets import Preset, task


def preset(env: str, data: Dataset | None = None) -> Preset:
    """The preset for the environment named ``env``; there are no data sets for this agent."""
    if env.startswith("ale/"):
        return Preset(Config(size=wm.DRAMA), steps=100_000, eval_every=10_000)
    steps = {"model_lr": 2e-3, "lr": 3e-4, "rise": 200.0, "warmup": 1_024, "every": 4}
    small = override(Config(free_bits=0.1), steps | {"batch_size": 8, "length": 32, "starts": 32, "ahead": 32})
    if env.endswith("-MinAtar"):
        return Preset(override(small, {"entropy": 0.03}), steps=100_000, eval_every=10_000)
    if task(env) == "recall":
        size = override(wm.XS, {"groups": 8, "classes": 8, "head": 16, "decays": ssm.long})
        other = {"model_lr": 3e-3, "lr": 5e-4, "entropy": 0.1, "free_bits": 1.0, "ahead": 16}
        recall = override(small, other | {"size": size, "length": 128, "context": 64})
        return Preset(recall, steps=20_000, eval_every=2_000, eval_episodes=100)
    return Preset(small, steps=20_000, eval_every=2_000)
