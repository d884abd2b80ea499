"""Implicit Q-Learning (Kostrikov et al., arXiv:2110.06169).

One `update` takes one batch [1, B]; each of several, [U, B], is one update of its own. Public codes differ in the order of
the steps within it, and no ablation is known: ``order`` is `official` or `corl`.

Deviations: layers start as PyTorch's do (paper: orthogonal); no dropout.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from rljax import heads, losses, nets, normalize
from rljax.actor_critic import Metrics, Networks, normalized
from rljax.base import Agent, Array, Batch, Spec, Transition, example, no_memory
from rljax.config import check_action, check_ranges, choice, config, leaf, static
from rljax.optim import Model, adam, cosine, descend, model, polyak


class State(NamedTuple):
    """Actor, critics and value with their optimisers, target critics, and the observations' statistics."""

    actor: Model
    critic: Model
    value: Model
    target: dict
    stats: normalize.Stats


def official(config: Config, net: Networks, state: State, t: Transition) -> tuple[State, Metrics]:
    """The authors' order: V, then the actor on the new V, then Q towards the new V, then its target."""
    q = _target_q(net, state, t)
    state, value_metrics = _value_step(config, net, state, t, q)
    state, actor_metrics = _actor_step(config, net, state, t, q - _v(config, net, state, t.obs))
    state, critic_metrics = _critic_step(config, net, state, t, _v(config, net, state, t.next_obs))
    return state, critic_metrics | value_metrics | actor_metrics


def corl(config: Config, net: Networks, state: State, t: Transition) -> tuple[State, Metrics]:
    """CORL's order: V, then Q towards the old V, then its target, then the actor on the advantage before the update."""
    q, next_value = _target_q(net, state, t), _v(config, net, state, t.next_obs)
    advantage = q - _v(config, net, state, t.obs)
    state, value_metrics = _value_step(config, net, state, t, q)
    state, critic_metrics = _critic_step(config, net, state, t, next_value)
    state, actor_metrics = _actor_step(config, net, state, t, advantage)
    return state, critic_metrics | value_metrics | actor_metrics


