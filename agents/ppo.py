"""Proximal Policy Optimization (Schulman et al., arXiv:1707.06347), for discrete and for continuous actions.

One `update` takes a rollout [T, E] of the state that it updates (`rljax.loops.on_policy`). Values, advantages and the
behaviour's log-probabilities are computed from that state once; then come several epochs of Adam steps on shuffled minibatches,
in which advantages are normalised (arXiv:2005.12729).

Discrete actions are categorical. Continuous ones are Gaussian, with a deviation that does not depend on the observation, and
clipped to [-1, 1]; their log-probability is that of the clipped action (arXiv:1802.07564), so that what the env, a data set
and the update see is the same. The entropy is that of the Gaussian.

Deviations: values are neither clipped nor share layers with the policy (arXiv:2006.05990 finds no use in that); ReLU and
PyTorch's first weights, but the policy's last layer starts 100 times smaller. Observations are normalised as the behaviour saw
them, and a rollout enters the statistics after its update.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from rljax import heads, loops, losses, nets, normalize
from rljax.actor_critic import Metrics, Networks
from rljax.base import Agent, Batch, Discrete, InputError, Spec, Transition, example, no_memory
from rljax.config import check_ranges, choice, config, leaf, static
from rljax.optim import Model, adam, descend, linear, model

loop = loops.on_policy  # in which it learns


@config
class Config:
    """Hyperparameters of PPO; the defaults are CleanRL's for CartPole (arXiv:2111.08819), but for its decay."""

    lr: float = leaf(2.5e-4, "(0, inf)")  # Adam step size of policy and value at the beginning
    lr_decay: float = leaf(1e12, "(0, inf)")  # gradient steps in which the step size falls to 0 (linear); 1e12: it does not
    discount: float = leaf(0.99, "[0, 1)")  # discount per env step
    decay: float = leaf(0.95, "[0, 1]")  # lambda of the advantage estimates, per env step
    clip: float = leaf(0.2, "(0, inf)")  # how far the ratio of probabilities may move from 1
    entropy: float = leaf(0.01, "[0, inf)")  # weight of the entropy bonus
    value: float = leaf(0.25, "[0, inf)")  # weight of the value's loss, of squared errors (CleanRL: 0.5 of half of them)
    max_norm: float = leaf(0.5, "(0, inf)")  # largest norm of a gradient, over all parameters
    actor_width: int = static(64, "[1, inf)")  # units per hidden layer of the policy
    actor_depth: int = static(2, "[0, inf)")  # hidden layers of the policy
    critic_width: int = static(64, "[1, inf)")  # units per hidden layer of the value
    critic_depth: int = static(2, "[0, inf)")  # hidden layers of the value
    layer_norm: bool = static(False)  # LayerNorm before each ReLU
    rollout: int = static(128, "[1, inf)")  # T, env steps of each env per update
    epochs: int = static(4, "[1, inf)")  # passes over a rollout
    minibatches: int = static(4, "[1, inf)")  # gradient steps per pass; a divisor of the rollout
    head: heads.Head = choice(heads.Scalar(), heads.HEADS)  # how the value is encoded
    obs_stats: Callable = static(  # observation normalisation: none, or with running statistics
        normalize.fixed, choices={"fixed": normalize.fixed, "running": normalize.running}
    )


class State(NamedTuple):
    """Parameters ``{"actor", "critic"}`` with their one optimiser, and the observations' statistics."""

    networks: Model
    stats: normalize.Stats


class Rows(NamedTuple):
    """What a gradient step is made from, [B, ...]: normalised observations, and estimates under the behaviour."""

    obs: jax.Array
    action: jax.Array
    log_prob: jax.Array
    advantage: jax.Array
    target: jax.Array


def check(config: Config, spec: Spec) -> None:
    """Raise `InputError` unless the numbers are in range and minibatches are equally large."""
    check_ranges(config)
    if config.rollout % config.minibatches:
        raise InputError(f"config.minibatches must divide config.rollout {config.rollout}, got {config.minibatches}")


def networks(config: Config, policy: nets.Policy, num: int) -> Networks:
    """The networks of this kind of policy over ``num`` actions, or dimensions, and of the value."""
    actor = policy.network(num, config.actor_width, config.actor_depth, config.layer_norm)
    critic = nets.Critic(config.head.size, config.critic_width, config.critic_depth, config.layer_norm)
    return Networks(actor, critic, config.head)


def init(config: Config, spec: Spec, key: jax.Array) -> State:
    """Fresh networks; the first policy is nearly uniform, or has means near 0."""
    key_actor, key_critic = jax.random.split(key)
    stats = normalize.init(spec.obs)
    obs = normalize.apply(stats, example(spec.obs, 1))
    discrete = isinstance(spec.action, Discrete)
    num = spec.action.n if discrete else spec.action.shape[-1]
    net = networks(config, nets.CATEGORICAL if discrete else nets.CLIPPED_GAUSSIAN, num)
    actor = net.actor.init(key_actor, obs)["params"]
    actor = {"params": actor | {"head": jax.tree.map(lambda x: 0.01 * x, actor["head"])}}
    critic = nets.init(net.critic, config.head, key_critic, obs)
    return State(model(_optimizer(config), {"actor": actor, "critic": critic}), stats)


