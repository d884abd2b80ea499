"""Networks (flax.linen) and the policies on top of them.

Observations arrive as floats, [B, D] or [B, H, W, C]. Parameters are float32, or float64 under ``jax_enable_x64``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr

from rljax.heads import Head

# PyTorch's default for linear layers, U(-1/sqrt(fan_in), 1/sqrt(fan_in)), with which the published SAC results were made.
_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def product(x: jax.Array, kernel: jax.Array, *args: Any, **kwargs: Any) -> jax.Array:
    """``x @ kernel`` [..., F] of [..., K] and [K, F], rows as one axis: of more XLA makes copies for the gradient."""
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], -1)


def dense(features: int, name: str | None = None) -> nn.Dense:
    """A linear layer with U(+-1/sqrt(fan_in)) weights and zero bias."""
    return nn.Dense(features, kernel_init=_uniform, param_dtype=jnp.result_type(float), dot_general=product, name=name)


def _convolve(x: jax.Array, kernel: jax.Array, strides: tuple[int, ...], *args: Any, **kwargs: Any) -> jax.Array:
    """The convolution [B, H', W', F] of images [B, H, W, C] without padding, as one matrix product.

    Under vmap over learners a convolution has one group for each, which XLA computes slowly on a CPU.
    """
    high, wide, channels, features = kernel.shape
    (down, right), (rows, columns) = strides, x.shape[1:3]
    patches = [
        x[:, i : rows - high + i + 1 : down, j : columns - wide + j + 1 : right] for i in range(high) for j in range(wide)
    ]
    return jnp.concatenate(patches, -1) @ kernel.reshape(high * wide * channels, features)


class Images(nn.Module):
    """Features [B, F] of images [B, H, W, C]: the DQN stack, or MinAtar's single 3x3 convolution where that does not fit.

    Sources: arXiv:1903.03176 (MinAtar), Mnih et al. 2015 (DQN).
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        small = min(x.shape[1:3]) < 36  # three layers without padding leave nothing of 35 pixels
        layers = ((16, 3, 1),) if small else ((32, 8, 4), (64, 4, 2), (64, 3, 1))
        for features, kernel, stride in layers:
            size, dtype = (kernel, kernel), jnp.result_type(float)
            conv = nn.Conv(features, size, stride, padding="VALID", param_dtype=dtype, conv_general_dilated=_convolve)
            x = relu(conv(x))
        return x.reshape(x.shape[0], -1)


@jax.custom_jvp
def relu(x: jax.Array) -> jax.Array:
    """max(x, 0), with the derivative 0 at 0; it is taken from the result, so that x need not be kept, nor made again."""
    return jnp.maximum(x, 0)


relu.defjvps(lambda tangent, out, x: jnp.where(out > 0, tangent, 0))


