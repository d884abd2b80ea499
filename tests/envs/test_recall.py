"""The test of memory: what is shown, asked and rewarded."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import envs


@pytest.mark.parametrize("horizon", [1, 2, 52])
def test_an_episode(horizon):
    """The cue at the first step alone, the question at the last, and a reward for the answer."""
    env = envs.make(f"recall?horizon={horizon}", 40)
    state, obs = jax.jit(env.reset)(jax.random.key(0))
    cue = np.asarray(obs[:, 0])
    assert set(cue) == {-1.0, 1.0}
    answer = jnp.arange(40) % 2
    step = jax.jit(env.step)
    for t in range(horizon):
        np.testing.assert_array_equal(obs[:, 0], cue if t == 0 else 0)
        np.testing.assert_array_equal(obs[:, 1], float(t == horizon - 1))
        state, new = step(state, answer, jax.random.key(t))
        assert np.all(new.terminated == (t == horizon - 1)) and not new.truncated.any()
        right = np.where((cue > 0) == np.asarray(answer), 1, -1)
        np.testing.assert_array_equal(new.reward, right if t == horizon - 1 else 0)
        obs = new.obs
    assert (np.abs(obs[:, 0]) == 1).all()  # of the next episodes, whose cues are others
    assert (np.asarray(obs[:, 0]) != cue).any()


def test_it_keeps_the_contract():
    """`envs.check` finds nothing, and the default leaves 50 steps in between."""
    env = envs.make("recall", 3)
    envs.check(env)
    assert env.spec.horizon == 52
