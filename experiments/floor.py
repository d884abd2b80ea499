"""The dense products of an agent's update, and a program that computes nothing else: what no update can be faster than.

`UPDATES` lists each agent's products by shape and orientation, as its equations want them; tests/experiments/test_bench.py
holds the lists against what is traced. Critics are scalar. A product with one term per sum is none: it scales, and is fused
with what surrounds it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rljax import conservative, ssm
from rljax.base import Discrete, Spec
from rljax.world_model import REWARDS, Size, action_size

# Axes of the left and the right operand, without batch, that a product sums over.
FORWARD, INPUTS, WEIGHTS = (1, 0), (1, 1), (0, 0)


class Product(NamedTuple):
    """``num`` products of m x k by k x n numbers: x w (FORWARD), g w^T (INPUTS) or x^T g (WEIGHTS)."""

    num: int
    m: int
    k: int
    n: int
    sums: tuple[int, int] = FORWARD

    @property
    def operands(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The shapes of both."""
        batch = () if self.num == 1 else (self.num,)
        left = (self.m, self.k) if self.sums[0] else (self.k, self.m)
        right = (self.n, self.k) if self.sums[1] else (self.k, self.n)
        return (*batch, *left), (*batch, *right)


Operands = dict[Product, tuple[jax.Array, jax.Array]]
# Products that are made so many times, one round after the other, as in the update's own scan.
Stage = tuple[int, tuple[Product, ...]]


def network(
    sizes: tuple[int, ...], rows: int, num: int = 1, weights: bool = False, through: bool = False
) -> tuple[Product, ...]:
    """Products of ``num`` MLPs on the same ``rows`` inputs: forward, and back to ``weights``, and ``through`` to the inputs.

    ``sizes`` are the numbers of inputs, hidden units and outputs.
    """
    layers = list(zip(sizes[:-1], sizes[1:], strict=True))
    found = [Product(num, rows, k, n) for k, n in layers]
    for i, (k, n) in reversed(list(enumerate(layers))):
        found += [Product(num, k, rows, n, WEIGHTS)] * weights
        found += [Product(num, rows, n, k, INPUTS)] * (through or (weights and i > 0))
    return tuple(product for product in found if product.k > 1)


def sac(config: Any, spec: Spec) -> tuple[Stage, ...]:
    """Products of `rljax.agents.sac.update`."""
    return _soft(config, spec, config.num_critics, ((1, _actor_step(config, spec, config.batch_size)),))


def sac_discrete(config: Any, spec: Spec) -> tuple[Stage, ...]:
    """Products of `rljax.agents.sac_discrete.update`."""
    actor, critic, rows = *_sizes(config, spec), config.batch_size
    step = network(actor, rows) + network(critic, rows, config.num_critics)
    step += network(critic, rows, config.num_critics, weights=True)
    last = network(critic, rows, config.num_critics) + network(actor, rows, weights=True)
    return (config.utd, step), (1, last)


def td3_bc(config: Any, spec: Spec) -> tuple[Stage, ...]:
    """Products of `rljax.agents.td3_bc.update`."""
    step = _critic_step(config, spec, config.num_critics, std=False)
    actor, critic, rows = *_sizes(config, spec, std=False), config.batch_size
    last = network(actor, rows, weights=True) + network(critic, rows, through=True)
    return (config.policy_delay, step), (1, last)


def iql(config: Any, spec: Spec) -> tuple[Stage, ...]:
    """Products of `rljax.agents.iql.update`: two values of the new V beside those that are learned."""
    actor, critic, rows = *_sizes(config, spec, std=False), config.batch_size
    value = (spec.obs.shape[0], *critic[1:-1], config.value_head.size)
    step = network(critic, rows, config.num_critics) + network(critic, rows, config.num_critics, weights=True)
    step += network(value, rows, weights=True) + 2 * network(value, rows) + network(actor, rows, weights=True)
    return ((1, step),)


def cql(config: Any, spec: Spec) -> tuple[Stage, ...]:
    """Products of `rljax.agents.cql.update` with its plain backup.

    The gap wants the policy's outputs at both observations, which the target and the actor's step want too: they are the same.
    """
    actor, critic = _sizes(config, spec)
    num = conservative.blocks(config.num_actions, config.batch_size)
    values = (3 * config.num_actions + 1) * config.batch_size // num
    begin = network(actor, config.batch_size) + network(critic, config.batch_size, config.num_critics)
    gaps = network(critic, values, config.num_critics, weights=True)
    return (1, begin), (num, gaps), (1, _actor_step(config, spec, config.batch_size))


def rlpd(config: Any, spec: Spec) -> tuple[Stage, ...]:
    """Products of `rljax.agents.rlpd.update`."""
    return _soft(config, spec, config.num_targets, ((1, _actor_step(config, spec, config.batch_size)),))


