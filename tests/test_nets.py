"""Networks and the tanh-Gaussian policy, against numpy and scipy in float64."""

from __future__ import annotations

from functools import partial

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy import stats
from scipy.stats import norm

from rljax import nets

KEY = jax.random.key(0)


def start(module, *args):
    """``(outputs, parameters)`` of a fresh network."""
    return jax.jit(module.init_with_output)(jax.random.key(0), *args)


def pre_tanh(mean, log_std, key):
    """The Gaussian draw behind `sample_tanh_gaussian` with the same key."""
    return distrax.Normal(mean, jnp.exp(log_std)).sample(seed=key)


def reference(mean, log_std, u):
    """Log density of tanh(u), in float64 from the change of variables; log(1 - tanh^2) = -2 log cosh u."""
    mean, log_std, u = (np.asarray(x, np.float64) for x in (mean, log_std, u))
    log_cosh = np.abs(u) + np.log1p(np.exp(-2 * np.abs(u))) - np.log(2)
    return (stats.norm.logpdf(u, mean, np.exp(log_std)) + 2 * log_cosh).sum(-1)


@pytest.mark.parametrize("offset", [0.0, 1.0, -3.0, 9.0, -20.0, 60.0, -300.0])
@pytest.mark.parametrize("log_std", [-5.0, 0.0, 2.0])
def test_log_prob_matches_scipy(offset, log_std):
    """Also where tanh(u) rounds to 1 and 1 - tanh(u)^2 to 0."""
    mean, log_std = jnp.full((64, 3), offset), jnp.full((64, 3), log_std)
    action, log_prob = nets.sample_tanh_gaussian(mean, log_std, KEY)
    u = pre_tanh(mean, log_std, KEY)
    assert action.shape == (64, 3) and log_prob.shape == (64,)
    assert np.isfinite(log_prob).all() and (np.abs(action) <= 1).all()
    np.testing.assert_allclose(action, np.tanh(np.asarray(u, np.float64)), atol=1e-6)
    # at |u| = 300 and std e^-5 one float32 step of u is 0.005 standard deviations
    np.testing.assert_allclose(log_prob, reference(mean, log_std, u), rtol=1e-5, atol=2e-2 if abs(offset) > 50 else 1e-3)


@pytest.mark.parametrize(("mean", "log_std"), [(0.0, 0.0), (1.5, -1.0), (-0.5, 0.7)])
def test_density_integrates_to_one(mean, log_std):
    """The histogram of actions has the density exp(log_prob), which sums to 1 over (-1, 1)."""
    with jax.enable_x64(True):
        n = 200_000
        args = (jnp.full((n, 1), mean), jnp.full((n, 1), log_std), jax.random.key(1))
        action, log_prob = map(np.asarray, jax.jit(nets.sample_tanh_gaussian)(*args))
    order = np.argsort(action[:, 0])
    a, density = action[order, 0], np.exp(log_prob[order])
    np.testing.assert_allclose(np.trapezoid(density, a), 1.0, atol=2e-3)
    middle = np.searchsorted(a, np.tanh(mean))
    np.testing.assert_allclose(np.trapezoid(density[:middle], a[:middle]), 0.5, atol=2e-3)


def test_samples_follow_the_gaussian():
    """Before the tanh, samples pass a Kolmogorov-Smirnov test; two keys give different ones."""
    mean, log_std = jnp.full((5000, 1), 0.3), jnp.full((5000, 1), -0.5)
    action, _ = nets.sample_tanh_gaussian(mean, log_std, KEY)
    u = np.arctanh(np.asarray(action, np.float64))[:, 0]
    assert stats.kstest(u, stats.norm(0.3, np.exp(-0.5)).cdf).pvalue > 1e-3
    other, _ = nets.sample_tanh_gaussian(mean, log_std, jax.random.key(1))
    assert (np.asarray(action) != np.asarray(other)).mean() > 0.99


