"""Loops: an agent and a source of transitions, joined into one pure step. No loop names an agent or an env.

A `Loop` is ``init(key) -> state`` and ``step(state, t, data) -> (state, metrics)``. ``t`` (int32, the iterations before
this one) belongs to the caller; `run` makes a chunk of iterations for many seeds at once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rljax import replay
from rljax.base import Agent, Batch, Env, Transition, example, random_action, where

PyTree = Any
Metrics = dict[str, jax.Array]
Act = Callable[[PyTree, PyTree, jax.Array, jax.Array], tuple[jax.Array, PyTree]]


class LoopState(NamedTuple):
    """All that a run must keep: agent state, its memory [E], env state, ring, the running episodes' totals [E], a key.

    ``extras`` [slots * E] is what batches hold beside the ring's transitions, or (). ``stored`` is the number of rows ever
    added where the number of iterations does not tell it. Without replay the ring is (), without an env all but agent and key
    are.
    """

    agent: PyTree
    memory: PyTree
    env: PyTree
    obs: PyTree
    ring: PyTree
    extras: PyTree
    episode_return: PyTree
    episode_length: PyTree
    key: jax.Array
    stored: PyTree = ()


class Loop(NamedTuple):
    """``init(key) -> LoopState`` and ``step(LoopState, t, data) -> (LoopState, metrics)``."""

    init: Callable[[jax.Array], LoopState]
    step: Callable[[LoopState, jax.Array, PyTree], tuple[LoopState, Metrics]]


def online(agent: Agent, env: Env, batch_size: int, capacity: int, returns: replay.Returns | None = None) -> Loop:
    """One iteration: E env steps, then E calls of ``agent.update``, each on fresh batches [U, B] that ``agent.draw`` draws.

    With ``returns``, new experience has the extras of an agent that asks for Monte-Carlo returns: -inf until they are known.

    Metrics: the agent's, averaged over the updates, and the episodes that ended, as ``episode/count`` and the sums
    ``episode/return`` (raw, undiscounted) and ``episode/length`` (env steps).
    """
    draw = agent.draw or replay.replayed

    def step(state: LoopState, t: jax.Array, data: PyTree) -> tuple[LoopState, Metrics]:
        key, key_act, key_env, key_sample, key_update = jax.random.split(state.key, 5)
        state, row, episodes = _interact(agent, env, agent.act, state, key_act, key_env)
        state = _add(env, returns, state, row, t)
        shape = (env.num_envs, agent.batches, batch_size)
        batches = draw(Batch(state.ring, state.extras), t + 1, data, key_sample, shape)

        def update(agent_state: PyTree, x: tuple[Batch, jax.Array]) -> tuple[PyTree, Metrics]:
            return agent.update(agent_state, *x)

        keys = jax.random.split(key_update, env.num_envs)
        agent_state, metrics = jax.lax.scan(update, state.agent, (batches, keys))
        return state._replace(agent=agent_state, key=key), jax.tree.map(jnp.mean, metrics) | episodes

    return Loop(lambda key: _init(agent, env, capacity, returns, key), step)


def warm_up(agent: Agent, env: Env, batch_size: int, capacity: int, returns: replay.Returns | None = None) -> Loop:
    """`online` without updates, under uniform random actions; its state is that of `online`, ready to go on."""

    def act(state: PyTree, memory: PyTree, obs: jax.Array, key: jax.Array) -> tuple[jax.Array, PyTree]:
        return random_action(env.spec.action, key, env.num_envs), memory

    return _without_updates(agent, env, capacity, returns, act)


def frozen(agent: Agent, env: Env, batch_size: int, capacity: int, returns: replay.Returns | None = None) -> Loop:
    """`online` without updates, under ``agent.act``: nothing of the agent's state changes (WSRL's warm-up)."""
    return _without_updates(agent, env, capacity, returns, agent.act)


def on_policy(agent: Agent, env: Env) -> Loop:
    """One iteration: T = ``agent.batches`` env steps in each of E envs, then one ``agent.update`` on all of them, [T, E, ...].

    Row t + 1 of the batch is the step after row t, or the first of a new episode where row t was terminated or truncated: then
    its ``obs`` is a reset observation, and not the ``next_obs`` of row t. All rows were made by the state that is updated.
    Nothing is kept, so there is no ring. Metrics: the agent's, and the episodes that ended, as of `online`.
    """

    def step(state: LoopState, t: jax.Array, data: PyTree) -> tuple[LoopState, Metrics]:
        key, key_act, key_env, key_update = jax.random.split(state.key, 4)

        def interact(state: LoopState, keys: tuple[jax.Array, jax.Array]) -> tuple[LoopState, tuple[Transition, Metrics]]:
            state, row, episodes = _interact(agent, env, agent.act, state, *keys)
            return state, (row, episodes)

        keys = jax.random.split(key_act, agent.batches), jax.random.split(key_env, agent.batches)
        state, (rows, episodes) = jax.lax.scan(interact, state, keys)
        agent_state, metrics = agent.update(state.agent, Batch(rows), key_update)
        return state._replace(agent=agent_state, key=key), metrics | jax.tree.map(jnp.sum, episodes)

    return Loop(lambda key: _init(agent, env, 0, None, key), step)


def sequences(agent: Agent, env: Env, batch_size: int, capacity: int, returns: None = None) -> Loop:
    """One iteration: T = ``agent.batches`` env steps in each of E envs, then one ``agent.update`` on sequences of the ring.

    ``agent.draw`` (`rljax.replay.sequences`) draws them. The ring's rows have no ``next_obs``: row t + 1 of an env is the step
    after row t, or the first of a new episode. Metrics as of `online`.
    """
    draw: Any = agent.draw

    def step(state: LoopState, t: jax.Array, data: PyTree) -> tuple[LoopState, Metrics]:
        key, key_rows, key_sample, key_update = jax.random.split(state.key, 4)
        state, episodes = _rows(agent, env, agent.act, state, t, key_rows)
        batch, counts = draw(state.ring, state.extras, (t + 1) * agent.batches, key_sample, env.num_envs)
        agent_state, metrics = agent.update(state.agent, batch, key_update)
        return state._replace(agent=agent_state, extras=counts, key=key), metrics | episodes

    return Loop(lambda key: _init_sequences(agent, env, capacity, key), step)


def sequences_warm_up(agent: Agent, env: Env, batch_size: int, capacity: int, returns: None = None) -> Loop:
    """`sequences` without updates, under uniform random actions; its state is that of `sequences`, ready to go on."""

    def act(state: PyTree, memory: PyTree, obs: jax.Array, key: jax.Array) -> tuple[jax.Array, PyTree]:
        return random_action(env.spec.action, key, env.num_envs), memory

    def step(state: LoopState, t: jax.Array, data: PyTree) -> tuple[LoopState, Metrics]:
        key, key_rows = jax.random.split(state.key)
        state, episodes = _rows(agent, env, act, state, t, key_rows)
        return state._replace(key=key), episodes

    return Loop(lambda key: _init_sequences(agent, env, capacity, key), step)


def offline(agent: Agent, batch_size: int) -> Loop:
    """One iteration: one call of ``agent.update`` on batches [U, B] drawn from ``data``, a `replay.Recorded`; no env."""

    def init(key: jax.Array) -> LoopState:
        key_agent, key = jax.random.split(key)
        return LoopState(agent.init(key_agent), (), (), (), (), (), (), (), key)

    def step(state: LoopState, t: jax.Array, data: replay.Recorded) -> tuple[LoopState, Metrics]:
        key, key_sample, key_update = jax.random.split(state.key, 3)
        batch = replay.recorded((), t, data, key_sample, (agent.batches, batch_size))
        agent_state, metrics = agent.update(state.agent, batch, key_update)
        return state._replace(agent=agent_state, key=key), metrics

    return Loop(init, step)


def episodes(agent: Agent, env: Env, batch_size: int, capacity: int, returns: replay.Returns) -> Loop:
    """One iteration: ``agent.episodes`` whole episodes from fresh resets, then one call of ``agent.update``.

    It gets their transitions [T, E] with Monte-Carlo returns, in which nothing follows an episode's end; or, if ``agent.keep``
    says what is kept for replay, batches [U, B] of that. Metrics: those of the update, and as in `online`.
    """
    env = env.resize(agent.episodes or 1)

    def init(key: jax.Array) -> LoopState:
        key_agent, key = jax.random.split(key)
        state = LoopState(agent.init(key_agent), (), (), (), (), (), (), (), key)
        if agent.keep is None:
            return state
        obs, flag = example(env.spec.obs, 1), jnp.zeros(1, bool)
        ring = replay.init(Transition(obs, example(env.spec.action, 1), jnp.zeros(1), obs, flag, flag), capacity)
        return state._replace(ring=ring, extras=replay.init(_unknown(returns, 1), capacity), stored=jnp.int32(0))

    def step(state: LoopState, t: jax.Array, data: PyTree) -> tuple[LoopState, Metrics]:
        key, key_play, key_sample, key_update = jax.random.split(state.key, 4)
        played, kept, metrics = _play(agent, env, returns, state.agent, key_play)
        batch = played
        if agent.keep is not None:
            old = Batch(state.ring, state.extras)
            (ring, extras), stored = replay.add_some(old, played, kept, state.stored)
            state = state._replace(ring=ring, extras=extras, stored=stored)
            batch = replay.sample(Batch(ring, extras), stored, key_sample, (agent.batches, batch_size), 1)
        agent_state, learned = agent.update(state.agent, batch, key_update)
        return state._replace(agent=agent_state, key=key), learned | metrics

    return Loop(init, step)


def run(
    loop: Callable[[Any], Loop],
    config: PyTree,
    state: LoopState,
    alive: jax.Array,
    t: jax.Array,
    num: jax.Array,
    data: PyTree,
    in_turn: bool = False,
) -> tuple[LoopState, jax.Array, Metrics]:
    """A chunk: ``num`` iterations from ``t`` on for S seeds; ``(state, alive [S], sums of the metrics [S])``.

    ``loop(config)`` builds the loop of one seed from its row of the stacked ``config``; ``state`` is stacked alike.
    ``num`` is traced, so chunks of every length share one program. A seed with a non-finite parameter, metric or reward is
    no longer ``alive`` at the chunk's end; from then on its agent stays as it is. Seeds never touch each other. They make each
    iteration together, or all of them ``in_turn``: with one seed's numbers at a time in a CPU's cache.
    """
    if in_turn and len(alive) > 1:
        return _in_turn(lambda config, state, alive: run(loop, config, state, alive, t, num, data), config, state, alive)

    def step(config: PyTree, state: LoopState, t: jax.Array, data: PyTree) -> tuple[LoopState, Metrics]:
        return loop(config).step(state, t, data)

    def body(i: jax.Array, carry: tuple[LoopState, Metrics]) -> tuple[LoopState, Metrics]:
        state, sums = carry
        state, metrics = seeds(inner, state, t + i, data)
        return state, jax.tree.map(jnp.add, sums, metrics)

    seeds, inner, begin = jax.vmap(step, (0, 0, None, None)), config, state
    if len(alive) == 1:  # goes without an axis of its own, with which XLA's sums on a CPU are slow
        seeds, (inner, begin) = step, jax.tree.map(lambda x: jnp.squeeze(x, 0), (config, state))
    seeds = jax.jit(seeds, inline=True)  # traced once, for the shapes and the loop
    shapes = jax.eval_shape(seeds, inner, begin, t, data)[1]
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    new, sums = jax.lax.fori_loop(0, num, body, (begin, zeros))
    if len(alive) == 1:
        new, sums = jax.tree.map(lambda x: jnp.expand_dims(x, 0), (new, sums))
    new = new._replace(agent=where(alive, new.agent, state.agent))
    return new, alive & _finite((new.agent, new.episode_return, sums)), sums


def _in_turn(run_one: Callable, config: PyTree, state: LoopState, alive: jax.Array) -> tuple[LoopState, jax.Array, Metrics]:
    """``run_one(config, state, alive)`` for one row [1, ...] of each after the other; what it returns, [S, ...]."""

    def one(seed: jax.Array, stacked: tuple[LoopState, jax.Array]) -> tuple[LoopState, jax.Array, Metrics]:
        mine, (state, alive) = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, seed, 1), (config, stacked))
        found: tuple[LoopState, jax.Array, Metrics] = run_one(mine, state, alive)
        return found

    def body(seed: jax.Array, carry: tuple[LoopState, jax.Array, Metrics]) -> tuple[LoopState, jax.Array, Metrics]:
        put = partial(jax.lax.dynamic_update_slice_in_dim, start_index=seed, axis=0)
        found: tuple[LoopState, jax.Array, Metrics] = jax.tree.map(put, carry, one(seed, carry[:2]))
        return found

    shapes = jax.eval_shape(one, jnp.int32(0), (state, alive))[2]
    sums = jax.tree.map(lambda x: jnp.zeros((len(alive), *x.shape[1:]), x.dtype), shapes)
    found: tuple[LoopState, jax.Array, Metrics] = jax.lax.fori_loop(0, len(alive), body, (state, alive, sums))
    return found


def _without_updates(agent: Agent, env: Env, capacity: int, returns: replay.Returns | None, act: Act) -> Loop:
    def step(state: LoopState, t: jax.Array, data: PyTree) -> tuple[LoopState, Metrics]:
        key, key_act, key_env = jax.random.split(state.key, 3)
        state, row, episodes = _interact(agent, env, act, state, key_act, key_env)
        return _add(env, returns, state, row, t)._replace(key=key), episodes

    return Loop(lambda key: _init(agent, env, capacity, returns, key), step)


def _init(agent: Agent, env: Env, capacity: int, returns: replay.Returns | None, key: jax.Array) -> LoopState:
    key_agent, key_env, key = jax.random.split(key, 3)
    env_state, obs = env.reset(key_env)
    flag = jnp.zeros(env.num_envs, bool)
    row = Transition(obs, example(env.spec.action, env.num_envs), jnp.zeros(env.num_envs), obs, flag, flag)
    return LoopState(
        agent=agent.init(key_agent),
        memory=agent.memory(env.num_envs),
        env=env_state,
        obs=obs,
        ring=replay.init(row, capacity) if capacity else (),
        extras=() if returns is None else replay.init(_unknown(returns, env.num_envs), capacity),
        episode_return=jnp.zeros(env.num_envs),
        episode_length=jnp.zeros(env.num_envs, jnp.int32),
        key=key,
    )


def _init_sequences(agent: Agent, env: Env, capacity: int, key: jax.Array) -> LoopState:
    state = _init(agent, env, capacity, None, key)
    count = jnp.zeros(env.num_envs, jnp.int32)
    return state._replace(ring=state.ring._replace(next_obs=()), extras=replay.init(replay.Counts(count, count), capacity))


def _rows(agent: Agent, env: Env, act: Act, state: LoopState, t: jax.Array, key: jax.Array) -> tuple[LoopState, Metrics]:
    """``agent.batches`` env steps in each env, and a row of the ring for each, which has begun no sequence yet."""
    count = jnp.zeros(env.num_envs, jnp.int32)

    def interact(state: LoopState, x: tuple[jax.Array, jax.Array]) -> tuple[LoopState, Metrics]:
        slot, key = x
        state, row, episodes = _interact(agent, env, act, state, *jax.random.split(key))
        ring = replay.add(state.ring, row._replace(next_obs=()), slot)
        return state._replace(ring=ring, extras=replay.add(state.extras, replay.Counts(count, count), slot)), episodes

    slots = t * agent.batches + jnp.arange(agent.batches)
    state, episodes = jax.lax.scan(interact, state, (slots, jax.random.split(key, agent.batches)))
    return state, jax.tree.map(jnp.sum, episodes)


def _unknown(returns: replay.Returns, num: int) -> PyTree:
    """The extras [num] of transitions whose return is not known yet."""
    return returns.extras(mc_return=jnp.full(num, -jnp.inf))


def _add(env: Env, returns: replay.Returns | None, state: LoopState, row: Transition, t: jax.Array) -> LoopState:
    """``state`` with one more row, and the returns that are known by then."""
    ring = replay.add(state.ring, row, t)
    if returns is None:
        return state._replace(ring=ring)
    extras = replay.add(state.extras, _unknown(returns, env.num_envs), t)
    fill = partial(replay.fill_returns, ring=ring, t=t + 1, horizon=env.spec.horizon, returns=returns, num_envs=env.num_envs)
    return state._replace(ring=ring, extras=jax.lax.cond((t + 1) % env.spec.horizon == 0, fill, lambda x: x, extras))


def _interact(
    agent: Agent, env: Env, act: Act, state: LoopState, key_act: jax.Array, key_env: jax.Array
) -> tuple[LoopState, Transition, Metrics]:
    """E env steps under ``act``: the state after them, their transitions [E], and metrics of the episodes that ended."""
    action, memory = act(state.agent, state.memory, state.obs, key_act)
    env_state, step = env.step(state.env, action, key_env)
    row = Transition(state.obs, action, step.reward, step.next_obs, step.terminated, step.truncated)
    done = step.terminated | step.truncated
    total, length = state.episode_return + step.reward, state.episode_length + 1
    state = state._replace(
        memory=where(done, agent.memory(env.num_envs), memory),
        env=env_state,
        obs=step.obs,
        episode_return=jnp.where(done, 0.0, total),
        episode_length=jnp.where(done, 0, length),
    )
    metrics = {
        "episode/count": done.sum().astype(float),
        "episode/return": jnp.where(done, total, 0.0).sum(),
        "episode/length": jnp.where(done, length, 0).sum().astype(float),
    }
    return state, row, metrics


def _play(agent: Agent, env: Env, returns: replay.Returns, state: PyTree, key: jax.Array) -> tuple[Batch, jax.Array, Metrics]:
    """``(batch [T, E], kept [T, E], metrics)`` of one whole episode in each env; nothing is kept after an episode's end."""
    key_reset, key = jax.random.split(key)
    env_state, obs = env.reset(key_reset)
    everything = jnp.ones(env.num_envs, bool)

    def step(carry: tuple, key: jax.Array) -> tuple[tuple, tuple]:
        memory, env_state, obs, alive = carry
        key_act, key_env = jax.random.split(key)
        kept = alive & (everything if agent.keep is None else agent.keep(state, memory))
        action, memory = agent.act(state, memory, obs, key_act)
        env_state, new = env.step(env_state, action, key_env)
        row = Transition(obs, action, jnp.where(alive, new.reward, 0.0), new.next_obs, new.terminated, new.truncated)
        return (memory, env_state, new.obs, alive & ~(new.terminated | new.truncated)), (row, alive, kept)

    keys = jax.random.split(key, env.spec.horizon)
    _, (row, alive, kept) = jax.lax.scan(step, (agent.memory(env.num_envs), env_state, obs, everything), keys)
    batch = Batch(row, returns.extras(mc_return=_returns_to_go(returns, row.reward, alive)))
    return (
        batch,
        kept,
        {
            "episode/count": jnp.float32(env.num_envs),
            "episode/return": row.reward.sum(),
            "episode/length": alive.sum().astype(float),
        },
    )


def _returns_to_go(returns: replay.Returns, reward: jax.Array, alive: jax.Array) -> jax.Array:
    """Discounted sums [T, E] of the changed rewards from each step on; 0 after the end."""
    changed = jnp.where(alive, returns.scale * reward + returns.bias, 0.0)

    def back(total: jax.Array, reward: jax.Array) -> tuple[jax.Array, jax.Array]:
        total = reward + returns.discount * total
        return total, total

    return jax.lax.scan(back, jnp.zeros(reward.shape[1]), changed, reverse=True)[1]


def _finite(tree: PyTree) -> jax.Array:
    """Whether all numbers of each seed are finite, [S]."""
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.stack([jnp.isfinite(x).reshape(x.shape[0], -1).all(1) for x in leaves]).all(0)
