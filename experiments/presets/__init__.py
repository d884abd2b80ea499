"""Presets: what ``rljax train AGENT ENV`` uses when nothing else is given. One module per agent, with sources."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
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
    retain: float = 0.0  # fraction of recorded data in each batch of fine-tuning
    before: tuple[str, Preset] | None = None  # the agent, and its preset, that learns offline before fine-tuning


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


def online(agent: str, env: str, data: Dataset | None = None) -> Preset:
    """The preset of an agent that fine-tunes: an offline agent's own config, with the sizes of WSRL's online part."""
    found = find(agent, env, data)
    if hasattr(found.config, "warmup"):
        return found
    sizes = find("wsrl", env, data)
    return replace(found, steps=sizes.steps, num_envs=sizes.num_envs, eval_every=sizes.eval_every, before=(agent, found))


def carried(config: Any, earlier: Any) -> Any:
    """``config`` with the networks, discount and heads of ``earlier``, and all else too if it is of the same agent."""
    if type(config) is type(earlier):
        return earlier
    names = {field.name for field in dataclasses.fields(config)} & {field.name for field in dataclasses.fields(earlier)}
    return override(config, {name: getattr(earlier, name) for name in names & _CARRIED})


def going_on(config: Any) -> Any:
    """``config`` for fine-tuning: an actor whose step size fell while it learned offline keeps one that does not."""
    return override(config, {"actor_decay": 1e12}) if hasattr(config, "actor_decay") else config


def domain(env: str, data: Dataset | None) -> str:
    """The kind of task, from the data set's name or else the env's: "antmaze", "maze", "locomotion", "pendulum" or ""."""
    name = (env if data is None else f"{data.info.name} {env}").lower()
    for kind, words in _DOMAINS.items():
        if any(word in name for word in words):
            return kind
    return ""


def size(env: str) -> tuple[int, int]:
    """``(horizon, number of actions)`` of the environment named ``env``; 1 for what it does not have, or is not known."""
    from rljax import envs

    try:
        spec = envs.make(env).spec
    except InputError:  # said where the environment is made
        return 1, 1
    return spec.horizon, getattr(spec.action, "n", 1)


def normalized_rewards(data: Dataset | None) -> Reward:
    """Rewards times 1000 / (largest - smallest return), as in IQL's code; as they are if all returns are equal."""
    spread = 0.0 if data is None else float(data.returns.max() - data.returns.min())
    return Reward(scale=1000 / spread) if spread > 0 else Reward()


def with_supports(setup: Setup, preset: Preset, given: Collection[str] = ()) -> tuple[Any, list[str]]:
    """``(config, sentences)``: the run's config, with a support for each categorical head that has none of its own.

    It comes from the data set's returns, or from the range of rewards of the env where that is known. Ends that are ``given``,
    such as "head.low", or that are not the head's defaults, stay as they are.
    """
    config, said = setup.configs[0], []
    for name in (field.name for field in dataclasses.fields(config)):
        head = getattr(config, name)
        if not hasattr(head, "low"):
            continue
        ends = {end: getattr(head, end) for end in ("low", "high")}
        missing = [end for end in ends if f"{name}.{end}" not in given and ends[end] == getattr(type(head), end)]
        found = _support(setup, config, preset, getattr(head, "transform", heads.LINEAR))
        config = override(config, {f"{name}.{end}": found[end] for end in missing if found})
        head = getattr(config, name)
        guess = f", a guess: set config.{name}.low and config.{name}.high to where the values of the task lie"
        said.append(f"config.{name} has the support [{head.low:g}, {head.high:g}]" + (guess if missing and not found else ""))
    return config, said


def _support(setup: Setup, config: Any, preset: Preset, transform: heads.Transform) -> dict[str, float]:
    """Low and high, or nothing where the range of rewards is not known."""
    bonus = _entropy_bonus(config, setup.spec) if preset.soft else (0.0, 0.0)
    if setup.data is not None:
        reward = asdict(setup.reward)
        low, high = heads.support_from(setup.data, float(config.discount), bonus=bonus, transform=transform, **reward)
    elif rewards := REWARDS.get(task(setup.env.name)):
        ends = (setup.reward.scale * rewards[0] + setup.reward.bias, setup.reward.scale * rewards[1] + setup.reward.bias)
        low, high = heads.support_from(ends, float(config.discount), bonus=bonus, transform=transform)
    else:
        return {}
    return {"low": low, "high": high}


def _entropy_bonus(config: Any, spec: Spec) -> tuple[float, float]:
    """``(smallest, largest)`` bonus of a step at the first temperature, for entropies between target and uniform."""
    if isinstance(spec.action, Discrete):
        return 0.0, config.init_alpha * math.log(spec.action.n)
    dims = math.prod(spec.action.shape)
    return -config.init_alpha * config.target_entropy_scale * dims, config.init_alpha * dims * math.log(2)


# Smallest and largest reward of a step. Brax tells none: its numbers are estimates, which ``critic/clipped`` checks in a run.
REWARDS = MappingProxyType(
    {
        "pendulum": (-16.28, 0.0),  # -(pi^2 + 0.1 * 8^2 + 0.001 * 2^2)
        "pendulum/angle": (-16.28, 0.0),
        "maze/open": (0.0, 1.0),
        "maze/umaze": (0.0, 1.0),
        "maze/medium": (0.0, 1.0),
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

_CARRIED = frozenset(
    {
        "discount",
        "actor_width",
        "actor_depth",
        "critic_width",
        "critic_depth",
        "layer_norm",
        "num_critics",
        "head",
        "value_head",
    }
)

_DOMAINS = MappingProxyType(
    {
        "antmaze": ("antmaze",),
        "maze": ("maze/",),
        "locomotion": ("halfcheetah", "hopper", "walker", "ant", "humanoid"),
        "pendulum": ("pendulum",),
    }
)
