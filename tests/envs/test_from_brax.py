"""Brax through the adapter: the contract, fresh starts, true successors, and one program for all steps."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from rljax import envs
from rljax.envs import from_brax

CASES = [(i, backend) for i in from_brax.ids() for backend in from_brax.BACKENDS]
FEW = [("inverted_pendulum", "spring")]


@pytest.mark.parametrize(("name", "backend"), [c if c in FEW else pytest.param(*c, marks=pytest.mark.slow) for c in CASES])
def test_keeps_the_contract(name, backend):
    envs.check(envs.make(f"brax/{name}", backend=backend))


def test_nothing_compiles_twice_and_starts_are_fresh(compilations):
    """Brax's own state is weakly typed in places; here a second step finds the first's program."""
    env = envs.make("brax/inverted_pendulum?horizon=3", 2)
    reset, step = jax.jit(env.reset), jax.jit(env.step)
    state, first = reset(jax.random.key(0))
    starts = [first]
    action = np.zeros((2, 1), np.float32)
    state, out = step(state, action, jax.random.key(1))
    with compilations() as names:
        for i in range(2, 13):
            state, out = step(state, action, jax.random.key(i))
            if np.asarray(out.truncated).any():
                starts.append(out.obs)
    assert names == [] and len(starts) == 5
    assert len(np.unique(np.concatenate(starts), axis=0)) == 10


def test_terminal_observation_is_the_true_one():
    """The pendulum's episode ends beyond 0.2 rad: ``next_obs`` lies there, ``obs`` near the upright start."""
    env = envs.make("brax/inverted_pendulum", 16)

    def body(state, key):
        return env.step(state, np.ones((16, 1), np.float32), key)

    run = jax.jit(lambda key: jax.lax.scan(body, env.reset(key)[0], jax.random.split(key, 40))[1])
    steps = jax.tree.map(np.asarray, run(jax.random.key(0)))
    done = steps.terminated
    assert done.sum() > 16 and not steps.truncated.any()
    assert (np.abs(steps.next_obs[done][:, 1]) > 0.2).all() and (np.abs(steps.obs[done]) <= 0.011).all()
    assert (np.abs(steps.next_obs[~done][:, 1]) <= 0.2).all()


def test_loading_is_silent_and_leaves_no_file(tmp_path, monkeypatch, capfd, recwarn):
    """Neither Brax's notice, nor MuJoCo's warning, nor MUJOCO_LOG.TXT."""
    monkeypatch.chdir(tmp_path)
    from_brax.load.__wrapped__("inverted_pendulum", "spring")
    out, err = capfd.readouterr()
    assert "warp" not in out + err and "WARNING" not in out + err
    assert not [w for w in recwarn if "actively" in str(w.message)]
    assert not list(tmp_path.iterdir())
