"""SQIRL: heads against tabular Q-iteration, what is kept and frozen, and what k it needs."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import evaluate, loops, replay
from rljax.agents import sqirl
from rljax.base import Batch, InputError, Transition
from rljax.config import override, stack
from rljax.envs import tabular
from rljax.mdp import MDP, checked

SEEDS = 5


def plan(mdp, k):
    """Q^1, ..., Q^k [k, T, S, A] of the random policy in float64, state by state."""
    T, (S, A, K) = mdp.horizon, mdp.successor.shape
    q = np.zeros((k, T + 1, S, A))
    for j in range(k):
        for t in reversed(range(T)):
            for s, a, b in np.ndindex(S, A, K):
                new = mdp.successor[s, a, b]
                after = q[max(j - 1, 0), t + 1, new]
                ahead = 0.0 if new < 0 or t + 1 == T else after.mean() if j == 0 else after.max()
                q[j, t, s, a] += mdp.probability[s, a, b] * (mdp.reward[s, a, b] + ahead)
    return q[:, :T]


def layered(seed, depth=3, width=3, actions=2, branches=2):
    """A random MDP whose states tell the step, so that one network can hold all of Q."""
    rng = np.random.default_rng(seed)
    S = 1 + (depth - 1) * width
    shape = (S, actions, branches)
    successor = np.full(shape, -1)
    for t in range(depth - 1):
        rows = [0] if t == 0 else range(1 + (t - 1) * width, 1 + t * width)
        successor[list(rows)] = rng.integers(1 + t * width, 1 + (t + 1) * width, (len(rows), actions, branches))
    return checked(MDP(successor, rng.dirichlet(np.full(branches, 9.0), shape[:2]), rng.normal(size=shape), depth))


def trained(config, env, iterations, seeds=SEEDS):
    """``(agent states, mean returns [seeds])`` after so many iterations."""

    def build(config):
        capacity = config.episodes * env.spec.horizon * iterations
        returns = replay.Returns(sqirl.Extras, config.discount)
        return sqirl.loop(sqirl.make(env.spec, config), env, config.batch_size, capacity, returns)

    def one(config, state, seed):
        return evaluate.episodes(sqirl.make(env.spec, config), env.resize(32), state, jax.random.key(seed))[0].mean()

    configs = stack((config,) * seeds)
    state = jax.jit(jax.vmap(lambda c, k: build(c).init(k)))(configs, jax.random.split(jax.random.key(0), seeds))
    run = jax.jit(partial(loops.run, build))
    state, alive, _ = run(configs, state, jnp.ones(seeds, bool), jnp.int32(0), jnp.int32(iterations), ())
    assert alive.all()
    return state, np.asarray(jax.jit(jax.vmap(one))(configs, state.agent, jnp.arange(seeds)))


@pytest.mark.parametrize("k", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_succeeds_with_k_min_and_fails_with_one_less(k):
    """The trap: every seed takes the bait of 0.75 as long as k - 1 heads look ahead, and finds the 1 behind it with k."""
    env = tabular.from_mdp(tabular.trap(k))
    config = sqirl.Config(lr=1e-3, k=k, episodes=200, epochs=200, width=32)
    for heads, best in ((k, 1.0), (k - 1, 0.75)):
        assert trained(override(config, {"k": heads}), env, k)[1].tolist() == [best] * SEEDS


def test_heads_learn_q_of_the_random_policy_and_its_iterations():
    """On data of random actions in all states head j is within 0.2 of the tabular Q^j, whose spread is over 1.5."""
    mdp, k = layered(0), 3
    env = tabular.from_mdp(mdp)
    config = sqirl.Config(lr=1e-3, k=k, episodes=8_000, batch_size=256, epochs=20)
    state, _ = trained(config, env, 1, seeds=1)
    out = sqirl.network(config, 2).apply(jax.tree.map(lambda x: x[0], state.agent.net.params), jnp.eye(len(mdp.successor)))
    step = np.array([0] + [1] * 3 + [2] * 3)
    reached = [0]
    for s in reached:  # grows as it goes
        reached += sorted(set(mdp.successor[s].ravel()) - {-1, *reached})
    for j, q in enumerate(plan(mdp, k)):
        wanted = q[step, np.arange(len(step))][reached]
        assert np.ptp(wanted) > 1.5
        np.testing.assert_allclose(np.asarray(out)[reached, :, j], wanted, atol=0.2)


def test_targets_by_hand():
    """Head 1 learns the return; head j the reward and the best next value of head j - 1, and no value after either end."""
    config = sqirl.Config(discount=0.5, k=3, width=4)
    agent = sqirl.make(tabular.from_mdp(tabular.chain(3)).spec, config)
    state = agent.init(jax.random.key(0))
    obs = jnp.eye(3)
    t = Transition(obs, jnp.array([0, 1, 1]), jnp.array([1.0, 2.0, 3.0]), obs[::-1], *jnp.array([[0, 1, 0], [0, 0, 1]], bool))
    q = np.asarray(sqirl.network(config, 2).apply(state.net.params, obs[::-1])).max(1)
    wanted = [[7.0, 1 + 0.5 * q[0, 0], 1 + 0.5 * q[0, 1]], [8.0, 2.0, 2.0], [9.0, 3.0, 3.0]]
    np.testing.assert_allclose(sqirl.targets(config, state, t, jnp.array([7.0, 8.0, 9.0])), wanted, rtol=1e-6)


@pytest.mark.parametrize("scales", [sqirl.running_mean, sqirl.ones])
def test_losses_are_divided_by_their_running_means(scales):
    """In numpy: the first loss itself, then 0.99 of the mean and 0.01 of the new one, averaged over heads."""
    spec = tabular.from_mdp(tabular.chain(3)).spec
    config = sqirl.Config(k=2, width=8, scales=scales, max_norm=1e6)
    agent = sqirl.make(spec, config)
    state = agent.init(jax.random.key(0))
    key = jax.random.key(1)
    obs = jax.nn.one_hot(jax.random.randint(key, (3, 16), 0, 3), 3)
    flag = jnp.zeros((3, 16), bool)
    t = Transition(obs, jnp.ones((3, 16), jnp.int32), jnp.ones((3, 16)), obs, flag, flag)
    batch = Batch(t, sqirl.Extras(jnp.full((3, 16), 4.0)))
    mean = None
    for i in range(3):
        one = jax.tree.map(lambda x, i=i: x[i : i + 1], batch)
        state, metrics = jax.jit(agent.update)(state, one, key)
        losses = np.array([metrics["critic/loss_1"], metrics["critic/loss_2"]])
        mean = losses if mean is None else 0.99 * mean + 0.01 * losses
        np.testing.assert_allclose(state.scale, mean if scales is sqirl.running_mean else [1, 1], rtol=1e-5)


def test_explores_after_frozen_steps_and_keeps_only_that():
    """With two steps frozen, steps 0 and 1 are greedy on their own copies; what follows them alone is kept."""
    env = tabular.from_mdp(tabular.chain(4))
    agent = sqirl.make(env.spec, sqirl.Config(k=2, width=8))
    state = agent.init(jax.random.key(0))
    first, second = (agent.init(jax.random.key(i)).net.params for i in (1, 2))
    copies = jax.tree.map(lambda c, a, b: c.at[0].set(a).at[1].set(b), state.copies, first, second)
    state = state._replace(copies=copies, frozen=jnp.int32(2))
    obs, net = jnp.repeat(jnp.eye(4), 50, 0), sqirl.network(sqirl.Config(k=2, width=8), 2)
    for step, params in ((0, first), (1, second), (2, state.net.params)):
        memory = jnp.full(200, step)
        greedy = net.apply(params, obs)[..., -1].argmax(1)
        action, after = agent.act(state, memory, obs, jax.random.key(3))
        assert (agent.mode(state, memory, obs)[0] == greedy).all() and (after == step + 1).all()
        assert (action == greedy).all() == (step < 2)
        assert (agent.keep(state, memory) == (step >= 2)).all()
    mixed = jnp.arange(200) % 3
    wanted = jnp.stack([net.apply(p, obs)[..., -1].argmax(1) for p in (first, second, state.net.params)])[
        mixed, jnp.arange(200)
    ]
    assert (agent.mode(state, mixed, obs)[0] == wanted).all()


def test_update_freezes_one_step_and_no_more_than_there_are():
    """The network after each of the first T updates is the copy for that step; later ones change no copy."""
    spec = tabular.from_mdp(tabular.trap(2)).spec
    agent = sqirl.make(spec, sqirl.Config(width=4, episodes=1, epochs=1))
    state = agent.init(jax.random.key(0))
    obs, flag = jax.random.normal(jax.random.key(1), (1, 4, 2)), jnp.zeros((1, 4), bool)
    t = Transition(obs, jnp.zeros((1, 4), jnp.int32), jnp.ones((1, 4)), obs, flag, flag)
    nets = []
    for frozen in (1, 2, 2):
        state, _ = jax.jit(agent.update)(state, Batch(t, sqirl.Extras(jnp.ones((1, 4)))), jax.random.key(0))
        nets.append(state.net.params)
        assert state.frozen == frozen
    same = jax.tree.map(lambda c, *x: bool((c == jnp.stack(x[:2])).all()), state.copies, *nets)
    moved = jax.tree.map(lambda *x: bool((x[1] != x[2]).any()), *nets)
    assert all(jax.tree.leaves(same)) and any(jax.tree.leaves(moved))


def test_check():
    spec = tabular.from_mdp(tabular.chain(4)).spec
    with pytest.raises(InputError, match="config.capacity is 20, less than the 80 env steps of one iteration"):
        sqirl.check(sqirl.Config(capacity=20), spec)
