# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A first run
#
# Train four seeds of SAC on a pendulum in one compiled program, look at the curve, change a number, take one seed's agent
# out, and call `sac.update` in a loop of your own. It takes about two minutes on two CPU cores.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

import rljax
from rljax import envs, replay
from rljax.agents import sac
from rljax.base import Batch, Transition, random_action
from rljax.config import override
from rljax.experiments import presets

# %% [markdown]
# ## Train
#
# A config is a frozen dataclass. The preset for the pendulum has small networks; steps are env steps per seed.

# %%
config = presets.find("sac", "pendulum").config
config

# %%
result = rljax.train(sac, config, "pendulum", seeds=4, steps=8_000, eval_every=1_000)

# %% [markdown]
# Thin lines are seeds; the thick one is their interquartile mean with its 95 % bootstrap interval. A return above -200 is a
# pendulum that stands.

# %%
result.plot()

# %% [markdown]
# `result.rows` are the rows of `metrics.jsonl`: one per step and seed.

# %%
result.rows[-1]

# %% [markdown]
# ## Change a number
#
# Numbers are arguments of the compiled program, so a new step size compiles nothing. Several configs train side by side.

# %%
slow = override(config, {"actor_lr": 1e-4, "critic_lr": 1e-4})
both = rljax.train(sac, [config, slow], "pendulum", seeds=2, steps=4_000, eval_every=1_000)
both.plot()

# %% [markdown]
# ## One seed's agent
#
# `policy` takes observations and gives actions in the environment's own units (here a torque within 2 N m); `agent` gives the
# functions and the learned state behind it.

# %%
policy = result.policy(0)
policy([1.0, 0.0, 0.0]), policy([[0.0, 1.0, 0.0], [0.0, -1.0, 0.0]])

# %%
env = envs.make("pendulum", num_envs=1)
agent, state = result.agent(0)


def swing(carry, key):
    """One step of the greedy policy; the cosine of the angle is 1 when the pendulum stands."""
    env_state, obs = carry
    action, _ = agent.mode(state, (), obs)
    env_state, step = env.step(env_state, action, key)
    return (env_state, step.obs), obs[0, 0]


_, cosine = jax.lax.scan(swing, env.reset(jax.random.key(1)), jax.random.split(jax.random.key(2), 200))
plt.plot(cosine)
plt.xlabel("env step")
plt.ylabel("cos(angle)")

# %% [markdown]
# ## A loop of your own
#
# An agent is `init`, `act`, `mode` and `update` on explicit state. Here is online training by hand: step, remember, sample,
# update; `scan` compiles it and `vmap` runs it for several seeds.

# %%
env = envs.make("pendulum", num_envs=4)
mine = sac.make(env.spec, config)


def observe(env_state, obs, action, key):
    """``(env_state, obs to act on, transitions to learn from)``."""
    env_state, step = env.step(env_state, action, key)
    return env_state, step.obs, Transition(obs, action, step.reward, step.next_obs, step.terminated, step.truncated)


def iteration(carry, t):
    """Four env steps and one update."""
    state, env_state, obs, ring, key = carry
    key, key_act, key_env, key_sample, key_update = jax.random.split(key, 5)
    action, _ = mine.act(state, (), obs, key_act)
    env_state, obs, row = observe(env_state, obs, action, key_env)
    ring = replay.add(ring, row, t)
    batch = Batch(replay.sample(ring, t + 1, key_sample, (mine.batches, 128), num_envs=4))
    state, metrics = mine.update(state, batch, key_update)
    return (state, env_state, obs, ring, key), (metrics["critic/loss"], row.reward.mean())


def run(key):
    """2 000 iterations from scratch."""
    key, key_agent, key_env, key_act, key_step = jax.random.split(key, 5)
    env_state, obs = env.reset(key_env)
    _, _, row = observe(env_state, obs, random_action(env.spec.action, key_act, 4), key_step)
    carry = (mine.init(key_agent), env_state, obs, replay.init(row, capacity=8_000), key)
    return jax.lax.scan(iteration, carry, jnp.arange(2_000))[1]


losses, rewards = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), 2))
plt.plot(rewards.reshape(2, 20, 100).mean(-1).T)
plt.xlabel("hundred iterations")
plt.ylabel("mean reward")
