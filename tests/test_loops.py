"""Loops on a toy env whose every number is known in closed form, with a toy agent and with a small discrete SAC."""

from __future__ import annotations

from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import loops, replay
from rljax.agents import sac_discrete
from rljax.base import Agent, Array, Batch, Discrete, Spec, Transition, batch_env
from rljax.config import override, stack

HORIZON = 5
SPEC = Spec(Array((2,)), Discrete(10), HORIZON)
E, SLOTS, SEEDS = 3, 7, 3


def toy_env(num_envs):
    """A start k in 2 .. 8 is drawn and the episode terminates after k steps; observations are (k, steps so far)."""

    def reset(key):
        k = jax.random.randint(key, (), 2, 9)
        return (k, jnp.int32(0)), jnp.array([k, 0], jnp.float32)

    def step(state, action, key):
        k, count = state
        return (k, count + 1), jnp.stack([k, count + 1]), 10 * k + count + action, count + 1 >= k

    return batch_env(SPEC, reset, step, num_envs)


class Toy(NamedTuple):
    """What a toy agent has seen: number of updates, largest reward in any batch, and the last batch's rewards."""

    updates: jax.Array
    largest: jax.Array
    last: jax.Array


def toy_agent(num_envs, batch_size, value=1.0):
    """Learns nothing; its memory counts the steps since an episode began, and its actions are memory + 1."""

    def act(state, memory, obs, key):
        return memory + 1, memory + 1

    def update(state, batch, key):
        x = batch.transition.reward
        state = Toy(state.updates + 1, jnp.maximum(state.largest, x.max()), x)
        return state, {"toy/updates": state.updates.astype(float), "toy/value": jnp.asarray(value, float)}

    def init(key):
        return Toy(jnp.int32(0), jnp.float32(-1), jnp.zeros((2, batch_size)))

    return Agent(init, lambda n: jnp.zeros(n, jnp.int32), act, lambda *args: act(*args, None), update, 2)


@cache
def toy_loop(kind):
    """``kind`` with the toy agent and env, a ring of SLOTS rows and batches of 4."""
    return kind(toy_agent(E, 4), toy_env(E), 4, SLOTS * E)


def expected_row(before, action):
    """The transition from observations [E, 2] under actions [E], in closed form."""
    k, count = np.asarray(before).T
    after = np.stack([k, count + 1], 1)
    terminated = count + 1 >= k
    truncated = (count + 1 == HORIZON) & ~terminated
    return Transition(before, action, 10 * k + count + action, after, terminated, truncated)


@cache
def steps(warm, online):
    """``[(state before, metrics, state after)]`` of iterations of `warm_up` and then of `online`, one at a time."""
    state = jax.jit(toy_loop(loops.online).init)(jax.random.key(0))
    kinds = {kind: jax.jit(toy_loop(kind).step) for kind in (loops.warm_up, loops.online)}
    out = []
    for t in range(warm + online):
        new, metrics = kinds[loops.warm_up if t < warm else loops.online](state, t, ())
        out.append((state, metrics, new))
        state = new
    return out


def row_of(ring, t):
    """The row that iteration ``t`` has written."""
    return jax.tree.map(lambda x: slots_of(x)[t % SLOTS], ring)


def slots_of(rows):
    """[slots * E, ...] as [slots, E, ...]."""
    return np.asarray(rows).reshape(-1, E, *rows.shape[1:])


def test_the_ring_holds_exactly_the_transitions_stepped():
    """In order, with true successors and both flags, for all E envs; after the wrap-around the newest SLOTS rows."""
    history = steps(0, 30)
    rows = []
    for t, (before, _, after) in enumerate(history):
        rows.append(expected_row(np.asarray(before.obs), np.asarray(before.memory) + 1))
        for s in range(max(0, t + 1 - SLOTS), t + 1):
            jax.tree.map(np.testing.assert_array_equal, row_of(after.ring, s), rows[s])
        assert not np.any(after.ring.next_obs[E * (t + 1) :])
    flags = np.stack([(row.terminated, row.truncated) for row in rows])
    assert flags[:, 0].any() and flags[:, 1].any() and not flags.all(1).any()


