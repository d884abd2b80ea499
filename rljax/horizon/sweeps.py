"""The analysis of MDPs with millions of states: the same numbers as `rljax.horizon.tables`, without tables of Q.

Of every sequence Q^1, Q^2, ... only V^k = max_a Q^{k-1} is kept, one row of S + 1 float64 numbers per time step (the last is
the end of the episode, an absorbing state of value 0), and moved on in place by jitted sweeps over the successors. Q is
looked up where it is asked for: in the states that greedy policies reach. Rows that can no longer change are left alone.
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
from rljax.mdp import MDP, reachable

UNROLLED = 64  # gathers that are written out in a program; more of them are a loop


class Model(NamedTuple):
    """An `MDP` for gathers: [A, K, S + 1], with the end of the episode as state S; ``count`` [S + 1] is A everywhere.

    ``zero`` [A] are integers that the compiler does not know, see `_times`.
    """

    successor: jax.Array
    probability: jax.Array | None
    reward: jax.Array
    zero: jax.Array
    count: jax.Array


class Rows(NamedTuple):
    """For each time step: V* and the exploration policy's V [S + 1], the variance bound, and where actions matter, bool [S]."""

    optimal: list[Any]
    exploration: list[Any]
    var: list[Any]
    matters: list[np.ndarray]
    worst_return: float


def analyze(mdp: MDP, policy: np.ndarray | None = None, max_greedy: int = 5) -> Analysis:
    """The `Analysis` of ``mdp`` whose episodes are explored by ``policy`` [T, S or S + 1, A], or random actions if None.

    ``greedy_returns`` are computed up to k = ``max_greedy``. Needs about 8 T (4 S + A) + 100 S A K bytes.

    Raises:
        InputError: if ``policy`` is not one (see `rljax.horizon.tables.checked_policy`).
    """
    policy = tables.checked_policy(mdp, policy)
    num_states, num_actions = mdp.successor.shape[:2]
    with jax.enable_x64(True):
        model = to_model(mdp)
        rows = _value_iteration(model, mdp.horizon, policy)
        start = float(rows.optimal[0][0]), float(rows.exploration[0][0])
        occupied, ahead = _occupancy(mdp, policy, rows)
        search = _search(mdp, model, rows, max_greedy)
        del rows.exploration[:], rows.var[:]
        epw = _window(mdp, model, rows)
    return Analysis(
        num_states=int(reachable(mdp, mdp.horizon - 1).sum()),
        num_actions=num_actions,
        horizon=mdp.horizon,
        optimal_return=start[0],
        exploration_return=start[1],
        worst_return=rows.worst_return,
        k_min=search.k_min,
        epw=epw,
        effective_horizon=search.effective_horizon if tables.is_deterministic(mdp) else None,
        bounds=search.bounds,
        stochastic_effective_horizon=search.stochastic,
        stochastic_gap=search.stochastic_gap,
        greedy_returns=search.greedy_returns,
        occupancy=occupied,
        covering_length=tables.covering_length(num_states, num_actions, occupied),
        optimal_value=ahead[:, 0],
        exploration_value=ahead[:, 1],
    )


def to_model(mdp: MDP) -> Model:
    """The `Model` of ``mdp``; to be called, as everything that takes one, with 64-bit numbers enabled."""
    states, actions, _ = mdp.successor.shape

    def turned(x: np.ndarray, end: float) -> jax.Array:
        return jnp.asarray(np.moveaxis(np.concatenate([x, np.full_like(x[:1], end)]), 0, -1))

    successor = turned(np.where(mdp.successor < 0, states, mdp.successor), states)
    probability = None if tables.is_deterministic(mdp) else turned(mdp.probability, 0)
    return Model(
        successor, probability, turned(mdp.reward, 0), jnp.zeros(actions, jnp.int64), jnp.full(states + 1, float(actions))
    )


def _at(row: jax.Array, where: jax.Array) -> jax.Array:
    return row.at[where].get(mode="promise_in_bounds")


