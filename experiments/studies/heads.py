"""How critics encode values, compared: ``python -m rljax.experiments.studies.heads PART --out FOLDER``.

PART is one of

* ``regression``: a network follows noisy numbers of a random function, which stays or is drawn anew ten times;
* ``online``: SAC on two tasks;
* ``offline``: TD3+BC and CQL on data sets (``--data ENV=FILE ...``);
* ``width``: the regression, and TD3+BC on the first data set, with networks 64 to 1024 units wide;
* ``sigma``: HL-Gauss's deviation x width of the support with SAC, all of them in one program.

Each prints a table and keeps FOLDER/PART.jsonl, with the score of each seed, and FOLDER/PART.png. A comparison that was
stopped goes on where it was. Supports are those of `rljax.experiments.presets.with_supports`.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import tyro
from matplotlib.figure import Figure

from rljax import heads, nets, statistics, store
from rljax.base import InputError
from rljax.config import override
from rljax.data import load
from rljax.experiments import presets, report
from rljax.experiments import train as training
from rljax.experiments.cli import parse_seeds
from rljax.experiments.setup import prepare
from rljax.experiments.studies import finished
from rljax.optim import descend, model

Row = dict[str, Any]

ROWS, TESTS, INPUTS = 4_096, 1_024, 8  # examples to learn from and to be tested on, and their numbers
PHASES, STEPS, BATCH = 10, 500, 128  # functions in a row, gradient steps on each, examples per step
RATES = (3e-4, 1e-3, 3e-3)  # Adam's step sizes; on seeds 100 to 102 the first was best for scalar, the second for the others
NOISE = (0.0, 1.0, 3.0)  # deviation of the noise, in deviations of the function
TASKS = MappingProxyType({"gymnax/Pendulum-v1": 20_000, "brax/inverted_pendulum": 50_000})  # env steps
GRADIENT_STEPS = MappingProxyType({"td3_bc": 20_000, "cql": 10_000})
WIDTHS, WIDE_STEPS = (64, 256, 1024), 4_000  # of networks, and TD3+BC's gradient steps with them
RATIOS, SCALES, SWEEP_STEPS = (0.55, 0.75, 0.85), (0.5, 1.0, 2.0), 10_000  # sigma in bins, widths of the support, env steps
SMALL = MappingProxyType({"actor_width": 64, "critic_width": 64, "batch_size": 128})
PENALTY = 0.1  # of CQL with categorical heads, times the preset's: their loss is smaller than a squared error


@dataclass(frozen=True)
class Study:
    """Compare how critics encode values."""

    part: tyro.conf.Positional[Literal["regression", "online", "offline", "width", "sigma"]]
    out: Path  # the folder for scores and figures; runs are kept in its subfolder runs
    seeds: str = "5"  # how many ("4" is 0, 1, 2, 3), or which ("3,5,7", or "7," for one)
    heads: tuple[str, ...] = tuple(heads.HEADS)  # which of them
    data: tuple[str, ...] = ()  # ENV=FILE of each data set (offline, width)


def main() -> None:
    """Run one part."""
    study = tyro.cli(Study)
    parts: dict[str, Callable[[Study], list[Row]]] = {
        "regression": regression,
        "online": online,
        "offline": offline,
        "width": width,
        "sigma": sigma,
    }
    try:
        study.out.mkdir(parents=True, exist_ok=True)
        rows = parts[study.part](study)
    except InputError as error:
        print(f"rljax: error: {error}", file=sys.stderr)
        sys.exit(2)
    (study.out / f"{study.part}.jsonl").write_text("".join(map(store.encode, rows)))
    frame = summary(rows)
    print(frame.to_string(index=False))
    report.save_png(figure(frame), study.out / f"{study.part}.png")


def regression(study: Study) -> list[Row]:
    """Error of the fit, for each amount of noise, for functions that stay or move, and for each step size."""
    conditions = [(noise, moving, 64, rate) for moving in (False, True) for noise in NOISE for rate in RATES]
    return [row for head in study.heads for row in fits(head, conditions, parse_seeds(study.seeds))]


def online(study: Study) -> list[Row]:
    """Returns of SAC."""
    cases = [(env, steps, head) for env, steps in TASKS.items() for head in study.heads]
    return [row for env, steps, head in cases for row in scores(study, "sac", env, head, steps, {"head": head})]


def offline(study: Study) -> list[Row]:
    """Returns of TD3+BC and CQL."""
    rows = []
    for env, file in _data(study):
        for agent, steps in GRADIENT_STEPS.items():
            for head in study.heads:
                penalty = presets.find(agent, env, load(file)).config.penalty if agent == "cql" else None
                changes = SMALL | {"head": head}
                if penalty is not None:
                    changes["penalty"] = penalty * (1.0 if head == "scalar" else PENALTY)
                rows += scores(study, agent, env, head, steps, changes, file)
    return rows


def width(study: Study) -> list[Row]:
    """Error of the fit of moving, noisy numbers, and returns of TD3+BC, over the width of the networks."""
    seeds, data = parse_seeds(study.seeds), _data(study)
    rows = [row for head in study.heads for size in WIDTHS for row in fits(head, [(3.0, True, size, RATES[0])], seeds)]
    for env, file in data[:1]:
        for head in study.heads:
            for size in WIDTHS:
                changes = {"head": head, "critic_width": size, "actor_width": size, "batch_size": 64}
                rows += scores(study, "td3_bc", env, head, WIDE_STEPS, changes, file, f" {size} wide")
    return rows


def sigma(study: Study) -> list[Row]:
    """Returns of SAC with HL-Gauss: deviations x supports in one program, whose number is printed."""
    env, seeds = "gymnax/Pendulum-v1", parse_seeds(study.seeds)
    preset, agent = presets.find("sac", env), import_module("rljax.agents.sac")
    counts: Row = {"seeds": seeds, "steps": SWEEP_STEPS, "eval_every": SWEEP_STEPS // 2, "eval_episodes": 10}
    config, _ = presets.with_supports(prepare(agent, override(preset.config, {"head": "hl_gauss"}), env, **counts), preset)
    low, high = config.head.low, config.head.high
    middle, half = (low + high) / 2, (high - low) / 2
    found = [(ratio, scale) for ratio in RATIOS for scale in SCALES]
    configs = [
        override(config, {"head.sigma": ratio, "head.low": middle - scale * half, "head.high": middle + scale * half})
        for ratio, scale in found
    ]
    before = training.programs()
    result = finished(training.train(agent, configs, env, **counts, out=study.out / "runs" / "sigma"))
    print(f"{len(configs)} configs x {len(seeds)} seeds: {training.programs() - before} programs (the warm-up, the updates)")
    last = report.scores(result.rows).iloc[-1]
    return [
        {"task": f"sac {env}, {scale:g} x support", "head": f"sigma {ratio:g}", "seed": seed, "score": float(last[i, seed])}
        for i, (ratio, scale) in enumerate(found)
        for seed in seeds
    ]


def scores(
    study: Study, agent: str, env: str, head: str, steps: int, changes: Row, file: str | None = None, note: str = ""
) -> list[Row]:
    """Last and best return of each seed of a run, which is kept in the study's folder."""
    module, data = import_module(f"rljax.agents.{agent}"), None if file is None else load(file)
    preset, seeds = presets.find(agent, env, data), parse_seeds(study.seeds)
    counts: Row = {"seeds": seeds, "steps": steps, "eval_every": steps // 4, "num_envs": preset.num_envs, "eval_episodes": 10}
    where: Row = {"data": data, "reward": preset.reward} if file else {}
    setup = prepare(module, override(preset.config, changes), env, **counts, **where)
    config, _ = presets.with_supports(setup, preset)
    task = f"{agent} {env}{f' {Path(file).stem}' if file else ''}{note}"
    out = study.out / "runs" / f"{task} {head}".replace("/", "-").replace(" ", "_")
    frame = report.scores(finished(training.train(module, config, env, **counts, **where, out=out)).rows)[0]
    return [
        {"task": task, "head": head, "seed": seed, "score": float(x.iloc[-1]), "best": float(x.max())}
        for seed, x in frame.items()
    ]


def fits(name: str, conditions: list[tuple[float, bool, int, float]], seeds: tuple[int, ...]) -> list[Row]:
    """Minus the error of the fit of each seed, under each ``(noise, moving, width, step size)``; one program per width."""
    rows = []
    for noise, moving, size, rate in conditions:
        head = heads.HEADS[name]
        if name != "scalar":
            reach = 4 * float(np.hypot(1.0, noise))
            head = override(head, {"low": -reach, "high": reach})
        keys = jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.uint32))
        errors = _fit(head, size, jnp.float32(noise), jnp.asarray(moving), jnp.float32(rate), keys)
        task = f"{'moving' if moving else 'fixed'} function, noise {noise:g}, {size} wide, step size {rate:g}"
        rows += [{"task": task, "head": name, "seed": s, "score": -float(e)} for s, e in zip(seeds, errors, strict=True)]
    return rows