def act(config: Config, state: State, memory: tuple, obs: jax.Array, key: jax.Array) -> tuple[jax.Array, tuple]:
    """``(actions [E] ~ pi, memory)`` for observations [E, ...]."""
    policy, net = _bound(config, state)
    out = net.actor.apply(state.networks.params["actor"], normalize.apply(state.stats, obs))
    return policy.sample(out, key), memory


def mode(config: Config, state: State, memory: tuple, obs: jax.Array) -> tuple[jax.Array, tuple]:
    """``(most probable actions, or means, [E], memory)`` for observations [E, ...]."""
    policy, net = _bound(config, state)
    return policy.mode(net.actor.apply(state.networks.params["actor"], normalize.apply(state.stats, obs))), memory


def update(config: Config, state: State, batch: Batch, key: jax.Array) -> tuple[State, Metrics]:
    """``(state, metrics)`` after ``epochs`` x ``minibatches`` gradient steps on a rollout [T, E, ...] of ``state``."""
    policy, net = _bound(config, state)
    rows = _estimates(config, policy, net, state, batch.transition)

    def step(networks: Model, rows: Rows) -> tuple[Model, Metrics]:
        return descend(_optimizer(config), partial(_loss, config, policy, net, rows), networks)

    def epoch(networks: Model, key: jax.Array) -> tuple[Model, Metrics]:
        order = jax.random.permutation(key, rows.target.size).reshape(config.minibatches, -1)
        return jax.lax.scan(step, networks, jax.tree.map(lambda x: x[order], rows))

    networks, metrics = jax.lax.scan(epoch, state.networks, jax.random.split(key, config.epochs))
    stats = config.obs_stats(state.stats, batch.transition.obs)
    return State(networks, stats), jax.tree.map(jnp.mean, metrics)


def make(spec: Spec, config: Config) -> Agent:
    """PPO bound to ``spec`` and ``config``; pure and safe to trace."""
    return Agent(
        init=partial(init, config, spec),
        memory=no_memory,
        act=partial(act, config),
        mode=partial(mode, config),
        update=partial(update, config),
        batches=config.rollout,
    )


def _estimates(config: Config, policy: nets.Policy, net: Networks, state: State, t: Transition) -> Rows:
    """The rows [T * E, ...] of a rollout [T, E, ...]; V is brought to advantage + V, the lambda-return."""
    params, shape = state.networks.params, t.reward.shape
    obs, next_obs = (normalize.apply(state.stats, x).reshape(-1, *x.shape[2:]) for x in (t.obs, t.next_obs))
    value, next_value = (net.head.value(net.critic.apply(params["critic"], x)).reshape(shape) for x in (obs, next_obs))
    delta = losses.td_target(t.reward, t.terminated, next_value, config.discount) - value
    advantage = losses.advantages(delta, t.terminated, t.truncated, config.discount, config.decay)
    action = t.action.reshape(-1, *t.action.shape[2:])
    log_prob = policy.log_prob(net.actor.apply(params["actor"], obs), action)
    return Rows(obs, action, log_prob, advantage.reshape(-1), (advantage + value).reshape(-1))


def _loss(config: Config, policy: nets.Policy, net: Networks, rows: Rows, params: dict) -> tuple[jax.Array, Metrics]:
    """The clipped surrogate (eq. 7), less the entropy bonus, plus the value's loss (eq. 9)."""
    out = net.actor.apply(params["actor"], rows.obs)
    log_ratio = policy.log_prob(out, rows.action) - rows.log_prob
    ratio = jnp.exp(log_ratio)
    advantage = (rows.advantage - rows.advantage.mean()) / (rows.advantage.std() + 1e-8)
    bounded = jnp.clip(ratio, 1 - config.clip, 1 + config.clip)
    surrogate = jnp.minimum(ratio * advantage, bounded * advantage).mean()
    entropy = policy.entropy(out).mean()
    encoded = net.critic.apply(params["critic"], rows.obs)
    value = net.head.loss(encoded, rows.target).mean()
    metrics = {
        "actor/loss": -surrogate,
        "actor/entropy": entropy,
        "actor/kl": (ratio - 1 - log_ratio).mean(),
        "actor/clip_fraction": (jnp.abs(ratio - 1) > config.clip).astype(float).mean(),
        "critic/loss": value,
        "critic/v": net.head.value(encoded).mean(),
    } | {f"critic/{name}": x for name, x in net.head.metrics(rows.target).items()}
    return -surrogate - config.entropy * entropy + config.value * value, metrics


def _bound(config: Config, state: State) -> tuple[nets.Policy, Networks]:
    """The policy's kind and the networks, read off the parameters."""
    actor = state.networks.params["actor"]
    policy = nets.CLIPPED_GAUSSIAN if "log_std" in actor["params"] else nets.CATEGORICAL
    return policy, networks(config, policy, nets.outputs(actor))


def _optimizer(config: Config) -> optax.GradientTransformation:
    lr = linear(config.lr, config.lr_decay)
    return optax.chain(optax.clip_by_global_norm(config.max_norm), adam(lr, eps=1e-5))
