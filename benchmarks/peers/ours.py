"""The programs of `rljax bench`: the loops of the agents, and products of 256 x 256 x 256 as agent ``gemm``.

Needs an installed rljax.
"""

from __future__ import annotations

import math
from typing import Any

import worker

from rljax import envs, loops, replay
from rljax.agents import sac
from rljax.base import Batch, Transition
from rljax.config import override
from rljax.experiments import bench, cases, devices, floor

PACKAGES = ("rljax", "jax", "jaxlib", "flax", "optax", "gymnax")


def build(options: Any) -> worker.Work:
    """The agent's loop: with env steps on gymnax' pendulum for SAC, on recorded data for all others."""
    if options.agent == "gemm":
        return products()
    sizes = {"actor_depth": options.depth, "critic_depth": options.depth}
    config = override(cases.TRANSITIONS[options.agent].Config(), sizes)
    if options.agent == "cql":
        config = override(config, {"num_actions": options.actions})
    if options.agent == "iql":
        config = override(config, {"order": options.order})
    online = options.agent == "sac"
    case = cases.standard(cases.TRANSITIONS[options.agent], config)
    program = bench.program(pendulum if online else case.loop, config, options.seeds, () if online else data(options.rows))
    each = case.steps * options.seeds

    def run(num: int) -> int:
        program.run(math.ceil(num / each))
        return math.ceil(num / each) * each

    return worker.Work(run, case.unit, PACKAGES, program.compiled)


def products() -> worker.Work:
    """Products of 256 x 256 x 256, in GFLOP."""
    program, each = bench.products(bench.REFERENCE, 1), floor.flops(bench.REFERENCE) / 1e9

    def run(num: int) -> float:
        program.run(math.ceil(num / each))
        return math.ceil(num / each) * each

    return worker.Work(run, "GFLOP", PACKAGES, program.compiled)


def pendulum(config: Any) -> loops.Loop:
    """SAC with an update per env step."""
    env = envs.make("gymnax/Pendulum-v1")
    return loops.online(sac.make(env.spec, config), env, config.batch_size, worker.CAPACITY)


def data(rows: int) -> replay.Recorded:
    """The data set on the device."""
    import jax.numpy as jnp

    found = {name: jnp.asarray(x) for name, x in worker.recorded(rows).items()}
    ended = found.pop("terminals") > 0
    return replay.Recorded(Batch(Transition(*found.values(), ended, ended)))


if __name__ == "__main__":
    devices.each_processor()
    worker.serve(build)
