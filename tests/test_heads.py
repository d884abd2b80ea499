"""Value heads: decoding, loss, gradient."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import heads

pytestmark = pytest.mark.usefixtures("no_rank_promotion")

HEADS = [heads.Scalar()]
parametrize = pytest.mark.parametrize("head", HEADS, ids=lambda h: type(h).__name__)


@parametrize
def test_shapes(head):
    """`value` and `loss` drop the last axis and keep any others."""
    for leading in ((), (5,), (2, 5), (2, 5, 3)):
        out = jax.random.normal(jax.random.key(0), (*leading, head.size))
        assert head.value(out).shape == leading == head.loss(out, jnp.zeros(leading)).shape


@parametrize
def test_descending_the_loss_reaches_the_target(head):
    """The outputs that minimise the loss decode to the target."""
    target = jnp.array([-1.0, 0.0, 0.3, 2.0])

    def step(out, _):
        return out - 0.1 * jax.grad(lambda x: head.loss(x, target).sum())(out), None

    out, _ = jax.lax.scan(step, jnp.zeros((4, head.size)), length=200)
    np.testing.assert_allclose(head.value(out), target, atol=1e-3)


@parametrize
def test_the_target_is_not_differentiated(head):
    """Gradients reach the outputs only."""
    out = jax.random.normal(jax.random.key(0), (4, head.size))
    assert not np.any(jax.grad(lambda t: head.loss(out, t).sum())(jnp.ones(4)))
    assert np.any(jax.grad(lambda x: head.loss(x, jnp.ones(4)).sum())(out))


@parametrize
def test_gradient_by_finite_differences(head):
    """Central differences in float64."""
    with jax.enable_x64(True):
        x, target = jax.random.normal(jax.random.key(1), (3 * head.size,)), jnp.array([0.5, -0.2, 1.0])

        def f(x):
            return head.loss(x.reshape(3, head.size), target).sum()

        slow = [(f(x + e) - f(x - e)) / 2e-6 for e in 1e-6 * jnp.eye(x.size)]
        np.testing.assert_allclose(jax.grad(f)(x), slow, rtol=1e-6, atol=1e-9)


@parametrize
def test_wrong_ranks_are_refused(head):
    """A target with an axis too many is an error, not a table of all pairs."""
    for target in (jnp.zeros((4, 1)), jnp.zeros((1, 4))):
        with pytest.raises((ValueError, TypeError)):
            head.loss(jnp.zeros((4, head.size)), target)


def test_scalar_by_hand():
    """The output is the value, the loss the squared error."""
    head, out = heads.Scalar(), jnp.array([[1.0], [-2.0]])
    np.testing.assert_array_equal(head.value(out), [1.0, -2.0])
    np.testing.assert_array_equal(head.loss(out, jnp.array([3.0, -2.5])), [4.0, 0.25])
