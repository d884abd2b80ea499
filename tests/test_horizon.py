"""The effective horizon: definitions spelled out on tiny MDPs, closed forms, and the fast version against the tables."""

from __future__ import annotations

import itertools
import math
import os
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from scipy.optimize import linprog

from rljax import envs, horizon
from rljax.base import InputError
from rljax.data import mdps
from rljax.envs import tabular
from rljax.horizon import gorp, sweeps, tables
from rljax.mdp import MDP, checked, deterministic, sticky


@pytest.fixture
def freeway():
    shared = Path(os.environ.get("RLJAX_SHARED", Path(__file__).parents[2] / "shared"))
    path = shared / "data/effective_horizon/freeway_10_fs30.npz"
    if not path.exists():
        pytest.skip(f"no real MDP: {path} does not exist")
    return mdps.read(path, pixels=False).mdp


def random_mdp(seed, states, actions, steps, outcomes=1):
    """Rewards are real numbers, or few fractions so that actions tie."""
    rng = np.random.default_rng(seed)
    shape = (states, actions, outcomes)
    reward = (rng.normal(size=shape), rng.integers(-1, 2, shape) * 1.0, rng.integers(0, 3, shape) / 3)[seed % 3]
    chance = rng.dirichlet(np.ones(outcomes), shape[:2])
    if outcomes > 1:
        chance[rng.random(shape[:2]) < 0.3] = np.eye(outcomes)[0]
    return checked(MDP(rng.integers(-1, states, shape), chance, reward, steps))


def random_policy(seed, mdp):
    rng = np.random.default_rng(seed)
    policy = rng.dirichlet(np.ones(mdp.successor.shape[1]), (mdp.horizon, len(mdp.successor)))
    policy[..., 0] += policy[..., -1]
    policy[..., -1] = 0
    return policy


def outcomes_of(mdp, s, a):
    return [x for x in zip(mdp.probability[s, a], mdp.reward[s, a], mdp.successor[s, a], strict=True) if x[0] > 0]


def follow(mdp, t, s, choose):
    """The expected return from state s at step t, if ``choose(t, s)`` gives a list of (probability, action)."""
    if t == mdp.horizon or s < 0:
        return 0.0
    return sum(
        share * p * (r + follow(mdp, t + 1, after, choose))
        for share, a in choose(t, s)
        for p, r, after in outcomes_of(mdp, s, a)
    )


def q_of(mdp, k, t, s, a, base):
    """Q^k by its definition, where Q^1 is the reward and then ``base`` (t, s)."""

    def rest(after):
        if t + 1 == mdp.horizon or after < 0:
            return 0.0
        if k == 1:
            return base(t + 1, after)
        return max(q_of(mdp, k - 1, t + 1, after, b, base) for b in range(mdp.successor.shape[1]))

    return sum(p * (r + rest(after)) for p, r, after in outcomes_of(mdp, s, a))


def policies(mdp, allowed):
    """The returns of all policies that take actions ``allowed`` (t, s)."""
    places = list(itertools.product(range(mdp.horizon), range(len(mdp.successor))))
    for actions in itertools.product(*(allowed(t, s) for t, s in places)):
        chosen = dict(zip(places, actions, strict=True))
        yield follow(mdp, 0, 0, lambda t, s, chosen=chosen: [(1.0, chosen[t, s])])


@pytest.mark.parametrize("seed", range(9))
@pytest.mark.parametrize(("states", "steps", "outcomes"), [(3, 3, 1), (2, 4, 1), (2, 3, 2)])
def test_definitions(seed, states, steps, outcomes):
    """Returns, k_min, window and greedy returns, by trying every policy there is."""
    mdp, actions = random_mdp(seed, states, 2, steps, outcomes), range(2)
    found = tables.analyze(mdp)
    everything = list(policies(mdp, lambda t, s: actions))
    uniform = [(0.5, a) for a in actions]
    np.testing.assert_allclose(found.optimal_return, max(everything), atol=1e-12)
    np.testing.assert_allclose(found.worst_return, min(everything), atol=1e-12)
    np.testing.assert_allclose(found.exploration_return, follow(mdp, 0, 0, lambda t, s: uniform), atol=1e-12)

    def explored(t, s):
        return follow(mdp, t, s, lambda t, s: uniform)

    def worst_greedy(k, base):
        def greedy(t, s):
            q = [q_of(mdp, k, t, s, a, base) for a in actions]
            return [a for a in actions if q[a] > max(q) - 1e-9]

        return min(policies(mdp, greedy))

    returns = [worst_greedy(k, explored) for k in range(1, 6)]
    np.testing.assert_allclose(found.greedy_returns, returns, atol=1e-12)
    solves = [x > max(everything) - 1e-6 for x in returns]
    assert found.k_min == solves.index(True) + 1
    window = [worst_greedy(k, lambda t, s: 0.0) > max(everything) - 1e-6 for k in range(1, steps + 1)]
    assert found.epw == window.index(True) + 1


