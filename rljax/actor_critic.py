"""The actor-critic state, and the soft-actor-critic steps that several agents share (arXiv:1812.05905).

Every step takes the agent's config, its networks and a `Transition` [B, ...] with normalised observations; a state is
`State`, or another NamedTuple with the fields that the step names.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from rljax import losses, nets, normalize
from rljax.base import Batch, Spec, Transition, example
from rljax.heads import Head
from rljax.optim import Model, adam, descend, log_multiplier, model, polyak

PyTree = Any
Metrics = dict[str, jax.Array]


class State(NamedTuple):
    """All that a soft actor-critic learns: networks with their optimisers, target critics, log alpha, statistics."""

    actor: Model
    critic: Model
    target: PyTree
    alpha: Model
    stats: normalize.Stats


class Networks(NamedTuple):
    """The modules behind the parameters, and the head that decodes the critics' outputs [N, B, size]."""

    actor: nn.Module
    critic: nn.Module
    head: Head
    value: nn.Module | None = None


def networks(config: Any, action_dim: int, num_critics: int | None = None) -> Networks:
    """A tanh-Gaussian actor for ``action_dim`` dimensions, and an ensemble of ``num_critics``, or as the config says."""
    actor = nets.GaussianPolicy(action_dim, config.actor_width, config.actor_depth, config.layer_norm)
    num = config.num_critics if num_critics is None else num_critics
    critic = nets.ensemble(num)(config.head.size, config.critic_width, config.critic_depth, config.layer_norm)
    return Networks(actor, critic, config.head)


def act(config: Any, state: Any, memory: tuple, obs: jax.Array, key: jax.Array) -> tuple[jax.Array, tuple]:
    """``(actions [E, A] ~ pi, memory)`` of the actor of `networks`, for observations [E, ...]."""
    mean, log_std = _policy(config, state, obs)
    return nets.sample_tanh_gaussian(mean, log_std, key)[0], memory


def mode(config: Any, state: Any, memory: tuple, obs: jax.Array) -> tuple[jax.Array, tuple]:
    """``(tanh(mean) [E, A], memory)`` of the actor of `networks`, for observations [E, ...]."""
    return jnp.tanh(_policy(config, state, obs)[0]), memory


def init(config: Any, networks: Networks, spec: Spec, key: jax.Array, *actions: jax.Array) -> State:
    """A fresh `State`; ``actions`` [1, A] is given when the critics take the action as an input.

    Reads ``actor_lr``, ``critic_lr``, ``alpha_lr`` and ``init_alpha`` of the config.
    """
    key_actor, key_critic = jax.random.split(key)
    stats = normalize.init(spec.obs)
    obs = normalize.apply(stats, example(spec.obs, 1))
    critic = nets.init(networks.critic, networks.head, key_critic, obs, *actions)
    return State(
        actor=model(adam(config.actor_lr), networks.actor.init(key_actor, obs)),
        critic=model(adam(config.critic_lr), critic),
        target=jax.tree.map(jnp.copy, critic),
        alpha=log_multiplier(adam(config.alpha_lr), config.init_alpha),
        stats=stats,
    )


def normalized(config: Any, state: Any, batch: Batch) -> tuple[Any, Transition]:
    """The state, of any agent with ``stats``, and the batch's transition [U, B, ...] normalised by them.

    ``config.obs_stats`` updates the statistics first.
    """
    stats = config.obs_stats(state.stats, batch.transition.obs)
    t = batch.transition
    t = t._replace(obs=normalize.apply(stats, t.obs), next_obs=normalize.apply(stats, t.next_obs))
    return state._replace(stats=stats), t


def soft_value(
    networks: Networks, state: State, obs: jax.Array, key: jax.Array, bonus: jax.Array | float = 1.0
) -> tuple[jax.Array, jax.Array]:
    """``(V(s) [B], out [B, size])``: min over target critics of Q(s, a) - bonus alpha log pi(a|s), one a ~ pi (eq. 3).

    ``out`` are the outputs of the critic of least value.
    """
    mean, log_std = networks.actor.apply(state.actor.params, obs)
    action, log_prob = nets.sample_tanh_gaussian(mean, log_std, key)
    q, out = losses.least(networks.head, networks.critic.apply(state.target, obs, action))
    return q - bonus * jnp.exp(state.alpha.params) * log_prob, out


def policy_samples(networks: Networks, state: Any, obs: jax.Array, key: jax.Array, num: int) -> tuple[jax.Array, jax.Array]:
    """``(actions [num, B, A] ~ pi, log_prob [num, B])``."""
    mean, log_std = networks.actor.apply(state.actor.params, obs)
    shape = (num, *mean.shape)
    return nets.sample_tanh_gaussian(jnp.broadcast_to(mean, shape), jnp.broadcast_to(log_std, shape), key)


