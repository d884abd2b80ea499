"""From offline to online, compared: ``python -m rljax.experiments.studies.online PART --env ENV --data FILE --out FOLDER``.

PART is one of

* ``methods``: WSRL with and without its warm-up, RLPD, MOORL, Cal-QL with retained data, CQL without, and from scratch SAC and
  WSRL's own learner, all with the same number of env steps;
* ``ablation``: WSRL with warm-up {0, K} x what is taken over {critic, actor, both} x fraction of retained data {0, 0.5}.

What is trained offline is trained once, with the networks of WSRL's preset. Each part prints a table and keeps
FOLDER/PART.jsonl, with the scores of each seed at every evaluation, and FOLDER/PART.png. A comparison that was stopped goes on
where it was.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import tyro
from matplotlib.figure import Figure

from rljax import statistics, store
from rljax.base import InputError
from rljax.config import override
from rljax.data import Dataset, load
from rljax.experiments import presets, report
from rljax.experiments import train as training
from rljax.experiments.cli import parse_seeds
from rljax.experiments.setup import Start
from rljax.experiments.studies import finished

Row = dict[str, Any]


@dataclass(frozen=True)
class Study:
    """Compare ways from offline to online learning."""

    part: tyro.conf.Positional[Literal["methods", "ablation"]]
    env: str  # where to learn online, and to evaluate
    data: Path  # the data set to learn from offline
    out: Path  # the folder for scores and figures; runs are kept in its subfolder runs
    steps: int = 10_000  # env steps of each seed online
    offline_steps: int = 10_000  # gradient steps of each seed before
    warmup: int = 2_000  # K, env steps with the frozen policy
    eval_every: int = 500  # env steps between evaluations
    seeds: str = "5"  # how many ("4" is 0, 1, 2, 3), or which ("3,5,7", or "7," for one)

    @property
    def counts(self) -> Row:
        """What all online runs have in common."""
        return {"seeds": parse_seeds(self.seeds), "steps": self.steps, "eval_every": self.eval_every, "eval_episodes": 20}


def main() -> None:
    """Run one part."""
    study = tyro.cli(Study)
    try:
        study.out.mkdir(parents=True, exist_ok=True)
        rows = [
            row for name, result in {"methods": methods, "ablation": ablation}[study.part](study) for row in _rows(name, result)
        ]
    except InputError as error:
        print(f"rljax: error: {error}", file=sys.stderr)
        sys.exit(2)
    (study.out / f"{study.part}.jsonl").write_text("".join(map(store.encode, rows)))
    print(summary(rows).to_string(index=False))
    report.save_png(figure(rows, study.env), study.out / f"{study.part}.png")


def methods(study: Study) -> Iterator[tuple[str, Any]]:
    """Names and results of the methods; those that go on from a run of Cal-QL or CQL begin with its policy."""
    calql, cql = offline(study, "calql"), offline(study, "cql")
    yield "wsrl", finetune(study, "wsrl", Start(calql, warmup=study.warmup))
    yield "wsrl, no warm-up", finetune(study, "wsrl", Start(calql, warmup=0))
    yield "calql, half retained", finetune(study, "calql", Start(calql, retain=0.5))
    yield "cql, none retained", finetune(study, "cql", Start(cql))
    yield "rlpd", finetune(study, "rlpd", None)
    yield "moorl", finetune(study, "moorl", None)
    yield "wsrl's learner from scratch", finetune(study, "wsrl", None)
    yield "sac from scratch", finetune(study, "sac", None)


def ablation(study: Study) -> Iterator[tuple[str, Any]]:
    """Names and results of WSRL's parts."""
    calql = offline(study, "calql")
    for retain in (0.0, 0.5):
        for parts in ("both", "critic", "actor"):
            for warmup in (study.warmup, 0):
                name = f"{'Q and policy' if parts == 'both' else parts}, {warmup} warm-up, {retain:g} retained"
                yield name, finetune(study, "wsrl", Start(calql, parts, warmup, retain))


