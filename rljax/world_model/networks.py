"""Sizes and networks of a world model, and of the agent on it."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rljax import nets, ssm
from rljax.base import InputError
from rljax.config import config, static
from rljax.heads import SYMLOG, TwoHot, symlog

SMALL = 16  # pixels: images that are no higher or wider, such as MinAtar's, are encoded by an MLP
REWARDS = TwoHot(low=-20.0, high=20.0, bins=255, transform=SYMLOG)  # how rewards, and values in imagination, are encoded


@config
class Size:
    """How large a world model is, and the agent's networks on it."""

    channels: int = static(16, "[1, inf)")  # of the first convolution; later ones have 2, 3, 4, 4, ... times as many
    kernel: int = static(3, "[1, inf)")  # taps of each convolution, along height and width
    hidden: int = static(128, "[1, inf)")  # units of the MLPs: reward, end, and without convolutions encoder and decoder
    groups: int = static(16, "[1, inf)")  # categorical variables of a latent
    classes: int = static(16, "[2, inf)")  # values of each of them
    width: int = static(128, "[1, inf)")  # D, of the sequence model
    layers: int = static(1, "[1, inf)")  # of the sequence model
    head: int = static(32, "[1, inf)")  # numbers per head of the state-space layers; a divisor of 2 D
    actor_depth: int = static(2, "[1, inf)")  # hidden layers of the policy
    actor_width: int = static(128, "[1, inf)")  # their units
    critic_depth: int = static(2, "[1, inf)")  # hidden layers of the value
    critic_width: int = static(128, "[1, inf)")  # their units
    decays: Callable = static(ssm.short, choices=ssm.DECAYS)  # how long the state-space layers first remember

    def check(self, where: str = "size") -> None:
        """Raise `InputError` unless heads divide the state-space layers' inner width."""
        if 2 * self.width % self.head:
            raise InputError(f"{where}.head must divide twice {where}.width, {2 * self.width}, got {self.head}")

    @property
    def latent(self) -> int:
        """Z, numbers of a flat latent."""
        return self.groups * self.classes


XS = Size()  # for vectors and images like MinAtar's, on a CPU
S = Size(16, 5, 256, 32, 16, 256, 2, 64, 3, 256, 3, 256)
DRAMA = Size(16, 5, 256, 32, 32, 512, 2, 64, 3, 256, 3, 512)  # the paper's
SIZES = MappingProxyType({"xs": XS, "s": S, "drama": DRAMA})


_lecun = nn.initializers.lecun_normal()


class MLP(nn.Module):
    """``depth`` hidden layers [..., units] of dense, RMSNorm, SiLU, and ``outputs``, or none where these are 0."""

    depth: int
    units: int
    outputs: int = 0
    first: Callable = _lecun  # weights of the hidden layers
    last: Callable = nn.initializers.zeros  # weights of the outputs
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for _ in range(self.depth):
            x = _dense(self.units, self.dtype, self.first)(x)
            x = nn.silu(_norm(self.dtype)(x))
        return _dense(self.outputs, None, self.last, "head")(x) if self.outputs else x


class Actor(nn.Module):
    """The outputs of a policy on features [..., F]: logits [..., num], or, ``continuous``, as of `rljax.nets.CLIPPED_GAUSSIAN`.

    These are means in (-1, 1) and log standard deviations in (-2.3, 0.5), both [..., num]; at first they are close to 0 and 0.
    DreamerV3 (arXiv:2301.04104) begins and ends at nearly the same, 0.9 and 0.1, and has 1 as the most.
    """

    depth: int
    units: int
    num: int
    continuous: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> Any:
        first, last = nn.initializers.orthogonal(np.sqrt(2)), nn.initializers.orthogonal(1e-3)
        out = MLP(self.depth, self.units, self.num * (2 if self.continuous else 1), first, last, name="mlp")(x)
        if not self.continuous:
            return out
        mean, raw = jnp.split(out, 2, -1)
        return jnp.tanh(mean), -0.9 + 1.4 * jnp.tanh(raw + 0.76)


