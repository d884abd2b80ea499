"""Value heads: how the last layer of a critic encodes a number, and which loss brings it to a target.

A head has ``size`` (outputs per value), ``value(out [..., size]) -> [...]``, ``loss(out [..., size], target [...]) -> [...]``.
"""

from __future__ import annotations

import jax

from rljax.config import config


@config
class Scalar:
    """Regression: one output, squared error."""

    @property
    def size(self) -> int:
        """1, the number of outputs per value."""
        return 1

    def value(self, out: jax.Array) -> jax.Array:
        """The value [...] of outputs [..., 1]."""
        return out[..., 0]

    def loss(self, out: jax.Array, target: jax.Array) -> jax.Array:
        """Squared error [...] between ``out`` [..., 1] and ``target`` [...], which is not differentiated."""
        return (out[..., 0] - jax.lax.stop_gradient(target)) ** 2
