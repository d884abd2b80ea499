"""Q-learning with a network, a replay and a slowly moving target (Watkins 1989; Mnih et al. 2015).

One `update` takes one batch [1, B]; each of several, [U, B], is one update of its own.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import distrax
import jax
import jax.numpy as jnp
import optax

from rljax import losses, nets
from rljax.base import Agent, Batch, Discrete, Spec, Transition, example, no_memory
from rljax.config import check_action, check_ranges, config, leaf, static
from rljax.optim import Model, descend, model, polyak

Metrics = dict[str, jax.Array]


@config
class Config:
    """Hyperparameters of Q-learning."""

    lr: float = leaf(1e-3, "(0, inf)")  # Adam step size
    discount: float = leaf(0.95, "[0, 1)")  # discount per env step
    tau: float = leaf(0.01, "(0, 1]")  # Polyak step of the target
    exploration: float = leaf(0.3, "[0, 1]")  # probability of a uniform action when exploring
    width: int = static(32, "[1, inf)")  # units per hidden layer
    batch_size: int = static(64, "[1, inf)")  # transitions per update
    warmup: int = static(500, "[1, inf)")  # env steps with uniform random actions before learning
    capacity: int = static(10_000, "[1, inf)")  # transitions kept for replay


class State(NamedTuple):
    """The network with its optimiser, and its target."""

    q: Model
    target: dict


def check(config: Config, spec: Spec) -> None:
    """Raise `InputError` unless the numbers are in range and actions are discrete."""
    check_ranges(config)
    check_action("q_learning", spec, Discrete)


def init(config: Config, spec: Spec, key: jax.Array) -> State:
    """A fresh network; the target equals it."""
    params = _network(config, spec.action.n).init(key, example(spec.obs, 1))
    return State(model(optax.adam(config.lr), params), jax.tree.map(jnp.copy, params))


def act(config: Config, state: State, memory: tuple, obs: jax.Array, key: jax.Array) -> tuple[jax.Array, tuple]:
    """``(epsilon-greedy actions [E], memory)`` for observations [E, ...]."""
    q = _q(config, state.q.params, obs)
    return distrax.EpsilonGreedy(q, config.exploration, dtype=jnp.int32).sample(seed=key), memory


def mode(config: Config, state: State, memory: tuple, obs: jax.Array) -> tuple[jax.Array, tuple]:
    """``(greedy actions [E], memory)`` for observations [E, ...]."""
    return jnp.argmax(_q(config, state.q.params, obs), -1).astype(jnp.int32), memory


def update(config: Config, state: State, batch: Batch, key: jax.Array) -> tuple[State, Metrics]:
    """``(state, metrics)`` after U updates; nothing is sampled, so ``key`` is not used."""
    state, metrics = jax.lax.scan(partial(_step, config), state, batch.transition)
    return state, jax.tree.map(jnp.mean, metrics)


def make(spec: Spec, config: Config) -> Agent:
    """Q-learning bound to ``spec`` and ``config``; pure and safe to trace."""
    return Agent(
        init=partial(init, config, spec),
        memory=no_memory,
        act=partial(act, config),
        mode=partial(mode, config),
        update=partial(update, config),
        batches=1,
    )


def _step(config: Config, state: State, t: Transition) -> tuple[State, Metrics]:
    best = _q(config, state.target, t.next_obs).max(-1)
    target = losses.td_target(t.reward, t.terminated, best, config.discount)

    def loss(params: dict) -> tuple[jax.Array, Metrics]:
        q = jnp.take_along_axis(_q(config, params, t.obs), t.action[:, None], 1)[:, 0]
        value = jnp.square(q - target).mean()
        return value, {"critic/loss": value, "critic/q": q.mean()}

    q, metrics = descend(optax.adam(config.lr), loss, state.q)
    return State(q, polyak(state.target, q.params, config.tau)), metrics


def _network(config: Config, num_actions: int) -> nets.Critic:
    return nets.Critic(1, config.width, 2, num_actions=num_actions)


def _q(config: Config, params: dict, obs: jax.Array) -> jax.Array:
    """Values [B, A]."""
    return _network(config, nets.outputs(params)).apply(params, obs)[..., 0]
