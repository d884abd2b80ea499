"""What a run says about itself: its table, its curve, a rollout to look at. What a data set says about itself."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from rljax import evaluate, statistics, store
from rljax.base import Env, HostEnv, InputError
from rljax.data import ENDS, Dataset
from rljax.experiments import imagination
from rljax.experiments.setup import checked_rows
from rljax.experiments.train import Result, Rows


def scores(rows: Rows, metric: str = "eval/return") -> pd.DataFrame:
    """``metric`` by step (rows) and learner, ``(config, seed)`` (columns); steps at which any learner has none are left out.

    Raises:
        InputError: if no row has the metric.
    """
    frame = pd.DataFrame([row for row in rows if metric in row])
    if frame.empty:
        known = sorted({key for row in rows for key in row if "/" in key})
        raise InputError(f"the run has no metric {metric!r}: it has {', '.join(known) or 'no rows yet'}")
    return frame.pivot_table(index="step", columns=["config", "seed"], values=metric, dropna=False).astype(float)


def read_before(out: Path) -> Rows:
    """The evaluations before a run that fine-tunes, with steps below 0; none for other runs."""
    path = out / "before.json"
    found = store.read_json(path) if path.exists() else []
    if not isinstance(found, list):
        raise InputError(f"{path} is damaged: restore it, or start anew with --fresh")
    return checked_rows(out, found, "before.json")


def diverged(rows: Rows) -> set[tuple[int, int]]:
    """``(config, seed)`` of the learners that diverged."""
    return {(row["config"], row["seed"]) for row in rows if row.get("diverged")}


def shown(rows: Rows) -> str:
    """The metric that tells most of a run: its evaluation return, or a loss if it was not evaluated."""
    names = [name for row in rows[-1:] for name in row if name.endswith("/loss")]
    return "eval/return" if not names or any("eval/return" in row for row in rows) else names[0]


def table(rows: Rows, metric: str = "eval/return") -> str:
    """Last and best value of each learner, and per config the IQM of the last with its 95 % bootstrap interval.

    A diverged learner is marked, counted, and left out of the IQM.
    """
    frame, dead = scores(rows, metric), diverged(rows)
    what, least = ("evaluation return", False) if metric == "eval/return" else (metric, True)
    lines = [f"{what} at step {frame.index[-1]}", f"{'config':>6} {'seed':>8} {'last':>10} {'best':>10}"]
    for (config, seed), x in frame.items():
        mark = "  diverged" if (config, seed) in dead else ""
        lines.append(f"{config:>6} {seed:>8} {x.iloc[-1]:>10.1f} {x.min() if least else x.max():>10.1f}{mark}")
    return "\n".join(lines + [summary(rows, config, metric) for config in sorted({c for c, _ in frame.columns})])


def summary(rows: Rows, config: int = 0, metric: str = "eval/return") -> str:
    """One line: the IQM of the last evaluation over the seeds of a config, with its interval and what is left out of it."""
    frame, dead = scores(rows, metric)[config], diverged(rows)
    alive = [seed for seed in frame.columns if (config, seed) not in dead]
    num = len(frame.columns)
    note = f"; {num - len(alive)} of {num} diverged" if len(alive) < num else ""
    if not alive:
        return f"config {config}: every seed diverged ({num} of {num})"
    last = frame[alive].iloc[-1].to_numpy()
    if len(last) == 1:
        return f"config {config}: {last[0]:.1f}, one seed, so there is no interval{note}"
    low, high = statistics.interval(last)
    return f"config {config}: IQM {statistics.iqm(last):.1f}, 95 % interval [{low:.1f}, {high:.1f}], {len(last)} seeds{note}"


def switch(rows: Rows) -> str:
    """One line on fine-tuning: the IQM at the switch, and how low and how high it went after it."""
    frame, dead = scores(rows), diverged(rows)
    alive = [learner for learner in frame.columns if learner not in dead]
    if not alive:
        return "every learner diverged"
    iqm = pd.Series(statistics.iqm(frame[alive].to_numpy()), frame.index)
    low, high = iqm.idxmin(), iqm.idxmax()
    return f"from {iqm.iloc[0]:.1f} at the switch, lowest {iqm[low]:.1f} at step {low}, highest {iqm[high]:.1f} at step {high}"


def curve(rows: Rows, metric: str, run: dict[str, Any]) -> Figure:
    """A figure of ``metric`` over steps: a thin line per seed, the IQM with its 95 % interval per config."""
    frame, dead = scores(rows, metric), diverged(rows)
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for config in sorted({c for c, _ in frame.columns}):
        color = f"C{config % 10}"
        for seed, x in frame[config].items():
            axes.plot(frame.index, x, color=color, lw=0.7, alpha=0.45, ls=":" if (config, seed) in dead else "-")
        alive = [seed for seed in frame[config].columns if (config, seed) not in dead]
        if not alive:
            continue
        values = frame[config][alive].to_numpy()
        low, high = statistics.interval(values)
        axes.fill_between(frame.index, low, high, color=color, alpha=0.2, lw=0)
        label = "IQM and 95 % interval" if not isinstance(run["config"], list) else f"config {config}"
        axes.plot(frame.index, statistics.iqm(values), color=color, lw=2, label=label)
    count = frame.shape[1] - len(dead)
    steps = "gradient steps" if rows[-1].get("phase") == "offline" else "env steps"
    if run.get("switch"):
        steps += ", left of 0 gradient steps before the switch" if frame.index[0] < 0 else ""
        axes.axvspan(0, run["switch"]["warmup"], color="0.9", lw=0)
        axes.axvline(0, color="0.3", lw=1, label="switch, and steps without learning")
    axes.set(xlabel=steps, ylabel=metric, title=f"{run['agent']} on {run['env']}, {count} of {frame.shape[1]} seeds")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best", frameon=False)
    axes.grid(alpha=0.3)
    return figure


def save_curve(rows: Rows, run: dict[str, Any], path: Path) -> None:
    """Write `curve` of the metric that is `shown` to ``path`` as PNG."""
    save_png(curve(rows, shown(rows), run), path)


def save_png(figure: Figure, path: Path) -> None:
    """Write ``figure`` to ``path``, whole or not at all."""
    store.write_bytes(path, png(figure))


def png(figure: Figure) -> bytes:
    """``figure`` as the contents of a PNG."""
    contents = io.BytesIO()
    figure.savefig(contents, format="png", dpi=130)
    return contents.getvalue()


def dataset_table(numbers: dict[str, Any]) -> str:
    """A data set's `rljax.data.summary` as text; of states and actions at most 8 elements."""
    n = numbers
    quantiles = "  ".join(f"{q} %: {x:.1f}" for q, x in n["return_quantiles"].items())
    ends = ", ".join(f"{count} {name}" for name, count in n["ends"].items() if count)
    reference = "none" if n["reference"] is None else "random {:.2f}, expert {:.2f}".format(*n["reference"])
    rows = [
        ("data set", f"{n['name']} ({n['format']})"),
        ("episodes", f"{n['episodes']}, of {n['length_min']} to {n['length_max']} steps: {ends}"),
        ("steps", f"{n['steps']}, {n['transitions']} transitions with a known successor, {n['duplicates']} of them duplicates"),
        ("returns", f"mean {n['return_mean']:.2f}, {n['return_min']:.2f} to {n['return_max']:.2f}"),
        ("", quantiles),
        ("rewards", f"{n['reward_min']:.4g} to {n['reward_max']:.4g}"),
        ("actions", f"{n['actions']}, {_some(n['action_min'])} to {_some(n['action_max'])}"),
        ("states", f"shape {tuple(n['obs_shape'])}, mean {_some(n['obs_mean'])}, deviation {_some(n['obs_std'])}"),
        ("reference", reference),
    ]
    return "\n".join(f"{name:<10} {text}" for name, text in rows)


