"""One optimiser step, Adam and LaProp, step sizes, target averaging, and the multiplier of a constraint."""

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
    return _step(optimizer, model, *jax.grad(loss, has_aux=True)(model.params))


def descend_over(
    optimizer: optax.GradientTransformation,
    loss: Callable[[PyTree, PyTree], tuple[jax.Array, Any]],
    model: Model,
    blocks: PyTree,
) -> tuple[Model, Any]:
    """`descend` on the mean of ``loss(params, block) -> (scalar, aux)`` over ``blocks`` [N, ...]; ``aux`` is a mean, too.

    Blocks are differentiated one after the other, so only one has to keep what its gradient needs.
    """
    gradient = jax.grad(loss, has_aux=True)
    first, num = jax.tree.map(lambda x: x[0], blocks), jax.tree.leaves(blocks)[0].shape[0]
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(gradient, model.params, first))

    def add(sums: PyTree, block: PyTree) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, sums, gradient(model.params, block)), None

    grads, aux = jax.tree.map(lambda x: x / num, jax.lax.scan(add, zeros, blocks)[0])
    return _step(optimizer, model, grads, aux)


def _step(optimizer: optax.GradientTransformation, model: Model, grads: PyTree, aux: Any) -> tuple[Model, Any]:
    updates, opt_state = optimizer.update(grads, model.opt_state, model.params)
    # Every parameter waits for all gradients: XLA copies those that could change while the way back still reads them.
    wait = 0 * sum(x.ravel()[0] for x in jax.tree.leaves(grads))
    updates = jax.tree.map(lambda x: x + wait.astype(x.dtype), updates)
    return Model(optax.apply_updates(model.params, updates), opt_state), aux


def adam(lr: float | jax.Array | optax.Schedule, eps: float = 1e-8) -> optax.GradientTransformation:
    """`optax.adam` (arXiv:1412.6980, decays 0.9 and 0.999), but for rounding, and with its state.

    It divides each number once instead of three times: the corrections of both moments are those of the step and of ``eps``.
    """
    b1, b2 = 0.9, 0.999

    def update(grads: PyTree, state: Any, params: PyTree = None) -> tuple[PyTree, Any]:
        count = optax.safe_increment(state.count)
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, grads)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.nu, grads)
        second = jnp.sqrt(1 - b2**count)
        step = second / (1 - b1**count)
        updates = jax.tree.map(lambda m, v: step * m / (jnp.sqrt(v) + second * eps), mu, nu)
        return updates, optax.ScaleByAdamState(count, mu, nu)

    moments = optax.GradientTransformation(optax.scale_by_adam(b1, b2).init, update)
    return optax.chain(moments, optax.scale_by_learning_rate(lr))


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