def _times(zero: jax.Array, p: jax.Array, x: jax.Array) -> jax.Array:
    """p·x, rounded before anything is added to it: a fused multiply-add would break ties that plain arithmetic has."""
    bits = jax.lax.bitcast_convert_type(p * x, jnp.int64) ^ zero
    return jax.lax.bitcast_convert_type(bits, jnp.float64)


def _lookup(outcome: Model, row: jax.Array) -> jax.Array:
    """`tables.lookup` for one action, whose ``outcome`` is [K, S + 1]."""
    if outcome.probability is None:
        return outcome.reward[0] + _at(row, outcome.successor[0])
    q = jnp.zeros_like(row)
    for s, p, r in zip(outcome.successor, outcome.probability, outcome.reward, strict=True):
        q = q + _times(outcome.zero, p, r)
        q = q + _times(outcome.zero, p, _at(row, s))
    return q


def _back_up(outcome: Model, row: jax.Array) -> jax.Array:
    """`tables.back_up` for one action."""
    if outcome.probability is None:
        return outcome.reward[0] + _at(row, outcome.successor[0])
    q = jnp.zeros_like(row)
    for s, p, r in zip(outcome.successor, outcome.probability, outcome.reward, strict=True):
        q = q + _times(outcome.zero, p, r + _at(row, s))
    return q


def _fold(model: Model, extra: Any, step: Callable[[Any, tuple[Model, Any]], Any], start: Any) -> Any:
    """``step(carry, (outcome, extra))`` over the actions in their order; ``extra`` has a leading axis A, or is None."""
    actions, outcomes, _ = model.successor.shape
    parts = (model._replace(count=None), extra)
    if actions * outcomes > UNROLLED:
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
        q, top, low = (_lookup(outcome, row) for row in ahead)
        total = total + (q if chance is None else _times(outcome.zero, chance, q))
        return total, jnp.maximum(best, top), jnp.minimum(worst, low), jnp.maximum(var, (q - low) * (top - low))

    zero = jnp.zeros_like(ahead[0])
    start = (zero, zero - jnp.inf, zero + jnp.inf, zero)
    total, best, worst, var = _fold(model, policy, step, start)
    mean = total / model.count if policy is None else total
    return (jnp.maximum(jnp.minimum(mean, best), worst), best, worst), var, best - worst >= PRECISION


@functools.partial(jax.jit, static_argnames="q_of", donate_argnames="old")
def _best(model: Model, ahead: jax.Array, old: jax.Array, q_of: Callable) -> tuple[jax.Array, jax.Array]:
    """max_a Q [S + 1] of V ``ahead``, into the memory of ``old``, and whether it differs from ``old``."""
    start = jnp.full_like(ahead, -jnp.inf)
    new = _fold(model, None, lambda top, part: jnp.maximum(top, q_of(part[0], ahead)), start)
    return new, (new != old).any()


def _ahead(outcome: Model, row: jax.Array) -> jax.Array:
    """The variance bound one step later, for a deterministic action."""
    return _at(row, outcome.successor[0])


@functools.partial(jax.jit, static_argnames="q_of")
def _worst_greedy(model: Model, ahead: jax.Array, value: jax.Array, q_of: Callable) -> jax.Array:
    """The least value [S + 1] of an action that is greedy on the Q of V ``ahead``, if ``value`` [S + 1] is what follows."""

    def step(carry: tuple, part: tuple) -> tuple:
        (top, least), (outcome, _) = carry, part
        q, worth = q_of(outcome, ahead), _lookup(outcome, value)
        tied = jnp.minimum(least, worth)
        return jnp.maximum(top, q), jnp.where(q > top, worth, jnp.where(q == top, tied, least))

    start = (jnp.full_like(ahead, -jnp.inf), jnp.full_like(ahead, jnp.inf))
    return _fold(model, None, step, start)[1]


