"""Reinforcement Learning with Prior Data (Ball, Smith, Kostrikov, Levine, arXiv:2302.02948).

SAC with an ensemble of critics with LayerNorm, targets from a random subset of it, many critic steps per env step, and batches
half of which are recorded data. One `update` takes U batches: U critic steps, each on its own batch and followed by Polyak
averaging, then one step of the actor, on the mean of all critics, and of the temperature, on the last batch.

Deviations: the actor has LayerNorm too (authors' code: critics only); the critics' losses are summed (paper: averaged), which
Adam does not notice; the log standard deviation is mapped smoothly into [-5, 2]; layers start as PyTorch's do (paper:
orthogonal).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from rljax import actor_critic, heads, normalize, replay
from rljax.actor_critic import Metrics, State, act, mode, networks
from rljax.base import Agent, Array, Batch, InputError, Spec, no_memory
from rljax.config import check_action, check_ranges, choice, config, leaf, static


@config
class Config:
    """Hyperparameters of RLPD; the defaults are the paper's, with the update ratio that WSRL compares it at."""

    actor_lr: float = leaf(3e-4, "(0, inf)")  # Adam step size of the actor
    critic_lr: float = leaf(3e-4, "(0, inf)")  # Adam step size of the critics
    alpha_lr: float = leaf(3e-4, "(0, inf)")  # Adam step size of the temperature
    discount: float = leaf(0.99, "[0, 1)")  # discount per env step
    tau: float = leaf(0.005, "(0, 1]")  # Polyak step of the target critics, per critic step
    init_alpha: float = leaf(1.0, "(0, inf)")  # temperature before learning (reward units)
    target_entropy_scale: float = leaf(0.5)  # target entropy is minus this times the number of action dimensions
    bonus: float = leaf(1.0, "[0, inf)")  # weight of the entropy bonus in targets
    actor_width: int = static(256, "[1, inf)")  # units per hidden layer of the actor
    actor_depth: int = static(2, "[0, inf)")  # hidden layers of the actor
    critic_width: int = static(256, "[1, inf)")  # units per hidden layer of each critic
    critic_depth: int = static(2, "[0, inf)")  # hidden layers of each critic
    layer_norm: bool = static(True)  # LayerNorm before each ReLU, in actor and critics
    num_critics: int = static(10, "[1, inf)")  # size of the critic ensemble
    num_targets: int = static(2, "[1, inf)")  # how many of them, drawn anew for each critic step, make a target
    utd: int = static(4, "[1, inf)")  # critic steps per env step (and per actor step); paper: 20
    batch_size: int = static(256, "[1, inf)")  # transitions per critic step
    recorded: float = static(0.5, "[0, 1]")  # fraction of each batch that is recorded data
    warmup: int = static(5_000, "[1, inf)")  # env steps with uniform random actions before learning
    capacity: int = static(1_000_000, "[1, inf)")  # transitions kept for replay; never more than the run has steps
    head: heads.Head = choice(heads.Scalar(), heads.HEADS)  # how critics encode values
    obs_stats: Callable = static(  # observation normalisation: none, or with running statistics
        normalize.fixed, choices={"fixed": normalize.fixed, "running": normalize.running}
    )


def check(config: Config, spec: Spec) -> None:
    """Raise `InputError` unless the numbers are in range and actions are continuous."""
    check_ranges(config)
    check_action("rlpd", spec, Array, "sac_discrete")
    if config.num_targets > config.num_critics:
        raise InputError(f"config.num_targets is {config.num_targets}, more than config.num_critics, {config.num_critics}")


def init(config: Config, spec: Spec, key: jax.Array) -> State:
    """Fresh networks, optimisers and temperature."""
    action = jnp.zeros((1, *spec.action.shape), float)
    return actor_critic.init(config, networks(config, action.shape[-1]), spec, key, action)


def update(config: Config, state: State, batch: Batch, key: jax.Array) -> tuple[State, Metrics]:
    """``(state, metrics)`` after U critic steps and one step of actor and temperature; transitions are [U, B, ...]."""
    action_dim = batch.transition.action.shape[-1]
    net, few = networks(config, action_dim), networks(config, action_dim, config.num_targets)
    key_critic, key_actor = jax.random.split(key)
    state, transitions = actor_critic.normalized(config, state, batch)

    def value(state: State, next_obs: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        key_subset, key_action = jax.random.split(key)
        members = jax.random.permutation(key_subset, config.num_critics)[: config.num_targets]
        chosen = actor_critic.with_targets(state, members)
        return actor_critic.soft_value(few, chosen, next_obs, key_action, config.bonus)

    state, critic_metrics = actor_critic.critic_steps(config, net, state, transitions, key_critic, value)
    obs, alpha = transitions.obs[-1], jnp.exp(state.alpha.params)
    state, entropy, actor_metrics = actor_critic.policy_step(config, net, state, obs, key_actor, jnp.mean)
    state = actor_critic.temperature_step(config, state, entropy, -config.target_entropy_scale * action_dim)
    return state, critic_metrics | actor_metrics | {"alpha/value": alpha}


def make(spec: Spec, config: Config) -> Agent:
    """RLPD bound to ``spec`` and ``config``; pure and safe to trace."""
    return Agent(
        init=partial(init, config, spec),
        memory=no_memory,
        act=partial(act, config),
        mode=partial(mode, config),
        update=partial(update, config),
        batches=config.utd,
        draw=replay.mixed(config.recorded),
    )
