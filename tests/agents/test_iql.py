"""IQL's updates against slow numpy references, in both orders, and its discrete form."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.agents import iql, iql_discrete
from rljax.base import Array, Batch, Discrete, Spec
from rljax.config import override

A, B = 2, 24
SPEC = Spec(Array((3,)), Array((A,), "float32", -1.0, 1.0), 50)
DISCRETE = Spec(Array((3,)), Discrete(4), 50)
SIZES = {"actor_width": 6, "critic_width": 6, "batch_size": B}
NUMBERS = {
    "actor_lr": 3e-3,
    "critic_lr": 1e-2,
    "value_lr": 2e-2,
    "discount": 0.8,
    "tau": 0.1,
    "expectile": 0.8,
    "max_weight": 2.0,
}


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def start(module, config, spec):
    """A fresh state whose targets differ from the critics and whose policy is not of unit deviation."""
    state = jax.jit(module.init, static_argnums=1)(config, spec, jax.random.key(0))
    state = state._replace(target=jax.tree.map(lambda x: 0.7 * x + 0.05, state.target))
    params = state.actor.params["params"]
    if "log_std" in params:
        params = params | {"log_std": jnp.array([-0.3, 0.4])}
    return state._replace(actor=state.actor._replace(params={"params": params}))


def learners(np_, state):
    return [np_.learner(m.params) for m in (state.actor, state.critic, state.value)] + [jax.tree.map(np.asarray, state.target)]


def expectile(u, tau):
    """|tau - 1(u < 0)| u^2, element by element."""
    return sum((1 - tau if x.real < 0 else tau) * x**2 for x in u) / len(u)


def log_prob(np_, params, obs, action, fixed):
    """Log density [B] of a Gaussian around tanh(mlp) with the learned deviation, or with the variance 1/2."""
    mean = np.tanh(np_.mlp(params, obs))
    log_std = np.full(A, np.log(np.sqrt(0.5))) if fixed else params["params"]["log_std"]
    return (-0.5 * ((action - mean) / np.exp(log_std)) ** 2 - log_std - 0.5 * np.log(2 * np.pi)).sum(1)


def reference_update(np_, c, learners, t, q_of, log_pi, corl):
    """Equations 5, 6 and 7 of arXiv:2110.06169 on one batch, in the authors' order or in CORL's."""
    actor, critic, value, target = learners
    metrics = {}

    def v(params, obs):
        return np_.mlp(params, obs)[:, 0]

    def value_loss(params):
        return expectile(q - v(params, t.obs), c.expectile)

    def actor_step(actor, advantage):
        weight = np.minimum(np.exp(c.beta * advantage), c.max_weight)
        loss = lambda params: -(weight * log_pi(params)).mean()  # noqa: E731
        metrics.update({"actor/loss": loss(actor.params), "actor/weight": weight.mean()})
        lr = c.actor_lr * 0.5 * (1 + np.cos(np.pi * min(actor.steps / getattr(c, "actor_decay", np.inf), 1)))
        return np_.adam(actor, lr, loss)

    def critic_step(critic, next_v):
        goal = np.where(t.terminated, t.reward, t.reward + c.discount * next_v)
        loss = lambda params: sum(((q - goal) ** 2).mean() for q in q_of(params))  # noqa: E731
        metrics.update({"critic/loss": loss(critic.params), "critic/q": np.mean(q_of(critic.params))})
        return np_.adam(critic, c.critic_lr, loss)

    q = np_.smaller(*q_of(target))
    old_next, old_advantage = v(value.params, t.next_obs), q - v(value.params, t.obs)
    metrics.update({"value/loss": value_loss(value.params), "value/v": v(value.params, t.obs).mean()})
    value = np_.adam(value, c.value_lr, value_loss)
    if corl:
        critic = critic_step(critic, old_next)
        actor = actor_step(actor, old_advantage)
    else:
        actor = actor_step(actor, q - v(value.params, t.obs))
        critic = critic_step(critic, v(value.params, t.next_obs))
    target = jax.tree.map(lambda old, new: old + c.tau * (new - old), target, critic.params)
    return [actor, critic, value, target], metrics


def assert_follows(np_, state, slow):
    for model, learner in zip((state.actor, state.critic, state.value), slow, strict=False):
        np_.follows(model, learner)
    np_.close(state.target, slow[3])


@pytest.mark.parametrize("policy", ["gaussian", "deterministic"])
@pytest.mark.parametrize("order", ["official", "corl"])
def test_two_updates_equal_the_numpy_reference(order, policy, reference):
    """Metrics, parameters, targets and Adam's moments after two batches in one call, in float64."""
    config = override(iql.Config(), SIZES | NUMBERS | {"order": order, "policy": policy, "actor_decay": 4.0})
    state = start(iql, config, SPEC)
    slow, t = learners(reference, state), reference.draw_batch(SPEC, 2, B, 1)
    update, seen = jax.jit(iql.update), []
    state, metrics = update(config, state, Batch(t), jax.random.key(1))
    for u in range(2):
        one = jax.tree.map(lambda x, u=u: x[u], t)
        slow, expected = reference_update(
            reference,
            config,
            slow,
            one,
            lambda params, one=one: [q[:, 0] for q in reference.critics(params, one.obs, one.action)],
            lambda params, one=one: log_prob(reference, params, one.obs, one.action, policy == "deterministic"),
            order == "corl",
        )
        seen.append(expected)
    assert metrics.keys() == seen[0].keys()
    for name in metrics:
        np.testing.assert_allclose(metrics[name], np.mean([s[name] for s in seen]), rtol=1e-9, err_msg=name)
    assert max(s["actor/weight"] for s in seen) < 2  # some weights are clipped, not all
    assert_follows(reference, state, slow)


