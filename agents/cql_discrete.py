"""Conservative Q-Learning for discrete actions (Kumar et al., arXiv:2006.04779, on double DQN, arXiv:1509.06461).

The logsumexp runs over all actions, so nothing is sampled and there is no actor. One `update` takes one batch [1, B]; each of
several, [U, B], is one update of its own.

Deviations: squared instead of Huber loss; targets move by Polyak averaging.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import distrax
import jax
import jax.numpy as jnp

from rljax import heads, losses, nets, normalize
from rljax.actor_critic import Metrics, normalized
from rljax.base import Agent, Batch, Discrete, Spec, Transition, example, no_memory
from rljax.config import check_action, check_ranges, choice, config, leaf, static
from rljax.optim import Model, adam, descend, model, polyak


@config
class Config:
    """Hyperparameters of discrete CQL."""

    critic_lr: float = leaf(3e-4, "(0, inf)")  # Adam step size of the critics
    discount: float = leaf(0.99, "[0, 1)")  # discount per env step
    tau: float = leaf(0.005, "(0, 1]")  # Polyak step of the target critics
    penalty: float = leaf(1.0, "[0, inf)")  # weight of the gap against the TD loss (d3rlpy)
    exploration: float = leaf(0.05, "[0, 1]")  # probability of a uniform action when exploring
    critic_width: int = static(256, "[1, inf)")  # units per hidden layer of each critic
    critic_depth: int = static(2, "[0, inf)")  # hidden layers of each critic
    layer_norm: bool = static(False)  # LayerNorm before each ReLU
    num_critics: int = static(2, "[1, inf)")  # size of the critic ensemble; targets take the minimum over all
    batch_size: int = static(256, "[1, inf)")  # transitions per gradient step
    head: heads.Head = choice(heads.Scalar(), heads.HEADS)  # how critics encode values
    obs_stats: Callable = static(normalize.dataset, choices=normalize.CHOICES)  # observation normalisation


class Networks(NamedTuple):
    """The critics, and the head that decodes their outputs [N, B, A, size]."""

    critic: nets.Critic
    head: heads.Head


class State(NamedTuple):
    """Critics with their optimiser, their targets, and the observations' statistics."""

    critic: Model
    target: dict
    stats: normalize.Stats


def check(config: Config, spec: Spec) -> None:
    """Raise `InputError` unless the numbers are in range and actions are discrete."""
    check_ranges(config)
    check_action("cql_discrete", spec, Discrete, "cql")


def networks(config: Config, num_actions: int) -> Networks:
    """Critics for ``num_actions`` actions."""
    sizes = (config.critic_width, config.critic_depth, config.layer_norm)
    return Networks(nets.ensemble(config.num_critics)(config.head.size, *sizes, num_actions), config.head)


def init(config: Config, spec: Spec, key: jax.Array) -> State:
    """Fresh critics."""
    stats = normalize.init(spec.obs)
    net = networks(config, spec.action.n)
    critic = nets.init(net.critic, net.head, key, normalize.apply(stats, example(spec.obs, 1)))
    return State(model(adam(config.critic_lr), critic), jax.tree.map(jnp.copy, critic), stats)


def act(config: Config, state: State, memory: tuple, obs: jax.Array, key: jax.Array) -> tuple[jax.Array, tuple]:
    """``(epsilon-greedy actions [E], memory)`` for observations [E, ...]."""
    return distrax.EpsilonGreedy(_q(config, state, obs), config.exploration, dtype=jnp.int32).sample(seed=key), memory


def mode(config: Config, state: State, memory: tuple, obs: jax.Array) -> tuple[jax.Array, tuple]:
    """``(greedy actions [E], memory)`` for observations [E, ...]."""
    return jnp.argmax(_q(config, state, obs), -1).astype(jnp.int32), memory


def update(config: Config, state: State, batch: Batch, key: jax.Array) -> tuple[State, Metrics]:
    """``(state, metrics)`` after U updates; nothing is sampled, so ``key`` is not used."""
    net = networks(config, _num_actions(config, state))
    state, transitions = normalized(config, state, batch)
    state, metrics = jax.lax.scan(partial(_step, config, net), state, transitions)
    return state, jax.tree.map(jnp.mean, metrics)


def make(spec: Spec, config: Config) -> Agent:
    """Discrete CQL bound to ``spec`` and ``config``; pure and safe to trace."""
    return Agent(
        init=partial(init, config, spec),
        memory=no_memory,
        act=partial(act, config),
        mode=partial(mode, config),
        update=partial(update, config),
        batches=1,
    )


def _step(config: Config, net: Networks, state: State, t: Transition) -> tuple[State, Metrics]:
    best = net.head.value(net.critic.apply(state.critic.params, t.next_obs)).min(0).argmax(-1)
    value, out = losses.least(net.head, losses.chosen(net.critic.apply(state.target, t.next_obs), best))
    target = losses.backup(net.head, t.reward, t.terminated, value, out, config.discount)

    def loss(params: dict) -> tuple[jax.Array, Metrics]:
        out = net.critic.apply(params, t.obs)
        chosen = losses.chosen(out, t.action)
        td, metrics = losses.critic_loss(net.head, chosen, target)
        gap = (jax.nn.logsumexp(net.head.value(out), -1) - net.head.value(chosen)).mean(-1)
        return td + config.penalty * gap.sum(), metrics | {"critic/gap": gap.mean()}

    critic, metrics = descend(adam(config.critic_lr), loss, state.critic)
    return state._replace(critic=critic, target=polyak(state.target, critic.params, config.tau)), metrics


def _num_actions(config: Config, state: State) -> int:
    return nets.outputs(state.critic.params) // config.head.size


def _q(config: Config, state: State, obs: jax.Array) -> jax.Array:
    net = networks(config, _num_actions(config, state))
    return net.head.value(net.critic.apply(state.critic.params, normalize.apply(state.stats, obs))).min(0)
