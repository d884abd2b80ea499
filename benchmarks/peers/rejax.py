"""rejax' SAC on gymnax' pendulum, one update per env step, any number of seeds under one vmap.

Needs jax, flax, optax, distrax and gymnax==0.0.9 installed, and a clone of https://github.com/keraJLi/rejax.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import jax
import worker


def build(options: Any) -> worker.Work:
    """Rejax' train iteration in a compiled loop, without evaluations."""
    if options.agent != "sac":
        worker.refuse("of rejax only sac is measured")
    sys.path.insert(0, str(Path(options.clone) / "src"))
    import rejax

    algorithm = rejax.SAC.create(
        env="Pendulum-v1",
        hidden_layer_sizes=(worker.WIDTH,) * options.depth,
        num_critics=worker.CRITICS,
        num_envs=1,
        num_epochs=1,
        batch_size=worker.BATCH,
        buffer_size=worker.CAPACITY,
        fill_buffer=0,
        polyak=0.995,
    )

    def steps(state: Any, num: Any) -> Any:
        return jax.lax.fori_loop(0, num, lambda _, state: jax.vmap(algorithm.train_iteration)(state), state)

    compiled = jax.jit(steps, donate_argnums=0)
    carry = [jax.jit(jax.vmap(algorithm.init_state))(jax.random.split(jax.random.PRNGKey(0), options.seeds))]

    def run(num: int) -> int:
        carry[0] = jax.block_until_ready(compiled(carry[0], math.ceil(num / options.seeds)))
        return math.ceil(num / options.seeds) * options.seeds

    return worker.Work(run, "env steps", ("jax", "jaxlib", "flax", "optax", "distrax", "gymnax"))


if __name__ == "__main__":
    worker.serve(build)
