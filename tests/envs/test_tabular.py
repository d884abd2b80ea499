"""Finite MDPs as environments, against their own arrays, and enumerated again."""

from __future__ import annotations

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import envs
from rljax.base import Array, Discrete, InputError
from rljax.data import mdps
from rljax.envs import tabular
from rljax.mdp import MDP, checked, deterministic

FAMILIES = ["chain", "tree", "grid", "trap", "chain?length=3", "tree?actions=3&depth=2", "grid?size=3", "trap?actions=4&k=1"]
FREEWAY = Path(os.environ.get("RLJAX_SHARED", "../shared")) / "data/effective_horizon/freeway_10_fs30.npz"
needs_file = pytest.mark.skipif(not FREEWAY.exists(), reason=f"{FREEWAY} is absent: set RLJAX_SHARED")


def random_mdp(seed, states=6, actions=3, branches=2, horizon=5):
    rng = np.random.default_rng(seed)
    shape = (states, actions, branches)
    probability = rng.dirichlet(np.ones(branches), shape[:2])
    return checked(MDP(rng.integers(-1, states, shape), probability, rng.normal(size=shape), horizon))


def value(mdp, actions, sticky):
    """The expected return of fixed ``actions`` [T] by a sum over all branches, in plain Python."""

    def of(state, previous, t):
        if state < 0 or t == mdp.horizon:
            return 0.0
        chances = [(1.0, actions[t])] if previous is None else [(1 - sticky, actions[t]), (sticky, previous)]
        return sum(
            chance * p * (r + of(s, a, t + 1))
            for chance, a in chances
            for s, p, r in zip(mdp.successor[state, a], mdp.probability[state, a], mdp.reward[state, a], strict=True)
        )

    return of(0, None, 0)


def returns(env, actions, key):
    """Returns [E] of the first episode of each copy under fixed actions [T]."""

    def step(carry, x):
        state, alive = carry
        action, key = x
        state, new = env.step(state, jnp.full(env.num_envs, action), key)
        return (state, alive & ~(new.terminated | new.truncated)), jnp.where(alive, new.reward, 0)

    state, _ = env.reset(key)
    xs = jnp.asarray(actions), jax.random.split(key, len(actions))
    return jax.lax.scan(step, (state, jnp.ones(env.num_envs, bool)), xs)[1].sum(0)


@pytest.mark.parametrize("name", FAMILIES)
def test_families_keep_the_contract(name):
    envs.check(envs.make(f"tabular/{name}", 3), fixed_start=True)


@pytest.mark.parametrize("sticky", [0.0, 0.3])
@pytest.mark.parametrize("seed", [0, 1])
def test_mean_return_of_actions_is_the_expectation(seed, sticky):
    """Branches, rewards, ends and stickiness: over 20 000 episodes, to four standard errors."""
    mdp = random_mdp(seed)
    env = tabular.from_mdp(mdp, sticky=sticky, num_envs=20_000)
    actions = [0, 2, 1, 1, 0]
    got = np.asarray(jax.jit(returns, static_argnums=0)(env, np.array(actions), jax.random.key(seed)))
    assert abs(got.mean() - value(mdp, actions, sticky)) < 4 * got.std() / np.sqrt(len(got))