def _value_iteration(model: Model, horizon: int, policy: np.ndarray | None) -> Rows:
    end = jnp.zeros_like(model.count)
    ahead, rows = (end, end, end), Rows([end], [end], [], [], 0.0)
    for t in reversed(range(horizon)):
        chances = None if policy is None else jnp.asarray(np.append(policy[t], np.zeros_like(policy[t, :1]), 0).T)
        ahead, var, matters = _values(model, ahead, chances)
        rows.exploration.append(ahead[0])
        rows.optimal.append(ahead[1])
        rows.var.append(var)
        rows.matters.append(np.asarray(matters)[:-1])
    for x in rows[:4]:
        x.reverse()
    rows.var.append(end)
    return rows._replace(worst_return=float(ahead[2][0]))


def _occupancy(mdp: MDP, policy: np.ndarray | None, rows: Rows) -> tuple[Occupancy, np.ndarray]:
    """The `Occupancy`, and the mean optimal and exploration value [T, 2] of the states at each step."""
    states, actions, _ = mdp.successor.shape
    most, total = np.zeros(states), np.zeros(states)
    most_taken, total_taken = np.zeros((states, actions)), np.zeros((states, actions))
    here, means = np.append(np.arange(states) == 0, False).astype(np.float64), np.zeros((mdp.horizon, 2))
    target = np.where(mdp.successor < 0, states, mdp.successor)
    for t in range(mdp.horizon):
        seen = here[:-1]
        means[t] = [seen @ np.asarray(row[t])[:-1] for row in (rows.optimal, rows.exploration)]
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


def _search(mdp: MDP, model: Model, rows: Rows, max_greedy: int) -> _Search:
    """Everything that the Q of the exploration policy tells; moves ``rows.exploration`` and ``rows.var`` on."""
    deterministic, v = tables.is_deterministic(mdp), rows.exploration
    changed, var_changed = _all(v), _all(v)
    found = _Search(effective_horizon=float(mdp.horizon) if deterministic else 0.0)
    k = 1
    while k <= max_greedy or (k <= mdp.horizon and (not found.k_min or k < max(found.effective_horizon, found.stochastic))):
        jitted, plain = (_lookup, tables.lookup) if k == 1 else (_back_up, tables.back_up)
        if k <= max_greedy:
            found = found._replace(greedy_returns=(*found.greedy_returns, _greedy_return(model, v, jitted)))
        if not found.k_min or (k < found.stochastic and k <= mdp.horizon):
            found = _with_gap(found, k, _greedy_gap(mdp, rows, v, plain), model)
        if k < found.effective_horizon:
            bound = _simple_bound(mdp, rows, k)
            bounds = found.bounds if bound is None else (*found.bounds, bound)
            h = tables.effective_horizon(bounds, mdp.successor.shape[1], mdp.horizon)
            found = found._replace(bounds=bounds, effective_horizon=h)
        changed = _moved(model, v, changed, jitted)
        if k == 1 and not deterministic:
            changed = _all(v)  # Σ p·(r + v) follows on Σ p·r + p·v, so that every row may change
        if k < found.effective_horizon:
            var_changed = _moved(model, rows.var, var_changed, _ahead)
        k += 1
    return found


def _with_gap(found: _Search, k: int, gap: float | None, model: Model) -> _Search:
    if gap is None:
        return found
    h = tables.stochastic_bound(k, gap, model.successor.shape[0])
    if h < found.stochastic:
        found = found._replace(stochastic=h, stochastic_gap=gap)
    return found._replace(k_min=found.k_min or k)


def _window(mdp: MDP, model: Model, rows: Rows) -> int:
    """The effective planning window: the least k that solves ``mdp`` if Q^1 is the reward alone."""
    v, k = [jnp.zeros_like(model.count) for _ in rows.optimal], 1
    changed = _all(v)
    while k < mdp.horizon:
        jitted, plain = (_lookup, tables.lookup) if k == 1 else (_back_up, tables.back_up)
        if _greedy_gap(mdp, rows, v, plain) is not None:
            break
        changed = _moved(model, v, changed, jitted)
        if k == 1 and not tables.is_deterministic(mdp):
            changed = _all(v)
        k += 1
    return k


