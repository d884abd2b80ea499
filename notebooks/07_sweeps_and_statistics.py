# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Sweeps and statistics
#
# Many settings with many seeds in one program, and what can be said of them afterwards: which is better, and how sure that is.
# It takes about four minutes on two CPU cores.

# %%
import html
import tempfile
from pathlib import Path

import numpy as np
from IPython.display import HTML
from matplotlib.figure import Figure

from rljax import statistics
from rljax.experiments import page, report, sweep, train
from rljax.experiments.sweep import Run

out = Path(tempfile.mkdtemp()) / "study"

# %% [markdown]
# ## A study
#
# Each `Run` is an agent on an environment with all combinations of the values in its grid, and all seeds. Numbers become one
# program, however many; what shapes a program, such as a width, takes one each. Nothing is trained yet.

# %%
runs = [
    Run(
        "sac",
        "pendulum",
        grid={"actor_lr": [1e-4, 1e-3, 3e-3], "critic_width": [16, 64]},
        seeds=8,
        steps=6_000,
        eval_every=1_000,
    )
]
programs = sweep.plan(runs)
print("\n".join(sweep.said(programs, out)))

# %%
table = sweep.sweep(runs, out)
table

# %% [markdown]
# Each row has the interquartile mean of its seeds' last returns (the mean without the lowest and the highest quarter), and an
# interval from the bootstrap. A seed that diverged is counted, and never dropped in silence. The same call again trains
# nothing, for all of it is in the folder; a study that was stopped or killed goes on the same way.

# %%
sweep.sweep(runs, out).equals(table)

# %% [markdown]
# ## How many seeds?
#
# Draw some of the eight seeds again and again, and see how far the IQM of a few seeds is from that of all.

# %%
folder = out / programs[1].folder
scores = report.scores(train.read_rows(folder)).iloc[-1].unstack("seed").to_numpy()  # [config, seed]
rng, row = np.random.default_rng(0), scores[1]
for number in (1, 2, 4, 8):
    draws = statistics.iqm(row[rng.integers(0, 8, (2_000, number))])
    print(
        f"{number} seeds: 95 % of the IQMs lie between {np.percentile(draws, 2.5):7.1f} and {np.percentile(draws, 97.5):7.1f}"
    )

# %% [markdown]
# ## Which is better?
#
# The probability that a run of one setting has a higher return than a run of the other (the Mann-Whitney statistic), with its
# interval. An interval that holds 0.5 says that these seeds do not decide it.

# %%
for i, j in ((1, 0), (1, 2)):
    x, y = scores[i][None], scores[j][None]  # [task, seed], of one task
    low, high = statistics.stratified(statistics.improvement, x, y)
    rates = [programs[1].varied[k]["actor_lr"] for k in (i, j)]
    print(f"P(actor_lr {rates[0]:g} > {rates[1]:g}) = {statistics.improvement(x, y):.2f}, between {low:.2f} and {high:.2f}")

# %% [markdown]
# ## The whole distribution
#
# A performance profile says which share of the runs is above each return. It hides neither a few
# that failed, nor a few lucky ones.

# %%
figure = Figure(figsize=(6, 3), layout="constrained")
axes = figure.subplots()
thresholds = np.linspace(-1_600, -100, 200)
for program in programs:
    found = report.scores(train.read_rows(out / program.folder)).iloc[-1].unstack("seed").to_numpy()
    for varied, x in zip(program.varied, found, strict=True):
        axes.plot(thresholds, statistics.profile(x[None], thresholds), label=", ".join(f"{k} {v:g}" for k, v in varied.items()))
axes.set(xlabel="return", ylabel="share of runs above")
axes.legend(fontsize="small")
figure

# %% [markdown]
# ## A page for others
#
# `rljax report FOLDER` writes all this, with curves, raw scores and differences of configs, into one file that needs no
# network.

# %%
text = page.page([out])
(out / "report.html").write_text(text)
print(f"{len(text) / 1e3:.0f} kB")
HTML(f'<iframe srcdoc="{html.escape(text)}" width="100%" height="500"></iframe>')
