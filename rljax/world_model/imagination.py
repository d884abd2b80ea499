"""Imagination: from recorded steps on, along a policy or given actions, and as an environment."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rljax import losses
from rljax.base import Array, Env, Spec, batch_env
from rljax.world_model.model import (
    Memory,
    Params,
    action_size,
    begin,
    encode_action,
    features,
    forget,
    imagine,
    log_probs,
    most_probable,
    observe,
    outcome,
    reconstruct,
    sample,
)
from rljax.world_model.networks import Networks

Latent = Callable[[Networks, Params, Memory, jax.Array, Any], jax.Array]


class Dream(NamedTuple):
    """Imagined episodes: features [H + 1, N, F], actions [H, N], rewards and ends [H + 1, N] of the step that led to each."""

    features: jax.Array
    action: jax.Array
    reward: jax.Array
    ended: jax.Array


class Foreseen(NamedTuple):
    """Of observations [B, T, ...]: what they are decoded to, and what was imagined instead of those not seen; and outcomes.

    ``reward`` [B, T] and ``end``, its probability, are of each step; ``imagined`` and those not seen are open-loop.
    """

    reconstruction: jax.Array
    imagined: jax.Array
    reward: jax.Array
    end: jax.Array


def posterior(net: Networks, params: Params, memory: Memory, obs: jax.Array, unimix: Any) -> jax.Array:
    """Log-probabilities of z_t by o_t."""
    return log_probs(net.apply(params.networks, obs, method="encode"), unimix)


def prior(net: Networks, params: Params, memory: Memory, obs: jax.Array, unimix: Any) -> jax.Array:
    """Log-probabilities of z_t by what came before o_t, as Drama's code acts and begins to imagine."""
    return log_probs(net.apply(params.networks, memory.h, method="prior"), unimix)


def own(x: jax.Array) -> jax.Array:
    """What each of H actions leads to [H, N], of what led to each of H + 1 states [H + 1, N]."""
    return x[1:]


def arrival(x: jax.Array) -> jax.Array:
    """What the action before each of H actions led to, as in Drama's code."""
    return x[:-1]


def reset(done: jax.Array) -> jax.Array:
    """Whether each step [B, T] begins an episode, of whether it ends one; the first one of a window does, too."""
    return jnp.concatenate([jnp.ones_like(done[:, :1]), done[:, :-1]], 1)


def cross(done: jax.Array) -> jax.Array:
    """As if a window was one episode, as in Drama's code."""
    return jnp.zeros_like(done).at[:, 0].set(True)


def standard(reward: jax.Array, ended: jax.Array, value: jax.Array, discount: Any, decay: Any) -> jax.Array:
    """Lambda-returns [H, N] of rewards and ends [H, N] and values [H + 1, N] (arXiv:1506.02438)."""
    delta = losses.td_target(reward, ended, value[1:], discount) - value[:-1]
    return losses.advantages(delta, ended, jnp.zeros_like(ended), discount, decay) + value[:-1]


def official(reward: jax.Array, ended: jax.Array, value: jax.Array, discount: Any, decay: Any) -> jax.Array:
    """`standard` with V(s_t) where V(s_t+1) belongs, but for the last step, as in Drama's code."""
    return standard(reward, ended, jnp.concatenate([value[:1], value[:-2], value[-1:]]), discount, decay)


LATENTS = MappingProxyType({"posterior": posterior, "prior": prior})
RETURNS = MappingProxyType({"standard": standard, "official": official})
CREDIT = MappingProxyType({"own": own, "arrival": arrival})
BOUNDARIES = MappingProxyType({"reset": reset, "cross": cross})


def recall(
    net: Networks,
    params: Params,
    obs: jax.Array,
    action: jax.Array,
    first: jax.Array,
    latent: Latent,
    unimix: Any,
    key: jax.Array,
) -> tuple[jax.Array, Memory]:
    """``(z [N, Z], memory [N])`` at the last of observations [N, C, ...], after the encoded actions [N, C, A] before it.

    ``first`` [N, C] as of `observe`; ``latent`` is `posterior` or `prior`.
    """
    key_seen, key_latent = jax.random.split(key)
    memory = begin(net.size, obs.shape[0])
    if obs.shape[1] > 1:
        seen = obs[:, :-1], action[:, :-1], first[:, :-1]
        memory = forget(first[:, -1], observe(net, params, *seen, memory, unimix, key_seen)[1])
    return sample(latent(net, params, memory, obs[:, -1], unimix), key_latent), memory


