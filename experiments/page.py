"""``rljax report``: a page on runs and studies, one HTML file that needs no network; ``rljax compare``: two runs in words."""

from __future__ import annotations

import io
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import jinja2
import markupsafe
import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rljax import statistics, store
from rljax.base import InputError
from rljax.experiments import report
from rljax.experiments import train as training
from rljax.experiments.setup import read_settings

POINTS = 60  # of a curve that tell their numbers
PAIRED = 8  # agents that are compared each with each
SVG = "http://www.w3.org/2000/svg"


class Entry(NamedTuple):
    """One config of a run: its settings, its scores by step and seed, the seeds that diverged, and what it took."""

    folder: Path
    agent: str
    env: str
    fields: dict[str, Any]
    scores: pd.DataFrame
    dead: frozenset[int]
    label: str = ""

    @property
    def last(self) -> np.ndarray:
        """The last score of each seed that did not diverge."""
        return self._alive().iloc[-1].to_numpy()

    @property
    def best(self) -> np.ndarray:
        """The best score of each of them."""
        return self._alive().max().to_numpy()

    def _alive(self) -> pd.DataFrame:
        return self.scores[[seed for seed in self.scores.columns if seed not in self.dead]]

    def counted(self, worst: float) -> np.ndarray:
        """The last score of every seed, ``worst`` for those that diverged."""
        return np.concatenate([self.last, np.full(len(self.dead), worst)])


def folders(paths: Sequence[Path]) -> list[Path]:
    """Run folders: those given, and those of the studies given.

    Raises:
        InputError: for a folder that holds neither.
    """
    if not paths:
        raise InputError("rljax report needs RUNS: folders of runs or studies")
    found = []
    for path in paths:
        if (path / "study.json").exists():
            found += [path / row["folder"] for row in store.read_json(path / "study.json") if (path / row["folder"]).exists()]
        elif (path / "config.json").exists():
            found.append(path)
        else:
            raise InputError(f"{path} holds neither a run nor a study")
    if not found:
        raise InputError(f"nothing of {', '.join(map(str, paths))} is trained yet")
    return list(dict.fromkeys(path.absolute() for path in found))


def entries(runs: Sequence[Path]) -> list[Entry]:
    """One entry for each config of each run, with names that tell them apart.

    Raises:
        InputError: for a run without evaluations.
    """
    found = []
    for run in runs:
        settings, rows = read_settings(run), training.read_rows(run)
        if not any("eval/return" in row for row in rows):
            raise InputError(f"{run} has no evaluation: there is nothing to report of it yet")
        frame, dead = report.scores(rows), report.diverged(rows)
        configs = settings["config"] if isinstance(settings["config"], list) else [settings["config"]]
        data = settings.get("offline") or {}
        env = " ".join(str(x) for x in (settings["env"], data.get("name")) if x)
        extra = {name: data[name] for name in ("sampling",) if name in data}
        for index, config in enumerate(configs):
            failed = frozenset(seed for row, seed in dead if row == index)
            found.append(Entry(run, settings["agent"], env, _flat(config) | extra, frame[index], failed))
    return [entry._replace(label=name) for entry, name in zip(found, _labels(found), strict=True)]


def page(paths: Sequence[Path]) -> str:
    """The page on these runs and studies."""
    found = entries(folders(paths))
    tasks = list(dict.fromkeys(entry.env for entry in found))
    pooled = _pooled(found, tasks)
    environment = jinja2.Environment(loader=jinja2.PackageLoader("rljax.experiments", "."), autoescape=True, trim_blocks=True)
    seeds = sum(entry.scores.shape[1] for entry in found)
    dead = [f"{entry.label} on {entry.env}: seed {seed} diverged" for entry in found for seed in sorted(entry.dead)]
    return environment.get_template("page.html").render(
        title=", ".join(dict.fromkeys(entry.agent for entry in found)) + " on " + ", ".join(tasks),
        summary=f"Configurations: {len(found)}. Tasks: {len(tasks)}. Seeds in all: {seeds}, of which {len(dead)} diverged.",
        failed=dead,
        curves=[_svg(_curves(_on(found, task), task), f"curve{i}") for i, task in enumerate(tasks)],
        scores=_scores(found),
        aggregates=None if pooled is None else _aggregates(pooled),
        profile="" if pooled is None else _svg(_profile(pooled), "profile"),
        improvements=_improvements(found),
        best_only=len({entry.label for entry in found}) > PAIRED,
        responses=[_svg(figure, f"response{i}") for i, figure in enumerate(_responses(found))],
        differences=_differences(found),
        runs=_runs(found),
        cell=_cell,
    )