@functools.partial(jax.jit, static_argnums=1)
def _fit(head: heads.Head, size: int, noise: jax.Array, moving: jax.Array, rate: jax.Array, keys: jax.Array) -> jax.Array:
    """Root mean squared error [S] of the noiseless function, in its deviations; the mean over the last half of the phases."""
    network, optimizer = nets.Critic(head.size, size, 2), optax.adam(rate)

    def function(key: jax.Array, x: jax.Array) -> jax.Array:
        keys = jax.random.split(key, 3)
        inner = [jax.random.normal(k, shape) for k, shape in zip(keys, ((INPUTS, 64), (64, 64), (64, 1)), strict=True)]
        y = jnp.tanh(jnp.tanh(x @ inner[0] / 4) @ inner[1] / 4) @ inner[2]
        return (y[:, 0] - y.mean()) / y.std()

    def one(key: jax.Array) -> jax.Array:
        key_x, key_init, key_fixed, key_functions, key_phases = jax.random.split(key, 5)
        x = jax.random.normal(key_x, (ROWS + TESTS, INPUTS))
        params = nets.init(network, head, key_init, x[:1])

        def phase(fitted: Any, at: tuple[jax.Array, jax.Array]) -> tuple[Any, jax.Array]:
            key_function, key = at
            key_noise, key_steps = jax.random.split(key)
            clean = function(jnp.where(moving, key_function, key_fixed), x)
            noisy = clean[:ROWS] + noise * jax.random.normal(key_noise, (ROWS,))

            def step(fitted: Any, key: jax.Array) -> tuple[Any, None]:
                index = jax.random.randint(key, (BATCH,), 0, ROWS)
                fitted, _ = descend(
                    optimizer, lambda p: (head.loss(network.apply(p, x[index]), noisy[index]).mean(), None), fitted
                )
                return fitted, None

            fitted, _ = jax.lax.scan(step, fitted, jax.random.split(key_steps, STEPS))
            value = head.value(network.apply(fitted.params, x[ROWS:]))
            return fitted, jnp.sqrt(((value - clean[ROWS:]) ** 2).mean())

        phases = jax.random.split(key_functions, PHASES), jax.random.split(key_phases, PHASES)
        _, errors = jax.lax.scan(phase, model(optimizer, params), phases)
        return errors[PHASES // 2 :].mean()

    return jax.lax.map(one, keys)


def summary(rows: list[Row]) -> pd.DataFrame:
    """Per task and head the IQM of the scores with its 95 % bootstrap interval."""
    found = []
    for (task, head), x in pd.DataFrame(rows).groupby(["task", "head"], sort=False):
        values = x["score"].to_numpy()
        low, high = statistics.interval(values)
        center = float(statistics.iqm(values))
        found.append({"task": task, "head": head, "seeds": len(values), "IQM": center, "low": float(low), "high": float(high)})
    return pd.DataFrame(found).round(3)


def figure(frame: pd.DataFrame) -> Figure:
    """IQM and interval of each head, one panel per task."""
    tasks = list(frame["task"].unique())
    columns = min(3, len(tasks))
    lines = -(-len(tasks) // columns)
    drawn = Figure(figsize=(4.2 * columns, 0.8 + 2.0 * lines), layout="constrained")
    panels = np.atleast_1d(drawn.subplots(lines, columns)).ravel()
    for axes, task in zip(panels, tasks, strict=False):
        x = frame[frame["task"] == task]
        error = [x["IQM"] - x["low"], x["high"] - x["IQM"]]
        axes.errorbar(x["IQM"], range(len(x)), xerr=error, fmt="o", capsize=3)
        axes.set(yticks=range(len(x)), yticklabels=x["head"], ylim=(len(x) - 0.5, -0.5), xlabel="score, larger is better")
        axes.set_title(task, fontsize=9)
        axes.grid(alpha=0.3)
    for axes in panels[len(tasks) :]:
        axes.remove()
    return drawn


def _data(study: Study) -> list[tuple[str, str]]:
    pairs = [tuple(text.split("=", 1)) for text in study.data]
    if not pairs or any(len(pair) != 2 for pair in pairs):
        raise InputError("this part needs data sets: give --data ENV=FILE, such as gymnax/Pendulum-v1=pendulum.h5")
    return pairs  # type: ignore[return-value]


if __name__ == "__main__":
    main()
