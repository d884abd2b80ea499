"""Presets: what ``rljax train AGENT ENV`` uses when nothing else is given. One module per agent, with sources."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import asdict, dataclass
from importlib import import_module
from types import MappingProxyType
from typing import Any

from rljax import heads
from rljax.base import Discrete, InputError, Spec
from rljax.config import override
from rljax.data import Dataset
from rljax.experiments.setup import Reward, Setup


@dataclass(frozen=True)
class Preset:
    """A config and the sizes that go with it: env steps per seed online, critic gradient steps per seed offline."""

    config: Any
    steps: int
    num_envs: int = 1
    eval_every: int = 5_000
    eval_episodes: int = 10
    reward: Reward = Reward()
    soft: bool = False  # whether the critics' targets hold an entropy bonus


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


def with_supports(setup: Setup, preset: Preset) -> tuple[Any, list[str]]:
    """``(config, sentences)``: the run's config, with a support for each categorical head that has none of its own.

    It comes from the data set's returns, or from the range of rewards of the env where that is known.
    """
    config, said = setup.configs[0], []
    for field in dataclasses.fields(config):
        head = getattr(config, field.name)
        if not hasattr(head, "low") or (head.low, head.high) != (type(head).low, type(head).high):
            continue
        found = _support(setup, config, preset)
        if found is None:
            said.append(
                f"config.{field.name} has the support [{head.low:g}, {head.high:g}], a guess: "
                f"set config.{field.name}.low and config.{field.name}.high to where the values of {setup.env.name} lie"
            )
            continue
        low, high = found
        config = override(config, {f"{field.name}.low": low, f"{field.name}.high": high})
        said.append(f"config.{field.name} has the support [{low:g}, {high:g}]")
    return config, said


def _support(setup: Setup, config: Any, preset: Preset) -> tuple[float, float] | None:
    bonus = _entropy_bonus(config, setup.spec) if preset.soft else (0.0, 0.0)
    if setup.data is not None:
        reward = asdict(setup.offline.reward)
        return heads.support_from(setup.data, float(config.discount), bonus=bonus, **reward)
    rewards = REWARDS.get(task(setup.env.name))
    return None if rewards is None else heads.support_from(rewards, float(config.discount), bonus=bonus)


def _entropy_bonus(config: Any, spec: Spec) -> tuple[float, float]:
    """``(smallest, largest)`` bonus of a step at the first temperature, for entropies between target and uniform."""
    if isinstance(spec.action, Discrete):
        return 0.0, config.init_alpha * math.log(spec.action.n)
    dims = math.prod(spec.action.shape)
    return -config.init_alpha * config.target_entropy_scale * dims, config.init_alpha * dims * math.log(2)


# Smallest and largest reward of a step. Brax gives none: these hold what SAC reached here, and leave room.
REWARDS = MappingProxyType(
    {
        "pendulum": (-16.28, 0.0),  # -(pi^2 + 0.1 * 8^2 + 0.001 * 2^2)
        "gymnax/Pendulum-v1": (-16.28, 0.0),
        "gymnax/CartPole-v1": (1.0, 1.0),
        "gymnax/Acrobot-v1": (-1.0, 0.0),
        "gymnax/MountainCar-v0": (-1.0, -1.0),
        "gymnax/Catch-bsuite": (-1.0, 1.0),
        "brax/inverted_pendulum": (1.0, 1.0),
        "brax/hopper": (-1.0, 5.0),
        "brax/walker2d": (-1.0, 7.0),
        "brax/halfcheetah": (-4.0, 15.0),
        "brax/ant": (-2.0, 10.0),
        "brax/reacher": (-4.0, 0.0),
    }
)

_DOMAINS = MappingProxyType(
    {
        "antmaze": ("antmaze",),
        "locomotion": ("halfcheetah", "hopper", "walker", "ant", "humanoid"),
        "pendulum": ("pendulum",),
    }
)
