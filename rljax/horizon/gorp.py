"""Tighter bounds on the effective horizon of a deterministic MDP: how likely GORP is to fail with m episodes per sequence.

Appendix C of arXiv:2304.09853, as its reference computes it (compute_gorp_bounds.jl). GORP fails at a state if the sequence of
k actions with the best mean return of m episodes begins with a wrong action. Tail bounds of the means give lower and upper
bounds on the probability that each sequence is the best one; the worst case within them gives the state's probability of
failure, from the last step backwards. The least m with a probability of at most one half is found by bisection.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.special import bdtr, ndtr, ndtri

from rljax.base import InputError
from rljax.horizon import tables
from rljax.horizon.tables import PRECISION, Values
from rljax.mdp import MDP, reachable, simplest

QUANTILES = np.arange(101) / 100
FAILURE = 0.5  # the probability of failure that is allowed
MOST_SAMPLES = 10**100
MOST = 100_000_000  # states x sequences, which take 800 MB an array
MOST_RETURNS = 4096  # distinct returns, beyond which their distribution is not followed


class GorpBound(NamedTuple):
    """With ``samples`` episodes per sequence of ``k`` actions GORP fails with probability at most 1/2; None if none suffice.

    ``effective_horizon`` is k + log_A ``samples``, and ``steps`` = A^k · ``samples`` · T² the env steps that GORP takes.
    """

    k: int
    samples: int | None
    effective_horizon: float
    steps: int | None


class _Rows(NamedTuple):
    """States of one step with the sequences from each, equal ones grouped: [N] states, [N, G] groups, [N, A^k] sequences.

    ``q``, ``best`` and ``worst`` are the sequence's return if the exploration, the best and the worst policy goes on; ``var``
    and ``third`` the variance and third absolute moment of the first. ``copies`` is 0 where a state has fewer groups.
    """

    state: np.ndarray
    q: np.ndarray
    best: np.ndarray
    worst: np.ndarray
    var: np.ndarray
    third: np.ndarray
    copies: np.ndarray
    group: np.ndarray


def gorp_bounds(
    mdp: MDP, policy: np.ndarray | None = None, max_k: int | None = None, work: float = 500_000
) -> tuple[GorpBound, ...]:
    """A `GorpBound` for each k up to ``max_k`` [the largest k with A^k <= 1000] and the horizon, for a deterministic ``mdp``.

    ``policy`` [T, S or S + 1, A] explores, or random actions if None. Larger k are left out where states x sequences exceed
    ``work`` or `MOST`, or the values need more than about 2 GB; () if that is so for k = 1.

    As in the reference, the binomial bounds neglect that all means may be 0. Deviations: rewards that are scaled up because
    the least is below 1 scale the moments with them; the linear program is solved in closed form.

    Raises:
        InputError: if ``mdp`` is stochastic, ``max_k`` is below 1, or ``policy`` is none.
    """
    mdp = simplest(mdp)
    if not tables.is_deterministic(mdp):
        raise InputError("bounds for GORP need a deterministic MDP")
    policy, actions = tables.checked_policy(mdp, policy), mdp.successor.shape[1]
    if max_k is None:
        max_k = int(math.log(1000, actions) + 1e-12) if actions > 1 else 1
    if max_k < 1:
        raise InputError(f"the largest k must be at least 1, got {max_k}")
    mdp, policy = _reachable_part(mdp, policy)
    if mdp.successor.size * mdp.horizon > 4e7:
        return ()
    mdp = mdp._replace(reward=_scaled(mdp.reward))
    values = tables.value_iteration(mdp, policy)
    moments = _moments(mdp, policy)
    mdp, values, binomial = _normalized(mdp, values)
    states, found = _optimal_states(mdp, values), []
    for k in range(1, min(max_k, mdp.horizon) + 1):
        if sum(map(len, states)) * actions**k > min(work, MOST):
            break
        rows = [_rows(mdp, values, moments, here, t, k) for t, here in enumerate(states)]
        samples = _least_samples(mdp, values, rows, k, binomial and k == 1)
        horizon = math.inf if samples is None else k + tables.log_base(samples, actions)
        found.append(GorpBound(k, samples, horizon, None if samples is None else actions**k * samples * mdp.horizon**2))
    return tuple(found)


def _reachable_part(mdp: MDP, policy: np.ndarray | None) -> tuple[MDP, np.ndarray | None]:
    there = reachable(mdp, mdp.horizon)
    number = np.append(np.where(there, np.cumsum(there) - 1, -1), -1)
    part = MDP(number[mdp.successor[there]], mdp.probability[there], mdp.reward[there], mdp.horizon)
    return part, None if policy is None else policy[:, there]


def _scaled(reward: np.ndarray) -> np.ndarray:
    """``reward`` times the whole number that makes the least positive one about 1, in float32 as in the reference."""
    least = np.float32(reward[(reward > 0) & (reward < 1)].min(initial=1))
    return (reward.astype(np.float32) * np.round(np.float32(1) / least)).astype(np.float64)


def _moments(mdp: MDP, policy: np.ndarray | None) -> np.ndarray | None:
    """Variance and third absolute moment [T + 1, S + 1, 2] of the exploration policy's return; None if returns are too many."""
    states, actions, _ = mdp.successor.shape
    returns, chance = np.zeros(1), np.ones((states + 1, 1))
    moments = np.zeros((mdp.horizon + 1, states + 1, 2))
    rewards, which = np.unique(mdp.reward[..., 0], return_inverse=True)
    which = which.reshape(states, actions)
    for t in reversed(range(mdp.horizon)):
        sums = rewards[:, None] + returns
        _, first, place = np.unique(np.round(sums / PRECISION), return_index=True, return_inverse=True)
        if len(first) > MOST_RETURNS or len(first) * states > 2e8:
            return None
        new, place = np.zeros((states + 1, len(first))), place.reshape(sums.shape)
        for a in range(actions):
            share = np.full(states, 1 / actions) if policy is None else policy[t, :, a]
            for r in range(len(rewards)):
                here = np.flatnonzero(which[:, a] == r)
                np.add.at(new, (here[:, None], place[r]), chance[mdp.successor[here, a, 0]] * share[here, None])
        returns, chance = sums.ravel()[first], new
        chance[-1] = np.where(returns == 0, 1.0, 0.0)
        if not (returns == 0).any():
            returns, chance = _with_zero(returns, chance)
        centered = returns - (chance @ returns)[:, None]
        moments[t, :, 0] = (chance * centered**2).sum(1)
        moments[t, :, 1] = (chance * np.abs(centered) ** 3).sum(1)
    return moments


