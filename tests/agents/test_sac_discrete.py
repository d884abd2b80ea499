"""Discrete SAC's update against a slow numpy reference with explicit sums, its temperature, and a learning run."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

import rljax
from rljax.agents import sac_discrete
from rljax.base import Array, Batch, Discrete, Spec, Transition
from rljax.config import override
from rljax.experiments import presets

A, B = 3, 32
SPEC = Spec(Array((3,)), Discrete(A), 50)
CONFIG = sac_discrete.Config(
    actor_lr=3e-3,
    critic_lr=1e-2,
    alpha_lr=2e-2,
    discount=0.8,
    tau=0.1,
    init_alpha=0.3,
    target_entropy_scale=0.7,
    actor_width=8,
    critic_width=8,
    batch_size=B,
)
INIT = jax.jit(sac_discrete.init, static_argnums=1)
UPDATE = jax.jit(sac_discrete.update)


@pytest.fixture(autouse=True)
def x64(request):
    """Float64 for all but learning runs."""
    with jax.enable_x64("slow" not in request.keywords):
        yield


class Reference(NamedTuple):
    """The reference's state: `Learner`s, and the target critics."""

    actor: Any
    critic: Any
    target: Any
    log_alpha: Any


def draw_batch(num, seed):
    """Noise [num, B, ...] in which some steps terminate and others are truncated."""
    rng = np.random.default_rng(seed)
    shape = (num, B)
    end = rng.random(shape)
    return Transition(
        obs=rng.normal(size=(*shape, 3)),
        action=rng.integers(0, A, shape).astype(np.int32),
        reward=rng.normal(size=shape),
        next_obs=rng.normal(size=(*shape, 3)),
        terminated=end < 0.3,
        truncated=end > 0.7,
    )


def policy(np_, params, obs):
    """``(probabilities, their logarithms)``, each [B, A]."""
    logits = np_.mlp(params, obs)
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return probs, np.log(probs)


def q_values(np_, params, obs):
    """Values [B, A] of each critic."""
    return [np_.mlp(np_.member(params, i), obs) for i in range(2)]


def reference_update(np_, c, s, t):
    """``(state, metrics)``: equations 10 to 12 of arXiv:1910.07207, all sums written out."""
    alpha = np.exp(s.log_alpha.params)
    losses, means = [], []
    for u in range(len(t.reward)):
        probs, logs = policy(np_, s.actor.params, t.next_obs[u])
        q = np_.smaller(*q_values(np_, s.target, t.next_obs[u]))
        target = t.reward[u].copy()
        for b in np.flatnonzero(~t.terminated[u]):
            target[b] += c.discount * sum(probs[b, a] * (q[b, a] - alpha * logs[b, a]) for a in range(A))

        def taken(params, u=u):
            return [q[np.arange(B), t.action[u]] for q in q_values(np_, params, t.obs[u])]

        def critic_loss(params, taken=taken, target=target):
            return sum(((q - target) ** 2).mean() for q in taken(params))

        losses.append(critic_loss(s.critic.params))
        means.append(np.mean(taken(s.critic.params)))
        critic = np_.adam(s.critic, c.critic_lr, critic_loss)
        target = jax.tree.map(lambda old, new: old + c.tau * (new - old), s.target, critic.params)
        s = s._replace(critic=critic, target=target)
    q = np_.smaller(*q_values(np_, s.critic.params, t.obs[-1]))

    def actor_loss(params):
        probs, logs = policy(np_, params, t.obs[-1])
        return sum(probs[b, a] * (alpha * logs[b, a] - q[b, a]) for b in range(B) for a in range(A)) / B

    probs, logs = policy(np_, s.actor.params, t.obs[-1])
    entropy = -(probs * logs).sum() / B
    metrics = {"actor/loss": actor_loss(s.actor.params), "actor/entropy": entropy, "alpha/value": alpha}
    gap = entropy - c.target_entropy_scale * np.log(A)
    log_alpha = np_.adam(s.log_alpha, c.alpha_lr, lambda x: np.exp(x) * gap)
    s = s._replace(actor=np_.adam(s.actor, c.actor_lr, actor_loss), log_alpha=log_alpha)
    return s, metrics | {"critic/loss": np.mean(losses), "critic/q": np.mean(means)}


