"""GORP against a plain loop over episodes, and what k it needs."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import loops, replay
from rljax.agents import gorp
from rljax.base import InputError
from rljax.envs import tabular


def found(config, mdp, seed, iterations=None):
    """The agent's state after so many iterations, or all."""
    env = tabular.from_mdp(mdp)
    loop = gorp.loop(gorp.make(env.spec, config), env, 0, 0, replay.Returns(gorp.Extras, config.discount))
    state = loop.init(jax.random.key(seed))
    step = jax.jit(loop.step)
    for i in range(iterations or env.spec.horizon):
        state, _ = step(state, jnp.int32(i), ())
    return state.agent


@pytest.mark.parametrize("k", [1, 2, 3])
def test_succeeds_with_k_min_and_fails_with_one_less(k):
    mdp = tabular.trap(k)
    right = [1] * k
    assert found(gorp.Config(k=k, episodes=20), mdp, 0).actions.tolist() == right
    if k > 1:
        assert found(gorp.Config(k=k - 1, episodes=200), mdp, 0).actions[0] == 0


def expected(mdp, prefix, rest):
    """The mean return of all completions of ``prefix`` by uniformly random actions, less what the prefix gives."""
    A = mdp.successor.shape[1]
    totals = []
    for tail in itertools.product(range(A), repeat=mdp.horizon - len(prefix)):
        state, total = 0, 0.0
        for t, a in enumerate([*prefix, *tail]):
            if state >= 0:
                total += mdp.reward[state, a, 0] * (t >= rest)
                state = mdp.successor[state, a, 0]
        totals.append(total)
    return np.mean(totals)


@pytest.mark.parametrize("k", [1, 2])
def test_values_are_those_of_sequences_before_random_actions(k):
    """Against the mean over all completions, for a deterministic MDP with random rewards and ends."""
    rng = np.random.default_rng(0)
    mdp = tabular.deterministic(rng.integers(-1, 5, (5, 2)), rng.normal(size=(5, 2)), 5)
    state = found(gorp.Config(k=k, episodes=20_000), mdp, 1)
    for i in range(mdp.horizon):
        prefix = state.actions[:i].tolist()
        for a in range(2):
            tails = itertools.product(range(2), repeat=min(k, mdp.horizon - i) - 1)
            best = max(expected(mdp, [*prefix, a, *tail], i) for tail in tails)
            assert abs(state.value[i, a] - best) < 0.05
        assert state.actions[i] == state.value[i].argmax()


def test_max_variant_takes_the_best_episode():
    """In the trap with k 2, the best of 50 episodes is 1 behind action 1, though their mean is less than the bait."""
    for pool, first in ((jnp.mean, 0), (jnp.max, 1)):
        assert found(gorp.Config(k=1, episodes=50, pool=pool), tabular.trap(2), 0).actions[0] == first


def test_check_refuses_too_many_sequences():
    spec = tabular.from_mdp(tabular.grid()).spec
    with pytest.raises(InputError, match="4 actions and config.k 12 make 167772160 episodes per iteration"):
        gorp.check(gorp.Config(k=12), spec)


def test_loop_is_the_one_of_episodes():
    assert gorp.loop is loops.episodes
