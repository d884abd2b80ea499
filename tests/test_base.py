"""Spaces, action maps, and `batch_env` on a toy problem with known values."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from rljax import base

BOX = base.Array((3,), "float32", (-2.0, 0.0, 1e-3), (1.0, 50.0, 2e-3))
HORIZON = 5


class Toy(NamedTuple):
    """A counter from a random start, with leaves of several dtypes and a key."""

    start: jax.Array
    count: jax.Array
    small: jax.Array
    key: jax.Array


def observe(state):
    """``(start, count)``."""
    return jnp.stack([state.start, state.count.astype(jnp.float32)])


def toy_reset(key):
    """A start drawn from U(0, 1), and a key of its own."""
    key_start, key_own = jax.random.split(key)
    state = Toy(jax.random.uniform(key_start), jnp.int32(0), jnp.uint8(250), key_own)
    return state, observe(state)


def toy_step(state, action, key):
    """Reward is count + action; a positive action terminates; types are careless on purpose."""
    reward = state.count + action[0]
    state = Toy(state.start, state.count + 1.0, state.small + jnp.int32(1), jax.random.fold_in(state.key, 1))
    return state, observe(state), reward, action[0] > 0


SPEC = base.Spec(base.Array((2,)), base.Array((1,), "float32", -1.0, 1.0), HORIZON)


def rollout(env, actions, seed=0):
    """``(final env state, first observation, Step [T, E, ...])`` of actions [T, E, A]."""

    @jax.jit
    def run(key):
        key_reset, key_steps = jax.random.split(key)
        state, obs = env.reset(key_reset)
        state, steps = jax.lax.scan(lambda s, x: env.step(s, *x), state, (actions, jax.random.split(key_steps, len(actions))))
        return state, obs, steps

    return run(jax.random.key(seed))


def test_action_maps_are_inverse():
    """[-1, 1] to env units and back, ends on the bounds, the middle in the middle."""
    unit = jnp.linspace(-1, 1, 41)[:, None] * jnp.ones(3)
    there = base.to_env_units(BOX, unit)
    low, high = base.bounds(BOX)
    np.testing.assert_array_equal(there[0], low)
    np.testing.assert_array_equal(there[-1], high)
    np.testing.assert_allclose(there[20], (low + high) / 2, rtol=1e-6)
    np.testing.assert_allclose(base.from_env_units(BOX, there), unit, atol=1e-5)


def test_env_units_are_clipped():
    """No action leaves the bounds, however far outside [-1, 1] it lies."""
    out = base.to_env_units(BOX, jnp.array([[-1.5] * 3, [7.0] * 3]))
    np.testing.assert_array_equal(out, np.stack(base.bounds(BOX)))


def test_bounds_broadcast():
    """A float bound stands for all elements."""
    low, high = base.bounds(base.Array((2, 2), "float32", -3, (1.0, 2.0)))
    np.testing.assert_array_equal(low, np.full((2, 2), -3, np.float32))
    np.testing.assert_array_equal(high, np.array([[1, 2], [1, 2]], np.float32))


def test_random_actions_are_uniform():
    """Continuous ones fill [-1, 1] whatever the env's bounds, discrete ones are int32 in 0 .. n-1."""
    a = np.asarray(base.random_action(BOX, jax.random.key(0), 3000))
    assert a.shape == (3000, 3) and a.dtype == np.float32
    assert all(stats.kstest(column, "uniform", (-1, 2)).pvalue > 1e-3 for column in a.T)
    b = np.asarray(base.random_action(base.Discrete(4), jax.random.key(0), 3000))
    assert b.shape == (3000,) and b.dtype == np.int32
    values, counts = np.unique(b, return_counts=True)
    np.testing.assert_array_equal(values, range(4))
    assert stats.chisquare(counts).pvalue > 1e-3


def test_discrete_actions_are_int32_under_x64():
    """The dtype does not follow the default integer."""
    with jax.enable_x64(True):
        assert base.random_action(base.Discrete(4), jax.random.key(0), 2).dtype == jnp.int32


def test_example():
    """Zeros with leading axes."""
    assert (base.example(BOX, 2, 5).shape, base.example(base.Discrete(3), 2).shape) == ((2, 5, 3), (2,))
    assert base.example(base.Discrete(3), 2).dtype == jnp.int32
    assert base.example(base.Array((4, 4), "uint8"), 1).dtype == jnp.uint8


