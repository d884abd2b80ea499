"""The Mamba-2 layer, a selective state-space model (Dao, Gu, arXiv:2405.21060): `scan` over time, and `step` for acting.

Both compute the same. From an input x_t come a gate z, a signal u, B, C and a step dt; after a causal depthwise convolution,
each head follows ``h_t = exp(dt_t A) h_{t-1} + dt_t u_t B_t^T`` and reads ``y_t = h_t C_t + D u_t``, which a gated RMSNorm and
a projection turn into the output. `scan` does it in chunks: within one all steps at once as matrix products, and only from
chunk to chunk step by step (sections 6 and 7).

Addition: where ``reset`` holds an episode begins, and nothing before that step matters any more, neither to the state nor to
the convolution.

Axes: B batch, T time, D width, I inner width, H heads of P numbers, N state numbers per head number, W taps, K channels I + 2N.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.nets import product

CHUNK = 64  # steps that are matrix products at once; of other backends than CPUs, not measured
CPU_CHUNK = 16  # the fastest there, at the sizes of Drama


class Params(NamedTuple):
    """What is learned: ``into`` [D, 2 I + 2 N + H], ``conv`` [W, K], ``bias`` [K], and per head ``dt``, ``log_a`` and ``skip``.

    ``norm`` [I] scales the gated RMSNorm, ``out`` is [I, D].
    """

    into: jax.Array
    conv: jax.Array
    bias: jax.Array
    dt: jax.Array
    log_a: jax.Array
    skip: jax.Array
    norm: jax.Array
    out: jax.Array


class State(NamedTuple):
    """What a layer remembers, float32: the last inputs of the convolution [B, W - 1, K], and h [B, H, P, N]."""

    tail: jax.Array
    h: jax.Array


class Signals(NamedTuple):
    """What drives the recurrence at each step: u [..., H, P], B and C [..., N], and float32 dt [..., H]."""

    u: jax.Array
    b: jax.Array
    c: jax.Array
    dt: jax.Array


def short(key: jax.Array, heads: int) -> tuple[jax.Array, jax.Array]:
    """First ``(dt [H], log -A [H])`` as of the authors' code: dt log-uniform in [0.001, 0.1], -A uniform in [1, 16].

    What is written weighs dt against the skip, and fades by half in 10 steps in the median head.
    """
    key_dt, key_a = jax.random.split(key)
    dt = jnp.exp(jax.random.uniform(key_dt, (heads,), float, np.log(1e-3), np.log(1e-1)))
    return dt, jnp.log(jax.random.uniform(key_a, (heads,), float, 1, 16))


def long(key: jax.Array, heads: int) -> tuple[jax.Array, jax.Array]:
    """First ``(dt [H], log -A [H])`` of layers that write more, and keep it longer.

    Both are log-uniform, dt in [0.03, 0.5] and -A in [0.02, 1], which is 40 steps in the median head. Not of the paper.
    """
    key_dt, key_a = jax.random.split(key)
    dt = jnp.exp(jax.random.uniform(key_dt, (heads,), float, np.log(0.03), np.log(0.5)))
    return dt, jax.random.uniform(key_a, (heads,), float, np.log(0.02), 0.0)


DECAYS = MappingProxyType({"short": short, "long": long})


def init(
    key: jax.Array,
    width: int,
    *,
    expand: int = 2,
    head: int = 64,
    state: int = 16,
    taps: int = 4,
    layers: int = 1,
    decays: Callable[[jax.Array, int], tuple[jax.Array, jax.Array]] = short,
) -> Params:
    """Fresh `Params` as of the authors' code; ``layers`` is how many are stacked, which scales the last projection.

    ``decays(key, heads)`` gives the first steps and rates, such as `short` or `long`.
    """
    inner, keys = expand * width, jax.random.split(key, 4)
    heads, channels = inner // head, inner + 2 * state

    def uniform(key: jax.Array, shape: tuple[int, ...], fan_in: int) -> jax.Array:
        return jax.random.uniform(key, shape, float, -1, 1) / np.sqrt(fan_in)

    dt, log_a = decays(keys[2], heads)
    return Params(
        into=uniform(keys[0], (width, inner + channels + heads), width),
        conv=uniform(keys[1], (taps, channels), taps),
        bias=jnp.zeros(channels),
        dt=dt + jnp.log(-jnp.expm1(-dt)),  # the inverse of softplus
        log_a=log_a,
        skip=jnp.ones(heads),
        norm=jnp.ones(inner),
        out=uniform(keys[3], (inner, width), inner) / np.sqrt(layers),
    )


def initial(params: Params, batch: int) -> State:
    """The `State` before the first step."""
    (taps, channels), heads, inner = params.conv.shape, params.dt.shape[0], params.norm.shape[0]
    return State(
        jnp.zeros((batch, taps - 1, channels), params.dt.dtype),
        jnp.zeros((batch, heads, inner // heads, (channels - inner) // 2), params.dt.dtype),
    )


def scan(params: Params, x: jax.Array, reset: jax.Array, state: State, chunk: int | None = None) -> tuple[jax.Array, State]:
    """``(y [B, T, D], state)`` of inputs [B, T, D] in any float type; ``reset`` [B, T] marks first steps of episodes.

    Products are in the type of ``x``, decays and the state in that of the parameters. Differentiable. The ``chunk`` changes
    the speed and, by rounding, the last bits; None chooses by the backend.
    """
    length = x.shape[1]
    chunk = min(chunk or (CPU_CHUNK if jax.default_backend() == "cpu" else CHUNK), length)
    episode = jnp.cumsum(reset, 1, dtype=jnp.int32)
    z, before, dt = _project(params, x)
    mixed, tail = _convolve(params, before, episode, state.tail)
    signals = _signals(params, mixed, dt)
    pad = -length % chunk
    padded = jax.tree.map(lambda s: jnp.pad(s, [(0, 0), (0, pad)] + [(0, 0)] * (s.ndim - 2)), signals)
    y, h = chunked(params, padded, jnp.pad(episode, ((0, 0), (0, pad)), "edge"), state.h, chunk)
    return _read(params, y[:, :length], signals.u, z), State(tail, h)


def step(params: Params, x: jax.Array, reset: jax.Array, state: State) -> tuple[jax.Array, State]:
    """``(y [B, D], state)`` of one input [B, D]; ``reset`` [B] says where it is the first of an episode."""
    state = jax.tree.map(lambda s: jnp.where(reset.reshape(-1, *[1] * (s.ndim - 1)), 0, s), state)
    z, before, dt = _project(params, x)
    window = jnp.concatenate([state.tail, before[:, None].astype(state.tail.dtype)], 1)
    seen = (window[:, i].astype(x.dtype) * taps.astype(x.dtype) for i, taps in enumerate(params.conv))
    mixed = jax.nn.silu(sum(seen) + params.bias.astype(x.dtype))
    s = _signals(params, mixed, dt)
    y, h = recurrent(params, s, state.h)
    return _read(params, y, s.u, z), State(window[:, 1:], h)


def recurrent(params: Params, s: Signals, h: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``(y [B, H, P] without the skip, h)`` of one step of the recurrence."""
    decay = jnp.exp(s.dt * -jnp.exp(params.log_a))
    drive = jnp.einsum("bhp,bn->bhpn", s.u.astype(s.dt.dtype) * s.dt[..., None], s.b.astype(s.dt.dtype))
    h = decay[..., None, None] * h + drive
    return jnp.einsum("bhpn,bn->bhp", h, s.c.astype(h.dtype)), h


