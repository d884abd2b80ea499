"""Evaluation: whole episodes under the agent's mode, raw rewards, undiscounted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax.base import Agent, Env, HostEnv, Step

PyTree = Any


def episodes(agent: Agent, env: Env, state: PyTree, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``(returns [E], lengths [E])`` of one full episode per env, from fresh resets; lengths in env steps."""

    def going(carry: tuple) -> jax.Array:
        return (carry[0] < env.spec.horizon) & carry[-1].any()

    def body(carry: tuple) -> tuple:
        i, key, loop, total, length, alive = carry
        key, key_step = jax.random.split(key)
        loop, step = _step(agent, env, state, loop, key_step)
        total = total + jnp.where(alive, step.reward, 0.0)
        return i + 1, key, loop, total, length + alive, alive & ~(step.terminated | step.truncated)

    key, loop = _reset(agent, env, key)
    zeros = jnp.zeros(env.num_envs)
    carry = (0, key, loop, zeros, zeros.astype(jnp.int32), jnp.ones(env.num_envs, bool))
    _, _, _, total, length, _ = jax.lax.while_loop(going, body, carry)
    return total, length


def host_episodes(act: Callable[[np.ndarray], np.ndarray], env: HostEnv, seeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``(returns [N, E], lengths [N, E])`` of one full episode per learner and env of a simulator on the host.

    ``act`` maps observations [N, E, ...] to actions [N, E, ...]; ``seeds`` uint32 [N, E] start the episodes.
    """
    total, length = np.zeros(seeds.shape), np.zeros(seeds.shape, np.int32)
    for _, reward, alive in _host_steps(act, env, seeds):
        total += np.where(alive, reward, 0.0)
        length += alive
    return total, length


def host_rollout(
    act: Callable[[np.ndarray], np.ndarray], env: HostEnv, seeds: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``(obs, reward, alive)``, [T, E, ...], of one policy's episodes in a simulator on the host; alive as long as they last.

    ``act`` maps observations [E, ...] to actions [E, ...]; ``seeds`` uint32 [E]; T is the longest episode's length.
    """
    steps = _host_steps(lambda obs: act(obs[0])[None], env, seeds[None])
    obs, reward, alive = (np.stack(x)[:, 0] for x in zip(*steps, strict=True))
    return obs, reward, alive


def _host_steps(
    act: Callable[[np.ndarray], np.ndarray], env: HostEnv, seeds: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """``(obs, reward, alive)`` [N, E, ...] of each step until all first episodes have ended; alive: it belongs to the first."""
    num, shape = seeds.size, seeds.shape
    reset, step, close = env.start(num)
    try:
        obs, alive = reset(seeds.reshape(num)), np.ones(num, bool)
        while alive.any():
            before = obs.reshape(*shape, *obs.shape[1:])
            action = act(before)
            result = step(action.reshape(num, *action.shape[2:]))
            yield before, result.reward.reshape(shape), alive.reshape(shape)
            alive = alive & ~(result.terminated | result.truncated)
            obs = result.obs
    finally:
        close()


def rollout(agent: Agent, env: Env, state: PyTree, key: jax.Array) -> tuple[PyTree, jax.Array, Step]:
    """``(env_states, obs, steps)``, leaves [T, E, ...], of the first T = horizon env steps; states and obs are those acted on.

    With the same key these are the steps that `episodes` counts.
    """

    def body(carry: tuple, _: None) -> tuple:
        key, loop = carry
        key, key_step = jax.random.split(key)
        new, step = _step(agent, env, state, loop, key_step)
        return (key, new), (loop[1], loop[2], step)

    return jax.lax.scan(body, _reset(agent, env, key), None, env.spec.horizon)[1]


def _reset(agent: Agent, env: Env, key: jax.Array) -> tuple[jax.Array, tuple]:
    key, key_reset = jax.random.split(key)
    env_state, obs = env.reset(key_reset)
    return key, (agent.memory(env.num_envs), env_state, obs)


def _step(agent: Agent, env: Env, state: PyTree, loop: tuple, key: jax.Array) -> tuple[tuple, Step]:
    memory, env_state, obs = loop
    action, memory = agent.mode(state, memory, obs)
    env_state, step = env.step(env_state, action, key)
    return (memory, env_state, step.obs), step
