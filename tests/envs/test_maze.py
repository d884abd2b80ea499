"""The built-in mazes: walls, rewards and ends, against a step in plain numpy on the drawn layout."""

from __future__ import annotations

import itertools
from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import envs
from rljax.base import random_action
from rljax.envs import maze
from rljax.experiments import presets

IDS = ("open", "umaze", "medium")
SIZES = {"open": (7, 5), "umaze": (5, 5), "medium": (8, 8)}  # columns, rows


def letter(env_id, x, y):
    """What is drawn at a point."""
    rows = maze.LAYOUTS[env_id]
    return rows[len(rows) - 1 - int(np.floor(y))][int(np.floor(x))]


def reference(env_id, position, velocity, action):
    """``(position, velocity, reward)`` after one step, in float64: x first, then y."""
    position, velocity = position.copy(), 0.96 * velocity + 0.02 * np.clip(action, -1, 1)
    velocity *= min(1, 0.12 / np.hypot(*velocity))
    for axis in (0, 1):
        old = position[axis]
        position[axis] += velocity[axis]
        if letter(env_id, *position) == "#":
            cell = np.floor(old)
            position[axis] = cell + 0.999 if velocity[axis] > 0 else cell + 0.001
            velocity[axis] = 0
    columns, rows = SIZES[env_id]
    ((x, y),) = ((x, y) for x in range(columns) for y in range(rows) if letter(env_id, x, y) == "G")
    return position, velocity, float(np.hypot(position[0] - x - 0.5, position[1] - y - 0.5) <= 0.5)


def ways(env_id):
    """[columns, rows, 2]: the middle of the next cell on the shortest way to the goal."""
    plan = maze.load(env_id)
    goal = tuple(int(x) for x in plan.goal)
    found, queue = {goal: plan.goal}, deque([goal])
    while queue:
        x, y = queue.popleft()
        for cell in ((x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)):
            if plan.free[cell] and cell not in found:
                found[cell] = (x + 0.5, y + 0.5)
                queue.append(cell)
    assert len(found) == plan.free.sum(), "every cell leads to the goal"
    out = np.zeros((*plan.free.shape, 2), np.float32)
    for cell, middle in found.items():
        out[cell] = middle
    return jnp.asarray(out)


def controller(env_id):
    """``obs [E, 4] -> action [E, 2]`` towards the next cell, slower when near."""
    plan, way = maze.load(env_id), ways(env_id)

    def act(obs, key):
        position, velocity = maze.positions(plan, obs), obs[:, 2:] * maze.SPEED
        cell = jnp.floor(position).astype(int)
        wanted = 0.3 * (way[cell[:, 0], cell[:, 1]] - position)
        return jnp.clip((wanted - velocity) / maze.FORCE, -1, 1)

    return act


def rollout(name, act, copies, steps):
    """``(first obs [E, 4], Step [T, E])``."""
    env = envs.make(name, copies)

    def body(carry, key):
        state, obs = carry
        key_action, key_step = jax.random.split(key)
        state, step = env.step(state, act(obs, key_action), key_step)
        return (state, step.obs), step

    @jax.jit
    def run(key):
        state, obs = env.reset(key)
        return obs, jax.lax.scan(body, (state, obs), jax.random.split(key, steps))[1]

    return jax.tree.map(np.asarray, run(jax.random.key(0)))


def at_random(obs, key):
    return random_action(maze.ACTION, key, len(obs))


def successes(steps):
    """Whether the first episode of each copy reaches the goal [E]."""
    done = steps.terminated | steps.truncated
    return steps.terminated[done.argmax(0), np.arange(done.shape[1])]


