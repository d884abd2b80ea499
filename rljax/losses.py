"""Targets and losses that two or more agents use. Batches have a leading axis B; nothing here samples."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rljax.base import Transition
from rljax.heads import Head


def td_target(reward: jax.Array, terminated: jax.Array, next_value: jax.Array, discount: jax.Array | float) -> jax.Array:
    """One-step target [B]: ``reward + discount * (1 - terminated) * next_value``, all [B], not differentiated.

    A time limit does not enter: a truncated step bootstraps from its true successor (arXiv:1712.00378).
    """
    return jax.lax.stop_gradient(reward + discount * (1 - terminated) * next_value)


def n_step(t: Transition, discount: jax.Array | float) -> tuple[Transition, jax.Array]:
    """``(transition [B], discount^k [B])`` of windows [n, B, ...] of consecutive steps, to the successor of the k-th.

    The reward is ``sum_i discount^i r_i`` over the k steps up to the first end of an episode, of either kind, or all n
    (arXiv:1710.02298 eq. 2). What follows an end in the window does not count.
    """
    num = t.reward.shape[0]
    last = jnp.argmax((t.terminated | t.truncated).at[-1].set(True), 0)
    powers = jnp.cumprod(jnp.full(num + 1, discount).at[0].set(1.0))
    counts = jnp.arange(num)[:, None] <= last[None]
    reward = jnp.where(counts, powers[:-1, None] * t.reward, 0.0).sum(0)
    end = jax.tree.map(lambda x: x[last, jnp.arange(last.size)], t)
    return end._replace(obs=t.obs[0], action=t.action[0], reward=reward), powers[last + 1]


class Target(NamedTuple):
    """What critics are brought to: numbers [B], and the same as the head's `loss` wants them."""

    number: jax.Array
    encoded: jax.Array


def backup(
    head: Head,
    reward: jax.Array,
    terminated: jax.Array,
    next_value: jax.Array,
    next_out: jax.Array,
    discount: jax.Array | float,
) -> Target:
    """The one-step target: `td_target` [B], encoded as a distribution [B, size] around it if the head wants one.

    ``next_out`` [B, size] are the outputs that ``next_value`` [B] was made of, with or without an entropy bonus: the
    distribution is theirs, scaled by the discount and moved to the mean `td_target`.
    """
    target = td_target(reward, terminated, next_value, discount)
    return Target(target, jax.lax.stop_gradient(head.backup(target, discount * (1 - terminated), next_out)))


def advantages(
    delta: jax.Array, terminated: jax.Array, truncated: jax.Array, discount: jax.Array | float, decay: jax.Array | float
) -> jax.Array:
    """Generalised advantage estimates [T, ...] of the TD errors ``delta`` [T, ...] of consecutive steps.

    ``sum_l (discount decay)^l delta_{t+l}`` up to the end of the episode, of either kind, or of the T steps (arXiv:1506.02438
    eq. 16). At a time limit the last TD error holds the value of the true successor, as of `td_target`.
    """

    def back(later: jax.Array, x: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        delta, done = x
        advantage = delta + discount * decay * jnp.where(done, 0.0, later)
        return advantage, advantage

    return jax.lax.scan(back, jnp.zeros_like(delta[0]), (delta, terminated | truncated), reverse=True)[1]


def chosen(out: jax.Array, action: jax.Array) -> jax.Array:
    """Outputs [N, B, size] of the actions [B] taken, of outputs [N, B, A, size] for all A actions."""
    return jnp.take_along_axis(out, action[None, :, None, None], 2)[:, :, 0]


def smallest(values: jax.Array, axis: int = 0) -> jax.Array:
    """The minimum along ``axis``, and all of its gradient to the first that attains it.

    The gradient of ``jnp.min`` divides by the number of equals, which is 0 / 0 where a compiler rounds the values once more.
    """
    index = jnp.expand_dims(values.argmin(axis), axis)
    return jnp.take_along_axis(values, index, axis).squeeze(axis)


def least(head: Head, out: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``(value [...], out [..., size])`` of the critic of least value, place by place, of outputs [N, ..., size]."""
    value = head.value(out)
    return value.min(0), jnp.take_along_axis(out, value.argmin(0)[None, ..., None], 0)[0]


def critic_loss(head: Head, out: jax.Array, target: Target) -> tuple[jax.Array, dict[str, jax.Array]]:
    """``(loss, metrics)``: the head's loss of outputs [N, B, size] against targets, mean over B and sum over the N critics.

    The sum gives each critic the gradient it would have alone (arXiv:1812.05905 eq. 5, without its factor 1/2).
    """
    loss = jax.vmap(head.loss, (0, None))(out, target.encoded).mean(-1).sum()
    seen = {f"critic/{name}": value for name, value in head.metrics(target.number).items()}
    return loss, {"critic/loss": loss, "critic/q": head.value(out).mean(), **seen}


def temperature_loss(log_alpha: jax.Array, entropy: jax.Array, target_entropy: jax.Array | float) -> jax.Array:
    """Scalar ``alpha * (entropy - target)``: alpha falls while the policy's mean entropy is above its target.

    Source: arXiv:1812.05905 eq. 18. Only ``log_alpha`` is differentiated.
    """
    return jnp.exp(log_alpha) * jax.lax.stop_gradient(entropy - target_entropy)


def expectile_loss(
    head: Head, out: jax.Array, target: jax.Array, expectile: jax.Array | float
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """``(loss, metrics)``: mean of ``|expectile - 1(u < 0)| loss`` of outputs [B, size], u = target [B] - value.

    The loss is u^2 with `heads.Scalar` (arXiv:2110.06169 eq. 4). With every head whose targets keep their mean it is least
    where the value is the expectile, because there the weighted mean of the targets is the value.
    """
    value = head.value(out)
    weight = jax.lax.stop_gradient(jnp.abs(expectile - (target < value)))
    loss = (weight * head.loss(out, target)).mean()
    seen = {f"value/{name}": x for name, x in head.metrics(target).items()}
    return loss, {"value/loss": loss, "value/v": value.mean(), **seen}


def conservative_gap(sampled: jax.Array, log_mu: jax.Array, data: jax.Array, temperature: jax.Array | float) -> jax.Array:
    """``T logsumexp_k((Q_k - log mu_k) / T) - Q(s, a)`` [N, B], what CQL pushes down.

    ``sampled`` [N, K, B] are the values of K actions drawn with log density ``log_mu`` [K, B], ``data`` [N, B] those of the
    recorded actions. Source: arXiv:2006.04779 appendix F, with the importance weights of its code; log K is not subtracted.
    """
    return temperature * jax.nn.logsumexp((sampled - log_mu) / temperature, axis=1) - data
