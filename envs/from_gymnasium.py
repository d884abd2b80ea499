"""Gymnasium environments (arXiv:2407.17032), which run on the host: real MuJoCo, and whatever a user has registered.

E copies are stepped one after the other in this process. Each is given its action, and, when its episode has ended, is reset
at once (gymnasium's same-step autoreset): `Step.obs` is the new observation, `Step.next_obs` the true successor.
"""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from rljax.base import Array, Discrete, HostEnv, InputError, Space, Spec, Step, bounds
from rljax.envs import mujoco

BIG = 1_000_000_000  # env steps, the horizon of an environment without a time limit


def build(env_id: str, num_envs: int, name: str) -> HostEnv:
    """`HostEnv` of a registered gymnasium environment.

    Raises:
        InputError: if it cannot be made, or has spaces that are neither boxes nor a number of actions.
    """
    spec = _spec(env_id, name)

    def resize(n: int) -> HostEnv:
        return build(env_id, n, name)

    return HostEnv(spec, functools.partial(_start, env_id, spec), num_envs, resize, name)


@functools.cache
def _spec(env_id: str, name: str) -> Spec:
    env = _make(env_id, name)
    try:
        limit = env.spec.max_episode_steps if env.spec else None
        obs, action = _space(name, env.observation_space), _space(name, env.action_space)
    finally:
        env.close()
    if not isinstance(obs, Array):
        raise InputError(f"{name} has discrete observations, which no agent takes")
    return Spec(Array(obs.shape, "uint8" if obs.dtype == "uint8" else "float32"), action, limit or BIG)


def _make(env_id: str, name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import gymnasium

        logging.getLogger("gymnasium").setLevel(logging.ERROR)
        try:
            with mujoco.warned():
                return gymnasium.make(env_id)
        except Exception as error:  # a registered environment may fail in any way of its own
            said = " ".join(str(error).split())
            hint = "; MuJoCo needs pip install 'rljax[mujoco]'" if isinstance(error, ImportError) else ""
            raise InputError(f"gymnasium cannot make {name}: {said or type(error).__name__}{hint}") from None


def _space(name: str, space: Any) -> Space:
    import gymnasium

    if isinstance(space, gymnasium.spaces.Discrete):
        return Discrete(int(space.n))
    if isinstance(space, gymnasium.spaces.Box):
        low, high = (tuple(np.asarray(b, float).ravel().tolist()) for b in (space.low, space.high))
        if len(space.shape) == 1:
            return Array(tuple(space.shape), str(space.dtype), low, high)
        return Array(tuple(space.shape), str(space.dtype), min(low), max(high))
    raise InputError(f"{name} has a space of type {type(space).__name__}: only Box and Discrete are supported")


def _start(env_id: str, spec: Spec, num: int) -> tuple[Callable, Callable, Callable]:
    import gymnasium

    same_step = gymnasium.vector.AutoresetMode.SAME_STEP
    with warnings.catch_warnings(), mujoco.warned():
        warnings.simplefilter("ignore")
        envs = gymnasium.vector.SyncVectorEnv([functools.partial(gymnasium.make, env_id)] * num, autoreset_mode=same_step)

    def raw(action: np.ndarray) -> np.ndarray:
        if isinstance(spec.action, Discrete):
            return action
        low, high = bounds(spec.action)
        return np.clip(low + (action + 1) * (0.5 * (high - low)), low, high)

    def reset(seeds: np.ndarray) -> np.ndarray:
        return envs.reset(seed=[int(seed) for seed in seeds])[0].astype(spec.obs.dtype)

    def step(action: np.ndarray) -> Step:
        new: Any = envs.step(raw(action))
        obs, reward, terminated, truncated, info = new
        obs = obs.astype(spec.obs.dtype)
        next_obs = obs.copy()
        for i in np.flatnonzero(terminated | truncated):
            next_obs[i] = info["final_obs"][i]
        return Step(obs, reward, next_obs, terminated, truncated & ~terminated)

    return reset, step, envs.close
