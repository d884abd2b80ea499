"""A point mass that is pushed through a walled 2-D maze to a fixed goal, without dependencies; the reward is sparse.

Reward is 1 on the step that reaches the goal, which ends the episode, and 0 before: returns are 0 or 1. Of the episodes of
uniformly random actions 2.9 % succeed in ``open``, 1.3 % in ``umaze`` and 0.3 % in ``medium``. A controller that
goes from cell to cell always does, after 32, 48 and 77 steps on average: a third of the horizon.
The layouts of ``umaze`` and ``medium`` are D4RL's.
"""

from __future__ import annotations

import functools
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.base import Array, Env, Spec, batch_env, to_env_units

ACTION = Array((2,), "float32", -1.0, 1.0)
OBS = Array((4,), "float32", -1.0, 1.0)

FORCE = 0.02  # cells / step^2 at full action
DAMPING = 0.04  # of the velocity, per step
SPEED = 0.12  # cells / step at most; below 1, so that no wall is jumped over
RADIUS = 0.5  # cells around the middle of the goal's cell
GAP = 1e-3  # cells between a wall and what touches it

LAYOUTS = MappingProxyType(
    {
        "open": (
            "#######",
            "#.....#",
            "#S...G#",
            "#.....#",
            "#######",
        ),
        "umaze": (
            "#####",
            "#S..#",
            "###.#",
            "#G..#",
            "#####",
        ),
        "medium": (
            "########",
            "#S.##..#",
            "#..#...#",
            "##...###",
            "#..#...#",
            "#.#..#.#",
            "#...#.G#",
            "########",
        ),
    }
)
HORIZONS = MappingProxyType({"open": 100, "umaze": 150, "medium": 250})


class Maze(NamedTuple):
    """A layout in cells: x to the right, y upwards, from its lower left corner; ``free`` [x, y] says where no wall is."""

    free: np.ndarray
    start: np.ndarray  # [2], the lower left corner of its cell
    goal: np.ndarray  # [2], the middle of its cell


class State(NamedTuple):
    """``position`` [2] in cells; ``velocity`` [2] in cells per step."""

    position: jax.Array
    velocity: jax.Array


def ids() -> tuple[str, ...]:
    """The layouts."""
    return tuple(LAYOUTS)


def defaults(env_id: str) -> dict[str, Any]:
    """Options and their defaults."""
    return {"horizon": HORIZONS[env_id]}


def build(env_id: str, num_envs: int, name: str, horizon: int) -> Env:
    """`Env` with obs float32 [4] (x, y, velocity), action float32 [2], the force; terminates at the goal with reward 1."""
    maze = load(env_id)
    start, go = functools.partial(reset, maze), functools.partial(step, maze)
    return batch_env(Spec(OBS, ACTION, horizon), start, go, num_envs, name)


def load(env_id: str) -> Maze:
    """The `Maze` of a layout."""
    cells = np.array([list(row) for row in reversed(LAYOUTS[env_id])]).T
    start, goal = (np.argwhere(cells == letter)[0].astype(np.float32) for letter in "SG")
    return Maze(cells != "#", start, goal + np.float32(0.5))


def reset(maze: Maze, key: jax.Array) -> tuple[State, jax.Array]:
    """``(state, obs [4])``: anywhere in the start's cell, at rest."""
    position = jax.random.uniform(key, (2,), minval=GAP, maxval=1 - GAP) + jnp.asarray(maze.start)
    state = State(position, jnp.zeros(2))
    return state, observe(maze, state)


def step(maze: Maze, state: State, action: jax.Array, key: jax.Array) -> tuple[State, jax.Array, jax.Array, jax.Array]:
    """``(state, obs [4], reward, terminated)``: reward 1 and the end within `RADIUS` of the goal, else 0."""
    velocity = (1 - DAMPING) * state.velocity + FORCE * to_env_units(ACTION, action)
    velocity *= SPEED / jnp.maximum(jnp.linalg.norm(velocity), SPEED)
    state = move(maze, State(state.position, velocity))
    reached = jnp.linalg.norm(state.position - maze.goal) <= RADIUS
    return state, observe(maze, state), reached.astype(jnp.float32), reached


def move(maze: Maze, state: State) -> State:
    """The state after one step at its velocity: along x, then along y; a wall stops the one that runs into it."""
    position, velocity = state
    for axis in (0, 1):
        moved = position.at[axis].add(velocity[axis])
        cell = jnp.floor(moved).astype(jnp.int32)
        free = jnp.asarray(maze.free)[cell[0], cell[1]]
        near = jnp.floor(position[axis])
        face = jnp.where(velocity[axis] > 0, near + 1 - GAP, near + GAP)
        position = moved.at[axis].set(jnp.where(free, moved[axis], face))
        velocity = velocity.at[axis].set(jnp.where(free, velocity[axis], 0.0))
    return State(position, velocity)


def observe(maze: Maze, state: State) -> jax.Array:
    """Position, -1 and 1 at the outer walls, and velocity over its limit: float32 [4], all within [-1, 1]."""
    half = np.array(maze.free.shape, np.float32) / 2
    return jnp.concatenate([(state.position - half) / (half - 1), state.velocity / SPEED])


def positions(maze: Maze, obs: np.ndarray) -> np.ndarray:
    """Positions [..., 2] in cells, of observations [..., 4]."""
    half = np.array(maze.free.shape) / 2
    return obs[..., :2] * (half - 1) + half
