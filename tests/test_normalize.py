"""Running observation statistics against numpy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import normalize
from rljax.base import Array


def run(space, chunks, update=normalize.running):
    """Statistics after ``update`` on each chunk in turn."""
    stats = normalize.init(space)
    for chunk in chunks:
        stats = jax.jit(update)(stats, jnp.asarray(chunk))
    return stats


@pytest.mark.parametrize("sizes", [(100,), (1, 99), (7, 1, 92), (1, 1, 1)])
def test_running_equals_numpy(sizes):
    """Any split into chunks gives the mean and the (population) variance of all."""
    rng = np.random.default_rng(0)
    x = rng.normal([1.0, -2.0, 0.0], [0.1, 3.0, 1.0], (sum(sizes), 3)).astype(np.float32)
    stats = run(Array((3,)), np.split(x, np.cumsum(sizes)[:-1]))
    assert stats.count == len(x)
    np.testing.assert_allclose(stats.mean, x.mean(0, dtype=np.float64), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(stats.var, x.var(0, dtype=np.float64), rtol=1e-4, atol=1e-9)


def test_leading_axes_are_free():
    """[U, B, D] counts as U * B observations."""
    x = np.random.default_rng(1).normal(size=(4, 5, 2)).astype(np.float32)
    a, b = run(Array((2,)), [x]), run(Array((2,)), [x.reshape(20, 2)])
    jax.tree.map(lambda p, q: np.testing.assert_allclose(p, q, rtol=1e-5, atol=1e-6), a, b)


def test_a_mean_far_from_zero_keeps_its_variance():
    """Mean 1e4 with standard deviation 1: sums of squares would lose it in float32."""
    x = np.random.default_rng(2).normal(1e4, 1.0, (50, 200, 1)).astype(np.float32)
    stats = run(Array((1,)), x)
    np.testing.assert_allclose(stats.var, x.astype(np.float64).var((0, 1)), rtol=1e-2)
    np.testing.assert_allclose(stats.mean, x.astype(np.float64).mean((0, 1)), rtol=1e-6)


def test_chunks_with_means_far_apart():
    """The spread between chunks enters the variance."""
    chunks = [np.full((10, 1), -1e3, np.float32), np.full((30, 1), 1e3, np.float32)]
    stats = run(Array((1,)), chunks)
    np.testing.assert_allclose((stats.mean[0], stats.var[0]), (500.0, 750_000.0), rtol=1e-6)


def test_apply_gives_zero_mean_and_unit_variance():
    """Also for raw scales far apart."""
    x = np.random.default_rng(3).normal([5.0, -100.0], [0.01, 30.0], (1000, 2)).astype(np.float32)
    y = np.asarray(normalize.apply(run(Array((2,)), [x]), jnp.asarray(x)))
    np.testing.assert_allclose(y.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(y.std(0), 1, rtol=1e-3)


def test_a_constant_element_stays_finite():
    """The standard deviation is at least 1e-3."""
    stats = run(Array((1,)), [np.full((10, 1), 3.0, np.float32)])
    np.testing.assert_allclose(normalize.apply(stats, jnp.array([[3.0], [3.1]])), [[0.0], [100.0]], rtol=1e-3)


def test_fixed_never_moves():
    """Statistics and floats stay as they are, bit for bit."""
    x = np.random.default_rng(4).normal(3.0, 5.0, (10, 2)).astype(np.float32)
    stats = run(Array((2,)), [x], normalize.fixed)
    jax.tree.map(np.testing.assert_array_equal, stats, normalize.init(Array((2,))))
    np.testing.assert_array_equal(normalize.apply(stats, jnp.asarray(x)), x)


@pytest.mark.parametrize("update", [normalize.fixed, normalize.running])
@pytest.mark.parametrize("space", [Array((3,)), Array((4, 4, 2), "uint8", 0, 255)])
def test_structure_shapes_and_dtypes_are_kept(space, update):
    """Both updates can be the body of a scan: same tree, shapes, dtypes, and no weak types that compile twice."""
    before = normalize.init(space)
    after = update(before, jnp.ones((5, *space.shape), space.dtype))
    assert jax.tree.map(jax.typeof, after) == jax.tree.map(jax.typeof, before)
    assert not any(x.weak_type for x in before)
    assert normalize.apply(after, jnp.ones((5, *space.shape), space.dtype)).dtype == jnp.float32


def test_uint8_maps_to_the_unit_interval():
    """Images are divided by their upper bound, binary observations are not changed, with one number for all pixels."""
    x = jnp.array([[0, 51], [255, 1]], jnp.uint8)
    image = normalize.init(Array((1, 2, 1), "uint8", 0, 255))
    assert image.mean.shape == ()
    np.testing.assert_allclose(normalize.apply(image, x), np.asarray(x) / 255, rtol=1e-6)
    binary = normalize.init(Array((2,), "uint8", 0, 1))
    np.testing.assert_array_equal(normalize.apply(binary, x % 2), np.asarray(x) % 2)


def test_uint8_without_bounds_means_255():
    """A space that leaves its bounds open still gives finite observations in [0, 1]."""
    stats = normalize.init(Array((2,), "uint8"))
    np.testing.assert_allclose(normalize.apply(stats, jnp.array([0, 255], jnp.uint8)), [0.0, 1.0], rtol=1e-6)


def test_running_on_uint8():
    """Sums do not wrap around at 256, and what was known before any data is forgotten."""
    x = np.random.default_rng(5).integers(0, 256, (3, 20, 4, 4, 2)).astype(np.uint8)
    stats = run(Array((4, 4, 2), "uint8", 0, 255), x)
    assert stats.count == x.size
    np.testing.assert_allclose((stats.mean, stats.var), (x.mean(), x.var()), rtol=1e-4)


def test_follows_x64():
    """Under x64 the statistics are float64."""
    with jax.enable_x64(True):
        assert {x.dtype for x in normalize.init(Array((2,)))} == {np.dtype("float64")}
