"""WSRL's update against a slow numpy reference, and what its targets, actor and temperature are made of."""

from __future__ import annotations

from collections import Counter
from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.agents import wsrl
from rljax.base import Array, Batch, Spec
from rljax.config import override

A, B, N, U = 2, 6, 3, 2
SPEC = Spec(Array((3,)), Array((A,), "float32", -1.0, 1.0), 50)
CONFIG = wsrl.Config(
    actor_lr=3e-3,
    critic_lr=1e-2,
    alpha_lr=2e-2,
    discount=0.8,
    tau=0.1,
    init_alpha=0.3,
    target_entropy_scale=0.7,
    actor_width=4,
    actor_depth=1,
    critic_width=4,
    critic_depth=1,
    num_critics=N,
    batch_size=B,
)
STILL = override(CONFIG, {"critic_lr": 0.0})  # the actor and the temperature meet the critics of the start

INIT = jax.jit(wsrl.init, static_argnums=1)
UPDATE = jax.jit(wsrl.update)


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def start(config=CONFIG):
    """A fresh state whose targets differ from the critics."""
    state = INIT(config, SPEC, jax.random.key(0))
    return state._replace(target=jax.tree.map(lambda x: 0.7 * x + 0.05, state.target))


def same(a, b):
    """Whether two trees are equal bit for bit."""
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def reference_update(np_, c, s, t, key):
    """``(state, metrics)``: arXiv:2412.07762's online learner in the order of the agent's docstring."""
    actor, critic, target, log_alpha = s
    key_critic, key_actor, key_entropy = jax.random.split(key, 3)
    losses, means = [], []
    for u, k in enumerate(jax.random.split(key_critic, U)):
        key_subset, key_action = jax.random.split(k)
        members = np.asarray(jax.random.randint(key_subset, (c.num_targets,), 0, N))
        actions, _ = np_.policy(actor.params, t.next_obs[u], np_.normal(key_action, c.num_actions, B, A))
        q = [np_.critics(target, t.next_obs[u], a) for a in actions]
        value = [max(min(of_action[j][b, 0] for j in members) for of_action in q) for b in range(B)]
        goal = [r if end else r + c.discount * v for r, end, v in zip(t.reward[u], t.terminated[u], value, strict=True)]

        def critic_loss(params, u=u, goal=goal):
            return sum(((q[:, 0] - goal) ** 2).mean() for q in np_.critics(params, t.obs[u], t.action[u]))

        losses.append(critic_loss(critic.params))
        means.append(np.mean(np_.critics(critic.params, t.obs[u], t.action[u])))
        critic = np_.adam(critic, c.critic_lr, critic_loss)
        target = jax.tree.map(lambda old, new: old + c.tau * (new - old), target, critic.params)
    obs, next_obs = np.concatenate(t.obs), np.concatenate(t.next_obs)
    alpha, noise = np.exp(log_alpha.params), np_.normal(key_actor, U * B, A)

    def actor_loss(params):
        action, log_prob = np_.policy(params, obs, noise)
        return (alpha * log_prob - reduce(np_.smaller, np_.critics(critic.params, obs, action))[:, 0]).mean()

    metrics = {"actor/loss": actor_loss(actor.params), "actor/entropy": -np_.policy(actor.params, obs, noise)[1].mean()}
    gap = c.target_entropy_scale * A - np_.policy(actor.params, next_obs, np_.normal(key_entropy, U * B, A))[1].mean()
    log_alpha = np_.adam(log_alpha, c.alpha_lr, lambda x: np.exp(x) * gap)
    state = np_.adam(actor, c.actor_lr, actor_loss), critic, target, log_alpha
    return state, metrics | {"alpha/value": alpha, "critic/loss": np.mean(losses), "critic/q": np.mean(means)}


@pytest.mark.parametrize("num_actions", [1, 10])
def test_two_updates_equal_the_numpy_reference(num_actions, reference):
    """Metrics, parameters, targets and Adam's moments and counts; 10 actions are the max-target backup."""
    config = override(CONFIG, {"num_actions": num_actions})
    state = start(config)
    actor, critic, log_alpha = map(reference.learner, (state.actor.params, state.critic.params, state.alpha.params))
    slow = actor, critic, jax.tree.map(np.asarray, state.target), log_alpha
    for i in range(2):
        t, key = reference.draw_batch(SPEC, U, B, i), jax.random.key(10 + i)
        state, metrics = UPDATE(config, state, Batch(t), key)
        slow, expected = reference_update(reference, config, slow, t, key)
        assert metrics.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(metrics[name], value, rtol=1e-9, err_msg=f"{name}, update {i}")
        for model, learner in ((state.actor, slow[0]), (state.critic, slow[1]), (state.alpha, slow[3])):
            reference.follows(model, learner)
        reference.close(state.target, slow[2])


