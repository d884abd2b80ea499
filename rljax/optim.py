"""One optimiser step, step sizes, target averaging, LaProp, and the multiplier of a constraint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

PyTree = Any


class Model(NamedTuple):
    """Parameters and the state of the optimiser that moves them."""

    params: PyTree
    opt_state: optax.OptState


def model(optimizer: optax.GradientTransformation, params: PyTree) -> Model:
    """``params`` with a fresh optimiser state."""
    return Model(params, optimizer.init(params))


def descend(
    optimizer: optax.GradientTransformation, loss: Callable[[PyTree], tuple[jax.Array, Any]], model: Model
) -> tuple[Model, Any]:
    """``(model, aux)`` after one optimiser step on ``loss(params) -> (scalar, aux)``; only ``params`` is differentiated."""
    grads, aux = jax.grad(loss, has_aux=True)(model.params)
    updates, opt_state = optimizer.update(grads, model.opt_state, model.params)
    return Model(optax.apply_updates(model.params, updates), opt_state), aux


def cosine(lr: jax.Array | float, steps: jax.Array | float) -> Callable[[jax.Array], jax.Array]:
    """The step size that falls from ``lr`` to 0 along half a cosine within ``steps`` optimiser steps (arXiv:1608.03983)."""
    return lambda count: lr * 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(count / steps, 1.0)))


def linear(lr: jax.Array | float, steps: jax.Array | float) -> Callable[[jax.Array], jax.Array]:
    """The step size that falls from ``lr`` to 0 along a line within ``steps`` optimiser steps."""
    return lambda count: lr * jnp.maximum(1 - count / steps, 0.0)


def polyak(target: PyTree, online: PyTree, tau: jax.Array | float) -> PyTree:
    """``(1 - tau) * target + tau * online``, leaf by leaf; exactly ``online`` for tau = 1."""
    return jax.tree.map(lambda t, o: (1 - tau) * t + tau * o, target, online)


def log_multiplier(optimizer: optax.GradientTransformation, value: jax.Array | float) -> Model:
    """A positive multiplier, stored as its logarithm (a scalar), that starts at ``value``."""
    return model(optimizer, jnp.log(jnp.asarray(value, float)))


def laprop(
    lr: jax.Array | float, warmup: jax.Array | float, max_norm: jax.Array | float, eps: float = 1e-20
) -> optax.GradientTransformation:
    """LaProp (arXiv:2002.04839) with decays 0.9 and 0.999: momentum of gradients that are divided by their deviation first.

    The step size rises to ``lr`` along a line within ``warmup`` optimiser steps; gradients are clipped to a global norm of
    ``max_norm`` before.
    """
    return optax.chain(
        optax.clip_by_global_norm(max_norm),
        optax.scale_by_rms(0.999, eps, eps_in_sqrt=False, bias_correction=True),
        optax.ema(0.9),
        optax.scale_by_schedule(lambda count: -lr * jnp.minimum((count + 1) / warmup, 1.0)),
    )