def compare(a: Path, b: Path) -> str:
    """Whether the agents of run ``a`` are better than those of ``b``: both IQMs, and the probability of improvement.

    Raises:
        InputError: if a run holds several configs, or they were evaluated in different environments.
    """
    found = entries([a.absolute(), b.absolute()])
    if len(found) > 2:
        raise InputError("rljax compare takes runs of one config each: use rljax report")
    one, other = found
    if one.env != other.env:
        raise InputError(f"{a} was evaluated on {one.env} and {b} on {other.env}: scores of different tasks do not compare")
    lines = [f"{name}: {entry.label} on {entry.env}, {_summary(entry)}" for name, entry in (("A", one), ("B", other))]
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


def _summary(entry: Entry) -> str:
    last, dead = entry.last, f", {len(entry.dead)} diverged" if entry.dead else ""
    if not len(last):
        return "every seed diverged"
    low, high = statistics.interval(last)
    return f"IQM {statistics.iqm(last):.1f} [{low:.1f}, {high:.1f}] of {len(last)} seeds at step {entry.scores.index[-1]}{dead}"


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in config.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def _varying(found: Sequence[Entry]) -> list[str]:
    """Fields that have several values among entries of the same agent."""
    names = list(dict.fromkeys(name for entry in found for name in entry.fields))
    agents = {entry.agent for entry in found}
    return [name for name in names if any(len(_values(found, agent, name)) > 1 for agent in agents)]


def _values(found: Sequence[Entry], agent: str, name: str) -> set[str]:
    return {repr(entry.fields.get(name)) for entry in found if entry.agent == agent}


def _labels(found: Sequence[Entry]) -> list[str]:
    """The agent, with the fields in which entries of it on the same task differ, and else the folder."""
    names = []
    for entry in found:
        rivals = [other for other in found if (other.agent, other.env) == (entry.agent, entry.env)]
        text = " ".join(f"{name}={_short(entry.fields[name])}" for name in _varying(rivals) if name in entry.fields)
        names.append(f"{entry.agent} {text}".strip())
    times = Counter((name, entry.env) for name, entry in zip(names, found, strict=True))
    alone = [times[name, entry.env] == 1 for name, entry in zip(names, found, strict=True)]
    return [name if one else f"{name} ({entry.folder.name})" for name, entry, one in zip(names, found, alone, strict=True)]


def _scores(found: Sequence[Entry]) -> pd.DataFrame:
    rows = []
    for entry in found:
        last, best = entry.last, entry.best
        low, high = statistics.interval(last) if len(last) else (np.nan, np.nan)
        raw = " ".join(f"{x:.1f}" for x in last)
        figures = {"IQM": _iqm(last), "low": float(low), "high": float(high), "best": _iqm(best)}
        counts = {"step": int(entry.scores.index[-1]), "seeds": entry.scores.shape[1], "diverged": len(entry.dead)}
        rows.append({"task": entry.env, "agent": entry.label} | figures | counts | {"last of each seed": raw})
    return pd.DataFrame(rows)


class Pooled(NamedTuple):
    """Scores of all agents on the same tasks, on one scale: labels, and arrays [T, S] with as many seeds each."""

    labels: list[str]
    scores: list[np.ndarray]


