"""The world model: sizes, one step against a whole sequence, the loss against numpy, and a model as an environment."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import evaluate
from rljax import world_model as wm
from rljax.base import Array, Discrete, Spec, Transition, no_memory

TINY = wm.Size(2, 3, 16, 4, 5, 16, 2, 8, 1, 8, 1, 8)
VECTOR = Spec(Array((3,)), Discrete(4), 20)
SMALL = Spec(Array((10, 10, 2), "uint8", 0, 1), Array((2,), "float32", -1, 1), 20)
CONFIG = SimpleNamespace(unimix=0.01, dynamics=1.0, representation=0.1, free_bits=0.0)
B, T = 3, 12


@cache
def made(spec, size=TINY, dtype=None):
    """``(networks, parameters)``, in which no scale is one and no bias zero."""
    params = jax.jit(wm.init, static_argnums=(0, 1))(size, spec, jax.random.key(0))
    rng = np.random.default_rng(1)
    moved = jax.tree.map(lambda x: np.asarray(x) + 0.1 * rng.normal(size=x.shape).astype(x.dtype), params)
    return wm.Networks(size, spec.obs.shape, dtype), jax.tree.map(jnp.asarray, moved)


def sequence(spec, key=2):
    """Transitions [B, T, ...] with encoded actions, and where episodes begin."""
    keys = jax.random.split(jax.random.key(key), 5)
    num = wm.action_size(spec.action)
    obs = jax.random.uniform(keys[0], (B, T, *spec.obs.shape))
    if isinstance(spec.action, Discrete):
        action = jax.random.randint(keys[1], (B, T), 0, num)
    else:
        action = jax.random.uniform(keys[1], (B, T, num), minval=-1)
    end = jax.random.bernoulli(keys[3], 0.25, (B, T))
    reward = 3 * jax.random.normal(keys[2], (B, T))
    first = jnp.concatenate([jnp.ones((B, 1), bool), end[:, :-1]], 1)
    return Transition(obs, wm.encode_action(action, num), reward, (), end, jnp.zeros((B, T), bool)), first


def test_the_papers_size():
    """Size drama with six actions has the paper's numbers of parameters (arXiv:2410.08893): 7 155 011, 527 366, 1 444 607."""
    spec = Spec(Array((64, 64, 3), "uint8", 0, 255), Discrete(6), 100)

    def count(f, *args):
        return sum(x.size for x in jax.tree.leaves(jax.eval_shape(f, jax.random.key(0), *args)))

    size, features = wm.DRAMA, jnp.zeros((1, wm.DRAMA.latent + wm.DRAMA.width))
    assert count(lambda key: wm.init(size, spec, key)) == pytest.approx(7.155e6, rel=1e-3)
    assert count(wm.MLP(size.actor_depth, size.actor_width, 6).init, features) == pytest.approx(0.527e6, rel=1e-3)
    assert count(wm.MLP(size.critic_depth, size.critic_width, 255).init, features) == pytest.approx(1.445e6, rel=1e-3)


@pytest.mark.parametrize("shape", [(5,), (3, 4), (10, 10, 4), (42, 42, 1), (64, 64, 3), (35, 50, 3), (17, 31, 2)])
def test_reconstructions_have_the_shape_of_observations(shape):
    """Vectors, matrices, small images, and those whose sides do not halve evenly; all finite, images in [0, 1]."""
    spec = Spec(Array(shape), Discrete(3), 20)
    net, params = made(spec)

    @jax.jit
    def there_and_back(params):
        logits = net.apply(params.networks, jnp.ones((2, 3, *shape)), method="encode")
        return logits, wm.reconstruct(net, params, wm.most_probable(logits))

    logits, out = there_and_back(params)
    assert logits.shape == (2, 3, TINY.groups, TINY.classes)
    assert out.shape == (2, 3, *shape) and np.isfinite(out).all()
    assert len(shape) < 3 or ((out >= 0) & (out <= 1)).all()


@pytest.mark.parametrize("spec", [VECTOR, SMALL], ids=["vector", "image"])
def test_a_sequence_is_its_steps(spec):
    """`observe` gives what `step` gives one at a time, with the memory forgotten where an episode begins."""
    net, params = made(spec)
    t, first = sequence(spec)
    seen, last = jax.jit(lambda p: wm.observe(net, p, t.obs, t.action, first, wm.begin(TINY, B), 0.01, jax.random.key(3)))(
        params
    )
    step = jax.jit(lambda p, z, a, memory: wm.step(net, p, z, a, memory))
    memory = wm.begin(TINY, B)
    for i in range(T):
        memory = step(params, seen.z[:, i], t.action[:, i], wm.forget(first[:, i], memory))
        np.testing.assert_allclose(memory.h, seen.after[:, i], rtol=1e-4, atol=1e-5)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), memory, last)