def test_the_next_observation_to_act_on():
    """It is the successor while an episode goes on, and a fresh start after its end, of either kind."""
    starts = []
    for before, _, after in steps(0, 30):
        row = expected_row(np.asarray(before.obs), np.asarray(before.memory) + 1)
        done = row.terminated | row.truncated
        np.testing.assert_array_equal(np.asarray(after.obs)[~done], row.next_obs[~done])
        np.testing.assert_array_equal(np.asarray(after.obs)[done, 1], 0)
        starts += np.asarray(after.obs)[done, 0].tolist()
    assert len(set(starts)) > 4 and set(starts) <= set(range(2, 9))


def test_memory_is_reset_at_episode_ends():
    """The toy agent's memory counts the steps of the running episode: it equals the env's own count."""
    for _, _, after in steps(0, 30):
        np.testing.assert_array_equal(after.memory, after.obs[:, 1])
        np.testing.assert_array_equal(after.episode_length, after.obs[:, 1])


def test_episode_metrics_equal_a_replay_in_numpy():
    """Count, summed return and summed length of the episodes that end in an iteration, none of them across a reset."""
    total, length, seen = np.zeros(E), np.zeros(E), 0
    for before, metrics, after in steps(0, 30):
        row = expected_row(np.asarray(before.obs), np.asarray(before.memory) + 1)
        total, length = total + row.reward, length + 1
        done = row.terminated | row.truncated
        found = [float(metrics[f"episode/{name}"]) for name in ("count", "return", "length")]
        assert found == [done.sum(), total[done].sum(), length[done].sum()]
        total, length, seen = np.where(done, 0, total), np.where(done, 0, length), seen + done.sum()
        np.testing.assert_array_equal(after.episode_return, total)
    assert seen > 10


def test_updates_follow_each_env_step():
    """E updates per iteration, each with a batch of its own from rows already written, the newest included."""
    largest = -1.0
    for t, (_, metrics, after) in enumerate(steps(0, 30)):
        assert after.agent.updates == E * (t + 1)
        np.testing.assert_allclose(metrics["toy/updates"], np.mean(E * t + 1 + np.arange(E)), rtol=1e-6)
        valid = np.asarray(after.ring.reward)[: E * (t + 1)]
        largest = max(largest, valid.max())
        assert np.isin(after.agent.last, valid).all() and after.agent.largest <= largest
        if t == 0:  # only the row just written can have been drawn
            np.testing.assert_array_equal(np.unique(after.agent.last), np.unique(valid))
    assert len(np.unique(after.agent.last)) > 1


@pytest.mark.parametrize("num_envs", [1, 4])
def test_updates_of_an_iteration_draw_different_batches(num_envs):
    """40 iterations make 40 E updates; neither the E updates of an iteration nor their U batches are copies."""
    agent = toy_agent(num_envs, 50)

    def keep(state, batch, key):
        last = state.last.at[state.updates % num_envs].set(batch.transition.reward)
        return Toy(state.updates + 1, state.largest, last), {}

    start = Toy(jnp.int32(0), jnp.float32(0), jnp.zeros((num_envs, 2, 50)))
    loop = loops.online(agent._replace(init=lambda key: start, update=keep), toy_env(num_envs), 50, 100 * num_envs)

    def run(key):
        return jax.lax.fori_loop(0, 40, lambda t, s: loop.step(s, t, ())[0], loop.init(key))

    state = jax.jit(run)(jax.random.key(0))
    assert state.agent.updates == 40 * num_envs
    assert len(np.unique(np.asarray(state.agent.last).reshape(2 * num_envs, 50), axis=0)) == 2 * num_envs


def test_warm_up_makes_no_update():
    """Under uniform random actions of the space the agent's state keeps every bit, and the ring fills."""
    actions = []
    for t, (before, metrics, after) in enumerate(steps(20, 0)):
        jax.tree.map(np.testing.assert_array_equal, after.agent, before.agent)
        row = row_of(after.ring, t)
        jax.tree.map(np.testing.assert_array_equal, row, expected_row(np.asarray(before.obs), row.action))
        assert set(metrics) == {"episode/count", "episode/return", "episode/length"}
        actions.append(row.action)
    assert set(np.ravel(actions)) == set(range(10)) and np.ravel(actions).dtype == np.int32