def offline(study: Study, agent: str) -> Any:
    """The run of ``agent`` on the data set, with the networks of WSRL's preset."""
    data = _load(study.data)
    preset, config = presets.find(agent, study.env, data), presets.find("wsrl", study.env, data).config
    result = training.train(
        import_module(f"rljax.agents.{agent}"),
        presets.carried(preset.config, config),
        study.env,
        data=data,
        reward=preset.reward,
        out=study.out / "runs" / agent,
        **(study.counts | {"steps": study.offline_steps, "eval_every": study.offline_steps // 4}),
    )
    return finished(result)


def finetune(study: Study, agent: str, start: Start | None) -> Any:
    """The online run of ``agent``, from ``start`` or from scratch."""
    module, data = import_module(f"rljax.agents.{agent}"), _load(study.data)
    preset = presets.online(agent, study.env, data)
    sizes = presets.online("wsrl", study.env, data)
    config = preset.config
    if agent == "sac":
        names = ("actor_lr", "critic_lr", "alpha_lr", "actor_width", "critic_width", "batch_size", "warmup")
        config = override(module.Config(), {name: getattr(sizes.config, name) for name in names})
    if start is not None:
        config = presets.carried(config, start.run.setup.configs[0])
    used = hasattr(config, "recorded") or (start is not None and start.retain > 0)
    said = "scratch" if start is None else f"{start.initialise}-{start.warmup}-{start.retain:g}"
    result = training.train(
        module,
        config,
        study.env,
        data=data if used else None,
        reward=sizes.reward if start is None else None,
        start=start,
        num_envs=sizes.num_envs,
        out=study.out / "runs" / f"{agent}-{said}",
        **study.counts,
    )
    return finished(result)


def summary(rows: list[Row]) -> pd.DataFrame:
    """Per method the IQM at the switch, the lowest and the last after it, and the last one's 95 % bootstrap interval."""
    found = []
    for method, frame in _frames(rows):
        center = statistics.iqm(frame.to_numpy())
        low, high = statistics.interval(frame.iloc[-1].to_numpy())
        values = {"first": center[0], "lowest": center.min(), "last": center[-1], "low": low, "high": high}
        found.append({"method": method, "seeds": frame.shape[1]} | {name: float(x) for name, x in values.items()})
    return pd.DataFrame(found).round(3)


def figure(rows: list[Row], env: str) -> Figure:
    """IQM and interval over env steps, a panel per four methods."""
    frames = list(_frames(rows))
    panels = [frames[i : i + 4] for i in range(0, len(frames), 4)]
    drawn = Figure(figsize=(5.5 * len(panels), 4.2), layout="constrained")
    for axes, part in zip(np.atleast_1d(drawn.subplots(1, len(panels), sharey=True)), panels, strict=True):
        for method, frame in part:
            low, high = statistics.interval(frame.to_numpy())
            (line,) = axes.plot(frame.index, statistics.iqm(frame.to_numpy()), lw=2, label=method)
            axes.fill_between(frame.index, low, high, color=line.get_color(), alpha=0.15, lw=0)
        axes.set(xlabel="env steps after the switch", ylabel="eval/return", title=env)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8)
    return drawn


def _rows(method: str, result: Any) -> list[Row]:
    names = ("step", "seed", "eval/return")
    return [{"method": method} | {name: row[name] for name in names} for row in result.rows if row["kind"] == "eval"]


def _frames(rows: list[Row]) -> Iterator[tuple[str, pd.DataFrame]]:
    """Each method's returns, by step (rows) and seed (columns)."""
    for method, x in pd.DataFrame(rows).groupby("method", sort=False):
        yield str(method), x.pivot_table(index="step", columns="seed", values="eval/return")


@cache
def _load(path: Path) -> Dataset:
    return load(path)


if __name__ == "__main__":
    main()