def _with_zero(returns: np.ndarray, chance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distributions with the return 0, which an episode that has ended gives."""
    last = np.zeros((len(chance), 1))
    last[-1] = 1
    return np.append(returns, 0.0), np.concatenate([chance, last], 1)


def _normalized(mdp: MDP, values: Values) -> tuple[MDP, Values, bool]:
    """MDP and values scaled to returns of 0 and 1, and True, if there are two returns only."""
    here, top = np.arange(len(mdp.successor)) == 0, 0.0
    for t in range(mdp.horizon):
        top = max(top, float(values.optimal_v[t, :-1][here].max(initial=-np.inf)))
        here = tables.step_from(mdp, np.repeat(here[:, None], mdp.successor.shape[1], 1))
    best = values.optimal_v[0, 0]
    if not np.isin(mdp.reward, (0.0, top)).all() or best <= 0:
        return mdp, values, False
    return mdp._replace(reward=mdp.reward / best), Values(*(x / best for x in values)), True


def _optimal_states(mdp: MDP, values: Values) -> list[np.ndarray]:
    """For each step the states that optimal actions lead to and in which a wrong action is still possible."""
    here, found, worse = np.arange(len(mdp.successor)) == 0, [], tables.suboptimal(values)
    for t in range(mdp.horizon):
        here = here & (values.optimal_v[t, :-1] - values.worst_v[t, :-1] >= PRECISION)
        found.append(np.flatnonzero(here))
        here = tables.step_from(mdp, here[:, None] & ~worse[t])
    return found


def _rows(mdp: MDP, values: Values, moments: np.ndarray | None, here: np.ndarray, t: int, k: int) -> _Rows:
    sequences = _sequences(mdp, values, moments, here, t, k)
    parts = [np.unique(x, axis=0, return_inverse=True, return_counts=True) for x in sequences]
    most = max((len(x) for x, _, _ in parts), default=1)
    table, count = np.zeros((len(here), most, 5)), np.zeros((len(here), most))
    for i, (params, _, counts) in enumerate(parts):
        table[i], table[i, : len(params)], count[i, : len(params)] = params[0], params, counts
    group = np.array([inverse.ravel() for _, inverse, _ in parts]).reshape(len(here), sequences.shape[1])
    q, best, worst, var, third = np.moveaxis(table, -1, 0)
    return _Rows(here, q, best, worst, var, third, count, group)


def _sequences(mdp: MDP, values: Values, moments: np.ndarray | None, here: np.ndarray, t: int, k: int) -> np.ndarray:
    """[N, A^k, 5]: q, best, worst, variance and third moment of each sequence from each state; the first action comes first."""
    actions = mdp.successor.shape[1]
    if t >= mdp.horizon:
        return np.zeros((len(here), actions**k, 5))
    after = mdp.successor[here, :, 0]
    if k == 1:
        ended = here < 0
        q = [np.where(ended[:, None], 0.0, x[t, here]) for x in (values.exploration_q, values.optimal_q, values.worst_q)]
        after = np.where(ended[:, None], -1, after)
        spread = np.zeros((*after.shape, 2)) if moments is None else moments[t + 1, after]
        return np.concatenate([np.stack(q, -1), spread], -1)
    parts = []
    for a in range(actions):
        part = _sequences(mdp, values, moments, np.where(here < 0, -1, after[:, a]), t + 1, k - 1)
        part[..., :3] += np.where(here < 0, 0.0, mdp.reward[here, a, 0])[:, None, None]
        parts.append(part)
    return np.concatenate(parts, 1)


def _least_samples(mdp: MDP, values: Values, rows: list[_Rows], k: int, binomial: bool) -> int | None:
    """The least number of samples, within a hundredth, for which GORP fails with probability at most `FAILURE`."""
    low, high = 0, MOST_SAMPLES
    if _failure(mdp, values, rows, k, high, binomial) > FAILURE:
        return None
    while high > low + 1 and (high - low) / high > 1e-2:
        middle = math.isqrt(high * (low + 1))
        if _failure(mdp, values, rows, k, middle, binomial) <= FAILURE:
            high = middle
        else:
            low = middle
    return high


def _failure(mdp: MDP, values: Values, rows: list[_Rows], k: int, m: int, binomial: bool) -> float:
    """An upper bound on the probability that GORP with ``m`` samples fails from the start."""
    num_states, actions, _ = mdp.successor.shape
    worse, fails = tables.suboptimal(values), np.zeros(num_states + 1)
    for t in reversed(range(mdp.horizon)):
        here, after = rows[t].state, np.zeros(num_states + 1)
        of_action = np.where(worse[t, here], 1.0, fails[mdp.successor[here, :, 0]])
        after[here] = of_action.max(1)
        open_ = np.flatnonzero(of_action.max(1) > of_action.min(1))
        size = max(1, int(4e6 / (100 * rows[t].q.shape[1] ** 2)))
        for i in range(0, len(open_), size):
            part = open_[i : i + size]
            after[here[part]] = _worst_case(_Rows(*(x[part] for x in rows[t])), of_action[part], k, m, binomial)
        fails = after
    return float(fails[0])


def _worst_case(rows: _Rows, of_action: np.ndarray, k: int, m: int, binomial: bool) -> np.ndarray:
    """[N]: the least of the bounds that the methods give, if ``of_action`` [N, A] is the failure after each action."""
    sequences = rows.group.shape[1]
    methods = [_bennett]
    methods += [_bernstein] if sequences <= 100 else []
    methods += [_berry_esseen] if sequences <= 100 and rows.third.any() else []
    methods += [_binomial] if binomial and m <= 1_000_000 else []
    of_sequence = np.repeat(of_action, sequences // of_action.shape[1], 1)
    least = np.ones(len(of_action))
    for method in methods:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore"):
            low, high = (np.take_along_axis(x, rows.group, 1) for x in method(rows, m))
        short = np.maximum(1 - high.sum(1, keepdims=True), 0)
        high = np.where(short > 0, np.minimum(high + short, 1), high)
        at_least = (low * of_sequence).sum(1)
        at_most = np.minimum((high * of_sequence).sum(1), of_action.max(1))
        exact = _most_failure(of_sequence, low, high)
        least = np.minimum(least, np.where(at_most - at_least > 0.01, exact, at_most))
    return least


def _most_failure(value: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Max over p of Σ p·value [N], for low <= p <= high with Σ p = 1: what is free goes where the value is greatest."""
    order = np.argsort(-value, 1, kind="stable")
    value, low, high = (np.take_along_axis(x, order, 1) for x in (value, low, high))
    room, free = np.maximum(high - low, 0), np.maximum(1 - low.sum(1, keepdims=True), 0)
    given = np.clip(free - (np.cumsum(room, 1) - room), 0, room)
    return ((low + given) * value).sum(1)


def _of_others(count: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """Π over the other sequences of ``chance`` [N, G, X, G] -> [N, G, X], where each group has ``count`` [N, G] sequences."""
    others = np.maximum(count[:, None, :] - np.eye(count.shape[1]), 0)
    return (chance ** others[:, :, None, :]).prod(-1)


def _facing(x: np.ndarray) -> np.ndarray:
    """[N, G] as the other sequence's, [N, 1, 1, G]."""
    return x[:, None, None, :]


def _bernstein(rows: _Rows, m: int) -> tuple[np.ndarray, np.ndarray]:
    var, width, levels = (rows.best - rows.q) * (rows.q - rows.worst), rows.best - rows.worst, QUANTILES[1:]

    def quantile(delta: np.ndarray) -> np.ndarray:
        surprise, v, b = -np.log(delta), var[..., None], width[..., None]
        found = (b * surprise / m + np.sqrt(18 * v / m * surprise + b**2 * surprise**2 / float(m) ** 2)) / 3
        return np.where((b == 0) | (v == 0), 0.0, found)

    def tail(t: np.ndarray) -> np.ndarray:
        found = np.exp(-(t**2) * float(m) / 2 / (_facing(var) + _facing(width) * t / 3))
        return np.where(t <= 0, 1.0, np.where(np.isposinf(t), 0.0, found))

    upper = (rows.q[..., None] + quantile(1 - levels))[..., None]
    lower = (rows.q[..., None] - quantile(levels - QUANTILES[1]))[..., None]
    high = _of_others(rows.copies, tail(_facing(rows.q) - upper))
    low = _of_others(rows.copies, 1 - tail(lower - _facing(rows.q)))
    return (low * QUANTILES[1]).sum(-1), (high * QUANTILES[1]).sum(-1)


def _bennett(rows: _Rows, m: int) -> tuple[np.ndarray, np.ndarray]:
    width, real = rows.best - rows.worst, rows.copies > 0
    top = np.where(real, rows.q, -np.inf).max(1, keepdims=True)
    second = np.where(real & (rows.q < top - PRECISION), rows.q, -np.inf).max(1, keepdims=True)
    threshold = (top + second) / 2

    def tail(var: np.ndarray, t: np.ndarray) -> np.ndarray:
        u = width * t / var
        found = np.exp(-float(m) * var / width**2 * ((1 + u) * np.log1p(u) - u))
        return np.where(t <= 0, 1.0, np.where(var == 0, 0.0, found))

    below = tail((rows.q - rows.worst) * width, rows.q - threshold)
    all_below = np.where(rows.q == top, below**rows.copies, 1.0).prod(1, keepdims=True)
    above = tail((rows.q - rows.worst) * (rows.best - rows.q), threshold - rows.q)
    high = np.where(np.isneginf(second), 1.0, 1 - (1 - above) * (1 - all_below))
    return np.zeros_like(high), high


def _berry_esseen(rows: _Rows, m: int) -> tuple[np.ndarray, np.ndarray]:
    std, cubed = np.sqrt(rows.var / float(m)), rows.var**1.5
    worst = np.minimum(0.33554 * (rows.third + 0.415 * cubed), 0.3328 * (rows.third + 0.429 * cubed))
    error = np.where(rows.var == 0, 0.0, worst / (cubed * math.sqrt(m)))

    def normal(x: np.ndarray) -> np.ndarray:
        q, s = _facing(rows.q), _facing(std)
        return ndtr(np.where((s == 0) & (x == q), np.inf, (x - q) / s))

    e = error[..., None]
    upper = _normal_quantile(rows.q, std, np.minimum(1, QUANTILES[1:] + e))[..., None]
    lower = _normal_quantile(rows.q, std, np.maximum(0, QUANTILES[1:] - QUANTILES[1] - e))[..., None]
    high = _of_others(rows.copies, np.minimum(1, normal(upper) + _facing(error)))
    low = _of_others(rows.copies, np.maximum(0, normal(lower - 1e-8) - _facing(error)))
    return (low * QUANTILES[1]).sum(-1), (high * QUANTILES[1]).sum(-1)


def _normal_quantile(mean: np.ndarray, std: np.ndarray, level: np.ndarray) -> np.ndarray:
    """[N, G, X]: quantiles of normal distributions, of which those without spread still reach to infinity."""
    z = ndtri(level)
    return mean[..., None] + np.where(np.isinf(z), 1.0, std[..., None]) * z


def _binomial(rows: _Rows, m: int) -> tuple[np.ndarray, np.ndarray]:
    p = np.clip(rows.q, 0, 1)
    if m >= 30:
        level = np.broadcast_to(QUANTILES, (*p.shape, 101))
        edges = np.floor(np.clip(_normal_quantile(p * m, np.sqrt(m * p * (1 - p)), level), 0, m))
    else:
        edges = _binomial_quantile(p, m)
    lower, upper = edges[..., :-1], edges[..., 1:]
    inside = bdtr(upper, m, p[..., None]) - bdtr(lower, m, p[..., None])
    others = _facing(p)
    high = inside * _of_others(rows.copies, bdtr(upper[..., None], m, others))
    low = inside * _of_others(rows.copies, bdtr(lower[..., None], m, others))
    return low.sum(-1), high.sum(-1)


def _binomial_quantile(p: np.ndarray, m: int) -> np.ndarray:
    """[N, G, 101]: whole-number quantiles, rounded down below the median and up from there on."""
    below = bdtr(np.arange(m + 1.0), m, p[..., None])[..., None, :]
    levels = QUANTILES[:, None]
    down = np.maximum((below <= levels).sum(-1) - 1, 0)
    up = np.minimum((below < levels).sum(-1), m)
    found = np.where(QUANTILES < 0.5, down, up)
    found = np.where(QUANTILES <= (1 - p[..., None]) ** m, 0, found)
    return np.where(QUANTILES == 1, m, found)
