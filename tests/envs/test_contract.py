"""`check` finds each fault that it promises to find, says so in words, and passes what is right."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import envs
from rljax.base import Array, Discrete, Env, InputError, Spec, Step, batch_env, where

HORIZON = 20
SPEC = Spec(Array((2,)), Array((1,), "float32", -1.0, 1.0), HORIZON)


class State(NamedTuple):
    """Position [E] and the env steps of the current episode [E]."""

    x: jax.Array
    age: jax.Array


def toy(change=lambda step, state: (state, step), spec=SPEC, reset=None, resize=None, n=4):
    """A hand-made `Env` that is right: a walk that terminates beyond 3; ``change`` spoils what step returns."""

    def start(key):
        x = jax.random.uniform(key, (n,), minval=-1.0)
        return State(x, jnp.zeros(n, jnp.int32)), observe(x)

    def observe(x):
        return jnp.stack([x, x**2], -1)

    reset = reset(n) if reset else start

    def step(state, action, key):
        x, age = state.x + action[:, 0], state.age + 1
        terminated = jnp.abs(x) > 3
        truncated = (age >= HORIZON) & ~terminated
        fresh, obs = reset(key)
        done = terminated | truncated
        out = Step(where(done, obs, observe(x)), x, observe(x), terminated, truncated)
        new, out = change(out, where(done, fresh, State(x, age)))
        return new, out

    return Env(spec, reset, step, n, resize or (lambda m: toy(change, spec, reset_of(reset, n), resize, m)), "toy")


def reset_of(reset, n):
    """Resets of another size from the same rule; only for toys whose own reset was not given."""
    return getattr(reset, "sized", None)


def sized(rule):
    """``reset`` for a toy from ``rule(key, n) -> x [n]``."""

    def make(n):
        def reset(key):
            x = rule(key, n)
            return State(x, jnp.zeros(n, jnp.int32)), jnp.stack([x, x**2], -1)

        reset.sized = make
        return reset

    return make


def ended(step):
    return (step.terminated | step.truncated)[:, None]


@pytest.mark.parametrize("name", ["pendulum", "maze/open", "gymnax/CartPole-v1", "gymnax/Catch-bsuite"])
def test_good_envs_pass(name):
    envs.check(envs.make(name, 2))


def test_a_hand_made_env_passes():
    envs.check(toy())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda step, s: (s, step._replace(reward=step.reward[:, None])), "reward has shape (8, 1), must be (8,)"),
        (lambda step, s: (s, step._replace(reward=step.reward.astype(jnp.float16))), "reward has dtype float16"),
        (lambda step, s: (s, step._replace(terminated=step.terminated.astype(float))), "terminated has dtype float32"),
        (lambda step, s: (s, step._replace(next_obs=step.next_obs[:, :1])), "next_obs of step has shape (8, 1)"),
        (lambda step, s: (s._replace(age=s.age.astype(float)), step), "env_state.age of step has dtype float32"),
        (lambda step, s: (s._replace(x=s.x[0]), step), "env_state.x of step has shape ()"),
        (lambda step, s: (tuple(s), step), "env_state of step has another structure"),
        (lambda step, s: (s, tuple(step)), "step must return (env_state, Step)"),
        (lambda step, s: (s, step._replace(reward=jnp.where(step.reward > 2, jnp.nan, step.reward))), "reward is NaN"),
        (lambda step, s: (s, step._replace(truncated=step.truncated | step.terminated)), "are both set"),
        (lambda step, s: (s, step._replace(truncated=step.truncated & False)), "truncated is not set at step 20"),
        (lambda step, s: (s, step._replace(next_obs=step.obs)), "is the observation of the reset"),
        (lambda step, s: (s, step._replace(obs=step.next_obs)), "is unlike those that reset gives"),
        (lambda step, s: (s, step._replace(obs=step.obs + 1e-3)), "obs differs from next_obs although no episode ended"),
        (
            lambda step, s: (s, step._replace(reward=step.reward + np.random.default_rng().normal())),
            "step is not pure",
        ),
    ],
)
def test_faults_of_step(change, sentence):
    with pytest.raises(InputError) as error:
        envs.check(toy(change))
    assert sentence in str(error.value) and str(error.value).startswith("toy breaks the contract")


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        (lambda key, n: jnp.zeros(n), "every episode starts with the same observation"),
        (lambda key, n: jnp.full(n, jax.random.uniform(key)), "all copies start with the same observation"),
        (lambda key, n: jnp.arange(n) / n, "reset gives the same observations for every key"),
        (lambda key, n: jax.random.uniform(key, (n,)) / 0.0, "obs of reset is NaN or infinite"),
        (lambda key, n: jax.random.uniform(key, (n, 2))[:, 0].astype(jnp.float16), "obs of reset has dtype float16"),
    ],
)
def test_faults_of_reset(rule, sentence):
    with pytest.raises(InputError) as error:
        envs.check(toy(reset=sized(rule)))
    assert sentence in str(error.value)


def test_equal_starts_can_be_meant():
    envs.check(toy(reset=sized(lambda key, n: jnp.zeros(n))), fixed_start=True)


def test_cached_first_state_is_found():
    """What Brax's training wrapper does: each copy returns to the state that it began with."""

    def cached(n):
        def reset(key):
            x = jax.random.uniform(key, (n,), minval=-1.0)
            return (State(x, jnp.zeros(n, jnp.int32)), x), jnp.stack([x, x**2], -1)

        def step(state, action, key):
            (x, age), first = state
            x, age = x + action[:, 0], age + 1
            terminated = jnp.abs(x) > 3
            truncated = (age >= HORIZON) & ~terminated
            done = terminated | truncated
            next_obs = jnp.stack([x, x**2], -1)
            obs = where(done, jnp.stack([first, first**2], -1), next_obs)
            state = State(jnp.where(done, first, x), jnp.where(done, 0, age)), first
            return state, Step(obs, x, next_obs, terminated, truncated)

        return Env(SPEC, reset, step, n, cached, "cached")

    with pytest.raises(InputError, match="starts again from its own first observation"):
        envs.check(cached(2))


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (Spec(SPEC.obs, SPEC.action, 0), "spec.horizon is 0"),
        (Spec(Array((2,), "float32", [0.0, 1.0], 1.0), SPEC.action, HORIZON), "spec cannot be hashed"),
        (Spec(Array((2,), "float32", (0.0, 1.0, 2.0), 9.0), SPEC.action, HORIZON), "do not fit its shape"),
        (Spec(Array((2,), "float32", 1.0, 0.0), SPEC.action, HORIZON), "a lower bound above its upper bound"),
        (Spec(Array((2,), "float32", -1.0, 1.0), SPEC.action, HORIZON), "leaves the bounds of spec.obs"),
        (Spec(SPEC.obs, Array((1,)), HORIZON), "bounds that are not finite"),
        (Spec(SPEC.obs, Discrete(0), HORIZON), "there must be at least one action"),
        (Spec(SPEC.obs, Array((1,), "float32", 1.0, 1.0), HORIZON), "not below its upper bound"),
        (Spec(SPEC.obs, Array((1, 1), "float32", -1.0, 1.0), HORIZON), "actions are float32 with one axis"),
        (Spec(SPEC.obs, SPEC.action, 25), "truncated is set at step [20]"),
        (Spec(SPEC.obs, SPEC.action, 15), "truncated is not set at step 15"),
    ],
)
def test_faults_of_spec(spec, sentence):
    with pytest.raises(InputError) as error:
        envs.check(toy(spec=spec))
    assert sentence in str(error.value)


def test_resize_must_give_the_number_that_was_asked_for():
    with pytest.raises(InputError, match=r"resize\(8\) gives num_envs 4"):
        envs.check(toy(resize=lambda n: toy()))


def test_weak_types_are_found():
    """A step whose reward is a Python number in disguise compiles twice in a caller's loop."""
    with pytest.raises(InputError, match="reward is weakly typed"):
        envs.check(toy(lambda step, s: (s, step._replace(reward=jnp.where(step.terminated, 1.0, 0.0)))))


def test_batch_env_of_a_user_passes():
    def reset(key):
        x = jax.random.normal(key)
        return x, x[None]

    def step(x, action, key):
        x = x + action[0]
        return x, x[None], -jnp.abs(x), jnp.abs(x) > 5

    envs.check(batch_env(Spec(Array((1,)), SPEC.action, 12), reset, step))
