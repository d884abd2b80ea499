"""Speed of SAC (batch 256, networks of 2 x 256) beside the rate of this machine's matrix products.

``python benchmarks/speed.py [SEEDS ...]`` prints, for each number of seeds under one vmap: updates/s of `sac.update`
alone (in a scan, batches of random numbers of hopper's shapes), env steps/s of the whole online loop on the pendulum (one
update per env step), and what compiling took. Cases alternate; figures are medians over rounds, without compilation.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rljax import envs, loops
from rljax.agents import sac
from rljax.base import Array, Batch, Spec, Transition
from rljax.config import stack

ROUNDS, ITERATIONS, PRODUCTS = 7, 32, 200
HOPPER = Spec(Array((11,)), Array((3,), "float32", -1.0, 1.0), 1000)
CONFIG = sac.Config()


def product() -> Callable[[], Any]:
    """200 products of 256 x 256 x 256 in a row, compiled."""
    a = jax.random.normal(jax.random.key(0), (256, 256)) / 16
    run = jax.jit(lambda a: jax.lax.fori_loop(0, PRODUCTS, lambda i, x: x @ a, a))
    return lambda: run(a)


def updates(seeds: int, config: sac.Config = CONFIG) -> Callable[[], Any]:
    """32 updates for each seed."""
    agent = sac.make(HOPPER, config)

    def body(state: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        keys = jax.random.split(key, 5)
        obs, next_obs = (jax.random.normal(k, (1, CONFIG.batch_size, 11)) for k in keys[:2])
        action = jax.random.uniform(keys[2], (1, CONFIG.batch_size, 3), minval=-1)
        reward, flag = jax.random.normal(keys[3], (1, CONFIG.batch_size)), jnp.zeros((1, CONFIG.batch_size), bool)
        state, metrics = agent.update(state, Batch(Transition(obs, action, reward, next_obs, flag, flag)), keys[4])
        return state, metrics["critic/loss"]

    run = jax.jit(jax.vmap(lambda state, key: jax.lax.scan(body, state, jax.random.split(key, ITERATIONS))))
    keys = jax.random.split(jax.random.key(0), seeds)
    state = jax.jit(jax.vmap(agent.init))(keys)
    return lambda: run(state, keys)


def steps(seeds: int) -> Callable[[], Any]:
    """32 iterations of the online loop for each seed: an env step, and an update from a ring of 20 000 transitions."""
    env = envs.make("pendulum")

    def loop(config: sac.Config) -> loops.Loop:
        return loops.online(sac.make(env.spec, config), env, CONFIG.batch_size, 20_000)

    config, alive = stack([CONFIG] * seeds), jnp.ones(seeds, bool)
    state = jax.jit(jax.vmap(lambda c, k: loop(c).init(k)))(config, jax.random.split(jax.random.key(0), seeds))
    run = jax.jit(lambda state, t: loops.run(loop, config, state, alive, t, jnp.int32(ITERATIONS), ()), donate_argnums=0)
    carry = [state, 0]

    def again() -> Any:
        carry[0], *_ = jax.block_until_ready(run(carry[0], jnp.int32(carry[1])))
        carry[1] += ITERATIONS

    return again


def measure(cases: dict[tuple[str, int], tuple[Callable[[], Any], float]]) -> None:
    """Print one line of JSON per case: the work of a call over its median seconds; the first call's excess is compiling."""
    times: dict[tuple[str, int], list[float]] = {case: [] for case in cases}
    for _ in range(1 + ROUNDS):  # the first compiles
        for case, (run, _) in cases.items():
            begin = time.perf_counter()
            jax.block_until_ready(run())
            times[case].append(time.perf_counter() - begin)
    for case, (_, amount) in cases.items():
        median = statistics.median(times[case][1:])
        row = {"unit": case[0], "seeds": case[1], "rate": round(amount / median, 1)}
        print(json.dumps(row | {"first_call_s": round(times[case][0] - median, 1), "device": jax.devices()[0].device_kind}))


def main(numbers: list[int]) -> None:
    """SAC's cases."""
    cases: dict[tuple[str, int], tuple[Callable[[], Any], float]] = {("GFLOP/s", 0): (product(), PRODUCTS * 2 * 256**3 / 1e9)}
    for seeds in numbers:
        cases["updates/s", seeds] = updates(seeds), seeds * ITERATIONS
        cases["env steps/s", seeds] = steps(seeds), seeds * ITERATIONS
    measure(cases)


if __name__ == "__main__":
    main([int(arg) for arg in sys.argv[1:]] or [1, 8])
