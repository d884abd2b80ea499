"""The fixtures do what they promise."""

import jax
import jax.numpy as jnp
import pytest


def test_key_reuse_raises(key_reuse_checks):
    key = jax.random.key(0)
    jax.random.normal(key)
    with pytest.raises(jax.errors.KeyReuseError):
        jax.random.normal(key)


def test_rank_promotion_raises(no_rank_promotion):
    with pytest.raises(ValueError, match="rank"):
        jnp.ones(3) + jnp.ones((2, 3))


def test_compilations_are_counted_once_per_shape(compilations):
    small, large = jnp.ones(3), jnp.ones(4)

    def double(x):
        return 2 * x

    for _ in range(2):  # the second program is another function of the same text: found in the cache, and counted
        function = jax.jit(lambda x: double(x))
        function.__wrapped__.__name__ = "double"
        with compilations() as names:
            function(small), function(small), function(large)
        assert len(names) == 2
