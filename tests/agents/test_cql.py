"""CQL, Cal-QL and discrete CQL against slow numpy references, and the properties of their penalty."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import conservative
from rljax.agents import calql, cql, cql_discrete
from rljax.base import Array, Batch, Discrete, Spec
from rljax.config import override

A, B, K = 2, 12, 3
SPEC = Spec(Array((3,)), Array((A,), "float32", -1.0, 1.0), 50)
DISCRETE = Spec(Array((3,)), Discrete(4), 50)
SMALL = {
    "actor_lr": 3e-3,
    "critic_lr": 1e-2,
    "alpha_lr": 2e-2,
    "discount": 0.8,
    "tau": 0.1,
    "init_alpha": 0.3,
    "target_entropy_scale": 0.7,
    "penalty": 1.5,
    "target_gap": 3.0,
    "temperature": 1.3,
    "actor_width": 5,
    "actor_depth": 1,
    "critic_width": 5,
    "critic_depth": 1,
    "num_actions": K,
    "batch_size": B,
}


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def values(np_, params, obs, actions):
    """One list per critic of the values [B] of actions [k, B, A]."""
    return [[np_.critics(params, obs, a)[j][:, 0] for a in actions] for j in range(2)]


def logsumexp(rows):
    """log sum exp over a list of arrays, also for complex numbers."""
    top = np.max([r.real for r in rows], axis=0)
    return top + np.log(sum(np.exp(r - top) for r in rows))


def reference_update(np_, c, s, t, bound, key, lagrange, largest):
    """One batch: arXiv:2006.04779 eq. 4 with appendix F's variants, arXiv:2303.05479's bound, then SAC's actor step."""
    actor, critic, target, log_alpha, multiplier = s
    key_target, key_gap, key_actor = jax.random.split(key, 3)
    n = K if largest else 1
    actions, _ = np_.policy(actor.params, t.next_obs, np_.normal(key_target, n, B, A))
    value = np.max([np.minimum(a, b) for a, b in zip(*values(np_, target, t.next_obs, actions), strict=True)], axis=0)
    goal = np.where(t.terminated, t.reward, t.reward + c.discount * value)

    key_random, key_now, key_next = jax.random.split(key_gap, 3)
    uniform = np.asarray(jax.random.uniform(key_random, (K, B, A), jnp.float64, -1, 1))
    now, log_now = np_.policy(actor.params, t.obs, np_.normal(key_now, K, B, A))
    then, log_then = np_.policy(actor.params, t.next_obs, np_.normal(key_next, K, B, A))
    samples = [*((a, np.full(B, A * np.log(0.5)), False) for a in uniform)]
    samples += [(a, mu, True) for a, mu in [*zip(now, log_now, strict=True), *zip(then, log_then, strict=True)]]

    def gaps(params):
        data = [q[:, 0] for q in np_.critics(params, t.obs, t.action)]
        out = []
        for j in range(2):
            rows = []
            for action, log_mu, of_policy in samples:
                q = np_.critics(params, t.obs, action)[j][:, 0]
                q = np.where((q.real < bound) & of_policy, bound, q)
                rows.append((q - log_mu) / c.temperature)
            gap = c.temperature * logsumexp(rows) - data[j]
            out.append(np.where(gap.real < c.gap_min, c.gap_min, gap).mean())
        return np.array(out)

    def td(params):
        return sum(((q[:, 0] - goal) ** 2).mean() for q in np_.critics(params, t.obs, t.action))

    def constraint(log_multiplier, gap):
        return np.exp(log_multiplier) * c.penalty * (gap - c.target_gap).sum() if lagrange else c.penalty * gap.sum()

    gap = gaps(critic.params)
    metrics = {
        "critic/loss": td(critic.params),
        "critic/gap": gap.mean(),
        "critic/q": np.mean(np_.critics(critic.params, t.obs, t.action)),
        "critic/multiplier": np.exp(multiplier.params),
    }
    fixed = multiplier.params
    critic = np_.adam(critic, c.critic_lr, lambda params: td(params) + constraint(fixed, gaps(params)))
    multiplier = np_.adam(multiplier, c.critic_lr, lambda x: -0.5 * constraint(x, gap) + 0 * x)
    target = jax.tree.map(lambda old, new: old + c.tau * (new - old), target, critic.params)

    alpha, noise = np.exp(log_alpha.params), np_.normal(key_actor, B, A)

    def actor_loss(params):
        action, log_prob = np_.policy(params, t.obs, noise)
        return (alpha * log_prob - np_.smaller(*(q[:, 0] for q in np_.critics(critic.params, t.obs, action)))).mean()

    entropy = -np_.policy(actor.params, t.obs, noise)[1].mean()
    metrics |= {"actor/loss": actor_loss(actor.params), "actor/entropy": entropy, "alpha/value": alpha}
    log_alpha = np_.adam(log_alpha, c.alpha_lr, lambda x: np.exp(x) * (entropy + c.target_entropy_scale * A))
    actor = np_.adam(actor, c.actor_lr, actor_loss)
    return (actor, critic, target, log_alpha, multiplier), metrics


