"""DQN: targets by hand, windows against a deque, the target critic and the schedule of exploration."""

from __future__ import annotations

from collections import deque
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import heads, losses, replay
from rljax.agents import dqn
from rljax.base import Array, Batch, Discrete, Spec, Transition
from rljax.config import override

SPEC = Spec(Array((3,)), Discrete(4), 50)
B = 12
CONFIG = override(
    dqn.Config(),
    {"critic_lr": 1e-2, "discount": 0.8, "period": 3.0, "tau": 0.25, "critic_width": 5, "critic_depth": 1, "batch_size": B},
)


def started(config, seed=0):
    """An agent and a state whose target differs from its critic."""
    agent = dqn.make(SPEC, config)
    state, other = (jax.jit(agent.init)(jax.random.key(k)) for k in (seed, seed + 1))
    return agent, state._replace(target=other.critic.params)


def n_steps(t, discount, n):
    """What `losses.n_step` should give of windows [n, B], one by one in numpy: transitions and powers of the discount."""
    out = []
    for b in range(t.reward.shape[1]):
        total, power = 0.0, 1.0
        for i in range(n):
            total += power * t.reward[i, b]
            power *= discount
            if t.terminated[i, b] or t.truncated[i, b]:
                break
        out.append((t.obs[0, b], t.action[0, b], total, t.next_obs[i, b], t.terminated[i, b], t.truncated[i, b], power))
    *fields, powers = (np.stack(x) for x in zip(*out, strict=True))
    return Transition(*fields), powers


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("selection", ["double", "plain"])
def test_two_updates_against_numpy(reference, n, selection):
    """Two critic steps on windows of n, in float64: critic, moments, and the target after the third step."""
    with jax.enable_x64(True):
        c = override(CONFIG, {"n_step": n, "utd": 2, "selection": selection})
        agent, state = started(c)
        state = state._replace(steps=jnp.int32(1))
        t = reference.draw_batch(SPEC, 2 * n, B, 5)
        new, metrics = jax.jit(agent.update)(state, Batch(t), jax.random.key(0))
        critic = reference.learner(reference.member(state.critic.params, 0))
        target, seen = jax.tree.map(np.asarray, reference.member(state.target, 0)), []
        for u in range(2):
            x, power = n_steps(jax.tree.map(lambda x, u=u: x[n * u : n * u + n], t), c.discount, n)
            q = reference.mlp(target, x.next_obs)
            best = (reference.mlp(critic.params, x.next_obs) if selection == "double" else q).argmax(-1)
            goal = x.reward + power * np.where(x.terminated, 0.0, q[np.arange(B), best])

            def loss(params, x=x, goal=goal):
                return ((reference.mlp(params, x.obs)[np.arange(B), x.action] - goal) ** 2).mean()

            seen.append(loss(critic.params))
            critic = reference.adam(critic, c.critic_lr, loss)
        assert new.steps == 3 and metrics["actor/epsilon"] == 1 - 0.95 * 0.5 / 10_000
        moments = new.critic.opt_state[0]
        found = [reference.member(x, 0) for x in (new.critic.params, moments.mu, moments.nu, new.target)]
        reference.close(found, [critic.params, critic.first, critic.second, critic.params])  # 3 is a multiple of the period
        reference.close(metrics["critic/loss"], np.mean(seen))


def test_double_and_plain_by_hand():
    """Two actions, target values 1 and 5, online values 2 and 1: double takes 1, plain takes 5."""
    online, target = (jnp.array(x).reshape(1, 1, 2, 1) for x in ([2.0, 1.0], [1.0, 5.0]))
    for selection, expected in ((dqn.double, 1.0), (dqn.plain, 5.0)):
        best = heads.Scalar().value(selection(online, target)).min(0).argmax(-1)
        value, _ = losses.least(heads.Scalar(), losses.chosen(target, best))
        np.testing.assert_array_equal(value, [expected])


