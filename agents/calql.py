"""Calibrated Q-Learning (Nakamoto et al., arXiv:2303.05479).

CQL whose penalty takes the policy's values to be at least the Monte-Carlo return of the recorded behaviour, so that
fine-tuning does not begin with values that are too low. One `update` takes one batch [1, B] with `Extras`; each of several,
[U, B], is one update of its own. Deviations: those of `cql`; and online a transition whose episode has not ended has the return
-inf, which bounds nothing (WSRL's code samples only from episodes that have ended).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax

from rljax import conservative, heads, normalize
from rljax.actor_critic import Metrics, act, mode, networks
from rljax.base import Agent, Array, Batch, Spec, no_memory
from rljax.config import check_action, check_ranges, choice, config, leaf, static
from rljax.conservative import State


class Extras(NamedTuple):
    """What a batch holds beside its transitions: the Monte-Carlo return [U, B] from each on, of transformed rewards."""

    mc_return: jax.Array


@config
class Config:
    """Hyperparameters of Cal-QL; the defaults are CORL's for antmaze."""

    actor_lr: float = leaf(1e-4, "(0, inf)")  # Adam step size of the actor
    critic_lr: float = leaf(3e-4, "(0, inf)")  # Adam step size of the critics and of the multiplier
    alpha_lr: float = leaf(1e-4, "(0, inf)")  # Adam step size of the temperature
    discount: float = leaf(0.99, "[0, 1)")  # discount per env step
    tau: float = leaf(0.005, "(0, 1]")  # Polyak step of the target critics
    init_alpha: float = leaf(1.0, "(0, inf)")  # entropy temperature before learning (reward units)
    target_entropy_scale: float = leaf(1.0)  # target entropy is minus this times the number of action dimensions
    penalty: float = leaf(5.0, "[0, inf)")  # weight of the gap against the TD loss
    target_gap: float = leaf(0.8)  # gap that the multiplier keeps (constraint lagrange)
    gap_min: float = leaf(-200.0)  # smallest gap of one sample that is penalised
    temperature: float = leaf(1.0, "(0, inf)")  # of the logsumexp
    actor_width: int = static(256, "[1, inf)")  # units per hidden layer of the actor
    actor_depth: int = static(3, "[0, inf)")  # hidden layers of the actor
    critic_width: int = static(256, "[1, inf)")  # units per hidden layer of each critic
    critic_depth: int = static(5, "[0, inf)")  # hidden layers of each critic
    layer_norm: bool = static(False)  # LayerNorm before each ReLU, in actor and critics
    num_critics: int = static(2, "[1, inf)")  # size of the critic ensemble; targets take the minimum over all
    num_actions: int = static(10, "[1, inf)")  # actions sampled from each of the three distributions, and for the maximum
    batch_size: int = static(256, "[1, inf)")  # transitions per gradient step
    backup: Callable = static(  # value of the next state: of one sampled action, or the largest of several
        conservative.max_of_samples,
        choices={"one_sample": conservative.one_sample, "max_of_samples": conservative.max_of_samples},
    )
    constraint: Callable = static(  # a fixed weight on the gap, or a multiplier that keeps it at target_gap
        conservative.lagrange, choices={"fixed": conservative.fixed, "lagrange": conservative.lagrange}
    )
    head: heads.Head = choice(heads.Scalar(), heads.HEADS)  # how critics encode values
    obs_stats: Callable = static(normalize.fixed, choices=normalize.CHOICES)  # observation normalisation


def check(config: Config, spec: Spec) -> None:
    """Raise `InputError` unless the numbers are in range and actions are continuous."""
    check_ranges(config)
    check_action("calql", spec, Array, "cql_discrete")


def init(config: Config, spec: Spec, key: jax.Array) -> State:
    """Fresh networks, optimisers, temperature and multiplier."""
    return conservative.init(config, networks(config, spec.action.shape[0]), spec, key)


def update(config: Config, state: State, batch: Batch, key: jax.Array) -> tuple[State, Metrics]:
    """``(state, metrics)`` after U updates; transitions are [U, B, ...], with `Extras`."""
    net = networks(config, batch.transition.action.shape[-1])
    return conservative.update(config, net, state, batch, batch.extras.mc_return, key)


def make(spec: Spec, config: Config) -> Agent:
    """Cal-QL bound to ``spec`` and ``config``; pure and safe to trace."""
    return Agent(
        init=partial(init, config, spec),
        memory=no_memory,
        act=partial(act, config),
        mode=partial(mode, config),
        update=partial(update, config),
        batches=1,
    )