def start(module, config, spec=SPEC):
    state = jax.jit(module.init, static_argnums=1)(config, spec, jax.random.key(0))
    return state._replace(target=jax.tree.map(lambda x: 0.7 * x + 0.05, state.target))


def follow(np_, module, config, bounds, batch, t):
    """Hold two updates in one call against the reference."""
    state = start(module, config)
    slow = (np_.learner(state.actor.params), np_.learner(state.critic.params), jax.tree.map(np.asarray, state.target))
    slow += (np_.learner(state.alpha.params), np_.learner(state.multiplier.params))
    key, seen = jax.random.key(5), []
    state, metrics = jax.jit(lambda *args: module.update(*args))(config, state, batch, key)  # traced anew: parts may differ
    for u, k in enumerate(jax.random.split(key, 2)):
        one = jax.tree.map(lambda x, u=u: x[u], t)
        lagrange, largest = (config.constraint is conservative.lagrange, config.backup is conservative.max_of_samples)
        slow, expected = reference_update(np_, config, slow, one, bounds[u], k, lagrange, largest)
        seen.append(expected)
    assert metrics.keys() == seen[0].keys()
    for name in metrics:
        np.testing.assert_allclose(metrics[name], np.mean([s[name] for s in seen]), rtol=1e-8, err_msg=name)
    np_.close(state.target, slow[2])
    for model, learner in zip((state.actor, state.critic, state.alpha, state.multiplier), slow[:2] + slow[3:], strict=True):
        np_.follows(model, learner)
    return state, metrics


@pytest.mark.parametrize("backup", ["one_sample", "max_of_samples"])
@pytest.mark.parametrize(("constraint", "parts"), [("fixed", 1), ("lagrange", 1), ("lagrange", 3)])
def test_cql_equals_the_numpy_reference(constraint, backup, parts, reference, monkeypatch):
    monkeypatch.setattr(conservative, "blocks", lambda *_: parts)
    config = override(cql.Config(), SMALL | {"constraint": constraint, "backup": backup})
    t = reference.draw_batch(SPEC, 2, B, 1)
    follow(reference, cql, config, np.full((2, B), -np.inf), Batch(t), t)


@pytest.mark.parametrize("parts", [1, 2])
def test_calql_equals_the_numpy_reference(parts, reference, monkeypatch):
    """With bounds that hold back some of the policy's values and not others, and a smallest gap that some are below."""
    monkeypatch.setattr(conservative, "blocks", lambda *_: parts)
    config = override(calql.Config(), SMALL | {"gap_min": 2.6})
    t = reference.draw_batch(SPEC, 2, B, 1)
    bounds = np.random.default_rng(0).normal(size=(2, B)) * 0.3
    follow(reference, calql, config, bounds, Batch(t, calql.Extras(bounds)), t)


@pytest.mark.parametrize(
    ("backend", "num_actions", "batch_size", "parts"),
    [
        ("gpu", 10, 256, 1),
        ("cpu", 10, 256, 8),
        ("cpu", 10, 250, 10),
        ("cpu", 1, 256, 1),
        ("cpu", 10, 251, 1),
        ("cpu", 500, 4, 1),
    ],
)
def test_parts_of_a_batch_are_equal_and_neither_large_nor_tiny(backend, num_actions, batch_size, parts, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert conservative.blocks(num_actions, batch_size) == parts


def test_calql_without_bounds_is_cql(reference):
    t = reference.draw_batch(SPEC, 2, B, 1)
    settings = SMALL | {"constraint": "fixed", "backup": "one_sample", "gap_min": -1e6, "obs_stats": "fixed"}
    configs = override(cql.Config(), settings), override(calql.Config(), settings)
    low = np.full((2, B), -np.inf)
    a, _ = jax.jit(cql.update)(configs[0], start(cql, configs[0]), Batch(t), jax.random.key(5))
    b, _ = jax.jit(calql.update)(configs[1], start(calql, configs[1]), Batch(t, calql.Extras(low)), jax.random.key(5))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), a, b)