def test_warm_up_hands_over_to_online():
    """Both have the same start; online goes on with the env, the episodes, the ring and the clock of the warm-up."""
    a, b = (jax.jit(toy_loop(kind).init)(jax.random.key(5)) for kind in (loops.warm_up, loops.online))
    jax.tree.map(np.testing.assert_array_equal, a._replace(key=0), b._replace(key=0))
    assert jax.tree.map(jax.typeof, a) == jax.tree.map(jax.typeof, steps(4, 6)[-1][2])
    history, total = steps(4, 6), np.zeros(E)
    for t, (before, metrics, after) in enumerate(history):
        assert after.agent.updates == E * max(0, t - 3)
        row = row_of(after.ring, t)
        jax.tree.map(np.testing.assert_array_equal, row, expected_row(np.asarray(before.obs), row.action))
        assert t < 4 or np.array_equal(row.action, np.asarray(before.memory) + 1)
        total, done = total + row.reward, row.terminated | row.truncated
        assert float(metrics["episode/return"]) == total[done].sum()
        total = np.where(done, 0, total)
    np.testing.assert_array_equal(row_of(history[-1][2].ring, 3).obs, history[3][0].obs)


def test_runs_under_key_reuse_checks(key_reuse_checks):
    """No key is consumed twice, in the beginning or in a step of either loop."""
    for kind in (loops.warm_up, loops.online):
        loop = toy_loop(kind)
        state = jax.jit(lambda key, loop=loop: loop.init(key))(jax.random.key(0))
        jax.jit(lambda state, loop=loop: loop.step(state, 0, ()))(state)


def small_loop(config):
    """Online discrete SAC with tiny networks on the toy env, two copies of it."""
    return loops.online(sac_discrete.make(SPEC, config), toy_env(2), 8, 2 * SLOTS)


CONFIG = override(
    sac_discrete.Config(),
    {"actor_width": 8, "actor_depth": 1, "critic_width": 8, "critic_depth": 1, "actor_lr": 1e-2, "critic_lr": 1e-2},
)
RUN = jax.jit(loops.run, static_argnums=0)


@cache
def begin():
    """``(stacked config, state, alive)`` of SEEDS learners."""
    config = stack([CONFIG] * SEEDS)
    keys = jax.random.split(jax.random.key(0), SEEDS)
    state = jax.jit(lambda x: jax.lax.map(lambda x: small_loop(x[0]).init(x[1]), x))((config, keys))
    return config, state, jnp.ones(SEEDS, bool)


def chunk(config, state, alive, t, num):
    """A chunk of `small_loop`; numbers are passed as arrays, as the launcher does."""
    return RUN(small_loop, config, state, alive, jnp.int32(t), jnp.int32(num), ())


def assert_same(a, b):
    """Bit for bit, typed keys and not-a-numbers included."""

    def bits(x):
        return np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)

    jax.tree.map(lambda x, y: np.testing.assert_array_equal(bits(x), bits(y)), a, b)


def bias(state):
    """A piece of the critics' parameters, [S, N, A]."""
    return np.asarray(state.agent.critic.params["params"]["head"]["bias"])


def of(tree, seeds):
    """Some seeds of a stacked tree."""
    return jax.tree.map(lambda x: x[np.array(seeds)], tree)


def test_chunks_of_three_and_four_are_a_chunk_of_seven(compilations):
    """Bit for bit, states and sums of metrics; a chunk of 0 changes nothing; all lengths share one program."""
    config, state, alive = begin()
    zero = chunk(config, state, alive, 0, 0)
    assert_same(zero[0], state)
    assert not any(np.any(x) for x in zero[2].values())
    with compilations() as names:
        whole, _, sums = chunk(config, state, alive, 0, 7)
        half, _, first = chunk(config, state, alive, 0, 3)
        two, _, second = chunk(config, half, alive, 3, 4)
    assert "jit(run)" not in names
    assert_same(two, whole)
    assert np.any(bias(two) != bias(half))
    for name in sums:
        np.testing.assert_allclose(first[name] + second[name], sums[name], rtol=1e-6)
    assert_same({k: v for k, v in sums.items() if "episode" in k}, {k: first[k] + second[k] for k in sums if "episode" in k})


