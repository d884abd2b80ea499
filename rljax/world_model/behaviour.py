"""An actor-critic that learns from dreams: REINFORCE, and cross-entropy to lambda-returns.

Source: Drama (arXiv:2410.08893), which has it from STORM (arXiv:2310.09615) and DreamerV3 (arXiv:2301.04104).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rljax import nets, normalize
from rljax.base import Array
from rljax.optim import Model, descend, model, polyak
from rljax.world_model.imagination import Dream
from rljax.world_model.networks import MLP, REWARDS, Actor, Size

PyTree = Any
Metrics = dict[str, jax.Array]


class Behaviour(NamedTuple):
    """What is learned: actor, critic and slow critic; the statistics of features, and the running range of returns."""

    actor: Model
    critic: Model
    slow: PyTree
    features: normalize.Stats
    scale: jax.Array


class Heads(NamedTuple):
    """The policy's kind, and the networks on features."""

    policy: nets.Policy
    actor: Actor
    critic: MLP


def heads(size: Size, num: int, continuous: bool) -> Heads:
    """Networks for ``num`` actions, or dimensions of ``continuous`` ones."""
    policy = nets.CLIPPED_GAUSSIAN if continuous else nets.CATEGORICAL
    actor = Actor(size.actor_depth, size.actor_width, num, continuous)
    return Heads(policy, actor, MLP(size.critic_depth, size.critic_width, REWARDS.size))


def init(size: Size, net: Heads, optimizer: optax.GradientTransformation, key: jax.Array) -> Behaviour:
    """A fresh `Behaviour`: a nearly uniform policy, and values of 0."""
    key_actor, key_critic = jax.random.split(key)
    space = Array((size.latent + size.width,))
    example = jnp.zeros((1, *space.shape))
    actor, critic = net.actor.init(key_actor, example), net.critic.init(key_critic, example)
    slow = jax.tree.map(jnp.copy, critic)
    return Behaviour(model(optimizer, actor), model(optimizer, critic), slow, normalize.init(space), jnp.zeros(()))


def actions(net: Heads, params: PyTree, stats: normalize.Stats, features: jax.Array) -> Any:
    """The outputs of the actor on features [..., F], scaled by their statistics and clipped to [-10, 10]."""
    return net.actor.apply(params, jnp.clip(normalize.apply(stats, features), -10, 10))


def learn(
    config: Any, net: Heads, behaviour: Behaviour, optimizer: optax.GradientTransformation, dream: Dream
) -> tuple[Behaviour, Metrics]:
    """``(behaviour, metrics)`` after a step of actor and critic on ``dream``; what follows its end does not count.

    Advantages are divided by the running range of returns, from their 5th to their 95th percentile, if it is above 1. The
    critic is held to the slow critic's values as well. Reads ``credit``, ``returns``, ``discount``, ``decay``, ``entropy``,
    ``scale_decay`` and ``tau`` of the config.
    """
    ended, seen = config.credit(dream.ended), dream.features[:-1]
    alive = jnp.cumprod(jnp.concatenate([jnp.ones_like(ended[:1]), ~ended[:-1]]).astype(float), 0)
    weight = alive / alive.sum()
    slow = REWARDS.value(net.critic.apply(behaviour.slow, seen))

    def critic_loss(params: PyTree) -> tuple[jax.Array, tuple[jax.Array, jax.Array, Metrics]]:
        out = net.critic.apply(params, dream.features)
        value = jax.lax.stop_gradient(REWARDS.value(out))
        returns = config.returns(config.credit(dream.reward), ended, value, config.discount, config.decay)
        loss, anchor = ((weight * REWARDS.loss(out[:-1], target)).sum() for target in (returns, slow))
        return loss + anchor, (value, returns, {"critic/loss": loss, "critic/v": (weight * value[:-1]).sum()})

    critic, (value, returns, critic_metrics) = descend(optimizer, critic_loss, behaviour.critic)
    low, high = jnp.percentile(returns, jnp.array([5.0, 95.0]))
    scale = config.scale_decay * behaviour.scale + (1 - config.scale_decay) * (high - low)
    advantage = (returns - value[:-1]) / jnp.maximum(scale, 1.0)
    stats = normalize.running(behaviour.features, dream.features)

    def actor_loss(params: PyTree) -> tuple[jax.Array, Metrics]:
        out = actions(net, params, stats, seen)
        entropy = (weight * net.policy.entropy(out)).sum()
        loss = -(weight * net.policy.log_prob(out, dream.action) * advantage).sum()
        return loss - config.entropy * entropy, {"actor/loss": loss, "actor/entropy": entropy}

    actor, actor_metrics = descend(optimizer, actor_loss, behaviour.actor)
    metrics = {"dream/reward": dream.reward[1:].mean(), "dream/alive": alive.mean(), "dream/range": scale}
    learned = Behaviour(actor, critic, polyak(behaviour.slow, critic.params, config.tau), stats, scale)
    return learned, actor_metrics | critic_metrics | metrics
