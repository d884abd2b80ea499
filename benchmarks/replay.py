"""Replay inside the compiled loop: ``python benchmarks/replay.py [--capacity 1000000] [--json F]``.

SAC at standard sizes on the pendulum with so large a replay. Memory: what the compiled loop holds at its largest, as the
compiler has planned it, and what the process has resident, both beyond that of a replay of one batch and over the bytes of the
replay. Time: of adding a transition and drawing a batch, alone in a loop with the same replay, over that of the agent's update,
measured in turns.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import psutil
import tyro

from rljax import envs, loops, replay
from rljax.agents import sac
from rljax.experiments import bench, cases, machine


@dataclass(frozen=True)
class Replay:
    """Measure memory and time of replay."""

    capacity: int = 1_000_000
    resident: bool = False  # print the bytes that a process has resident, and nothing else
    rounds: int = 7
    seconds: float = 0.5
    json: Path | None = None


def main() -> None:
    """Measure, print and write."""
    given = tyro.cli(Replay)
    env, config = envs.make("pendulum"), sac.Config()
    agent = sac.make(env.spec, config)
    loop = bench.program(lambda config: loops.online(agent, env, config.batch_size, given.capacity), config, 1)
    if given.resident:
        loop.run(1)
        print(psutil.Process().memory_info().rss)
        return
    ring = jax.eval_shape(lambda key: loops.online(agent, env, 1, given.capacity).init(key).ring, jax.random.key(0))
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(ring))
    beside = bench.program(lambda config: loops.online(agent, env, config.batch_size, config.batch_size), config, 1)
    case = cases.standard(sac, config, "pendulum")
    runs = {
        "replay": bench.program(lambda config: alone(env.spec, config.batch_size, given.capacity), config, 1).run,
        "update": bench.program(case.update, config, 1).run,
        "loop": loop.run,
    }
    took = bench.in_turns(runs, given.rounds, given.seconds)
    found = {
        "replay_bytes": size,
        "planned": (loop.bytes - beside.bytes) / size,
        "resident": (resident(given.capacity) - resident(config.batch_size)) / size,
        "replay_s": took["replay"],
        "update_s": took["update"],
        "loop_s": took["loop"],
        "share_of_update": took["replay"] / took["update"],
    }
    print(json.dumps(found))
    if given.json is not None:
        given.json.write_text(json.dumps({"machine": machine.versions(), "capacity": given.capacity} | found, indent=1) + "\n")


def alone(spec: Any, batch: int, capacity: int) -> loops.Loop:
    """One iteration adds a transition and draws a batch, of which every number is needed."""
    row = jax.eval_shape(lambda key: cases.noise(spec, (1,), key).transition, jax.random.key(0))

    def init(key: jax.Array) -> loops.LoopState:
        one = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), row)
        return loops.LoopState((), (), (), one.obs, replay.init(one, capacity), (), (), (), key)

    def step(state: loops.LoopState, t: jax.Array, data: Any) -> tuple[loops.LoopState, loops.Metrics]:
        key, key_draw = jax.random.split(state.key)
        added = jax.tree.map(lambda x: jnp.full((1, *x.shape[1:]), state.obs.sum(), x.dtype), state.ring)
        ring = replay.add(state.ring, added, t)
        drawn = replay.sample(ring, t + 1, key_draw, (1, batch), 1)
        total = sum(jnp.sum(x, dtype=jnp.float32) for x in jax.tree.leaves(drawn))
        return state._replace(ring=ring, obs=state.obs + 1e-9 * total, key=key), {"total": total}

    return loops.Loop(init, step)


def resident(capacity: int) -> int:
    """Bytes that a process has resident after one iteration of the loop."""
    command = [sys.executable, __file__, "--resident", "--capacity", str(capacity)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    main()
