"""Speed of the updates of fine-tuning, beside the matrix products that they are made of.

``python benchmarks/speed_online.py`` prints, for one seed and hopper's shapes, updates/s of WSRL (10 critics, 4 critic steps
of 256 transitions and one actor step on all 1024; networks of 2 x 256, LayerNorm), of RLPD with the same sizes, and of WSRL's
floor: all dense products of the update, each in its own orientation, and nothing else. The last line is the share of the floor.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
from speed import HOPPER, ITERATIONS, PRODUCTS, ROUNDS, product

from rljax.agents import rlpd, wsrl
from rljax.base import Batch, Transition

CONFIG = wsrl.Config()


def updates(agent: ModuleType) -> Callable[[], Any]:
    """32 updates."""
    made = agent.make(HOPPER, agent.Config())
    shape = (made.batches, CONFIG.batch_size)

    def body(state: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        keys = jax.random.split(key, 5)
        obs, next_obs = (jax.random.normal(k, (*shape, 11)) for k in keys[:2])
        action = jax.random.uniform(keys[2], (*shape, 3), minval=-1)
        reward, flag = jax.random.normal(keys[3], shape), jnp.zeros(shape, bool)
        state, metrics = made.update(state, Batch(Transition(obs, action, reward, next_obs, flag, flag)), keys[4])
        return state, metrics["critic/loss"]

    run = jax.jit(lambda state, key: jax.lax.scan(body, state, jax.random.split(key, ITERATIONS)))
    state = jax.jit(made.init)(jax.random.key(0))
    return lambda: run(state, jax.random.key(1))


def passes(num: int, rows: int, sizes: tuple[int, ...], weights: bool, inputs: bool, first: bool) -> list[tuple[int, ...]]:
    """Products (num, m, k, n) of ``num`` networks: forward, and gradients of weights, of hidden inputs, of the first one."""
    found = []
    for layer, (k, n) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        found.append((num, rows, k, n))
        if weights:
            found.append((num, k, rows, n))
        if inputs and (layer > 0 or first):
            found.append((num, rows, n, k))
    return found


def floor() -> Callable[[], Any]:
    """32 times all dense products of an update of WSRL; each round depends on the one before."""
    critic, actor, b, u = (14, 256, 256, 1), (11, 256, 256, 6), CONFIG.batch_size, CONFIG.utd
    step = passes(1, b, actor, False, False, False) + passes(CONFIG.num_targets, b, critic, False, False, False)
    step += passes(CONFIG.num_critics, b, critic, True, True, False)
    last = passes(1, u * b, actor, True, True, False) + passes(1, u * b, actor, False, False, False)
    last += passes(CONFIG.num_critics, u * b, critic, False, True, True)
    shapes = step * u + last
    left = {s: jax.random.normal(jax.random.key(1), s[:3]) for s in set(shapes)}
    right = {s: jax.random.normal(jax.random.key(2), (s[0], s[2], s[3])) for s in set(shapes)}

    def body(carry: jax.Array, _: None) -> tuple[jax.Array, None]:
        for shape in shapes:
            carry = 1e-9 * jnp.max((left[shape] + carry) @ right[shape])
        return carry, None

    run = jax.jit(lambda carry: jax.lax.scan(body, carry, None, length=ITERATIONS)[0])
    print(json.dumps({"GFLOP of an update's products": round(sum(2 * a * b * c * d for a, b, c, d in shapes) / 1e9, 3)}))
    return lambda: run(jnp.zeros(()))


def main() -> None:
    """Cases alternate; medians over rounds, without compilation."""
    cases = {"floor": floor(), "wsrl": updates(wsrl), "rlpd": updates(rlpd), "GFLOP/s": product()}
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(1 + ROUNDS):
        for name, run in cases.items():
            begin = time.perf_counter()
            jax.block_until_ready(run())
            times[name].append(time.perf_counter() - begin)
    median = {name: statistics.median(x[1:]) for name, x in times.items()}
    for name in cases:
        amount = PRODUCTS * 2 * 256**3 / 1e9 if name == "GFLOP/s" else ITERATIONS
        first = round(times[name][0] - median[name], 1)
        row = {"case": name, "rate": round(amount / median[name], 2), "first_call_s": first}
        print(json.dumps(row | {"device": jax.devices()[0].device_kind}))
    print(json.dumps({"share of the floor": round(median["floor"] / median["wsrl"], 3)}))


if __name__ == "__main__":
    main()
