"""Behaviour cloning against its loss by hand, and what it learns."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from rljax.agents import bc, bc_discrete
from rljax.base import Array, Batch, Discrete, Spec

B = 24
CONTINUOUS = Spec(Array((3,)), Array((2,), "float32", -1.0, 1.0), 50)
DISCRETE = Spec(Array((3,)), Discrete(4), 50)


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def squares(np_, params, t):
    return ((np.tanh(np_.mlp(params, t.obs)) - t.action) ** 2).mean()


def cross_entropy(np_, params, t):
    logits = np_.mlp(params, t.obs)
    return -(logits[np.arange(B), t.action] - np.log(np.exp(logits).sum(1))).mean()


@pytest.mark.parametrize(("module", "spec", "loss"), [(bc, CONTINUOUS, squares), (bc_discrete, DISCRETE, cross_entropy)])
def test_two_updates_equal_the_numpy_reference(module, spec, loss, reference):
    config = module.Config(actor_lr=3e-3, actor_width=6, batch_size=B)
    state = jax.jit(module.init, static_argnums=1)(config, spec, jax.random.key(0))
    slow, t = reference.learner(state.actor.params), reference.draw_batch(spec, 2, B, 1)
    state, metrics = jax.jit(module.update)(config, state, Batch(t), jax.random.key(1))
    seen = []
    for u in range(2):
        one = jax.tree.map(lambda x, u=u: x[u], t)
        seen.append(loss(reference, slow.params, one))
        slow = reference.adam(slow, config.actor_lr, lambda params, one=one: loss(reference, params, one))
    np.testing.assert_allclose(metrics["actor/loss"], np.mean(seen), rtol=1e-9)
    reference.follows(state.actor, slow)


@pytest.mark.parametrize(("module", "spec"), [(bc, CONTINUOUS), (bc_discrete, DISCRETE)])
def test_clones_a_rule(module, spec, reference):
    """Actions that follow the observation's first element are learned from noise-free data."""
    config = module.Config(actor_lr=1e-2, actor_width=32, batch_size=B)
    t = reference.draw_batch(spec, 1, 512, 1)
    rule = np.tanh(t.obs[..., :2]) * 0.8 if spec is CONTINUOUS else (t.obs[..., 0] > 0).astype(np.int32) * 2
    batch, update = Batch(t._replace(action=rule)), jax.jit(module.update)
    state = jax.jit(module.init, static_argnums=1)(config, spec, jax.random.key(0))
    for _ in range(400):
        state, _ = update(config, state, batch, jax.random.key(0))
    action, _ = module.mode(config, state, (), t.obs[0])
    assert np.abs(np.asarray(action) - rule[0]).mean() < 0.05
