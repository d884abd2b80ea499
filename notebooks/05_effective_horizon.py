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
# # The effective horizon
#
# Why does an agent fail? Where an environment is a table, one can compute how far ahead a learner must look, and how many
# samples that takes ([arXiv:2304.09853](https://arxiv.org/abs/2304.09853),
# [arXiv:2312.08369](https://arxiv.org/abs/2312.08369)). It takes some minutes on two CPU cores.

# %%
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import rljax
from rljax import envs, horizon, mdp
from rljax.agents import gorp, sqirl
from rljax.envs import tabular

# %% [markdown]
# ## How far ahead?
#
# Q^1 are the values of the random policy, and Q^{k+1} is Q^k after a step of value iteration. `k_min` is the least k for which
# acting greedily on Q^k is optimal: with 1, plain exploration shows the way. The planning window is the same, but begins with
# the rewards alone, as if nothing were known of what follows.

# %%
problems = {
    "chain of 6": tabular.chain(6),
    "tree of 6": tabular.tree(6),
    "grid of 4 x 4": tabular.grid(4),
    "trap of 2": tabular.trap(2),
    "trap of 3": tabular.trap(3),
}
found = {name: horizon.analyze(problem) for name, problem in problems.items()}
pd.DataFrame(
    [
        {
            "MDP": name,
            "states": x.num_states,
            "steps": x.horizon,
            "optimal": x.optimal_return,
            "random": round(x.exploration_return, 4),
            "k_min": x.k_min,
            "planning window": x.epw,
            "effective horizon": round(min(b.effective_horizon for b in horizon.gorp_bounds(problems[name])), 2),
        }
        for name, x in found.items()
    ]
)

# %% [markdown]
# Chains, trees and grids have their only reward far away, and yet k_min 1: the random policy finds it now and then, and its
# values point the way. How seldom it does is what the effective horizon counts. The trap pays 0.75 at once, and 1 to those who
# open all locks; the random policy opens them too seldom, so that k_min is the number of steps.

# %%
figure = Figure(figsize=(9, 3), layout="constrained")
for axes, name in zip(figure.subplots(1, 2), ("chain of 6", "trap of 3"), strict=True):
    axes.plot(found[name].optimal_value, marker="o", label="optimal")
    axes.plot(found[name].exploration_value, marker="o", label="random")
    axes.set(title=name, xlabel="step", ylabel="value ahead")
    axes.legend(frameon=False)
figure

# %% [markdown]
# ## With k, and with one less
#
# SQIRL regresses Q^1 on returns of random actions, and k - 1 steps of Q-iteration on what it has, one step of the episode after
# the other. With k = k_min it finds the optimum of the trap; with k - 1 it takes the bait, however long it trains.

# %%
env = tabular.from_mdp(problems["trap of 3"])
for k in (2, 3):
    config = sqirl.Config(lr=1e-3, k=k, episodes=200, epochs=200)
    result = rljax.train(sqirl, config, env, seeds=3, steps=1_800, eval_every=600)
    print(f"k = {k}:", [row["eval/return"] for row in result.rows if row["kind"] == "eval" and row["step"] == result.step])

# %% [markdown]
# GORP needs no network: it tries all sequences of k actions, each followed by random ones, and keeps the first action of the
# best. The number of episodes that it needs is what the effective horizon bounds.

# %%
env = tabular.from_mdp(problems["tree of 6"])
successes = {}
for episodes in (4, 16, 64, 256):
    config = gorp.Config(k=1, episodes=episodes)
    stride = 2 * episodes * env.spec.horizon
    result = rljax.train(gorp, config, env, seeds=20, steps=6 * stride, eval_every=6 * stride, eval_episodes=1)
    successes[episodes] = np.mean(
        [row["eval/return"] for row in result.rows if row["step"] == result.step and row["kind"] == "eval"]
    )
successes

# %% [markdown]
# ## Sticky actions
#
# If the action before is repeated now and then, the environment is random, and a sequence of actions is no policy. The lifted
# MDP has the action before in its states.

# %%
sticky = horizon.analyze(mdp.sticky(problems["grid of 4 x 4"], 0.25))
print(f"{sticky.num_states} states, optimal {sticky.optimal_return:.3f}, random {sticky.exploration_return:.3f}")
print(f"k_min {sticky.k_min}, planning window {sticky.epw}")

# %% [markdown]
# ## An environment of a library
#
# Any deterministic environment with few states becomes a table by trying everything in it. DeepSea, known as hard to explore,
# is one of 8 x 8 cells here; its clock is no part of what tells its states apart.

# %%
table, obs = tabular.from_env(envs.make("gymnax/DeepSea-bsuite"), identify=lambda s: (s.row, s.column, s.action_mapping))
deep = horizon.analyze(table)
bound = horizon.gorp_bounds(table, max_k=1)[0]
print(f"{len(obs)} states, k_min {deep.k_min}, planning window {deep.epw}, effective horizon {bound.effective_horizon:.2f}")