def test_a_diverged_seed_is_marked_and_frozen_and_touches_no_neighbour():
    """Seed 1 gets a nan parameter: it is no longer alive, its agent stays as it is; the others keep every bit."""
    config, state, alive = begin()
    healthy = [chunk(config, state, alive, 0, 3)]
    healthy.append(chunk(config, *healthy[0][:2], 3, 4))
    head = state.agent.critic.params["params"]["head"]
    broken = {**head, "bias": head["bias"].at[1].set(jnp.nan)}
    params = {"params": {**state.agent.critic.params["params"], "head": broken}}
    ill = state._replace(agent=state.agent._replace(critic=state.agent.critic._replace(params=params)))
    first = chunk(config, ill, alive, 0, 3)
    second = chunk(config, *first[:2], 3, 4)
    for mine, theirs in zip((first, second), healthy, strict=True):
        np.testing.assert_array_equal(mine[1], [True, False, True])
        np.testing.assert_array_equal(theirs[1], [True] * SEEDS)
        assert_same(of((mine[0], mine[2]), [0, 2]), of((theirs[0], theirs[2]), [0, 2]))
    assert_same(of(second[0].agent, [1]), of(first[0].agent, [1]))
    moved = of(second[0].agent.critic.params, [0]), of(first[0].agent.critic.params, [0])
    assert all(np.any(np.asarray(x) != np.asarray(y)) for x, y in zip(*map(jax.tree.leaves, moved), strict=True))


def test_a_reward_that_is_not_finite_marks_a_seed():
    """Also where the agent makes finite numbers of it, as categorical heads do, and the episode has not ended."""
    config, state, alive = begin()
    ill = state._replace(episode_return=state.episode_return.at[1].set(jnp.inf))
    np.testing.assert_array_equal(chunk(config, ill, alive, 0, 1)[1], [True, False, True])


def test_a_dead_seed_stays_dead_and_as_it_is():
    """A seed that comes in as not alive keeps every bit of its agent, also where all its numbers are finite."""
    config, state, _ = begin()
    new, alive, _ = chunk(config, state, jnp.array([True, True, False]), 0, 3)
    np.testing.assert_array_equal(alive, [True, True, False])
    assert_same(of(new.agent, [2]), of(state.agent, [2]))


def test_a_metric_that_is_not_finite_marks_a_seed():
    """Parameters are finite, a metric is nan or inf in two of the seeds: those two are marked."""

    def loop(value):
        return loops.online(toy_agent(1, 4, value), toy_env(1), 4, SLOTS)

    values = jnp.array([1.0, jnp.nan, 2.0, jnp.inf])
    state = jax.jit(lambda x: jax.lax.map(lambda x: loop(x[0]).init(x[1]), x))((values, jax.random.split(jax.random.key(0), 4)))
    new, alive, sums = jax.jit(partial(loops.run, loop))(values, state, jnp.ones(4, bool), 0, 6, ())
    np.testing.assert_array_equal(alive, [True, False, True, False])
    np.testing.assert_array_equal(sums["toy/value"], 6 * values)
    np.testing.assert_array_equal(new.agent.updates, 6)


def test_seeds_in_turn_are_as_together():
    """But for the order of sums: states, after two chunks, and sums of metrics; one that is not alive stays as it is."""
    _, state, alive = begin()
    config = stack([override(CONFIG, {"critic_lr": x}) for x in (1e-2, 1e-3, 1e-4)])
    in_turn = jax.jit(partial(loops.run, small_loop, in_turn=True))
    alive, found = alive.at[1].set(False), []
    for run in (in_turn, partial(RUN, small_loop)):
        first = run(config, state, alive, jnp.int32(0), jnp.int32(3), ())
        found.append(run(config, *first[:2], jnp.int32(3), jnp.int32(9), ()))
    assert_same(of(found[0][0].agent, [1]), of(state.agent, [1]))
    assert_same(found[0][0].key, found[1][0].key)
    mine, other = (jax.tree.leaves((state._replace(key=()), alive, sums)) for state, alive, sums in found)
    for x, y in zip(mine, other, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)


