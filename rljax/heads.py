"""Value heads: how the last layer of a critic encodes a number, and which loss brings it to a target.

A head is a config of its own inside an agent's (``Config(head=HLGauss(low=-100, high=0))``). It has

* ``size``: outputs per value;
* ``bias() -> [size]``: what the last layer starts at, so that its first value is ``initial``;
* ``value(out [..., size]) -> [...]``: the expectation that outputs stand for;
* ``backup(target [...], scale [...], out [..., size])``: the target of `loss` for a bootstrapped number ``target`` whose random
  part is ``scale`` times what the outputs ``out`` of the successor stand for; most heads only want the number;
* ``loss(out [..., size], target) -> [...]``, 0 at its minimum; ``target`` is not differentiated;
* ``metrics(target [B])``: what is to be logged of a batch of numbers to be brought to.

`TwoHot`, `HLGauss` and `C51` are categorical: outputs are logits of a distribution over ``bins`` values between ``low`` and
``high`` ("Stop Regressing", arXiv:2403.03950). Their targets are numbers [...] or probabilities [..., bins]; the loss is the
cross-entropy minus the target's entropy, in float32 or wider. Numbers beyond the support are clipped to its ends, and
the metric ``clipped`` tells their share; `support_from` finds a support. The support's ends are in units of values, or, with
``transform`` `SYMLOG`, of their symmetric logarithm; the value is then the symexp of the mean of the logarithms, which lies
below the mean of numbers that scatter (as in DreamerV3, arXiv:2301.04104).
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import entr, erf

from rljax.base import InputError
from rljax.config import config, leaf, static


@runtime_checkable
class Head(Protocol):
    """What an agent needs of a head; see the module's docstring."""

    @property
    def size(self) -> int: ...  # noqa: D102

    def bias(self) -> jax.Array: ...  # noqa: D102

    def value(self, out: jax.Array) -> jax.Array: ...  # noqa: D102

    def backup(self, target: jax.Array, scale: jax.Array, out: jax.Array) -> jax.Array: ...  # noqa: D102

    def loss(self, out: jax.Array, target: jax.Array) -> jax.Array: ...  # noqa: D102

    def metrics(self, target: jax.Array) -> dict[str, jax.Array]: ...  # noqa: D102


class Transform(NamedTuple):
    """A strictly rising map of values to the axis on which bins are equally wide, and its inverse."""

    forward: Callable[[Any], Any]
    inverse: Callable[[Any], Any]


def identity(x: Any) -> Any:
    """``x``."""
    return x


def symlog(x: Any) -> jax.Array:
    """``sign(x) log(1 + |x|)`` [...] (arXiv:2301.04104 eq. 9)."""
    return jnp.where(x >= 0, jnp.log1p(jnp.where(x >= 0, x, 0.0)), -jnp.log1p(jnp.where(x >= 0, 0.0, -x)))


def symexp(x: Any) -> jax.Array:
    """``sign(x) (exp|x| - 1)`` [...], the inverse of `symlog`."""
    return jnp.where(x >= 0, jnp.expm1(x), -jnp.expm1(-x))


LINEAR, SYMLOG = Transform(identity, identity), Transform(symlog, symexp)
TRANSFORMS = MappingProxyType({"linear": LINEAR, "symlog": SYMLOG})


@config
class Scalar:
    """Regression: one output, squared error."""

    initial: float = leaf(0.0)  # value before learning

    @property
    def size(self) -> int:
        """1, the number of outputs per value."""
        return 1

    def bias(self) -> jax.Array:
        """``initial`` as [1]."""
        return jnp.asarray(self.initial, float)[None]

    def value(self, out: jax.Array) -> jax.Array:
        """The value [...] of outputs [..., 1]."""
        return out[..., 0]

    def backup(self, target: jax.Array, scale: jax.Array, out: jax.Array) -> jax.Array:
        """``target`` [...]."""
        return target

    def loss(self, out: jax.Array, target: jax.Array) -> jax.Array:
        """Squared error [...] between ``out`` [..., 1] and ``target`` [...], which is not differentiated."""
        return (out[..., 0] - jax.lax.stop_gradient(target)) ** 2

    def metrics(self, target: jax.Array) -> dict[str, jax.Array]:
        """Nothing: no target lies outside."""
        return {}