def test_spec_is_hashable():
    """A spec can be a static argument."""
    assert hash(SPEC) == hash(base.Spec(base.Array((2,)), base.Array((1,), "float32", -1.0, 1.0), HORIZON))
    assert len({SPEC, base.Spec(SPEC.obs, SPEC.action, 6)}) == 2


def test_where_selects_leaf_by_leaf():
    """The mask is aligned with leading axes, for every rank, dtype and for typed keys."""
    mask = jnp.array([True, False, True])
    x = {"a": jnp.ones((3, 2, 2)), "b": jnp.arange(3, dtype=jnp.uint8), "k": jax.random.split(jax.random.key(0), 3)}
    y = {"a": jnp.zeros((3, 2, 2)), "b": jnp.full(3, 9, jnp.uint8), "k": jax.random.split(jax.random.key(1), 3)}
    out = base.where(mask, x, y)
    for i, row in enumerate((x, y, x)):
        np.testing.assert_array_equal(out["a"][i], row["a"][i])
        assert out["b"][i] == row["b"][i]
        np.testing.assert_array_equal(jax.random.key_data(out["k"][i]), jax.random.key_data(row["k"][i]))
    assert out["b"].dtype == jnp.uint8


def test_no_memory_is_an_empty_tuple():
    """Agents without recurrence carry nothing."""
    assert base.no_memory(7) == ()


def test_a_time_limit_truncates():
    """Without termination every fifth step is truncated, none terminated, and the rewards are 0 1 2 3 4 0 1 ..."""
    _, _, steps = rollout(base.batch_env(SPEC, toy_reset, toy_step, 3), jnp.zeros((12, 3, 1)))
    expected = np.arange(1, 13) % HORIZON == 0
    np.testing.assert_array_equal(steps.truncated, np.repeat(expected[:, None], 3, 1))
    assert not steps.terminated.any()
    np.testing.assert_array_equal(steps.reward, np.repeat((np.arange(12) % HORIZON)[:, None], 3, 1))


def test_termination_is_not_truncation():
    """A positive action terminates that env alone; on the last step before the limit, termination wins."""
    actions = jnp.zeros((8, 2, 1)).at[2, 0].set(1.0).at[HORIZON - 1, 1].set(1.0)
    _, _, steps = rollout(base.batch_env(SPEC, toy_reset, toy_step, 2), actions)
    np.testing.assert_array_equal(np.argwhere(steps.terminated), [[2, 0], [HORIZON - 1, 1]])
    np.testing.assert_array_equal(np.argwhere(steps.truncated), [[2 + HORIZON, 0]])


def test_next_obs_is_the_true_successor():
    """Across episode ends `next_obs` goes on counting, `obs` starts anew; elsewhere they are the same."""
    actions = jnp.zeros((12, 3, 1)).at[1, 0].set(1.0)
    _, first, steps = rollout(base.batch_env(SPEC, toy_reset, toy_step, 3), actions)
    before = np.concatenate([first[None], steps.obs[:-1]])
    done = np.asarray(steps.terminated | steps.truncated)
    np.testing.assert_array_equal(steps.next_obs[..., 0], before[..., 0])  # the start belongs to the episode
    np.testing.assert_array_equal(steps.next_obs[..., 1], before[..., 1] + 1)
    np.testing.assert_array_equal(np.asarray(steps.obs)[~done], np.asarray(steps.next_obs)[~done])
    np.testing.assert_array_equal(np.asarray(steps.obs)[done][:, 1], 0)
    assert np.all(np.asarray(steps.obs)[done][:, 0] != np.asarray(steps.next_obs)[done][:, 0])


def test_every_episode_starts_afresh():
    """Starts differ between envs, between episodes and between keys, and are uniform."""
    env = base.batch_env(base.Spec(SPEC.obs, SPEC.action, 1), toy_reset, toy_step, 20)
    _, first, steps = rollout(env, jnp.zeros((100, 20, 1)))
    starts = np.concatenate([np.ravel(first[..., 0]), np.ravel(steps.obs[..., 0])])
    assert len(set(starts.tolist())) > 0.999 * len(starts)
    assert stats.kstest(starts, "uniform").pvalue > 1e-3
    _, other, _ = rollout(env, jnp.zeros((1, 20, 1)), seed=1)
    assert not np.any(np.asarray(first)[:, 0] == np.asarray(other)[:, 0])