def test_observations():
    """One-hot, index and screens with frames as channels; zeros after the end."""
    mdp = deterministic([[1], [-1]], [[0.5], [2.0]], 5)
    screens = np.arange(1, 4, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
    seen = {}
    for name, env in {
        "one_hot": tabular.from_mdp(mdp),
        "index": tabular.from_mdp(mdp, tabular.index(2), 2),
        "screens": tabular.from_mdp(mdp, tabular.pixels(screens, np.array([2, 0])), 255),
        "frames": tabular.from_mdp(mdp, tabular.pixels(screens, np.array([[1, 2], [0, 1]])), 255),
    }.items():
        state, first = env.reset(jax.random.key(0))
        state, middle = env.step(state, jnp.zeros(1, int), jax.random.key(0))
        _, last = env.step(state, jnp.zeros(1, int), jax.random.key(0))
        assert middle.reward == 0.5 and last.reward == 2 and last.terminated and not middle.terminated
        seen[name] = [np.asarray(x[0]) for x in (first, middle.next_obs, last.next_obs)]
        assert env.spec.obs.shape == first[0].shape and env.spec.obs.dtype == first.dtype
    assert np.array_equal(seen["one_hot"], [[1, 0], [0, 1], [0, 0]])
    assert np.array_equal(np.ravel(seen["index"]), [0, 1, 2])
    assert [x[0, 0].tolist() for x in seen["screens"]] == [[3], [1], [0]]
    assert [x[0, 0].tolist() for x in seen["frames"]] == [[2, 3], [1, 2], [0, 0]]


@pytest.mark.parametrize("name", FAMILIES[:4])
def test_enumeration_gives_the_mdp_back(name):
    """From the environment alone: the same MDP up to the names of states, which observations tell."""
    env = envs.make(f"tabular/{name}")
    mdp, obs = tabular.from_env(env, identify=lambda state: state.at)
    order = obs.argmax(1)
    family = tabular.FAMILIES[name]()
    assert sorted(order) == list(range(len(family.successor))) and mdp.horizon == family.horizon
    named = np.where(mdp.successor < 0, -1, order[mdp.successor])
    assert np.array_equal(named, family.successor[order]) and np.array_equal(mdp.reward, family.reward[order])


def test_enumeration_of_a_gymnax_environment():
    """DeepSea of size 8 has 36 states; its treasure is 1 - 8 * 0.01 / 8 = 0.99, for going right 8 times."""
    env = envs.make("gymnax/DeepSea-bsuite")
    mdp, obs = tabular.from_env(env, identify=lambda s: (s.row, s.column, s.action_mapping))
    assert obs.shape[1:] == env.spec.obs.shape
    assert len(mdp.successor) == sum(range(1, 9))


def test_enumeration_refuses():
    for env, options, sentence in (
        (envs.make("pendulum"), {}, "continuous actions"),
        (tabular.from_mdp(random_mdp(0)), {}, "is random"),
        (envs.make("gymnax/CartPole-v1"), {}, "begin in different states"),
        (envs.make("tabular/grid"), {"max_states": 5}, "more than 5 states"),
    ):
        with pytest.raises(InputError, match=sentence):
            tabular.from_env(env, **options)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("tabular/none", "unknown environment 'tabular/none'"),
        ("tabular/no/such.npz", "there is no file no/such.npz"),
        ("tabular/chain?length=0", "length of tabular/chain must be a whole number above 0 and below 2147483648, got '0'"),
        ("tabular/chain?length=x", "length of tabular/chain must be a whole number"),
        ("tabular/chain?horizon=-1", "horizon of tabular/chain must be a whole number of env steps above 0"),
        ("tabular/chain?sticky=1", r"sticky of tabular/chain must be in \[0, 1\), got 1"),
        ("tabular/chain?sticky=x", "sticky of tabular/chain must be a number"),
        ("tabular/chain?observation=image", "observation of tabular/chain must be one_hot, index, pixels, got 'image'"),
        ("tabular/chain?observation=pixels", "tabular/chain has no screens"),
        ("tabular/chain?size=3", "tabular/chain has no option 'size'"),
    ],
)
def test_bad_names_and_options(name, sentence):
    with pytest.raises(InputError, match=sentence):
        envs.make(name)


def test_a_file_by_its_path(tmp_path):
    path = tmp_path / "own.npz"
    mdp = random_mdp(3)
    mdps.save(path, mdp)
    env = envs.make(f"tabular/{path}?sticky=0.5&horizon=3&observation=index", 2)
    assert env.spec.horizon == 3 and env.spec.action == Discrete(3) and env.resize(4).num_envs == 4
    envs.check(env, fixed_start=True)


@needs_file
def test_freeway_in_pixels():
    """BRIDGE's file: 263 screens, shrunk; each state shows its own, and the best actions reach the return 1."""
    env = envs.make(f"tabular/{FREEWAY}?observation=pixels&side=42", 2)
    assert env.spec.obs == Array((42, 32, 3), "uint8", 0, 255) and env.spec.horizon == 10
    found = mdps.read(FREEWAY)
    assert (
        np.abs(found.screens[found.screen_mapping[0]].mean((0, 1)) - env.reset(jax.random.key(0))[1][0].mean((0, 1))).max() < 2
    )
    up = returns(env, np.ones(10, int), jax.random.key(0))
    assert up.shape == (2,)