@pytest.mark.parametrize("env_id", IDS)
def test_steps_equal_the_reference(env_id):
    """Positions, velocities and rewards of 120 steps, with held forces at and beyond the limits, from all over the maze."""
    plan = maze.load(env_id)
    rng = np.random.default_rng(0)
    cells = np.argwhere(plan.free)
    position = cells[rng.integers(len(cells), size=32)] + rng.uniform(0.01, 0.99, (32, 2))
    state = maze.State(jnp.asarray(position, jnp.float32), jnp.asarray(rng.uniform(-0.08, 0.08, (32, 2)), jnp.float32))
    step = jax.jit(jax.vmap(lambda s, a: maze.step(plan, s, a, None)))
    columns, rows = SIZES[env_id]
    for action in np.repeat(rng.uniform(-1.5, 1.5, (10, 32, 2)), 12, axis=0):
        old = [np.asarray(x, float) for x in state]
        state, obs, reward, terminated = step(state, jnp.asarray(action, jnp.float32))
        expected = [reference(env_id, *x) for x in zip(*old, action, strict=True)]
        x, v, r = map(np.array, zip(*expected, strict=True))
        np.testing.assert_allclose(state.position, x, atol=2e-6)
        np.testing.assert_allclose(state.velocity, v, atol=2e-7)
        scaled = (x - [columns / 2, rows / 2]) / [columns / 2 - 1, rows / 2 - 1]
        np.testing.assert_allclose(obs, np.concatenate([scaled, v / 0.12], -1), atol=4e-6)
        assert (np.asarray(reward) == r).all() and (np.asarray(terminated) == r).all()


