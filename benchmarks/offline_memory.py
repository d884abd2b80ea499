"""Memory of the offline loop: ``python benchmarks/offline_memory.py [SEEDS ...]``.

Prints, for TD3+BC, IQL and CQL at the sizes of `rljax bench`, on one million transitions of hopper's shapes: the bytes of all
arrays held after a chunk, as a share of one data set and the seeds' states, and the workspace of the compiled chunk while it
runs.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import jax
import jax.numpy as jnp

from rljax import loops, replay
from rljax.config import stack
from rljax.experiments import cases

AGENTS, ITERATIONS = ("td3_bc", "iql", "cql"), 32


def num_bytes(tree: Any) -> int:
    """Bytes of all arrays."""
    return sum(
        x.size * x.dtype.itemsize for x in jax.tree.leaves(tree) if not jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
    )


def memory(case: cases.Case, seeds: int, data: replay.Recorded) -> dict[str, Any]:
    """Bytes of an offline loop after a chunk."""
    stacked, alive = stack([case.config] * seeds), jnp.ones(seeds, bool)
    keys = jax.random.split(jax.random.key(0), seeds)
    state = jax.jit(lambda c, k: jax.lax.map(lambda x: case.loop(x[0]).init(x[1]), (c, k)))(stacked, keys)
    states = num_bytes(state)
    before = num_bytes(jax.live_arrays()) - states - num_bytes(data)
    chunk = jax.jit(
        lambda state, data: loops.run(case.loop, stacked, state, alive, jnp.int32(0), jnp.int32(ITERATIONS), data),
        donate_argnums=0,
    )
    compiled = chunk.lower(state, data).compile()
    state, *_ = jax.block_until_ready(compiled(state, data))
    held = num_bytes(jax.live_arrays()) - before
    workspace = compiled.memory_analysis().temp_size_in_bytes
    share = round(held / (num_bytes(data) + states), 3)
    return {"held": held, "data_set": num_bytes(data), "states": states, "workspace": workspace, "share": share}


def main(numbers: list[int]) -> None:
    """One line of JSON per agent and number of seeds."""
    data = cases.recorded(cases.HOPPER)
    for name in AGENTS:
        for seeds in numbers:
            print(json.dumps({"agent": name, "seeds": seeds, **memory(cases.case(name), seeds, data)}))


if __name__ == "__main__":
    main([int(arg) for arg in sys.argv[1:]] or [1, 8])