def test_one_call_is_a_critic_step_per_batch_and_one_step_of_actor_and_temperature(reference):
    """Optimisers count so; critics that stay are followed by their targets once per batch; each batch counts."""
    state, t = start(), reference.draw_batch(SPEC, U, B, 0)
    new, _ = UPDATE(CONFIG, state, Batch(t), jax.random.key(1))
    assert [int(m.opt_state[0].count) for m in (new.critic, new.actor, new.alpha)] == [U, 1, 1]
    still, _ = UPDATE(STILL, state, Batch(t), jax.random.key(1))
    assert same(still.critic.params, state.critic.params)
    left = (1 - CONFIG.tau) ** U
    reference.close(still.target, jax.tree.map(lambda q, old: q + left * (old - q), state.critic.params, state.target))
    for u in range(U):
        reward = t.reward + np.eye(U)[:, [u]]
        assert not same(UPDATE(CONFIG, state, Batch(t._replace(reward=reward)), jax.random.key(1))[0].critic, new.critic)


def test_targets_are_the_least_of_two_members_with_replacement(reference):
    """Members that say 1, 2 and 4 are found in the loss with the odds of two draws with replacement, anew for each step."""
    state, t = start(), reference.draw_batch(SPEC, U, B, 0)
    zeros = jax.tree.map(jnp.zeros_like, state.target)
    says = {"params": zeros["params"] | {"head": zeros["params"]["head"] | {"bias": 2.0 ** jnp.arange(N)[:, None]}}}
    state = state._replace(critic=state.critic._replace(params=zeros), target=says)
    batch = Batch(t._replace(reward=np.zeros((U, B)), terminated=np.zeros((U, B), bool)))
    config, seen = override(CONFIG, {"critic_lr": 0.0, "tau": 0.0, "discount": 1.0}), Counter()
    for key in jax.random.split(jax.random.key(3), 400):
        loss = UPDATE(config, state, batch, key)[1]["critic/loss"]  # N times the mean of the steps' squared targets
        seen[round(float(U * loss / N))] += 1
    one, both = Counter(), {4**i + 4**j: (i, j) for i in range(N) for j in range(i, N)}
    for squares, times in seen.items():
        one.update(both[squares] * times)
    np.testing.assert_allclose([one[i] / 800 for i in range(N)], [5 / 9, 3 / 9, 1 / 9], atol=0.06)
    np.testing.assert_allclose(sum(seen[2 * 4**i] for i in range(N)) / 400, 35 / 81, atol=0.08)


def test_the_actor_follows_the_least_of_all_critics(reference):
    """Where the others are far above, one critic alone decides the actor's step, whichever it is."""
    state, batch = start(), Batch(reference.draw_batch(SPEC, U, B, 0))

    def actor(least, changed):
        head = state.critic.params["params"]["head"]
        bias = head["bias"] + 100.0 * (jnp.arange(N) != least)[:, None]
        kernel = head["kernel"].at[changed].multiply(-1)
        params = {"params": state.critic.params["params"] | {"head": {"kernel": kernel, "bias": bias}}}
        changed = state._replace(critic=state.critic._replace(params=params))
        return UPDATE(STILL, changed, batch, jax.random.key(1))[0].actor

    for i in range(N):
        others = [actor(i, j) for j in range(N) if j != i]
        assert all(same(x, others[0]) for x in others)
        assert not same(actor(i, i), others[0])


def test_actor_and_temperature_learn_from_all_batches_the_latter_at_next_observations(reference):
    """With critics that stay, the actor's moments know the observations of each batch, alpha's the next ones."""
    state, t = start(), reference.draw_batch(SPEC, U, B, 0)

    def moments(**changes):
        new, _ = UPDATE(STILL, state, Batch(t._replace(**changes)), jax.random.key(1))
        return new.actor.opt_state, new.alpha.opt_state

    actor, alpha = moments()
    for u in range(U):
        shift = np.eye(U)[:, [u], None]
        moved, kept = moments(obs=t.obs + shift)
        assert not same(moved, actor) and same(kept, alpha)
        kept, moved = moments(next_obs=t.next_obs + shift)
        assert same(kept, actor) and not same(moved, alpha)