@pytest.mark.parametrize(("name", "k_min", "epw"), [("chain", 1, 5), ("tree", 1, 5), ("trap", 5, 5)])
def test_families(name, k_min, epw):
    size = {"chain": {"length": 5}, "tree": {"depth": 5}, "trap": {"k": 5}}[name]
    found = horizon.analyze(tabular.FAMILIES[name](**size))
    assert (found.k_min, found.epw, found.optimal_return) == (k_min, epw, 1.0)


@pytest.mark.parametrize(("depth", "actions"), [(4, 3), (7, 2)])
def test_tree_in_closed_form(depth, actions):
    """One leaf of A^T gives 1: Q^k is A^(k - T) along the way to it and 0 beside it, and so are variance bound and gap."""
    found = horizon.analyze(tabular.tree(depth, actions))
    np.testing.assert_allclose(found.exploration_return, actions**-depth, rtol=1e-12)
    for bound in found.bounds:
        chance = float(actions) ** (bound.k - depth)
        expected = 16 / chance * math.log(2 * depth * actions**bound.k)
        assert abs(bound.samples - math.ceil(expected)) <= 1
        np.testing.assert_allclose([bound.var, bound.gap], chance, rtol=1e-12)
    candidates = [b.k + math.log(b.samples, actions) for b in found.bounds]
    np.testing.assert_allclose(found.effective_horizon, min([depth, *candidates]), rtol=1e-12)
    np.testing.assert_allclose(found.occupancy, [actions ** (1.0 - depth)] * 2 + [float(actions) ** -depth] * 2, rtol=1e-12)
    nodes = (actions**depth - 1) // (actions - 1)
    np.testing.assert_allclose(found.covering_length, math.log(2 * nodes * actions) * actions**depth, rtol=1e-12)
    np.testing.assert_allclose(found.optimal_value, float(actions) ** -np.arange(depth), rtol=1e-12)
    np.testing.assert_allclose(found.exploration_value, [float(actions) ** -depth] * depth, rtol=1e-12)
    gaps = [actions ** float(k - depth) for k in range(1, depth + 1)]
    bars = [k - 2 * math.log(gap, actions) for k, gap in enumerate(gaps, 1)]
    np.testing.assert_allclose(found.stochastic_effective_horizon, min(bars), rtol=1e-12)


def test_occupancy_at_the_best_step_and_in_all():
    """Two states, of which one is visited again and again: the largest probability and the sum differ."""
    mdp = deterministic(np.array([[0, 1], [1, -1]]), np.zeros((2, 2)), 3)
    occupied, seen = tables.occupancy(mdp)
    np.testing.assert_allclose(seen, [[1, 0], [1 / 2, 1 / 2], [1 / 4, 1 / 2]])
    np.testing.assert_allclose(occupied, [1 / 2, 1, 1 / 4, 1 / 2])


def test_stochastic_gap():
    """k_min and the gap of Q^1 by hand: the sure action gives 0.6, the other one 1 with probability 0.5."""
    mdp = checked(MDP(np.full((1, 2, 2), -1), np.array([[[1, 0], [0.5, 0.5]]]), np.array([[[0.6, 0], [1, 0]]]), 1))
    found = horizon.analyze(mdp)
    assert (found.k_min, found.effective_horizon, found.bounds) == (1, None, ())
    np.testing.assert_allclose(found.stochastic_gap, 0.1, rtol=1e-12)
    np.testing.assert_allclose(found.stochastic_effective_horizon, 1 + math.log2(100), rtol=1e-12)


def assert_same(x, y):
    """All but the occupancies, whose sums have no order, to the last bit."""
    loose = ("occupancy", "covering_length", "optimal_value", "exploration_value")
    for name in x._fields:
        if name in loose:
            np.testing.assert_allclose(getattr(x, name), getattr(y, name), rtol=1e-12, err_msg=name)
        else:
            assert getattr(x, name) == getattr(y, name), name


@pytest.mark.parametrize("outcomes", [1, 2])
def test_sweeps_equal_tables(outcomes):
    """To the last bit, over more columns than a block has; with an exploration policy too."""
    for seed in range(12):
        mdp = random_mdp(seed, 12, 3, 31, outcomes)
        policy = random_policy(seed, mdp) if seed % 2 else None
        assert_same(sweeps.analyze(mdp, policy), tables.analyze(mdp, policy))