def test_reparameterised_gradients():
    """d action and d log_prob by mean and log_std agree with central differences at the same key, in float64."""
    with jax.enable_x64(True):
        mean, log_std, key = jnp.array([[0.3, -0.8]]), jnp.array([[-0.4, 0.2]]), jax.random.key(3)

        @jax.jit
        def f(x, weight):
            action, log_prob = nets.sample_tanh_gaussian(x[0], x[1], key)
            return (action * weight).sum() + log_prob.sum() * (1 - weight.sum())

        for weight in (jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0]), jnp.array([0.0, 0.0])):
            x = jnp.stack([mean, log_std])
            grad = jax.jit(jax.grad(f))(x, weight)
            for index in np.ndindex(*x.shape):
                step = jnp.zeros_like(x).at[index].set(1e-6)
                difference = (f(x + step, weight) - f(x - step, weight)) / 2e-6
                np.testing.assert_allclose(grad[index], difference, rtol=1e-6, atol=1e-8)


def test_gradients_are_finite_far_out():
    """Saturated actions give no nan."""
    for offset in (50.0, -50.0):
        x = jnp.full((4, 2), offset)
        grad = jax.grad(lambda m: nets.sample_tanh_gaussian(m, jnp.full_like(m, 2.0), KEY)[1].sum())(x)
        assert np.isfinite(grad).all()


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("depth", [0, 1, 3])
def test_policy_shapes(depth, layer_norm):
    """Mean and log standard deviation are [B, A], logits [B, A]; `outputs` reads their number off the parameters."""
    obs = jnp.zeros((5, 4))
    gaussian, categorical = nets.GaussianPolicy(3, 16, depth, layer_norm), nets.CategoricalPolicy(7, 16, depth, layer_norm)
    (mean, log_std), params = jax.eval_shape(gaussian.init_with_output, KEY, obs)
    assert mean.shape == log_std.shape == (5, 3) and nets.outputs(params) == 6
    logits, params = jax.eval_shape(categorical.init_with_output, KEY, obs)
    assert logits.shape == (5, 7) and nets.outputs(params) == 7
    assert (
        sum("LayerNorm" in jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(params))
        == 2 * depth * layer_norm
    )
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(params))


def test_log_std_stays_within_its_bounds():
    """-5 <= log_std <= 2 whatever the input, -1.5 for a raw output of 0, and the ends are reached."""
    policy = nets.GaussianPolicy(2, 16, 0)
    params = {"params": {"head": {"kernel": jnp.eye(2, 4, 2), "bias": jnp.zeros(4)}}}
    _, log_std = policy.apply(params, jnp.array([[-100.0, 100.0], [0.0, 1.0]]))
    np.testing.assert_allclose(log_std, [[-5.0, 2.0], [-1.5, -1.5 + 3.5 * np.tanh(1.0)]], rtol=1e-6)


def test_torso_is_dense_norm_relu():
    """One hidden layer with LayerNorm against numpy."""
    torso = nets.Torso(8, 1, layer_norm=True)
    obs, action = jax.random.normal(KEY, (5, 3)), jax.random.normal(jax.random.key(1), (5, 2))
    out, params = start(torso, obs, action)
    layers = params["params"]
    x = np.concatenate([obs, action], -1) @ layers["Dense_0"]["kernel"]
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(out, np.maximum(x, 0), atol=1e-5)
    assert layers["Dense_0"]["kernel"].shape == (5, 8)


def test_dense_initialisation():
    """Weights are uniform in +-1/sqrt(fan_in), biases zero."""
    params = nets.dense(256).init(KEY, jnp.zeros((1, 64)))["params"]
    kernel = np.ravel(params["kernel"])
    assert stats.kstest(kernel, "uniform", (-1 / 8, 2 / 8)).pvalue > 1e-3
    assert not np.any(params["bias"])


def test_ensemble_members_are_independent():
    """Each member has its own start and only its own parameters move its output; outputs are [N, B, size]."""
    critic = nets.ensemble(4)(2, 16, 2)
    obs, action = jax.random.normal(KEY, (5, 3)), jnp.ones((5, 2))
    out, params = start(critic, obs, action)
    assert out.shape == (4, 5, 2)
    for kernel in (x for x in jax.tree.leaves(params) if x.ndim == 3):
        assert kernel.shape[0] == 4 and len({x.tobytes() for x in np.asarray(kernel)}) == 4
    changed = jax.tree.map(lambda x: x.at[2].add(1.0), params)
    moved = np.any(np.asarray(critic.apply(changed, obs, action) != out), (1, 2))
    np.testing.assert_array_equal(moved, [False, False, True, False])
    alone = nets.Critic(2, 16, 2).apply(jax.tree.map(lambda x: x[1], params), obs, action)
    np.testing.assert_allclose(alone, out[1], rtol=1e-5, atol=1e-6)


