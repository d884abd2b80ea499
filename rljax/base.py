"""Containers that flow, and bundles of pure functions: the vocabulary of rljax.

Axes: B batch, T time, E parallel envs, U batches per update, A action dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

PyTree = Any


class InputError(ValueError):
    """A user's mistake: one sentence that says what is wrong, where, and what to do; one line, whatever it quotes."""

    def __init__(self, sentence: str) -> None:
        super().__init__(" ".join(sentence.splitlines()))


@dataclass(frozen=True)
class Array:
    """A space of arrays. ``low`` and ``high`` are floats, or nested tuples of ``shape``, in the env's own units."""

    shape: tuple[int, ...]
    dtype: str = "float32"
    low: Any = -math.inf
    high: Any = math.inf


@dataclass(frozen=True)
class Discrete:
    """The integers 0 .. n-1, as int32 without a trailing axis."""

    n: int


Space = Array | Discrete


@dataclass(frozen=True)
class Spec:
    """What an agent must know of an env: spaces of one observation and one action, and the time limit in env steps.

    Agents and ``Env.step`` see continuous actions in [-1, 1]; ``action.low`` and ``action.high`` are the env's units
    (`to_env_units`, `from_env_units`).
    """

    obs: Array
    action: Space
    horizon: int


class Transition(NamedTuple):
    """One env step; leading axes are free. ``next_obs`` is the true successor, never a reset observation."""

    obs: Any
    action: Any
    reward: Any
    next_obs: Any
    terminated: Any
    truncated: Any


class Step(NamedTuple):
    """What ``Env.step`` returns, each with leading axis E. Act on ``obs`` (after auto-reset), learn from ``next_obs``."""

    obs: jax.Array
    reward: jax.Array
    next_obs: jax.Array
    terminated: jax.Array
    truncated: jax.Array


class Env(NamedTuple):
    """A batch of E environments that reset themselves.

    ``reset(key) -> (env_state, obs[E])`` and ``step(env_state, action[E], key) -> (env_state, Step)``.
    ``resize(n)`` gives the same environment with E = n; ``name`` identifies it in run folders. ``evaluation`` is what
    evaluations play, if not this; ``reference``: mean returns of a random and of an expert policy, which normalize scores.
    """

    spec: Spec
    reset: Callable[[jax.Array], tuple[PyTree, jax.Array]]
    step: Callable[[PyTree, jax.Array, jax.Array], tuple[PyTree, Step]]
    num_envs: int
    resize: Callable[[int], Env]
    name: str = "custom"
    evaluation: Env | None = None
    reference: tuple[float, float] | None = None


class HostEnv(NamedTuple):
    """A batch of E environments of a simulator that runs on the host and resets itself; arrays are numpy's.

    ``start(num)`` makes ``num`` copies and gives ``(reset, step, close)``: ``reset(seeds[num]) -> obs[num]``,
    ``step(action[num]) -> Step``. Actions are in [-1, 1].
    """

    spec: Spec
    start: Callable[[int], tuple[Callable, Callable, Callable]]
    num_envs: int
    resize: Callable[[int], HostEnv]
    name: str


class Batch(NamedTuple):
    """What ``Agent.update`` consumes: a `Transition` with axes [U, B, ...], and a NamedTuple the agent declares, or ()."""

    transition: Transition
    extras: Any = ()


class Agent(NamedTuple):
    """A learner bound to a spec and a config.

    ``init(key) -> state``;  ``memory(n) -> pytree`` with leading axis n, () unless recurrent;
    ``act(state, memory, obs[E], key) -> (action[E], memory)`` explores;
    ``mode(state, memory, obs[E]) -> (action[E], memory)`` exploits;
    ``update(state, batch, key) -> (state, metrics)`` takes a `Batch` of ``batches`` = U batches and makes U critic steps,
    or learns from a rollout [T, E, ...] of ``batches`` = T steps (`rljax.loops.on_policy`), or from sequences after as many
    (`rljax.loops.sequences`). ``draw`` is what is drawn for an update, in `rljax.loops.online` a `rljax.replay.Draw`, or None
    for new experience alone, and in `sequences` what `rljax.replay.sequences` gives.
    ``episodes`` is how many whole episodes `rljax.loops.episodes` plays before each update, and ``keep(state, memory) ->
    bool [n]`` says from which of their steps on transitions are kept for replay; None: the update gets the episodes themselves.
    """

    init: Callable[[jax.Array], PyTree]
    memory: Callable[[int], PyTree]
    act: Callable[[PyTree, PyTree, jax.Array, jax.Array], tuple[jax.Array, PyTree]]
    mode: Callable[[PyTree, PyTree, jax.Array], tuple[jax.Array, PyTree]]
    update: Callable[[PyTree, Batch, jax.Array], tuple[PyTree, dict[str, jax.Array]]]
    batches: int
    draw: Callable[..., Any] | None = None
    episodes: int | None = None
    keep: Callable[[PyTree, PyTree], jax.Array] | None = None


def no_memory(n: int) -> tuple[()]:
    """() - the ``Agent.memory`` of every agent that is not recurrent."""
    return ()


