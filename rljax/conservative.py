"""Conservative Q-learning's update, which CQL and Cal-QL share (arXiv:2006.04779, arXiv:2303.05479).

One step: the critics descend on their TD loss plus a penalty on the gap between the values of sampled and of recorded
actions, followed by Polyak averaging; then actor and temperature as in soft actor-critic.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax import actor_critic, losses
from rljax.actor_critic import Metrics, Networks
from rljax.base import Batch, Spec, Transition
from rljax.normalize import Stats
from rljax.optim import Model, adam, descend, descend_over, log_multiplier, polyak

PyTree = Any

# Values, of recorded and sampled actions, that a critic gives at a time on a CPU: what their gradient needs stays in its cache.
CPU_VALUES = 1024


class State(NamedTuple):
    """A soft actor-critic's state, and log of the multiplier of the constraint on the gap."""

    actor: Model
    critic: Model
    target: PyTree
    alpha: Model
    stats: Stats
    multiplier: Model


def init(config: Any, networks: Networks, spec: Spec, key: jax.Array) -> State:
    """A fresh `State`; the multiplier starts at e, as in CORL."""
    action = jnp.zeros((1, *spec.action.shape), float)
    state = actor_critic.init(config, networks, spec, key, action)
    return State(*state, multiplier=log_multiplier(adam(config.critic_lr), np.e))


