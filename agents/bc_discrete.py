"""Behaviour cloning of discrete actions: a categorical policy by maximum likelihood (Pomerleau 1989).

One `update` takes one batch [1, B]; each of several, [U, B], is one step of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import distrax
import jax
import jax.numpy as jnp
import optax

from rljax import nets, normalize
from rljax.actor_critic import Metrics, normalized
from rljax.base import Agent, Batch, Discrete, Spec, Transition, example, no_memory
from rljax.config import check_action, check_ranges, config, leaf, static
from rljax.optim import Model, adam, descend, model


@config
class Config:
    """Hyperparameters of behaviour cloning."""

    actor_lr: float = leaf(3e-4, "(0, inf)")  # Adam step size
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
    """Raise `InputError` unless the numbers are in range and actions are discrete."""
    check_ranges(config)
    check_action("bc_discrete", spec, Discrete, "bc")


def init(config: Config, spec: Spec, key: jax.Array) -> State:
    """A fresh policy."""
    stats = normalize.init(spec.obs)
    params = _network(config, spec.action.n).init(key, normalize.apply(stats, example(spec.obs, 1)))
    return State(model(adam(config.actor_lr), params), stats)


def act(config: Config, state: State, memory: tuple, obs: jax.Array, key: jax.Array) -> tuple[jax.Array, tuple]:
    """``(actions [E] ~ pi, memory)`` for observations [E, ...]."""
    return distrax.Categorical(_logits(config, state, obs), dtype=jnp.int32).sample(seed=key), memory


def mode(config: Config, state: State, memory: tuple, obs: jax.Array) -> tuple[jax.Array, tuple]:
    """``(most probable actions [E], memory)`` for observations [E, ...]."""
    return jnp.argmax(_logits(config, state, obs), -1).astype(jnp.int32), memory


def update(config: Config, state: State, batch: Batch, key: jax.Array) -> tuple[State, Metrics]:
    """``(state, metrics)`` after U steps on -log pi(a|s); ``key`` is not used."""
    net = _network(config, nets.outputs(state.actor.params))
    state, transitions = normalized(config, state, batch)

    def step(state: State, t: Transition) -> tuple[State, Metrics]:
        def loss(params: dict) -> tuple[jax.Array, Metrics]:
            value = optax.softmax_cross_entropy_with_integer_labels(net.apply(params, t.obs), t.action).mean()
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


def _network(config: Config, num_actions: int) -> nets.CategoricalPolicy:
    return nets.CategoricalPolicy(num_actions, config.actor_width, config.actor_depth, config.layer_norm)


def _logits(config: Config, state: State, obs: jax.Array) -> jax.Array:
    params = state.actor.params
    return _network(config, nets.outputs(params)).apply(params, normalize.apply(state.stats, obs))
