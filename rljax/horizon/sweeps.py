"""The analysis of MDPs with millions of states: the same numbers as `rljax.horizon.tables`, without tables of Q.

Let V^k = max_a Q^{k-1}, and V^1 the exploration policy's V, so that Q^k at step t looks one step ahead at V^k at t + 1. Then
V^{k+1} at t comes from V^k at t + 1, and the sum τ = t + k - 1 stays: it is the step from which V^k leaves the rest to the
exploration policy. So one column for each τ < T is kept, and moved on in place from k to k + 1; for τ >= T, V^k is optimal.
Columns lie side by side in blocks, [S + 1, columns]: what one successor costs to find then serves all of them; two make one
complex number, since XLA's gather takes its time per number. The window
needs no columns, for its V^k at t is that of an optimal policy with min(k - 1, T - t) steps to go.

Q is looked up where it is asked for: in the states that greedy policies reach. State S is the end of the episode.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.horizon import tables
from rljax.horizon.tables import PRECISION, Analysis, Bound, Occupancy
from rljax.mdp import MDP, reachable, simplest

UNROLLED = 64  # gathers that are written out in a program; more of them are a loop
COLUMNS = 24  # of a block, at most; an even number
FEW = 1000  # states that are followed one by one; as many as a 16th of all in large MDPs


class Outcomes(NamedTuple):
    """What actions lead to, [A, K, S + 1], of which the last is the end; without a leading axis, of one action.

    ``probability`` is None if K is 1. ``zero`` [A] are integers that the compiler does not know, see `_times`.
    """

    successor: jax.Array
    probability: jax.Array | None
    reward: jax.Array
    zero: jax.Array


class Model(NamedTuple):
    """An `MDP` for gathers; ``num_actions`` [S + 1] is A everywhere."""

    outcomes: Outcomes
    num_actions: jax.Array


class Sweeps(NamedTuple):
    """What value iteration leaves: rows [S + 1], and blocks of columns, complex [S + 1, columns / 2].

    ``optimal[t]`` is V* at step t, ``steps[j]`` the V of a best policy with j steps to go, as backups give it (the last digit
    may differ from V*). ``matters[t]``, bool [S], is where the best and the worst policy differ. ``value`` holds V^k and
    ``var`` the variance bound; column τ of them is in block τ // columns. ``spare`` is memory for blocks, see `_move`.
    """

    optimal: list[Any]
    steps: list[Any]
    matters: list[np.ndarray]
    value: list[Any]
    var: list[Any]
    spare: list[Any]
    worst_return: float


def analyze(mdp: MDP, policy: np.ndarray | None = None, max_greedy: int = 5) -> Analysis:
    """The `Analysis` of ``mdp`` whose episodes are explored by ``policy`` [T, S or S + 1, A], or random actions if None.

    ``greedy_returns`` are computed up to k = ``max_greedy``. Needs about 30 S T + 100 S A K bytes.

    Raises:
        InputError: if ``policy`` is not one (see `rljax.horizon.tables.checked_policy`).
    """
    mdp, policy = simplest(mdp), tables.checked_policy(mdp, policy)
    num_states, num_actions = mdp.successor.shape[:2]
    with jax.enable_x64(True):
        model = to_model(mdp)
        sweeps = _value_iteration(model, mdp.horizon, policy)
        start = float(sweeps.optimal[0][0]), float(_ahead(sweeps, 1, 0)[0])
        occupied, means = _occupancy(mdp, policy, sweeps)
        epw = _window(mdp, sweeps)
        search = _search(mdp, model, sweeps, max_greedy)
    return Analysis(
        num_states=int(reachable(mdp, mdp.horizon - 1).sum()),
        num_actions=num_actions,
        horizon=mdp.horizon,
        optimal_return=start[0],
        exploration_return=start[1],
        worst_return=sweeps.worst_return,
        k_min=search.k_min or mdp.horizon,
        epw=epw,
        effective_horizon=search.effective_horizon if tables.is_deterministic(mdp) else None,
        bounds=search.bounds,
        stochastic_effective_horizon=search.stochastic,
        stochastic_gap=search.stochastic_gap,
        greedy_returns=search.greedy_returns,
        occupancy=occupied,
        covering_length=tables.covering_length(num_states, num_actions, occupied),
        optimal_value=means[:, 0],
        exploration_value=means[:, 1],
    )


def to_model(mdp: MDP) -> Model:
    """The `Model` of ``mdp``; to be called, as everything that takes one, with 64-bit numbers enabled."""
    states, actions, _ = mdp.successor.shape

    def turned(x: np.ndarray, end: float) -> jax.Array:
        return jnp.asarray(np.moveaxis(np.concatenate([x, np.full_like(x[:1], end)]), 0, -1))

    successor = turned(np.where(mdp.successor < 0, states, mdp.successor), states)
    probability = None if tables.is_deterministic(mdp) else turned(mdp.probability, 0)
    outcomes = Outcomes(successor, probability, turned(mdp.reward, 0), jnp.zeros(actions, jnp.int64))
    return Model(outcomes, jnp.full(states + 1, float(actions)))


def _at(row: jax.Array, where: jax.Array) -> jax.Array:
    return row.at[where].get(mode="promise_in_bounds")


def _times(zero: jax.Array, p: jax.Array, x: jax.Array) -> jax.Array:
    """p·x, rounded before anything is added to it: a fused multiply-add would break ties that plain arithmetic has."""
    bits = jax.lax.bitcast_convert_type(p * x, jnp.int64) ^ zero
    return jax.lax.bitcast_convert_type(bits, jnp.float64)


def _after(outcome: Outcomes, v: jax.Array) -> list[jax.Array]:
    """What ``v`` [S + 1, ...] is after each outcome of one action, whose ``outcome`` is [K, S + 1]."""
    return [_at(v, s) for s in outcome.successor]


def _lookup(outcome: Outcomes, after: list[jax.Array]) -> jax.Array:
    """`tables.lookup` for one action; shaped as each of ``after``, [S + 1] or [S + 1, columns]."""
    p, r = _beside(outcome, after[0])
    if p is None:
        return r[0] + after[0]
    q = jnp.zeros_like(after[0])
    for p_k, r_k, after_k in zip(p, r, after, strict=True):
        q = q + _times(outcome.zero, p_k, r_k)
        q = q + _times(outcome.zero, p_k, after_k)
    return q


def _back_up(outcome: Outcomes, after: list[jax.Array]) -> jax.Array:
    """`tables.back_up` for one action."""
    p, r = _beside(outcome, after[0])
    if p is None:
        return r[0] + after[0]
    q = jnp.zeros_like(after[0])
    for p_k, r_k, after_k in zip(p, r, after, strict=True):
        q = q + _times(outcome.zero, p_k, r_k + after_k)
    return q


def _pass_on(outcome: Outcomes, after: list[jax.Array]) -> jax.Array:
    """The variance bound of the next step, for a deterministic action."""
    return after[0]


def _beside(outcome: Outcomes, x: jax.Array) -> tuple[jax.Array | None, jax.Array]:
    """Probabilities and rewards [K, S + 1, ...] that broadcast against ``x``."""
    shape = (*outcome.reward.shape, *(1,) * (x.ndim - 1))
    p = outcome.probability
    return None if p is None else p.reshape(shape), outcome.reward.reshape(shape)


def _fold(model: Model, extra: Any, step: Callable[[Any, tuple[Outcomes, Any]], Any], start: Any) -> Any:
    """``step(carry, (outcome, extra))`` over the actions in their order; ``extra`` has a leading axis A, or is None."""
    actions, branches, _ = model.outcomes.successor.shape
    parts = (model.outcomes, extra)
    if actions * branches > UNROLLED:
        return jax.lax.scan(lambda carry, part: (step(carry, part), None), start, parts)[0]
    for a in range(actions):
        start = step(start, jax.tree.map(lambda x, a=a: x[a], parts))
    return start


@jax.jit
def _values(model: Model, ahead: tuple[jax.Array, ...], policy: jax.Array | None) -> tuple[Any, jax.Array, jax.Array]:
    """V of exploration, best and worst policy [S + 1] one step earlier, the variance bound, and where best and worst differ."""

    def step(carry: tuple, part: tuple) -> tuple:
        total, best, worst, var = carry
        outcome, chance = part
        after = _after(outcome, both)
        q, top = (_lookup(outcome, [plane(x) for x in after]) for plane in (jnp.real, jnp.imag))
        low = _lookup(outcome, _after(outcome, ahead[2]))
        total = total + (q if chance is None else _times(outcome.zero, chance, q))
        return total, jnp.maximum(best, top), jnp.minimum(worst, low), jnp.maximum(var, (q - low) * (top - low))

    both, zero = jax.lax.complex(ahead[0], ahead[1]), jnp.zeros_like(ahead[0])
    start = (zero, zero - jnp.inf, zero + jnp.inf, zero)
    total, best, worst, var = _fold(model, policy, step, start)
    mean = total / model.num_actions if policy is None else total
    return (jnp.maximum(jnp.minimum(mean, best), worst), best, worst), var, best - worst >= PRECISION


@functools.partial(jax.jit, static_argnames="q_of", donate_argnames="memory", keep_unused=True)
def _best(model: Model, v: jax.Array, q_of: Callable, memory: jax.Array | None = None) -> jax.Array:
    """max_a Q of ``v``, real [S + 1] or complex [S + 1, columns / 2], written over ``memory`` of the same shape."""
    planes = (jnp.real, jnp.imag) if jnp.iscomplexobj(v) else (jnp.asarray,)

    def step(tops: tuple, part: tuple) -> tuple:
        outcome = part[0]
        after = _after(outcome, v)
        q = [q_of(outcome, [plane(x) for x in after]) for plane in planes]
        return tuple(map(jnp.maximum, tops, q))

    tops = _fold(model, None, step, tuple(jnp.full(v.shape, -jnp.inf) for _ in planes))
    return jax.lax.complex(*tops) if len(tops) == 2 else tops[0]


@functools.partial(jax.jit, static_argnames="q_of")
def _worst_greedy(model: Model, ahead: jax.Array, value: jax.Array, q_of: Callable) -> jax.Array:
    """The least value [S + 1] of an action that is greedy on the Q of V ``ahead``, if ``value`` [S + 1] is what follows."""

    def step(carry: tuple, part: tuple) -> tuple:
        (top, least), (outcome, _) = carry, part
        after = _after(outcome, both)
        q, worth = q_of(outcome, [x.real for x in after]), _lookup(outcome, [x.imag for x in after])
        tied = jnp.minimum(least, worth)
        return jnp.maximum(top, q), jnp.where(q > top, worth, jnp.where(q == top, tied, least))

    both = jax.lax.complex(ahead, value)
    start = (jnp.full_like(ahead, -jnp.inf), jnp.full_like(ahead, jnp.inf))
    return _fold(model, None, step, start)[1]


def _value_iteration(model: Model, horizon: int, policy: np.ndarray | None) -> Sweeps:
    end = jnp.zeros_like(model.num_actions)
    ahead, columns = (end, end, end), _columns(horizon)
    optimal, steps, matters, value, var = [end], [end], [], [], []
    explored, spread = [end] * (-horizon % columns), [end] * (-horizon % columns)
    for t in reversed(range(horizon)):
        chances = None if policy is None else jnp.asarray(np.append(policy[t], np.zeros_like(policy[t, :1]), 0).T)
        ahead, row, differ = _values(model, ahead, chances)
        optimal.append(ahead[1])
        steps.append(ahead[1] if model.outcomes.probability is None else _best(model, steps[-1], _back_up))
        matters.append(np.asarray(differ)[:-1])
        explored.append(ahead[0])
        spread.append(row)
        if t % columns == 0:
            value.append(_block(explored[::-1]))
            var.append(_block(spread[::-1]) if model.outcomes.probability is None else None)
            explored, spread = [], []
    spare = [jnp.zeros_like(value[0]) for _ in range(2)]
    return Sweeps(optimal[::-1], steps, matters[::-1], value[::-1], var[::-1], spare, float(ahead[2][0]))


@jax.jit
def _block(rows: list[jax.Array]) -> jax.Array:
    return jax.lax.complex(jnp.stack(rows[::2], -1), jnp.stack(rows[1::2], -1))


def _columns(horizon: int) -> int:
    """How many columns a block has."""
    return min(COLUMNS, horizon + horizon % 2)


def _column(blocks: list[Any], tau: int, horizon: int) -> np.ndarray:
    """Column ``tau`` [S + 1], a view."""
    block, i = divmod(tau, _columns(horizon))
    return np.asarray(blocks[block]).view(np.float64)[:, i]


def _ahead(sweeps: Sweeps, k: int, t: int) -> np.ndarray:
    """V^k [S + 1] at step ``t``."""
    tau, horizon = t + k - 1, len(sweeps.matters)
    return _column(sweeps.value, tau, horizon) if tau < horizon else np.asarray(sweeps.steps[horizon - t])


def _move(model: Model, blocks: list[Any], spare: list[Any], columns: int, k: int, q_of: Callable) -> None:
    """Move the columns on from k to k + 1; those that no step needs any more are dropped.

    What a block was is memory for the block after the next one, by way of ``spare``: with two at hand, two moves can run at
    once, and none waits for fresh memory from the system.
    """
    for i, block in enumerate(blocks):
        if (i + 1) * columns <= k:
            blocks[i] = None
        elif block is not None:
            blocks[i] = _best(model, block, q_of, spare.pop(0))
            spare.append(block)


def _occupancy(mdp: MDP, policy: np.ndarray | None, sweeps: Sweeps) -> tuple[Occupancy, np.ndarray]:
    """The `Occupancy`, and the mean optimal and exploration value [T, 2] of the states at each step."""
    states, actions, _ = mdp.successor.shape
    most, total = np.zeros(states), np.zeros(states)
    most_taken, total_taken = np.zeros((states, actions)), np.zeros((states, actions))
    here: np.ndarray = np.append(np.arange(states) == 0, False).astype(np.float64)
    means = np.zeros((mdp.horizon, 2))
    target = np.where(mdp.successor < 0, states, mdp.successor)
    for t in range(mdp.horizon):
        seen = here[:-1]
        means[t] = [seen @ row[:-1] for row in (np.asarray(sweeps.optimal[t]), _ahead(sweeps, 1, t))]
        taken = seen[:, None] * (1 / actions if policy is None else policy[t])
        np.maximum(most, seen, out=most)
        np.maximum(most_taken, taken, out=most_taken)
        total += seen
        total_taken += taken
        here = np.bincount(target.ravel(), (taken[..., None] * mdp.probability).ravel(), states + 1)
    parts = most, total, most_taken, total_taken
    return Occupancy(*(float(x[x > 0].min()) for x in parts)), means


class _Search(NamedTuple):
    """What the sequence Q^1, Q^2, ... of the exploration policy tells: fields of `Analysis`, collected over k."""

    k_min: int | None = None
    bounds: tuple[Bound, ...] = ()
    effective_horizon: float = math.inf
    stochastic: float = math.inf
    stochastic_gap: float = math.inf
    greedy_returns: tuple[float, ...] = ()


def _search(mdp: MDP, model: Model, sweeps: Sweeps, max_greedy: int) -> _Search:
    """Everything that the Q of the exploration policy tells; uses up the columns."""
    deterministic, columns = tables.is_deterministic(mdp), _columns(mdp.horizon)
    found = _Search(effective_horizon=float(mdp.horizon) if deterministic else 0.0)
    k = 1
    while k <= max_greedy or (k <= mdp.horizon and (not found.k_min or k < max(found.effective_horizon, found.stochastic))):
        jitted, plain = _q_of(k)
        if k <= max_greedy:
            found = found._replace(greedy_returns=(*found.greedy_returns, _greedy_return(mdp, model, sweeps, k)))
        if not found.k_min or (k < found.stochastic and k <= mdp.horizon):
            gap = _greedy_gap(mdp, sweeps, functools.partial(_ahead, sweeps, k), plain)
            found = _with_gap(found, k, gap, model)
        if k < found.effective_horizon:
            bound = _simple_bound(mdp, sweeps, k)
            bounds = found.bounds if bound is None else (*found.bounds, bound)
            h = tables.effective_horizon(bounds, mdp.successor.shape[1], mdp.horizon)
            found = found._replace(bounds=bounds, effective_horizon=h)
        _move(model, sweeps.value, sweeps.spare, columns, k, jitted)
        if k < found.effective_horizon:
            _move(model, sweeps.var, sweeps.spare, columns, k, _pass_on)
        k += 1
    return found


def _with_gap(found: _Search, k: int, gap: float | None, model: Model) -> _Search:
    if gap is None:
        return found
    h = tables.stochastic_bound(k, gap, model.outcomes.successor.shape[0])
    if h < found.stochastic:
        found = found._replace(stochastic=h, stochastic_gap=gap)
    return found._replace(k_min=found.k_min or k)


def _window(mdp: MDP, sweeps: Sweeps) -> int:
    """The effective planning window: the least k that solves ``mdp`` if Q^1 is the reward alone."""
    k = 1
    while k < mdp.horizon:
        if _greedy_gap(mdp, sweeps, functools.partial(_in_window, sweeps, k), _q_of(k)[1]) is not None:
            break
        k += 1
    return k


def _in_window(sweeps: Sweeps, k: int, t: int) -> np.ndarray:
    """V^k [S + 1] at step ``t`` if Q^1 is the reward alone."""
    return np.asarray(sweeps.steps[min(k - 1, len(sweeps.matters) - t)])


def _greedy_return(mdp: MDP, model: Model, sweeps: Sweeps, k: int) -> float:
    """The return of the worst policy that is greedy on Q^k."""
    jitted, plain = _q_of(k)
    visits = _greedy_visits(mdp, sweeps, k, plain)
    if visits is None:
        value = jnp.zeros_like(model.num_actions)
        for t in reversed(range(mdp.horizon)):
            value = _worst_greedy(model, jnp.asarray(_ahead(sweeps, k, t + 1)), value, jitted)
        return float(value[0])
    known = np.zeros(len(mdp.successor) + 1)  # of the states visited at the step that was looked at last
    for here, greedy in reversed(visits):
        known[here] = np.where(greedy, tables.lookup(_at_states(mdp, here), known), np.inf).min(1)
    return float(known[0])


def _greedy_visits(mdp: MDP, sweeps: Sweeps, k: int, q_of: Callable) -> list[tuple[np.ndarray, np.ndarray]] | None:
    """At each step, the states [N] that policies greedy on Q^k reach, and their greedy actions [N, A]; None if many are."""
    here, visits = np.zeros(1, int), []
    everywhere = [np.ones(len(mdp.successor), bool)] * mdp.horizon
    for t in range(mdp.horizon):
        if len(here) > max(FEW, len(mdp.successor) // 16):
            return None
        part = _at_states(mdp, here)
        q = q_of(part, _ahead(sweeps, k, t + 1))
        visits.append((here, q >= q.max(1, keepdims=True)))
        here = _next(mdp, part, visits[-1][1], everywhere, t)
        if not here.size:
            break
    return visits


def _q_of(k: int) -> tuple[Callable, Callable]:
    """How Q^k comes from V^k, jitted and plain: the first sum is that of value iteration."""
    return (_lookup, tables.lookup) if k == 1 else (_back_up, tables.back_up)


def _at_states(mdp: MDP, states: np.ndarray) -> MDP:
    return MDP(mdp.successor[states], mdp.probability[states], mdp.reward[states], mdp.horizon)


def _preferences(part: MDP, sweeps: Sweeps, t: int, here: np.ndarray, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of ``q`` [N, A] in the states ``here`` [N]: the best, and the best of a suboptimal action."""
    best = tables.lookup(part, np.asarray(sweeps.optimal[t + 1]))
    worse = best < np.asarray(sweeps.optimal[t])[here, None] - PRECISION
    return q.max(1), np.where(worse, q, -np.inf).max(1)


