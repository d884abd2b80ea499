"""Brax environments (arXiv:2106.13281), without its training wrapper.

That wrapper drops the terminal observation and returns to one fixed first state per env; time limit and reset are those
of `rljax.base.batch_env`. The four physics backends are four different tasks: never pool their scores. The default is
spring, the fastest, but for the inverted pendulum: SAC balances generalized's in 20 000 steps and spring's not in 100 000.
"""

from __future__ import annotations

import contextlib
import functools
import io
import re
import sys
import warnings
from collections.abc import Iterator
from types import MappingProxyType
from typing import Any

import jax

from rljax.base import Array, Env, Spec, batch_env, to_env_units
from rljax.envs import mujoco

BACKENDS = ("generalized", "positional", "spring", "mjx")
BROKEN = MappingProxyType({"swimmer": "brax/swimmer is not supported: Brax's swimmer fails on current JAX"})


def ids() -> tuple[str, ...]:
    """Ids that work, without importing brax."""
    return (
        "ant",
        "halfcheetah",
        "hopper",
        "humanoid",
        "humanoidstandup",
        "inverted_double_pendulum",
        "inverted_pendulum",
        "pusher",
        "reacher",
        "walker2d",
    )


def defaults(env_id: str) -> dict[str, Any]:
    """Options and their defaults."""
    return {"backend": "generalized" if env_id == "inverted_pendulum" else "spring", "horizon": 1000}


def build(env_id: str, num_envs: int, name: str, backend: str, horizon: int) -> Env:
    """`Env` of a Brax environment; its actions are float32 [A] in [-1, 1], which it scales to its actuators itself."""
    env = load(env_id, backend)
    obs = jax.eval_shape(env.reset, jax.random.key(0)).obs
    action_space = Array((env.action_size,), "float32", -1.0, 1.0)
    spec = Spec(Array(obs.shape), action_space, horizon)

    def reset(key: jax.Array) -> tuple[Any, jax.Array]:
        state = env.reset(key)
        return state, state.obs

    def step(state: Any, action: jax.Array, key: jax.Array) -> tuple[Any, jax.Array, jax.Array, jax.Array]:
        state = env.step(state, to_env_units(action_space, action))
        return state, state.obs, state.reward, state.done > 0

    return batch_env(spec, reset, step, num_envs, name)


@functools.cache
def load(env_id: str, backend: str) -> Any:
    """Brax's own environment object, unwrapped. Imports brax."""
    with _without_noise():
        from brax import envs

        return envs.get_environment(env_id, backend=backend)


@contextlib.contextmanager
def _without_noise() -> Iterator[None]:
    """Leaves out messages that no user can act on: no warp found, Brax in maintenance, and that of `mujoco.warned`."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Brax System, piplines and environments", UserWarning)
            with mujoco.warned():
                yield
    finally:
        sys.stdout.writelines(x for x in printed.getvalue().splitlines(True) if not re.match("Failed to import .*warp", x))