def one_sample(config: Any, networks: Networks, state: State, obs: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``(V(s) [B], out [B, size])``: min_j Q_j(s, a) of the targets for one a ~ pi, without entropy."""
    return actor_critic.best_value(networks, state, obs, key, 1)


def max_of_samples(
    config: Any, networks: Networks, state: State, obs: jax.Array, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """``(V(s) [B], out [B, size])``: max over ``num_actions`` a ~ pi of min_j Q_j(s, a) (appendix F's max-target backup)."""
    return actor_critic.best_value(networks, state, obs, key, config.num_actions)


def fixed(config: Any, log_multiplier: jax.Array, gap: jax.Array) -> jax.Array:
    """The penalty, a scalar: ``penalty`` times the sum of the critics' mean gaps [N]."""
    return config.penalty * gap.sum()


def lagrange(config: Any, log_multiplier: jax.Array, gap: jax.Array) -> jax.Array:
    """The penalty: multiplier times ``penalty`` times the sum of (gap - ``target_gap``), which the multiplier ascends."""
    return jnp.clip(jnp.exp(log_multiplier), 0.0, 1e6) * config.penalty * (gap - config.target_gap).sum()


def update(
    config: Any, networks: Networks, state: State, batch: Batch, bound: jax.Array, key: jax.Array
) -> tuple[State, Metrics]:
    """``(state, metrics)`` after U steps, one on each batch; ``bound`` [U, B] limits the policy's values from below."""
    state, transitions = actor_critic.normalized(config, state, batch)

    def step(state: State, x: tuple[Transition, jax.Array, jax.Array]) -> tuple[State, Metrics]:
        t, bound, key = x
        key_target, key_gap, key_actor = jax.random.split(key, 3)
        value, out = config.backup(config, networks, state, t.next_obs, key_target)
        target = losses.backup(networks.head, t.reward, t.terminated, value, out, config.discount)
        state, critic_metrics = _critic_step(config, networks, state, t, target, bound, key_gap)
        entropy = -config.target_entropy_scale * t.action.shape[-1]
        state, actor_metrics = actor_critic.actor_step(config, networks, state, t.obs, entropy, key_actor)
        return state, critic_metrics | actor_metrics

    keys = jax.random.split(key, transitions.reward.shape[0])
    state, metrics = jax.lax.scan(step, state, (transitions, bound, keys))
    return state, jax.tree.map(jnp.mean, metrics)


def gaps(
    config: Any, networks: Networks, params: PyTree, t: Transition, actions: jax.Array, log_mu: jax.Array, bound: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """``(mean gap [N] of each critic, out [N, B, size] of the recorded actions)``; critics' ``params`` are differentiated.

    ``actions`` [3n, B, A]: the first n uniform, the others the policy's, whose values are at least ``bound`` [B] (Cal-QL).
    Each sample's gap is at least ``gap_min``.
    """
    num, batch = actions.shape[:2]
    everything = jnp.concatenate([t.action[None], actions])
    obs = jnp.broadcast_to(t.obs, (num + 1, *t.obs.shape)).reshape(-1, *t.obs.shape[1:])
    out = networks.critic.apply(params, obs, everything.reshape(-1, actions.shape[-1]))
    out = out.reshape(-1, num + 1, batch, out.shape[-1])
    recorded, sampled = out[:, 0], networks.head.value(out[:, 1:])
    of_policy = jnp.arange(num)[:, None] >= config.num_actions
    sampled = jnp.where(of_policy, jnp.maximum(sampled, bound), sampled)
    gap = losses.conservative_gap(sampled, log_mu, networks.head.value(recorded), config.temperature)
    return jnp.maximum(gap, config.gap_min).mean(-1), recorded


def blocks(num_actions: int, batch_size: int) -> int:
    """Equal parts of a batch of states whose gaps are differentiated one after the other: 1, but on a CPU `CPU_VALUES` each."""
    most = CPU_VALUES // (3 * num_actions + 1) if jax.default_backend() == "cpu" else batch_size
    sizes = [size for size in range(1, batch_size + 1) if batch_size % size == 0 and most // 4 < size <= most]
    return batch_size // max(sizes, default=batch_size)


def candidates(config: Any, networks: Networks, state: State, t: Transition, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``(actions [3n, B, A], log_mu [3n, B])``: n uniform, n of pi(.|s), n of pi(.|s'), all to be scored at s; constants."""
    key_random, key_now, key_next = jax.random.split(key, 3)
    shape = (config.num_actions, *t.action.shape)
    uniform = jax.random.uniform(key_random, shape, t.action.dtype, -1.0, 1.0)
    now, log_now = actor_critic.policy_samples(networks, state, t.obs, key_now, config.num_actions)
    then, log_then = actor_critic.policy_samples(networks, state, t.next_obs, key_next, config.num_actions)
    log_uniform = jnp.full(shape[:-1], shape[-1] * np.log(0.5), log_now.dtype)
    return jax.lax.stop_gradient((jnp.concatenate([uniform, now, then]), jnp.concatenate([log_uniform, log_now, log_then])))


def _critic_step(
    config: Any, networks: Networks, state: State, t: Transition, target: losses.Target, bound: jax.Array, key: jax.Array
) -> tuple[State, Metrics]:
    actions, log_mu = (x.swapaxes(0, 1) for x in candidates(config, networks, state, t, key))
    num = blocks(config.num_actions, len(t.reward))

    def loss(params: PyTree, block: tuple) -> tuple[jax.Array, tuple[jax.Array, Metrics]]:
        t, target, actions, log_mu, bound = block
        gap, out = gaps(config, networks, params, t, actions.swapaxes(0, 1), log_mu.T, bound)
        td, metrics = losses.critic_loss(networks.head, out, target)
        value = td + config.constraint(config, state.multiplier.params, gap)
        return value, (gap, metrics | {"critic/gap": gap.mean()})

    # The loss is a mean over states, constraints being affine in the gaps, so parts of the batch have the same gradient.
    divided = jax.tree.map(lambda x: x.reshape(num, -1, *x.shape[1:]), (t, target, actions, log_mu, bound))
    critic, (gap, metrics) = descend_over(adam(config.critic_lr), loss, state.critic, divided)

    def multiplier_loss(log_multiplier: jax.Array) -> tuple[jax.Array, None]:
        return -0.5 * config.constraint(config, log_multiplier, jax.lax.stop_gradient(gap)), None

    multiplier, _ = descend(adam(config.critic_lr), multiplier_loss, state.multiplier)
    metrics["critic/multiplier"] = jnp.exp(state.multiplier.params)
    target = polyak(state.target, critic.params, config.tau)
    return state._replace(critic=critic, target=target, multiplier=multiplier), metrics