@config
class TwoHot:
    """A number as weights on the two nearest of ``bins`` atoms from ``low`` to ``high``, whose mean it is exactly.

    With Adam, values that have to travel over many atoms do so slowly: the logits of atoms far from all targets so far have
    been pushed down for as long. `HLGauss` helps, and so do fewer bins.
    """

    low: float = leaf(-10.0)  # lower end of the support, where the first atom lies
    high: float = leaf(10.0)  # upper end of the support, where the last atom lies
    initial: float = leaf(0.0)  # value before learning, kept one bin inside the support
    bins: int = static(101, "[3, inf)")  # number of atoms
    transform: Transform = static(LINEAR, choices=TRANSFORMS)  # of values to the axis of the atoms

    @property
    def size(self) -> int:
        """Logits per value."""
        return self.bins

    def check(self, where: str = "head") -> None:
        """Raise `InputError` for a support that is empty or too fine for float32; ``where`` is the head's name."""
        _check(self, where)

    def bias(self) -> jax.Array:
        """The flattest logits [bins] whose value is ``initial``."""
        return _tilt(_atoms(self), self.transform.forward(jnp.asarray(self.initial, float)))

    def value(self, out: jax.Array) -> jax.Array:
        """The expectation [...] of logits [..., bins]."""
        return self.transform.inverse(_mean(out, _atoms(self)))

    def backup(self, target: jax.Array, scale: jax.Array, out: jax.Array) -> jax.Array:
        """``target`` [...]."""
        return target

    def probabilities(self, target: jax.Array) -> jax.Array:
        """``[..., bins]`` of numbers [...]."""
        return _two_hot(self, self.transform.forward(target))

    def loss(self, out: jax.Array, target: jax.Array) -> jax.Array:
        """Excess cross-entropy [...] of logits [..., bins], for numbers [...] or probabilities [..., bins]."""
        return _excess(self, out, target)

    def metrics(self, target: jax.Array) -> dict[str, jax.Array]:
        """``clipped``: share of targets [B] outside the support."""
        return {"clipped": _outside(self, self.transform.forward(target))}


@config
class HLGauss:
    """A number as a histogram of a Gaussian around it, truncated to the support (arXiv:2403.03950 section 3.1).

    The cross-entropy of such targets is smooth in them, unlike `TwoHot`'s. Near the ends of the support the histogram's mean is
    biased inwards, by 0.69 bins at an end itself for the default ``sigma``: pad the support, as `support_from` does.
    """

    low: float = leaf(-10.0)  # lower end of the support, the edge of the first bin
    high: float = leaf(10.0)  # upper end of the support, the edge of the last bin
    initial: float = leaf(0.0)  # value before learning, kept one and a half bins inside the support
    sigma: float = leaf(0.75, "(0, inf)")  # deviation of the Gaussian, in bins
    bins: int = static(101, "[3, inf)")  # number of bins
    transform: Transform = static(LINEAR, choices=TRANSFORMS)  # of values to the axis of the bins

    @property
    def size(self) -> int:
        """Logits per value."""
        return self.bins

    def check(self, where: str = "head") -> None:
        """Raise `InputError` for a support that is empty or too fine for float32; ``where`` is the head's name."""
        _check(self, where)

    @property
    def centers(self) -> jax.Array:
        """Middles of the bins [bins], on the axis of the bins."""
        return self.low + (self.high - self.low) * jnp.asarray((np.arange(self.bins) + 0.5) / self.bins, float)

    def bias(self) -> jax.Array:
        """The flattest logits [bins] whose value is ``initial``."""
        return _tilt(self.centers, self.transform.forward(jnp.asarray(self.initial, float)))

    def value(self, out: jax.Array) -> jax.Array:
        """The expectation [...] of logits [..., bins]."""
        return self.transform.inverse(_mean(out, self.centers))

    def backup(self, target: jax.Array, scale: jax.Array, out: jax.Array) -> jax.Array:
        """``target`` [...]."""
        return target

    def probabilities(self, target: jax.Array) -> jax.Array:
        """``[..., bins]`` of numbers [...]: the Gaussian's mass in each bin over that in the support."""
        target = jnp.clip(_wide(self.transform.forward(target)), self.low, self.high)
        at = (target - self.low) * (self.bins / (self.high - self.low))
        cdf = erf(_each(jnp.arange(self.bins + 1, dtype=at.dtype), -at) * (np.sqrt(0.5) / self.sigma))
        return jnp.maximum(jnp.diff(cdf), 0.0) / (cdf[..., -1:] - cdf[..., :1])  # rounding makes erf fall by places

    def loss(self, out: jax.Array, target: jax.Array) -> jax.Array:
        """Excess cross-entropy [...] of logits [..., bins], for numbers [...] or probabilities [..., bins]."""
        return _excess(self, out, target)

    def metrics(self, target: jax.Array) -> dict[str, jax.Array]:
        """``clipped``: share of targets [B] outside the support."""
        return {"clipped": _outside(self, self.transform.forward(target))}


