"""What a world model learns, its loss, and single steps of its memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rljax import ssm
from rljax.base import Discrete, Space, Spec, where
from rljax.heads import symexp, symlog
from rljax.world_model.networks import REWARDS, Networks, Size

PyTree = Any
Metrics = dict[str, jax.Array]


class Layer(NamedTuple):
    """A layer of the sequence model: the scale [D] of the RMSNorm before it, and its parameters."""

    norm: jax.Array
    mixer: ssm.Params


class Params(NamedTuple):
    """What a world model learns: parameters of `Networks`, its layers, and the scale [D] of the last RMSNorm."""

    networks: PyTree
    layers: tuple[Layer, ...]
    norm: jax.Array


class Memory(NamedTuple):
    """What is known before an observation is seen: h [B, D], and the layers' states."""

    h: jax.Array
    layers: tuple[ssm.State, ...]


class Seen(NamedTuple):
    """A sequence seen by the model: latents [B, T, Z] and their logits [B, T, groups, classes], and h [B, T, D] after each."""

    z: jax.Array
    logits: jax.Array
    after: jax.Array


class Imagined(NamedTuple):
    """A step imagined: the next latent [..., Z], the reward [...] and whether it is the end [...]."""

    z: jax.Array
    reward: jax.Array
    ended: jax.Array


def init(size: Size, spec: Spec, key: jax.Array) -> Params:
    """Fresh `Params` for observations and actions of ``spec``."""
    key_networks, key_layers = jax.random.split(key)
    net = Networks(size, spec.obs.shape)
    networks = net.init(key_networks, jnp.zeros((1, *spec.obs.shape)), jnp.zeros((1, action_size(spec.action))))
    mixer = partial(ssm.init, width=size.width, head=size.head, layers=size.layers, decays=size.decays)
    layers = tuple(Layer(jnp.ones(size.width), mixer(k)) for k in jax.random.split(key_layers, size.layers))
    return Params(networks, layers, jnp.ones(size.width))


def begin(size: Size, n: int) -> Memory:
    """The `Memory` of n episodes that begin."""
    shapes = jax.eval_shape(partial(ssm.init, width=size.width, head=size.head), jax.random.key(0))
    return Memory(jnp.zeros((n, size.width)), (ssm.initial(shapes, n),) * size.layers)


def action_size(space: Space) -> int:
    """Numbers of an action as the model reads it."""
    return space.n if isinstance(space, Discrete) else math.prod(space.shape)


def encode_action(action: jax.Array, num: int) -> jax.Array:
    """Actions [...] as one-hot vectors [..., num], and vectors [..., num] as they are."""
    return jax.nn.one_hot(action, num) if jnp.issubdtype(action.dtype, jnp.integer) else action


def log_probs(logits: jax.Array, unimix: jax.Array | float) -> jax.Array:
    """Log-probabilities [..., classes] of logits, mixed with ``unimix`` of the uniform distribution."""
    return jnp.log((1 - unimix) * jax.nn.softmax(logits) + unimix / logits.shape[-1])


def sample(log_prob: jax.Array, key: jax.Array) -> jax.Array:
    """A latent [..., Z] of log-probabilities [..., groups, classes], with straight-through gradients (arXiv:2010.02193)."""
    p = jnp.exp(log_prob)
    sums = jnp.matmul(p, jnp.triu(jnp.ones((p.shape[-1],) * 2, p.dtype)), precision="highest")  # a CPU's cumsum is slow
    below = sums < jax.random.uniform(key, (*p.shape[:-1], 1), p.dtype)  # one random number for each group
    drawn = jax.nn.one_hot(jnp.minimum(below.sum(-1), p.shape[-1] - 1), p.shape[-1], dtype=p.dtype)
    return _flat(drawn + p - jax.lax.stop_gradient(p))


def most_probable(log_prob: jax.Array) -> jax.Array:
    """The latent [..., Z] in which each group has its most probable class."""
    return _flat(jax.nn.one_hot(log_prob.argmax(-1), log_prob.shape[-1], dtype=log_prob.dtype))


def observe(
    net: Networks,
    params: Params,
    obs: jax.Array,
    action: jax.Array,
    first: jax.Array,
    memory: Memory,
    unimix: jax.Array | float,
    key: jax.Array,
) -> tuple[Seen, Memory]:
    """``(seen, memory)`` after observations [B, T, ...] and encoded actions [B, T, A]; ``first`` [B, T]: an episode begins."""
    logits = net.apply(params.networks, obs, method="encode")
    z = sample(log_probs(logits, unimix), key)
    after, states = _through(net, params, z, action, memory, lambda mixer, x, state: ssm.scan(mixer, x, first, state))
    return Seen(z, logits, after), Memory(after[:, -1], states)