def test_episodes_do_not_see_each_other():
    """What is known after the beginning of an episode does not depend on what came before it."""
    net, params = made(VECTOR)
    t, _ = sequence(VECTOR)
    first = jnp.zeros((B, T), bool).at[:, 5].set(True)

    @jax.jit
    def after(obs):
        return wm.observe(net, params, obs, t.action, first, wm.begin(TINY, B), 0.01, jax.random.key(3))[0].after

    change = jax.jacobian(lambda x: after(t.obs.at[:, 4].set(x)).sum((0, 2)))(t.obs[:, 4])  # [T, B, 3]
    assert np.abs(change[4]).max() > 0.1 and not np.asarray(change[:4]).any()
    np.testing.assert_allclose(change[5:], 0, atol=1e-7)  # what is left of sums that cancel


def test_latents_are_one_hot_and_straight_through():
    """One class per group; the gradient is that of the probabilities, of which 1 % are uniform."""
    logits = 5 * jax.random.normal(jax.random.key(0), (2, 3, 4, 5))
    log_prob = wm.log_probs(logits, 0.01)
    np.testing.assert_allclose(np.exp(log_prob).sum(-1), 1, rtol=1e-5)
    assert np.exp(log_prob).min() >= 0.01 / 5 * 0.999
    z = np.asarray(wm.sample(log_prob, jax.random.key(1))).reshape(2, 3, 4, 5)
    np.testing.assert_allclose(np.sort(z, -1)[..., -1], 1, atol=1e-6)
    np.testing.assert_allclose(np.sort(z, -1)[..., :-1], 0, atol=1e-6)
    weight = jax.random.normal(jax.random.key(2), (2, 3, 20))
    through = jax.grad(lambda x: (weight * wm.sample(wm.log_probs(x, 0.01), jax.random.key(1))).sum())(logits)
    smooth = jax.grad(lambda x: (weight * jnp.exp(wm.log_probs(x, 0.01)).reshape(2, 3, 20)).sum())(logits)
    np.testing.assert_allclose(through, smooth, rtol=1e-5, atol=1e-7)


def test_latents_are_drawn_with_their_probabilities():
    """Shares of 20 000 draws, and no class without probability."""
    p = jnp.array([[0.5, 0.0, 0.3, 0.2], [0.0, 0.0, 0.0, 1.0]])
    log_prob = jnp.broadcast_to(jnp.log(p), (20_000, 2, 4))
    z = np.asarray(jax.jit(wm.sample)(log_prob, jax.random.key(0))).reshape(-1, 2, 4)
    np.testing.assert_allclose(z.mean(0), p, atol=0.015)
    assert not z.mean(0)[np.asarray(p) == 0].any()


@pytest.mark.parametrize("spec", [VECTOR, SMALL], ids=["vector", "image"])
@pytest.mark.parametrize("free_bits", [0.0, 1e3])
def test_loss_against_numpy(spec, free_bits):
    """Each part in float64 from the networks' outputs; the KL leaves out what lies across episodes, and free bits bound it."""
    net, params = made(spec)
    t, first = sequence(spec)
    config = SimpleNamespace(**(vars(CONFIG) | {"free_bits": free_bits}))
    key = jax.random.key(5)
    total, metrics = jax.jit(lambda p: wm.loss(config, net, p, t, first, key))(params)

    @jax.jit
    def outputs(params):
        seen, _ = wm.observe(net, params, t.obs, t.action, first, wm.begin(TINY, B), 0.01, key)
        of = {"decode": seen.z, "end": seen.after, "reward": seen.after, "prior": seen.after}
        return seen, {method: net.apply(params.networks, x, method=method) for method, x in of.items()}

    seen, out = jax.tree.map(lambda x: np.asarray(x, np.float64), outputs(params))

    def mixed(logits):
        p = np.exp(logits - logits.max(-1, keepdims=True))
        return 0.99 * p / p.sum(-1, keepdims=True) + 0.01 / TINY.classes

    obs = np.asarray(t.obs, np.float64)
    obs = obs if len(spec.obs.shape) == 3 else np.sign(obs) * np.log1p(np.abs(obs))
    errors = ((out["decode"] - obs) ** 2).reshape(B, T, -1).sum(-1).mean()
    logit, ended = out["end"], np.asarray(t.terminated)
    p = 1 / (1 + np.exp(-logit))
    end = -np.where(ended, np.log(p), np.log(1 - p)).mean()
    logits = out["reward"]
    log_softmax = logits - logits.max(-1, keepdims=True)
    log_softmax -= np.log(np.exp(log_softmax).sum(-1, keepdims=True))
    target = np.asarray(wm.REWARDS.probabilities(t.reward), np.float64)
    entropy = -np.where(target > 0, target * np.log(np.where(target > 0, target, 1)), 0).sum(-1)
    reward = (-(target * log_softmax).sum(-1) - entropy).mean()
    kls = []
    for b in range(B):
        for i in range(1, T):
            if not first[b, i]:
                q, r = mixed(seen.logits[b, i]), mixed(out["prior"][b, i - 1])
                kls.append((q * np.log(q / r)).sum())
    kl = np.mean(kls)
    expected = {"reconstruction": errors, "end": end, "reward": reward, "kl": kl}
    expected["loss"] = errors + end + reward + 1.1 * max(free_bits, kl)
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[f"model/{name}"], value, rtol=2e-4, err_msg=name)
    assert total == metrics["model/loss"]


