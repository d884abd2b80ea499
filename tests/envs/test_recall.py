"""The test of memory: what is shown, asked and rewarded."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import envs
from rljax.base import InputError


@pytest.mark.parametrize(("horizon", "shown", "asked"), [(1, 1, 1), (2, 1, 1), (52, 1, 1), (9, 3, 2), (4, 4, 4)])
def test_an_episode(horizon, shown, asked):
    """The cue in the first steps alone, the question in the last, and a reward for each answer."""
    env = envs.make("recall", 40, horizon=horizon, shown=shown, asked=asked)
    state, obs = jax.jit(env.reset)(jax.random.key(0))
    cue = np.asarray(obs[:, 0])
    assert set(cue) == {-1.0, 1.0}
    answer = jnp.arange(40) % 2
    step = jax.jit(env.step)
    for t in range(horizon):
        np.testing.assert_array_equal(obs[:, 0], cue if t < shown else 0)
        np.testing.assert_array_equal(obs[:, 1], float(t >= horizon - asked))
        state, new = step(state, answer, jax.random.key(t))
        assert np.all(new.terminated == (t == horizon - 1)) and not new.truncated.any()
        right = np.where((cue > 0) == np.asarray(answer), 1, -1)
        np.testing.assert_array_equal(new.reward, right if t >= horizon - asked else 0)
        obs = new.obs
    assert (np.abs(obs[:, 0]) == 1).all()  # of the next episodes, whose cues are others
    assert (np.asarray(obs[:, 0]) != cue).any()


def test_it_keeps_the_contract():
    """`envs.check` finds nothing, and the default leaves 50 steps in between."""
    env = envs.make("recall", 3)
    envs.check(env)
    assert env.spec.horizon == 52


@pytest.mark.parametrize("options", [{"shown": 5}, {"asked": 5}])
def test_an_episode_holds_cue_and_question(options):
    with pytest.raises(InputError, match="at most its horizon, 4"):
        envs.make("recall", horizon=4, **options)
