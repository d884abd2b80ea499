"""No compiled loop copies a replay: what is in memory at once is little more than one of each learner."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import pytest

from rljax import envs, loops, replay
from rljax.agents import calql, dqn, drama, sac
from rljax.config import override, stack
from rljax.world_model import Size

OPTIMIZED = True  # the programs are those of a run
SIZES = {"actor_width": 8, "critic_width": 8, "actor_depth": 1, "critic_depth": 1, "batch_size": 8}
SIZE = Size(width=16, hidden=16, groups=4, classes=4, actor_width=16, critic_width=16)
DREAM = {"size": SIZE, "starts": 4, "length": 6, "batch_size": 2, "every": 2}


def returns(config):
    return replay.Returns(calql.Extras, config.discount)


CASES = {
    "one": (sac, SIZES, "pendulum", 1, loops.online, None),
    "two seeds": (sac, SIZES, "pendulum", 2, loops.online, None),
    "returns": (calql, SIZES, "pendulum", 1, loops.online, returns),
    "windows": (
        dqn,
        {"critic_width": 8, "critic_depth": 1, "batch_size": 8, "n_step": 3},
        "gymnax/CartPole-v1",
        1,
        loops.online,
        None,
    ),
    "sequences": (drama, DREAM, "gymnax/Breakout-MinAtar", 1, loops.sequences, None),
    "warm-up": (sac, SIZES, "pendulum", 1, loops.warm_up, None),
}
SLOW = {"returns", "sequences"}


@pytest.mark.parametrize("num_envs", [1, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", [pytest.param(case, marks=[pytest.mark.slow] * (case in SLOW)) for case in CASES])
def test_a_replay_is_never_copied(case, num_envs):
    module, changes, name, seeds, kind, of = CASES[case]
    env, config = envs.make(name, num_envs), override(module.Config(), changes)

    def build(config):
        extra = () if of is None else (of(config),)
        return kind(module.make(env.spec, config), env, 8, 2_000_000, *extra)

    stacked = stack([config] * seeds)
    state = jax.eval_shape(lambda c: jax.vmap(lambda c: build(c).init(jax.random.key(0)))(c), stacked)
    ring = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves((state.ring, state.extras)))
    chunk = jax.jit(partial(loops.run, build), donate_argnums=1)
    compiled = chunk.lower(stacked, state, jnp.ones(seeds, bool), jnp.int32(0), jnp.int32(1), ()).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 0.15 * ring