def _project(params: Params, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """``(z [..., I], inputs of the convolution [..., K], dt [..., H])``."""
    inner, heads = params.norm.shape[0], params.dt.shape[0]
    z, before, dt = jnp.split(product(x, params.into.astype(x.dtype)), [inner, params.into.shape[1] - heads], -1)
    return z, before, dt


def _convolve(params: Params, x: jax.Array, episode: jax.Array, tail: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``(silu(convolution) [B, T, K], tail)``: each step sees itself and the W - 1 before it in its own episode."""
    taps, length = params.conv.shape[0], x.shape[1]
    before = jnp.zeros((x.shape[0], taps - 1), episode.dtype)
    whole, number = jnp.concatenate([tail.astype(x.dtype), x], 1), jnp.concatenate([before, episode], 1)

    def seen(i: int) -> jax.Array:
        same = number[:, i : i + length] == episode
        return jnp.where(same[..., None], whole[:, i : i + length], 0) * params.conv[i].astype(x.dtype)

    mixed = sum(seen(i) for i in range(taps)) + params.bias.astype(x.dtype)
    last = number[:, length:] == episode[:, -1:]
    return jax.nn.silu(mixed), jnp.where(last[..., None], whole[:, length:], 0).astype(tail.dtype)


def _signals(params: Params, mixed: jax.Array, dt: jax.Array) -> Signals:
    inner, heads = params.norm.shape[0], params.dt.shape[0]
    states = (mixed.shape[-1] - inner) // 2
    u, b, c = jnp.split(mixed, [inner, inner + states], -1)
    return Signals(u.reshape(*u.shape[:-1], heads, -1), b, c, jax.nn.softplus(dt.astype(params.dt.dtype) + params.dt))


def chunked(params: Params, s: Signals, episode: jax.Array, h: jax.Array, chunk: int) -> tuple[jax.Array, jax.Array]:
    """`recurrent` for T steps, a multiple of ``chunk``: ``(y [B, T, H, P], h)``; ``episode`` int32 [B, T] counts episodes.

    Nothing happens where dt is 0. The backward pass computes each chunk again, from the state that it began with.
    """
    kind, rate, causal = s.u.dtype, -jnp.exp(params.log_a), jnp.tril(jnp.ones((chunk, chunk), bool))

    def decay(mask: jax.Array, log: jax.Array) -> jax.Array:
        # masked before the exponential, whose overflow would make gradients NaN
        return jnp.exp(jnp.where(mask[:, None], log, -jnp.inf))

    def along(carry: tuple[jax.Array, jax.Array], now: tuple[Signals, jax.Array]) -> tuple[Any, jax.Array]:
        (h, before), (s, episode) = carry, now
        dt = jnp.swapaxes(s.dt, 1, 2)
        log = jnp.cumsum(dt * rate[:, None], 2)  # [B, H, Q]: of the decay since the chunk began
        drive = jnp.swapaxes(s.u, 1, 2) * dt[..., None].astype(kind)  # [B, H, Q, P]
        same = causal & (episode[:, :, None] == episode[:, None])
        inside = decay(same, log[..., :, None] - log[..., None, :]).astype(kind) * (s.c @ jnp.swapaxes(s.b, 1, 2))[:, None]
        arriving = decay(episode == before[:, None], log).astype(kind)[..., None] * s.c[:, None]
        y = inside @ drive + arriving @ jnp.swapaxes(h, 2, 3).astype(kind)
        kept = decay(episode == episode[:, -1:], log[..., -1:] - log).astype(kind)[..., None] * s.b[:, None]
        added = jnp.einsum("bhqp,bhqn->bhpn", drive, kept, preferred_element_type=h.dtype)
        whole = decay(episode[:, -1:] == before[:, None], log[..., -1:])  # of a state that outlives the chunk
        return (whole[..., None] * h + added, episode[:, -1]), jnp.swapaxes(y, 1, 2)

    pieces = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(x.shape[0], -1, chunk, *x.shape[2:]), 1, 0), (s, episode))
    (h, _), y = jax.lax.scan(jax.checkpoint(along, prevent_cse=False), (h, jnp.zeros_like(episode[:, 0])), pieces)
    return jnp.moveaxis(y, 0, 1).reshape(s.u.shape), h


def _read(params: Params, y: jax.Array, u: jax.Array, z: jax.Array) -> jax.Array:
    """The skip, the gated RMSNorm and the last projection."""
    y = y.astype(u.dtype) + u * params.skip.astype(u.dtype)[:, None]
    gated = (y.reshape(z.shape) * jax.nn.silu(z)).astype(params.norm.dtype)
    normal = gated * jax.lax.rsqrt(jnp.square(gated).mean(-1, keepdims=True) + 1e-5) * params.norm
    return product(normal.astype(u.dtype), params.out.astype(u.dtype))
