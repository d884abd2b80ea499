"""gymnax environments (https://github.com/RobertTLange/gymnax, 1.x), without its own auto-reset and time limit.

gymnax's observation bounds are not used for float observations: some are wrong (GaussianBandit's rewards leave theirs).
"""

from __future__ import annotations

import functools
import math
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax.base import Array, Discrete, Env, InputError, Space, Spec, batch_env, to_env_units

BROKEN = MappingProxyType({"MNISTBandit-bsuite": "gymnax/MNISTBandit-bsuite is not supported: it downloads its images"})
GRIDS = ("Catch-bsuite", "DeepSea-bsuite", "Pong-misc")  # with MinAtar, the images whose pixels are 0 or 1


def ids() -> list[str]:
    """Ids that gymnax registers, but the one that downloads. Imports gymnax."""
    import gymnax

    return [i for i in gymnax.registered_envs if i not in BROKEN]


def defaults(env_id: str) -> dict[str, Any]:
    """Options and their defaults."""
    return {"horizon": int(_load(env_id)[1].max_steps_in_episode)}


def build(env_id: str, num_envs: int, name: str, horizon: int) -> Env:
    """`Env` of a gymnax environment with that time limit.

    Discrete observations become one-hot uint8 [n], binary images uint8; other observations are float32. ``terminated``
    is the environment's own end: gymnax 1.x keeps the time limit out of ``step_env``.
    """
    env, params = _load(env_id)
    params = params.replace(max_steps_in_episode=type(params.max_steps_in_episode)(horizon))
    space = env.observation_space(params)
    spec = Spec(_obs_space(env_id, space), _action_space(env.action_space(params)), horizon)

    def observe(obs: jax.Array) -> jax.Array:
        return jax.nn.one_hot(obs, space.n, dtype=jnp.uint8) if hasattr(space, "n") else jnp.reshape(obs, space.shape)

    def reset(key: jax.Array) -> tuple[Any, jax.Array]:
        obs, state = env.reset_env(key, params)
        return state, observe(obs)

    def step(state: Any, action: jax.Array, key: jax.Array) -> tuple[Any, jax.Array, jax.Array, jax.Array]:
        if isinstance(spec.action, Array):
            action = jnp.reshape(to_env_units(spec.action, action), env.action_space(params).shape)
        obs, state, reward, terminated, _ = env.step_env(key, state, action, params)
        return state, observe(obs), jnp.asarray(reward, jnp.float32), jnp.asarray(terminated)

    return batch_env(spec, reset, step, num_envs, name)


@functools.cache
def _load(env_id: str) -> tuple[Any, Any]:
    import gymnax

    return gymnax.make(env_id)


def _obs_space(env_id: str, space: Any) -> Array:
    if hasattr(space, "n"):
        return Array((int(space.n),), "uint8", 0, 1)
    if not hasattr(space, "shape"):
        raise InputError(f"gymnax/{env_id} has observations of {type(space).__name__}: only one array is supported")
    if env_id.endswith("-MinAtar") or env_id in GRIDS:
        return Array(tuple(space.shape), "uint8", 0, 1)
    return Array(tuple(space.shape))


def _action_space(space: Any) -> Space:
    if hasattr(space, "n"):
        return Discrete(int(space.n))
    shape = (math.prod(space.shape),)
    low, high = (np.broadcast_to(np.asarray(b, float).ravel(), shape) for b in (space.low, space.high))
    return Array(shape, "float32", tuple(low.tolist()), tuple(high.tolist()))
