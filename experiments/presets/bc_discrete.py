"""Presets of discrete behaviour cloning. Sources: the defaults of the agent."""

from __future__ import annotations

from rljax.agents.bc_discrete import Config
from rljax.data import Dataset
from rljax.experiments.presets import Preset


def preset(env: str, data: Dataset | None = None) -> Preset:
    """The preset for a data set, evaluated on the environment named ``env``."""
    return Preset(Config(), steps=100_000)
