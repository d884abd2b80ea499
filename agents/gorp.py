"""Greedy Over Random Policy (Laidlaw, Russell, Dragan, Zhu, arXiv:2304.09853), for deterministic environments.

Learns a sequence of actions. Iteration i begins every episode with the i actions found so far, follows them with each of the
A^k sequences of k actions in turn, ``episodes`` times, and goes on at random; the first action of the sequence with the
highest return becomes action i. After as many iterations as an episode has steps the sequence is complete. If episodes begin
or go on at random, what is found is the best open-loop sequence of this kind.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rljax import loops
from rljax.base import Agent, Batch, Discrete, InputError, Spec, random_action
from rljax.config import check_action, check_ranges, config, leaf, static

Metrics = dict[str, jax.Array]

loop = loops.episodes  # in which it learns


@config
class Config:
    """Hyperparameters of GORP; the authors searched for the least ``episodes`` that suffice, for each ``k``."""

    discount: float = leaf(1.0, "[0, 1]")  # discount per env step
    k: int = static(1, "[1, inf)")  # length of the sequences that are tried
    episodes: int = static(10, "[1, inf)")  # episodes per sequence and iteration, the paper's m
    pool: Callable = static(jnp.mean, choices={"mean": jnp.mean, "max": jnp.max})  # of a sequence's returns


class Extras(NamedTuple):
    """What batches hold beside transitions: the discounted sum of rewards from each step to the end of its episode."""

    mc_return: Any


class State(NamedTuple):
    """The ``actions`` [T], of which the first ``found`` are found, the others 0, and the ``value`` [T, A] of their choices."""

    actions: jax.Array
    value: jax.Array
    found: jax.Array


class Memory(NamedTuple):
    """The step of the episode, and the number of the copy, which says what sequence it tries: both [n]."""

    step: jax.Array
    copy: jax.Array


def check(config: Config, spec: Spec) -> None:
    """Raise `InputError` unless the numbers are in range and actions are discrete, and not too many sequences are tried."""
    check_ranges(config)
    check_action("gorp", spec, Discrete)
    num = spec.action.n**config.k * config.episodes
    if num > 1_000_000:
        raise InputError(f"{spec.action.n} actions and config.k {config.k} make {num} episodes per iteration: choose less")


def init(config: Config, spec: Spec, key: jax.Array) -> State:
    """No action is found yet; nothing is random."""
    return State(jnp.zeros(spec.horizon, jnp.int32), jnp.zeros((spec.horizon, spec.action.n)), jnp.int32(0))


def memory(n: int) -> Memory:
    """The start of n episodes."""
    return Memory(jnp.zeros(n, jnp.int32), jnp.arange(n, dtype=jnp.int32))


def act(config: Config, state: State, memory: Memory, obs: jax.Array, key: jax.Array) -> tuple[jax.Array, Memory]:
    """``(actions [E], memory)``: found ones, then those of the copy's sequence, then uniformly random ones."""
    num = state.value.shape[1]
    ahead = memory.step - state.found
    tried = (memory.copy // config.episodes) // num ** (config.k - 1 - jnp.clip(ahead, 0, config.k - 1)) % num
    chosen = jnp.where(ahead < config.k, tried, random_action(Discrete(num), key, obs.shape[0]))
    return jnp.where(ahead < 0, state.actions[memory.step], chosen), memory._replace(step=memory.step + 1)


def mode(config: Config, state: State, memory: Memory, obs: jax.Array) -> tuple[jax.Array, Memory]:
    """``(actions [E], memory)``: the sequence, which goes on with action 0 where none is found yet."""
    return state.actions[memory.step], memory._replace(step=memory.step + 1)


def update(config: Config, state: State, batch: Batch, key: jax.Array) -> tuple[State, Metrics]:
    """``(state, metrics)`` with one more action, from episodes [T, E] of which the first ``episodes`` tried sequence 0, ...

    Nothing is sampled, so ``key`` is not used.
    """
    horizon, num = state.value.shape
    returns = batch.extras.mc_return[jnp.minimum(state.found, horizon - 1)]
    value = config.pool(returns.reshape(num, -1, config.episodes), axis=2).max(1)
    state = State(
        actions=state.actions.at[state.found].set(jnp.argmax(value).astype(jnp.int32), mode="drop"),
        value=state.value.at[state.found].set(value, mode="drop"),
        found=jnp.minimum(state.found + 1, horizon),
    )
    return state, {"gorp/value": value.max(), "gorp/found": state.found.astype(float)}


def make(spec: Spec, config: Config) -> Agent:
    """GORP bound to ``spec`` and ``config``; pure and safe to trace."""
    return Agent(
        init=partial(init, config, spec),
        memory=memory,
        act=partial(act, config),
        mode=partial(mode, config),
        update=partial(update, config),
        batches=spec.horizon,
        episodes=spec.action.n**config.k * config.episodes,
    )
