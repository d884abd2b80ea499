"""JAX-CORL's TD3+BC, IQL and CQL.

Needs jax, flax, optax, distrax, pydantic and omegaconf installed, and a clone of https://github.com/nissymori/JAX-CORL.
"""

from __future__ import annotations

import importlib
import math
import sys
from typing import Any

import jax
import jax.numpy as jnp
import worker

NAMES = {"td3_bc": ("td3bc", "TD3BC"), "iql": ("iql", "IQL"), "cql": ("cql", "CQL")}


def build(options: Any) -> worker.Work:
    """JAX-CORL's training loop without evaluations and logs; a call makes as many updates as its config says."""
    if options.agent not in NAMES or options.seeds != 1:
        worker.refuse("JAX-CORL has td3_bc, iql and cql, with one seed")
    file, name = NAMES[options.agent]
    jax.devices()  # before the flags that the import sets, which are for GPUs
    sys.path.insert(0, options.clone)
    worker.stand_in("d4rl", "gym", "tqdm", "wandb")
    module = importlib.import_module(f"algos.{file}")
    config = configure(module, options)
    data = load(module, options.rows)
    row = jax.tree.map(lambda x: x[0], data)
    key, key_init = jax.random.split(jax.random.PRNGKey(0))
    create = getattr(module, f"create_{file}_train_state")
    carry = [create(key_init, row.observations, row.actions, config), key]
    update = jax.jit(getattr(module, name)().update_n_times, static_argnums=(3,))

    def run(num: int) -> int:
        for _ in range(calls := math.ceil(num / config.n_jitted_updates)):
            carry[1], key = jax.random.split(carry[1])
            carry[0], _ = update(carry[0], data, key, config)
        jax.block_until_ready(carry[0])
        return calls * config.n_jitted_updates

    return worker.Work(run, "gradient steps", ("jax", "jaxlib", "flax", "optax", "distrax"))


def configure(module: Any, options: Any) -> Any:
    """The module's config with our sizes; where it has LayerNorm and we have none, it is left out."""
    config = module.config
    config.hidden_dims = (worker.WIDTH,) * options.depth
    if options.agent == "td3_bc":
        mlp = module.MLP
        module.MLP = lambda *args, layer_norm=False: mlp(*args)
    elif options.agent == "iql":
        config.layer_norm = False
    else:
        config.action_dim, config.target_entropy, config.cql_n_actions = worker.ACTION, -worker.ACTION, options.actions
    return config


def load(module: Any, rows: int) -> Any:
    """The data set as the module's transitions."""
    found = {name: jnp.asarray(x) for name, x in worker.recorded(rows).items()}
    found["dones"] = found["dones_float"] = found.pop("terminals")
    return module.Transition(**{name: found[name] for name in module.Transition._fields})


if __name__ == "__main__":
    worker.serve(build)