def dataset_figure(dataset: Dataset) -> Figure:
    """A figure of a data set: returns, lengths, rewards, and each episode's return in the order of the file."""
    figure = Figure(figsize=(9, 6), layout="constrained")
    (a, b), (c, d) = figure.subplots(2, 2)
    a.hist(dataset.returns, 50)
    a.set(xlabel="return", ylabel="episodes")
    b.hist(dataset.length, 50)
    b.set(xlabel="length [steps]", ylabel="episodes")
    c.hist(dataset.transition.reward, 50, log=True)
    c.set(xlabel="reward", ylabel="transitions")
    for code, name in enumerate(ENDS):
        which = np.flatnonzero(dataset.end == code)
        if which.size:
            d.plot(which, dataset.returns[which], ".", ms=3, label=name)
    d.set(xlabel="episode", ylabel="return")
    d.legend(frameon=False)
    figure.suptitle(f"{dataset.info.name}: {len(dataset.returns)} episodes, {int(dataset.length.sum())} steps")
    return figure


def _some(values: Any) -> str:
    """At most 8 numbers, short."""
    values = np.atleast_1d(values)
    text = " ".join(f"{x:.3g}" for x in values[:8])
    return f"[{text}{' ...' if len(values) > 8 else ''}]" if len(values) > 1 else text


