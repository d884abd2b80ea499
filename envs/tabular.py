"""Finite MDPs as environments: from arrays, from files of the BRIDGE data set, and small families with known answers.

Names are ``tabular/<family>`` and ``tabular/<path>.npz``. Episodes begin in state 0. With sticky actions the action executed
before is repeated with that probability, from the second step of an episode on; the observation does not show it.
Source of files, sticky actions and what `rljax.horizon` computes: arXiv:2304.09853 and arXiv:2312.08369 (BRIDGE).
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.base import Array, Discrete, Env, InputError, Spec, Step, batch_env
from rljax.data import mdps
from rljax.mdp import MDP, deterministic

OBSERVATIONS = ("one_hot", "index", "pixels")
SUFFIX = ".npz"
CHUNK = 256  # states that `from_env` steps at once
MOST = 1_000_000  # pairs of a state and an action in a family


class State(NamedTuple):
    """The MDP's state, and the action executed before, -1 at the start of an episode."""

    at: jax.Array
    previous: jax.Array


def ids() -> tuple[str, ...]:
    """The families."""
    return tuple(FAMILIES)


def defaults(env_id: str) -> dict[str, Any]:
    """Options and their defaults; the horizon, if not given, is the family's or the file's."""
    sizes = inspect.signature(FAMILIES[env_id]).parameters if env_id in FAMILIES else {}
    own = {"side": 84} if env_id.endswith(SUFFIX) else {name: p.default for name, p in sizes.items()}
    return own | {"horizon": None, "sticky": 0.0, "observation": "one_hot"}


def build(
    env_id: str, num_envs: int, name: str, horizon: int | None, sticky: float, observation: str, side: int = 84, **sizes: int
) -> Env:
    """`Env` of a family, or of a file.

    Observations are

    * ``one_hot``, uint8 [S], zeros after the end;
    * ``index``, int32 [1], the number of the state, and S after the end;
    * ``pixels``, uint8 [H, W, C], of files with screens: the larger side is ``side`` pixels, if it was longer.
    """
    if observation not in OBSERVATIONS:
        raise InputError(f"observation of tabular/{env_id} must be {', '.join(OBSERVATIONS)}, got {observation!r}")
    if not 0 <= sticky < 1:
        raise InputError(f"sticky of tabular/{env_id} must be in [0, 1), got {sticky:g}")
    if env_id in FAMILIES:
        mdp = FAMILIES[env_id](**sizes)
        mdp, screens, mapping = mdp._replace(horizon=horizon or mdp.horizon), None, None
    else:
        mdp, screens, mapping = mdps.read(Path(env_id), horizon, pixels=observation == "pixels")
    options: dict[str, Any] = {"sticky": sticky, "num_envs": num_envs, "name": name}
    num_states = len(mdp.successor)
    if observation == "one_hot":
        return from_mdp(mdp, one_hot(num_states), **options)
    if observation == "index":
        return from_mdp(mdp, index(num_states), num_states, **options)
    if screens is None or mapping is None:
        raise InputError(f"tabular/{env_id} has no screens: choose another observation than pixels")
    return from_mdp(mdp, pixels(_shrunk(screens, side), mapping), 255, **options)


def from_mdp(
    mdp: MDP,
    observe: Callable[[jax.Array], jax.Array] | None = None,
    high: float = 1,
    *,
    sticky: float = 0.0,
    num_envs: int = 1,
    name: str = "custom",
) -> Env:
    """`Env` of an MDP that shows ``observe(state)``, with elements from 0 to ``high``, of a state or -1, the end.

    Without it, states are shown `one_hot`. Rewards and probabilities become float32.
    """
    num_states, num_actions, branches = mdp.successor.shape
    show = observe or one_hot(num_states)
    reward = mdp.reward.astype(np.float32)
    cumulative = np.cumsum(mdp.probability, -1)[..., :-1].astype(np.float32)

    def reset(key: jax.Array) -> tuple[State, jax.Array]:
        state = State(jnp.int32(0), jnp.int32(-1))
        return state, show(state.at)

    def step(state: State, action: jax.Array, key: jax.Array) -> tuple[State, jax.Array, jax.Array, jax.Array]:
        key_sticky, key_branch = jax.random.split(key)
        if sticky > 0:
            repeats = (state.previous >= 0) & (jax.random.uniform(key_sticky) < sticky)
            action = jnp.where(repeats, state.previous, action)
        branch: Any = 0
        if branches > 1:
            branch = (jax.random.uniform(key_branch) >= jnp.asarray(cumulative)[state.at, action]).sum()
        new = jnp.asarray(mdp.successor)[state.at, action, branch]
        return State(new, action), show(new), jnp.asarray(reward)[state.at, action, branch], new < 0

    shown = jax.eval_shape(show, jnp.int32(0))
    spec = Spec(Array(shown.shape, str(shown.dtype), 0, high), Discrete(num_actions), mdp.horizon)
    return batch_env(spec, reset, step, num_envs, name)


