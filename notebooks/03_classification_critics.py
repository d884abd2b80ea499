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
# # Classification critics
#
# What a categorical head turns a number into, where its support must lie, and SAC with and without one. It takes about four
# minutes on two CPU cores.

# %%
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import rljax
from rljax import heads, statistics
from rljax.agents import sac
from rljax.config import grid, override
from rljax.experiments import presets, report

# %% [markdown]
# ## A number as a distribution
#
# A head has `size` outputs per value. Its loss is a cross-entropy towards the distribution that stands for the target, minus
# that distribution's own entropy, so that 0 is the best there is. Two-hot puts all weight on the two nearest atoms, HL-Gauss
# takes a Gaussian's mass in each bin.

# %%
target = jnp.array([-1.0, 0.1, 3.3])
figure = Figure(figsize=(8, 2.5), layout="constrained")
for axes, head in zip(
    figure.subplots(1, 2), (heads.TwoHot(-5.0, 5.0, bins=31), heads.HLGauss(-5.0, 5.0, bins=31)), strict=True
):
    for row in head.probabilities(target):
        axes.stem(np.arange(head.size), np.asarray(row))
    axes.set(title=type(head).__name__, xlabel="bin")
figure

# %% [markdown]
# Both decode to the number they were made of. At an end of the support the truncated Gaussian does not: it is 0.69 bins short,
# which is why `support_from` pads.

# %%
head = heads.HLGauss(-5.0, 5.0, bins=31)
for y in (0.1, 4.0, 5.0):
    decoded = head.value(jnp.log(head.probabilities(jnp.float32(y)) + 1e-30))
    print(f"{y:4.1f} decodes to {float(decoded):.4f}, {float(y - decoded) / (10 / 31):.2f} bins off")

# %% [markdown]
# ## A support
#
# From the smallest and largest reward of a step, or from a data set. Rewards of the pendulum are between -16.3 and 0.

# %%
low, high = heads.support_from((-16.28, 0.0), discount=0.99)
low, high

# %% [markdown]
# Logits of zero would stand for the middle of the support, -814. `initial` is the value that the network starts near instead:
# 0 unless you say otherwise, as with regression.

# %%
head = heads.HLGauss(low, high)
head.value(jnp.zeros(head.size)), head.value(head.bias())

# %% [markdown]
# ## SAC with and without
#
# The head is the only change. Its numbers are leaves of the config, so several supports, or several deviations, are learners of
# one program: three heads are three programs, and these four configs of HL-Gauss one.

# %%
preset = presets.find("sac", "pendulum").config
plain = rljax.train(sac, preset, "pendulum", seeds=3, steps=6_000, eval_every=2_000)

# %%
gauss = override(preset, {"head": head})
configs = grid(gauss, **{"head.sigma": [0.55, 0.75], "head.low": [low, low / 10]})
classified = rljax.train(sac, configs, "pendulum", seeds=3, steps=6_000, eval_every=2_000)

# %%
scores = report.scores(classified.rows).iloc[-1]
print(f"scalar                  : IQM {statistics.iqm(report.scores(plain.rows).iloc[-1]):7.1f}")
for i, config in enumerate(configs):
    print(f"sigma {config.head.sigma:.2f}, low {config.head.low:7.1f}: IQM {statistics.iqm(scores[i]):7.1f}")

# %%
classified.plot()

# %% [markdown]
# The narrow support is too small: returns of this task reach -1600. The run has said so, and the metric shows it.

# %%
last = [row for row in classified.rows if row["kind"] == "train"][-len(configs) * 3 :]
for i, config in enumerate(configs):
    share = np.mean([row["critic/clipped"] for row in last if row["config"] == i])
    print(f"low {config.head.low:7.1f}: {100 * share:.1f} % of the last targets were clipped")

# %% [markdown]
# ## In your own loss
#
# A head is a pytree with functions, so it goes anywhere a JAX function goes.

# %%
logits = jax.random.normal(jax.random.key(0), (4, head.size))
loss, gradient = jax.value_and_grad(lambda x: head.loss(x, jnp.array([-900.0, -10.0, 0.0, 5.0])).mean())(logits)
float(loss), head.value(logits), jnp.abs(gradient.sum(-1)).max()
