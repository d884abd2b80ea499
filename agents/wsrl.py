"""Warm-Start Reinforcement Learning (Zhou, Peng, Li, Levine, Kumar, arXiv:2412.07762).

The online learner: SAC with an ensemble of critics, targets from a random subset of it without an entropy bonus, and no
recorded data. What makes it WSRL is how a run begins, with all networks and optimisers of an offline run and with steps of its
frozen policy. One `update` takes U batches: U critic steps, each on its own batch and followed by Polyak averaging, then one
step of the actor, on the least of all critics, and of the temperature, on the entropy at the next observations; both on all U
batches at once.

Deviations: frozen networks are not stepped at all, where the authors' code gives their Adam zero gradients, whose moments go on
moving them; the critics' losses are summed (authors: averaged), which Adam does not notice; the temperature's multiplier is an
exponential (authors: softplus); the log standard deviation is mapped smoothly into [-5, 2]; layers start as PyTorch's do.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from rljax import actor_critic, heads, nets, normalize
from rljax.actor_critic import Metrics, Networks, State, act, mode, networks
from rljax.base import Agent, Array, Batch, Spec, no_memory
from rljax.config import check_action, check_ranges, choice, config, leaf, static


@config
class Config:
    """Hyperparameters of WSRL; the defaults are the authors'."""

    actor_lr: float = leaf(1e-4, "(0, inf)")  # Adam step size of the actor
    critic_lr: float = leaf(3e-4, "(0, inf)")  # Adam step size of the critics
    alpha_lr: float = leaf(1e-4, "(0, inf)")  # Adam step size of the temperature
    discount: float = leaf(0.99, "[0, 1)")  # discount per env step
    tau: float = leaf(0.005, "(0, 1]")  # Polyak step of the target critics, per critic step
    init_alpha: float = leaf(1.0, "(0, inf)")  # temperature before learning (reward units)
    target_entropy_scale: float = leaf(1.0)  # target entropy is minus this times the number of action dimensions
    actor_width: int = static(256, "[1, inf)")  # units per hidden layer of the actor
    actor_depth: int = static(2, "[0, inf)")  # hidden layers of the actor
    critic_width: int = static(256, "[1, inf)")  # units per hidden layer of each critic
    critic_depth: int = static(2, "[0, inf)")  # hidden layers of each critic
    layer_norm: bool = static(True)  # LayerNorm before each ReLU, in actor and critics
    num_critics: int = static(10, "[1, inf)")  # size of the critic ensemble
    num_targets: int = static(2, "[1, inf)")  # how many of them, drawn with replacement for each critic step, make a target
    num_actions: int = static(1, "[1, inf)")  # next actions, of which the best counts: 10 is the max-target backup of antmaze
    utd: int = static(4, "[1, inf)")  # critic steps per env step (and per actor step)
    batch_size: int = static(256, "[1, inf)")  # transitions per critic step
    warmup: int = static(5_000, "[1, inf)")  # env steps with the frozen policy before learning
    capacity: int = static(2_000_000, "[1, inf)")  # transitions kept for replay; never more than the run has steps
    head: heads.Head = choice(heads.Scalar(), heads.HEADS)  # how critics encode values
    obs_stats: Callable = static(  # observation normalisation: none or the offline run's, or with running statistics
        normalize.fixed, choices={"fixed": normalize.fixed, "running": normalize.running}
    )


def check(config: Config, spec: Spec) -> None:
    """Raise `InputError` unless the numbers are in range and actions are continuous."""
    check_ranges(config)
    check_action("wsrl", spec, Array, "sac_discrete")


def init(config: Config, spec: Spec, key: jax.Array) -> State:
    """Fresh networks, optimisers and temperature."""
    action = jnp.zeros((1, *spec.action.shape), float)
    return actor_critic.init(config, networks(config, action.shape[-1]), spec, key, action)


def update(config: Config, state: State, batch: Batch, key: jax.Array) -> tuple[State, Metrics]:
    """``(state, metrics)`` after U critic steps and one step of actor and temperature; transitions are [U, B, ...]."""
    action_dim = batch.transition.action.shape[-1]
    net, few = networks(config, action_dim), networks(config, action_dim, config.num_targets)
    key_critic, key_actor, key_entropy = jax.random.split(key, 3)
    state, transitions = actor_critic.normalized(config, state, batch)

    def value(state: State, next_obs: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        key_subset, key_action = jax.random.split(key)
        members = jax.random.randint(key_subset, (config.num_targets,), 0, config.num_critics)
        chosen = actor_critic.with_targets(state, members)
        return actor_critic.best_value(few, chosen, next_obs, key_action, config.num_actions)

    state, critic_metrics = actor_critic.critic_steps(config, net, state, transitions, key_critic, value)
    obs, next_obs = (x.reshape(-1, *x.shape[2:]) for x in (transitions.obs, transitions.next_obs))
    alpha, entropy = jnp.exp(state.alpha.params), _entropy(net, state, next_obs, key_entropy)
    state, _, actor_metrics = actor_critic.policy_step(config, net, state, obs, key_actor)
    state = actor_critic.temperature_step(config, state, entropy, -config.target_entropy_scale * action_dim)
    return state, critic_metrics | actor_metrics | {"alpha/value": alpha}


def make(spec: Spec, config: Config) -> Agent:
    """WSRL's online learner bound to ``spec`` and ``config``; pure and safe to trace."""
    return Agent(
        init=partial(init, config, spec),
        memory=no_memory,
        act=partial(act, config),
        mode=partial(mode, config),
        update=partial(update, config),
        batches=config.utd,
    )


def _entropy(net: Networks, state: State, obs: jax.Array, key: jax.Array) -> jax.Array:
    """The policy's mean entropy, a scalar, from one action per observation."""
    mean, log_std = net.actor.apply(state.actor.params, obs)
    return -nets.sample_tanh_gaussian(mean, log_std, key)[1].mean()