def test_discrete_critic_has_one_value_per_action():
    """Outputs are [N, B, A, size]; each column of the last layer belongs to one action."""
    critic = nets.ensemble(2)(3, 16, 1, False, 4)
    out, params = start(critic, jax.random.normal(KEY, (5, 6)))
    assert out.shape == (2, 5, 4, 3)
    bias = params["params"]["head"]["bias"]
    params["params"]["head"]["bias"] = bias.at[0, 2 * 3 + 1].add(10.0)
    difference = critic.apply(params, jax.random.normal(KEY, (5, 6))) - out
    expected = np.zeros((2, 5, 4, 3))
    expected[0, :, 2, 1] = 10
    np.testing.assert_allclose(difference, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "features"),
    [
        ((10, 10, 4), 8 * 8 * 16),
        ((16, 16, 1), 14 * 14 * 16),
        ((84, 84, 4), 7 * 7 * 64),
        ((36, 36, 3), 64),
        ((36, 48, 3), 2 * 64),
    ],
)
def test_image_features(shape, features):
    """One 3x3 convolution for small images, the DQN stack for large ones."""
    assert jax.eval_shape(nets.Images().init_with_output, KEY, jnp.zeros((2, *shape)))[0].shape == (2, features)


@pytest.mark.parametrize("side", [3, 17, 24, 35])
def test_images_of_every_size_have_features(side):
    """No size of image shrinks to nothing on its way through the convolutions."""
    policy = nets.CategoricalPolicy(3, 16, 1)
    logits, _ = jax.eval_shape(policy.init_with_output, KEY, jnp.zeros((2, side, 84, 3)))
    assert logits.shape == (2, 3)


def test_image_policy_uses_every_pixel():
    """The gradient of the logits reaches each pixel of a small image."""
    policy = nets.CategoricalPolicy(3, 16, 1)
    obs = jax.random.normal(KEY, (1, 10, 10, 2))
    _, params = start(policy, obs)
    assert np.all(jax.jit(jax.grad(lambda x: (policy.apply(params, x) ** 2).sum()))(obs) != 0)


def test_relu_and_its_derivative():
    """0 at 0 and below; what is not a number stays so."""
    x = jnp.array([-2.0, -0.0, 0.0, 3.0, jnp.nan, jnp.inf, -jnp.inf])
    np.testing.assert_array_equal(nets.relu(x), [0, 0, 0, 3, np.nan, np.inf, 0])
    np.testing.assert_array_equal(jax.vmap(jax.grad(nets.relu))(x), [0, 0, 0, 1, 0, 1, 0])


def test_layer_norm_and_its_gradient():
    """In float64, against numpy, and gradients against differences."""
    with jax.enable_x64(True):
        x, scale, bias = (
            jax.random.normal(key, shape) for key, shape in zip(jax.random.split(KEY, 3), ((4, 6), 6, 6), strict=True)
        )
        x = x.at[1].multiply(1e3).at[2].set(0.7)  # also rows that are large, and that are constant
        a = np.asarray(x)
        unit = (a - a.mean(1, keepdims=True)) / np.sqrt(a.var(1, keepdims=True) + 1e-6)
        np.testing.assert_allclose(nets.normalize_rows(x, scale, bias), unit * scale + bias, rtol=1e-6, atol=1e-6)
        rows = jnp.array([0, 3])  # differences are exact enough in
        check_grads(nets.normalize_rows, (x[rows], scale, bias), order=1, modes=["rev"])
        large = jax.grad(lambda x: (nets.normalize_rows(x, scale, bias) ** 2).sum())(x)
        assert np.isfinite(large).all()


def test_parameters_follow_x64():
    """Under x64 every parameter and output is float64."""
    with jax.enable_x64(True):
        critic = nets.ensemble(2)(1, 16, 1, True)
        out, params = start(critic, jnp.zeros((1, 3)), jnp.zeros((1, 2)))
        image, conv = start(nets.Images(), jnp.zeros((1, 10, 10, 1)))
        assert {x.dtype for x in jax.tree.leaves((out, params, image, conv))} == {np.dtype("float64")}


def clipped(mean, log_std, action):
    """The log-probability of actions of the clipped Gaussian."""
    return nets.CLIPPED_GAUSSIAN.log_prob((jnp.asarray(mean), jnp.asarray(log_std)), jnp.asarray(action))


