"""Presets: what ``rljax train AGENT ENV`` uses when nothing else is given. One module per agent, with sources."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import Any

from rljax.base import InputError
from rljax.data import Dataset
from rljax.experiments.setup import Reward


@dataclass(frozen=True)
class Preset:
    """A config and the sizes that go with it: env steps per seed online, critic gradient steps per seed offline."""

    config: Any
    steps: int
    num_envs: int = 1
    eval_every: int = 5_000
    eval_episodes: int = 10
    reward: Reward = Reward()


def task(env: str) -> str:
    """An environment's name without its options: "brax/hopper" for "brax/hopper?backend=spring"."""
    return env.partition("?")[0]


def find(agent: str, env: str, data: Dataset | None = None) -> Preset:
    """The preset of an agent (its name) for an environment (its name) or a data set: ``presets/<agent>.py`` decides.

    Raises:
        InputError: if there is no such agent.
    """
    try:
        module = import_module(f"rljax.experiments.presets.{agent}")
    except ModuleNotFoundError:
        raise InputError(f"there is no preset for agent {agent!r}: see rljax agents") from None
    found: Preset = module.preset(env, data)
    return found


def domain(env: str, data: Dataset | None) -> str:
    """The kind of task, from the data set's name or else the env's: "locomotion", "antmaze", "pendulum" or ""."""
    name = (env if data is None else f"{data.info.name} {env}").lower()
    for kind, words in _DOMAINS.items():
        if any(word in name for word in words):
            return kind
    return ""


def normalized_rewards(data: Dataset | None) -> Reward:
    """Rewards times 1000 / (largest - smallest return), as in IQL's code; as they are if all returns are equal."""
    spread = 0.0 if data is None else float(data.returns.max() - data.returns.min())
    return Reward(scale=1000 / spread) if spread > 0 else Reward()


_DOMAINS = MappingProxyType(
    {
        "antmaze": ("antmaze",),
        "locomotion": ("halfcheetah", "hopper", "walker", "ant", "humanoid"),
        "pendulum": ("pendulum",),
    }
)