def step(net: Networks, params: Params, z: jax.Array, action: jax.Array, memory: Memory) -> Memory:
    """The memory [n] after latents [n, Z] and encoded actions [n, A]; the same as `observe` of sequences of one step."""
    no = jnp.zeros(z.shape[0], bool)
    return Memory(*_through(net, params, z, action, memory, lambda mixer, x, state: ssm.step(mixer, x, no, state)))


def imagine(
    net: Networks, params: Params, z: jax.Array, action: jax.Array, memory: Memory, unimix: jax.Array | float, key: jax.Array
) -> tuple[Imagined, Memory]:
    """``(imagined, memory)`` of a step from latents [n, Z] with encoded actions [n, A]."""
    memory = step(net, params, z, action, memory)
    z = sample(log_probs(net.apply(params.networks, memory.h, method="prior"), unimix), key)
    return Imagined(z, *outcome(net, params, memory.h)), memory


def features(z: jax.Array, memory: Memory) -> jax.Array:
    """What a policy sees, [n, Z + D]: the latents [n, Z] of the current observations, and h."""
    return jnp.concatenate([z, memory.h], -1)


def forget(mask: jax.Array, memory: Memory) -> Memory:
    """The memory [n], as at the beginning of an episode where ``mask`` [n] holds."""
    return where(mask, jax.tree.map(jnp.zeros_like, memory), memory)


def outcome(net: Networks, params: Params, h: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``(reward [...], ended [...])`` of the step that led to h [..., D]."""
    reward = REWARDS.value(net.apply(params.networks, h, method="reward"))
    return reward, net.apply(params.networks, h, method="end") > 0


def loss(config: Any, net: Networks, params: Params, batch: Any, first: jax.Array, key: jax.Array) -> tuple[jax.Array, Metrics]:
    """``(loss, metrics)`` of transitions [B, T, ...], actions encoded; ``first`` [B, T] as of `observe`.

    Sum of squared errors of the reconstruction, cross-entropies of reward and end, and KL(sg(posterior) || prior) and
    KL(posterior || sg(prior)), of which the mean over the batch counts where it is above ``free_bits`` nats.
    Reads ``unimix``, ``dynamics``, ``representation`` and ``free_bits`` of the config.
    """
    start = begin(net.size, first.shape[0])
    seen, _ = observe(net, params, batch.obs, batch.action, first.at[:, 0].set(True), start, config.unimix, key)
    reconstruction = net.apply(params.networks, seen.z, method="decode")
    obs = batch.obs if net.images else symlog(batch.obs)
    pixels = jnp.square(reconstruction - obs).sum(range(2, obs.ndim)).mean()
    reward = REWARDS.loss(net.apply(params.networks, seen.after, method="reward"), batch.reward).mean()
    logit = net.apply(params.networks, seen.after, method="end")
    end = (jax.nn.softplus(logit) - logit * batch.terminated).mean()
    posterior = log_probs(seen.logits[:, 1:], config.unimix)
    prior = log_probs(net.apply(params.networks, seen.after[:, :-1], method="prior"), config.unimix)
    same = (~first[:, 1:]).astype(posterior.dtype)  # episode, as the step before

    def kl(p: jax.Array, q: jax.Array) -> jax.Array:
        return ((jnp.exp(p) * (p - q)).sum((-2, -1)) * same).sum() / jnp.maximum(same.sum(), 1.0)

    dynamics, representation = kl(jax.lax.stop_gradient(posterior), prior), kl(posterior, jax.lax.stop_gradient(prior))
    bounded = [jnp.maximum(x, config.free_bits) for x in (dynamics, representation)]
    total = pixels + reward + end + config.dynamics * bounded[0] + config.representation * bounded[1]
    parts = {"loss": total, "reconstruction": pixels, "reward": reward, "end": end, "kl": dynamics}
    return total, {f"model/{name}": x for name, x in parts.items()}


def reconstruct(net: Networks, params: Params, z: jax.Array) -> jax.Array:
    """Observations [..., *shape] of latents [..., Z], images in [0, 1]."""
    out = net.apply(params.networks, z, method="decode")
    return out if net.images else symexp(out)


def _through(
    net: Networks, params: Params, z: jax.Array, action: jax.Array, memory: Memory, mix: Callable
) -> tuple[jax.Array, tuple[ssm.State, ...]]:
    """``(h, states)`` behind the layers, in each of which ``mix(mixer, x, state) -> (y, state)``."""
    x, states = net.apply(params.networks, z, action, method="enter"), []
    for layer, state in zip(params.layers, memory.layers, strict=True):
        y, state = mix(layer.mixer, _rms(x, layer.norm).astype(net.dtype or x.dtype), state)
        x = x + y.astype(x.dtype)
        states.append(state)
    return _rms(x, params.norm), tuple(states)


def _flat(x: jax.Array) -> jax.Array:
    return x.reshape(*x.shape[:-2], -1)


def _rms(x: jax.Array, scale: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-5) * scale
