"""RLPD's update against a slow numpy reference, and what its targets, actor and temperature are made of."""

from __future__ import annotations

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.agents import rlpd
from rljax.base import Array, Batch, InputError, Spec
from rljax.config import override

A, B, N, U = 2, 6, 3, 2
SPEC = Spec(Array((3,)), Array((A,), "float32", -1.0, 1.0), 50)
CONFIG = rlpd.Config(
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

INIT = jax.jit(rlpd.init, static_argnums=1)
UPDATE = jax.jit(rlpd.update)


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def start():
    """A fresh state whose targets differ from the critics."""
    state = INIT(CONFIG, SPEC, jax.random.key(0))
    return state._replace(target=jax.tree.map(lambda x: 0.7 * x + 0.05, state.target))


def same(a, b):
    """Whether two trees are equal bit for bit."""
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def reference_update(np_, c, s, t, key):
    """``(state, metrics)``: algorithm 1 of arXiv:2302.02948 in the order of the agent's docstring."""
    actor, critic, target, log_alpha = s
    key_critic, key_actor = jax.random.split(key)
    alpha, losses, means = np.exp(log_alpha.params), [], []
    for u, k in enumerate(jax.random.split(key_critic, U)):
        key_subset, key_action = jax.random.split(k)
        members = np.asarray(jax.random.permutation(key_subset, N))[: c.num_targets]
        action, log_prob = np_.policy(actor.params, t.next_obs[u], np_.normal(key_action, B, A))
        q = np_.critics(target, t.next_obs[u], action)
        value = [min(q[j][b, 0] for j in members) - c.bonus * alpha * log_prob[b] for b in range(B)]
        goal = [r if end else r + c.discount * v for r, end, v in zip(t.reward[u], t.terminated[u], value, strict=True)]

        def critic_loss(params, u=u, goal=goal):
            return sum(((q[:, 0] - goal) ** 2).mean() for q in np_.critics(params, t.obs[u], t.action[u]))

        losses.append(critic_loss(critic.params))
        means.append(np.mean(np_.critics(critic.params, t.obs[u], t.action[u])))
        critic = np_.adam(critic, c.critic_lr, critic_loss)
        target = jax.tree.map(lambda old, new: old + c.tau * (new - old), target, critic.params)
    obs, noise = t.obs[-1], np_.normal(key_actor, B, A)

    def actor_loss(params):
        action, log_prob = np_.policy(params, obs, noise)
        return (alpha * log_prob - sum(np_.critics(critic.params, obs, action))[:, 0] / N).mean()

    entropy = -np_.policy(actor.params, obs, noise)[1].mean()
    metrics = {"actor/loss": actor_loss(actor.params), "actor/entropy": entropy, "alpha/value": alpha}
    log_alpha = np_.adam(log_alpha, c.alpha_lr, lambda x: np.exp(x) * (entropy + c.target_entropy_scale * A))
    state = np_.adam(actor, c.actor_lr, actor_loss), critic, target, log_alpha
    return state, metrics | {"critic/loss": np.mean(losses), "critic/q": np.mean(means)}


def test_two_updates_equal_the_numpy_reference(reference):
    """Metrics, parameters, targets and Adam's moments and counts, with half of the entropy bonus."""
    config = override(CONFIG, {"bonus": 0.5})
    state = start()
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


def test_targets_are_the_least_of_two_members_without_replacement(reference):
    """Members that say 1, 2 and 4 are found in the loss with the odds of two draws without replacement, anew for each step."""
    state, t = start(), reference.draw_batch(SPEC, U, B, 0)
    zeros = jax.tree.map(jnp.zeros_like, state.target)
    says = {"params": zeros["params"] | {"head": zeros["params"]["head"] | {"bias": 2.0 ** jnp.arange(N)[:, None]}}}
    state = state._replace(critic=state.critic._replace(params=zeros), target=says)
    batch = Batch(t._replace(reward=np.zeros((U, B)), terminated=np.zeros((U, B), bool)))
    config, seen = override(CONFIG, {"critic_lr": 0.0, "tau": 0.0, "discount": 1.0, "bonus": 0.0}), Counter()
    for key in jax.random.split(jax.random.key(3), 400):
        loss = UPDATE(config, state, batch, key)[1]["critic/loss"]  # N times the mean of the steps' squared targets
        seen[round(float(U * loss / N))] += 1
    one, both = Counter(), {4**i + 4**j: (i, j) for i in range(N) for j in range(i, N)}
    for squares, times in seen.items():
        one.update(both[squares] * times)
    np.testing.assert_allclose([one[i] / 800 for i in range(N)], [2 / 3, 1 / 3, 0], atol=0.06)
    np.testing.assert_allclose(sum(seen[2 * 4**i] for i in range(N)) / 400, 5 / 9, atol=0.08)
    assert not one[N - 1]


def test_the_actor_follows_the_mean_of_all_critics(reference):
    """A critic that is 100 higher lowers the loss by 100 / N and moves the actor no further, whichever it is."""
    state, batch = start(), Batch(reference.draw_batch(SPEC, U, B, 0))

    def after(raised):
        head = state.critic.params["params"]["head"]
        head = head | {"bias": head["bias"] + jnp.asarray(raised)[:, None]}
        params = {"params": state.critic.params["params"] | {"head": head}}
        new, metrics = UPDATE(STILL, state._replace(critic=state.critic._replace(params=params)), batch, jax.random.key(1))
        return new.actor.opt_state[0].mu, metrics["actor/loss"]

    moments, loss = after(np.zeros(N))
    for i in range(N):
        new, lower = after(100 * np.eye(N)[i])
        np.testing.assert_allclose(loss - lower, 100 / N, rtol=1e-9)
        reference.close(new, moments)


def test_actor_and_temperature_learn_from_the_last_batch(reference):
    """With critics that stay, only the observations of the last batch show in the moments of the actor and of alpha."""
    state, t = start(), reference.draw_batch(SPEC, U, B, 0)

    def moments(**changes):
        new, _ = UPDATE(STILL, state, Batch(t._replace(**changes)), jax.random.key(1))
        return new.actor.opt_state, new.alpha.opt_state

    actor, alpha = moments()
    for u in range(U):
        moved = moments(obs=t.obs + np.eye(U)[:, [u], None])
        assert [same(*pair) for pair in zip(moved, (actor, alpha), strict=True)] == [u < U - 1] * 2
    assert same(moments(next_obs=t.next_obs + 1), (actor, alpha))


def test_without_bonus_the_temperature_does_not_show_in_targets(reference):
    """The critics after a step at two temperatures are the same with bonus 0 and differ with bonus 1."""
    state, t = start(), reference.draw_batch(SPEC, U, B, 0)
    warm = state._replace(alpha=state.alpha._replace(params=state.alpha.params + 1))
    for bonus in (0.0, 1.0):
        config = override(CONFIG, {"bonus": bonus})
        cold, hot = (UPDATE(config, s, Batch(t), jax.random.key(1))[0].critic for s in (state, warm))
        assert same(cold, hot) == (bonus == 0)


def test_check_refuses_more_targets_than_critics():
    with pytest.raises(InputError, match="num_targets"):
        rlpd.check(override(CONFIG, {"num_targets": N + 1}), SPEC)