def wsrl(config: Any, spec: Spec) -> tuple[Stage, ...]:
    """Products of `rljax.agents.wsrl.update` with one action per backup: the actor step and the entropy see all batches."""
    rows = config.utd * config.batch_size
    entropy = network(_sizes(config, spec)[0], rows)
    return _soft(config, spec, config.num_targets, ((1, entropy + _actor_step(config, spec, rows)),))


def sqirl(config: Any, spec: Spec) -> tuple[Stage, ...]:
    """Products of `rljax.agents.sqirl.update` with two heads or more."""
    sizes = (spec.obs.shape[0], *(config.width,) * config.depth, spec.action.n * config.k)
    updates = math.ceil(config.episodes * spec.horizon * config.epochs / config.batch_size)
    return ((updates, network(sizes, config.batch_size) + network(sizes, config.batch_size, weights=True)),)


def drama(config: Any, spec: Spec) -> tuple[Stage, ...]:
    """Products of `rljax.agents.drama.update`."""
    return drama_model(config, spec) + drama_imagination(config, spec) + drama_behaviour(config, spec)


def drama_model(config: Any, spec: Spec) -> tuple[Stage, ...]:
    """Products of the world model's step; chunks are computed again on the way back."""
    size, rows, sizes = config.size, config.batch_size * config.length, _model_sizes(config.size, spec)
    chunk = min(ssm.CPU_CHUNK, config.length)
    step = network(sizes["encoder"], rows, weights=True)
    for part in ("stem", *("into", "out") * size.layers, "decoder", "reward", "end"):
        step += network(sizes[part], rows, weights=True, through=True)
    step += network(sizes["prior"], config.batch_size * (config.length - 1), weights=True, through=True)
    ahead, back = _chunk(size, config.batch_size, chunk), _chunk_back(size, config.batch_size, chunk)
    return (1, step), (size.layers * -(-config.length // chunk), ahead + back)


def drama_imagination(config: Any, spec: Spec) -> tuple[Stage, ...]:
    """Products of the context, of all steps ahead, and of the rewards and ends on the way."""
    size, num, sizes = config.size, config.starts, _model_sizes(config.size, spec)
    begin, seen = network(sizes["encoder"], num), config.context - 1
    stages: tuple[Stage, ...] = ()
    if seen:
        for part in ("encoder", "stem", *("into", "out") * size.layers):
            begin += network(sizes[part], num * seen)
        chunk = min(ssm.CPU_CHUNK, seen)
        stages = ((size.layers * -(-seen // chunk), _chunk(size, num, chunk)),)
    ahead = network(sizes["actor"], num) + network(sizes["stem"], num) + network(sizes["prior"], num)
    layer = network(sizes["into"], num) + (Product(num, 2 * size.width, _STATE, 1),) + network(sizes["out"], num)
    rows = (config.ahead + 1) * num
    outcome = network(sizes["reward"], rows) + network((REWARDS.size, 1), rows) + network(sizes["end"], rows)
    return (1, begin), *stages, (config.ahead, ahead + size.layers * layer), (1, outcome)


def drama_behaviour(config: Any, spec: Spec) -> tuple[Stage, ...]:
    """Products of the steps of actor and critic."""
    sizes, rows = _model_sizes(config.size, spec), config.ahead * config.starts
    step = network(sizes["critic"], rows + config.starts, weights=True) + network((REWARDS.size, 1), rows + config.starts)
    step += network(sizes["critic"], rows) + network((REWARDS.size, 1), rows)
    step += network(sizes["actor"], rows, weights=True)
    return ((1, step),)


UPDATES: MappingProxyType[str, Callable[[Any, Spec], tuple[Stage, ...]]] = MappingProxyType(
    {
        "sac": sac,
        "sac_discrete": sac_discrete,
        "td3_bc": td3_bc,
        "iql": iql,
        "cql": cql,
        "rlpd": rlpd,
        "wsrl": wsrl,
        "sqirl": sqirl,
        "drama": drama,
        "drama.model": drama_model,
        "drama.imagination": drama_imagination,
        "drama.behaviour": drama_behaviour,
    }
)


def flops(stages: tuple[Stage, ...]) -> int:
    """Floating-point operations of all products, two for each multiplication."""
    return sum(times * 2 * p.num * p.m * p.k * p.n for times, products in stages for p in products)


def init(stages: tuple[Stage, ...], seeds: int, key: jax.Array) -> Operands:
    """Operands of every product, for all seeds."""
    products = sorted({product for _, products in stages for product in products})

    def operand(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        return jax.random.normal(key, (*(seeds,) * (seeds > 1), *shape))

    keys = jax.random.split(key, (len(products), 2))
    return {p: (operand(k[0], p.operands[0]), operand(k[1], p.operands[1])) for p, k in zip(products, keys, strict=True)}


def once(stages: tuple[Stage, ...], operands: Operands, number: jax.Array) -> jax.Array:
    """A number after all products were made once, each in its turn.

    Each product is made on condition of a number of the one before. A compiler that does not know it can neither leave products
    out, nor merge them, nor make them earlier or at the same time.
    """

    def make(number: jax.Array, product: Product) -> jax.Array:
        left, right = operands[product]
        batch = tuple(range(left.ndim - 2))
        sums = (product.sums[0] + len(batch),), (product.sums[1] + len(batch),)

        def out() -> jax.Array:
            return jax.lax.dot_general(left, right, (sums, (batch, batch)))

        shape = jax.eval_shape(out)
        found = jax.lax.cond(number < 1.0, out, lambda: jnp.zeros(shape.shape, shape.dtype))
        return jnp.minimum(found[(0,) * found.ndim], 0.0)

    def turn(products: tuple[Product, ...], _: jax.Array, number: jax.Array) -> jax.Array:
        return functools.reduce(make, products, number)

    for times, products in stages:
        number = jax.lax.fori_loop(0, times, functools.partial(turn, products), number)
    return number


_STATE = 16  # numbers of a state-space layer's state per number of a head, as of `rljax.ssm.init`


def _sizes(config: Any, spec: Spec, std: bool = True) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Sizes of actor and critic; ``std``: the actor has a deviation for each mean."""
    (obs,), discrete = spec.obs.shape, isinstance(spec.action, Discrete)
    num = action_size(spec.action)
    actor = (obs, *(config.actor_width,) * config.actor_depth, num * (2 if std and not discrete else 1))
    hidden = (config.critic_width,) * config.critic_depth
    return actor, (obs if discrete else obs + num, *hidden, config.head.size * (num if discrete else 1))


def _critic_step(config: Any, spec: Spec, targets: int, std: bool = True) -> tuple[Product, ...]:
    """The next action, its value by ``targets`` critics, and the step of all."""
    actor, critic, rows = *_sizes(config, spec, std), config.batch_size
    return network(actor, rows) + network(critic, rows, targets) + network(critic, rows, config.num_critics, weights=True)


def _actor_step(config: Any, spec: Spec, rows: int) -> tuple[Product, ...]:
    actor, critic = _sizes(config, spec)
    return network(actor, rows, weights=True) + network(critic, rows, config.num_critics, through=True)


def _soft(config: Any, spec: Spec, targets: int, last: tuple[Stage, ...]) -> tuple[Stage, ...]:
    return (config.utd, _critic_step(config, spec, targets)), *last


def _model_sizes(size: Size, spec: Spec) -> dict[str, tuple[int, ...]]:
    """Sizes of Drama's networks without convolutions, and of the projections of a state-space layer of inner width 2 D."""
    obs, num, inner = math.prod(spec.obs.shape), action_size(spec.action), 2 * size.width
    seen, hidden = size.latent + size.width, size.hidden
    return {
        "encoder": (obs, hidden, hidden, size.latent),
        "decoder": (size.latent, hidden, hidden, obs),
        "stem": (size.latent + num, size.width),
        "into": (size.width, 2 * inner + 2 * _STATE + inner // size.head),
        "out": (inner, size.width),
        "prior": (size.width, size.latent),
        "reward": (size.width, hidden, REWARDS.size),
        "end": (size.width, hidden, 1),
        "actor": (seen, *(size.actor_width,) * size.actor_depth, num),
        "critic": (seen, *(size.critic_width,) * size.critic_depth, REWARDS.size),
    }


def _chunk(size: Size, batch: int, chunk: int) -> tuple[Product, ...]:
    """C B^T, what comes from inside the chunk and from before, and what is added to the state (`rljax.ssm.chunked`)."""
    heads = batch * 2 * size.width // size.head
    return (
        Product(batch, chunk, _STATE, chunk),
        Product(heads, chunk, chunk, size.head),
        Product(heads, chunk, _STATE, size.head),
        Product(heads, size.head, chunk, _STATE, WEIGHTS),
    )


def _chunk_back(size: Size, batch: int, chunk: int) -> tuple[Product, ...]:
    """C B^T again, and both gradients of each product of `_chunk`."""
    heads, head = batch * 2 * size.width // size.head, size.head
    return (
        Product(batch, chunk, _STATE, chunk),
        Product(batch, chunk, chunk, _STATE, INPUTS),
        Product(batch, chunk, chunk, _STATE, WEIGHTS),
        Product(heads, chunk, head, chunk, INPUTS),
        Product(heads, chunk, chunk, head, WEIGHTS),
        Product(heads, chunk, head, _STATE, INPUTS),
        Product(heads, head, chunk, _STATE, WEIGHTS),
        Product(heads, head, _STATE, chunk, INPUTS),
        Product(heads, chunk, head, _STATE),
    )