def test_sweeps_of_sticky_actions_equal_tables():
    mdp = sticky(random_mdp(1, 5, 3, 9), 0.3)
    assert_same(sweeps.analyze(mdp), tables.analyze(mdp))


@pytest.mark.parametrize("outcomes", [1, 2])
def test_many_greedy_states(monkeypatch, outcomes):
    """Where greedy policies reach too many states to follow them, greedy returns come from sweeps over all states."""
    monkeypatch.setattr(sweeps, "FEW", 0)
    mdp = random_mdp(5, 12, 3, 31, outcomes)
    assert_same(sweeps.analyze(mdp), tables.analyze(mdp))


def test_an_outcome_that_never_comes_changes_nothing():
    plain = random_mdp(2, 6, 2, 5)
    pairs = (np.concatenate([x, fill * np.ones_like(x)], -1) for x, fill in zip(plain[:3], (0, 0, 9), strict=True))
    padded = MDP(*pairs, plain.horizon)
    for version in (tables, sweeps):
        assert_same(version.analyze(padded), version.analyze(plain))
    assert gorp.gorp_bounds(padded) == gorp.gorp_bounds(plain)


@pytest.mark.parametrize("outcomes", [1, 2])
def test_many_actions_are_a_loop(outcomes):
    mdp = random_mdp(4, 6, sweeps.UNROLLED + 1, 3, outcomes)
    assert_same(sweeps.analyze(mdp), tables.analyze(mdp))


def test_one_action_one_step():
    for mdp in (random_mdp(0, 3, 1, 4), random_mdp(0, 3, 2, 1)):
        assert_same(sweeps.analyze(mdp), tables.analyze(mdp))
        gorp.gorp_bounds(mdp)
    assert horizon.analyze(random_mdp(0, 3, 1, 4)).effective_horizon == 1


def test_large_ones_go_through_sweeps(monkeypatch):
    called = []
    monkeypatch.setattr(sweeps, "analyze", lambda *args: called.append(args))
    horizon.analyze(random_mdp(0, 3, 2, 3))
    assert not called
    horizon.analyze(deterministic(np.zeros((10_000, 2), int), np.zeros((10_000, 2)), 200))
    assert called


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (np.ones((3, 4, 2)) / 2, r"shape \[T, S or S \+ 1, A\] = \[3, 5 or 6, 2\], got \[3, 4, 2\]"),
        (np.ones((3, 5, 2)), "probabilities that sum to 1"),
        (np.full((3, 5, 2), np.nan), "probabilities that sum to 1"),
        (np.tile([1.5, -0.5], (3, 5, 1)), "probabilities that sum to 1"),
    ],
)
def test_exploration_policy_is_checked(policy, message):
    with pytest.raises(InputError, match=message):
        horizon.analyze(random_mdp(0, 5, 2, 3), policy)


def test_exploration_policy():
    """Uniform probabilities, also with a row for the end, are random actions; an optimal policy explores optimally."""
    mdp = random_mdp(0, 5, 2, 3)
    assert_same(horizon.analyze(mdp, np.full((3, 6, 2), 0.5)), horizon.analyze(mdp))
    best = np.eye(2)[tables.value_iteration(mdp).optimal_q.argmax(2)]
    found = horizon.analyze(mdp, best)
    assert found.exploration_return == found.optimal_return and found.k_min == 1


def test_freeway(freeway):
    """The reference's numbers (algorithms.md 2.3), by both versions."""
    for version in (tables, sweeps):
        found = version.analyze(freeway)
        assert (found.k_min, found.epw, found.effective_horizon, found.optimal_return) == (1, 6, 8.0, 1.0)
        assert [b.samples for b in found.bounds] == [5307, 2244, 1020, 505, 262, 69, 57, 1]
        np.testing.assert_allclose(found.occupancy, [3.0**-8] * 2 + [3.0**-9] * 2, rtol=1e-12)
    lifted = tables.analyze(sticky(freeway, 0.25))
    assert (lifted.k_min, lifted.epw, lifted.optimal_return, lifted.num_states) == (1, 6, 1.0, 322)
    np.testing.assert_allclose(lifted.exploration_return, 0.031809488932291664, rtol=1e-14)


def test_freeway_gorp(freeway):
    bounds = gorp.gorp_bounds(freeway)
    assert [b.k for b in bounds] == [1, 2, 3, 4, 5, 6]
    best = min(bounds, key=lambda b: b.steps)
    assert (best.k, best.samples, best.steps) == (1, 37, 11_100)
    assert round(best.effective_horizon, 4) == 4.2868