def play(result: Result, seed: int | None, episodes: int, imagine: bool = False) -> tuple[dict[str, Any], str, bytes]:
    """``(numbers, suffix, contents)`` of ``episodes`` greedy episodes of the learner with this seed: the first is drawn.

    With ``imagine`` the drawing is that of `rljax.experiments.imagination`.

    Raises:
        InputError: if the run has no such seed, or to imagine no world model.
    """
    from rljax.envs.render import render

    seeds = result.setup.seeds
    if seed is not None and seed not in seeds:
        raise InputError(f"the run has no seed {seed}: it has {', '.join(map(str, seeds))}")
    seed = seeds[0] if seed is None else seed
    if result.diverged[seeds.index(seed) * len(result.setup.configs)]:
        raise InputError(f"seed {seed} diverged: there is no policy to play, choose another one with --seed")
    env = result.setup.evaluated
    if env is None:
        raise InputError("play needs an environment, this run was trained with --eval none")
    index, key = seeds.index(seed), jax.random.key(seed)
    drawn = imagination.strip(result, index, key) if imagine else None
    if isinstance(env, Env):
        states, obs, reward, alive = _rollout(result, index, env.resize(episodes), key)
    else:
        states, obs, reward, alive = _host_rollout(result, index, env.resize(episodes), key)
    returns, lengths = np.sum(reward, 0, where=alive), alive.sum(0)
    length = lengths[0]
    states, obs = jax.tree.map(lambda x: x[:length], (states, obs))
    suffix, contents = (".png", png(drawn)) if drawn else render(env, states, np.asarray(obs), reward[:length, 0])
    numbers = {"seed": seed, "returns": returns.tolist(), "lengths": lengths.tolist()}
    return numbers, suffix, contents


def _rollout(result: Result, index: int, env: Env, key: jax.Array) -> tuple[Any, Any, np.ndarray, np.ndarray]:
    """``(states [T, ...], obs [T, ...], reward [T, E], alive [T, E])``; states and observations of the first env."""
    agent, state = result.agent(index)

    @jax.jit
    def run(state: Any, key: jax.Array) -> tuple[Any, jax.Array, jax.Array]:
        states, obs, steps = evaluate.rollout(agent, env, state, key)
        drawn = jax.tree.map(lambda x: x[:, 0], (states, obs))
        return drawn, steps.reward, steps.terminated | steps.truncated

    (states, obs), reward, done = run(state, key)
    done = np.asarray(done)
    return states, obs, np.asarray(reward), np.cumsum(done, 0) - done == 0  # up to and with the first end


def _host_rollout(result: Result, index: int, env: HostEnv, key: jax.Array) -> tuple[Any, Any, np.ndarray, np.ndarray]:
    """As `_rollout`, in a simulator on the host, which tells no states."""
    agent, state = result.agent(index)
    mode, memory = jax.jit(agent.mode), agent.memory(env.num_envs)

    def act(obs: np.ndarray) -> np.ndarray:
        nonlocal memory
        action, memory = mode(state, memory, obs)
        return np.asarray(action)

    seeds = np.asarray(jax.random.bits(key, (env.num_envs,)))
    obs, reward, alive = evaluate.host_rollout(act, env, seeds)
    return None, obs[:, 0], reward, alive
