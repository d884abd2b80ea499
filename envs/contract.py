"""`check`: whether an environment keeps the contract of `rljax.base.Env`, found out by random actions."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.base import Array, Discrete, Env, InputError, Spec, Step, bounds, random_action

COPIES = 8  # that are stepped side by side
RESETS = 16  # that are compared
CHUNK = 64  # env steps of one compiled program
LIMIT = 2048  # env steps of one copy, if two horizons are longer
ENOUGH = 8  # episode ends that show a rule
CHANCE = 1e-4  # equal observations less probable than this are a fault
COMPILE = (("xla_backend_optimization_level", 0),)  # halves the check of a Brax env, which compiles longer than it runs

Aval = Any  # shape, dtype and weak_type of an array


class Starts(NamedTuple):
    """First observations: those of the run, [E, D]; ``low`` and ``high`` [D] of many; how probable it is that two are equal."""

    first: np.ndarray
    low: np.ndarray
    high: np.ndarray
    equal: float


class Ends(NamedTuple):
    """All N episode ends, by time: env step and copy [N], kind of end [N], observations [N, D] (auto-reset, successor)."""

    time: np.ndarray
    copy: np.ndarray
    terminated: np.ndarray
    obs: np.ndarray
    next_obs: np.ndarray


def check(env: Env, fixed_start: bool = False) -> None:
    """None if ``env`` keeps the contract of `rljax.base.Env`; takes seconds, most of them compilation.

    Eight copies take random actions for two horizons, at most 2048 env steps; an end that does not come is not checked.
    ``fixed_start`` says that episodes are meant to start with one observation: whether starts differ is not checked.

    Raises:
        InputError: the first fault found - what is wrong, where, and what to do.
    """
    if not isinstance(env, Env):
        raise InputError(f"check takes an rljax.base.Env, such as rljax.envs.make or rljax.base.batch_env give, got {env!r}")
    try:
        _check_spec(env.spec)
        copies = env.resize(COPIES)
        _need(copies.num_envs == COPIES, f"resize({COPIES}) gives num_envs {copies.num_envs}: give an env with E = n")
        _need((copies.spec, copies.name) == (env.spec, env.name), "resize changes spec or name: change num_envs alone")
        _check_types(copies)
        state, starts = _reset(copies, fixed_start)
        ends, moved = _follow(copies, state, starts)
        if moved:
            _check_successors(ends, starts)
        if not fixed_start:
            _check_restarts(ends, starts)
    except InputError as fault:
        raise InputError(f"{env.name} breaks the contract of rljax.base.Env: {fault}") from None


def _need(holds: Any, sentence: str) -> None:
    if not holds:
        raise InputError(sentence)


def _check_spec(spec: Spec) -> None:
    """Spaces that agents can use, in a spec that can be a static argument."""
    try:
        hash(spec)
    except TypeError:
        raise InputError("spec cannot be hashed: write shapes and bounds as floats and tuples, not lists or arrays") from None
    _need(isinstance(spec.obs, Array), f"spec.obs is {spec.obs}: only rljax.base.Array is supported")
    _need(isinstance(spec.horizon, int), f"spec.horizon is {spec.horizon!r}: give the time limit in env steps, a whole number")
    _need(spec.horizon >= 1, f"spec.horizon is {spec.horizon}: give the time limit in env steps, at least 1")
    low, high = _bounds("spec.obs", spec.obs)
    _need((low <= high).all(), "spec.obs has a lower bound above its upper bound: exchange them")
    action = spec.action
    if isinstance(action, Discrete):
        _need(action.n >= 1, f"spec.action is Discrete({action.n}): there must be at least one action")
        return
    _need(isinstance(action, Array), f"spec.action is {action}: only rljax.base.Array and Discrete are supported")
    low, high = _bounds("spec.action", action)
    finite = np.isfinite(low).all() and np.isfinite(high).all()
    _need(finite, "spec.action has bounds that are not finite: actions in [-1, 1] are mapped to them, so give the range")
    _need((low < high).all(), "spec.action has a lower bound that is not below its upper bound: give a range to choose from")
    flat = len(action.shape) == 1 and action.dtype == "float32"
    _need(flat, f"spec.action is {action.dtype}{list(action.shape)}: actions are float32 with one axis; reshape inside step")


def _bounds(where: str, space: Array) -> tuple[np.ndarray, np.ndarray]:
    try:
        return bounds(space)
    except ValueError:
        raise InputError(f"the bounds of {where} do not fit its shape {space.shape}: give floats or tuples of it") from None


def _check_types(env: Env) -> None:
    """Structure, shape and dtype of all that reset and step return, and that tracing them twice gives one program."""
    spec, key = env.spec, jax.random.key(0)
    obs = (COPIES, *spec.obs.shape), spec.obs.dtype
    out = _trace("reset", env.reset, key)
    _need(isinstance(out, tuple) and len(out) == 2, "reset must return (env_state, obs)")
    state = out[0]
    _check_array("obs of reset", out[1], *obs)
    for path, x in jax.tree.leaves_with_path(state):
        _check_array(f"env_state{jax.tree_util.keystr(path)} of reset", x, (COPIES, *x.shape[1:]), x.dtype)
    action = jax.eval_shape(lambda k: random_action(spec.action, k, COPIES), key)
    out = _trace("step", env.step, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state), action, key)
    _need(isinstance(out, tuple) and len(out) == 2 and isinstance(out[1], Step), "step must return (env_state, Step)")
    new, step = out
    same = jax.tree.structure(new) == jax.tree.structure(state)
    _need(same, "env_state of step has another structure than that of reset: every step would compile anew; keep it")
    for (path, x), y in zip(jax.tree.leaves_with_path(new), jax.tree.leaves(state), strict=True):
        _check_array(f"env_state{jax.tree_util.keystr(path)} of step", x, y.shape, y.dtype)
    _check_array("obs of step", step.obs, *obs)
    _check_array("next_obs of step", step.next_obs, *obs)
    _check_array("reward", step.reward, (COPIES,), "float32")
    _check_array("terminated", step.terminated, (COPIES,), "bool")
    _check_array("truncated", step.truncated, (COPIES,), "bool")


def _trace(name: str, f: Any, *args: Any) -> Any:
    """What ``f(*args)`` returns, as shapes and dtypes."""
    advice = f"{name} is not pure: keep all that changes in env_state, and draw random numbers from the key alone"
    try:  # a new lambda each time, as the traces of one function are cached
        (a, shapes), (b, _) = (jax.make_jaxpr(lambda *x: f(*x), return_shape=True)(*args) for _ in range(2))
    except jax.errors.UnexpectedTracerError:
        raise InputError(advice) from None
    texts = [re.sub(r" at 0x[0-9a-f]+", "", str(jaxpr)) for jaxpr in (a, b)]
    constants = all(np.array_equal(_plain(x), _plain(y)) for x, y in zip(a.consts, b.consts, strict=False))
    _need(texts[0] == texts[1] and constants, advice)
    return jax.tree.unflatten(jax.tree.structure(shapes), a.out_avals)


def _plain(x: Any) -> np.ndarray:
    """``x`` as a numpy array, the numbers of a key where it is one."""
    return np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)


def _check_array(where: str, x: Aval, shape: tuple[int, ...], dtype: Any) -> None:
    lead = "the leading axis is num_envs" if x.shape[:1] != shape[:1] else "keep to the spec and to what reset gave"
    _need(x.shape == shape, f"{where} has shape {x.shape}, must be {shape} with {shape[0]} copies: {lead}")
    _need(x.dtype == dtype, f"{where} has dtype {x.dtype}, must be {dtype}: convert it with astype")
    weak = getattr(x, "weak_type", False)
    _need(not weak, f"{where} is weakly typed and would compile twice: convert it, for example jnp.asarray(x, jnp.{x.dtype})")


def _reset(env: Env, fixed_start: bool) -> tuple[Any, Starts]:
    """The state of the first of several resets, and what they say about starts."""
    reset = jax.jit(env.reset, compiler_options=dict(COMPILE))
    state, first = reset(jax.random.key(0))
    others = [reset(jax.random.key(i))[1] for i in range(1, RESETS)]
    obs = np.stack([np.asarray(first), *map(np.asarray, others)])
    _check_values("obs of reset", obs, env.spec.obs)
    obs = _rows(obs, 2)
    if not fixed_start:
        advice = "split the key into one for each copy, and draw the start from it"
        constant = (obs == obs[0, 0]).all()
        _need(not constant, f"every episode starts with the same observation: {advice}, or pass fixed_start=True")
        _need(not (obs == obs[:, :1]).all(), f"all copies start with the same observation, they share one key: {advice}")
        _need(not (obs == obs[:1]).all(), f"reset gives the same observations for every key, it does not use it: {advice}")
    flat = _rows(obs, 0)
    n, counts = len(flat), np.unique(flat, axis=0, return_counts=True)[1]
    equal = max(float((counts * (counts - 1)).sum() / (n * (n - 1))), 1 / n)
    return state, Starts(obs[0], flat.min(0), flat.max(0), equal)


def _rows(x: np.ndarray, axes: int) -> np.ndarray:
    """Observations as float64 vectors after ``axes`` leading axes; 0: after one, into which the first two are joined."""
    x = np.asarray(x, np.float64)
    return x.reshape(-1, x.shape[-1]) if axes == 0 else x.reshape(*x.shape[:axes], -1)


def _check_values(where: str, x: np.ndarray, space: Array | None = None) -> None:
    """Finite, and within the space's bounds but for rounding."""
    _need(np.isfinite(x).all(), f"{where} is NaN or infinite: look for a division by zero or a simulation that explodes")
    if space is None:
        return
    low, high = bounds(space)
    inside = (x >= low - 1e-4 * (1 + np.abs(low))) & (x <= high + 1e-4 * (1 + np.abs(high)))
    _need(inside.all(), f"{where} leaves the bounds of spec.obs, it ranges from {x.min():.6g} to {x.max():.6g}: widen them")


