"""Optimiser steps, Polyak averaging, multipliers."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rljax import optim


def loss(params):
    """A loss with an auxiliary output."""
    value = (params["a"] ** 2).sum() + 3 * params["b"]
    return value, {"loss": value}


PARAMS = {"a": jnp.array([1.0, -2.0]), "b": jnp.array(0.5)}


@pytest.mark.parametrize(
    "optimizer", [optax.sgd(0.1), optax.adam(1e-2), optax.adamw(1e-2, weight_decay=0.1)], ids=["sgd", "adam", "adamw"]
)
def test_descend_equals_optax_by_hand(optimizer):
    """Three steps with explicit gradients; adamw needs the parameters handed on."""
    model = optim.model(optimizer, PARAMS)
    params, opt_state = PARAMS, optimizer.init(PARAMS)
    for _ in range(3):
        model, aux = optim.descend(optimizer, loss, model)
        np.testing.assert_allclose(aux["loss"], loss(params)[0], rtol=1e-6)
        updates, opt_state = optimizer.update({"a": 2 * params["a"], "b": jnp.array(3.0)}, opt_state, params)
        params = optax.apply_updates(params, updates)
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), (model.params, model.opt_state), (params, opt_state)
        )


def test_descend_on_a_learning_rate_that_is_traced():
    """The step size may be an argument: adam's first step has exactly its length."""
    step = jax.jit(lambda lr: optim.descend(optax.adam(lr), loss, optim.model(optax.adam(lr), PARAMS))[0].params["b"])
    np.testing.assert_allclose([0.5 - step(lr) for lr in (0.1, 0.2)], [0.1, 0.2], rtol=1e-4)


@pytest.mark.parametrize("lr", [1e-3, optim.cosine(1e-3, 50)], ids=["constant", "cosine"])
@pytest.mark.parametrize("eps", [1e-8, 1e-5])
def test_adam_is_that_of_optax(lr, eps):
    """A hundred steps on gradients of all sizes; runs that were saved with optax' go on."""
    ours, theirs = optim.adam(lr, eps), optax.adam(lr, eps=eps)
    sizes = jnp.array([0.0, 1e-12, 1e-8, 1e-5, 1e-2, 1.0, 1e6])
    state = ours.init(sizes), theirs.init(sizes)
    for key in jax.random.split(jax.random.key(0), 100):
        grads = sizes * jax.random.normal(key, sizes.shape)
        updates, expected = ours.update(grads, state[0], sizes), theirs.update(grads, state[1], sizes)
        assert jax.tree.structure(updates) == jax.tree.structure(expected)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-12), updates, expected)
        state = updates[1], expected[1]


def test_descending_over_blocks_is_descending_on_their_mean():
    optimizer, params = optax.sgd(0.1), jnp.array([1.0, -2.0])
    data = jnp.arange(12.0).reshape(3, 4)

    def loss(params, block):
        error = params[0] * block + params[1] - block**2
        return (error**2).mean(), {"error": error.mean()}

    whole = optim.descend(optimizer, lambda params: loss(params, data), optim.model(optimizer, params))
    parts = optim.descend_over(optimizer, loss, optim.model(optimizer, params), data)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), parts, whole)


def test_no_parameters_are_copied_within_a_loop():
    params = {"a": jnp.ones((64, 96)), "b": jnp.ones((96, 48)), "c": jnp.ones((48, 64))}
    optimizer = optim.adam(1e-3)

    def loss(params):
        return (jnp.ones((32, 64)) @ params["a"] @ params["b"] @ params["c"]).std(), None

    def run(model, num):
        return jax.lax.fori_loop(0, num, lambda _, model: optim.descend(optimizer, loss, model)[0], model)

    text = jax.jit(run, donate_argnums=0).lower(optim.model(optimizer, params), jnp.int32(1)).compile().as_text()
    assert "f32[96,48]" in text
    assert not re.search(r"f32\[(64,96|96,48|48,64)\]\S* copy\(", text)


