"""SAC's update against a slow numpy reference, its temperature, its treatment of episode ends, and a learning run."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rljax
from rljax import statistics
from rljax.agents import sac
from rljax.base import Array, Batch, Spec, Transition
from rljax.config import override
from rljax.experiments import presets

A, B = 2, 32
SPEC = Spec(Array((3,)), Array((A,), "float32", -1.0, 1.0), 50)
CONFIG = sac.Config(
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

INIT = jax.jit(sac.init, static_argnums=1)
UPDATE = jax.jit(sac.update)


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
        action=rng.uniform(-1, 1, (*shape, A)),
        reward=rng.normal(size=shape),
        next_obs=rng.normal(size=(*shape, 3)),
        terminated=end < 0.3,
        truncated=end > 0.7,
    )


def q_values(np_, params, obs, action):
    """One array [B] per critic."""
    x = np.concatenate([obs, action], 1)
    return [np_.mlp(np_.member(params, i), x)[:, 0] for i in range(2)]


def reference_update(np_, c, s, t, key):
    """``(state, metrics)``: equations 3, 5, 9 and 18 of arXiv:1812.05905 in the order of the agent's docstring."""
    num = len(t.reward)
    key_critic, key_actor = jax.random.split(key)
    noises = [np.asarray(jax.random.normal(k, (B, A), jnp.float64)) for k in jax.random.split(key_critic, num)]
    alpha = np.exp(s.log_alpha.params)
    losses, means = [], []
    for u in range(num):
        action, log_prob = np_.policy(s.actor.params, t.next_obs[u], noises[u])
        value = np_.smaller(*q_values(np_, s.target, t.next_obs[u], action)) - alpha * log_prob
        target = np.array(
            [r if end else r + c.discount * v for r, end, v in zip(t.reward[u], t.terminated[u], value, strict=True)]
        )

        def critic_loss(params, u=u, target=target):
            return sum(((q - target) ** 2).mean() for q in q_values(np_, params, t.obs[u], t.action[u]))

        losses.append(critic_loss(s.critic.params))
        means.append(np.mean(q_values(np_, s.critic.params, t.obs[u], t.action[u])))
        critic = np_.adam(s.critic, c.critic_lr, critic_loss)
        target = jax.tree.map(lambda old, new: old + c.tau * (new - old), s.target, critic.params)
        s = s._replace(critic=critic, target=target)
    obs, noise = t.obs[-1], np.asarray(jax.random.normal(key_actor, (B, A), jnp.float64))

    def actor_loss(params):
        action, log_prob = np_.policy(params, obs, noise)
        return (alpha * log_prob - np_.smaller(*q_values(np_, s.critic.params, obs, action))).mean()

    entropy = -np_.policy(s.actor.params, obs, noise)[1].mean()
    metrics = {"actor/loss": actor_loss(s.actor.params), "actor/entropy": entropy, "alpha/value": alpha}
    gap = entropy + c.target_entropy_scale * A
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
        t, key = draw_batch(utd, i), jax.random.key(10 + i)
        assert t.terminated.any() and t.truncated.any()
        state, metrics = UPDATE(CONFIG, state, Batch(t), key)
        slow, expected = reference_update(reference, CONFIG, slow, t, key)
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


def test_truncated_steps_bootstrap_and_terminated_ones_do_not():
    """The truncated flag changes no bit of an update; once all steps terminate, next observations change none."""
    t = draw_batch(1, 3)
    state, metrics = updated(t)
    for flag in (np.ones_like, np.zeros_like):
        assert same((state, metrics), updated(t._replace(truncated=flag(t.truncated))))
    going, ended = (t._replace(terminated=np.full((1, B), end)) for end in (False, True))
    assert not same(updated(going), updated(ended))
    far = {"next_obs": t.next_obs + 5}
    assert same(updated(ended), updated(ended._replace(**far)))
    assert not same(updated(going), updated(going._replace(**far)))


def same(a, b):
    """Whether two trees are equal bit for bit."""
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.mark.parametrize(("scale", "sign"), [(2.0, -1), (-0.5, 1)])
def test_the_temperature_falls_above_the_target_entropy_and_rises_below(scale, sign):
    """The first Adam step of log alpha has the size of alpha_lr and the sign of target minus entropy."""
    state, metrics = updated(draw_batch(1, 0), override(CONFIG, {"target_entropy_scale": scale}))
    assert np.sign(-scale * A - metrics["actor/entropy"]) == sign
    np.testing.assert_allclose(state.alpha.params - np.log(0.3), sign * 2e-2, rtol=1e-3)


def test_the_policy_reaches_its_target_entropy():
    """On a bandit with a best action, entropies settle at targets of -2 and 0.5, and alpha pays for the difference."""
    t = draw_batch(1, 0)
    batch = Batch(t._replace(reward=-2 * ((t.action - 0.3) ** 2).sum(-1), terminated=np.ones_like(t.terminated)))
    means = []
    for scale in (1.0, -0.25):
        config = override(CONFIG, {"alpha_lr": 1e-2, "target_entropy_scale": scale})
        state, seen = INIT(config, SPEC, jax.random.key(0)), []
        for key in jax.random.split(jax.random.key(1), 1500):
            state, metrics = UPDATE(config, state, batch, key)
            seen.append((metrics["actor/entropy"], metrics["alpha/value"]))
        means.append(np.mean(seen[-500:], axis=0))
    entropy, alpha = np.array(means).T
    np.testing.assert_allclose(entropy, [-2.0, 0.5], atol=0.15, err_msg=f"alpha {alpha}")
    assert alpha[0] < 0.1 < alpha[1], (entropy, alpha)


@pytest.mark.slow
def test_learns_pendulum():
    """10 000 steps with the preset: the IQM over 5 seeds is above -400, where random actions get about -1200."""
    config = presets.find("sac", "pendulum").config
    result = rljax.train(sac, config, "pendulum", seeds=5, steps=10_000, eval_every=10_000)
    rows = [row for row in result.rows if row["kind"] == "eval"]
    first, last = ([row["eval/return"] for row in rows if row["step"] == step] for step in (0, 10_000))
    assert len(last) == 5
    assert statistics.iqm(np.array(last)) > -400 > statistics.iqm(np.array(first)), (first, last)
