"""What tests of several agents share: probe problems, and the numpy parts of slow reference implementations.

A probe has four states and values known in closed form; a problem is arrays, so that all of them are one program.
Gradients of the references are complex steps: f(x + ih) has the derivative in its imaginary part, to machine precision.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.base import Array, Discrete, Env, Spec, Transition, batch_env

STATES = 4
HORIZON = 6
CONTINUOUS = Spec(Array((STATES,)), Array((1,), "float32", -1.0, 1.0), HORIZON)
DISCRETE = Spec(Array((STATES,)), Discrete(3), HORIZON)


class Probe(NamedTuple):
    """A problem as arrays [STATES], so that several are one batch axis.

    From state s the next is ``to[s]``, and the episode terminates where ``end[s]``. The reward is ``reward[s]`` less
    ``cost[s]`` times the squared distance from the action to ``best[s]`` (discrete: less ``cost[s]`` for all but one).
    """

    starts: np.ndarray
    to: np.ndarray
    end: np.ndarray
    reward: np.ndarray
    cost: np.ndarray
    best: np.ndarray


def probe(starts: list[int], to: list[int], end: list[int], reward: list[float], cost: float, best: list[float]) -> Probe:
    """A `Probe` from lists: states to start from with equal probability, and terminal states."""
    states = np.arange(STATES)
    return Probe(
        np.log(np.where(np.isin(states, starts), 1.0, 1e-30)).astype(np.float32),
        np.array(to, np.int32),
        np.isin(states, end),
        np.array(reward, np.float32),
        np.full(STATES, cost, np.float32),
        np.array(best, np.float32),
    )


ALL, ROUND, ONES, MIDDLE = [0, 1, 2, 3], [1, 2, 3, 0], [1.0] * STATES, [0.0] * STATES
PROBES = {
    "time_limit": probe(ALL, ROUND, [], ONES, 0.0, MIDDLE),
    "terminal": probe([0], ROUND, [3], ONES, 0.0, MIDDLE),
    "observation": probe(ALL, ROUND, ALL, [-1.0, 1.0, 0.5, 2.0], 0.0, MIDDLE),
    "action": probe([0], ROUND, ALL, ONES, 2.0, [0.4] * STATES),
    "delay": probe([0], ROUND, [1], [0.0, 1.0, 0.0, 0.0], 0.0, MIDDLE),
    "both": probe([0, 2], ROUND, [1, 3], ONES, 2.0, [-0.6, 0.6, 0.0, -0.3]),
}


def index(best: jax.Array) -> jax.Array:
    """The discrete action that stands for ``best``: 0 below -0.2, 2 above 0.2, else 1."""
    return (best > -0.2).astype(jnp.int32) + (best > 0.2)


def reward(spec: Spec, p: Probe, s: jax.Array, action: jax.Array) -> jax.Array:
    """The reward of an action ([1] or an integer) in state s."""
    if spec is DISCRETE:
        return p.reward[s] - p.cost[s] * (action != index(p.best[s]))
    return p.reward[s] - p.cost[s] * (action[0] - p.best[s]) ** 2


def make(spec: Spec, p: Probe) -> Env:
    """The env of a probe; its observation is the state, one-hot."""

    def reset(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        s = jax.random.categorical(key, p.starts)
        return s, jax.nn.one_hot(s, STATES)

    def step(s: jax.Array, action: jax.Array, key: jax.Array) -> tuple[jax.Array, ...]:
        new = p.to[s]
        return new, jax.nn.one_hot(new, STATES), reward(spec, p, s, action), p.end[s]

    return batch_env(spec, reset, step)


def visited(p: Probe) -> np.ndarray:
    """The states that some episode acts in."""
    seen = set(np.flatnonzero(p.starts > -1))
    for _ in range(STATES):
        seen |= {int(p.to[s]) for s in seen if not p.end[s]}
    return np.array(sorted(seen))


def optimal(p: Probe, discount: float) -> np.ndarray:
    """Optimal values [STATES] without time limit: all of the reward each time, terminal states stop the sum."""
    value = np.zeros(STATES)
    for _ in range(1000):
        value = p.reward + discount * np.where(p.end, 0.0, value[p.to])
    return value


@pytest.fixture(scope="session")
def probes() -> SimpleNamespace:
    """The problems by name, and what a test needs to run them and to know their values."""
    return SimpleNamespace(
        all=PROBES,
        continuous=CONTINUOUS,
        discrete=DISCRETE,
        make=make,
        reward=reward,
        index=index,
        visited=visited,
        optimal=optimal,
    )


class Learner(NamedTuple):
    """Parameters (a tree of numpy arrays), Adam's moments and its number of steps."""

    params: Any
    first: Any
    second: Any
    steps: int = 0


def learner(params: Any) -> Learner:
    """``params`` in float64 with fresh moments."""
    params = jax.tree.map(lambda x: np.array(x, np.float64), params)
    return Learner(params, *(jax.tree.map(np.zeros_like, params) for _ in range(2)))


