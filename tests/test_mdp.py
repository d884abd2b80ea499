"""MDPs as arrays: what is refused, and the lift to sticky actions."""

from __future__ import annotations

import numpy as np
import pytest

from rljax.base import InputError
from rljax.horizon import tables
from rljax.mdp import MDP, checked, deterministic, reachable, sticky, sticky_states


def random_mdp(seed, states=5, actions=3, horizon=6, outcomes=1):
    rng = np.random.default_rng(seed)
    shape = (states, actions, outcomes)
    chance = rng.dirichlet(np.ones(outcomes), shape[:2])
    return checked(MDP(rng.integers(-1, states, shape), chance, rng.normal(size=shape), horizon))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"successor": np.zeros((2, 2, 1))}, "successors must be whole numbers, got float64"),
        ({"successor": np.array([[[0], [1]], [[2], [0]]])}, "states from 0 to 1, or -1: not so in state 1, action 0"),
        ({"probability": np.full((2, 2, 1), 0.5)}, "probabilities must sum to 1: not so in state 0, action 0"),
        ({"probability": np.full((2, 2, 1), np.nan)}, r"probabilities must lie in \[0, 1\]"),
        ({"reward": np.full((2, 2, 1), np.inf)}, "rewards must be finite"),
        ({"reward": np.zeros((2, 2, 2))}, r"one shape \[S, A, K\]"),
        ({"horizon": 0}, "horizon must be at least 1 step, got 0"),
    ],
)
def test_checked(changes, message):
    mdp = MDP(np.zeros((2, 2, 1), int), np.ones((2, 2, 1)), np.zeros((2, 2, 1)), 3)
    checked(mdp)
    with pytest.raises(InputError, match=message):
        checked(mdp._replace(**changes))


def test_reachable():
    line = deterministic(np.array([[1], [2], [-1], [0]]), np.zeros((4, 1)), 9)
    assert reachable(line).tolist() == [True, True, True, False]
    assert reachable(line, 1).tolist() == [True, True, False, False]
    never = line._replace(probability=np.where(np.arange(4)[:, None, None] == 0, 0.0, 1.0))
    assert reachable(never).tolist() == [True, False, False, False]


def play(mdp, p, choose, rng):
    """The return of one episode with sticky actions, by the definition."""
    state, total, executed = 0, 0.0, None
    for t in range(mdp.horizon):
        action = choose(t, state)
        if executed is not None and rng.random() < p:
            action = executed
        k = rng.choice(mdp.successor.shape[2], p=mdp.probability[state, action])
        total += mdp.reward[state, action, k]
        state, executed = mdp.successor[state, action, k], action
        if state < 0:
            break
    return total


@pytest.mark.parametrize("outcomes", [1, 2])
def test_sticky_actions_as_played(outcomes):
    """The random policy's value in the lifted MDP is the mean return of episodes that follow the definition."""
    mdp, rng = random_mdp(3, outcomes=outcomes), np.random.default_rng(0)
    lifted = checked(sticky(mdp, 0.6))
    value = tables.value_iteration(lifted).exploration_v[0, 0]
    returns = [play(mdp, 0.6, lambda t, s: rng.integers(3), rng) for _ in range(4000)]
    error = np.std(returns) / np.sqrt(len(returns))
    assert abs(np.mean(returns) - value) < 4 * error
    assert abs(tables.value_iteration(mdp).exploration_v[0, 0] - value) > 8 * error  # the test could tell


def test_sticky_value_by_recursion():
    """0.75 (R + V)(s, a) + 0.25 (R + V)(s, previous), and nothing sticks in the first step."""
    mdp = random_mdp(1, horizon=5)
    v = tables.value_iteration(sticky(mdp, 0.25)).optimal_v[0, 0]

    def best(t, s, previous):
        if t == mdp.horizon or s < 0:
            return 0.0
        done = [mdp.reward[s, a, 0] + best(t + 1, mdp.successor[s, a, 0], a) for a in range(3)]
        return max(done) if previous is None else max(0.75 * x + 0.25 * done[previous] for x in done)

    np.testing.assert_allclose(v, best(0, 0, None), rtol=1e-13)


def test_float32_products():
    """Each half of an expected reward is a float32 product where rewards are float32, and rewards stay what they were."""
    reward = np.float32([[0.1, 0.7], [1 / 3, 1.0]])
    mdp = deterministic(np.array([[1, 0], [0, 1]]), reward, 4)
    lifted = sticky(mdp, 0.25)
    halves = {
        *(np.float32(0.75) * reward).ravel().astype(float).tolist(),
        *(np.float32(0.25) * reward).ravel().astype(float).tolist(),
    }
    products = lifted.probability[1:] * lifted.reward[1:]
    assert max(min(abs(x - y) for y in halves) for x in products.ravel()) < 1e-16
    assert max(min(abs(x - y) for y in reward.ravel()) for x in lifted.reward[1:].ravel()) < 1e-7
    exact = sticky(mdp._replace(reward=mdp.reward + 1e-12), 0.25)  # not float32: left alone
    assert set(exact.reward[1:].ravel()) <= set((mdp.reward + 1e-12).ravel())


def test_no_stickiness_is_the_mdp_itself():
    mdp = random_mdp(0)
    assert sticky(mdp, 0) is mdp


@pytest.mark.parametrize("p", [-0.1, 1, 1.5, float("nan")])
def test_sticky_refuses(p):
    with pytest.raises(InputError, match="at least 0 and below 1"):
        sticky(random_mdp(0), p)


def test_sticky_states_are_counted():
    """As a walk over sets counts the pairs, with the start as (0, 0) and the end as one more state."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        states, actions, horizon = (int(rng.integers(1, n)) for n in (8, 4, 7))
        mdp = deterministic(rng.integers(-1, states, (states, actions)), np.zeros((states, actions)), horizon)
        after = np.vstack([np.where(mdp.successor[..., 0] < 0, states, mdp.successor[..., 0]), np.full((1, actions), states)])
        here, seen = {(0, 0)}, set()
        for t in range(horizon):
            seen |= here
            here = {(after[s, x], x) for s, b in here for a in range(actions) for x in ({a, b} if t else {a})}
        assert sticky_states(mdp) == len(seen)