def best_value(networks: Networks, state: Any, obs: jax.Array, key: jax.Array, num: int) -> tuple[jax.Array, jax.Array]:
    """``(V(s) [B], out [B, size])``: max over ``num`` a ~ pi of min over target critics of Q(s, a), without entropy.

    With one action the plain backup, with several the max-target backup (arXiv:2006.04779 appendix F).
    """
    actions, _ = policy_samples(networks, state, obs, key, num)
    repeated = jnp.broadcast_to(obs, (num, *obs.shape)).reshape(-1, *obs.shape[1:])
    value, out = losses.least(networks.head, networks.critic.apply(state.target, repeated, actions.reshape(num * len(obs), -1)))
    value, out = value.reshape(num, -1), out.reshape(num, len(obs), -1)
    return value.max(0), jnp.take_along_axis(out, value.argmax(0)[None, :, None], 0)[0]


def critic_step(config: Any, networks: Networks, state: State, t: Transition, target: losses.Target) -> tuple[State, Metrics]:
    """One Adam step of all critics towards ``target``, followed by Polyak averaging of their targets."""

    def loss(params: PyTree) -> tuple[jax.Array, Metrics]:
        return losses.critic_loss(networks.head, networks.critic.apply(params, t.obs, t.action), target)

    critic, metrics = descend(adam(config.critic_lr), loss, state.critic)
    return state._replace(critic=critic, target=polyak(state.target, critic.params, config.tau)), metrics


def critic_steps(
    config: Any, networks: Networks, state: Any, t: Transition, key: jax.Array, value: Callable
) -> tuple[Any, Metrics]:
    """``(state, mean metrics)`` after U of `critic_step`, one on each batch of ``t`` [U, B, ...].

    ``value(state, next_obs, key)`` is ``(V [B], out [B, size])``, the value to bootstrap from, as of `soft_value`.
    """

    def step(state: Any, x: tuple[Transition, jax.Array]) -> tuple[Any, Metrics]:
        t, key = x
        bootstrap, out = value(state, t.next_obs, key)
        target = losses.backup(networks.head, t.reward, t.terminated, bootstrap, out, config.discount)
        return critic_step(config, networks, state, t, target)

    state, metrics = jax.lax.scan(step, state, (t, jax.random.split(key, t.reward.shape[0])))
    return state, jax.tree.map(jnp.mean, metrics)


def with_targets(state: Any, members: jax.Array) -> Any:
    """The state with only those ``members`` [M] of its ensemble of target critics."""
    return state._replace(target=jax.tree.map(lambda x: x[members], state.target))


def soft_update(config: Any, networks: Networks, state: Any, t: Transition, key: jax.Array) -> tuple[Any, Metrics]:
    """``(state, metrics)`` after U critic steps, one on each batch of ``t`` [U, B, ...], and one of actor and temperature.

    Reads ``target_entropy_scale`` of the config: the target entropy is minus that times the number of action dimensions.
    """
    key_critic, key_actor = jax.random.split(key)
    state, critic_metrics = critic_steps(config, networks, state, t, key_critic, partial(soft_value, networks))
    target_entropy = -config.target_entropy_scale * t.action.shape[-1]
    state, actor_metrics = actor_step(config, networks, state, t.obs[-1], target_entropy, key_actor)
    return state, critic_metrics | actor_metrics


def actor_step(
    config: Any, networks: Networks, state: Any, obs: jax.Array, target_entropy: jax.Array | float, key: jax.Array
) -> tuple[Any, Metrics]:
    """One Adam step of the actor on E[alpha log pi - min_j Q_j] (eq. 9), then of alpha towards ``target_entropy``."""
    alpha = jnp.exp(state.alpha.params)
    state, entropy, metrics = policy_step(config, networks, state, obs, key)
    state = temperature_step(config, state, entropy, target_entropy)
    return state, metrics | {"alpha/value": alpha}


def policy_step(
    config: Any,
    networks: Networks,
    state: Any,
    obs: jax.Array,
    key: jax.Array,
    pool: Callable[..., jax.Array] = losses.smallest,
) -> tuple[Any, jax.Array, Metrics]:
    """``(state, entropy, metrics)`` after one Adam step of the actor on E[alpha log pi - pool_j Q_j]."""
    alpha = jnp.exp(state.alpha.params)

    def loss(params: PyTree) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        mean, log_std = networks.actor.apply(params, obs)
        action, log_prob = nets.sample_tanh_gaussian(mean, log_std, key)
        q = pool(networks.head.value(networks.critic.apply(state.critic.params, obs, action)), axis=0)
        value = (alpha * log_prob - q).mean()
        return value, (value, -log_prob.mean())

    actor, (value, entropy) = descend(adam(config.actor_lr), loss, state.actor)
    return state._replace(actor=actor), entropy, {"actor/loss": value, "actor/entropy": entropy}


def temperature_step(config: Any, state: Any, entropy: jax.Array, target_entropy: jax.Array | float) -> Any:
    """One Adam step of log alpha on `losses.temperature_loss`."""

    def loss(log_alpha: jax.Array) -> tuple[jax.Array, None]:
        return losses.temperature_loss(log_alpha, entropy, target_entropy), None

    return state._replace(alpha=descend(adam(config.alpha_lr), loss, state.alpha)[0])


def _policy(config: Any, state: Any, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
    params = state.actor.params
    return networks(config, nets.outputs(params) // 2).actor.apply(params, normalize.apply(state.stats, obs))