def test_the_target_is_copied_each_period_or_averaged():
    """Copies after 3 and 6 critic steps and none between; averages move a quarter of the way each step."""
    batch = Batch(jax.tree.map(jnp.asarray, rows(7, 1, B)))
    for name in ("copied", "averaged"):
        agent, state = started(override(CONFIG, {"targets": name}))
        update = jax.jit(agent.update)
        for step in range(1, 8):
            before, (state, _) = state, update(state, batch, jax.random.key(0))
            for old, new, online in zip(*map(jax.tree.leaves, (before.target, state.target, state.critic.params)), strict=True):
                expected = 0.75 * old + 0.25 * online if name == "averaged" else online if step % 3 == 0 else old
                np.testing.assert_allclose(new, expected, rtol=1e-6, atol=1e-7)


def test_epsilon_falls_along_a_line_and_stays():
    """1 before learning, half way after half of the steps, then the last value; it counts env steps, not critic steps."""
    c = override(CONFIG, {"exploration_start": 0.9, "exploration": 0.1, "exploration_steps": 100.0})
    np.testing.assert_allclose([dqn.epsilon(c, jnp.int32(n)) for n in (0, 50, 100, 1000)], [0.9, 0.5, 0.1, 0.1], rtol=1e-6)
    slow = override(c, {"utd": 4})
    np.testing.assert_allclose([dqn.epsilon(slow, jnp.int32(n)) for n in (200, 400)], [0.5, 0.1], rtol=1e-6)


def test_actions_are_uniform_with_probability_epsilon():
    """Shares of 20 000 actions at epsilon 0.4 of four actions: 0.1 each, and the rest for the greedy one."""
    c = override(CONFIG, {"exploration_start": 1.0, "exploration": 0.4, "exploration_steps": 10.0})
    agent, state = started(c)
    obs = jnp.tile(jnp.array([-0.3, 1.0, 0.5]), (20_000, 1))
    for steps, epsilon in ((0, 1.0), (10, 0.4)):
        action, _ = jax.jit(agent.act)(state._replace(steps=jnp.int32(steps)), (), obs, jax.random.key(0))
        best = int(agent.mode(state, (), obs[:1])[0][0])
        expected = np.full(4, epsilon / 4) + (1 - epsilon) * (np.arange(4) == best)
        np.testing.assert_allclose(np.bincount(action, minlength=4) / 20_000, expected, atol=0.012)


def test_c51_moves_the_distribution_by_the_windows_discount():
    """With the C51 head the target of a 2-step window is r + discount r' + discount^2 Z, projected on the atoms."""
    head = heads.C51(low=-4.0, high=4.0, bins=9)
    c = override(CONFIG, {"n_step": 2, "selection": "plain", "head": head, "discount": 0.5})
    agent, state = started(c)
    t = jax.tree.map(jnp.asarray, rows(3, 2, B))
    t = t._replace(terminated=jnp.zeros_like(t.terminated), truncated=jnp.zeros_like(t.truncated))
    _, metrics = jax.jit(agent.update)(state, Batch(t), jax.random.key(0))
    net = dqn.networks(c, 4)
    out = net.critic.apply(state.target, t.next_obs[1])
    best = head.value(out)[0].argmax(-1)
    z = np.asarray(jax.nn.softmax(out[0, np.arange(B), best]))
    atoms, goal = np.linspace(-4, 4, 9), np.zeros((B, 9))
    for b in range(B):
        for p, atom in zip(z[b], atoms, strict=True):
            at = np.clip(t.reward[0, b] + 0.5 * t.reward[1, b] + 0.25 * atom, -4, 4) + 4
            low = int(min(np.floor(at), 7))
            goal[b, low] += p * (low + 1 - at)
            goal[b, low + 1] += p * (at - low)
    logits = np.asarray(jax.nn.log_softmax(net.critic.apply(state.critic.params, t.obs[0])[0, np.arange(B), t.action[0]]))
    excess = (goal * (np.log(goal + 1e-30) - logits)).sum(-1).mean()
    np.testing.assert_allclose(metrics["critic/loss"], excess, rtol=1e-3)