class Networks(nn.Module):
    """All of a world model but its sequence of layers, for observations of ``shape``; products are in ``dtype``.

    ``encode(obs) -> logits [..., groups, classes]``, ``decode(z) -> obs`` (of vectors the symlog), ``enter(z, action) ->
    [..., D]``, and of h [..., D] ``prior -> logits``, ``reward -> logits [..., 255]`` and ``end -> logit [...]``.
    """

    size: Size
    shape: tuple[int, ...]
    dtype: Any = None
    centre: Any = 0.0  # what the encoder sees observations less of: their mean, flat

    def setup(self) -> None:
        """The parts; images are halved until they have at most five pixels along their shorter side."""
        size, mlp = self.size, partial(MLP, units=self.size.hidden, dtype=self.dtype)
        if self.convolves:
            self.sides = _sides(self.shape[:2])
            channels = [size.channels * min(i + 1, 4) for i in range(len(self.sides) - 1)]
            conv = partial(Convolution, kernel=size.kernel, dtype=self.dtype)
            self.down, self.up = [conv(c) for c in channels], [conv(c) for c in [self.shape[2], *channels[:-1]]]
            self.down_norms, self.up_norms = [[_norm(self.dtype) for _ in channels] for _ in range(2)]
            self.unfold = _dense(math.prod(self.sides[-1]) * channels[-1], self.dtype)
        else:
            self.into, self.out = mlp(2), mlp(2, outputs=math.prod(self.shape), last=_lecun)
        self.posterior = _dense(size.latent, self.dtype)
        self.stem, self.stem_norm = _dense(size.width, self.dtype), _norm(self.dtype)
        self.ahead = _dense(size.latent, self.dtype)
        self.rewards, self.ends = mlp(1, outputs=REWARDS.size), mlp(1, outputs=1)

    @property
    def images(self) -> bool:
        """Whether observations are images, in [0, 1]."""
        return len(self.shape) == 3

    @property
    def convolves(self) -> bool:
        """Whether they are large enough for convolutions."""
        return self.images and min(self.shape[:2]) > SMALL

    def encode(self, obs: jax.Array) -> jax.Array:
        """Logits of the posterior."""
        lead = obs.shape[: obs.ndim - len(self.shape)]
        x = flat(obs, self.shape) - self.centre
        if self.convolves:
            x = x.reshape(-1, *self.shape)
            for conv, norm, side in zip(self.down, self.down_norms, self.sides[1:], strict=True):
                x = nn.silu(norm(conv(x, side)))
        x = x.reshape(*lead, -1)
        x = x if self.convolves else self.into(x)
        return self.posterior(x).astype(float).reshape(*lead, self.size.groups, self.size.classes)

    def decode(self, z: jax.Array) -> jax.Array:
        """The reconstruction, in [0, 1] for images."""
        if self.convolves:
            x = self.unfold(z).reshape(-1, *self.sides[-1], self.down[-1].features)
            for conv, norm, side in zip(self.up[::-1], self.up_norms[::-1], self.sides[-2::-1], strict=True):
                x = conv(nn.silu(norm(x)), side)
        else:
            x = self.out(z)
        x = x.astype(float).reshape(*z.shape[:-1], *self.shape)
        return nn.sigmoid(x) if self.images else x

    def enter(self, z: jax.Array, action: jax.Array) -> jax.Array:
        """What the first layer reads."""
        return nn.silu(self.stem_norm(self.stem(jnp.concatenate([z, action], -1)))).astype(float)

    def prior(self, h: jax.Array) -> jax.Array:
        """Logits of the next latent."""
        return self.ahead(h).astype(float).reshape(*h.shape[:-1], self.size.groups, self.size.classes)

    def reward(self, h: jax.Array) -> jax.Array:
        """Logits of the reward."""
        return self.rewards(h).astype(float)

    def end(self, h: jax.Array) -> jax.Array:
        """Logit of the probability that the episode has terminated."""
        return self.ends(h).astype(float)[..., 0]

    def __call__(self, obs: jax.Array, action: jax.Array) -> tuple[jax.Array, ...]:
        """All parts, once."""
        logits = self.encode(obs)
        z = logits.reshape(*logits.shape[:-2], -1)
        h = self.enter(z, action)
        return self.decode(z), self.prior(h), self.reward(h), self.end(h)


class Convolution(nn.Module):
    """Images [B, *side, features] by a convolution that divides sides, or a transposed one that multiplies them."""

    features: int
    kernel: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, side: tuple[int, int]) -> jax.Array:
        taps, before, kind = self.kernel, x.shape[1:3], jnp.result_type(float)
        kernel = self.param("kernel", _lecun, (taps, taps, x.shape[-1], self.features), kind)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), kind)
        strides, dilations = (
            [math.ceil(a / b) for a, b in pairs]
            for pairs in (list(zip(before, side, strict=True)), list(zip(side, before, strict=True)))
        )
        total = [
            max((n - 1) * s + taps - (m - 1) * d - 1, 0) for n, m, s, d in zip(side, before, strides, dilations, strict=True)
        ]
        pad = [(n // 2, n - n // 2) for n in total]
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        kinds = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, strides, pad, dilations, dimension_numbers=kinds) + bias


def _dense(units: int, dtype: Any, kernel: Callable = _lecun, name: str | None = None) -> nn.Dense:
    kind = jnp.result_type(float)
    return nn.Dense(units, dtype=dtype, param_dtype=kind, kernel_init=kernel, dot_general=nets.product, name=name)


def _norm(dtype: Any) -> nn.RMSNorm:
    return nn.RMSNorm(epsilon=1e-5, dtype=dtype, param_dtype=jnp.result_type(float))


def flat(obs: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Observations [..., *shape] as the encoder reads them, [n, numbers]: images as they are, and the symlog of vectors."""
    x = obs.reshape(-1, math.prod(shape))
    return x if len(shape) == 3 else symlog(x)


def _sides(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Heights and widths: of the image, after a first convolution with stride 1, and after each that halves it."""
    sides = [(shape[0], shape[1])] * 2
    while min(sides[-1]) > 5:
        sides.append((-(-sides[-1][0] // 2), -(-sides[-1][1] // 2)))
    return sides