def test_learners_of_a_chunk_have_configs_and_keys_of_their_own():
    """Each row of the stacked config reaches its learner; equal rows with different keys step different envs."""
    config, state, alive = begin()
    rows = stack([override(CONFIG, {"init_alpha": x}) for x in (0.5, 1.0, 1.0)])
    new, _, _ = chunk(rows, state, alive, 0, 3)
    other, _, _ = chunk(config, state, alive, 0, 3)
    assert_same(of(new, [1, 2]), of(other, [1, 2]))
    slower = stack([override(CONFIG, {"critic_lr": x}) for x in (1e-3, 1e-2, 1e-2)])
    new, _, _ = chunk(slower, state, alive, 0, 3)
    assert_same(of(new, [1, 2]), of(other, [1, 2]))
    moved = [bias(x)[0] - bias(state)[0] for x in (new, other)]
    assert 0 < np.abs(moved[0]).max() < 0.5 * np.abs(moved[1]).max()
    assert len({x.tobytes() for x in np.asarray(other.ring.obs)}) == SEEDS


def test_the_ring_can_be_sampled_after_a_chunk():
    """A sample from a learner's ring after 3 iterations holds rows that were stepped, not empty slots."""
    config, state, alive = begin()
    new, _, _ = chunk(config, state, alive, 0, 3)
    x = replay.sample(jax.tree.map(lambda x: x[0], new.ring), 3, jax.random.key(0), (64,), 2)
    assert (np.asarray(x.obs)[:, 0] >= 2).all() and (np.asarray(x.next_obs)[:, 1] == np.asarray(x.obs)[:, 1] + 1).all()


def test_frozen_steps_leave_the_agent_as_it_was():
    """K iterations under the agent's own policy: its state is bit for bit what it was, the ring holds K rows."""
    loop = toy_loop(loops.frozen)
    first = state = jax.jit(loop.init)(jax.random.key(0))
    step = jax.jit(loop.step)
    for t in range(SLOTS - 1):
        before, (state, metrics) = state, step(state, t, ())
        expected = expected_row(np.asarray(before.obs), np.asarray(before.memory) + 1)
        jax.tree.map(np.testing.assert_array_equal, row_of(state.ring, t), expected)
        assert set(metrics) == {"episode/count", "episode/return", "episode/length"}
    jax.tree.map(np.testing.assert_array_equal, state.agent, first.agent)
    assert not np.any(slots_of(state.ring.next_obs)[SLOTS - 1])


class Extras(NamedTuple):
    """What an agent like Cal-QL asks for."""

    mc_return: jax.Array


def test_an_update_draws_as_its_agent_says():
    """Half of each batch is recorded, with the recorded returns; new ones are -inf until their episode has ended."""
    base, seen = toy_agent(E, 4), []

    def update(state, batch, key):
        state, metrics = base.update(state, batch, key)
        x = batch.extras.mc_return
        return state, metrics | {
            "toy/old": (x[:, :2] == 7).mean(),
            "toy/new": (x[:, 2:] == 7).mean(),
            "toy/known": jnp.isfinite(x).mean(),
        }

    agent = base._replace(update=update, draw=replay.mixed(0.5))
    returns = replay.Returns(Extras, 0.5)
    loop = loops.online(agent, toy_env(E), 4, 20 * E, returns)
    flag, number = jnp.zeros(6, bool), jnp.full(6, 7.0)
    t = Transition(jnp.zeros((6, 2)), jnp.zeros(6, jnp.int32), number, jnp.zeros((6, 2)), flag, flag)
    data, step = replay.Recorded(Batch(t, Extras(number))), jax.jit(loop.step)
    state = jax.jit(loop.init)(jax.random.key(0))
    for t in range(3 * HORIZON):
        state, metrics = step(state, t, data)
        assert metrics["toy/old"] == 1 and metrics["toy/new"] == 0
        seen.append(float(metrics["toy/known"]))
    assert set(seen[: HORIZON - 1]) == {0.5} and max(seen) > 0.5
    known = slots_of(state.extras.mc_return)[: 3 * HORIZON]
    ring = jax.tree.map(slots_of, state.ring)
    done, total = ring.terminated | ring.truncated, np.zeros(E)
    for t in reversed(range(3 * HORIZON)):
        total = ring.reward[t] + 0.5 * np.where(done[t], 0, total)
        ended = done[t:].any(0)
        np.testing.assert_allclose(known[t][ended], total[ended], rtol=1e-6)
        assert np.isneginf(known[t][~ended]).all()


class Returned(NamedTuple):
    """Extras of the toy agent."""

    mc_return: jax.Array