def test_two_discrete_updates_equal_the_numpy_reference(reference):
    config = override(iql_discrete.Config(), SIZES | NUMBERS)
    state = start(iql_discrete, config, DISCRETE)
    slow, t = learners(reference, state), reference.draw_batch(DISCRETE, 2, B, 1)
    state, metrics = jax.jit(iql_discrete.update)(config, state, Batch(t), jax.random.key(1))
    seen = []
    for u in range(2):
        one = jax.tree.map(lambda x, u=u: x[u], t)

        def log_pi(params, one=one):
            logits = reference.mlp(params, one.obs)
            return logits[np.arange(B), one.action] - np.log(np.exp(logits).sum(1))

        def q_of(params, one=one):
            return [q[np.arange(B), one.action] for q in reference.critics(params, one.obs)]

        slow, expected = reference_update(reference, config, slow, one, q_of, log_pi, False)
        seen.append(expected)
    for name in metrics:
        np.testing.assert_allclose(metrics[name], np.mean([s[name] for s in seen]), rtol=1e-9, err_msg=name)
    assert_follows(reference, state, slow)


def test_the_orders_differ(reference):
    batch = Batch(reference.draw_batch(SPEC, 1, B, 1))
    out = []
    for order in ("official", "corl"):
        config = override(iql.Config(), SIZES | NUMBERS | {"order": order})
        out.append(jax.jit(iql.update)(config, start(iql, config, SPEC), batch, jax.random.key(1))[0])
    assert not np.allclose(*(jax.tree.leaves(s.critic.opt_state[0].mu)[0] for s in out), rtol=1e-6)


def test_terminated_steps_do_not_bootstrap_and_truncated_ones_do(reference):
    config = override(iql.Config(), SIZES | NUMBERS)
    t = reference.draw_batch(SPEC, 1, B, 1)
    state, update = start(iql, config, SPEC), jax.jit(iql.update)

    def critic(**changes):
        return update(config, state, Batch(t._replace(**changes)), jax.random.key(0))[0].critic.params

    def same(a, b):
        return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))

    ended, far = np.ones((1, B), bool), t.next_obs + 5
    assert same(critic(truncated=ended), critic(truncated=~ended))
    assert same(critic(terminated=ended), critic(terminated=ended, next_obs=far))
    assert not same(critic(terminated=~ended), critic(terminated=~ended, next_obs=far))
