"""unifloral's TD3+BC, IQL and CQL.

Needs jax, flax, optax, distrax and tyro installed, and a clone of https://github.com/EmptyJackson/unifloral.
"""

from __future__ import annotations

import importlib
import math
import sys
from typing import Any

import jax
import jax.numpy as jnp
import worker


def build(options: Any) -> worker.Work:
    """Unifloral's train step in a compiled loop."""
    wanted = {"td3_bc": (2, 10), "iql": (2, 10), "cql": (3, 1)}.get(options.agent)
    if options.seeds != 1 or (options.depth, options.actions) != wanted:
        worker.refuse("unifloral has td3_bc, iql and cql with one seed, cql with --depth 3 --actions 1 and the others without")
    jax.devices()  # before the flags that the import sets, which are for GPUs
    sys.path.insert(0, options.clone)
    worker.stand_in("d4rl", "gym", "wandb")
    module = importlib.import_module(f"algorithms.{options.agent}")
    args = module.Args(**{"num_critics": worker.CRITICS} if options.agent == "cql" else {})
    data = load(module, options.rows)
    state, networks = create(module, args, options.agent, data)

    def steps(carry: Any, num: Any, data: Any) -> Any:
        step = module.make_train_step(args, *networks, data)
        return jax.lax.fori_loop(0, num, lambda _, carry: step(carry, None)[0], carry)

    compiled, carry = jax.jit(steps, donate_argnums=0), [(jax.random.PRNGKey(1), state)]
    each = getattr(args, "num_critic_updates_per_step", 1)

    def run(num: int) -> int:
        carry[0] = jax.block_until_ready(compiled(carry[0], math.ceil(num / each), data))
        return math.ceil(num / each) * each

    return worker.Work(run, "gradient steps", ("jax", "jaxlib", "flax", "optax", "distrax"))


def create(module: Any, args: Any, agent: str, data: Any) -> tuple[Any, list[Any]]:
    """``(state, functions of the networks)``; a target network equals its network."""
    obs, action = jnp.zeros(worker.OBS), jnp.zeros(worker.ACTION)
    stats, key = (data.obs.mean(0), data.obs.std(0)), jax.random.PRNGKey(0)
    if agent == "cql":
        networks = {
            "actor": (module.TanhGaussianActor(worker.ACTION), [obs]),
            "vec_q": (module.VectorQ(args.num_critics), [obs, action]),
            "alpha": (module.EntropyCoef(), []),
        }
    else:
        actor = module.DeterministicTanhActor if agent == "td3_bc" else module.TanhGaussianActor
        networks = {"actor": (actor(worker.ACTION, *stats), [obs]), "dual_q": (module.DualQNetwork(*stats), [obs, action])}
        if agent == "iql":
            networks["value"] = module.StateValueFunction(*stats), [obs]

    def fresh(name: str) -> Any:
        found = networks[name.replace("_target", "")]
        return module.create_train_state(args, key, *found)

    state = module.AgentTrainState(**{name: fresh(name) for name in module.AgentTrainState._fields})
    return state, [network.apply for network, _ in networks.values()]


def load(module: Any, rows: int) -> Any:
    """The data set as the module's transitions."""
    found = {name: jnp.asarray(x) for name, x in worker.recorded(rows).items()}
    return module.Transition(
        *(found[name] for name in ("observations", "actions", "rewards", "next_observations", "terminals"))
    )


if __name__ == "__main__":
    worker.serve(build)