def _next(mdp: MDP, part: MDP, taken: np.ndarray, matters: list[np.ndarray], t: int) -> np.ndarray:
    """The states, in order, that the pairs ``taken`` [N, A] may lead to, and from which not all policies are optimal."""
    if t + 1 == mdp.horizon:
        return np.zeros(0, int)
    leads_to = part.successor[taken][part.probability[taken] > 0]
    found = np.zeros(len(mdp.successor), bool)
    found[leads_to[leads_to >= 0]] = True
    return np.flatnonzero(found & matters[t + 1])


def _greedy_gap(mdp: MDP, sweeps: Sweeps, v: Callable[[int], np.ndarray], q_of: Callable) -> float | None:
    """`tables.greedy_gap` of the Q of ``v(t)`` [S + 1]."""
    here, gap = np.zeros(1, int), math.inf
    for t in range(mdp.horizon):
        if not here.size:
            break
        part = _at_states(mdp, here)
        q = q_of(part, v(t + 1))
        top, best_wrong = _preferences(part, sweeps, t, here, q)
        if (best_wrong >= top).any():
            return None
        gap = min(gap, float((top - best_wrong).min()))
        here = _next(mdp, part, q >= top[:, None], sweeps.matters, t)
    return gap


def _simple_bound(mdp: MDP, sweeps: Sweeps, k: int) -> Bound | None:
    """`tables.simple_bounds` for one k, to which the columns must have been moved."""
    here, hardest = np.zeros(1, int), []
    for t in range(mdp.horizon):
        if not here.size:
            break
        part = _at_states(mdp, here)
        q = tables.lookup(part, _ahead(sweeps, k, t + 1))
        top, best_wrong = _preferences(part, sweeps, t, here, q)
        if (top == best_wrong).any():
            return None
        gap, tau = top - best_wrong, t + k - 1
        var = _column(sweeps.var, tau, mdp.horizon)[here] if tau < mdp.horizon else np.zeros(len(here))
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            m = np.maximum(1, np.ceil(16 * var / (gap * gap) * tables.union_log(mdp, k)))
        i = int(m.argmax())
        hardest.append((-m[i], here[i], t, var[i], gap[i]))
        here = _next(mdp, part, q > best_wrong[:, None], sweeps.matters, t)
    m_max, _, _, var_at, gap_at = min(hardest)
    return Bound(k, int(-m_max), float(var_at), float(gap_at)) if np.isfinite(m_max) else None