@pytest.mark.parametrize("utd", [1, 2])
def test_two_updates_equal_the_numpy_reference(utd, reference):
    """Metrics, all parameters, targets, temperature and Adam's moments after one update and after two, in float64."""
    state = INIT(CONFIG, SPEC, jax.random.key(0))
    state = state._replace(target=jax.tree.map(lambda x: 0.7 * x + 0.05, state.target))  # unlike the critics
    actor, critic, log_alpha = map(reference.learner, (state.actor.params, state.critic.params, state.alpha.params))
    slow = Reference(actor, critic, jax.tree.map(np.asarray, state.target), log_alpha)
    for i in range(2):
        t = draw_batch(utd, i)
        assert t.terminated.any() and t.truncated.any()
        state, metrics = UPDATE(CONFIG, state, Batch(t), jax.random.key(0))
        slow, expected = reference_update(reference, CONFIG, slow, t)
        assert metrics.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(metrics[name], value, rtol=1e-9, err_msg=f"{name}, update {i}")
        for model, learner in ((state.actor, slow.actor), (state.critic, slow.critic), (state.alpha, slow.log_alpha)):
            moments = model.opt_state[0]
            assert moments.count == learner.steps
            assert_close((model.params, moments.mu, moments.nu), (learner.params, learner.first, learner.second))
        assert_close(state.target, slow.target)


def assert_close(tree, expected):
    """Leaf by leaf, to 1e-8 relative."""
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-8, atol=1e-12), tree, expected)


def updated(transition, config=CONFIG):
    """``(state, metrics)`` after one update from a fixed start."""
    return UPDATE(config, INIT(config, SPEC, jax.random.key(0)), Batch(transition), jax.random.key(1))


def same(a, b):
    """Whether two trees are equal bit for bit."""
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_truncated_steps_bootstrap_and_terminated_ones_do_not():
    """The truncated flag changes no bit of an update; once all steps terminate, next observations change none."""
    t = draw_batch(1, 3)
    for flag in (np.ones_like, np.zeros_like):
        assert same(updated(t), updated(t._replace(truncated=flag(t.truncated))))
    going, ended = (t._replace(terminated=np.full((1, B), end)) for end in (False, True))
    assert not same(updated(going), updated(ended))
    far = {"next_obs": t.next_obs + 5}
    assert same(updated(ended), updated(ended._replace(**far)))
    assert not same(updated(going), updated(going._replace(**far)))


@pytest.mark.parametrize(("scale", "sign"), [(0.5, -1), (1.2, 1)])
def test_the_temperature_falls_above_the_target_entropy_and_rises_below(scale, sign):
    """The first Adam step of log alpha has the size of alpha_lr and the sign of target minus entropy."""
    state, metrics = updated(draw_batch(1, 0), override(CONFIG, {"target_entropy_scale": scale}))
    assert np.sign(scale * np.log(A) - metrics["actor/entropy"]) == sign
    np.testing.assert_allclose(state.alpha.params - np.log(0.3), sign * 2e-2, rtol=1e-3)


def test_the_policy_reaches_its_target_entropy():
    """On a bandit with rewards 0, 1 and 2 the entropy settles at 0.5 log 3, from either side."""
    t, target = draw_batch(1, 0), 0.5 * np.log(A)
    batch = Batch(t._replace(reward=t.action.astype(float), terminated=np.ones_like(t.terminated)))
    for start, side in ((5.0, 1), (1e-2, -1)):
        changes = {"alpha_lr": 1e-2, "target_entropy_scale": 0.5, "init_alpha": start}
        config = override(CONFIG, changes)
        state, seen = INIT(config, SPEC, jax.random.key(0)), []
        for _ in range(1500):
            state, metrics = UPDATE(config, state, batch, jax.random.key(1))
            seen.append((metrics["actor/entropy"], metrics["alpha/value"]))
        entropy, alpha = np.array(seen).T
        assert (side * (entropy - target)).max() > 0.3 and side * (start - alpha[-1]) > 0
        np.testing.assert_allclose(entropy[-200:].mean(), target, atol=0.05, err_msg=f"alpha {alpha[-1]}")


@pytest.mark.slow
def test_learns_cartpole():
    """50 000 steps with the preset: the mean over 5 seeds is at least 450 of 500; random actions get about 20."""
    preset = presets.find("sac_discrete", "gymnax/CartPole-v1")
    result = rljax.train(sac_discrete, preset.config, "gymnax/CartPole-v1", seeds=5, steps=50_000, eval_every=50_000)
    last = [row["eval/return"] for row in result.rows if row["kind"] == "eval" and row["step"] == 50_000]
    assert len(last) == 5
    assert np.mean(last) >= 450, last