def test_which_side_the_divergences_move():
    """The first moves the prior alone, the second the posterior alone; both are zeroed by free bits."""
    net, params = made(VECTOR)
    t, first = sequence(VECTOR)

    @jax.jit
    def gradient(dynamics, representation, free_bits):
        config = SimpleNamespace(unimix=0.01, dynamics=dynamics, representation=representation, free_bits=free_bits)
        return jax.grad(lambda p: wm.loss(config, net, p, t, first, jax.random.key(5))[0])(params)

    none, dynamics, representation, bounded = (gradient(*x) for x in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 1e3)))

    def differ(a, b, part):
        return any((x != y).any() for x, y in zip(*(jax.tree.leaves(g.networks["params"][part]) for g in (a, b)), strict=True))

    assert differ(none, dynamics, "ahead") and not differ(none, representation, "ahead")
    assert differ(none, representation, "posterior")
    assert not differ(none, bounded, "ahead") and not differ(none, bounded, "posterior")


@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_half_precision_stays_finite(scale):
    """With products in bfloat16 loss and gradients are close to float32's, in which they stay; large inputs make no NaN."""
    t, first = sequence(VECTOR)
    t = t._replace(obs=scale * t.obs)
    results = {}
    for dtype in (None, jnp.bfloat16):
        net, params = made(VECTOR, TINY, dtype)
        grad = jax.jit(jax.value_and_grad(lambda p, net=net: wm.loss(CONFIG, net, p, t, first, jax.random.key(5))[0]))
        results[dtype] = grad(params)
    (full, exact), (half, rough) = results.values()
    assert {x.dtype for x in jax.tree.leaves(rough)} == {np.dtype("float32")}
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((exact, rough)))
    np.testing.assert_allclose(half, full, rtol=0.05)


def test_a_model_is_an_environment():
    """`evaluate` plays whole imagined episodes; each step is that of `imagine`."""
    net, params = made(VECTOR)
    begin = jax.tree.map(lambda x: x[0], wm.begin(TINY, 1))
    z = wm.most_probable(jax.random.normal(jax.random.key(0), (TINY.groups, TINY.classes)))
    env = wm.as_env(net, params, VECTOR, lambda key: (z, begin), 4)
    state, obs = jax.jit(env.reset)(jax.random.key(1))
    np.testing.assert_array_equal(obs, np.tile(np.concatenate([z, begin.h]), (4, 1)))
    actions = jnp.arange(4, dtype=jnp.int32)
    _, step = jax.jit(env.step)(state, actions, jax.random.key(2))
    memory = wm.step(net, params, jnp.tile(z, (4, 1)), wm.encode_action(actions, 4), wm.begin(TINY, 4))
    np.testing.assert_allclose(step.next_obs[:, TINY.latent :], memory.h, rtol=1e-5, atol=1e-6)
    reward, ended = wm.outcome(net, params, memory.h)
    np.testing.assert_allclose(step.reward, reward, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(step.terminated, ended)

    agent = SimpleNamespace(memory=no_memory, mode=lambda state, memory, obs: (jnp.zeros(len(obs), jnp.int32), memory))
    returns, lengths = jax.jit(lambda key: evaluate.episodes(agent, env, (), key))(jax.random.key(3))
    assert np.isfinite(returns).all() and ((lengths >= 1) & (lengths <= VECTOR.horizon)).all()
