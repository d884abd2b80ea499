"""The built-in pendulum against the equations of gymnasium's Pendulum-v1, in numpy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from rljax import envs


def reference(angle, velocity, torque):
    """``(angle, velocity, reward)`` after one step of 0.05 s, in float64."""
    torque = np.clip(torque, -2.0, 2.0)
    wrapped = (angle + np.pi) % (2 * np.pi) - np.pi
    reward = -(wrapped**2 + 0.1 * velocity**2 + 0.001 * torque**2)
    velocity = np.clip(velocity + (3 * 10.0 / 2 * np.sin(angle) + 3.0 * torque) * 0.05, -8.0, 8.0)
    return angle + velocity * 0.05, velocity, reward


def test_steps_equal_the_reference():
    """Observations and rewards of 150 steps from 16 starts, with torques at and beyond the limits."""
    env = envs.make("pendulum", 16)
    state, obs = jax.jit(env.reset)(jax.random.key(0))
    step = jax.jit(env.step)
    angle = np.arctan2(obs[:, 1], obs[:, 0]).astype(float)
    velocity = np.asarray(obs[:, 2], float)
    for i in range(150):
        action = jax.random.uniform(jax.random.key(i), (16, 1), minval=-1.5, maxval=1.5)
        state, out = step(state, action, jax.random.key(i))
        angle, velocity, reward = reference(angle, velocity, 2 * np.asarray(action[:, 0], float))
        np.testing.assert_allclose(out.reward, reward, rtol=2e-3, atol=2e-3)
        expected = np.stack([np.cos(angle), np.sin(angle), velocity], -1)
        np.testing.assert_allclose(out.next_obs, expected, atol=5e-3)
        angle, velocity = np.arctan2(out.next_obs[:, 1], out.next_obs[:, 0]).astype(float), np.asarray(out.next_obs[:, 2])


def test_ends_by_time_alone_and_starts_anywhere():
    """Truncated at step 200, with the true successor; starts fill the circle and stay within 1 rad/s."""
    env = envs.make("pendulum", 512)
    _, obs = jax.jit(env.reset)(jax.random.key(1))
    angle = np.arctan2(obs[:, 1], obs[:, 0])
    assert np.histogram(angle, 4, (-np.pi, np.pi))[0].min() > 90
    assert 0.9 < np.abs(obs[:, 2]).max() <= 1.0

    def body(state, key):
        return env.step(state, jnp.zeros((512, 1)), key)

    keys = jax.random.split(jax.random.key(2), 201)
    _, steps = jax.jit(lambda s: jax.lax.scan(body, s, keys))(jax.jit(env.reset)(jax.random.key(1))[0])
    assert not steps.terminated.any()
    assert (np.asarray(steps.truncated).nonzero()[0] == 199).all() and steps.truncated.sum() == 512
    assert not np.any(np.all(steps.obs[199] == steps.next_obs[199], -1))


def test_the_velocity_can_be_hidden():
    """The same episode, of which less is seen."""
    seen, hidden = envs.make("pendulum", 4), envs.make("pendulum/angle", 4)
    envs.check(hidden)
    keys = jax.random.split(jax.random.key(0), 20)

    def play(env):
        def body(state, key):
            return env.step(state, jax.random.uniform(key, (4, 1), minval=-1.0), key)

        state, obs = env.reset(jax.random.key(1))
        return obs, jax.lax.scan(body, state, keys)[1]

    (obs, steps), (less, fewer) = (jax.jit(lambda env=env: play(env))() for env in (seen, hidden))
    np.testing.assert_array_equal(less, obs[:, :2])
    np.testing.assert_array_equal(fewer.next_obs, steps.next_obs[..., :2])
    np.testing.assert_array_equal(fewer.reward, steps.reward)