def adam(x: Learner, lr: float, loss: Callable[[Any], complex]) -> Learner:
    """One step of Adam (arXiv:1412.6980, algorithm 1) with its default betas on ``loss(params)``."""
    grad, n = gradient(loss, x.params), x.steps + 1
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, x.first, grad)
    second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, x.second, grad)

    def move(p: np.ndarray, m: np.ndarray, v: np.ndarray) -> np.ndarray:
        return p - lr * (m / (1 - 0.9**n)) / (np.sqrt(v / (1 - 0.999**n)) + 1e-8)

    return Learner(jax.tree.map(move, x.params, first, second), first, second, n)


def gradient(loss: Callable[[Any], complex], params: Any) -> Any:
    """The gradient of ``loss`` by one complex step per number."""
    leaves, structure = jax.tree.flatten(params)
    grads = [np.zeros_like(x) for x in leaves]
    for i, leaf in enumerate(leaves):
        for index in np.ndindex(*leaf.shape):
            moved = np.array(leaf, complex)
            moved[index] += 1e-30j
            grads[i][index] = np.imag(loss(jax.tree.unflatten(structure, [*leaves[:i], moved, *leaves[i + 1 :]]))) / 1e-30
    return jax.tree.unflatten(structure, grads)


def mlp(params: Any, x: np.ndarray) -> np.ndarray:
    """Outputs of dense layers, each followed by its LayerNorm if it has one and by ReLU, named as in `rljax.nets`."""
    layers = params["params"]
    torso = layers.get("Torso_0", {})
    for name in sorted(name for name in torso if name.startswith("Dense")):
        x = x @ torso[name]["kernel"] + torso[name]["bias"]
        norm = torso.get(name.replace("Dense", "LayerNorm"))
        x = x if norm is None else standardised(x) * norm["scale"] + norm["bias"]
        x = np.where(x.real > 0, x, 0)
    return x @ layers["head"]["kernel"] + layers["head"]["bias"]


def standardised(x: np.ndarray) -> np.ndarray:
    """Rows with mean 0 and variance 1, but for the 1e-6 that flax adds to the variance."""
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)


def policy(params: Any, obs: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``(action [..., B, A], log_prob [..., B])`` of the tanh-Gaussian at given noise; log(1 - tanh^2) as it stands."""
    mean, raw = np.split(mlp(params, obs), 2, -1)
    log_std = -5 + 3.5 * (np.tanh(raw) + 1)
    action = np.tanh(mean + np.exp(log_std) * noise)
    return action, (-0.5 * noise**2 - log_std - 0.5 * np.log(2 * np.pi) - np.log(1 - action**2)).sum(-1)


def normal(key: jax.Array, *shape: int) -> np.ndarray:
    """Standard normal noise in float64."""
    return np.asarray(jax.random.normal(key, shape, jnp.float64))


def member(params: Any, i: int) -> Any:
    """The parameters of critic ``i``."""
    return jax.tree.map(lambda x: x[i], params)


def smaller(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The elementwise minimum, by the real part."""
    return np.where(a.real < b.real, a, b)


def critics(params: Any, *inputs: np.ndarray) -> list[np.ndarray]:
    """Outputs [B, size] of each critic for inputs that are joined along their last axis."""
    return [mlp(member(params, i), np.concatenate(inputs, 1)) for i in range(len(params["params"]["head"]["bias"]))]


def draw_batch(spec: Spec, num: int, size: int, seed: int) -> Transition:
    """Noise [num, size, ...] in float64 in which some steps terminate and others are truncated."""
    rng = np.random.default_rng(seed)
    shape, discrete = (num, size), isinstance(spec.action, Discrete)
    end, action_shape = rng.random(shape), shape if discrete else (*shape, *spec.action.shape)
    return Transition(
        obs=rng.normal(size=(*shape, *spec.obs.shape)),
        action=rng.integers(0, spec.action.n, shape, np.int32) if discrete else rng.uniform(-1, 1, action_shape),
        reward=rng.normal(size=shape),
        next_obs=rng.normal(size=(*shape, *spec.obs.shape)),
        terminated=end < 0.3,
        truncated=end > 0.7,
    )


def follows(x: Any, expected: Learner) -> None:
    """Hold a `rljax.optim.Model` (parameters, Adam's moments and count) against a `Learner`, to 1e-8."""
    moments = x.opt_state[0]
    assert moments.count == expected.steps
    close((x.params, moments.mu, moments.nu), (expected.params, expected.first, expected.second))


def close(tree: Any, expected: Any) -> None:
    """Leaf by leaf, to 1e-8 relative."""
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-8, atol=1e-11), tree, expected)


@pytest.fixture(scope="session")
def reference() -> SimpleNamespace:
    """Adam, networks, a policy and a minimum in numpy, for slow references in float64."""
    parts = (learner, adam, gradient, mlp, policy, normal, member, smaller, critics, draw_batch, follows, close)
    return SimpleNamespace(**{part.__name__: part for part in parts})