def rows(seed, num, size):
    """Noise [num, size]."""
    rng = np.random.default_rng(seed)
    end = rng.random((num, size))
    obs, next_obs = rng.normal(size=(2, num, size, 3)).astype(np.float32)
    action, reward = rng.integers(0, 4, (num, size), np.int32), rng.normal(size=(num, size)).astype(np.float32)
    return Transition(obs, action, reward, next_obs, end < 0.15, end > 0.8)


@pytest.mark.parametrize("t", [1, 2, 5, 8, 9, 21])
@pytest.mark.parametrize("n", [1, 3, 4])
def test_windows_are_those_of_a_deque(t, n):
    """Before and after the wrap-around: every n-step transition of the rows that a deque holds turns up, and no other.

    A window ends at the end of an episode, of either kind, and at the newest row.
    """
    slots, num_envs, discount = 8, 2, 0.7
    stream = rows(t, t, num_envs)
    ring, held = replay.init(jax.tree.map(lambda x: jnp.asarray(x[0]), stream), slots * num_envs), deque(maxlen=slots)
    for i in range(t):
        row = jax.tree.map(lambda x, i=i: x[i], stream)
        ring = replay.add(ring, jax.tree.map(jnp.asarray, row), i)
        held.append(row)
    shape = (num_envs, 5 * n, 100)
    batch = jax.jit(replay.windows(n), static_argnums=4)(Batch(ring), jnp.int32(t), (), jax.random.key(t), shape)
    assert batch.transition.reward.shape == shape and batch.extras == ()
    split = jax.tree.map(lambda x: x.reshape(10, n, *x.shape[2:]), batch.transition)
    found, powers = jax.jit(jax.vmap(partial(losses.n_step, discount=discount)))(split)
    expected = set()
    for start in range(len(held)):
        for e in range(num_envs):
            total, power = 0.0, 1.0
            for i in range(start, min(start + n, len(held))):
                last = held[i]
                total, power = total + power * last.reward[e], power * discount
                if last.terminated[e] or last.truncated[e]:
                    break
            first, newest = held[start], i == len(held) - 1
            cut = bool(last.truncated[e] or (newest and not last.terminated[e]))
            expected.add(key(first.obs[e], first.action[e], total, last.next_obs[e], last.terminated[e], cut, power))
    flat = [np.asarray(x).reshape(1000, *x.shape[2:]) for x in (*found, powers)]
    assert {key(*row) for row in zip(*flat, strict=True)} == expected


def key(*parts):
    """Numbers of a transition to 4 digits."""
    return tuple(tuple(np.round(np.asarray(x, float), 4).ravel() + 0.0) for x in parts)


def test_windows_start_uniformly():
    """Each row of the ring is the first of as many windows, the newest included."""
    slots, num_envs, t = 6, 2, 9
    number = jnp.arange(slots * num_envs, dtype=jnp.float32)
    no = jnp.zeros(slots * num_envs, bool)
    ring = Transition(number[..., None], number, number, number[..., None], no, no)
    x = replay.windows(3)(Batch(ring), jnp.int32(t), (), jax.random.key(0), (num_envs, 3, 20_000)).transition
    counts = np.bincount(np.asarray(x.reward[:, 0]).astype(int).ravel(), minlength=12)
    np.testing.assert_allclose(counts / 40_000, 1 / 12, atol=0.006)
    np.testing.assert_array_equal(x.reward[:, 1], (x.reward[:, 0] + num_envs) % 12)
    np.testing.assert_array_equal(x.truncated, np.isin(x.reward, (4, 5)))  # slot (9 - 1) mod 6 = 2 holds the newest row
