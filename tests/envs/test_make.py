"""Names, options and sizes of environments."""

from __future__ import annotations

import pytest

from rljax import envs
from rljax.base import InputError


@pytest.mark.parametrize(
    ("name", "options", "full"),
    [
        ("pendulum", {}, "pendulum"),
        ("pendulum?horizon=200", {}, "pendulum"),
        ("pendulum", {"horizon": 50}, "pendulum?horizon=50"),
        ("maze/umaze?horizon=150", {}, "maze/umaze"),
        ("maze/open", {"horizon": 150}, "maze/open?horizon=150"),
        ("gymnax/CartPole-v1?horizon=70", {}, "gymnax/CartPole-v1?horizon=70"),
        ("brax/inverted_pendulum", {"backend": "spring", "horizon": 90}, "brax/inverted_pendulum?backend=spring&horizon=90"),
        ("brax/inverted_pendulum?backend=generalized", {}, "brax/inverted_pendulum"),
    ],
)
def test_options_stand_in_the_name_or_beside_it(name, options, full):
    """The env's name holds those that are not defaults, and makes the same object again."""
    env = envs.make(name, 3, **options)
    assert env.name == full and env.num_envs == 3
    assert envs.make(full, num_envs=3) is env
    assert env.resize(5) is envs.make(full, 5) and env.resize(5).spec == env.spec


def test_horizon_is_the_time_limit():
    assert envs.make("pendulum").spec.horizon == 200
    assert envs.make("maze/medium").spec.horizon == 250
    assert envs.make("gymnax/CartPole-v1").spec.horizon == 500
    assert envs.make("brax/inverted_pendulum?horizon=7").spec.horizon == 7


@pytest.mark.parametrize(
    ("name", "num_envs", "options", "sentence"),
    [
        ("pendulun", 1, {}, "unknown environment 'pendulun': did you mean pendulum?"),
        ("gymnax/cartpole", 1, {}, "did you mean gymnax/CartPole-v1?"),
        ("zzz", 1, {}, "see `rljax envs`"),
        ("pendulum/x", 1, {}, "unknown environment 'pendulum/x'"),
        ("maze", 1, {}, "unknown environment 'maze'"),
        ("maze/u-maze", 1, {}, "did you mean maze/umaze?"),
        ("brax/", 1, {}, "unknown environment 'brax/'"),
        ("brax/swimmer", 1, {}, "brax/swimmer is not supported"),
        ("gymnax/MNISTBandit-bsuite", 1, {}, "it downloads its images"),
        ("pendulum", 0, {}, "num_envs must be at least 1 and below 2147483648, got 0"),
        ("pendulum?gravity=9", 1, {}, "pendulum has no option 'gravity': it knows horizon"),
        ("maze/open?goal=1", 1, {}, "maze/open has no option 'goal': it knows horizon"),
        ("pendulum", 1, {"backend": "spring"}, "pendulum has no option 'backend'"),
        ("pendulum", "2", {}, "num_envs must be a whole number, got str"),
        ("pendulum", True, {}, "num_envs must be a whole number, got bool"),
        ("pendulum", 2**31, {}, "num_envs must be at least 1 and below 2147483648"),
        (None, 1, {}, "an environment's name must be text, got NoneType"),
        ("pendulum?horizon=0", 1, {}, "must be a whole number of env steps above 0 and below 2147483648, got '0'"),
        ("pendulum?horizon=2147483648", 1, {}, "got '2147483648'"),
        ("recall?shown=99999999999999999999999", 1, {}, "shown of recall must be a whole number above 0"),
        ("tabular/chain?length=1000000000", 1, {}, "more than 1000000 pairs of a state and an action is too large"),
        ("tabular/tree?depth=1000000000", 1, {}, "is too large"),
        ("tabular/grid?size=1000000", 1, {}, "is too large"),
        ("tabular/trap?k=3&actions=1000000000", 1, {}, "is too large"),
        ("pendulum?horizon=ten", 1, {}, "got 'ten'"),
        ("pendulum?horizon=", 1, {}, "got ''"),
        ("brax/hopper?backend=warp", 1, {}, "unknown backend 'warp' of brax/hopper: choose generalized"),
    ],
)
def test_mistakes_are_one_sentence(name, num_envs, options, sentence):
    with pytest.raises(InputError) as error:
        envs.make(name, num_envs, **options)
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_names_are_all_that_can_be_made():
    names = envs.names()
    assert len(names) == len(set(names)) and {"pendulum", "maze/umaze", "brax/ant", "gymnax/Breakout-MinAtar"} <= set(names)
    assert not {"brax/swimmer", "gymnax/MNISTBandit-bsuite"} & set(names)
