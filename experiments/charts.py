"""Figures of a report, as SVG in the page's colours whose points tell their numbers."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from typing import Any
from xml.etree import ElementTree

import markupsafe
import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rljax import statistics
from rljax.experiments import entries
from rljax.experiments.entries import SHARES, Entry, Pooled

POINTS = 60  # of a curve that tell their numbers
SVG = "http://www.w3.org/2000/svg"


def curves(found: Sequence[Entry], task: str) -> Figure:
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


def efficiency(pooled: Pooled) -> Figure:
    """The IQM over all tasks at each share of the steps."""
    figure, axes = _figure("sample efficiency", "share of the steps", "IQM of relative scores")
    for i, (label, x) in enumerate(zip(pooled.labels, pooled.curves, strict=True)):
        low, high = statistics.stratified(statistics.pooled_iqm, x)
        axes.fill_between(SHARES, low, high, color=f"C{i % 10}", alpha=0.2, lw=0)
        axes.plot(SHARES, statistics.pooled_iqm(x), color=f"C{i % 10}", label=label)
    axes.legend(frameon=False, fontsize=7)
    return figure


def profile(pooled: Pooled) -> Figure:
    """The share of all seeds that are above each relative score."""
    figure, axes = _figure("performance profile", "relative score", "share of seeds above it")
    thresholds = np.linspace(0, 1, 101)
    for i, (label, x) in enumerate(zip(pooled.labels, pooled.scores, strict=True)):
        low, high = statistics.stratified(lambda x: statistics.profile(x, thresholds), x)
        axes.fill_between(thresholds, low, high, color=f"C{i % 10}", alpha=0.2, lw=0)
        axes.plot(thresholds, statistics.profile(x, thresholds), color=f"C{i % 10}", label=label)
    axes.legend(frameon=False, fontsize=7)
    return figure


def responses(found: Sequence[Entry]) -> Iterator[Figure]:
    """For each agent, task and number that varies a figure of the scores over it."""
    for agent, task in dict.fromkeys((entry.agent, entry.env) for entry in found):
        mine = [entry for entry in found if (entry.agent, entry.env) == (agent, task)]
        for name in entries.varying(mine):
            values = [entry.fields[name] for entry in mine if _is_number(entry.fields.get(name))]
            if len(values) < len(mine):
                continue
            figure, axes = _figure(f"{agent} on {task}", name, "last return")
            if min(values) > 0 and max(values) / min(values) >= 10:
                axes.set_xscale("log")
            for entry, value in zip(mine, values, strict=True):
                axes.plot([value] * len(entry.last), entry.last, ".", color="C0", ms=3, alpha=0.4)
                if len(entry.last):
                    _dot(axes, value, statistics.iqm(entry.last), "C1", f"{entry.label}: {entry.summary}")
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


def svg(figure: Figure, name: str) -> markupsafe.Markup:
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