def _ends(found: Sequence[Entry]) -> dict[str, tuple[float, float]]:
    """Of each task the lowest and the highest last score."""
    ends = {}
    for task in {entry.env for entry in found}:
        last = np.concatenate([entry.last for entry in found if entry.env == task])
        ends[task] = (float(last.min()), float(last.max())) if len(last) else (0.0, 1.0)
    return ends


def _pooled(found: Sequence[Entry], tasks: Sequence[str]) -> Pooled | None:
    """None unless at least two agents, or one on two tasks, were trained on all of them with as many seeds on each."""
    ends, pooled = _ends(found), Pooled([], [])
    for label in dict.fromkeys(entry.label for entry in found):
        mine = {entry.env: entry for entry in found if entry.label == label}
        rows = [mine[task].counted(ends[task][0]) for task in tasks if task in mine]
        if len(rows) == len(tasks) and len({len(row) for row in rows}) == 1:
            low, high = (np.array([ends[task][i] for task in tasks])[:, None] for i in (0, 1))
            pooled.labels.append(label)
            pooled.scores.append((np.stack(rows) - low) / np.where(high > low, high - low, 1.0))
    return pooled if len(tasks) > 1 and pooled.labels else None


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
        best = Counter(max(_on(found, task), key=_order).label for task in {entry.env for entry in found}).most_common(1)[0][0]
        pairs = [(best, label) for label in labels if label != best]
    for one, other in pairs:
        first, second = ({entry.env: entry.counted(-np.inf)[None] for entry in found if entry.label == x} for x in (one, other))
        both = [task for task in first if task in second]
        if both:
            chance = float(np.mean([statistics.improvement(first[task], second[task]) for task in both]))
            rows.append({"first": one, "second": other, "tasks": len(both), "probability": chance})
    return pd.DataFrame(rows) if rows else None


def _on(found: Sequence[Entry], task: str) -> list[Entry]:
    return [entry for entry in found if entry.env == task]


def _order(entry: Entry) -> float:
    return _iqm(entry.last) if len(entry.last) else -np.inf


def _differences(found: Sequence[Entry]) -> pd.DataFrame | None:
    """The fields that are not the same everywhere."""
    names = list(dict.fromkeys(name for entry in found for name in entry.fields))
    differ = [name for name in names if len({repr(entry.fields.get(name)) for entry in found}) > 1]
    rows = [{"task": entry.env, "agent": entry.label} | {name: _text(entry, name) for name in differ} for entry in found]
    return pd.DataFrame(rows) if differ else None


def _text(entry: Entry, name: str) -> str:
    return _short(entry.fields[name]) if name in entry.fields else ""


def _runs(found: Sequence[Entry]) -> pd.DataFrame:
    """What each run took, and under what."""
    rows = []
    for run in dict.fromkeys(entry.folder for entry in found):
        timing = store.read_rows(run / "timing.jsonl") if (run / "timing.jsonl").exists() else []
        versions = store.read_json(run / "versions.json")[-1] if (run / "versions.json").exists() else {}
        compiling = sum(row["seconds"] for row in timing if "compiled" in row)
        packages = versions.get("packages", {})
        rows.append(
            {
                "run": run.name,
                "training [s]": round(sum(row["seconds"] for row in timing if "compiled" not in row), 1),
                "compiling [s]": round(compiling, 1),
                "device": versions.get("device", ""),
                "versions": ", ".join(
                    f"{name} {packages[name]}" for name in ("rljax", "jax", "flax", "optax") if name in packages
                ),
                "commit": (versions.get("git") or "")[:9],
            }
        )
    return pd.DataFrame(rows)