def test_episodes_are_whole_with_returns_and_nothing_after_their_end():
    """Against a replay in numpy: obs is (k, step), rewards 10 k + step + action with action step + 1, ends after k."""
    agent = toy_agent(1, 1)._replace(episodes=16, update=lambda state, batch, key: (batch, {}))
    returns = replay.Returns(Returned, discount=0.5, scale=2.0, bias=-1.0)
    loop = loops.episodes(agent, toy_env(1), 4, 0, returns)
    state, metrics = jax.jit(loop.step)(loop.init(jax.random.key(0)), jnp.int32(0), ())
    t, G = state.agent.transition, np.asarray(state.agent.extras.mc_return)
    assert t.reward.shape == (SPEC.horizon, 16) and state.ring == ()
    k = np.asarray(t.obs[0, :, 0])
    total = 0.0
    for e in range(16):
        length = min(int(k[e]), SPEC.horizon)
        rewards = np.array([10 * k[e] + 2 * step + 1 for step in range(length)])
        assert np.array_equal(t.reward[:, e], np.pad(rewards, (0, SPEC.horizon - length)))
        assert np.array_equal(t.obs[:length, e, 1], range(length)) and np.array_equal(
            t.action[:length, e], range(1, length + 1)
        )
        wanted = [sum(0.5**i * (2 * r - 1) for i, r in enumerate(rewards[s:])) for s in range(length)]
        np.testing.assert_allclose(G[:, e], np.pad(wanted, (0, SPEC.horizon - length)), rtol=1e-5)
        total += rewards.sum()
    assert metrics["episode/count"] == 16 and metrics["episode/return"] == total
    assert metrics["episode/length"] == np.minimum(k, SPEC.horizon).sum()


def test_episodes_keep_what_the_agent_says():
    """Steps from 2 on, memory being the step, lie in the ring in order, and batches come from there."""
    agent = toy_agent(1, 4)._replace(episodes=3, keep=lambda state, memory: memory >= 2)
    loop = loops.episodes(agent, toy_env(1), 4, 90, replay.Returns(Returned, discount=1.0))
    state, stored = loop.init(jax.random.key(0)), 0
    for i in range(2):
        state, metrics = jax.jit(loop.step)(state, jnp.int32(i), ())
        stored += int(metrics["episode/length"]) - 6
    assert state.stored == stored and state.ring.reward.shape == (90,)
    assert (state.ring.obs[:stored, 1] >= 2).all() and not state.ring.obs[stored:].any()
    assert state.agent.updates == 2 and np.isin(state.agent.last, state.ring.reward[:stored]).all()
    assert (state.extras.mc_return[:stored] >= state.ring.reward[:stored]).all()


def rollout_loop(num, env=None):
    """`loops.on_policy` with rollouts of ``num`` steps; the toy agent's metrics hold the whole batch."""
    base = toy_agent(E, 4)

    def update(state, batch, key):
        assert batch.extras == ()
        return state._replace(updates=state.updates + 1), batch.transition._asdict()

    return loops.on_policy(base._replace(update=update, batches=num), env or toy_env(E))


def test_a_rollout_is_the_env_stepped():
    """In each iteration T rows in order, [T, E], under the state before the update; then one update, and no ring."""
    loop, num = rollout_loop(7), 7
    state = jax.jit(loop.init)(jax.random.key(0))
    assert state.ring == () and state.extras == ()
    step, ends = jax.jit(loop.step), []
    for t in range(3):
        before, (state, metrics) = state, step(state, t, ())
        rows = Transition(*(np.asarray(metrics[name]) for name in Transition._fields))
        assert rows.obs.shape == (num, E, 2) and rows.reward.shape == (num, E)
        np.testing.assert_array_equal(rows.obs[0], before.obs)
        done = rows.terminated | rows.truncated
        following = np.concatenate([rows.obs[1:], np.asarray(state.obs)[None]])
        np.testing.assert_array_equal(following[~done], rows.next_obs[~done])
        assert (following[done][:, 1] == 0).all() and (rows.next_obs[done][:, 1] > 0).all()
        for i in range(num):  # the toy agent's action is the step of the episode, so its memory is reset at ends
            expected = expected_row(rows.obs[i], rows.obs[i, :, 1] + 1)
            jax.tree.map(np.testing.assert_array_equal, jax.tree.map(lambda x, i=i: x[i], rows), expected)
        assert state.agent.updates == t + 1
        ends.append((rows.terminated.sum(), rows.truncated.sum()))
    assert (np.sum(ends, 0) > 0).all()