def gorp_return(mdp, k, m, rng):
    """The return of one run of GORP."""
    prefix, actions = [], mdp.successor.shape[1]
    for _ in range(mdp.horizon):
        best, first = -np.inf, None
        for sequence in itertools.product(range(actions), repeat=k):
            plan = [*prefix, *sequence][: mdp.horizon]
            mean = np.mean([rollout(mdp, plan, rng) for _ in range(m)])
            if mean > best:
                best, first = mean, sequence[0]
        prefix.append(first)
    return rollout(mdp, prefix, rng)


def rollout(mdp, plan, rng):
    s, total = 0, 0.0
    for t in range(mdp.horizon):
        if s < 0:
            break
        a = plan[t] if t < len(plan) else rng.integers(mdp.successor.shape[1])
        total, s = total + mdp.reward[s, a, 0], mdp.successor[s, a, 0]
    return total


@pytest.mark.parametrize(("name", "k"), [("tree", 1), ("tree", 2), ("trap", 3), ("noisy", 1), ("noisy", 2)])
def test_gorp_succeeds_with_as_many_samples(name, k):
    """At least half of the runs, as promised; and with one sample most of them fail where the bound asks for many."""
    rng = np.random.default_rng(0)
    if name == "noisy":  # returns of three values: the binomial bound does not apply
        mdp = deterministic(np.array([[1, 2], [-1, -1], [-1, -1]]), np.array([[0, 0], [1.0, 0.0], [0.0, 2.0]]), 2)
    else:
        mdp = tabular.tree(3) if name == "tree" else tabular.trap(3)
    bound = gorp.gorp_bounds(mdp, max_k=k)[-1]
    optimal = tables.analyze(mdp).optimal_return
    wins = np.mean([gorp_return(mdp, k, bound.samples, rng) >= optimal - 1e-9 for _ in range(40)])
    assert wins >= 0.5
    if k == 1:
        assert np.mean([gorp_return(mdp, 1, 1, rng) >= optimal - 1e-9 for _ in range(100)]) < wins


def test_gorp_is_hopeless_where_greedy_is():
    """Below k_min no number of samples suffices."""
    bounds = gorp.gorp_bounds(tabular.trap(3), max_k=10**30, work=np.inf)  # and no further than the horizon
    assert [b.samples is None for b in bounds] == [True, True, False]
    assert bounds[0].effective_horizon == math.inf and bounds[0].steps is None


@pytest.mark.parametrize("seed", range(5))
def test_worst_case_is_the_linear_program(seed):
    rng = np.random.default_rng(seed)
    low = rng.random((4, 6)) / 6
    high, value = low + rng.random((4, 6)), rng.integers(0, 4, (4, 6)) / 3
    for i, found in enumerate(gorp._most_failure(value, low, high)):
        bounds = np.stack([low[i], high[i]], 1)
        solved = linprog(-value[i], A_eq=np.ones((1, 6)), b_eq=[1], bounds=bounds, method="highs")
        np.testing.assert_allclose(found, -solved.fun, atol=1e-12)


@pytest.mark.parametrize("method", [gorp._binomial, gorp._bernstein, gorp._berry_esseen, gorp._bennett])
def test_probability_of_the_best_mean_lies_between_the_bounds(method):
    """Means of Bernoulli returns, two of three alike: how often each one is the greatest."""
    p, m, rng = np.array([0.5, 0.5, 0.8]), 40, np.random.default_rng(0)
    means = rng.binomial(m, p, (20_000, 3)) + rng.random((20_000, 3))
    wins = np.bincount(means.argmax(1), minlength=3) / 20_000
    groups = np.array([[0.5, 0.8]])
    var = groups * (1 - groups)
    third = var * (groups**2 + (1 - groups) ** 2)
    one, zero = np.ones((1, 2)), np.zeros((1, 2))
    rows = gorp._Rows(np.zeros(1, int), groups, one, zero, var, third, np.array([[2.0, 1.0]]), np.array([[0, 0, 1]]))
    with np.errstate(all="ignore"):
        low, high = (x[0, [0, 0, 1]] for x in method(rows, m))
    assert (low <= wins + 0.01).all() and (wins - 0.01 <= high).all()
    assert high[0] < 1 or low[2] > 0  # it says something


