"""Seconds and peak memory of the full analysis of a random MDP: python benchmarks/speed_horizon.py [STATES] [KIND].

KIND is dense (uniform rewards), sparse (one action in a thousand is rewarded) or chain (a line with traps; the horizon is
too short to reach the end).
"""

from __future__ import annotations

import resource
import sys
import time

import numpy as np

from rljax.horizon import sweeps
from rljax.mdp import MDP, deterministic

ACTIONS, HORIZON = 4, 100


def random_mdp(states: int, kind: str) -> MDP:
    """An MDP with ``states`` states, four actions and 100 steps."""
    rng = np.random.default_rng(0)
    successor = rng.integers(0, states, (states, ACTIONS), dtype=np.int32)
    reward = rng.random((states, ACTIONS))
    if kind == "sparse":
        reward = (reward < 1e-3).astype(np.float64)
    if kind == "chain":
        line = np.arange(states, dtype=np.int32)[:, None]
        successor = np.where(successor % ACTIONS == np.arange(ACTIONS), np.minimum(line + 1, states - 1), line // 2)
        reward = (successor == HORIZON - 1).astype(np.float64)
    return deterministic(successor, reward, HORIZON)


def main() -> None:
    """Print what the analysis takes."""
    states, kind = int((sys.argv[1:] or ["1000000"])[0]), (sys.argv[2:] or ["dense"])[0]
    mdp = random_mdp(states, kind)
    start = time.perf_counter()
    found = sweeps.analyze(mdp)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    last_k = max([found.k_min, found.epw, *(b.k for b in found.bounds)])
    print(f"{states} states x {ACTIONS} actions x {HORIZON} steps, {kind}: {seconds:.1f} s, {peak:.2f} GiB at most")
    print(f"k_min {found.k_min}, window {found.epw}, effective horizon {found.effective_horizon:.2f}, largest k {last_k}")


if __name__ == "__main__":
    main()