@config
class C51:
    """The distribution of the return on ``bins`` atoms from ``low`` to ``high`` (arXiv:1707.06887).

    Bootstrapped targets are distributions: the successor's, scaled, shifted and projected back on the atoms. A number becomes
    what it becomes with `TwoHot`.
    """

    low: float = leaf(-10.0)  # lower end of the support, where the first atom lies
    high: float = leaf(10.0)  # upper end of the support, where the last atom lies
    initial: float = leaf(0.0)  # value before learning, kept one bin inside the support
    bins: int = static(51, "[3, inf)")  # number of atoms

    @property
    def size(self) -> int:
        """Logits per value."""
        return self.bins

    def check(self, where: str = "head") -> None:
        """Raise `InputError` for a support that is empty or too fine for float32; ``where`` is the head's name."""
        _check(self, where)

    def bias(self) -> jax.Array:
        """The flattest logits [bins] whose value is ``initial``."""
        return _tilt(_atoms(self), self.initial)

    def value(self, out: jax.Array) -> jax.Array:
        """The expectation [...] of logits [..., bins]."""
        return _mean(out, _atoms(self))

    def backup(self, target: jax.Array, scale: jax.Array, out: jax.Array) -> jax.Array:
        """Probabilities [..., bins] of ``target + scale * (Z - E[Z])``, Z what ``out`` [..., bins] stands for (eq. 7)."""
        probabilities = jax.nn.softmax(_wide(out))
        spread = _each(_atoms(self), -self.value(out))
        moved = target[..., None] + jnp.asarray(scale)[..., None] * spread
        return (probabilities[..., None] * self.probabilities(moved)).sum(-2)

    def probabilities(self, target: jax.Array) -> jax.Array:
        """``[..., bins]`` of numbers [...]."""
        return _two_hot(self, target)

    def loss(self, out: jax.Array, target: jax.Array) -> jax.Array:
        """Excess cross-entropy [...] of logits [..., bins], for numbers [...] or probabilities [..., bins]."""
        return _excess(self, out, target)

    def metrics(self, target: jax.Array) -> dict[str, jax.Array]:
        """``clipped``: share of targets [B] outside the support, by their means."""
        return {"clipped": _outside(self, target)}


HEADS = MappingProxyType({"scalar": Scalar(), "two_hot": TwoHot(), "hl_gauss": HLGauss(), "c51": C51()})


def support_from(
    source: Any,
    discount: float,
    *,
    scale: float = 1.0,
    bias: float = 0.0,
    failure: float | None = None,
    bonus: tuple[float, float] = (0.0, 0.0),
    pad: float = 0.1,
    transform: Transform = LINEAR,
) -> tuple[float, float]:
    """``(low, high)`` of a support for a head with this ``transform``, with ``pad`` times its width more on each side.

    ``source`` is a `rljax.data.Dataset`, whose smallest and largest discounted returns count, or the ``(smallest, largest)``
    reward of a step, with which an episode may go on for ever or end at once. Returns stop where the recording does: values
    that a better policy reaches, or that a time limit hides, may lie beyond them, which the metric ``clipped`` shows.
    ``scale``, ``bias`` and, for a data set, ``failure`` change rewards as in `rljax.data.mc_returns`. ``bonus`` is the
    ``(smallest, largest)`` bonus that each later step adds where targets hold one, such as the entropy's -alpha log pi.

    Raises:
        InputError: for a discount outside [0, 1), rewards that are not two numbers in order, or numbers that are not finite.
    """
    if not 0 <= discount < 1:
        raise InputError(f"discount must be in [0, 1), got {discount}")
    if not np.isfinite([scale, bias, failure or 0.0, *bonus, pad]).all() or pad < 0:
        raise InputError("scale, bias, failure, bonus and pad must be finite, and pad must not be negative")
    if hasattr(source, "transition"):
        from rljax.data import mc_returns

        returns = mc_returns(source, discount, scale, bias, failure)
        low, high = float(returns.min()), float(returns.max())
    else:
        given = np.ravel(np.asarray(source))
        if given.shape != (2,) or given.dtype.kind not in "iuf" or not np.isfinite(given).all() or given[0] > given[1]:
            raise InputError(f"the source must be a data set or two finite rewards, the smallest first, got {source!r}")
        rewards = [scale * float(reward) + bias for reward in given]
        for_ever = [reward / (1 - discount) for reward in rewards]
        low, high = min(rewards + for_ever), max(rewards + for_ever)
    low += min(bonus[0], 0.0) * discount / (1 - discount)
    high += max(bonus[1], 0.0) * discount / (1 - discount)
    margin = pad * (high - low) if low < high else max(0.1 * abs(high), 1e-3)  # never empty
    if not np.isfinite([low - margin, high + margin]).all():
        raise InputError(f"rewards this large have no finite values: {low:g} to {high:g}")
    return float(transform.forward(low - margin)), float(transform.forward(high + margin))