def gaussian(policy: nn.Module, params: dict, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``(mean [B, A], log_std)`` of the paper's policy: its deviation is learned and does not depend on observations."""
    return policy.apply(params, obs)


def deterministic(policy: nn.Module, params: dict, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``(mean [B, A], log_std)`` with the fixed variance 1/2, under which -log pi is the squared error (CORL's hopper)."""
    mean, log_std = policy.apply(params, obs)
    return mean, jnp.full_like(log_std, -0.5 * jnp.log(2.0))


@config
class Config:
    """Hyperparameters of IQL; the defaults are the paper's for locomotion."""

    actor_lr: float = leaf(3e-4, "(0, inf)")  # Adam step size of the actor at the beginning
    critic_lr: float = leaf(3e-4, "(0, inf)")  # Adam step size of the critics
    value_lr: float = leaf(3e-4, "(0, inf)")  # Adam step size of the value
    actor_decay: float = leaf(1e6, "(0, inf)")  # gradient steps in which the actor's step size falls to 0 (cosine)
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
    order: Callable = static(official, choices={"official": official, "corl": corl})  # the order of the steps
    policy: Callable = static(  # with learned deviation, or by least squares
        gaussian, choices={"gaussian": gaussian, "deterministic": deterministic}
    )
    head: heads.Head = choice(heads.Scalar(), heads.HEADS)  # how critics encode values
    value_head: heads.Head = choice(heads.Scalar(), heads.HEADS)  # how V is encoded; its loss is the expectile's
    obs_stats: Callable = static(normalize.fixed, choices=normalize.CHOICES)  # observation normalisation


def check(config: Config, spec: Spec) -> None:
    """Raise `InputError` unless the numbers are in range and actions are continuous."""
    check_ranges(config)
    check_action("iql", spec, Array, "iql_discrete")


def networks(config: Config, action_dim: int) -> Networks:
    """Actor, critics and value for ``action_dim`` action dimensions."""
    actor = nets.BoundedGaussianPolicy(action_dim, config.actor_width, config.actor_depth, config.layer_norm)
    sizes = (config.critic_width, config.critic_depth, config.layer_norm)
    critic = nets.ensemble(config.num_critics)(config.head.size, *sizes)
    return Networks(actor, critic, config.head, nets.Critic(config.value_head.size, *sizes))


def init(config: Config, spec: Spec, key: jax.Array) -> State:
    """Fresh networks and optimisers; targets equal the critics."""
    key_actor, key_critic, key_value = jax.random.split(key, 3)
    stats, action = normalize.init(spec.obs), example(spec.action, 1).astype(float)
    net, obs = networks(config, action.shape[-1]), normalize.apply(stats, example(spec.obs, 1))
    critic = nets.init(net.critic, net.head, key_critic, obs, action)
    return State(
        actor=model(_actor_optimizer(config), net.actor.init(key_actor, obs)),
        critic=model(adam(config.critic_lr), critic),
        value=model(adam(config.value_lr), nets.init(net.value, config.value_head, key_value, obs)),
        target=jax.tree.map(jnp.copy, critic),
        stats=stats,
    )


def act(config: Config, state: State, memory: tuple, obs: jax.Array, key: jax.Array) -> tuple[jax.Array, tuple]:
    """``(actions [E, A] ~ pi, clipped to [-1, 1], memory)`` for observations [E, ...]."""
    mean, log_std = _policy(config, state, obs)
    return jnp.clip(mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape, mean.dtype), -1, 1), memory


def mode(config: Config, state: State, memory: tuple, obs: jax.Array) -> tuple[jax.Array, tuple]:
    """``(mean of pi [E, A], memory)`` for observations [E, ...]."""
    return _policy(config, state, obs)[0], memory


def update(config: Config, state: State, batch: Batch, key: jax.Array) -> tuple[State, Metrics]:
    """``(state, metrics)`` after U updates; nothing is sampled, so ``key`` is not used."""
    net = networks(config, batch.transition.action.shape[-1])
    state, transitions = normalized(config, state, batch)
    state, metrics = jax.lax.scan(partial(config.order, config, net), state, transitions)
    return state, jax.tree.map(jnp.mean, metrics)


def make(spec: Spec, config: Config) -> Agent:
    """IQL bound to ``spec`` and ``config``; pure and safe to trace."""
    return Agent(
        init=partial(init, config, spec),
        memory=no_memory,
        act=partial(act, config),
        mode=partial(mode, config),
        update=partial(update, config),
        batches=1,
    )


def _value_step(config: Config, net: Networks, state: State, t: Transition, q: jax.Array) -> tuple[State, Metrics]:
    """One Adam step of V on the expectile loss of ``q`` - V (eq. 5)."""

    def loss(params: dict) -> tuple[jax.Array, Metrics]:
        return losses.expectile_loss(config.value_head, net.value.apply(params, t.obs), q, config.expectile)

    value, metrics = descend(adam(config.value_lr), loss, state.value)
    return state._replace(value=value), metrics


def _critic_step(config: Config, net: Networks, state: State, t: Transition, next_value: jax.Array) -> tuple[State, Metrics]:
    """One Adam step of the critics towards r + discount V(s') (eq. 6), then one Polyak step of their targets."""
    number = losses.td_target(t.reward, t.terminated, next_value, config.discount)
    target = losses.Target(number, number)

    def loss(params: dict) -> tuple[jax.Array, Metrics]:
        return losses.critic_loss(net.head, net.critic.apply(params, t.obs, t.action), target)

    critic, metrics = descend(adam(config.critic_lr), loss, state.critic)
    return state._replace(critic=critic, target=polyak(state.target, critic.params, config.tau)), metrics


def _actor_step(config: Config, net: Networks, state: State, t: Transition, advantage: jax.Array) -> tuple[State, Metrics]:
    """One Adam step of the actor on -min(exp(beta A), max_weight) log pi(a|s) (eq. 7)."""
    weight = jnp.minimum(jnp.exp(config.beta * advantage), config.max_weight)

    def loss(params: dict) -> tuple[jax.Array, Metrics]:
        mean, log_std = config.policy(net.actor, params, t.obs)
        log_prob = nets.gaussian_log_density(mean, log_std, t.action).sum(-1)
        value = -(weight * log_prob).mean()
        return value, {"actor/loss": value, "actor/weight": weight.mean()}

    actor, metrics = descend(_actor_optimizer(config), loss, state.actor)
    return state._replace(actor=actor), metrics


def _target_q(net: Networks, state: State, t: Transition) -> jax.Array:
    return net.head.value(net.critic.apply(state.target, t.obs, t.action)).min(0)


def _v(config: Config, net: Networks, state: State, obs: jax.Array) -> jax.Array:
    return config.value_head.value(net.value.apply(state.value.params, obs))


def _policy(config: Config, state: State, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
    params = state.actor.params
    return config.policy(networks(config, nets.outputs(params)).actor, params, normalize.apply(state.stats, obs))


def _actor_optimizer(config: Config) -> optax.GradientTransformation:
    return adam(cosine(config.actor_lr, config.actor_decay))