def _curves(found: Sequence[Entry], task: str) -> Figure:
    """Scores over steps of all entries on a task."""
    figure, axes = _figure(task, "steps", "return")
    for i, entry in enumerate(found):
        color, frame = f"C{i % 10}", entry.scores
        for seed in frame.columns:
            axes.plot(frame.index, frame[seed], color=color, lw=0.5, alpha=0.4, ls=":" if seed in entry.dead else "-")
        alive = frame[[seed for seed in frame.columns if seed not in entry.dead]].to_numpy()
        if not alive.size:
            continue
        (low, high), center = statistics.interval(alive), statistics.iqm(alive)
        axes.fill_between(frame.index, low, high, color=color, alpha=0.2, lw=0)
        axes.plot(frame.index, center, color=color, lw=1.8, label=entry.label)
        for k in range(0, len(center), -(-len(center) // POINTS)):
            said = f"{entry.label}, step {frame.index[k]}: {center[k]:.1f} [{low[k]:.1f}, {high[k]:.1f}]"
            _dot(axes, frame.index[k], center[k], color, said)
    if axes.get_legend_handles_labels()[0] and len(found) <= 12:
        axes.legend(frameon=False, fontsize=7)
    return figure


def _profile(pooled: Pooled) -> Figure:
    figure, axes = _figure("performance profile", "relative score", "share of seeds above it")
    thresholds = np.linspace(0, 1, 101)
    for i, (label, x) in enumerate(zip(pooled.labels, pooled.scores, strict=True)):
        low, high = statistics.stratified(lambda x: statistics.profile(x, thresholds), x)
        axes.fill_between(thresholds, low, high, color=f"C{i % 10}", alpha=0.2, lw=0)
        axes.plot(thresholds, statistics.profile(x, thresholds), color=f"C{i % 10}", label=label)
    axes.legend(frameon=False, fontsize=7)
    return figure


def _responses(found: Sequence[Entry]) -> Iterator[Figure]:
    """For each agent, task and number that varies a figure of the scores over it."""
    for agent, task in dict.fromkeys((entry.agent, entry.env) for entry in found):
        mine = [entry for entry in found if (entry.agent, entry.env) == (agent, task)]
        for name in _varying(mine):
            values = [entry.fields[name] for entry in mine if _is_number(entry.fields.get(name))]
            if len(values) < len(mine):
                continue
            figure, axes = _figure(f"{agent} on {task}", name, "last return")
            if min(values) > 0 and max(values) / min(values) >= 10:
                axes.set_xscale("log")
            for entry, value in zip(mine, values, strict=True):
                axes.plot([value] * len(entry.last), entry.last, ".", color="C0", ms=3, alpha=0.4)
                if len(entry.last):
                    _dot(axes, value, _iqm(entry.last), "C1", f"{entry.label}: {_summary(entry)}")
            yield figure


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _figure(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.6, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=10)
    axes.set(xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    return figure, axes


def _dot(axes: Axes, x: Any, y: Any, color: str, said: str) -> None:
    """A point that tells ``said`` when it is pointed at."""
    axes.plot([x], [y], "o", color=color, ms=3.5, gid=f"tip:{said}")


def _svg(figure: Figure, name: str) -> markupsafe.Markup:
    """The figure as an SVG element in the page's colours, whose points have tooltips; ``name`` tells its ids from others'."""
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}):
        contents = io.StringIO()
        figure.savefig(contents, format="svg", transparent=True, metadata={"Date": None})
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    drawn = contents.getvalue().replace("#000000", "currentColor")
    used, root = set(re.findall(r"#([\w-]+)", drawn)), ElementTree.fromstring(drawn)
    for element in root.iter():
        said = element.get("id", "")
        if said.startswith("tip:"):
            title = ElementTree.Element(f"{{{SVG}}}title")
            title.text = said.removeprefix("tip:")
            element.insert(0, title)
        if said and said not in used:
            del element.attrib["id"]
    return markupsafe.Markup(ElementTree.tostring(root, encoding="unicode"))


def _cell(value: Any) -> markupsafe.Markup:
    """A cell of a table, with the value to sort it by."""
    if isinstance(value, str):
        kind = "long" if len(value) > 40 else "text"
        return markupsafe.Markup('<td class="{}" data-value="{}">{}</td>').format(kind, value, value)
    text = "" if value != value else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
    return markupsafe.Markup('<td data-value="{}">{}</td>').format(value, str(value) if isinstance(value, int) else text)


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _iqm(x: np.ndarray) -> float:
    return float(statistics.iqm(x)) if len(x) else float("nan")
