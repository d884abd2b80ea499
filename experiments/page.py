"""``rljax report``: a page on runs and studies, one HTML file that needs no network; ``rljax compare``: two runs in words."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import markupsafe
import numpy as np
import pandas as pd

from rljax import statistics, store
from rljax.base import InputError
from rljax.experiments import charts, entries
from rljax.experiments.entries import Entry, Pooled

PAIRED = 8  # agents that are compared each with each


def page(paths: Sequence[Path]) -> str:
    """The page on these runs and studies."""
    found = entries.read(entries.folders(paths))
    tasks = list(dict.fromkeys(entry.env for entry in found))
    pooled = entries.pooled(found, tasks)
    environment = jinja2.Environment(loader=jinja2.PackageLoader("rljax.experiments", "."), autoescape=True, trim_blocks=True)
    seeds = sum(entry.scores.shape[1] for entry in found)
    dead = [f"{entry.label} on {entry.env}: seed {seed} diverged" for entry in found for seed in sorted(entry.dead)]
    return environment.get_template("page.html").render(
        title=", ".join(dict.fromkeys(entry.agent for entry in found)) + " on " + ", ".join(tasks),
        summary=f"Configurations: {len(found)}. Tasks: {len(tasks)}. Seeds in all: {seeds}, of which {len(dead)} diverged.",
        failed=dead,
        curves=[charts.svg(charts.curves(entries.on(found, task), task), f"curve{i}") for i, task in enumerate(tasks)],
        scores=_scores(found),
        aggregates=None if pooled is None else _aggregates(pooled),
        overall=[]
        if pooled is None
        else [charts.svg(charts.efficiency(pooled), "efficiency"), charts.svg(charts.profile(pooled), "profile")],
        improvements=_improvements(found),
        best_only=len({entry.label for entry in found}) > PAIRED,
        responses=[charts.svg(figure, f"response{i}") for i, figure in enumerate(charts.responses(found))],
        differences=_differences(found),
        runs=_runs(found),
        cell=_cell,
    )


def compare(a: Path, b: Path) -> str:
    """Whether the agents of run ``a`` are better than those of ``b``: both IQMs, and the probability of improvement.

    Raises:
        InputError: if a run holds several configs, or they were evaluated in different environments.
    """
    found = entries.read([a.absolute(), b.absolute()])
    if len(found) > 2:
        raise InputError("rljax compare takes runs of one config each: use rljax report")
    one, other = found
    if one.env != other.env:
        raise InputError(f"{a} was evaluated on {one.env} and {b} on {other.env}: scores of different tasks do not compare")
    lines = [f"{name}: {entry.label} on {entry.env}, {entry.summary}" for name, entry in (("A", one), ("B", other))]
    x, y = (entry.counted(-np.inf)[None] for entry in (one, other))
    chance = float(statistics.improvement(x, y))
    lines.append(f"probability that a seed of A scores above one of B: {chance:.2f}")
    if np.isfinite(x).all() and np.isfinite(y).all() and min(x.size, y.size) > 1:
        low, high = statistics.stratified(statistics.improvement, x, y)
        lines[-1] += f", 95 % interval [{low:.2f}, {high:.2f}]"
    for name in dict.fromkeys((*one.fields, *other.fields)):
        if one.fields.get(name) != other.fields.get(name):
            lines.append(f"{name}: {_text(one, name) or 'none'} in A, {_text(other, name) or 'none'} in B")
    return "\n".join(lines)


def _scores(found: Sequence[Entry]) -> pd.DataFrame:
    rows = []
    for entry in found:
        last, best = entry.last, entry.best
        low, high = statistics.interval(last)
        raw = " ".join(f"{x:.1f}" for x in last)
        numbers = {"IQM": statistics.iqm(last), "low": low, "high": high, "best": statistics.iqm(best)}
        figures = {name: float(x) for name, x in numbers.items()}
        if any(other.normalized is not None for other in found):
            figures["normalised IQM"] = float(statistics.iqm(entry.normalized_last))
        counts = {"step": int(entry.scores.index[-1]), "seeds": entry.scores.shape[1], "diverged": len(entry.dead)}
        rows.append({"task": entry.env, "agent": entry.label} | figures | counts | {"last of each seed": raw})
    return pd.DataFrame(rows)


def _aggregates(pooled: Pooled) -> pd.DataFrame:
    rows = []
    for label, x in zip(pooled.labels, pooled.scores, strict=True):
        row: dict[str, Any] = {"agent": label}
        for name, statistic in (("IQM", statistics.pooled_iqm), ("optimality gap", statistics.optimality_gap)):
            low, high = statistics.stratified(statistic, x)
            row |= {name: float(statistic(x)), f"{name}, low": float(low), f"{name}, high": float(high)}
        rows.append(row)
    return pd.DataFrame(rows)


def _improvements(found: Sequence[Entry]) -> pd.DataFrame | None:
    """For each pair of agents, over the tasks that both have; of more than `PAIRED` the best against each other one."""
    labels, rows = list(dict.fromkeys(entry.label for entry in found)), []
    pairs = list(itertools.combinations(labels, 2))
    if len(labels) > PAIRED:
        best = Counter(max(entries.on(found, task), key=_order).label for task in {entry.env for entry in found}).most_common(
            1
        )[0][0]
        pairs = [(best, label) for label in labels if label != best]
    worst = {task: low - 1.0 for task, (low, _) in entries.ends(found).items()}
    for one, other in pairs:
        first, second = (
            {entry.env: entry.counted(worst[entry.env]) for entry in found if entry.label == x} for x in (one, other)
        )
        both = [task for task in first if task in second]
        if both:
            chance, low, high = _chance([first[task] for task in both], [second[task] for task in both])
            names = {"first": one, "second": other, "tasks": len(both)}
            rows.append(names | {"probability": chance, "low": low, "high": high})
    return pd.DataFrame(rows) if rows else None


def _chance(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> tuple[float, float, float]:
    """The probability of improvement over tasks, with its interval if there are as many seeds of each on every task."""
    chance = float(np.mean([statistics.improvement(x[None], y[None]) for x, y in zip(first, second, strict=True)]))
    alike = all(len({len(x) for x in scores}) == 1 for scores in (first, second))
    if not alike or min(len(first[0]), len(second[0])) < 2:
        return chance, np.nan, np.nan
    low, high = statistics.stratified(statistics.improvement, np.stack(first), np.stack(second))
    return chance, float(low), float(high)


def _order(entry: Entry) -> float:
    return float(statistics.iqm(entry.last)) if len(entry.last) else -np.inf


def _differences(found: Sequence[Entry]) -> pd.DataFrame | None:
    """The fields that are not the same everywhere."""
    names = list(dict.fromkeys(name for entry in found for name in entry.fields))
    differ = [name for name in names if len({repr(entry.fields.get(name)) for entry in found}) > 1]
    rows = [{"task": entry.env, "agent": entry.label} | {name: _text(entry, name) for name in differ} for entry in found]
    return pd.DataFrame(rows) if differ else None


def _text(entry: Entry, name: str) -> str:
    return entries.short(entry.fields[name]) if name in entry.fields else ""


def _runs(found: Sequence[Entry]) -> pd.DataFrame:
    """What each run took, and under what."""
    rows = []
    for run in dict.fromkeys(entry.folder for entry in found):
        try:
            rows.append({"run": run.name} | _took(run))
        except (KeyError, TypeError, AttributeError, IndexError, OverflowError):
            raise InputError(f"timing.jsonl or versions.json of {run} is damaged: restore it, or remove it") from None
    return pd.DataFrame(rows)


def _took(run: Path) -> dict[str, Any]:
    timing = store.read_rows(run / "timing.jsonl") if (run / "timing.jsonl").exists() else []
    versions = store.read_json(run / "versions.json")[-1] if (run / "versions.json").exists() else {}
    compiling = math.fsum(row["seconds"] for row in timing if "compiled" in row)
    packages = versions.get("packages", {})
    return {
        "training [s]": round(math.fsum(row["seconds"] for row in timing if "compiled" not in row), 1),
        "compiling [s]": round(compiling, 1),
        "device": str(versions.get("device", "")),
        "versions": ", ".join(f"{name} {packages[name]}" for name in ("rljax", "jax", "flax", "optax") if name in packages),
        "commit": (versions.get("git") or "")[:9],
    }


def _cell(value: Any) -> markupsafe.Markup:
    """A cell of a table, with the value to sort it by."""
    if isinstance(value, str):
        kind = "long" if len(value) > 40 else "text"
        return markupsafe.Markup('<td class="{}" data-value="{}">{}</td>').format(kind, value, value)
    text = "" if value != value else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
    return markupsafe.Markup('<td data-value="{}">{}</td>').format(value, str(value) if isinstance(value, int) else text)