def _check(head: Any, where: str) -> None:
    low, high = np.broadcast_arrays(np.asarray(head.low), np.asarray(head.high))
    wrong = ~(low < high)
    if wrong.any():
        raise InputError(f"{where}.low must be below {where}.high, got {low[wrong][0]:g} and {high[wrong][0]:g}")
    largest = np.maximum(abs(low), abs(high)).astype(np.float64)
    lost = ~(largest < 1e37) | ~((high - low) / head.bins > 4 * np.finfo(np.float32).eps * largest)
    if lost.any():
        ends = f"{low[lost][0]:.9g} and {high[lost][0]:.9g}"
        raise InputError(f"{where}.low and {where}.high, {ends}, leave bins that float32 cannot tell apart: choose others")


def _atoms(head: Any) -> jax.Array:
    return head.low + (head.high - head.low) * jnp.asarray(np.arange(head.bins) / (head.bins - 1), float)


def _each(points: jax.Array, shift: jax.Array) -> jax.Array:
    """``points`` [K] moved by each of ``shift`` [...]: [..., K]."""
    return jax.lax.expand_dims(points, range(shift.ndim)) + shift[..., None]


def _wide(out: jax.Array) -> jax.Array:
    return out.astype(jnp.promote_types(out.dtype, jnp.float32))


def _weights(out: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """``(logits minus their largest, their exponentials, the sum of these)`` of logits [..., bins]."""
    shifted = out - jax.lax.stop_gradient(out.max(-1, keepdims=True))
    weights = jnp.exp(shifted)
    return shifted, weights, weights.sum(-1)


def _mean(out: jax.Array, atoms: jax.Array) -> jax.Array:
    _, weights, total = _weights(_wide(out))
    return (weights @ atoms) / total


def _two_hot(head: Any, target: jax.Array) -> jax.Array:
    """``[..., bins]`` of numbers [...] on the axis of the atoms: a hat function around each atom."""
    target = jnp.clip(_wide(target), head.low, head.high)
    at = (target - head.low) * ((head.bins - 1) / (head.high - head.low))
    return jnp.maximum(1 - jnp.abs(_each(jnp.arange(head.bins, dtype=at.dtype), -at)), 0.0)


def _excess(head: Any, out: jax.Array, target: jax.Array) -> jax.Array:
    """KL divergence [...] from the target, numbers [...] or probabilities [..., bins], to softmax(out)."""
    out, target = _wide(out), jax.lax.stop_gradient(target)
    probabilities = target if target.ndim == out.ndim else head.probabilities(target)
    if probabilities.shape != out.shape:
        raise ValueError(f"a target of shape {target.shape} does not fit logits of shape {out.shape}")
    shifted, _, total = _weights(out)
    return jnp.log(total) - (probabilities * shifted + entr(probabilities)).sum(-1)


def _outside(head: Any, target: jax.Array) -> jax.Array:
    return ((target < head.low) | (target > head.high)).astype(target.dtype).mean()


def _tilt(atoms: jax.Array, mean: jax.Array | float) -> jax.Array:
    """The logits [bins] of largest entropy with this mean, a straight line, by bisection of its slope."""
    bins = atoms.shape[0]
    axis, width = jnp.asarray(np.linspace(-1, 1, bins), float), (atoms[-1] - atoms[0]) / 2
    mean = jnp.clip((mean - (atoms[0] + atoms[-1]) / 2) / width, -1 + 2 / (bins - 1), 1 - 2 / (bins - 1))

    def halve(_: int, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        middle = (low + high) / 2
        short = jax.nn.softmax(middle * axis) @ axis < mean
        return jnp.where(short, middle, low), jnp.where(short, high, middle)

    low, high = jax.lax.fori_loop(0, 60, halve, (jnp.full_like(mean, -bins), jnp.full_like(mean, bins)))
    return (low + high) / 2 * axis