def test_polyak_by_hand():
    """A quarter of the way, leaf by leaf."""
    out = optim.polyak({"x": jnp.array([0.0, 4.0])}, {"x": jnp.array([4.0, 0.0])}, 0.25)
    np.testing.assert_allclose(out["x"], [1.0, 3.0])


def test_polyak_ends_are_exact():
    """tau = 1 copies and tau = 0 keeps, bit for bit, whatever the magnitudes."""
    target, online = jnp.array([0.1, -1e8, 1e-9]), jnp.array([1e-9, 3.0, 1e8])
    for tau in (1.0, jnp.float32(1.0)):
        np.testing.assert_array_equal(optim.polyak(target, online, tau), online)
        np.testing.assert_array_equal(optim.polyak(target, online, 1 - tau), target)


def test_polyak_keeps_dtypes():
    """A Python or float32 tau does not widen the target."""
    for tau in (0.1, jnp.float32(0.1)):
        assert optim.polyak(jnp.zeros(2), jnp.ones(2), tau).dtype == jnp.float32


def test_multiplier_starts_at_its_value():
    """exp(params) is the value; the parameter is a strongly typed scalar."""
    model = optim.log_multiplier(optax.adam(1e-3), 0.2)
    np.testing.assert_allclose(jnp.exp(model.params), 0.2, rtol=1e-6)
    assert model.params.shape == () and model.params.dtype == jnp.float32 and not model.params.weak_type


def test_multiplier_stays_positive():
    """Descent on the logarithm drives the multiplier towards 0, never below."""
    optimizer = optax.sgd(5.0)
    model = optim.log_multiplier(optimizer, 1.0)
    for _ in range(5):
        model, _ = optim.descend(optimizer, lambda x: (jnp.exp(x) * 2.0, None), model)
    assert 0 < jnp.exp(model.params) < 1e-3


def test_linear_falls_to_zero_and_stays():
    """By hand: 3 at the beginning, 0.75 after 3 of 4 steps, 0 from the fourth on; 1e12 steps are a constant in float32."""
    np.testing.assert_allclose([optim.linear(3.0, 4)(jnp.int32(n)) for n in (0, 1, 3, 4, 9)], [3, 2.25, 0.75, 0, 0])
    assert optim.linear(jnp.float32(3e-4), jnp.float32(1e12))(jnp.int32(10_000)) == jnp.float32(3e-4)


def test_laprop_against_numpy():
    """200 steps on gradients over nine decades, in float64 by hand: bias corrections, warm-up, and the clip of the norm."""
    rng = np.random.default_rng(0)
    grads = rng.normal(size=(200, 7)) * 10.0 ** rng.integers(-6, 3, (200, 7))
    grads[:, 3] = 0
    lr, warmup, max_norm = 1e-2, 20, 50.0
    x, m, v, expected = np.zeros(7), np.zeros(7), np.zeros(7), []
    for n, g in enumerate(grads, 1):
        g = g * min(1, max_norm / np.sqrt((g**2).sum()))
        v = 0.999 * v + 0.001 * g**2
        scaled = g / (np.sqrt(v / (1 - 0.999**n)) + 1e-20)
        m = 0.9 * m + 0.1 * scaled
        x = x - lr * min(1, n / warmup) * m / (1 - 0.9**n)
        expected.append(x)
    optimizer = optim.laprop(lr, warmup, max_norm)

    def step(carry, g):
        params, opt_state = carry
        updates, opt_state = optimizer.update(g, opt_state)
        params = optax.apply_updates(params, updates)
        return (params, opt_state), params

    start = jnp.zeros(7)
    _, found = jax.lax.scan(step, (start, optimizer.init(start)), jnp.asarray(grads, jnp.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert not np.asarray(found)[:, 3].any()  # nothing moves without a gradient
