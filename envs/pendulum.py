"""Pendulum swing-up without dependencies: the dynamics, reward and reset of gymnasium's Pendulum-v1.

In ``pendulum/angle`` the velocity is hidden, which takes an agent with a memory.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rljax.base import Array, Env, Spec, batch_env, to_env_units

ACTION = Array((1,), "float32", -2.0, 2.0)
OBS = Array((3,), "float32", (-1.0, -1.0, -8.0), (1.0, 1.0, 8.0))


class State(NamedTuple):
    """``angle`` [rad], 0 is upright; ``velocity`` [rad/s]."""

    angle: jax.Array
    velocity: jax.Array


def ids() -> tuple[str, ...]:
    """``""``, whose name is ``pendulum``, and ``angle``."""
    return ("", "angle")


def defaults(env_id: str) -> dict[str, Any]:
    """Options and their defaults."""
    return {"horizon": 200}


def build(env_id: str, num_envs: int, name: str, horizon: int) -> Env:
    """`Env` with obs float32 [3] (cos, sin, velocity) and action float32 [1], torque within 2 N m; never terminates.

    With the id ``angle`` obs are [2], without the velocity.
    """
    if not env_id:
        return batch_env(Spec(OBS, ACTION, horizon), reset, step, num_envs, name)

    def begin(key: jax.Array) -> tuple[State, jax.Array]:
        state, obs = reset(key)
        return state, obs[:2]

    def go(state: State, action: jax.Array, key: jax.Array) -> tuple[State, jax.Array, jax.Array, jax.Array]:
        state, obs, reward, terminated = step(state, action, key)
        return state, obs[:2], reward, terminated

    return batch_env(Spec(Array((2,), "float32", -1.0, 1.0), ACTION, horizon), begin, go, num_envs, name)


def reset(key: jax.Array) -> tuple[State, jax.Array]:
    """``(state, obs [3])``: any angle, velocity within 1 rad/s."""
    key_angle, key_velocity = jax.random.split(key)
    angle = jax.random.uniform(key_angle, minval=-jnp.pi, maxval=jnp.pi)
    state = State(angle, jax.random.uniform(key_velocity, minval=-1.0, maxval=1.0))
    return state, observe(state)


def step(state: State, action: jax.Array, key: jax.Array) -> tuple[State, jax.Array, jax.Array, jax.Array]:
    """``(state, obs [3], reward, False)`` after 0.05 s; g 10 m/s2, rod of 1 kg and 1 m; reward is that of the state left."""
    torque = to_env_units(ACTION, action)[0]
    angle = (state.angle + jnp.pi) % (2 * jnp.pi) - jnp.pi
    reward = -(angle**2 + 0.1 * state.velocity**2 + 0.001 * torque**2)
    velocity = jnp.clip(state.velocity + (15 * jnp.sin(state.angle) + 3 * torque) * 0.05, -8.0, 8.0)
    state = State(state.angle + velocity * 0.05, velocity)
    return state, observe(state), reward, jnp.array(False)


def observe(state: State) -> jax.Array:
    """``[cos, sin, velocity]``, float32 [3]."""
    return jnp.stack([jnp.cos(state.angle), jnp.sin(state.angle), state.velocity])
