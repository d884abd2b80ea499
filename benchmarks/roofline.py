"""How close updates come to what the machine can do: ``python benchmarks/roofline.py [AGENTS ...] [--seeds 1 64] [--json F]``.

The ceilings are measured in the same turns: products of 4096 x 4096 x 4096, and copies of 1 GiB. The roof of an update is the
time of its products' FLOPs or of the bytes that its compiled program reads and writes, each at its ceiling, whichever is
longer. Those bytes are the compiler's count, so on a CPU, whose caches serve most of them, an update may be faster than this
roof. ``--precision`` is of all products: float32, tensorfloat32 or bfloat16.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import tyro

from rljax.experiments import bench, cases, floor, machine

SQUARE = ((1, (floor.Product(1, 4096, 4096, 4096),)),)
COPIED = 2**28  # numbers of 4 bytes


@dataclass(frozen=True)
class Roofline:
    """Measure updates beside the machine's ceilings."""

    agents: tyro.conf.Positional[tuple[str, ...]] = ("sac", "td3_bc", "iql", "cql", "drama.model")
    seeds: tuple[int, ...] = (1,)
    size: str = "xs"
    width: int | None = None
    env: str | None = None
    precision: str = "float32"
    rounds: int = 7
    seconds: float = 0.5
    json: Path | None = None


def main() -> None:
    """Measure, print a line per program, and write them."""
    given = tyro.cli(Roofline)
    with jax.default_matmul_precision(given.precision):
        copy = jax.jit(lambda x, num: jax.lax.fori_loop(0, num, lambda i, x: x + 1, x), donate_argnums=0)
        carry = [jnp.zeros(COPIED)]
        ceilings = {"products": bench.products(SQUARE, 1).run, "copies": partial(repeat, copy, carry)}
        rows = [measured(given, name, seeds, ceilings) for name in given.agents for seeds in given.seeds]
    for row in rows:
        print(json.dumps(row))
    if given.json is not None:
        given.json.write_text(json.dumps({"machine": machine.versions(), "precision": given.precision, "rows": rows}, indent=1))


def repeat(copy: jax.stages.Wrapped, carry: list[jax.Array], num: int) -> None:
    """Read and write ``carry`` so many times."""
    carry[0] = jax.block_until_ready(copy(carry[0], jnp.int32(num)))


def measured(given: Roofline, name: str, seeds: int, ceilings: dict) -> dict:
    """Ceilings and one agent's update, in turns."""
    case = cases.case(name, cases.Sizes(given.size, given.width, given.env))
    update = bench.program(case.update, case.config, seeds)
    flops = seeds * floor.flops(floor.UPDATES[name](case.config, case.spec))
    took = bench.in_turns(ceilings | {"update": update.run}, given.rounds, given.seconds)
    rates = {"flops": floor.flops(SQUARE) / took["products"], "bytes": 8 * COPIED / took["copies"]}
    roofs = {"products": flops / rates["flops"], "memory": update.traffic / rates["bytes"]}
    bound = max(roofs, key=roofs.__getitem__)
    return {
        "agent": name,
        "seeds": seeds,
        "updates_per_s": round(seeds / took["update"], 2),
        "gflop_per_s": round(flops / took["update"] / 1e9, 1),
        "gb_per_s": round(update.traffic / took["update"] / 1e9, 1),
        "ceiling_gflop_per_s": round(rates["flops"] / 1e9, 1),
        "ceiling_gb_per_s": round(rates["bytes"] / 1e9, 1),
        "bound": bound,
        "fraction_of_roof": round(roofs[bound] / took["update"], 3),
    }


if __name__ == "__main__":
    main()
