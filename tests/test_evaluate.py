"""Evaluation on a toy env whose returns and lengths are known in closed form."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import evaluate
from rljax.base import Agent, Array, Discrete, Spec, batch_env

HORIZON, E = 6, 16
SPEC = Spec(Array((2,)), Discrete(100), HORIZON)


def reset(key):
    """An episode of k steps, k in 1 .. 9; the observation is (k, count)."""
    k = jax.random.randint(key, (), 1, 10)
    return (k, jnp.int32(0)), jnp.array([k, 0], jnp.float32)


def step(state, action, key):
    """Reward is k + action; from the horizon on, episodes that want more steps are truncated."""
    k, count = state
    return (k, count + 1), jnp.stack([k, count + 1]), k + action, count + 1 >= k


ENV = batch_env(SPEC, reset, step, E)


def agent():
    """Its mode adds the state's number to a memory of steps taken; to act, initialise or update is an error."""

    def never(*args):
        raise AssertionError("evaluation asks for the mode only")

    def mode(state, memory, obs):
        return state + memory, memory + 1

    return Agent(never, lambda n: jnp.zeros(n, jnp.int32), never, mode, never, 1)


@jax.jit
def episodes(state, key):
    """`evaluate.episodes` with a compiled program, and the starts of those episodes."""
    starts = ENV.reset(jax.random.split(key)[1])[1][:, 0]
    return evaluate.episodes(agent(), ENV, state, key), starts


@pytest.mark.parametrize("seed", [0, 1])
def test_returns_and_lengths_are_exact(seed):
    """One whole episode per env: min(k, horizon) steps of reward k + 10 + step; what follows does not count."""
    (returns, lengths), k = jax.tree.map(np.asarray, episodes(10, jax.random.key(seed)))
    assert (returns.shape, lengths.shape, lengths.dtype) == ((E,), (E,), np.int32)
    expected = np.minimum(k, HORIZON)
    np.testing.assert_array_equal(lengths, expected)
    np.testing.assert_array_equal(returns, expected * (k + 10) + expected * (expected - 1) / 2)
    assert (k < HORIZON).any() and (k > HORIZON).any() and len(set(expected)) > 3  # ends of both kinds, at many times


def test_the_key_decides():
    """One key gives one result, two keys other episodes."""
    a, b, c = (np.asarray(episodes(10, jax.random.key(i))[0][0]) for i in (0, 1, 0))
    np.testing.assert_array_equal(a, c)
    assert np.any(a != b)


def test_rollout_gives_the_same_steps():
    """With the same key, the first episode of each env in a rollout has the returns and lengths of `episodes`."""
    (returns, lengths), _ = episodes(10, jax.random.key(0))
    states, obs, steps = jax.jit(lambda key: evaluate.rollout(agent(), ENV, 10, key))(jax.random.key(0))
    assert obs.shape == (HORIZON, E, 2) and steps.reward.shape == (HORIZON, E)
    done = np.asarray(steps.terminated | steps.truncated)
    alive = np.cumsum(done, 0) - done == 0
    np.testing.assert_array_equal(np.where(alive, steps.reward, 0).sum(0), returns)
    np.testing.assert_array_equal(alive.sum(0), lengths)
    np.testing.assert_array_equal(obs[1:], steps.obs[:-1])  # the observations that were acted on
    np.testing.assert_array_equal(states[0][1], obs[..., 1])  # and the states they were made from
    np.testing.assert_array_equal(steps.next_obs[..., 1], obs[..., 1] + 1)


def test_stops_when_all_episodes_have_ended():
    """Episodes of one step cost one step of the env, not as many as the horizon."""
    ticks = []

    def counted(state, action, key):
        jax.debug.callback(lambda: ticks.append(1))
        return state, jnp.zeros(2), 1.0, jnp.bool(True)

    env = batch_env(Spec(SPEC.obs, SPEC.action, 50), reset, counted)
    returns, lengths = jax.jit(lambda key: evaluate.episodes(agent(), env, 0, key))(jax.random.key(0))
    jax.effects_barrier()
    assert (returns[0], lengths[0], len(ticks)) == (1, 1, 1)


def test_seeds_in_a_vmap_are_the_seeds_alone():
    """Each of two states and keys gets what it would get alone, though the other's episodes last longer."""
    keys, states = jax.random.split(jax.random.key(3), 2), jnp.array([10, 20])
    together = jax.jit(jax.vmap(lambda state, key: evaluate.episodes(agent(), ENV, state, key)))(states, keys)
    for i in range(2):
        alone, _ = episodes(states[i], keys[i])
        jax.tree.map(lambda x, y, i=i: np.testing.assert_array_equal(x[i], y), together, alone)


def test_runs_under_key_reuse_checks(key_reuse_checks):
    """No key is consumed twice."""
    keys = jax.random.split(jax.random.key(0))
    jax.jit(lambda key: evaluate.episodes(agent(), ENV, 0, key))(keys[0])
    jax.jit(lambda key: evaluate.rollout(agent(), ENV, 0, key))(keys[1])
