"""How hard exploration is in an MDP: k-QVI-solvability, effective planning window, effective horizon.

Definitions: arXiv:2304.09853 (deterministic MDPs, GORP) and arXiv:2312.08369 (stochastic ones, SQIRL).
"""

from __future__ import annotations

import numpy as np

from rljax.horizon import sweeps, tables
from rljax.horizon.gorp import GorpBound, gorp_bounds
from rljax.horizon.sample import Estimate, estimate
from rljax.horizon.tables import Analysis, Bound, Occupancy
from rljax.mdp import MDP

__all__ = ["Analysis", "Bound", "Estimate", "GorpBound", "Occupancy", "analyze", "estimate", "gorp_bounds", "memory"]

SMALL = 2_000_000  # entries of a table [T, S, A, K] for which plain numpy is faster than compiling


def analyze(mdp: MDP, policy: np.ndarray | None = None, max_greedy: int = 5) -> Analysis:
    """The `Analysis` of ``mdp``, whose episodes are explored by ``policy`` [T, S or S + 1, A], or random actions if None.

    * k_min: the least k for which every policy greedy on Q^k is optimal (the MDP is k-QVI-solvable). Q^1 is the exploration
      policy's Q, Q^{k+1} one step of Q-value iteration on Q^k. Actions within 1e-4 of the best count as optimal.
    * epw: the effective planning window, the same with the immediate reward for Q^1.
    * effective_horizon and bounds: GORP's, by theorem 5.4 of arXiv:2304.09853; of deterministic MDPs only.
    * stochastic_effective_horizon: min over k of k + log_A(1 / Δ_k²), where Δ_k is the least gap of Q^k between the best and
      the best suboptimal action in states that policies greedy on Q^k reach. It presumes returns in [0, 1].
    * covering_length: log(2 S A) over the least state-action occupancy, a bound.

    Small MDPs go through `rljax.horizon.tables`, large ones through the jitted `rljax.horizon.sweeps`; both give the same.

    Example:
        >>> from rljax.mdp import deterministic
        >>> trap = deterministic(np.array([[1, -1], [-1, -1]]), np.array([[0.0, 0.2], [1.0, 0.0]]), horizon=2)
        >>> found = analyze(trap)
        >>> found.k_min, found.epw, found.optimal_return, found.exploration_return
        (1, 2, 1.0, 0.35)

    Raises:
        InputError: if ``policy`` has another shape or holds no probabilities.
    """
    version = tables if mdp.successor.size * mdp.horizon <= SMALL else sweeps
    return version.analyze(mdp, policy, max_greedy)


def memory(mdp: MDP) -> int:
    """About how many bytes `analyze` needs beside ``mdp``."""
    states, actions, outcomes = mdp.successor.shape
    table, pairs = mdp.horizon * states, states * actions * outcomes
    return 100 * table * actions if mdp.horizon * pairs <= SMALL else 40 * table + 150 * pairs
