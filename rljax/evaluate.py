"""Evaluation: whole episodes under the agent's mode, raw rewards, undiscounted."""

from __future__ import annotations

from collections.abc import Callable
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


def host_episodes(
    act: Callable[[np.ndarray], np.ndarray], env: HostEnv, learners: int, seeds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """``(returns [N, E], lengths [N, E])`` of one full episode per learner and env of a simulator on the host.

    ``act`` maps observations [N, E, ...] to actions [N, E, ...]; ``seeds`` uint32 [N, E] start the episodes.
    """
    num = learners * env.num_envs
    reset, step, close = env.start(num)
    try:
        obs = reset(seeds.reshape(num))
        total, length, alive = np.zeros(num), np.zeros(num, np.int32), np.ones(num, bool)
        while alive.any():
            action = act(obs.reshape(learners, env.num_envs, *obs.shape[1:]))
            result = step(action.reshape(num, *action.shape[2:]))
            total += np.where(alive, result.reward, 0.0)
            length += alive
            alive &= ~(result.terminated | result.truncated)
            obs = result.obs
    finally:
        close()
    return total.reshape(learners, -1), length.reshape(learners, -1)


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
