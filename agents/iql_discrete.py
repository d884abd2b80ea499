"""Implicit Q-Learning for discrete actions (Kostrikov et al., arXiv:2110.06169, with a categorical policy).

One `update` takes one batch [1, B]; each of several, [U, B], is one update of its own, in the authors' order: V, then the
actor on the new V, then Q towards the new V, then its target.

Deviation: the paper has continuous actions only; critics have one output per action.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import distrax
import jax
import jax.numpy as jnp
import optax

from rljax import heads, losses, nets, normalize
from rljax.actor_critic import Metrics, Networks, normalized
from rljax.base import Agent, Batch, Discrete, Spec, Transition, example, no_memory
from rljax.config import check_action, check_ranges, choice, config, leaf, static
from rljax.optim import Model, adam, descend, model, polyak


@config
class Config:
    """Hyperparameters of discrete IQL; the defaults are the paper's for locomotion."""

    actor_lr: float = leaf(3e-4, "(0, inf)")  # Adam step size of the actor
    critic_lr: float = leaf(3e-4, "(0, inf)")  # Adam step size of the critics
    value_lr: float = leaf(3e-4, "(0, inf)")  # Adam step size of the value
    discount: float = leaf(0.99, "[0, 1)")  # discount per env step
    tau: float = leaf(0.005, "(0, 1]")  # Polyak step of the target critics
    expectile: float = leaf(0.7, "(0, 1)")  # expectile of Q that V follows
    beta: float = leaf(3.0, "[0, inf)")  # inverse temperature: log of the cloning weight per unit of advantage
    max_weight: float = leaf(100.0, "(0, inf)")  # largest cloning weight
    actor_width: int = static(256, "[1, inf)")  # units per hidden layer of the actor
    actor_depth: int = static(2, "[0, inf)")  # hidden layers of the actor
    critic_width: int = static(256, "[1, inf)")  # units per hidden layer of each critic and of the value
    critic_depth: int = static(2, "[0, inf)")  # hidden layers of each critic and of the value
    layer_norm: bool = static(False)  # LayerNorm before each ReLU
    num_critics: int = static(2, "[1, inf)")  # size of the critic ensemble; the minimum over all is used
    batch_size: int = static(256, "[1, inf)")  # transitions per gradient step
    head: heads.Head = choice(heads.Scalar(), heads.HEADS)  # how critics encode values
    value_head: heads.Head = choice(heads.Scalar(), heads.HEADS)  # how V is encoded; its loss is the expectile's
    obs_stats: Callable = static(normalize.fixed, choices=normalize.CHOICES)  # observation normalisation


class State(NamedTuple):
    """Actor, critics and value with their optimisers, target critics, and the observations' statistics."""

    actor: Model
    critic: Model
    value: Model
    target: dict
    stats: normalize.Stats


def check(config: Config, spec: Spec) -> None:
    """Raise `InputError` unless the numbers are in range and actions are discrete."""
    check_ranges(config)
    check_action("iql_discrete", spec, Discrete, "iql")


def networks(config: Config, num_actions: int) -> Networks:
    """Actor, critics and value for ``num_actions`` actions."""
    actor = nets.CategoricalPolicy(num_actions, config.actor_width, config.actor_depth, config.layer_norm)
    sizes = (config.critic_width, config.critic_depth, config.layer_norm)
    critic = nets.ensemble(config.num_critics)(config.head.size, *sizes, num_actions)
    return Networks(actor, critic, config.head, nets.Critic(config.value_head.size, *sizes))


def init(config: Config, spec: Spec, key: jax.Array) -> State:
    """Fresh networks and optimisers; targets equal the critics."""
    key_actor, key_critic, key_value = jax.random.split(key, 3)
    stats = normalize.init(spec.obs)
    net, obs = networks(config, spec.action.n), normalize.apply(stats, example(spec.obs, 1))
    critic = nets.init(net.critic, net.head, key_critic, obs)
    return State(
        actor=model(adam(config.actor_lr), net.actor.init(key_actor, obs)),
        critic=model(adam(config.critic_lr), critic),
        value=model(adam(config.value_lr), nets.init(net.value, config.value_head, key_value, obs)),
        target=jax.tree.map(jnp.copy, critic),
        stats=stats,
    )


def act(config: Config, state: State, memory: tuple, obs: jax.Array, key: jax.Array) -> tuple[jax.Array, tuple]:
    """``(actions [E] ~ pi, memory)`` for observations [E, ...]."""
    return distrax.Categorical(_logits(config, state, obs), dtype=jnp.int32).sample(seed=key), memory


def mode(config: Config, state: State, memory: tuple, obs: jax.Array) -> tuple[jax.Array, tuple]:
    """``(most probable actions [E], memory)`` for observations [E, ...]."""
    return jnp.argmax(_logits(config, state, obs), -1).astype(jnp.int32), memory


def update(config: Config, state: State, batch: Batch, key: jax.Array) -> tuple[State, Metrics]:
    """``(state, metrics)`` after U updates; nothing is sampled, so ``key`` is not used."""
    net = networks(config, nets.outputs(state.actor.params))
    state, transitions = normalized(config, state, batch)
    state, metrics = jax.lax.scan(partial(_step, config, net), state, transitions)
    return state, jax.tree.map(jnp.mean, metrics)


def make(spec: Spec, config: Config) -> Agent:
    """Discrete IQL bound to ``spec`` and ``config``; pure and safe to trace."""
    return Agent(
        init=partial(init, config, spec),
        memory=no_memory,
        act=partial(act, config),
        mode=partial(mode, config),
        update=partial(update, config),
        batches=1,
    )


def _step(config: Config, net: Networks, state: State, t: Transition) -> tuple[State, Metrics]:
    def chosen(params: dict) -> jax.Array:
        return losses.chosen(net.critic.apply(params, t.obs), t.action)

    def v(obs: jax.Array) -> jax.Array:
        return config.value_head.value(net.value.apply(state.value.params, obs))

    def value_loss(params: dict) -> tuple[jax.Array, Metrics]:
        return losses.expectile_loss(config.value_head, net.value.apply(params, t.obs), q, config.expectile)

    def actor_loss(params: dict) -> tuple[jax.Array, Metrics]:
        log_prob = -optax.softmax_cross_entropy_with_integer_labels(net.actor.apply(params, t.obs), t.action)
        value = -(weight * log_prob).mean()
        return value, {"actor/loss": value, "actor/weight": weight.mean()}

    def critic_loss(params: dict) -> tuple[jax.Array, Metrics]:
        return losses.critic_loss(net.head, chosen(params), target)

    q = net.head.value(chosen(state.target)).min(0)
    value, value_metrics = descend(adam(config.value_lr), value_loss, state.value)
    state = state._replace(value=value)
    weight = jnp.minimum(jnp.exp(config.beta * (q - v(t.obs))), config.max_weight)
    actor, actor_metrics = descend(adam(config.actor_lr), actor_loss, state.actor)
    number = losses.td_target(t.reward, t.terminated, v(t.next_obs), config.discount)
    target = losses.Target(number, number)
    critic, critic_metrics = descend(adam(config.critic_lr), critic_loss, state.critic)
    state = state._replace(actor=actor, critic=critic, target=polyak(state.target, critic.params, config.tau))
    return state, critic_metrics | value_metrics | actor_metrics


def _logits(config: Config, state: State, obs: jax.Array) -> jax.Array:
    params = state.actor.params
    return networks(config, nets.outputs(params)).actor.apply(params, normalize.apply(state.stats, obs))
