"""Presets: what ``rljax train AGENT ENV`` uses when nothing else is given. One module per agent, with sources."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Preset:
    """A config and the sizes that go with it, in env steps per seed."""

    config: Any
    steps: int
    num_envs: int = 1
    eval_every: int = 5_000


def task(env: str) -> str:
    """An environment's name without its options: "brax/hopper" for "brax/hopper?backend=spring"."""
    return env.partition("?")[0]


def find(agent: str, env: str) -> Preset:
    """The preset of an agent (its name) for an environment (its name): ``presets/<agent>.py`` decides."""
    found: Preset = import_module(f"rljax.experiments.presets.{agent}").preset(env)
    return found
