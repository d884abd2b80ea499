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
# # From offline to online
#
# A policy is trained on recorded data, and goes on learning by itself: with the data, without it, with and without a warm-up.
# It takes some minutes on two CPU cores.

# %%
import jax
import numpy as np
from matplotlib.figure import Figure

import rljax
from rljax import envs, statistics
from rljax.agents import calql, sac, wsrl
from rljax.experiments import presets, report
from rljax.experiments.collect import collect

# %% [markdown]
# ## Data, and a run on it
#
# The data are what a short run of SAC has kept in its replay: bad episodes first, better ones later.

# %%
preset = presets.find("sac", "pendulum")
rljax.train(sac, preset.config, "pendulum", seeds=1, steps=4_000, out="runs/medium", fresh=True)
data = collect(envs.make("pendulum"), medium="runs/medium", kinds=["medium-replay"])["medium-replay"]
print(f"{len(data.returns)} episodes, returns {data.returns.min():.0f} to {data.returns.max():.0f}")

# %% [markdown]
# Cal-QL learns from it, with the networks that WSRL will go on with: an ensemble of critics with LayerNorm.

# %%
online = presets.find("wsrl", "pendulum").config
counts = {"seeds": 2, "eval_every": 500, "eval_episodes": 10}
config = presets.carried(presets.find("calql", "pendulum").config, online)
offline = rljax.train(calql, config, "pendulum", data=data, steps=2_000, **counts)

# %% [markdown]
# ## The switch
#
# `Start` says where a run begins: with all networks, targets and optimisers of the run before, and with env steps of its frozen
# policy. During these nothing changes, to the last bit.

# %%
start = rljax.Start(offline, warmup=500)
config = presets.carried(online, offline.setup.configs[0])
frozen = rljax.train(wsrl, config, "pendulum", start=start, steps=500, **counts)
before, after = offline.state, frozen.state
jax.tree.map(
    np.testing.assert_array_equal, (before.actor, before.critic, before.target), (after.actor, after.critic, after.target)
)

# %% [markdown]
# WSRL with its warm-up, and without:

# %%
results = {"WSRL": rljax.train(wsrl, config, "pendulum", start=start, steps=1_500, **counts)}

# %%
at_once = rljax.Start(offline, warmup=0)
results["WSRL, no warm-up"] = rljax.train(wsrl, config, "pendulum", start=at_once, steps=1_500, **counts)

# %% [markdown]
# And Cal-QL, that keeps half of every batch from the data:

# %%
retained = rljax.Start(offline, retain=0.5)
results["Cal-QL, half retained"] = rljax.train(
    calql, offline.setup.configs[0], "pendulum", data=data, start=retained, steps=1_500, **counts
)

# %%
figure = Figure(figsize=(7, 4), layout="constrained")
axes = figure.subplots()
for name, result in results.items():
    frame = report.scores(result.rows)
    axes.plot(frame.index, statistics.iqm(frame.to_numpy()), label=name)
axes.set(xlabel="env steps after the switch", ylabel="IQM of the evaluation return")
axes.legend(frameon=False)
figure

# %% [markdown]
# Two seeds and a few thousand steps show how it is done, not which is better; for that there is
# `python -m rljax.experiments.studies.online`. The same from the command line:
#
# ```bash
# rljax finetune wsrl pendulum --data FILE --seeds 2
# ```
