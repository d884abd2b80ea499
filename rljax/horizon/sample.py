"""The effective horizon estimated from episodes, for environments that are too large for tables."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.base import Discrete, Env, InputError, random_action
from rljax.horizon.tables import log_base

RESAMPLES = 200  # bootstrap replications
LANES = 200_000  # episodes that run at once


class Estimate(NamedTuple):
    """H_k = k + log_A m_k as far as the first steps show; ``low`` and ``high`` are a 95% bootstrap interval.

    ``high`` is infinite if too few episodes were seen to be sure which first action is the best.

    ``step`` (from 0) is the one that is hardest; there, ``gap`` is the difference between the best first action and the next,
    ``std`` the greatest standard deviation of the return of a sequence. ``actions`` are those that the means preferred.
    ``one_start`` says whether all episodes began with one and the same observation, as the definition presumes.
    """

    k: int
    effective_horizon: float
    low: float
    high: float
    samples: float
    step: int
    gap: float
    std: float
    actions: tuple[int, ...]
    one_start: bool


def estimate(env: Env, key: jax.Array, ks: tuple[int, ...] = (1, 2, 3), episodes: int = 500, steps: int = 5) -> list[Estimate]:
    """An `Estimate` for each k, from ``steps`` x A^k x ``episodes`` episodes of ``env``, which has discrete actions.

    As GORP does (arXiv:2304.09853, algorithm 1): from the start, every sequence of k actions is taken in ``episodes``
    episodes, which random actions finish; the first action of the best mean return is kept, and the next step begins there.
    At each step m_k is what theorem 5.4 asks for, 16·σ²/Δ²·ln(2 T A^k), with what was measured in place of its bounds: σ² is
    the greatest variance of a sequence's return, Δ the gap between the best two first actions; the largest m_k counts.

    What it is not: a bound. Only the first ``steps`` steps of one path are seen. The action that the means prefer is taken for
    the optimal one, and the next one for suboptimal, which is wrong where two actions are equally good (the gap is then 0 and
    H_k infinite) and where greedy actions mislead (the true H_k is then infinite for this k). Returns that random actions
    never find within ``episodes`` episodes are unknown to it. It presumes a deterministic env with one start.

    Raises:
        InputError: if actions are continuous, a number is below 1, or A^k x ``episodes`` is beyond 200 000.
    """
    if not isinstance(env.spec.action, Discrete):
        raise InputError(f"the effective horizon is estimated for discrete actions, those of {env.name} are continuous")
    for name, number in (("k", min(ks, default=0)), ("episodes", episodes - 1), ("steps", steps)):
        if number < 1:
            raise InputError(f"{name} must be at least {2 if name == 'episodes' else 1}, got {number + (name == 'episodes')}")
    if env.spec.action.n ** max(ks) * episodes > LANES:
        most = f"A^k = {env.spec.action.n}^{max(ks)} sequences times {episodes} episodes"
        raise InputError(f"{most} are more than {LANES} episodes at once: lower k or the number of episodes")
    keys = jax.random.split(key, len(ks))
    return [_estimate(env, k, episodes, min(steps, env.spec.horizon), key_k) for k, key_k in zip(ks, keys, strict=True)]


def _estimate(env: Env, k: int, episodes: int, steps: int, key: jax.Array) -> Estimate:
    num_actions, horizon = env.spec.action.n, env.spec.horizon
    prefix, one_start = np.zeros(horizon, np.int32), True
    hardest: tuple[Any, ...] = ()
    play = jax.jit(functools.partial(_returns, env.resize(num_actions**k * episodes), k, episodes))
    chosen: list[int] = []
    for t, key_t in enumerate(jax.random.split(key, steps)):
        key_play, key_resample = jax.random.split(key_t)
        returns, same, alive = play(jnp.asarray(prefix), t, key_play)
        if not alive:
            break
        one_start &= bool(same)
        at_step = _horizons(np.asarray(returns, np.float64), k, num_actions, horizon, key_resample)
        if not hardest or at_step[0] > hardest[0]:
            hardest = (*at_step[:6], t)
        prefix[t] = at_step[6]
        chosen.append(int(at_step[6]))
    h, low, high, samples, gap, std, step = hardest
    return Estimate(k, h, low, high, samples, step, gap, std, tuple(chosen), one_start)


def _returns(env: Env, k: int, episodes: int, prefix: jax.Array, t: jax.Array, key: jax.Array) -> tuple[jax.Array, ...]:
    """Returns [A^k, episodes] from step ``t`` on, whether all began alike, and whether any episode reached step ``t``."""
    num_actions, lanes = env.spec.action.n, env.num_envs
    sequence = jnp.arange(lanes) // episodes
    key_reset, key_steps = jax.random.split(key)
    state, obs = env.reset(key_reset)

    def step(carry: tuple, i: jax.Array) -> tuple[tuple, None]:
        state, alive, total, reached = carry
        key_action, key_step = jax.random.split(jax.random.fold_in(key_steps, i))
        digit = sequence // num_actions ** jnp.clip(k - 1 - (i - t), 0, k - 1) % num_actions
        action = jnp.where(i < t + k, digit, random_action(env.spec.action, key_action, lanes))
        action = jnp.where(i < t, prefix[i], action).astype(jnp.int32)
        reached = jnp.where(i == t, alive.any(), reached)
        state, result = env.step(state, action, key_step)
        total = total + jnp.where(alive & (i >= t), result.reward, 0.0)
        return (state, alive & ~(result.terminated | result.truncated), total, reached), None

    start = (state, jnp.ones(lanes, bool), jnp.zeros(lanes), jnp.array(False))
    (_, _, total, reached), _ = jax.lax.scan(step, start, jnp.arange(env.spec.horizon))
    return total.reshape(-1, episodes), (obs == obs[:1]).all(), reached


def _horizons(returns: np.ndarray, k: int, num_actions: int, horizon: int, key: jax.Array) -> tuple[Any, ...]:
    """H_k with its interval, m_k, gap, standard deviation, and the preferred action, of ``returns`` [A^k, episodes]."""
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    log = math.log(2 * horizon * float(num_actions) ** k)

    def of(sample: np.ndarray, chosen: int) -> tuple[float, float, float, float]:
        first = sample.mean(1).reshape(num_actions, -1).max(1)
        gap, spread = float(first[chosen] - np.delete(first, chosen).max(initial=-np.inf)), float(sample.var(1, ddof=1).max())
        m = math.inf if gap <= 0 else max(1.0, math.ceil(16 * spread / gap**2 * log))
        return k + log_base(m, num_actions), m, gap, math.sqrt(spread)

    action = int(returns.mean(1).reshape(num_actions, -1).max(1).argmax())
    h, m, gap, std = of(returns, action)
    drawn = rng.integers(returns.shape[1], size=(RESAMPLES, *returns.shape))
    resampled = [of(np.take_along_axis(returns, i, 1), action)[0] for i in drawn]
    low, high = (float(x) for x in np.quantile(resampled, [0.025, 0.975], method="inverted_cdf"))
    return h, min(low, h), max(high, h), m, gap, std, action