def dream(
    net: Networks,
    params: Params,
    start: tuple[jax.Array, Memory],
    act: Callable[[jax.Array, jax.Array], jax.Array],
    num: int,
    steps: int,
    unimix: Any,
    key: jax.Array,
) -> Dream:
    """Episodes of ``steps`` steps from ``start``, as of `recall`, along ``act(features [N, F], key) -> action [N]``.

    ``num`` is the `action_size`. Nothing is differentiated.
    """

    def step(carry: tuple[jax.Array, Memory], key: jax.Array) -> tuple[tuple, tuple]:
        z, memory = carry
        key_action, key_next = jax.random.split(key)
        seen = features(z, memory)
        action = act(seen, key_action)
        imagined, ahead = imagine(net, params, z, encode_action(action, num), memory, unimix, key_next)
        return (imagined.z, ahead), (seen, memory.h, action)

    (z, memory), (seen, h, action) = jax.lax.scan(step, start, jax.random.split(key, steps))
    reward, ended = outcome(net, params, jnp.concatenate([h, memory.h[None]]))
    found = Dream(jnp.concatenate([seen, features(z, memory)[None]]), action, reward, ended)
    return jax.lax.stop_gradient(found)


def foresee(net: Networks, params: Params, obs: jax.Array, action: jax.Array, num: int, key: jax.Array) -> Foreseen:
    """What the model makes of observations [B, T, ...] and encoded actions [B, T, A] of an episode, ``num`` of them seen."""
    key_seen, key = jax.random.split(key)
    z = most_probable(log_probs(net.apply(params.networks, obs, method="encode"), 0.0))
    first = jnp.zeros(action.shape[:2], bool).at[:, 0].set(True)
    given = obs[:, :num], action[:, :num], first[:, :num], begin(net.size, obs.shape[0])
    seen, memory = observe(net, params, *given, 0.0, key_seen)

    def step(memory: Memory, x: tuple[jax.Array, jax.Array]) -> tuple[Memory, tuple[jax.Array, jax.Array]]:
        action, key = x
        key_now, key_next = jax.random.split(key)
        z = sample(prior(net, params, memory, obs, 0.0), key_now)
        _, memory = imagine(net, params, z, action, memory, 0.0, key_next)
        return memory, (z, memory.h)

    keys = jax.random.split(key, action.shape[1] - num)
    _, ahead = jax.lax.scan(step, memory, (jnp.moveaxis(action[:, num:], 1, 0), keys))
    imagined, h = (jnp.moveaxis(x, 0, 1) for x in ahead)
    h = jnp.concatenate([seen.after, h], 1)
    end = jax.nn.sigmoid(net.apply(params.networks, h, method="end"))
    return Foreseen(reconstruct(net, params, z), reconstruct(net, params, imagined), outcome(net, params, h)[0], end)


def as_env(
    net: Networks, params: Params, spec: Spec, start: Callable[[jax.Array], tuple[jax.Array, Memory]], num_envs: int = 1
) -> Env:
    """An `Env` of ``num_envs`` episodes of ``spec.horizon`` steps, imagined by the model; actions are those of ``spec``.

    ``start(key)`` is a latent [Z] to begin with and the `Memory` without its axis n. Observations [Z + D] are features: the
    latent and h.
    """
    num = action_size(spec.action)

    def reset(key: jax.Array) -> tuple[tuple[jax.Array, Memory], jax.Array]:
        z, memory = start(key)
        return (z, memory), features(z, memory)

    def step(state: tuple[jax.Array, Memory], action: jax.Array, key: jax.Array) -> tuple:
        z, memory = jax.tree.map(lambda x: x[None], state)
        imagined, memory = imagine(net, params, z, encode_action(action, num)[None], memory, 0.0, key)
        imagined, memory = jax.tree.map(lambda x: x[0], (imagined, memory))
        return (imagined.z, memory), features(imagined.z, memory), imagined.reward, imagined.ended

    obs = Array((net.size.latent + net.size.width,))
    return batch_env(Spec(obs, spec.action, spec.horizon), reset, step, num_envs, "imagined")
