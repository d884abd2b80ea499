"""Speed and memory of the offline loop, beside the rate of this machine's matrix products.

``python benchmarks/speed_offline.py [SEEDS ...]`` prints, for TD3+BC, IQL and CQL (batch 256, networks of 2 x 256) on one
million transitions of hopper's shapes: critic updates/s of all seeds, what compiling took, the bytes of all arrays held after
a chunk as a share of one data set and the seeds' states, and the workspace of the compiled chunk while it runs.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
from speed import HOPPER, ITERATIONS, PRODUCTS, measure, product

from rljax import loops, replay
from rljax.agents import cql, iql, td3_bc
from rljax.base import Batch, Transition
from rljax.config import override, stack

ROWS = 1_000_000
AGENTS = (td3_bc, iql, cql)
SIZES = {"actor_width": 256, "critic_width": 256, "actor_depth": 2, "critic_depth": 2, "batch_size": 256}


def recorded() -> replay.Recorded:
    """A million transitions of noise."""
    keys = jax.random.split(jax.random.key(0), 4)
    obs, next_obs = (jax.random.normal(key, (ROWS, 11)) for key in keys[:2])
    action = jax.random.uniform(keys[2], (ROWS, 3), minval=-1)
    flag = jnp.zeros(ROWS, bool)
    return replay.Recorded(Batch(Transition(obs, action, jax.random.normal(keys[3], (ROWS,)), next_obs, flag, flag)))


def num_bytes(tree: Any) -> int:
    """Bytes of all arrays."""
    return sum(
        x.size * x.dtype.itemsize for x in jax.tree.leaves(tree) if not jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
    )


def case(agent: ModuleType, seeds: int, data: replay.Recorded) -> tuple[Callable[[], Any], float, dict[str, Any]]:
    """``(run, critic updates of a call, memory)`` of 32 iterations of the offline loop."""
    config = override(agent.Config(), SIZES)
    batches = agent.make(HOPPER, config).batches

    def loop(config: Any) -> loops.Loop:
        return loops.offline(agent.make(HOPPER, config), config.batch_size)

    stacked, alive = stack([config] * seeds), jnp.ones(seeds, bool)
    state = jax.jit(lambda c, k: jax.lax.map(lambda x: loop(x[0]).init(x[1]), (c, k)))(
        stacked, jax.random.split(jax.random.key(0), seeds)
    )
    run = jax.jit(
        lambda state, t, data: loops.run(loop, stacked, state, alive, t, jnp.int32(ITERATIONS), data), donate_argnums=0
    )
    begin, states = time.perf_counter(), num_bytes(state)
    compiled = run.lower(state, jnp.int32(0), data).compile()
    seconds, workspace = time.perf_counter() - begin, compiled.memory_analysis().temp_size_in_bytes
    before = num_bytes(jax.live_arrays()) - states - num_bytes(data)
    carry = [state, 0]
    del state

    def again() -> Any:
        carry[0], *_ = jax.block_until_ready(compiled(carry[0], jnp.int32(carry[1]), data))
        carry[1] += ITERATIONS

    again()
    held = num_bytes(jax.live_arrays()) - before
    memory = {"held": held, "data_set": num_bytes(data), "states": states, "workspace": workspace}
    return again, seeds * ITERATIONS * batches, memory | {"compile_s": round(seconds, 1)}


def main(numbers: list[int]) -> None:
    """Print memory, then rates: one line of JSON per case."""
    data = recorded()
    cases: dict[tuple[str, int], tuple[Callable[[], Any], float]] = {("GFLOP/s", 0): (product(), PRODUCTS * 2 * 256**3 / 1e9)}
    for agent in AGENTS:
        name = agent.__name__.rpartition(".")[2]
        for seeds in numbers:
            run, amount, memory = case(agent, seeds, data)
            share = memory["held"] / (memory["data_set"] + memory["states"])
            print(json.dumps({"agent": name, "seeds": seeds, **memory, "share": round(share, 3)}))
            cases[f"{name} updates/s", seeds] = run, amount
    measure(cases)


if __name__ == "__main__":
    main([int(arg) for arg in sys.argv[1:]] or [1, 8])
