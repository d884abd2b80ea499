"""gymnax through the adapter: the contract, types of observations, time limits, and gymnax's own dynamics."""

from __future__ import annotations

import gymnax
import jax
import numpy as np
import pytest

from rljax import envs
from rljax.base import Array, Discrete, to_env_units
from rljax.envs import from_gymnax

FEW = ["Pendulum-v1", "MountainCarContinuous-v0", "Breakout-MinAtar", "DeepSea-bsuite"]
FIXED = {"DeepSea-bsuite", "Catch-bsuite"}  # their starts are one, or a handful


@pytest.mark.parametrize("name", [i if i in FEW else pytest.param(i, marks=pytest.mark.slow) for i in from_gymnax.ids()])
def test_keeps_the_contract(name):
    """Every id; those with a start that hardly varies are told so."""
    env = envs.make(f"gymnax/{name}")
    starts = np.asarray(jax.jit(env.resize(64).reset)(jax.random.key(0))[1], float).reshape(64, -1)
    envs.check(env, fixed_start=len(np.unique(starts, axis=0)) < 8)


def test_observations_keep_their_types():
    """Binary images and one-hot observations are uint8, others float32."""
    breakout, cart = envs.make("gymnax/Breakout-MinAtar").spec, envs.make("gymnax/CartPole-v1").spec
    assert breakout.obs == Array((10, 10, 4), "uint8", 0, 1) and isinstance(breakout.action, Discrete)
    assert cart.obs == Array((4,)) and cart.action == Discrete(2)
    lake = envs.make("gymnax/FrozenLake-misc", 2)
    obs = jax.jit(lake.reset)(jax.random.key(0))[1]
    assert obs.dtype == "uint8" and obs.sum() == 2 and lake.spec.obs.shape == obs.shape[1:]


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1", "Asterix-MinAtar"])
def test_steps_are_those_of_gymnax(name):
    """A copy, stepped with the key that `batch_env` gives it, equals `step_env`."""
    env = envs.make(f"gymnax/{name}", 2)
    inner, params = gymnax.make(name)
    (state, age), _ = jax.jit(env.reset)(jax.random.key(0))
    space = env.spec.action
    action = jax.numpy.ones(2, int) if isinstance(space, Discrete) else jax.numpy.full((2, 1), 0.3)
    key = jax.random.key(1)
    _, step = jax.jit(env.step)((state, age), action, key)
    key_step, _ = jax.random.split(key)
    for i, k in enumerate(jax.random.split(key_step, 2)):
        one = jax.tree.map(lambda x, i=i: x[i], state)
        given = action[i] if isinstance(space, Discrete) else to_env_units(space, action[i])
        obs, _, reward, terminated, _ = inner.step_env(k, one, given, params)
        np.testing.assert_allclose(step.next_obs[i], obs, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(step.reward[i], reward, rtol=1e-5)
        assert step.terminated[i] == terminated


def test_time_limit_is_no_termination():
    """CartPole with a short horizon: the limit truncates, a fall before it terminates, and never both."""
    env = envs.make("gymnax/CartPole-v1?horizon=15", 64)

    def body(state, key):
        key_action, key_step = jax.random.split(key)
        return env.step(state, jax.random.randint(key_action, (64,), 0, 2), key_step)

    run = jax.jit(lambda key: jax.lax.scan(body, env.reset(key)[0], jax.random.split(key, 60))[1])
    steps = jax.tree.map(np.asarray, run(jax.random.key(0)))
    assert steps.truncated.sum() > 50 and steps.terminated.sum() > 50 and not (steps.truncated & steps.terminated).any()
    fallen = (np.abs(steps.next_obs[..., 2]) > 12 * np.pi / 180) | (np.abs(steps.next_obs[..., 0]) > 2.4)
    np.testing.assert_array_equal(steps.terminated, fallen)