def test_clipped_gaussian_is_a_density_and_two_masses():
    """Against scipy, dimension by dimension; density and masses sum to 1."""
    mean, log_std = np.array([0.3, -0.9]), np.array([-0.5, 0.4])
    for action in ([0.2, -0.7], [1.0, 0.1], [-1.0, 1.0], [-1.0, -1.0]):
        each = [
            norm.logpdf(a, m, np.exp(s))
            if abs(a) < 1
            else norm.logsf(1, m, np.exp(s))
            if a > 0
            else norm.logcdf(-1, m, np.exp(s))
            for a, m, s in zip(action, mean, log_std, strict=True)
        ]
        np.testing.assert_allclose(clipped(mean, log_std, np.array(action)), sum(each), rtol=1e-5)
    inside = np.linspace(-1, 1, 20_002)[1:-1, None]
    probabilities = np.exp(np.asarray(clipped(mean[:1], log_std[:1], inside)))
    masses = np.exp(np.asarray(clipped(mean[:1], log_std[:1], np.array([[-1.0], [1.0]]))))
    assert abs(probabilities.sum() * 1e-4 + masses.sum() - 1) < 1e-3 and (masses > 0.01).all()


def test_clipped_gaussian_samples_as_it_says():
    """Shares on the bounds and the mean of the rest are those of the log-probabilities; the mode is the clipped mean."""
    out = jnp.full((100_000, 1), 0.4), jnp.log(jnp.array([0.8]))
    action = np.asarray(nets.CLIPPED_GAUSSIAN.sample(out, jax.random.key(0)))
    for bound in (-1.0, 1.0):
        assert abs((action == bound).mean() - np.exp(clipped([0.4], np.log([0.8]), [bound]))) < 5e-3
    assert np.abs(action).max() == 1
    np.testing.assert_array_equal(
        nets.CLIPPED_GAUSSIAN.mode((jnp.array([0.4, 3.0]), out[1])), jnp.array([0.4, 1.0], jnp.float32)
    )
    np.testing.assert_allclose(nets.CLIPPED_GAUSSIAN.entropy(out)[0], norm(0.4, 0.8).entropy(), rtol=1e-5)


def test_clipped_gaussian_has_finite_gradients_far_away():
    """Means and actions on opposite bounds, with the smallest deviation that the network gives."""
    for mean in (-1.0, 0.0, 1.0):
        for action in (-1.0, -0.5, 1.0):
            f = partial(lambda a, m, s: clipped(m[None], s[None], jnp.array([a])), action)
            value, grads = jax.value_and_grad(f, (0, 1))(jnp.float32(mean), jnp.float32(-5.0))
            assert np.isfinite(value) and np.isfinite(grads).all()


def test_categorical_policy_is_the_softmax():
    """Log-probabilities, entropy, mode and the shares of samples."""
    out = jnp.log(jnp.array([0.2, 0.5, 0.3])) + 7
    policy = nets.CATEGORICAL
    np.testing.assert_allclose(policy.log_prob(jnp.tile(out, (3, 1)), jnp.arange(3)), np.log([0.2, 0.5, 0.3]), rtol=1e-5)
    np.testing.assert_allclose(policy.entropy(out), -sum(p * np.log(p) for p in (0.2, 0.5, 0.3)), rtol=1e-5)
    assert policy.mode(out) == 1
    drawn = np.asarray(policy.sample(jnp.tile(out, (20_000, 1)), jax.random.key(0)))
    np.testing.assert_allclose(np.bincount(drawn) / 20_000, [0.2, 0.5, 0.3], atol=0.015)


@pytest.mark.parametrize("size, kernel, stride", [(10, 3, 1), (36, 8, 4), (9, 4, 2)])
def test_convolution_is_that_of_jax(size, kernel, stride):
    """As one matrix product: values and gradients, for the sizes in use."""
    keys = jax.random.split(jax.random.key(0), 2)
    x, k = jax.random.normal(keys[0], (2, size, size, 3)), jax.random.normal(keys[1], (kernel, kernel, 3, 5))

    def theirs(x, k):
        return jax.lax.conv_general_dilated(x, k, (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    def results(f):
        return jax.jit(lambda x, k: (f(x, k), jax.grad(lambda x, k: jnp.sin(f(x, k)).sum(), (0, 1))(x, k)))(x, k)

    found = results(lambda x, k: nets._convolve(x, k, (stride, stride)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), found, results(theirs))
