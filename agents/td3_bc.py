"""TD3+BC: TD3 with a behaviour-cloning term in the actor (Fujimoto and Gu, arXiv:2106.06860).

One `update` takes U = ``policy_delay`` batches: U steps of both critics, each on its own batch, then one step of the actor
on the last, and then one Polyak step of all targets.

Deviation: N critics instead of two; the actor follows the first, targets take the minimum over all.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from rljax import heads, losses, nets, normalize
from rljax.actor_critic import Metrics, Networks, normalized
from rljax.base import Agent, Array, Batch, Spec, Transition, example, no_memory
from rljax.config import check_action, check_ranges, choice, config, leaf, static
from rljax.optim import Model, adam, descend, model, polyak


@config
class Config:
    """Hyperparameters of TD3+BC; the defaults are the paper's."""

    actor_lr: float = leaf(3e-4, "(0, inf)")  # Adam step size of the actor
    critic_lr: float = leaf(3e-4, "(0, inf)")  # Adam step size of the critics
    discount: float = leaf(0.99, "[0, 1)")  # discount per env step
    tau: float = leaf(0.005, "(0, 1]")  # Polyak step of all targets, per actor step
    alpha: float = leaf(2.5, "[0, inf)")  # weight of Q, in units of its mean absolute value, against cloning
    target_noise: float = leaf(0.2, "[0, inf)")  # deviation of the noise on target actions
    noise_clip: float = leaf(0.5, "[0, inf)")  # largest noise on target actions
    exploration: float = leaf(0.1, "[0, inf)")  # deviation of the Gaussian noise on actions when exploring
    actor_width: int = static(256, "[1, inf)")  # units per hidden layer of the actor
    actor_depth: int = static(2, "[0, inf)")  # hidden layers of the actor
    critic_width: int = static(256, "[1, inf)")  # units per hidden layer of each critic
    critic_depth: int = static(2, "[0, inf)")  # hidden layers of each critic
    layer_norm: bool = static(False)  # LayerNorm before each ReLU, in actor and critics
    num_critics: int = static(2, "[1, inf)")  # size of the critic ensemble
    policy_delay: int = static(2, "[1, inf)")  # critic steps per actor step
    batch_size: int = static(256, "[1, inf)")  # transitions per critic step
    head: heads.Head = choice(heads.Scalar(), heads.HEADS)  # how critics encode values
    obs_stats: Callable = static(normalize.dataset, choices=normalize.CHOICES)  # observation normalisation


class State(NamedTuple):
    """Actor and critics with their optimisers, their targets, and the observations' statistics."""

    actor: Model
    critic: Model
    target_actor: dict
    target: dict
    stats: normalize.Stats


def check(config: Config, spec: Spec) -> None:
    """Raise `InputError` unless the numbers are in range and actions are continuous."""
    check_ranges(config)
    check_action("td3_bc", spec, Array, "cql_discrete")


def networks(config: Config, action_dim: int, num_critics: int | None = None) -> Networks:
    """An actor for ``action_dim`` dimensions, and an ensemble of ``num_critics``, or as the config says."""
    actor: nn.Module = nets.DeterministicPolicy(action_dim, config.actor_width, config.actor_depth, config.layer_norm)
    num = config.num_critics if num_critics is None else num_critics
    critic = nets.ensemble(num)(config.head.size, config.critic_width, config.critic_depth, config.layer_norm)
    return Networks(actor, critic, config.head)


def init(config: Config, spec: Spec, key: jax.Array) -> State:
    """Fresh networks and optimisers; targets equal them."""
    key_actor, key_critic = jax.random.split(key)
    stats, action = normalize.init(spec.obs), example(spec.action, 1).astype(float)
    net, obs = networks(config, action.shape[-1]), normalize.apply(stats, example(spec.obs, 1))
    actor, critic = net.actor.init(key_actor, obs), nets.init(net.critic, net.head, key_critic, obs, action)
    return State(
        actor=model(adam(config.actor_lr), actor),
        critic=model(adam(config.critic_lr), critic),
        target_actor=jax.tree.map(jnp.copy, actor),
        target=jax.tree.map(jnp.copy, critic),
        stats=stats,
    )