def _all(rows: list[Any]) -> list[Any]:
    return [True] * len(rows)


def _moved(model: Model, rows: list[Any], changed: list[Any], q_of: Callable) -> list[Any]:
    """Move ``rows`` on from V^k to V^{k+1}, in place; returns which rows differ. ``changed`` said so of the last move."""
    flags: list[Any] = [False] * len(rows)
    for t in range(len(rows) - 1):
        if changed[t + 1]:
            rows[t], flags[t] = _best(model, rows[t + 1], rows[t], q_of)
    return flags


def _greedy_return(model: Model, v: list[Any], q_of: Callable) -> float:
    value = jnp.zeros_like(model.count)
    for ahead in reversed(v[1:]):
        value = _worst_greedy(model, ahead, value, q_of)
    return float(value[0])


def _at_states(mdp: MDP, states: np.ndarray) -> MDP:
    return MDP(mdp.successor[states], mdp.probability[states], mdp.reward[states], mdp.horizon)


def _preferences(part: MDP, rows: Rows, t: int, here: np.ndarray, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of ``q`` [N, A] in the states ``here`` [N]: the best, and the best of a suboptimal action."""
    best = tables.lookup(part, np.asarray(rows.optimal[t + 1]))
    worse = best < np.asarray(rows.optimal[t])[here, None] - PRECISION
    return q.max(1), np.where(worse, q, -np.inf).max(1)


def _next(mdp: MDP, part: MDP, taken: np.ndarray, matters: list[np.ndarray], t: int) -> np.ndarray:
    """The states, in order, that the pairs ``taken`` [N, A] may lead to, and from which not all policies are optimal."""
    if t + 1 == mdp.horizon:
        return np.zeros(0, int)
    leads_to = part.successor[taken][part.probability[taken] > 0]
    found = np.zeros(len(mdp.successor), bool)
    found[leads_to[leads_to >= 0]] = True
    return np.flatnonzero(found & matters[t + 1])


def _greedy_gap(mdp: MDP, rows: Rows, v: list[Any], q_of: Callable) -> float | None:
    """`tables.greedy_gap` of the Q of ``v``."""
    here, gap = np.zeros(1, int), math.inf
    for t in range(mdp.horizon):
        if not here.size:
            break
        part = _at_states(mdp, here)
        q = q_of(part, np.asarray(v[t + 1]))
        top, best_wrong = _preferences(part, rows, t, here, q)
        if (best_wrong >= top).any():
            return None
        gap = min(gap, float((top - best_wrong).min()))
        here = _next(mdp, part, q >= top[:, None], rows.matters, t)
    return gap


def _simple_bound(mdp: MDP, rows: Rows, k: int) -> Bound | None:
    """`tables.simple_bounds` for one k, of the rows for this k."""
    here, hardest = np.zeros(1, int), []
    for t in range(mdp.horizon):
        if not here.size:
            break
        part = _at_states(mdp, here)
        q = tables.lookup(part, np.asarray(rows.exploration[t + 1]))
        top, best_wrong = _preferences(part, rows, t, here, q)
        if (top == best_wrong).any():
            return None
        gap, var = top - best_wrong, np.asarray(rows.var[t])[here]
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            m = np.maximum(1, np.ceil(16 * var / (gap * gap) * tables.union_log(mdp, k)))
        i = int(m.argmax())
        hardest.append((-m[i], here[i], t, var[i], gap[i]))
        here = _next(mdp, part, q > best_wrong[:, None], rows.matters, t)
    m_max, _, _, var_at, gap_at = min(hardest)
    return Bound(k, int(-m_max), float(var_at), float(gap_at)) if np.isfinite(m_max) else None
