"""Targets and losses that two or more agents use. Batches have a leading axis B; nothing here samples."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def td_target(reward: jax.Array, terminated: jax.Array, next_value: jax.Array, discount: jax.Array | float) -> jax.Array:
    """One-step target [B]: ``reward + discount * (1 - terminated) * next_value``, all [B], not differentiated.

    A time limit does not enter: a truncated step bootstraps from its true successor (arXiv:1712.00378).
    """
    return jax.lax.stop_gradient(reward + discount * (1 - terminated) * next_value)


def critic_loss(head: Any, out: jax.Array, target: jax.Array) -> jax.Array:
    """Scalar: the head's loss of outputs [N, B, size] against targets [B], mean over B and sum over the N critics.

    The sum gives each critic the gradient it would have alone (arXiv:1812.05905 eq. 5, without its factor 1/2).
    """
    return jax.vmap(head.loss, (0, None))(out, target).mean(-1).sum()


def temperature_loss(log_alpha: jax.Array, entropy: jax.Array, target_entropy: jax.Array | float) -> jax.Array:
    """Scalar ``alpha * (entropy - target)``: alpha falls while the policy's mean entropy is above its target.

    Source: arXiv:1812.05905 eq. 18. Only ``log_alpha`` is differentiated.
    """
    return jnp.exp(log_alpha) * jax.lax.stop_gradient(entropy - target_entropy)


def expectile_loss(difference: jax.Array, expectile: jax.Array | float) -> jax.Array:
    """``|expectile - 1(u < 0)| u^2`` [...] of differences u = target - prediction [...] (arXiv:2110.06169 eq. 4)."""
    return jnp.abs(expectile - (difference < 0)) * difference**2


def conservative_gap(sampled: jax.Array, log_mu: jax.Array, data: jax.Array, temperature: jax.Array | float) -> jax.Array:
    """``T logsumexp_k((Q_k - log mu_k) / T) - Q(s, a)`` [N, B], what CQL pushes down.

    ``sampled`` [N, K, B] are the values of K actions drawn with log density ``log_mu`` [K, B], ``data`` [N, B] those of the
    recorded actions. Source: arXiv:2006.04779 appendix F, with the importance weights of its code; log K is not subtracted.
    """
    return temperature * jax.nn.logsumexp((sampled - log_mu) / temperature, axis=1) - data