def act(config: Config, state: State, memory: tuple, obs: jax.Array, key: jax.Array) -> tuple[jax.Array, tuple]:
    """``(actions [E, A] with Gaussian noise, memory)`` for observations [E, ...]."""
    action, memory = mode(config, state, memory, obs)
    noise = config.exploration * jax.random.normal(key, action.shape, action.dtype)
    return jnp.clip(action + noise, -1, 1), memory


def mode(config: Config, state: State, memory: tuple, obs: jax.Array) -> tuple[jax.Array, tuple]:
    """``(pi(obs) [E, A], memory)`` for observations [E, ...]."""
    params = state.actor.params
    return networks(config, nets.outputs(params)).actor.apply(params, normalize.apply(state.stats, obs)), memory


def update(config: Config, state: State, batch: Batch, key: jax.Array) -> tuple[State, Metrics]:
    """``(state, metrics)`` after U critic steps, one actor step and one step of the targets; transitions are [U, B, ...]."""
    net = networks(config, batch.transition.action.shape[-1])
    state, transitions = normalized(config, state, batch)
    keys = jax.random.split(key, transitions.reward.shape[0])
    state, critic_metrics = jax.lax.scan(partial(_critic_step, config, net), state, (transitions, keys))
    last = jax.tree.map(lambda x: x[-1], transitions)
    state, actor_metrics = _actor_step(config, state, last)
    state = state._replace(
        target_actor=polyak(state.target_actor, state.actor.params, config.tau),
        target=polyak(state.target, state.critic.params, config.tau),
    )
    return state, jax.tree.map(jnp.mean, critic_metrics) | actor_metrics


def make(spec: Spec, config: Config) -> Agent:
    """TD3+BC bound to ``spec`` and ``config``; pure and safe to trace."""
    return Agent(
        init=partial(init, config, spec),
        memory=no_memory,
        act=partial(act, config),
        mode=partial(mode, config),
        update=partial(update, config),
        batches=config.policy_delay,
    )


def _critic_step(config: Config, net: Networks, state: State, x: tuple[Transition, jax.Array]) -> tuple[State, Metrics]:
    t, key = x
    noise = config.target_noise * jax.random.normal(key, t.action.shape, t.action.dtype)
    noise = jnp.clip(noise, -config.noise_clip, config.noise_clip)
    next_action = jnp.clip(net.actor.apply(state.target_actor, t.next_obs) + noise, -1, 1)
    value, out = losses.least(net.head, net.critic.apply(state.target, t.next_obs, next_action))
    target = losses.backup(net.head, t.reward, t.terminated, value, out, config.discount)

    def loss(params: dict) -> tuple[jax.Array, Metrics]:
        return losses.critic_loss(net.head, net.critic.apply(params, t.obs, t.action), target)

    critic, metrics = descend(adam(config.critic_lr), loss, state.critic)
    return state._replace(critic=critic), metrics


def _actor_step(config: Config, state: State, t: Transition) -> tuple[State, Metrics]:
    """One Adam step on -lambda Q_1(s, pi(s)) + mean (pi(s) - a)^2, lambda = alpha / mean |Q_1| (eq. 5)."""
    net, first = networks(config, t.action.shape[-1], 1), jax.tree.map(lambda x: x[:1], state.critic.params)

    def loss(params: dict) -> tuple[jax.Array, Metrics]:
        action = net.actor.apply(params, t.obs)
        q = net.head.value(net.critic.apply(first, t.obs, action))[0]
        scale = config.alpha / jax.lax.stop_gradient(jnp.abs(q).mean())
        cloning = ((action - t.action) ** 2).mean()
        value = cloning - scale * q.mean()
        return value, {"actor/loss": value, "actor/cloning": cloning}

    actor, metrics = descend(adam(config.actor_lr), loss, state.actor)
    return state._replace(actor=actor), metrics
