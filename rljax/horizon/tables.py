"""What an analysis of a finite MDP says, and the plain float64 numpy version of it: one table [T, S, A] per Q-function.

It reads like the definitions and is what `rljax.horizon.sweeps` is tested against. Arithmetic and order of summation are
those of the reference (github.com/cassidylaidlaw/effective-horizon, Julia), since exact ties between actions decide.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from rljax.base import InputError
from rljax.mdp import MDP, reachable, simplest

PRECISION = 1e-4  # an action is optimal if its value is less than this below the best, as in the reference


class Bound(NamedTuple):
    """GORP with ``samples`` episodes per sequence of k actions succeeds; ``var`` and ``gap`` are those of the hardest state."""

    k: int
    samples: int
    var: float
    gap: float


class Occupancy(NamedTuple):
    """The least-visited state and state-action pair under the exploration policy, of those that are visited at all.

    ``state`` and ``state_action`` take the probability at the best time step, the other two the sum over time steps.
    """

    state: float
    sum_state: float
    state_action: float
    sum_state_action: float


class Analysis(NamedTuple):
    """What `analyze` finds. Steps are counted from 1 as in the papers: k is a number of steps of lookahead.

    ``num_states`` counts the states in which an episode can act. ``effective_horizon`` is None and ``bounds`` is () if the
    MDP is stochastic. ``stochastic_gap`` is that of the k that gives ``stochastic_effective_horizon``.
    ``greedy_returns[k - 1]`` is the return of the worst policy that is greedy on Q^k. ``optimal_value`` and
    ``exploration_value`` [T] are the values ahead of the states that the exploration policy visits at each step, on average.
    """

    num_states: int
    num_actions: int
    horizon: int
    optimal_return: float
    exploration_return: float
    worst_return: float
    k_min: int
    epw: int
    effective_horizon: float | None
    bounds: tuple[Bound, ...]
    stochastic_effective_horizon: float
    stochastic_gap: float
    greedy_returns: tuple[float, ...]
    occupancy: Occupancy
    covering_length: float
    optimal_value: np.ndarray
    exploration_value: np.ndarray


class Values(NamedTuple):
    """Q [T, S, A] and V [T + 1, S + 1] of the exploration, the best and the worst policy; V is 0 at the end (-1) and at T."""

    exploration_q: np.ndarray
    exploration_v: np.ndarray
    optimal_q: np.ndarray
    optimal_v: np.ndarray
    worst_q: np.ndarray
    worst_v: np.ndarray


def analyze(mdp: MDP, policy: np.ndarray | None = None, max_greedy: int = 5) -> Analysis:
    """The `Analysis` of ``mdp``, computed slowly. See `rljax.horizon.analyze`, which this is the reference of."""
    mdp, policy = simplest(mdp), checked_policy(mdp, policy)
    values = value_iteration(mdp, policy)
    bounds = simple_bounds(mdp, values) if is_deterministic(mdp) else ()
    h_stochastic, gap = stochastic_horizon(mdp, values)
    occupied, seen = occupancy(mdp, policy)
    num_states, num_actions = mdp.successor.shape[:2]
    return Analysis(
        num_states=int(reachable(mdp, mdp.horizon - 1).sum()),
        num_actions=num_actions,
        horizon=mdp.horizon,
        optimal_return=float(values.optimal_v[0, 0]),
        exploration_return=float(values.exploration_v[0, 0]),
        worst_return=float(values.worst_v[0, 0]),
        k_min=minimum_k(mdp, values, values.exploration_q),
        epw=minimum_k(mdp, values, rewards_alone(mdp)),
        effective_horizon=effective_horizon(bounds, num_actions, mdp.horizon) if is_deterministic(mdp) else None,
        bounds=bounds,
        stochastic_effective_horizon=h_stochastic,
        stochastic_gap=gap,
        greedy_returns=greedy_returns(mdp, values, max_greedy),
        occupancy=occupied,
        covering_length=covering_length(num_states, num_actions, occupied),
        optimal_value=(seen * values.optimal_v[:-1, :-1]).sum(1),
        exploration_value=(seen * values.exploration_v[:-1, :-1]).sum(1),
    )


def is_deterministic(mdp: MDP) -> bool:
    """Whether every action has one outcome; an MDP may have to be made `simplest` before."""
    return mdp.successor.shape[2] == 1


def checked_policy(mdp: MDP, policy: np.ndarray | None) -> np.ndarray | None:
    """``policy`` as [T, S, A], from [T, S, A] or [T, S + 1, A] (the last row, of the end, is not used).

    Raises:
        InputError: for another shape, probabilities below 0, or rows that do not sum to 1 within 1e-3.
    """
    if policy is None:
        return None
    policy, (states, actions, _) = np.asarray(policy), mdp.successor.shape
    if policy.shape not in ((mdp.horizon, states, actions), (mdp.horizon, states + 1, actions)):
        want = f"[{mdp.horizon}, {states} or {states + 1}, {actions}]"
        raise InputError(f"an exploration policy must have the shape [T, S or S + 1, A] = {want}, got {list(policy.shape)}")
    policy = policy[:, :states]
    if policy.dtype.kind not in "iuf" or not (policy >= 0).all() or not np.allclose(policy.sum(-1), 1, atol=1e-3):
        raise InputError("an exploration policy must hold probabilities that sum to 1 over the actions")
    return policy.astype(np.float64)


def lookup(mdp: MDP, v: np.ndarray) -> np.ndarray:
    """Q [S, A] of V [S + 1] one step later: Σ p·r + p·v, as value iteration sums."""
    q = np.zeros(mdp.successor.shape[:2])
    for k in range(mdp.successor.shape[2]):
        p = mdp.probability[..., k]
        q = q + p * mdp.reward[..., k]
        q = q + p * v[mdp.successor[..., k]]
    return q


def back_up(mdp: MDP, v: np.ndarray) -> np.ndarray:
    """Q [S, A] of V [S + 1] one step later: Σ p·(r + v), as Q-value iteration sums; the last digit may differ."""
    q = np.zeros(mdp.successor.shape[:2])
    for k in range(mdp.successor.shape[2]):
        q = q + mdp.probability[..., k] * (mdp.reward[..., k] + v[mdp.successor[..., k]])
    return q


def value_iteration(mdp: MDP, policy: np.ndarray | None = None) -> Values:
    """The `Values` of ``mdp``; ``policy`` [T, S, A] explores, or random actions if None."""
    states, actions, _ = mdp.successor.shape
    q = [np.zeros((mdp.horizon, states, actions)) for _ in range(3)]
    v = [np.zeros((mdp.horizon + 1, states + 1)) for _ in range(3)]
    for t in reversed(range(mdp.horizon)):
        for table, ahead in zip(q, v, strict=True):
            table[t] = lookup(mdp, ahead[t + 1])
        if policy is None:
            mean = sum(q[0][t, :, a] for a in range(actions)) / actions
        else:
            mean = sum(q[0][t, :, a] * policy[t, :, a] for a in range(actions))
        best, worst = q[1][t].max(1), q[2][t].min(1)
        v[0][t, :-1], v[1][t, :-1], v[2][t, :-1] = np.maximum(np.minimum(mean, best), worst), best, worst
    return Values(q[0], v[0], q[1], v[1], q[2], v[2])


def rewards_alone(mdp: MDP) -> np.ndarray:
    """[T, S, A]: the expected immediate reward, from which the effective planning window counts."""
    return np.repeat(lookup(mdp, np.zeros(len(mdp.successor) + 1))[None], mdp.horizon, 0)


def sharpened(mdp: MDP, q: np.ndarray) -> np.ndarray:
    """Q^{k+1} [T, S, A] of Q^k: one backup of Q-value iteration."""
    q = q.copy()
    for t in range(mdp.horizon - 1):
        q[t] = back_up(mdp, np.append(q[t + 1].max(1), 0.0))
    return q


def suboptimal(values: Values) -> np.ndarray:
    """Bool [T, S, A]: the actions that are not optimal, by Q*."""
    return values.optimal_q < values.optimal_v[:-1, :-1, None] - PRECISION


def step_from(mdp: MDP, taken: np.ndarray) -> np.ndarray:
    """Bool [S]: the states that the state-action pairs ``taken`` [S, A] may lead to."""
    leads_to = mdp.successor[taken][mdp.probability[taken] > 0]
    found = np.zeros(len(mdp.successor), bool)
    found[leads_to[leads_to >= 0]] = True
    return found


def greedy_gap(mdp: MDP, values: Values, q: np.ndarray) -> float | None:
    """How much the policies that are greedy on ``q`` [T, S, A] prefer optimal actions, at least; None if not all are optimal.

    The least difference, over the states that they reach, of the best ``q`` to the best one of a suboptimal action.
    """
    here, gap, worse = np.arange(len(mdp.successor)) == 0, math.inf, suboptimal(values)
    for t in range(mdp.horizon):
        top, best_wrong = q[t].max(1), np.where(worse[t], q[t], -np.inf).max(1)
        if (here & (best_wrong >= top)).any():
            return None
        gap = min(gap, float((top - best_wrong)[here].min(initial=np.inf)))
        here = step_from(mdp, here[:, None] & (q[t] >= top[:, None]))
    return gap


def minimum_k(mdp: MDP, values: Values, q: np.ndarray) -> int:
    """The least k for which every policy greedy on Q^k is optimal, if Q^1 is ``q`` [T, S, A]."""
    k = 1
    while k < mdp.horizon and greedy_gap(mdp, values, q) is None:  # Q^T is Q*
        q, k = sharpened(mdp, q), k + 1
    return k


def greedy_returns(mdp: MDP, values: Values, max_k: int) -> tuple[float, ...]:
    """The return of the worst policy that is greedy on Q^k, for k = 1 .. ``max_k``."""
    q, found = values.exploration_q, []
    for _ in range(max_k):
        v = np.zeros(len(mdp.successor) + 1)
        for t in reversed(range(mdp.horizon)):
            greedy = q[t] >= q[t].max(1, keepdims=True)
            v = np.append(np.where(greedy, lookup(mdp, v), np.inf).min(1), 0.0)
        found.append(float(v[0]))
        q = sharpened(mdp, q)
    return tuple(found)


def simple_bounds(mdp: MDP, values: Values) -> tuple[Bound, ...]:
    """`Bound` for each k that has one, while k is below the effective horizon (arXiv:2304.09853, theorem 5.4)."""
    states, actions, _ = mdp.successor.shape
    q, worse, k = values.exploration_q, suboptimal(values), 1
    found: list[Bound] = []
    var = (values.exploration_q - values.worst_q) * (values.optimal_q - values.worst_q)
    while k < effective_horizon(tuple(found), actions, mdp.horizon):
        bound = _simple_bound(mdp, q, worse, np.maximum(var.max(2), 0), k)
        if bound is not None:
            found.append(bound)
        ahead = np.maximum(var.max(2), 0)
        for t in range(mdp.horizon - 1):
            var[t] = np.append(ahead[t + 1], 0.0)[mdp.successor[..., 0]]
        q, k = sharpened(mdp, q), k + 1
    return tuple(found)


def _simple_bound(mdp: MDP, q: np.ndarray, worse: np.ndarray, var: np.ndarray, k: int) -> Bound | None:
    here, rows = np.arange(len(mdp.successor)) == 0, []
    for t in range(mdp.horizon):
        top, best_wrong = q[t].max(1), np.where(worse[t], q[t], -np.inf).max(1)
        if (here & (top == best_wrong)).any():
            return None
        gap = top - best_wrong
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            m = np.maximum(1, np.ceil(16 * var[t] / (gap * gap) * union_log(mdp, k)))
        rows += [(-m[s], s, t, var[t, s], gap[s]) for s in np.flatnonzero(here)]
        here = step_from(mdp, here[:, None] & (q[t] > best_wrong[:, None]))
    m, _, _, var_at, gap_at = min(rows)  # of equally hard states, the reference takes the first, then the earliest
    return Bound(k, int(-m), float(var_at), float(gap_at)) if np.isfinite(m) else None


def union_log(mdp: MDP, k: int) -> float:
    """ln(2 T A^k): what it costs that all estimates must be right at once."""
    return math.log(2 * mdp.horizon * float(mdp.successor.shape[1]) ** k)


def effective_horizon(bounds: tuple[Bound, ...], num_actions: int, horizon: int) -> float:
    """Min over k of H_k = k + log_A m_k, at most the horizon."""
    return min([float(horizon), *(b.k + log_base(b.samples, num_actions) for b in bounds)])


def log_base(x: float, num_actions: int) -> float:
    """log_A x; 0 for x = 1, also if there is one action only."""
    return 0.0 if x == 1 else math.log(x) / math.log(num_actions) if num_actions > 1 else math.inf


def stochastic_horizon(mdp: MDP, values: Values) -> tuple[float, float]:
    """H̄ = min over k of k + log_A(1 / Δ_k²) for the k for which greedy policies are optimal, and its Δ_k."""
    q, least, gap_at = values.exploration_q, math.inf, math.inf
    for k in range(1, mdp.horizon + 1):
        if k >= least:
            break
        gap = greedy_gap(mdp, values, q)
        if gap is not None and stochastic_bound(k, gap, mdp.successor.shape[1]) < least:
            least, gap_at = stochastic_bound(k, gap, mdp.successor.shape[1]), gap
        q = sharpened(mdp, q)
    return least, gap_at


def stochastic_bound(k: int, gap: float, num_actions: int) -> float:
    """H̄_k = k + log_A(1 / Δ_k²); k where no action is suboptimal, so that Δ_k is infinite."""
    return float(k) if math.isinf(gap) or num_actions == 1 else k - 2 * math.log(gap) / math.log(num_actions)


def occupancy(mdp: MDP, policy: np.ndarray | None = None) -> tuple[Occupancy, np.ndarray]:
    """The `Occupancy` of ``policy`` [T, S, A] (random actions if None), and the probability [T, S] of each state."""
    states, actions, _ = mdp.successor.shape
    seen, taken = np.zeros((mdp.horizon, states)), np.zeros((mdp.horizon, states, actions))
    here = np.append(np.arange(states) == 0, False).astype(np.float64)
    for t in range(mdp.horizon):
        seen[t] = here[:-1]
        taken[t] = seen[t, :, None] * (1 / actions if policy is None else policy[t])
        here = np.zeros(states + 1)
        np.add.at(here, mdp.successor, taken[t, ..., None] * mdp.probability)
    parts = seen.max(0), seen.sum(0), taken.max(0), taken.sum(0)
    return Occupancy(*(float(x[x > 0].min()) for x in parts)), seen


def covering_length(num_states: int, num_actions: int, occupied: Occupancy) -> float:
    """The bound log(2 S A) / (least state-action occupancy), in episodes' steps, on the covering length (arXiv:2304.09853)."""
    return math.log(2 * num_states * num_actions) / occupied.state_action
