"""Agent x data set x sampling: ``python benchmarks/offline_table.py OUT --data ENV=FILE ... --agents iql cql td3_bc``.

Networks of 2 x 128, batches of 128 and fewer gradient steps than the presets have, so that a table takes an hour and not a
day. Writes OUT/scores.jsonl, one row per seed, prints IQMs with 95 % intervals, and keeps the runs in OUT/runs: the same
command goes on where it stopped. Returns are normalised by the references in the files, or by ``--reference ENV=LOW,HIGH``.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
import tyro

from rljax import data, statistics, store
from rljax.config import override
from rljax.experiments import presets, report
from rljax.experiments.cli import parse_seeds
from rljax.experiments.train import train

SMALL = {"actor_width": 128, "critic_width": 128, "actor_depth": 2, "critic_depth": 2, "batch_size": 128}
CHANGES: dict[str, dict[str, Any]] = {
    "bc": {},
    "td3_bc": {},
    "iql": {"actor_decay": 20_000.0},
    "cql": {"actor_lr": 3e-4, "alpha_lr": 3e-4, "num_actions": 4},  # the published actor needs a million steps at 3e-5
}
STEPS = {"bc": 20_000, "td3_bc": 20_000, "iql": 20_000, "cql": 10_000}


@dataclass(frozen=True)
class Table:
    """Train every agent on every data set with every sampling."""

    out: tyro.conf.Positional[Path]
    data: tuple[str, ...]  # ENV=FILE
    agents: tuple[str, ...] = tuple(CHANGES)
    samplings: tuple[str, ...] = ("uniform",)
    reference: tuple[str, ...] = ()  # ENV=LOW,HIGH
    seeds: str = "3"


def main() -> None:
    """All cells, then the tables."""
    table = tyro.cli(Table)
    references = {env: tuple(map(float, text.split(","))) for env, text in (x.split("=") for x in table.reference)}
    cells = [
        (agent, *pair.split("=", 1), sampling) for agent in table.agents for pair in table.data for sampling in table.samplings
    ]
    rows = []
    for agent, env, file, sampling in cells:
        recorded, name = data.load(file), Path(file).stem
        out = table.out / "runs" / f"{env.replace('/', '-')}-{name}-{sampling.replace(':', '-')}-{agent}"
        reference = references.get(env, recorded.info.reference) or (0.0, 100.0)
        for seed, x in run(agent, env, recorded, sampling, parse_seeds(table.seeds), out).items():
            last, best = (float(data.normalized_score(y, reference)) for y in (x.iloc[-1], x.max()))
            row = {"env": env, "data": name, "agent": agent, "sampling": sampling, "seed": seed, "return": float(x.iloc[-1])}
            rows.append(row | {"normalized": last, "best": best})
        (table.out / "scores.jsonl").write_text("".join(map(store.encode, rows)))
    frame = pd.DataFrame(rows)
    for keys in (["data", "agent", "sampling"], ["agent", "sampling"], ["sampling"]):
        found = [(*names, *figures(x["normalized"])) for names, x in frame.groupby(keys, sort=False)]
        print(pd.DataFrame(found, columns=[*keys, "IQM", "low", "high"]).round(1).to_string(index=False))


def run(agent: str, env: str, recorded: data.Dataset, sampling: str, seeds: tuple[int, ...], out: Path) -> pd.DataFrame:
    """Returns by step and seed."""
    module, preset = import_module(f"rljax.agents.{agent}"), presets.find(agent, env, recorded)
    fields = vars(preset.config)
    config = override(preset.config, {k: v for k, v in (SMALL | CHANGES[agent]).items() if k in fields})
    counts = {"seeds": seeds, "steps": STEPS[agent], "eval_every": STEPS[agent] // 3, "eval_episodes": 10}
    result = train(module, config, env, data=recorded, sampling=sampling, reward=preset.reward, out=out, **counts)
    return report.scores(result.rows)[0]


def figures(x: pd.Series) -> tuple[float, float, float]:
    """IQM and 95 % interval."""
    low, high = statistics.interval(x.to_numpy())
    return float(statistics.iqm(x.to_numpy())), float(low), float(high)


if __name__ == "__main__":
    main()