def test_episodes_of_rollouts_are_counted_across_iterations():
    """Count, return and length equal those of all rows in one line, whatever the length of a rollout."""
    loop = rollout_loop(7)
    state = jax.jit(loop.init)(jax.random.key(0))
    step, rows, found = jax.jit(loop.step), [], np.zeros(3)
    for t in range(4):
        state, metrics = step(state, t, ())
        rows.append((np.asarray(metrics["reward"]), np.asarray(metrics["terminated"] | metrics["truncated"])))
        found += [float(metrics[f"episode/{name}"]) for name in ("count", "return", "length")]
    reward, done = (np.concatenate(x) for x in zip(*rows, strict=True))
    expected, total, length = np.zeros(3), np.zeros(E), np.zeros(E)
    for r, d in zip(reward, done, strict=True):
        total, length = total + r, length + 1
        expected += [d.sum(), total[d].sum(), length[d].sum()]
        total, length = np.where(d, 0, total), np.where(d, 0, length)
    np.testing.assert_allclose(found, expected)
    np.testing.assert_array_equal(state.episode_return, total)
    assert expected[0] > 5


def test_rollouts_run_under_key_reuse_checks(key_reuse_checks):
    loop = rollout_loop(3)
    state = jax.jit(lambda key: loop.init(key))(jax.random.key(0))
    keys = [jax.random.clone(state.key)]
    for _ in range(2):
        state, _ = jax.jit(lambda state: loop.step(state, 0, ()))(state)
        keys.append(jax.random.clone(state.key))
    assert len({jax.random.key_data(key).tobytes() for key in keys}) == 3


def sequence_agent(num, size=4, length=3):
    """The toy agent with updates on sequences every ``num`` steps; the metrics hold what it was given."""
    base = toy_agent(E, size)

    def update(state, batch, key):
        seen = {"toy/rows": batch.transition, "toy/dreams": batch.extras}
        return state._replace(updates=state.updates + 1), seen

    draw = replay.sequences(replay.newest_first, size, length, 5, 2)
    return base._replace(update=update, batches=num, draw=draw)


@pytest.mark.parametrize("num", [1, 2])
def test_sequences_are_what_happened(num):
    """Rows are those of `online` with the same actions, their counts begin anew, and windows go on where a row ended."""
    agent, env = sequence_agent(num), toy_env(E)
    warm, loop = (kind(agent, env, 4, SLOTS * E) for kind in (loops.sequences_warm_up, loops.sequences))
    state = jax.jit(warm.init)(jax.random.key(0))
    assert state.ring.next_obs == () and state.extras.learned.shape == (SLOTS * E,)
    t, history = 0, []
    for t in range(3):
        state, metrics = jax.jit(warm.step)(state, t, ())
        assert set(metrics) == {"episode/count", "episode/return", "episode/length"}
    assert state.agent.updates == 0 and not state.extras.learned.any()
    for t in range(3, 16):
        before = state.obs
        state, metrics = jax.jit(loop.step)(state, t, ())
        rows, dreams = metrics["toy/rows"], metrics["toy/dreams"]
        assert rows.reward.shape == (4, 3) and dreams.reward.shape == (5, 2)
        done = np.asarray(rows.terminated | rows.truncated)[:, :-1]
        k, count = np.moveaxis(np.asarray(rows.obs), -1, 0)
        np.testing.assert_array_equal(count[:, 1:], np.where(done, 0, count[:, :-1] + 1))
        np.testing.assert_array_equal(rows.reward, 10 * k + count + np.asarray(rows.action))
        newest = (t * num + np.arange(num)) % SLOTS
        np.testing.assert_array_equal(slots_of(state.ring.obs)[newest[0]], before)
        history.append(slots_of(state.extras.learned))
    assert state.agent.updates == 13
    for old, new, t in zip(history, history[1:], range(4, 16), strict=False):
        grown = new - old
        grown[(t * num + np.arange(num)) % SLOTS] = new[(t * num + np.arange(num)) % SLOTS]  # these rows are new ones
        assert grown.min() >= 0 and grown.sum() == 4
