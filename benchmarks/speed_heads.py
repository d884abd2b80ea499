"""What a head costs: SAC's update (batch 256, networks of 2 x 256) with each head, beside the rate of matrix products.

``python benchmarks/speed_heads.py`` prints updates/s and what compiling took. Cases alternate; figures are medians over rounds,
without compilation.
"""

from __future__ import annotations

from speed import CONFIG, ITERATIONS, PRODUCTS, measure, product, updates

from rljax.config import override
from rljax.heads import C51, HLGauss, Scalar, TwoHot

CASES = (Scalar(), TwoHot(), HLGauss(), C51(bins=101), C51())


def main() -> None:
    """One line of JSON per head."""
    cases = {("GFLOP/s", 0): (product(), PRODUCTS * 2 * 256**3 / 1e9)}
    for head in CASES:
        name = f"{type(head).__name__}({head.size}) updates/s"
        cases[name, 1] = updates(1, override(CONFIG, {"head": head})), ITERATIONS
    measure(cases)


if __name__ == "__main__":
    main()