def to_env_units(space: Array, action: Any) -> Any:
    """Affine map of an action [..., A] in [-1, 1] to the bounds of ``space``; the result is clipped to them."""
    low, high = jnp.asarray(space.low, jnp.float32), jnp.asarray(space.high, jnp.float32)
    return jnp.clip(low + (action + 1) * (0.5 * (high - low)), low, high)


def from_env_units(space: Array, action: Any) -> Any:
    """Inverse of `to_env_units`: an action [..., A] within the bounds of ``space`` to [-1, 1]."""
    low, high = jnp.asarray(space.low, jnp.float32), jnp.asarray(space.high, jnp.float32)
    return (action - low) / (0.5 * (high - low)) - 1


def random_action(space: Space, key: jax.Array, num: int) -> jax.Array:
    """Uniform actions: float32 [num, *shape] in [-1, 1], or int32 [num]."""
    if isinstance(space, Discrete):
        return jax.random.randint(key, (num,), 0, space.n, jnp.int32)
    return jax.random.uniform(key, (num, *space.shape), minval=-1.0, maxval=1.0)


def example(space: Space, *leading: int) -> jax.Array:
    """Zeros of the space's shape and dtype, with ``leading`` axes before it."""
    if isinstance(space, Discrete):
        return jnp.zeros(leading, jnp.int32)
    return jnp.zeros((*leading, *space.shape), space.dtype)


def where(mask: jax.Array, x: PyTree, y: PyTree) -> PyTree:
    """``x`` where ``mask`` holds, else ``y``, leaf by leaf; ``mask`` is aligned with the leaves' leading axes."""

    def select(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.where(jnp.reshape(mask, mask.shape + (1,) * (jnp.ndim(a) - mask.ndim)), a, b)

    return jax.tree.map(select, x, y)


def batch_env(
    spec: Spec,
    reset: Callable[[jax.Array], tuple[PyTree, jax.Array]],
    step: Callable[[PyTree, jax.Array, jax.Array], tuple[PyTree, jax.Array, jax.Array, jax.Array]],
    num_envs: int = 1,
    name: str = "custom",
) -> Env:
    """An `Env` of ``num_envs`` copies of a single environment: batching, time limit, auto-reset, true successors.

    ``reset(key) -> (state, obs)`` and ``step(state, action, key) -> (state, obs, reward, terminated)`` describe one
    environment without time limit and without auto-reset; continuous actions arrive in [-1, 1]. Each copy has its own
    key; an episode that ends starts again from a fresh random state; ``truncated`` is set at ``spec.horizon`` steps
    unless the episode terminated there. Every leaf keeps the dtype that ``reset`` gave it, so nothing compiles twice.
    """

    def reset_all(key: jax.Array) -> tuple[PyTree, jax.Array]:
        state, obs = jax.vmap(reset)(jax.random.split(key, num_envs))
        state = jax.tree.map(lambda x: _settle(x, x.dtype), state)
        return (state, jnp.zeros(num_envs, jnp.int32)), obs.astype(spec.obs.dtype)

    def step_all(env_state: PyTree, action: jax.Array, key: jax.Array) -> tuple[PyTree, Step]:
        state, age = env_state
        key_step, key_reset = jax.random.split(key)
        new, next_obs, reward, terminated = jax.vmap(step)(state, action, jax.random.split(key_step, num_envs))
        new = jax.tree.map(lambda x, old: _settle(x, old.dtype), new, state)
        age = age + 1
        terminated = terminated.astype(bool)
        truncated = (age >= spec.horizon) & ~terminated
        done = terminated | truncated
        next_obs = next_obs.astype(spec.obs.dtype)
        going_on = ((new, age), next_obs)
        env_state, obs = where(done, _call_if(done.any(), reset_all, key_reset, going_on), going_on)
        return env_state, Step(obs, reward.astype(jnp.float32), next_obs, terminated, truncated)

    def resize(n: int) -> Env:
        return batch_env(spec, reset, step, n, name)

    return Env(spec, reset_all, step_all, num_envs, resize, name)


def _settle(x: Any, dtype: Any) -> jax.Array:
    """``x`` with exactly this dtype, not weakly typed; typed keys, which know no conversion, as they are."""
    x = jnp.asarray(x)
    return x if jnp.issubdtype(dtype, jax.dtypes.prng_key) else jax.lax.convert_element_type(x, dtype)


def _call_if(needed: jax.Array, f: Callable[[jax.Array], PyTree], key: jax.Array, otherwise: PyTree) -> PyTree:
    """``f(key)`` if ``needed``, else ``otherwise``, and then ``f`` costs nothing. Not differentiated.

    A loop of at most one turn: under vmap over seeds `jax.lax.cond` becomes a select that always computes ``f``.
    """
    data, impl = jax.random.key_data(key), jax.random.key_impl(key)  # the check of key reuse expects several turns

    def turn(carry: tuple) -> tuple:
        return jnp.zeros_like(needed), f(jax.random.wrap_key_data(data, impl=impl))

    return jax.lax.while_loop(lambda carry: carry[0], turn, (needed, jax.lax.stop_gradient(otherwise)))[1]


def bounds(space: Array) -> tuple[np.ndarray, np.ndarray]:
    """``(low, high)`` of the space as float32 arrays of its shape."""
    low, high = (np.broadcast_to(np.asarray(b, np.float32), space.shape) for b in (space.low, space.high))
    return low, high
