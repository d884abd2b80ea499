"""PPO against a slow numpy reference, and what its rollouts must hold."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_ndtr

from rljax import normalize
from rljax.agents import ppo
from rljax.base import Array, Batch, Discrete, InputError, Spec
from rljax.config import override

T, E, A = 4, 6, 2
CONTINUOUS = Spec(Array((3,)), Array((A,), "float32", -1.0, 1.0), 50)
DISCRETE = Spec(Array((3,)), Discrete(4), 50)
CONFIG = override(
    ppo.Config(),
    {
        "lr": 1e-2,
        "lr_decay": 15.0,
        "discount": 0.8,
        "decay": 0.7,
        "clip": 0.05,
        "entropy": 0.03,
        "value": 0.4,
        "max_norm": 0.6,
        "actor_width": 5,
        "actor_depth": 1,
        "critic_width": 4,
        "critic_depth": 1,
        "rollout": T,
        "epochs": 3,
        "minibatches": 2,
    },
)


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def smaller(a, b):
    return np.where(a.real < b.real, a, b)


def log_probs(np_, actor, obs, action):
    """``(log_prob [B], entropy [B])``, also for complex parameters."""
    out = np_.mlp(actor, obs)
    if action.ndim == 1:
        out = out - out.real.max(-1, keepdims=True)
        logs = out - np.log(np.exp(out).sum(-1, keepdims=True))
        return logs[np.arange(len(action)), action], -(np.exp(logs) * logs).sum(-1)
    mean, std = np.tanh(out), np.exp(actor["params"]["log_std"])
    away = (action - mean) / std
    inside = -0.5 * away**2 - np.log(std * np.sqrt(2 * np.pi))
    each = np.where(action <= -1, log_ndtr(away), np.where(action >= 1, log_ndtr(-away), inside))
    return each.sum(-1), np.full(len(obs), np.log(std * np.sqrt(2 * np.pi * np.e)).sum())


def estimates(np_, params, t, c):
    """Advantages and lambda-returns [T, E], one env and one step after the other, the last first."""
    value, next_value = (np_.mlp(params["critic"], x)[..., 0] for x in (t.obs, t.next_obs))
    advantage = np.zeros((T, E))
    for e in range(E):
        later = 0.0
        for i in reversed(range(T)):
            goes_on = 0.0 if t.terminated[i, e] else c.discount * next_value[i, e]
            later = 0.0 if t.terminated[i, e] or t.truncated[i, e] else later
            later = t.reward[i, e] + goes_on - value[i, e] + c.discount * c.decay * later
            advantage[i, e] = later
    return advantage, advantage + value


def loss(np_, params, rows, c):
    """``(loss, metrics)`` of one minibatch (arXiv:1707.06347 eq. 7 and 9)."""
    obs, action, old, advantage, target = rows
    new, entropy = log_probs(np_, params["actor"], obs, action)
    ratio = np.exp(new - old)
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    bounded = np.where(ratio.real < 1 - c.clip, 1 - c.clip, np.where(ratio.real > 1 + c.clip, 1 + c.clip, ratio))
    surrogate = smaller(ratio * advantage, bounded * advantage).mean()
    value = ((np_.mlp(params["critic"], obs)[:, 0] - target) ** 2).mean()
    metrics = {
        "actor/loss": -surrogate,
        "actor/entropy": entropy.mean(),
        "actor/kl": (ratio - 1 - (new - old)).mean(),
        "actor/clip_fraction": np.mean(np.abs(ratio - 1) > c.clip),
        "critic/loss": value,
        "critic/v": np_.mlp(params["critic"], obs).mean(),
    }
    return -surrogate - c.entropy * entropy.mean() + c.value * value, metrics


def adam(np_, x, lr, max_norm, f):
    """A step of Adam with epsilon 1e-5 on the gradient, shortened to ``max_norm``; and whether it was."""
    grad = np_.gradient(f, x.params)
    norm = np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(grad)))
    grad = jax.tree.map(lambda g: g * min(1.0, max_norm / norm), grad)
    n = x.steps + 1
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, x.first, grad)
    second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, x.second, grad)

    def move(p, m, v):
        return p - lr * (m / (1 - 0.9**n)) / (np.sqrt(v / (1 - 0.999**n)) + 1e-5)

    return type(x)(jax.tree.map(move, x.params, first, second), first, second, n), norm > max_norm


def rollout(np_, spec, agent, state):
    """A rollout [T, E] of noise; of the continuous actions some lie on either bound."""
    t = np_.draw_batch(spec, T, E, 3)
    return t if spec is DISCRETE else t._replace(action=np.clip(1.7 * t.action, -1, 1))


@pytest.mark.parametrize("spec", [CONTINUOUS, DISCRETE], ids=["continuous", "discrete"])
def test_update_against_numpy(reference, spec):
    """Three epochs of two minibatches: parameters, moments and metrics in float64; ratios and gradients are clipped in some."""
    c, agent = CONFIG, ppo.make(spec, CONFIG)
    state = jax.jit(agent.init)(jax.random.key(0))
    t, key = rollout(reference, spec, agent, state), jax.random.key(1)
    learner = reference.learner(state.networks.params)
    advantage, target = (x.reshape(-1) for x in estimates(reference, learner.params, t, c))
    obs, action = (x.reshape(T * E, *x.shape[2:]) for x in (t.obs, t.action))
    old, _ = log_probs(reference, learner.params["actor"], obs, action)
    seen, shortened = [], []
    for key_epoch in jax.random.split(key, c.epochs):
        for index in np.asarray(jax.random.permutation(key_epoch, T * E)).reshape(c.minibatches, -1):
            rows = [x[index] for x in (obs, action, old, advantage, target)]
            seen.append(loss(reference, learner.params, rows, c)[1])
            lr = c.lr * max(0.0, 1 - learner.steps / c.lr_decay)
            learner, short = adam(reference, learner, lr, c.max_norm, lambda p, rows=rows: loss(reference, p, rows, c)[0])
            shortened.append(short)
    new, metrics = jax.jit(agent.update)(state, Batch(t), key)
    adam_state = new.networks.opt_state[1][0]
    assert adam_state.count == 6
    reference.close((new.networks.params, adam_state.mu, adam_state.nu), (learner.params, learner.first, learner.second))
    reference.close(metrics, {name: np.mean([m[name] for m in seen]) for name in metrics})
    assert 0 < metrics["actor/clip_fraction"] < 1 and any(shortened) and not all(shortened)


def test_first_epoch_starts_at_ratio_one(reference):
    """The log-probabilities are those of the behaviour: before the first step nothing is clipped, kl and surrogate are 0."""
    agent = ppo.make(CONTINUOUS, override(CONFIG, {"epochs": 1, "minibatches": 1, "obs_stats": "running"}))
    state = jax.jit(agent.init)(jax.random.key(0))
    t = rollout(reference, CONTINUOUS, agent, state)
    for _ in range(2):
        state, metrics = jax.jit(agent.update)(state, Batch(t), jax.random.key(1))
        assert metrics["actor/clip_fraction"] == 0 and abs(metrics["actor/kl"]) < 1e-12 and abs(metrics["actor/loss"]) < 1e-12


def test_statistics_move_after_the_update(reference):
    """The update sees observations as the behaviour did; the next rollout is acted on with the new statistics."""
    running, fixed = (ppo.make(CONTINUOUS, override(CONFIG, {"obs_stats": x})) for x in ("running", "fixed"))
    state = jax.jit(fixed.init)(jax.random.key(0))
    t = rollout(reference, CONTINUOUS, fixed, state)
    a, b = (jax.jit(agent.update)(state, Batch(t), jax.random.key(1))[0] for agent in (running, fixed))
    reference.close(a.networks, b.networks)
    reference.close(a.stats, normalize.running(state.stats, t.obs))
    assert a.stats.count == T * E and b.stats.count == 0
    obs = t.obs[0]
    assert np.any(np.asarray(running.mode(a, (), obs)[0]) != np.asarray(fixed.mode(b, (), obs)[0]))


def test_a_truncated_step_bootstraps_from_its_successor(reference):
    """With other next observations the targets up to a truncated step change, and those up to a terminated one do not."""
    c, agent = CONFIG, ppo.make(DISCRETE, CONFIG)
    state = agent.init(jax.random.key(0))
    policy, net = ppo._bound(c, state)
    t = rollout(reference, DISCRETE, agent, state)
    t = t._replace(terminated=np.zeros((T, E), bool), truncated=np.zeros((T, E), bool))
    t.terminated[1, 0] = t.truncated[1, 1] = True
    moved = t._replace(next_obs=t.next_obs.copy())
    moved.next_obs[1, :2] += 1
    before, after = (
        np.asarray(ppo._estimates(c, policy, net, state, x).target).reshape(T, E) for x in map(_arrays, (t, moved))
    )
    changed = before != after
    assert not changed[:, 0].any() and changed[:2, 1].all() and not changed[2:, 1].any()


def _arrays(t):
    return jax.tree.map(jnp.asarray, t)


def test_a_value_far_off_does_not_move_the_policy_more(reference):
    """Advantages are normalised: rewards times 1 000 give the same surrogate."""
    agent = ppo.make(DISCRETE, override(CONFIG, {"epochs": 1, "minibatches": 1, "value": 0.0, "max_norm": 1e9, "decay": 1.0}))
    state = agent.init(jax.random.key(0))
    critic = jax.tree.map(jnp.zeros_like, state.networks.params["critic"])
    state = state._replace(networks=state.networks._replace(params=state.networks.params | {"critic": critic}))
    t = rollout(reference, DISCRETE, agent, state)
    big = t._replace(reward=1e3 * t.reward)
    a, b = (jax.jit(agent.update)(state, Batch(x), jax.random.key(1))[0].networks.params["actor"] for x in (t, big))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-9), a, b)


def test_the_first_policy_is_nearly_uniform():
    """The last layer of the policy starts small."""
    state = ppo.make(DISCRETE, CONFIG).init(jax.random.key(0))
    policy, net = ppo._bound(CONFIG, state)
    out = net.actor.apply(state.networks.params["actor"], jax.random.normal(jax.random.key(1), (50, 3)))
    assert np.log(4) - policy.entropy(out).min() < 1e-3


def test_check_wants_equal_minibatches():
    with pytest.raises(InputError, match="minibatches must divide config.rollout 128, got 5"):
        ppo.check(override(ppo.Config(), {"minibatches": 5}), DISCRETE)