def one_hot(num_states: int) -> Callable[[jax.Array], jax.Array]:
    """States as uint8 [S]; zeros after the end."""
    return lambda state: jax.nn.one_hot(state, num_states, dtype=jnp.uint8)


def index(num_states: int) -> Callable[[jax.Array], jax.Array]:
    """States as their number, int32 [1]; S after the end."""
    return lambda state: jnp.where(state < 0, num_states, state)[None]


def pixels(screens: np.ndarray, mapping: np.ndarray) -> Callable[[jax.Array], jax.Array]:
    """States as ``screens[mapping[state]]``, [H, W, C], of a mapping [S]; for one [S, F] with F frames as channels.

    After the end they are black.
    """

    def observe(state: jax.Array) -> jax.Array:
        shown = jnp.asarray(screens)[jnp.asarray(mapping)[state]]
        shown = jnp.concatenate(shown, -1) if mapping.ndim == 2 else shown
        return jnp.where(state < 0, jnp.zeros_like(shown), shown)

    return observe


def from_env(
    env: Env, max_states: int = 100_000, identify: Callable[[Any], Any] = lambda state: state
) -> tuple[MDP, np.ndarray]:
    """``(mdp, obs [S, ...])`` of a deterministic env of `rljax.envs` with discrete actions, found breadth first.

    ``identify(state)`` of one copy's state is what tells states apart, for instance without a clock; the time limit never
    counts. The MDP keeps the env's horizon.

    Raises:
        InputError: if actions are continuous, episodes or their beginnings random, or there are more states than asked for.
    """
    if not isinstance(env.spec.action, Discrete):
        raise InputError(f"{env.name} has continuous actions: only discrete ones can be enumerated")
    num = env.spec.action.n
    expand, beginning = _expander(env.resize(CHUNK * num), identify)
    states, names, obs = beginning(jax.random.key(0))
    if len(set(names)) > 1:
        raise InputError(f"episodes of {env.name} begin in different states: only one beginning can be enumerated")
    found, seen, frontier = {names[0]: 0}, [obs[0]], [jax.tree.map(lambda x: x[0], states)]
    successor: list[list[int]] = []
    reward: list[np.ndarray] = []
    while frontier:
        chunk, frontier = frontier[:CHUNK], frontier[CHUNK:]
        padded = jax.tree.map(lambda *x: np.stack(x), *chunk, *[chunk[0]] * (CHUNK - len(chunk)))
        new, names, step = expand(padded)
        for i in range(len(chunk) * num):
            if not step.terminated[i] and names[i] not in found:
                found[names[i]] = len(found)
                seen.append(step.next_obs[i])
                frontier.append(jax.tree.map(lambda x, i=i: x[i], new))
        ends = [-1 if step.terminated[i] else found[names[i]] for i in range(len(chunk) * num)]
        successor += np.reshape(ends, (-1, num)).tolist()
        reward += list(step.reward[: len(chunk) * num].reshape(-1, num))
        if len(found) > max_states:
            raise InputError(f"{env.name} has more than {max_states} states: raise max_states, or leave out what identify can")
    return deterministic(np.array(successor), np.array(reward), env.spec.horizon), np.stack(seen)


