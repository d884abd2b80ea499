"""What reports are made of: the configs of runs and studies with their scores, and scores of several tasks on one scale."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from rljax import statistics, store
from rljax.base import InputError
from rljax.experiments import report
from rljax.experiments import train as training
from rljax.experiments.setup import read_settings

SHARES = np.linspace(0, 1, 41)  # of the steps, at which agents are compared over all tasks


class Entry(NamedTuple):
    """One config of a run: its settings, scores by step and seed, the seeds that diverged, and normalised scores, if any."""

    folder: Path
    agent: str
    env: str
    fields: dict[str, Any]
    scores: pd.DataFrame
    dead: frozenset[int]
    normalized: pd.DataFrame | None
    label: str = ""

    @property
    def last(self) -> np.ndarray:
        """The last score of each seed that did not diverge."""
        return self._alive().iloc[-1].to_numpy()

    @property
    def best(self) -> np.ndarray:
        """The best score of each of them."""
        return self._alive().max().to_numpy()

    @property
    def normalized_last(self) -> np.ndarray:
        """The last normalised score of each of them; none if the task has no reference scores."""
        return np.zeros(0) if self.normalized is None else self._alive(self.normalized).iloc[-1].to_numpy()

    @property
    def summary(self) -> str:
        """The IQM of the last scores in words."""
        dead = f", {len(self.dead)} diverged" if self.dead else ""
        if not len(self.last):
            return "every seed diverged"
        low, high = statistics.interval(self.last)
        said = f"{statistics.iqm(self.last):.1f} [{low:.1f}, {high:.1f}] of {len(self.last)} seeds"
        return f"IQM {said} at step {self.scores.index[-1]}{dead}"

    def _alive(self, frame: pd.DataFrame | None = None) -> pd.DataFrame:
        frame = self.scores if frame is None else frame
        return frame[[seed for seed in frame.columns if seed not in self.dead]]

    def counted(self, worst: float) -> np.ndarray:
        """The last score of every seed, ``worst`` for those that diverged."""
        return np.concatenate([self.last, np.full(len(self.dead), worst)])

    def curve(self, worst: float) -> np.ndarray:
        """The score of every seed at each of `SHARES` of the steps, [K, S], between evaluations by interpolation."""
        alive, steps = self._alive(), self.scores.index.to_numpy()
        found = [np.interp(SHARES * steps[-1], steps, alive[seed]) for seed in alive.columns]
        return np.stack([*found, *[np.full(len(SHARES), worst)] * len(self.dead)], -1)


class Pooled(NamedTuple):
    """Scores of all agents on the same tasks, on one scale: labels, and arrays [T, S] with as many seeds each.

    ``curves`` [K, T, S] are the scores at each of `SHARES` of the steps.
    """

    labels: list[str]
    scores: list[np.ndarray]
    curves: list[np.ndarray]


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
            found += _programs(path)
        elif (path / "config.json").exists():
            found.append(path)
        else:
            raise InputError(f"{path} holds neither a run nor a study")
    if not found:
        raise InputError(f"nothing of {', '.join(map(str, paths))} is trained yet")
    return list(dict.fromkeys(path.absolute() for path in found))


def _programs(study: Path) -> list[Path]:
    """The run folders of a study that there are."""
    path = study / "study.json"
    rows = store.read_json(path)
    if not isinstance(rows, list):
        raise InputError(f"{path} is damaged: give the command of the study again, which writes it")
    names = [store.require(path, row, {"folder": str})["folder"] for row in rows]
    return [study / name for name in names if (study / name).exists()]


def read(runs: Sequence[Path]) -> list[Entry]:
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
        known = any("eval/normalized" in row for row in rows)
        normalized = report.scores(rows, "eval/normalized") if known else {}
        configs = settings["config"] if isinstance(settings["config"], list) else [settings["config"]]
        data = settings.get("offline") or {}
        env = " ".join(str(x) for x in (settings["env"], data.get("name")) if x)
        extra = {name: data[name] for name in ("sampling",) if name in data}
        for index, config in enumerate(configs):
            if index not in frame:
                raise InputError(f"{run} has no evaluation of config {index}: there is nothing to report of it yet")
            failed = frozenset(seed for row, seed in dead if row == index)
            found.append(Entry(run, settings["agent"], env, _flat(config) | extra, frame[index], failed, normalized.get(index)))
    return [entry._replace(label=name) for entry, name in zip(found, _labels(found), strict=True)]


def pooled(found: Sequence[Entry], tasks: Sequence[str]) -> Pooled | None:
    """None unless at least two agents, or one on two tasks, were trained on all of them with as many seeds on each."""
    extremes, pooled = ends(found), Pooled([], [], [])
    low, high = (np.array([extremes[task][i] for task in tasks])[:, None] for i in (0, 1))
    size = np.where(high > low, high - low, 1.0)
    for label in dict.fromkeys(entry.label for entry in found):
        mine = {entry.env: entry for entry in found if entry.label == label}
        rows = [mine[task].counted(extremes[task][0]) for task in tasks if task in mine]
        if len(rows) == len(tasks) and len({len(row) for row in rows}) == 1:
            curves = np.stack([mine[task].curve(extremes[task][0]) for task in tasks], 1)
            pooled.labels.append(label)
            pooled.scores.append((np.stack(rows) - low) / size)
            pooled.curves.append((curves - low) / size)
    return pooled if len(tasks) > 1 and pooled.labels else None


def ends(found: Sequence[Entry]) -> dict[str, tuple[float, float]]:
    """Of each task the lowest and the highest last score."""
    ends = {}
    for task in {entry.env for entry in found}:
        last = np.concatenate([entry.last for entry in found if entry.env == task])
        ends[task] = (float(last.min()), float(last.max())) if len(last) else (0.0, 1.0)
    return ends


def varying(found: Sequence[Entry]) -> list[str]:
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
        text = " ".join(f"{name}={short(entry.fields[name])}" for name in varying(rivals) if name in entry.fields)
        names.append(f"{entry.agent} {text}".strip())
    times = Counter((name, entry.env) for name, entry in zip(names, found, strict=True))
    alone = [times[name, entry.env] == 1 for name, entry in zip(names, found, strict=True)]
    return [name if one else f"{name} ({entry.folder.name})" for name, entry, one in zip(names, found, alone, strict=True)]


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in config.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def on(found: Sequence[Entry], task: str) -> list[Entry]:
    """The entries of a task."""
    return [entry for entry in found if entry.env == task]


def short(value: Any) -> str:
    """A config's value for people."""
    return f"{value:g}" if isinstance(value, float) else str(value)
