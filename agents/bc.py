"""Behaviour cloning: a deterministic policy by least squares (Pomerleau 1989; as the baseline of arXiv:2106.06860).

One `update` takes one batch [1, B]; each of several, [U, B], is one step of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rljax import nets, normalize
from rljax.actor_critic import Metrics, normalized
from rljax.base import Agent, Array, Batch, Spec, Transition, example, no_memory
from rljax.config import check_action, check_ranges, config, leaf, static
from rljax.optim import Model, adam, descend, model


@config
class Config:
    """Hyperparameters of behaviour cloning; the defaults are those of TD3+BC's actor."""

    actor_lr: float = leaf(3e-4, "(0, inf)")  # Adam step size
    exploration: float = leaf(0.1, "[0, inf)")  # deviation of the Gaussian noise on actions when exploring
    actor_width: int = static(256, "[1, inf)")  # units per hidden layer
    actor_depth: int = static(2, "[0, inf)")  # hidden layers
    layer_norm: bool = static(False)  # LayerNorm before each ReLU
    batch_size: int = static(256, "[1, inf)")  # transitions per gradient step
    obs_stats: Callable = static(normalize.dataset, choices=normalize.CHOICES)  # observation normalisation


class State(NamedTuple):
    """The policy with its optimiser, and the observations' statistics."""

    actor: Model
    stats: normalize.Stats


def check(config: Config, spec: Spec) -> None:
    """Raise `InputError` unless the numbers are in range and actions are continuous."""
    check_ranges(config)
    check_action("bc", spec, Array, "bc_discrete")


def init(config: Config, spec: Spec, key: jax.Array) -> State:
    """A fresh policy."""
    stats = normalize.init(spec.obs)
    params = _network(config, spec.action.shape[0]).init(key, normalize.apply(stats, example(spec.obs, 1)))
    return State(model(adam(config.actor_lr), params), stats)


def act(config: Config, state: State, memory: tuple, obs: jax.Array, key: jax.Array) -> tuple[jax.Array, tuple]:
    """``(actions [E, A] with Gaussian noise, memory)`` for observations [E, ...]."""
    action, memory = mode(config, state, memory, obs)
    noise = config.exploration * jax.random.normal(key, action.shape, action.dtype)
    return jnp.clip(action + noise, -1, 1), memory


def mode(config: Config, state: State, memory: tuple, obs: jax.Array) -> tuple[jax.Array, tuple]:
    """``(pi(obs) [E, A], memory)`` for observations [E, ...]."""
    params = state.actor.params
    return _network(config, nets.outputs(params)).apply(params, normalize.apply(state.stats, obs)), memory


def update(config: Config, state: State, batch: Batch, key: jax.Array) -> tuple[State, Metrics]:
    """``(state, metrics)`` after U steps on mean ||pi(s) - a||^2; ``key`` is not used."""
    net = _network(config, batch.transition.action.shape[-1])
    state, transitions = normalized(config, state, batch)

    def step(state: State, t: Transition) -> tuple[State, Metrics]:
        def loss(params: dict) -> tuple[jax.Array, Metrics]:
            value = ((net.apply(params, t.obs) - t.action) ** 2).mean()
            return value, {"actor/loss": value}

        actor, metrics = descend(adam(config.actor_lr), loss, state.actor)
        return state._replace(actor=actor), metrics

    state, metrics = jax.lax.scan(step, state, transitions)
    return state, jax.tree.map(jnp.mean, metrics)


def make(spec: Spec, config: Config) -> Agent:
    """Behaviour cloning bound to ``spec`` and ``config``; pure and safe to trace."""
    return Agent(
        init=partial(init, config, spec),
        memory=no_memory,
        act=partial(act, config),
        mode=partial(mode, config),
        update=partial(update, config),
        batches=1,
    )


def _network(config: Config, action_dim: int) -> nets.DeterministicPolicy:
    return nets.DeterministicPolicy(action_dim, config.actor_width, config.actor_depth, config.layer_norm)