@jax.custom_vjp
def normalize_rows(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """Layer normalisation (arXiv:1607.06450, epsilon 1e-6) of the rows of ``x`` [B, F], with ``scale`` and ``bias`` [F].

    Its gradient is written out, as what is traced takes several times as many passes over memory; so it has no forward mode.
    """
    return _normalize_rows(x, scale, bias)[0]


def _normalize_rows(x: jax.Array, scale: jax.Array, bias: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    mean = x.mean(-1, keepdims=True)
    rate = jax.lax.rsqrt(jnp.maximum(jnp.square(x).mean(-1, keepdims=True) - mean**2, 0) + 1e-6)
    unit = (x - mean) * rate
    return unit * scale + bias, (unit, rate, scale)


def _normalize_rows_back(kept: tuple[jax.Array, ...], g: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    unit, rate, scale = kept
    along = g * unit
    mean, slope = ((x @ scale)[:, None] / len(scale) for x in (g, along))
    return rate * (g * scale - mean - unit * slope), along.sum(0), g.sum(0)


normalize_rows.defvjp(_normalize_rows, _normalize_rows_back)


class LayerNorm(nn.Module):
    """`normalize_rows` with parameters ``scale``, from 1, and ``bias``, from 0."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, shape, x.dtype)
        return normalize_rows(x, scale, self.param("bias", nn.initializers.zeros, shape, x.dtype))


class Torso(nn.Module):
    """Features [B, width] of observations [B, D] or [B, H, W, C] and, if given, actions [B, A].

    ``depth`` hidden layers of dense, LayerNorm (if ``layer_norm``), ReLU.
    """

    width: int
    depth: int
    layer_norm: bool = False

    @nn.compact
    def __call__(self, obs: jax.Array, *actions: jax.Array) -> jax.Array:
        x = Images()(obs) if obs.ndim == 4 else obs.reshape(obs.shape[0], -1)
        x = jnp.concatenate([x, *actions], -1)
        for _ in range(self.depth):
            x = dense(self.width)(x)
            x = LayerNorm()(x) if self.layer_norm else x
            x = relu(x)
        return x


class GaussianPolicy(nn.Module):
    """``(mean, log_std)``, each [B, A], of a Gaussian before the tanh.

    The log standard deviation is mapped smoothly into [-5, 2] (as CleanRL does; the paper clips to [-20, 2]).
    """

    action_dim: int
    width: int
    depth: int
    layer_norm: bool = False

    @nn.compact
    def __call__(self, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
        out = dense(2 * self.action_dim, name="head")(Torso(self.width, self.depth, self.layer_norm)(obs))
        mean, raw = jnp.split(out, 2, -1)
        return mean, -5 + 3.5 * (jnp.tanh(raw) + 1)


class DeterministicPolicy(nn.Module):
    """Actions [B, A] in (-1, 1)."""

    action_dim: int
    width: int
    depth: int
    layer_norm: bool = False

    @nn.compact
    def __call__(self, obs: jax.Array) -> jax.Array:
        return jnp.tanh(dense(self.action_dim, name="head")(Torso(self.width, self.depth, self.layer_norm)(obs)))


class BoundedGaussianPolicy(nn.Module):
    """``(mean [B, A] in (-1, 1), log_std [A])`` of a Gaussian without tanh (IQL, arXiv:2110.06169).

    The log standard deviation does not depend on the observation; it starts at 0 and is clipped to [-5, 2].
    """

    action_dim: int
    width: int
    depth: int
    layer_norm: bool = False

    @nn.compact
    def __call__(self, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
        out = dense(self.action_dim, name="head")(Torso(self.width, self.depth, self.layer_norm)(obs))
        log_std = self.param("log_std", nn.initializers.zeros, (self.action_dim,), jnp.result_type(float))
        return jnp.tanh(out), jnp.clip(log_std, -5.0, 2.0)


class CategoricalPolicy(nn.Module):
    """Logits [B, A] of a categorical policy over A actions."""

    num_actions: int
    width: int
    depth: int
    layer_norm: bool = False

    @nn.compact
    def __call__(self, obs: jax.Array) -> jax.Array:
        return dense(self.num_actions, name="head")(Torso(self.width, self.depth, self.layer_norm)(obs))


class Critic(nn.Module):
    """Q-values' encodings: [B, size] of (obs, action), or [B, A, size] of obs alone when ``num_actions`` A is given."""

    size: int
    width: int
    depth: int
    layer_norm: bool = False
    num_actions: int | None = None

    @nn.compact
    def __call__(self, obs: jax.Array, *actions: jax.Array) -> jax.Array:
        x = Torso(self.width, self.depth, self.layer_norm)(obs, *actions)
        out = dense(self.size * (self.num_actions or 1), name="head")(x)
        return out if self.num_actions is None else out.reshape(-1, self.num_actions, self.size)


def ensemble(num: int) -> type[Critic]:
    """`Critic` with ``num`` independent copies: outputs and parameters get a leading axis N."""

    class Ensemble(nn.vmap(Critic, variable_axes={"params": 0}, split_rngs={"params": True})):  # type: ignore[misc]
        def __call__(self, *inputs: jax.Array) -> jax.Array:
            # Copies of the inputs are small. A shared first layer would be one product, and its outputs had to be transposed.
            return super().__call__(*(jnp.broadcast_to(x, (num, *x.shape)) for x in inputs))

    return Ensemble


def init(critic: nn.Module, head: Head, key: jax.Array, *inputs: jax.Array) -> dict:
    """Fresh parameters of a `Critic`, or of an `ensemble`, that start near the head's initial value."""
    params: dict = critic.init(key, *inputs)
    last = params["params"]["head"]
    bias = jnp.tile(head.bias(), last["bias"].shape[-1] // head.size).astype(last["bias"].dtype)
    return {"params": {**params["params"], "head": {**last, "bias": last["bias"] + bias}}}


def outputs(params: dict) -> int:
    """Number of outputs of a network whose last layer is named ``head``, read off its parameters."""
    return params["params"]["head"]["bias"].shape[-1]


def sample_tanh_gaussian(mean: jax.Array, log_std: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``(action [..., A] in (-1, 1), log_prob [...])`` of a = tanh(u), u ~ N(mean, std); reparameterised.

    Source: arXiv:1812.05905 eq. 26, with log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2u)), which is exact for large u.
    """
    u = mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape, mean.dtype)
    correction = 2 * (np.log(2) - u - jax.nn.softplus(-2 * u))
    return jnp.tanh(u), (gaussian_log_density(mean, log_std, u) - correction).sum(-1)


def gaussian_log_density(mean: jax.Array, log_std: jax.Array, x: jax.Array) -> jax.Array:
    """Log N(x; mean, std^2) of each element [..., A] of ``x``; ``log_std`` is [..., A] or [A]."""
    log_std = jnp.broadcast_to(log_std, x.shape)
    return -0.5 * jnp.square((x - mean) * jnp.exp(-log_std)) - log_std - 0.5 * np.log(2 * np.pi)


class Policy(NamedTuple):
    """A network, and the distribution over actions that its outputs ``out`` for observations [...] stand for.

    ``network(num, width, depth, layer_norm)``, num actions or dimensions; ``sample(out, key)`` and ``mode(out)`` are actions
    [...]; ``log_prob(out, action)`` and ``entropy(out)`` are [...].
    """

    network: Callable[..., nn.Module]
    sample: Callable[[Any, jax.Array], jax.Array]
    mode: Callable[[Any], jax.Array]
    log_prob: Callable[[Any, jax.Array], jax.Array]
    entropy: Callable[[Any], jax.Array]


def _categorical_sample(out: jax.Array, key: jax.Array) -> jax.Array:
    return jax.random.categorical(key, out).astype(jnp.int32)


def _categorical_mode(out: jax.Array) -> jax.Array:
    return jnp.argmax(out, -1).astype(jnp.int32)


def _categorical_log_prob(out: jax.Array, action: jax.Array) -> jax.Array:
    return jnp.take_along_axis(jax.nn.log_softmax(out), action[..., None], -1)[..., 0]


def _categorical_entropy(out: jax.Array) -> jax.Array:
    log_probs = jax.nn.log_softmax(out)
    return -(jnp.exp(log_probs) * log_probs).sum(-1)


def _clipped_sample(out: tuple[jax.Array, jax.Array], key: jax.Array) -> jax.Array:
    mean, log_std = out
    return jnp.clip(mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape, mean.dtype), -1, 1)


def _clipped_mode(out: tuple[jax.Array, jax.Array]) -> jax.Array:
    return jnp.clip(out[0], -1, 1)


def _clipped_log_prob(out: tuple[jax.Array, jax.Array], action: jax.Array) -> jax.Array:
    mean, log_std = out
    inside = gaussian_log_density(mean, log_std, action)
    outside = log_ndtr(-jnp.sign(action) * (action - mean) * jnp.exp(-log_std))
    return jnp.where(jnp.abs(action) < 1, inside, outside).sum(-1)


def _clipped_entropy(out: tuple[jax.Array, jax.Array]) -> jax.Array:
    mean, log_std = out
    return jnp.broadcast_to(log_std + 0.5 * np.log(2 * np.pi * np.e), mean.shape).sum(-1)


CATEGORICAL = Policy(CategoricalPolicy, _categorical_sample, _categorical_mode, _categorical_log_prob, _categorical_entropy)

# Actions [..., A] = clip(u, -1, 1), u ~ N(mean, std): a density inside, a mass on the bounds. The policy gradient has less
# variance than with the log-probability of u (arXiv:1802.07564 eq. 7). The entropy is that of u.
CLIPPED_GAUSSIAN = Policy(BoundedGaussianPolicy, _clipped_sample, _clipped_mode, _clipped_log_prob, _clipped_entropy)