@pytest.mark.parametrize("lifted", [False, True])
def test_a_bound_above_all_values_stops_the_policys_gradient(lifted, reference):
    """With G above every Q(s, a) no value of a sampled policy action is pushed down; uniform actions are."""
    config = override(calql.Config(), SMALL)
    net, state = calql.networks(config, A), start(calql, config)
    t = jax.tree.map(lambda x: x[0], reference.draw_batch(SPEC, 1, B, 1))
    actions, log_mu = conservative.candidates(config, net, state, t, jax.random.key(1))
    bound = np.full(B, 50.0 if lifted else -np.inf)

    def gap(policy_actions):
        everything = jnp.concatenate([actions[:K], policy_actions])
        return conservative.gaps(config, net, state.critic.params, t, everything, log_mu, bound)[0].sum()

    gradient = jax.grad(gap)(actions[K:])
    assert np.isfinite(gradient).all()
    assert (np.abs(gradient).max() == 0) == lifted


@pytest.mark.parametrize(("target_gap", "sign"), [(-100.0, 1), (100.0, -1)])
def test_the_multiplier_rises_above_its_gap_and_falls_below(target_gap, sign, reference):
    config = override(cql.Config(), SMALL | {"constraint": "lagrange", "target_gap": target_gap})
    state = start(cql, config)
    new, metrics = jax.jit(cql.update)(config, state, Batch(reference.draw_batch(SPEC, 1, B, 1)), jax.random.key(0))
    np.testing.assert_allclose(metrics["critic/multiplier"], np.e)
    np.testing.assert_allclose(new.multiplier.params - state.multiplier.params, sign * config.critic_lr, rtol=1e-6)


def test_a_fixed_penalty_leaves_the_multiplier_alone(reference):
    config = override(cql.Config(), SMALL)
    state = start(cql, config)
    new, _ = jax.jit(cql.update)(config, state, Batch(reference.draw_batch(SPEC, 2, B, 1)), jax.random.key(0))
    assert new.multiplier.params == state.multiplier.params


def test_the_penalty_lowers_values_of_unseen_actions(reference):
    """Data of actions near 0.5: with the penalty, Q at -0.5 falls below Q at 0.5 though rewards are equal."""
    t = reference.draw_batch(SPEC, 1, 256, 1)
    t = t._replace(action=0.5 + 0.1 * t.action, reward=np.ones_like(t.reward), terminated=np.ones_like(t.terminated))
    update, differences = jax.jit(cql.update), []
    for penalty in (0.0, 2.0):
        config = override(cql.Config(), SMALL | {"penalty": penalty, "critic_width": 16})
        state = start(cql, config)
        for i in range(200):
            state, _ = update(config, state, Batch(t), jax.random.key(i))
        net = cql.networks(config, A)
        obs = jnp.asarray(t.obs[0])
        q = [net.head.value(net.critic.apply(state.critic.params, obs, jnp.full((256, A), a))).mean() for a in (0.5, -0.5)]
        differences.append(float(q[0] - q[1]))
    assert differences[1] > 1.0 > abs(differences[0]), differences


def test_discrete_cql_equals_the_numpy_reference(reference):
    """Double DQN with the smaller of two critics, plus the logsumexp over all actions."""
    config = cql_discrete.Config(critic_lr=1e-2, discount=0.8, tau=0.1, penalty=1.5, critic_width=6, batch_size=B)
    state, t = start(cql_discrete, config, DISCRETE), reference.draw_batch(DISCRETE, 2, B, 1)
    critic, target = reference.learner(state.critic.params), jax.tree.map(np.asarray, state.target)
    state, metrics = jax.jit(cql_discrete.update)(config, state, Batch(t), jax.random.key(5))
    seen = []
    for u in range(2):
        one = jax.tree.map(lambda x, u=u: x[u], t)
        best = np.minimum(*reference.critics(critic.params, one.next_obs)).argmax(1)
        value = np.minimum(*reference.critics(target, one.next_obs))[np.arange(B), best]
        goal = np.where(one.terminated, one.reward, one.reward + config.discount * value)

        def parts(params, one=one, goal=goal):
            td = gap = 0
            for q in reference.critics(params, one.obs):
                chosen = q[np.arange(B), one.action]
                td += ((chosen - goal) ** 2).mean()
                gap += (logsumexp(list(q.T)) - chosen).mean()
            return td, gap

        q = [q[np.arange(B), one.action] for q in reference.critics(critic.params, one.obs)]
        td, gap = parts(critic.params)
        seen.append({"critic/loss": td, "critic/gap": gap / 2, "critic/q": np.mean(q)})
        critic = reference.adam(critic, config.critic_lr, lambda p, parts=parts: np.dot(parts(p), (1, config.penalty)))
        target = jax.tree.map(lambda old, new: old + config.tau * (new - old), target, critic.params)
    for name in metrics:
        np.testing.assert_allclose(metrics[name], np.mean([s[name] for s in seen]), rtol=1e-9, err_msg=name)
    reference.follows(state.critic, critic)
    reference.close(state.target, target)