def test_gorp_refuses():
    with pytest.raises(InputError, match="deterministic"):
        gorp.gorp_bounds(random_mdp(0, 3, 2, 3, 2))
    with pytest.raises(InputError, match="at least 1, got 0"):
        gorp.gorp_bounds(random_mdp(0, 3, 2, 3), max_k=0)
    assert gorp.gorp_bounds(tabular.tree(5), work=3) == ()


def test_moments_of_returns():
    """Variance and third absolute moment of the random policy's return, by trying every sequence of actions."""
    mdp = random_mdp(1, 4, 2, 4)
    moments = gorp._moments(mdp, None)
    for t, s in itertools.product(range(4), range(4)):
        returns = []
        for plan in itertools.product(range(2), repeat=4 - t):
            at, total = s, 0.0
            for a in plan:
                total, at = (total + mdp.reward[at, a, 0], mdp.successor[at, a, 0]) if at >= 0 else (total, at)
            returns.append(total)
        centered = np.array(returns) - np.mean(returns)
        np.testing.assert_allclose(moments[t, s], [np.mean(centered**2), np.mean(np.abs(centered) ** 3)], atol=1e-3)


def test_estimate_of_a_tree():
    """The gap and the deviation at the root of a tree are known, and the true H_k of this formula is in the interval."""
    depth, actions = 4, 2
    env = envs.make("tabular/tree?depth=4")
    for found in horizon.estimate(env, jax.random.key(0), (1, 2), episodes=2000, steps=1):
        chance = float(actions) ** (found.k - depth)
        spread = chance * (1 - chance)
        true = found.k + math.log2(16 * spread / chance**2 * math.log(2 * depth * actions**found.k))
        assert found.low - 0.1 <= true <= found.high + 0.1
        assert found.high - found.low < 2
        np.testing.assert_allclose([found.gap, found.std], [chance, math.sqrt(spread)], rtol=0.3)
        assert found.actions == (actions - 1,) and found.one_start and found.step == 0


def test_estimate_follows_the_best_path():
    """Along a chain the way is right all the time; with k = 1 the first step, the farthest from the reward, is the hardest."""
    (found,) = horizon.estimate(envs.make("tabular/tree?depth=3"), jax.random.key(1), (1,), episodes=1000, steps=3)
    assert found.actions == (1, 1, 1)
    assert found.step == 0


def test_estimate_without_noise_needs_one_sample():
    (found,) = horizon.estimate(envs.make("tabular/trap?k=2"), jax.random.key(0), (2,), episodes=5, steps=1)
    assert (found.samples, found.effective_horizon, found.low, found.high) == (1, 2, 2, 2)


def test_estimate_of_equal_actions_is_infinite():
    env = tabular.from_mdp(deterministic(np.array([[-1, -1]]), np.zeros((1, 2)), 1))
    (found,) = horizon.estimate(env, jax.random.key(0), (1,), episodes=5)
    assert found.effective_horizon == found.high == math.inf


def test_estimate_is_unsure_of_a_small_gap():
    """Two actions whose returns differ by far less than they vary: the interval has no upper end."""
    reward = np.array([[[1.0, 0.0], [1.0, 0.01]]])
    env = tabular.from_mdp(checked(MDP(np.full((1, 2, 2), -1), np.full((1, 2, 2), 0.5), reward, 1)))
    (found,) = horizon.estimate(env, jax.random.key(0), (1,), episodes=50)
    assert found.low < found.high == math.inf


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("pendulum", {}, "those of pendulum are continuous"),
        ("tabular/trap", {"ks": (0,)}, "k must be at least 1, got 0"),
        ("tabular/trap", {"ks": ()}, "k must be at least 1, got 0"),
        ("tabular/trap", {"episodes": 1}, "episodes must be at least 2, got 1"),
        ("tabular/trap", {"steps": 0}, "steps must be at least 1, got 0"),
        ("tabular/trap", {"ks": (20,)}, "2^20 sequences times 500 episodes are more than 200000"),
    ],
)
def test_estimate_refuses(name, options, message):
    with pytest.raises(InputError, match=re.escape(message)):
        horizon.estimate(envs.make(name), jax.random.key(0), **options)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_million_states():
    """Sweeps fit into 8 GB of memory where tables would need 40."""
    import resource

    rng, states = np.random.default_rng(0), 1_000_000
    mdp = deterministic(rng.integers(0, states, (states, 4)), rng.random((states, 4)), 100)
    found = horizon.analyze(mdp)
    assert 0.97 * states < found.num_states < states  # random successors leave out 2%
    assert found.worst_return < found.exploration_return < found.optimal_return
    assert found.greedy_returns[0] < found.optimal_return - tables.PRECISION and found.k_min > 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 8 * 2**20
