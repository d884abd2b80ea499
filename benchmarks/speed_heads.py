"""What a head costs: SAC's update (batch 256, networks of 2 x 256) with each head, beside the rate of matrix products.

``python benchmarks/speed_heads.py`` prints updates/s, and the seconds of compiling. Cases alternate; figures are medians over
rounds, without compilation.
"""

from __future__ import annotations

import json

from rljax.agents import sac
from rljax.config import override
from rljax.experiments import bench, cases, floor
from rljax.heads import C51, HLGauss, Scalar, TwoHot

HEADS = (Scalar(), TwoHot(), HLGauss(), C51(bins=101), C51())


def main() -> None:
    """One line of JSON per head."""
    programs = {}
    for head in HEADS:
        case = cases.standard(sac, override(sac.Config(), {"head": head}))
        programs[f"{type(head).__name__}({head.size})"] = bench.program(case.update, case.config, 1)
    runs = {name: program.run for name, program in programs.items()}
    took = bench.in_turns({"256^3": bench.products(bench.REFERENCE, 1).run, **runs}, rounds=7, seconds=0.2)
    print(json.dumps({"GFLOP/s": round(floor.flops(bench.REFERENCE) / took["256^3"] / 1e9, 1)}))
    for name, program in programs.items():
        print(json.dumps({"head": name, "updates/s": round(1 / took[name], 1), "compile_s": round(program.compiled, 1)}))


if __name__ == "__main__":
    main()
