"""Targets and losses against hand-computed numbers, slow numpy loops and finite differences."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import heads, losses

pytestmark = pytest.mark.usefixtures("no_rank_promotion")


def test_td_target_by_hand():
    """1 + 0.9 * 10 where the episode goes on, 1 where it terminated."""
    args = (jnp.array([1.0, 1.0, -2.0]), jnp.array([False, True, False]), jnp.array([10.0, 10.0, 5.0]), 0.9)
    np.testing.assert_allclose(losses.td_target(*args), [10.0, 1.0, 2.5], rtol=1e-6)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.float32])
def test_td_target_against_numpy(dtype):
    """Whatever dtype the replay stores `terminated` in; float32 comes out."""
    rng = np.random.default_rng(0)
    reward, value = rng.normal(size=(2, 50)).astype(np.float32)
    terminated = rng.random(50) < 0.3
    slow = [r if d else r + 0.97 * v for r, d, v in zip(reward, terminated, value, strict=True)]
    out = losses.td_target(jnp.asarray(reward), jnp.asarray(terminated.astype(dtype)), jnp.asarray(value), 0.97)
    np.testing.assert_allclose(out, slow, rtol=1e-5, atol=1e-6)
    assert out.dtype == jnp.float32


def test_td_target_is_not_differentiated():
    """No gradient flows into reward, value or discount."""
    grads = jax.grad(lambda r, v, d: losses.td_target(r, jnp.zeros(3), v, d).sum(), (0, 1, 2))(jnp.ones(3), jnp.ones(3), 0.9)
    assert not any(np.any(g) for g in grads)


def test_critic_loss_by_hand():
    """Mean over the batch, sum over the critics: ((0.25 + 1) + (0 + 4)) / 2."""
    out = jnp.array([[[0.5], [2.0]], [[1.0], [1.0]]])
    np.testing.assert_allclose(losses.critic_loss(heads.Scalar(), out, jnp.array([1.0, 3.0]))[0], 2.625)


def test_critic_loss_against_a_loop():
    """Three critics, seven targets."""
    rng = np.random.default_rng(1)
    out, target = rng.normal(size=(3, 7, 1)), rng.normal(size=7)
    slow = sum(np.mean([(out[n, b, 0] - target[b]) ** 2 for b in range(7)]) for n in range(3))
    np.testing.assert_allclose(losses.critic_loss(heads.Scalar(), jnp.asarray(out), jnp.asarray(target))[0], slow, rtol=1e-5)


def test_each_critic_gets_the_gradient_it_would_have_alone():
    """The sum over critics does not scale learning rates by 1/N."""
    out, target = jax.random.normal(jax.random.key(0), (4, 6, 1)), jnp.arange(6.0)
    together = jax.grad(lambda x: losses.critic_loss(heads.Scalar(), x, target)[0])(out)
    alone = jax.grad(lambda x: losses.critic_loss(heads.Scalar(), x, target)[0])(out[2:3])
    np.testing.assert_allclose(together[2:3], alone, rtol=1e-6)


def test_critic_loss_refuses_a_target_of_the_wrong_rank():
    """[B, 1] against [B] is an error, not a [B, B] table."""
    with pytest.raises((ValueError, TypeError)):
        losses.critic_loss(heads.Scalar(), jnp.zeros((2, 5, 1)), jnp.zeros((5, 1)))


def test_td_target_refuses_a_value_of_the_wrong_rank():
    """[B, 1] against [B] is an error, not a [B, B] table."""
    with pytest.raises((ValueError, TypeError)):
        losses.td_target(jnp.zeros(5), jnp.zeros(5), jnp.zeros((5, 1)), 0.9)


def test_temperature_loss_by_hand():
    """exp(log 2) * (3 - 1) = 4, and so is its derivative by log alpha."""
    value, grad = jax.value_and_grad(losses.temperature_loss)(jnp.log(2.0), jnp.array(3.0), 1.0)
    np.testing.assert_allclose((value, grad), (4.0, 4.0), rtol=1e-6)


def test_temperature_moves_the_entropy_towards_its_target():
    """Descent lowers alpha where entropy is too high and raises it where it is too low."""
    grad = jax.vmap(jax.grad(losses.temperature_loss), (None, 0, None))(jnp.zeros(()), jnp.array([2.0, 1.0, 0.0]), 1.0)
    np.testing.assert_array_equal(np.sign(grad), [1.0, 0.0, -1.0])


def test_temperature_loss_differentiates_log_alpha_only():
    """Neither the policy's entropy nor the target entropy gets a gradient."""
    grads = jax.grad(losses.temperature_loss, (1, 2))(jnp.array(0.5), jnp.array(3.0), jnp.array(1.0))
    assert not any(np.any(g) for g in grads)


def test_gradients_by_finite_differences():
    """Central differences in float64."""
    with jax.enable_x64(True):
        target = jnp.linspace(-1.0, 1.0, 6)

        def critic(x):
            return losses.critic_loss(heads.Scalar(), x.reshape(2, 6, 1), target)[0]

        for f, x in (
            (critic, jax.random.normal(jax.random.key(0), (12,))),
            (lambda x: losses.temperature_loss(x[0], jnp.array(3.0), 1.0), jnp.array([0.7])),
        ):
            basis = 1e-6 * jnp.eye(x.size)
            slow = [(f(x + e) - f(x - e)) / 2e-6 for e in basis]
            np.testing.assert_allclose(jax.grad(f)(x), slow, rtol=1e-6, atol=1e-9)
