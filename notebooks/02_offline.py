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
# # Recorded data
#
# Make a data set in which one step in ten comes from a good policy, look at it, learn from it with and without trajectory
# weighting, and call an offline agent's `update` yourself. It takes about three minutes on two CPU cores.

# %%
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import rljax
from rljax import data, envs, statistics
from rljax.agents import bc, sac, td3_bc
from rljax.base import Batch, Transition
from rljax.data import weights
from rljax.data.summary import summary
from rljax.experiments import presets, report
from rljax.experiments.collect import collect

folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## A data set
#
# `data.load` reads D4RL, d3rlpy, Minari and OGBench files. Here we make our own, as D4RL's were made: train a policy, then
# record random actions and the policy's. On the command line this is `rljax collect`.

# %%
config = presets.find("sac", "pendulum").config
expert = rljax.train(sac, config, "pendulum", seeds=1, steps=6_000, eval_every=3_000, out=folder / "expert")

# %%
mixture = {"random": 0.9, "expert": 0.1}
made = collect(envs.make("pendulum"), folder / "expert", kinds=["random"], steps=20_000, mix=mixture)
mixed = made["random-90-expert-10"]
data.save(mixed, folder / "mixed.hdf5")
print(report.dataset_table(summary(data.load(folder / "mixed.hdf5"))))

# %%
report.dataset_figure(mixed)

# %% [markdown]
# ## Learn from it
#
# `steps` are now gradient steps, and the environment is only for evaluation. Cloning everything clones the random policy;
# cloning with advantage weights (AW) clones the good episodes, which the sampler draws more often.

# %%
print("effective episodes under AW:", weights.effective_episodes(weights.aw(mixed, 0.1)))

runs = {}
for sampling in ("uniform", "aw:0.1"):
    config = presets.find("bc", "pendulum", mixed).config
    runs[sampling] = rljax.train(bc, config, "pendulum", data=mixed, sampling=sampling, seeds=3, steps=4_000, eval_every=2_000)

# %%
for sampling, run in runs.items():
    last = [row["eval/return"] for row in run.rows if row["kind"] == "eval" and row["step"] == run.step]
    score = data.normalized_score(statistics.iqm(np.array(last)), mixed.info.reference)
    print(f"{sampling:>8}: IQM of the return {statistics.iqm(np.array(last)):7.1f}, normalised {score:5.1f}")

# %% [markdown]
# ## In your own loop
#
# An offline agent's `update` takes a `Batch` [U, B] like any other; TD3+BC takes two batches for one step of its actor. The
# data set goes to the device once. `fit` scales its actions to [-1, 1].

# %%
spec = envs.make("pendulum").spec
agent = td3_bc.make(spec, td3_bc.Config(actor_width=64, critic_width=64))
transition = jax.device_put(data.fit(mixed, spec).transition)


@jax.jit
def run(key, transition: Transition):
    def step(state, key):
        key_sample, key_update = jax.random.split(key)
        index = jax.random.randint(key_sample, (agent.batches, 256), 0, transition.reward.shape[0])
        return agent.update(state, Batch(jax.tree.map(lambda x: x[index], transition)), key_update)

    key_init, key = jax.random.split(key)
    return jax.lax.scan(step, agent.init(key_init), jax.random.split(key, 500))


state, metrics = run(jax.random.key(0), transition)
jnp.stack([metrics["critic/loss"][::100], metrics["actor/cloning"][::100]])