@pytest.mark.parametrize("env_id", IDS)
def test_no_direction_leads_through_a_wall(env_id):
    """One move at full speed in 64 directions, from the faces, corners and inside of each free cell."""
    plan = maze.load(env_id)
    offsets = (maze.GAP, 2 * maze.GAP, 0.1, 0.5, 0.9, 1 - 2 * maze.GAP, 1 - maze.GAP, 0.0, 1 - 1e-6)
    inside = np.array(list(itertools.product(offsets, offsets)))
    angle = np.arange(64) * (2 * np.pi / 64)  # with the axes and diagonals
    direction = maze.SPEED * np.stack([np.cos(angle), np.sin(angle)], -1)
    old = (np.argwhere(plan.free)[:, None, None] + inside[:, None] + 0 * direction).reshape(-1, 2).astype(np.float32)
    velocity = np.broadcast_to(direction, (len(old) // 64, 64, 2)).reshape(-1, 2).astype(np.float32)
    moved = jax.jit(jax.vmap(lambda x, v: maze.move(plan, maze.State(x, v))))(old, velocity)
    x, y = np.floor(old).astype(int).T
    new_x, new_y = np.floor(moved.position).astype(int).T
    assert plan.free[x, y].all() and plan.free[new_x, y].all() and plan.free[new_x, new_y].all()
    change = np.abs(moved.position - old)
    assert (change <= np.maximum(np.abs(velocity), maze.GAP) + 2e-6).all()
    stopped = np.asarray(moved.velocity) != velocity
    assert stopped.any() and (np.asarray(moved.velocity)[stopped] == 0).all()
    assert (change[~stopped] > 0.999 * np.abs(velocity[~stopped]) - 2e-6).all(), "what is not stopped goes on: it slides"


@pytest.mark.parametrize("env_id", IDS)
def test_no_sequence_leads_through_a_wall(env_id):
    """102 400 steps from the start: half of the copies hold full force for 25 steps, the others jump about; no episode ends."""
    plan = maze.load(env_id)

    def body(state, keys):
        held, jump = jax.random.uniform(keys[0], (128, 2), minval=-1), jax.random.uniform(keys[1], (128, 2), minval=-1)
        action = jnp.concatenate([jnp.sign(held), jnp.sign(jump)])
        new = jax.vmap(lambda s, a: maze.step(plan, s, a, None)[0])(state, action)
        return new, new

    hold, key = jax.random.split(jax.random.key(3))
    keys = jnp.stack([jnp.repeat(jax.random.split(hold, 16), 25), jax.random.split(key, 400)], -1)
    state = jax.vmap(lambda k: maze.reset(plan, k)[0])(jax.random.split(jax.random.key(4), 256))
    position, velocity = jax.tree.map(np.asarray, jax.jit(lambda s: jax.lax.scan(body, s, keys)[1])(state))
    x, y = np.moveaxis(np.floor(position).astype(int), -1, 0)
    assert plan.free[x, y].all()
    assert (np.abs(np.diff(x, axis=0)) + np.abs(np.diff(y, axis=0)) <= 2).all()
    assert np.linalg.norm(velocity, axis=-1).max() <= maze.SPEED * (1 + 1e-6)
    assert len(np.unique(np.stack([x, y], -1).reshape(-1, 2), axis=0)) > plan.free.sum() / 2, "they get about"


@pytest.mark.parametrize("env_id", IDS)
def test_a_controller_succeeds_and_chance_rarely(env_id):
    """A third of the horizon is enough to those who know the way; rates of chance were measured on 65 536 episodes."""
    env = envs.make(f"maze/{env_id}")
    _, steps = rollout(env.name, controller(env_id), 64, env.spec.horizon)
    length = steps.terminated.argmax(0) + 1
    assert successes(steps).all()
    assert abs(length.mean() - {"open": 32.4, "umaze": 47.8, "medium": 76.8}[env_id]) < 1.5
    assert length.max() <= {"open": 40, "umaze": 55, "medium": 86}[env_id]
    _, steps = rollout(env.name, at_random, 1024, env.spec.horizon)
    low, high = {"open": (0.01, 0.05), "umaze": (0.003, 0.02), "medium": (0.0, 0.01)}[env_id]  # 0.0285, 0.0132, 0.0027
    assert low <= successes(steps).mean() <= high


@pytest.mark.parametrize("env_id", IDS)
def test_reward_is_one_where_the_episode_ends(env_id):
    """Terminations alone are rewarded, within the goal; the next episode starts at rest in the start's cell."""
    plan = maze.load(env_id)
    first, steps = rollout(f"maze/{env_id}", controller(env_id), 64, 250)
    assert (steps.reward == steps.terminated).all() and steps.terminated.sum() >= 64 * 2
    assert not steps.truncated.any()
    distance = np.linalg.norm(maze.positions(plan, steps.next_obs) - plan.goal, axis=-1)
    assert ((distance <= maze.RADIUS) == steps.terminated).all()
    for obs in (first, steps.obs[steps.terminated]):
        x, y = maze.positions(plan, obs).T
        assert {letter(env_id, *point) for point in zip(x, y, strict=True)} == {"S"}
        assert min(np.histogram(v % 1, 4, (0, 1))[0].min() for v in (x, y)) > len(obs) / 8
        assert (obs[:, 2:] == 0).all()


def test_time_limit_truncates():
    """Who stays at rest is stopped at the horizon with the true successor, and without reward."""
    _, steps = rollout("maze/umaze?horizon=30", lambda obs, key: jnp.zeros((len(obs), 2)), 16, 61)
    assert (np.unique(steps.truncated.nonzero()[0]) == [29, 59]).all() and steps.truncated.sum() == 32
    assert not steps.terminated.any() and not steps.reward.any()
    assert (steps.next_obs[29] == steps.obs[28]).all() and (steps.obs[29] != steps.next_obs[29]).any(-1).all()


@pytest.mark.parametrize("env_id", IDS)
def test_contract_and_names(env_id):
    """Bounds and spaces are kept; the name is listed and has a range of rewards."""
    env = envs.make(f"maze/{env_id}", 2)
    assert env.spec.obs.shape == (4,) and env.spec.action.shape == (2,)
    assert env.name in envs.names() and presets.REWARDS[env.name] == (0.0, 1.0)
    assert presets.domain(env.name, None) == "maze" and presets.domain("antmaze/umaze", None) == "antmaze"
    envs.check(env)
