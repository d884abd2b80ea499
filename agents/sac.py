"""Soft Actor-Critic with automatic temperature (Haarnoja et al., arXiv:1812.05905).

One `update` takes U batches: U critic steps, each on its own batch and followed by Polyak averaging, then one step of
the actor and of the temperature on the updated critics and the last batch.

Deviations: log standard deviation mapped smoothly into [-5, 2] (paper: clipped to [-20, 2]); U > 1 critic steps per
actor step (arXiv:2101.05982); the initial temperature is a hyperparameter.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from rljax import actor_critic, heads, normalize
from rljax.actor_critic import Metrics, State, act, mode, networks
from rljax.base import Agent, Array, Batch, Spec, no_memory
from rljax.config import check_action, check_ranges, choice, config, leaf, static


@config
class Config:
    """Hyperparameters of SAC; the defaults are those of the paper's appendix D unless said otherwise."""

    actor_lr: float = leaf(3e-4, "(0, inf)")  # Adam step size of the actor
    critic_lr: float = leaf(3e-4, "(0, inf)")  # Adam step size of the critics
    alpha_lr: float = leaf(3e-4, "(0, inf)")  # Adam step size of the temperature
    discount: float = leaf(0.99, "[0, 1)")  # discount per env step
    tau: float = leaf(0.005, "(0, 1]")  # Polyak step of the target critics, per critic step
    init_alpha: float = leaf(1.0, "(0, inf)")  # temperature before learning (reward units)
    target_entropy_scale: float = leaf(1.0)  # target entropy is minus this times the number of action dimensions
    actor_width: int = static(256, "[1, inf)")  # units per hidden layer of the actor
    actor_depth: int = static(2, "[0, inf)")  # hidden layers of the actor
    critic_width: int = static(256, "[1, inf)")  # units per hidden layer of each critic
    critic_depth: int = static(2, "[0, inf)")  # hidden layers of each critic
    layer_norm: bool = static(False)  # LayerNorm before each ReLU, in actor and critics
    num_critics: int = static(2, "[1, inf)")  # size of the critic ensemble; targets take the minimum over all
    utd: int = static(1, "[1, inf)")  # critic steps per env step (and per actor step)
    batch_size: int = static(256, "[1, inf)")  # transitions per critic step
    warmup: int = static(5_000, "[1, inf)")  # env steps with uniform random actions before learning (CleanRL)
    capacity: int = static(1_000_000, "[1, inf)")  # transitions kept for replay; never more than the run has steps
    head: heads.Head = choice(heads.Scalar(), heads.HEADS)  # how critics encode values
    obs_stats: Callable = static(  # observation normalisation: none, or with running statistics
        normalize.fixed, choices={"fixed": normalize.fixed, "running": normalize.running}
    )


def check(config: Config, spec: Spec) -> None:
    """Raise `InputError` unless the numbers are in range and actions are continuous."""
    check_ranges(config)
    check_action("sac", spec, Array, "sac_discrete")


def init(config: Config, spec: Spec, key: jax.Array) -> State:
    """Fresh networks, optimisers and temperature."""
    action = jnp.zeros((1, *spec.action.shape), float)
    return actor_critic.init(config, networks(config, action.shape[-1]), spec, key, action)


def update(config: Config, state: State, batch: Batch, key: jax.Array) -> tuple[State, Metrics]:
    """``(state, metrics)`` after U critic steps and one step of actor and temperature; transitions are [U, B, ...]."""
    net = networks(config, batch.transition.action.shape[-1])
    state, transitions = actor_critic.normalized(config, state, batch)
    return actor_critic.soft_update(config, net, state, transitions, key)


def make(spec: Spec, config: Config) -> Agent:
    """SAC bound to ``spec`` and ``config``; pure and safe to trace."""
    return Agent(
        init=partial(init, config, spec),
        memory=no_memory,
        act=partial(act, config),
        mode=partial(mode, config),
        update=partial(update, config),
        batches=config.utd,
    )