def test_types_are_kept():
    """State, observation and reward keep shape and dtype, weakness included, so nothing compiles twice."""
    env = base.batch_env(SPEC, toy_reset, toy_step, 2)

    def careless_reset(key):
        state, obs = toy_reset(key)
        return (state, 0, 1.5, True), obs  # Python numbers are weakly typed

    def careless_step(state, action, key):
        new, obs, reward, terminated = toy_step(state[0], action, key)
        return (new, state[1] + 1.5, state[2] * 2, False), obs.astype(jnp.float16), reward > 0, terminated.astype(jnp.float32)

    for e in (env, base.batch_env(SPEC, careless_reset, careless_step, 2)):
        state, obs = jax.eval_shape(e.reset, jax.random.key(0))
        new, step = jax.eval_shape(e.step, state, jnp.zeros((2, 1)), jax.random.key(0))
        assert jax.tree.map(jax.typeof, new) == jax.tree.map(jax.typeof, state)
        assert not any(x.weak_type for x in jax.tree.leaves((state, obs, new, step)))
        assert (obs.dtype, step.obs.dtype, step.next_obs.dtype, step.reward.dtype) == (jnp.float32,) * 4
        assert (step.terminated.dtype, step.truncated.dtype) == (jnp.bool, jnp.bool)
        assert step.obs.shape == step.next_obs.shape == (2, 2) and step.reward.shape == (2,)


def test_integers_wrap_in_their_own_type():
    """A uint8 counter that a careless step widens stays a uint8: 250 + 5 steps = 255."""
    state, _, _ = rollout(base.batch_env(base.Spec(SPEC.obs, SPEC.action, 100), toy_reset, toy_step, 1), jnp.zeros((5, 1, 1)))
    assert state[0].small.dtype == jnp.uint8 and state[0].small[0] == 255


def test_a_key_in_the_state_survives():
    """A typed key is carried by each env, moved by its step, and replaced at a reset."""
    env = base.batch_env(SPEC, toy_reset, toy_step, 2)
    state, _ = jax.jit(env.reset)(jax.random.key(0))
    actions = jnp.zeros((2, 1)).at[1].set(1.0)
    new, _ = jax.jit(env.step)(state, actions, jax.random.key(1))
    old_keys, new_keys = state[0].key, new[0].key
    assert jax.dtypes.issubdtype(new_keys.dtype, jax.dtypes.prng_key) and new_keys.shape == (2,)
    moved = jax.random.key_data(jax.vmap(jax.random.fold_in, (0, None))(old_keys, 1))
    np.testing.assert_array_equal(jax.random.key_data(new_keys)[0], moved[0])
    assert np.any(jax.random.key_data(new_keys)[1] != moved[1])


def test_resize():
    """The same problem with another number of copies."""
    env = base.batch_env(SPEC, toy_reset, toy_step, 2, "toy").resize(7)
    assert (env.num_envs, env.name, env.spec) == (7, "toy", SPEC)
    assert jax.eval_shape(env.reset, jax.random.key(0))[1].shape == (7, 2)


def test_copies_get_keys_of_their_own():
    """Noise in `step` differs between copies and between steps, and is no copy of the reset's."""

    def noisy(state, action, key):
        return state, jnp.full(2, jax.random.uniform(key)), 0.0 * action[0], action[0] > 0

    _, first, steps = rollout(base.batch_env(SPEC, toy_reset, noisy, 6), jnp.zeros((8, 6, 1)))
    seen = np.concatenate([np.ravel(first[..., 0]), np.ravel(steps.next_obs[..., 0]), np.ravel(steps.obs[4, :, 0])])
    assert len(set(seen.tolist())) == len(seen)


@pytest.mark.parametrize("num_envs", [1, 4])
def test_runs_under_key_reuse_checks(key_reuse_checks, num_envs):
    """No key is consumed twice inside reset and step."""
    env = base.batch_env(SPEC, toy_reset, toy_step, num_envs)
    key_reset, key_step = jax.random.split(jax.random.key(0))
    state, _ = env.reset(key_reset)
    env.step(state, jnp.zeros((num_envs, 1)), key_step)