def _follow(env: Env, state: Any, starts: Starts) -> tuple[Ends, bool]:
    """All episode ends under random actions, and whether an observation ever changed; each step is checked on the way."""

    def body(state: Any, key: jax.Array) -> tuple[Any, Step]:
        key_action, key_step = jax.random.split(key)
        return env.step(state, random_action(env.spec.action, key_action, COPIES), key_step)

    def chunk(state: Any, key: jax.Array) -> tuple[Any, Step]:
        return jax.lax.scan(body, state, jax.random.split(key, CHUNK))

    run = jax.jit(chunk, compiler_options=dict(COMPILE))
    age, moved, found = np.zeros(COPIES, int), False, []
    for i in range(-(-min(2 * env.spec.horizon, LIMIT) // CHUNK)):
        key = jax.random.fold_in(jax.random.key(1), i)
        new, steps = run(state, key)
        if i == 0:
            pairs = zip(steps, run(state, key)[1], strict=True)
            same = all(np.allclose(x[0], y[0], 1e-5, 1e-5, equal_nan=True) for x, y in pairs)
            _need(
                same, "step is not pure: it gave two results for the same state, action and key; use no randomness of its own"
            )
        state, steps = new, jax.tree.map(np.asarray, steps)
        _check_values("next_obs", steps.next_obs, env.spec.obs)
        _check_values("obs of step", steps.obs, env.spec.obs)
        _check_values("reward", steps.reward)
        done = _check_flags(steps, env.spec.horizon, age)
        obs, next_obs = _rows(steps.obs, 2), _rows(steps.next_obs, 2)
        same = np.allclose(obs[~done], next_obs[~done], 1e-5, 1e-5)  # a compiler may make both, each with its own rounding
        _need(same, "obs differs from next_obs although no episode ended there: give the same array for both, but for ends")
        moved = moved or bool((next_obs != starts.first[0]).any())
        time, copy = np.nonzero(done)
        found.append(Ends(time + i * CHUNK, copy, steps.terminated[done], obs[done], next_obs[done]))
    return Ends(*map(np.concatenate, zip(*found, strict=True))), moved


def _check_flags(steps: Any, horizon: int, age: np.ndarray) -> np.ndarray:
    """Which steps [T, E] end an episode; ``age`` [E], the env steps of the current episodes, goes on in place."""
    both = "terminated and truncated are both set: at the last step before the limit termination wins, so clear truncated"
    _need(not (steps.terminated & steps.truncated).any(), both)
    done = steps.terminated | steps.truncated
    for truncated, end in zip(steps.truncated, done, strict=True):
        age += 1
        early = age[truncated & (age != horizon)]
        late = (age >= horizon) & ~end
        _need(not early.size, f"truncated is set at step {early[:1]} of an episode, spec.horizon is {horizon}: make them agree")
        _need(not late.any(), f"truncated is not set at step {horizon} of an episode, which is spec.horizon: make them agree")
        age[end] = 0
    return done


def _check_successors(ends: Ends, starts: Starts) -> None:
    """At both kinds of end, ``obs`` may be that of a reset and ``next_obs`` is not that of the same reset."""
    width = starts.high - starts.low + 1e-4 * (1 + np.abs(starts.high))
    strange = ((ends.obs < starts.low - width) | (ends.obs > starts.high + width)).any(1)
    for kind, mask in (("terminations", ends.terminated), ("time limits", ~ends.terminated)):
        if mask.sum() < ENOUGH:
            continue
        fresh = strange[mask].mean() < 0.5
        _need(fresh, f"obs at {kind} is unlike those that reset gives: it must be the first one of the next episode")
        lost = (ends.obs[mask] == ends.next_obs[mask]).all()
        _need(not lost, f"next_obs at {kind} is the observation of the reset: it must be the true last one of the episode")


def _check_restarts(ends: Ends, starts: Starts) -> None:
    """Episodes start afresh: too many equal starts are no chance."""
    by_copy = np.lexsort((ends.time, ends.copy))
    kinds = (
        ("each copy starts again from its own first observation", ends.obs, starts.first[ends.copy], None),
        ("all later episodes of a copy start alike", ends.obs[by_copy], None, ends.copy[by_copy]),
        ("copies that end together start alike", ends.obs, None, ends.time),
    )
    for fault, obs, other, group in kinds:
        if group is not None:
            pairs = group[1:] == group[:-1]
            obs, other = obs[1:][pairs], obs[:-1][pairs]
        by_chance = len(obs) == 0 or starts.equal ** len(obs) > CHANCE
        advice = "reset with a new key for each episode and each copy"
        _need(by_chance or not (obs == other).all(), f"{fault}: {advice}, or pass fixed_start=True if starts hardly differ")
