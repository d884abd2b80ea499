"""Targets and losses against hand-computed numbers, slow numpy loops and finite differences."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rljax import heads, losses

pytestmark = pytest.mark.usefixtures("no_rank_promotion")


def critic_loss(out, target):
    """The loss of regression towards numbers [B]."""
    return losses.critic_loss(heads.Scalar(), out, losses.Target(target, target))[0]


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


@pytest.mark.parametrize("axis", [0, 1])
def test_the_smallest_has_all_of_the_gradient(axis):
    """The minimum of an ensemble, differentiated for one member only, also where two are equal."""
    values = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    values = np.concatenate([values, values], axis)  # every minimum twice
    np.testing.assert_array_equal(losses.smallest(jnp.asarray(values), axis), values.min(axis))
    gradient = np.asarray(jax.grad(lambda x: (2 * losses.smallest(x, axis)).sum())(jnp.asarray(values)))
    expected = np.zeros_like(values)
    np.put_along_axis(expected, np.expand_dims(values.argmin(axis), axis), 2, axis)
    np.testing.assert_array_equal(gradient, expected)


def test_td_target_is_not_differentiated():
    """No gradient flows into reward, value or discount."""
    grads = jax.grad(lambda r, v, d: losses.td_target(r, jnp.zeros(3), v, d).sum(), (0, 1, 2))(jnp.ones(3), jnp.ones(3), 0.9)
    assert not any(np.any(g) for g in grads)


def test_critic_loss_by_hand():
    """Mean over the batch, sum over the critics: ((0.25 + 1) + (0 + 4)) / 2."""
    out = jnp.array([[[0.5], [2.0]], [[1.0], [1.0]]])
    np.testing.assert_allclose(critic_loss(out, jnp.array([1.0, 3.0])), 2.625)


def test_critic_loss_against_a_loop():
    """Three critics, seven targets."""
    rng = np.random.default_rng(1)
    out, target = rng.normal(size=(3, 7, 1)), rng.normal(size=7)
    slow = sum(np.mean([(out[n, b, 0] - target[b]) ** 2 for b in range(7)]) for n in range(3))
    np.testing.assert_allclose(critic_loss(jnp.asarray(out), jnp.asarray(target)), slow, rtol=1e-5)


def test_each_critic_gets_the_gradient_it_would_have_alone():
    """The sum over critics does not scale learning rates by 1/N."""
    out, target = jax.random.normal(jax.random.key(0), (4, 6, 1)), jnp.arange(6.0)
    together = jax.grad(lambda x: critic_loss(x, target))(out)
    alone = jax.grad(lambda x: critic_loss(x, target))(out[2:3])
    np.testing.assert_allclose(together[2:3], alone, rtol=1e-6)


def test_critic_loss_refuses_a_target_of_the_wrong_rank():
    """[B, 1] against [B] is an error, not a [B, B] table."""
    with pytest.raises((ValueError, TypeError)):
        critic_loss(jnp.zeros((2, 5, 1)), jnp.zeros((5, 1)))


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
            return critic_loss(x.reshape(2, 6, 1), target)

        for f, x in (
            (critic, jax.random.normal(jax.random.key(0), (12,))),
            (lambda x: losses.temperature_loss(x[0], jnp.array(3.0), 1.0), jnp.array([0.7])),
        ):
            basis = 1e-6 * jnp.eye(x.size)
            slow = [(f(x + e) - f(x - e)) / 2e-6 for e in basis]
            np.testing.assert_allclose(jax.grad(f)(x), slow, rtol=1e-6, atol=1e-9)


def test_least_picks_the_critic_place_by_place():
    """Values and outputs are those of the critic with the smaller value, for each element of a batch."""
    head = heads.C51(low=-1.0, high=1.0, bins=3)
    out = jnp.array([[[0.0, 0.0, 5.0], [5.0, 0.0, 0.0]], [[0.0, 5.0, 0.0], [0.0, 5.0, 0.0]]])  # values near 1, -1; 0, 0
    value, chosen = losses.least(head, out)
    np.testing.assert_array_equal(chosen, [out[1, 0], out[0, 1]])
    np.testing.assert_allclose(value, head.value(chosen))
    value, chosen = losses.least(heads.Scalar(), jnp.array([[[3.0], [-1.0]], [[2.0], [0.0]]]))
    np.testing.assert_array_equal(value, [2.0, -1.0])


def test_backup_is_the_target_or_a_distribution_around_it():
    """Numbers for most heads; for C51 reward + discount * Z moved by the bonus, without Z at a terminal; no gradient."""
    head, rng = heads.C51(low=-10.0, high=10.0, bins=41), np.random.default_rng(0)
    out = jnp.asarray(rng.normal(size=(2, 41)), jnp.float32)
    reward, terminated, bonus = jnp.array([1.0, 2.0]), jnp.array([0.0, 1.0]), 0.5
    value = head.value(out) + bonus

    def run(head, out):
        return losses.backup(head, reward, terminated, value, out, 0.9)

    plain, encoded = run(heads.HLGauss(), out), run(head, out)
    for number in (*plain, encoded.number):
        np.testing.assert_allclose(number, losses.td_target(reward, terminated, value, 0.9))
    q, z, p = encoded.encoded, np.linspace(-10, 10, 41), np.asarray(jax.nn.softmax(out[0]), np.float64)
    slow = np.zeros(41)
    for weight, atom in zip(p, z, strict=True):  # one half of an atom's width apart
        at = (min(max(1.0 + 0.9 * (atom + bonus), -10.0), 10.0) + 10.0) / 0.5
        slow[int(at)] += weight * (1 - at % 1)
        slow[min(int(at) + 1, 40)] += weight * (at % 1)
    np.testing.assert_allclose(q[0], slow, atol=1e-6)
    np.testing.assert_allclose(q[1], z == 2.0, atol=1e-5)
    assert not np.any(jax.grad(lambda out: run(head, out).encoded[0, 3])(out))


@pytest.mark.parametrize("head", [heads.Scalar(), heads.HLGauss(low=-6.0, high=6.0, bins=25)], ids=["Scalar", "HLGauss"])
def test_expectile_loss_is_least_at_the_expectile(head):
    """Descending on four numbers at once ends at the v with sum |tau - 1(x < v)| (x - v) = 0, also with categorical values."""
    tau, numbers = 0.8, np.array([-2.0, 0.0, 1.0, 3.0])
    target, optimizer = jnp.asarray(numbers, jnp.float32), optax.adam(optax.cosine_decay_schedule(0.05, 3_000))

    def loss(out):
        return losses.expectile_loss(head, jnp.broadcast_to(out, (4, head.size)), target, tau)

    def step(carry, _):
        out, state = carry
        updates, state = optimizer.update(jax.grad(loss, has_aux=True)(out)[0], state)
        return (out + updates, state), None

    (out, _), _ = jax.lax.scan(step, (jnp.zeros(head.size), optimizer.init(jnp.zeros(head.size))), length=3_000)
    v = float(head.value(out))
    low, high = -2.0, 3.0
    for _ in range(60):  # bisection of the definition
        middle = (low + high) / 2
        above = (np.abs(tau - (numbers < middle)) * (numbers - middle)).sum() > 0
        low, high = (middle, high) if above else (low, middle)
    np.testing.assert_allclose(v, low, atol=5e-3)
    metrics = loss(out)[1]
    assert ("value/clipped" in metrics) == (head.size > 1)
    np.testing.assert_allclose(metrics["value/v"], v, rtol=1e-6)


def test_advantages_against_a_double_sum():
    """Weighted sums of later TD errors up to the end of the episode, of either kind, that step's own included."""
    rng = np.random.default_rng(5)
    delta, end = rng.normal(size=(12, 3)), rng.random((12, 3))
    terminated, truncated = end < 0.15, end > 0.85
    slow = np.zeros((12, 3))
    for t, e in np.ndindex(12, 3):
        for k in range(t, 12):
            slow[t, e] += (0.9 * 0.7) ** (k - t) * delta[k, e]
            if terminated[k, e] or truncated[k, e]:
                break
    out = losses.advantages(*map(jnp.asarray, (delta, terminated, truncated)), 0.9, 0.7)
    np.testing.assert_allclose(out, slow, rtol=1e-5, atol=1e-6)
    assert terminated.any() and truncated.any()


def test_advantages_at_the_limits():
    """Decay 0 gives the TD errors, decay 1 with exact values of the return gives 0 everywhere."""
    delta, no = jnp.array([[1.0], [-2.0], [3.0]]), jnp.zeros((3, 1), bool)
    np.testing.assert_array_equal(losses.advantages(delta, no, no, 0.9, 0.0), delta)
    np.testing.assert_array_equal(losses.advantages(jnp.zeros((3, 1)), no, no, 0.9, 1.0), jnp.zeros((3, 1)))