def _expander(env: Env, identify: Callable[[Any], Any]) -> tuple[Callable, Callable]:
    """``(expand, beginning)`` of `CHUNK` x A copies; both give ``(states, their names, ...)`` as numpy arrays."""
    num = env.spec.action.n
    actions = jnp.tile(jnp.arange(num, dtype=jnp.int32), CHUNK)

    def named(states: Any) -> list[bytes]:
        told = [np.asarray(x) for x in jax.tree.leaves(jax.vmap(identify)(states))]
        return [b"".join(x[i].tobytes() for x in told) for i in range(len(actions))]

    def expand(states: Any) -> tuple[Any, list[bytes], Step]:
        repeated = jax.tree.map(lambda x: jnp.repeat(x, num, 0), states)
        results = []
        for key in jax.random.split(jax.random.key(1)):
            (new, _), step = stepped((repeated, jnp.zeros(len(actions), jnp.int32)), actions, key)
            going_on = np.where(step.terminated, b"end", np.array(named(new), object))
            results.append((new, list(going_on), jax.tree.map(np.asarray, step)))
        (new, names, step), (_, again, other) = results
        if names != again or (step.reward != other.reward).any() or (step.terminated != other.terminated).any():
            raise InputError(f"{env.name} is random: only a deterministic environment can be enumerated")
        return jax.tree.map(np.asarray, new), names, step

    def beginning(key: jax.Array) -> tuple[Any, list[bytes], np.ndarray]:
        (states, _), obs = env.reset(key)
        return jax.tree.map(np.asarray, states), named(states), np.asarray(obs)

    stepped = jax.jit(env.step)
    return expand, beginning


def chain(length: int = 8) -> MDP:
    """A corridor: action 1 goes right, 0 left, and going right from its end gives 1 and ends the episode; 2 ``length`` steps.

    Greedy on the random policy's Q is optimal (k_min 1), though the reward lies ``length`` steps ahead.
    """
    _require_size(2 * length)
    right = np.append(np.arange(1, length), -1)
    left = np.maximum(np.arange(length) - 1, 0)
    return deterministic(np.stack([left, right], 1), np.outer(right < 0, [0.0, 1.0]), 2 * length)


def tree(depth: int = 6, actions: int = 2) -> MDP:
    """A full tree of which one leaf, behind the last action at every branch, gives 1: k_min 1, and planning ``depth`` ahead."""
    _require_size(depth if actions == 1 else MOST + 1 if depth > 60 else actions**depth)
    nodes = (actions**depth - 1) // (actions - 1) if actions > 1 else depth
    successor = np.arange(nodes)[:, None] * actions + np.arange(1, actions + 1)
    reward = np.zeros((nodes, actions))
    reward[-1, -1] = 1.0
    return deterministic(np.where(successor < nodes, successor, -1), reward, depth)


def grid(size: int = 5) -> MDP:
    """An empty square of ``size`` x ``size`` cells, from one corner to the opposite one, which gives 1; 4 ``size`` steps."""
    _require_size(4 * size**2)
    successor = np.zeros((size, size, 4), int)
    for x, y in itertools.product(range(size), repeat=2):
        ends = (x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)
        successor[x, y] = [np.clip(a, 0, size - 1) * size + np.clip(b, 0, size - 1) for a, b in ends]
    reached = successor == size * size - 1
    successor = np.where(reached, -1, successor).reshape(-1, 4)[:-1]
    return deterministic(successor, reached.reshape(-1, 4)[:-1].astype(float), 4 * size)


def trap(k: int = 2, actions: int = 2) -> MDP:
    """First a choice: action 0 gives less than 1 and ends; any other leads to k - 1 locks that give 1, if all are opened.

    Only the last action opens a lock, all others end the episode. The random policy opens them so rarely that greedy on Q^j
    takes the bait for all j below ``k``, which is k_min and the effective planning window.
    """
    _require_size(k * actions)
    successor, reward = np.full((k, actions), -1), np.zeros((k, actions))
    successor[:-1, -1] = np.arange(1, k)
    reward[-1, -1] = 1.0
    successor[0, 1:] = 1 if k > 1 else -1
    reward[0, 0] = (1 + 1 / actions) / 2
    return deterministic(successor, reward, k)


def _require_size(pairs: int) -> None:
    if pairs > MOST:
        raise InputError(f"a table of more than {MOST} pairs of a state and an action is too large: choose smaller numbers")


def _shrunk(screens: np.ndarray, side: int) -> np.ndarray:
    """``screens`` uint8 [N, H, W, C] with averaged pixels, so that the larger side has ``side`` of them; never enlarged."""
    height, width = screens.shape[1:3]
    scale = side / max(height, width)
    if scale >= 1:
        return screens
    from PIL import Image

    size = max(1, round(scale * width)), max(1, round(scale * height))
    return np.stack([np.asarray(Image.fromarray(x).resize(size, Image.Resampling.BOX)) for x in screens])


FAMILIES = MappingProxyType({"chain": chain, "grid": grid, "trap": trap, "tree": tree})
