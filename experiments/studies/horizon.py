"""Sample complexity against the effective horizon: ``python -m rljax.experiments.studies.horizon --out FOLDER``.

SQIRL, GORP, PPO and DQN learn deterministic MDPs: synthetic families of several sizes, with actions in another order in each
state, and those in ``--files``. Sample complexity is the median over seeds of the first env step after which an evaluation
gives the optimal return, infinite if half of the seeds never do; what a policy does before it has learned does not count. As
in arXiv:2304.09853 and arXiv:2312.08369 the least number of episodes that suffices is searched for SQIRL and GORP (here among
powers of 4), with the k that the analysis gives, and PPO and DQN have the better of two settings.

It prints rank correlations with the effective horizon and other measures, and keeps FOLDER/complexity.jsonl, with the step of
each seed, FOLDER/correlation.json and FOLDER/complexity.png. A study that was stopped goes on where it was.
"""

from __future__ import annotations

import itertools
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
import pandas as pd
import tyro
from matplotlib.figure import Figure
from scipy.stats import ConstantInputWarning, spearmanr

from rljax import envs, horizon, store
from rljax.base import Env, InputError
from rljax.config import override
from rljax.envs import tabular
from rljax.experiments import report
from rljax.experiments import train as training
from rljax.experiments.cli import parse_seeds
from rljax.experiments.studies import finished

Row = dict[str, Any]

FAMILIES = (
    *(f"tabular/chain?length={n}" for n in (3, 4, 5, 6, 8, 10, 12)),
    *(f"tabular/tree?depth={n}" for n in (2, 3, 4, 5, 6, 7, 8)),
    *(f"tabular/tree?actions=3&depth={n}" for n in (2, 3, 4, 5)),
    *(f"tabular/grid?size={n}" for n in (3, 4, 5, 6, 7)),
    *(f"tabular/trap?k={n}" for n in (1, 2, 3, 4)),
    *(f"tabular/trap?actions={a}&k={n}" for a, n in ((3, 2), (3, 3), (4, 2))),
)
EPISODES = tuple(4**n for n in range(7))  # per iteration (SQIRL), and sequence and iteration (GORP)
MOST = 2_000_000  # env steps of one search's longest run, per seed
BUDGETS = (12_800, 51_200, 204_800)  # env steps of PPO and DQN: the first one in which half of the seeds find the optimum
EVERY = 1_024  # env steps of PPO and DQN between evaluations
LOOKAHEAD = 3  # of the bounds on the effective horizon
MEASURES = MappingProxyType(
    {
        "effective_horizon": "effective horizon",
        "bound": "log T^2 A^H",  # of an effective horizon H, in MDPs with A actions and horizon T: GORP's episodes times T
        "epw": "planning window",
        "covering": "log covering length",
    }
)
SETTINGS: Mapping[str, tuple[Row, ...]] = MappingProxyType(
    {
        "ppo": ({"rollout": 32}, {"rollout": 128}),
        "dqn": ({"exploration_steps": 20_000.0}, {"exploration_steps": 200_000.0}),
    }
)
SMALL = MappingProxyType({"width": 32, "actor_width": 32, "critic_width": 32, "lr": 1e-3, "critic_lr": 1e-3})


@dataclass(frozen=True)
class Study:
    """Compare the env steps that agents need with what an analysis of the MDP says."""

    out: Path  # the folder for steps and figures
    files: tuple[Path, ...] = ()  # MDPs, beside the families
    seeds: str = "5"  # how many ("4" is 0, 1, 2, 3), or which ("3,5,7", or "7," for one)
    agents: tuple[str, ...] = ("sqirl", "gorp", "ppo", "dqn")  # which of them


def main() -> None:
    """Run what is missing, and print correlations."""
    study = tyro.cli(Study)
    try:
        study.out.mkdir(parents=True, exist_ok=True)
        rows = complexities(study)
    except InputError as error:
        print(f"rljax: error: {error}", file=sys.stderr)
        sys.exit(2)
    found = correlations(rows)
    store.write_json(study.out / "correlation.json", found.to_dict("records"))
    print(found.to_string(index=False))
    report.save_png(figure(rows), study.out / "complexity.png")


def complexities(study: Study) -> list[Row]:
    """A row for each MDP and agent; those that the folder holds are not computed again."""
    path = study.out / "complexity.jsonl"
    rows: list[Row] = store.read_rows(path) if path.exists() else []
    done = {(row["mdp"], row["agent"]) for row in rows}
    for name, agent in itertools.product((*FAMILIES, *(f"tabular/{file}" for file in study.files)), study.agents):
        made = envs.make(name)
        assert isinstance(made, Env)  # nothing tabular is simulated on the host
        env = reordered(made) if name in FAMILIES else made
        label = f"tabular/{Path(name).stem}" if name.endswith(tabular.SUFFIX) else name
        if (label, agent) in done:
            continue
        facts = analysis(env)
        row = {"mdp": label, "agent": agent} | facts | complexity(agent, env, facts, parse_seeds(study.seeds))
        store.append(path, store.encode(row))
        rows.append(row)
        jax.clear_caches()  # each program keeps memory mappings, of which a process may only have so many
        print(f"{label} {agent}: {row['median']:g} env steps, effective horizon {facts['effective_horizon']:.2f}")
    return rows


def reordered(env: Env) -> Env:
    """A tabular env with its actions in a random order in each state, so that doing the same everywhere is nothing special."""
    mdp, _ = tabular.from_env(env, identify=lambda state: state.at)
    states, actions, _ = mdp.successor.shape
    order = np.random.default_rng(0).permuted(np.tile(np.arange(actions), (states, 1)), axis=1)[..., None]
    moved: Row = {name: np.take_along_axis(getattr(mdp, name), order, 1) for name in ("successor", "reward", "probability")}
    return tabular.from_mdp(mdp._replace(**moved), name=env.name)


def analysis(env: Env) -> Row:
    """What `rljax.horizon` finds about a tabular env."""
    mdp, _ = tabular.from_env(env, identify=lambda state: state.at)
    found = horizon.analyze(mdp)
    tighter = horizon.gorp_bounds(mdp, max_k=max(LOOKAHEAD, found.k_min))
    bounds = [mdp.horizon, found.effective_horizon, *(bound.effective_horizon for bound in tighter)]
    states, actions, _ = mdp.successor.shape
    return {
        "states": states,
        "actions": actions,
        "horizon": mdp.horizon,
        "k_min": found.k_min,
        "epw": found.epw,
        "effective_horizon": float(min(x for x in bounds if x is not None)),
        "covering": float(np.log(found.covering_length)),
        "optimal": found.optimal_return,
    }


def complexity(agent: str, env: Env, facts: Row, seeds: Sequence[int]) -> Row:
    """The ``median`` over seeds of the steps to the optimal return, the ``steps`` of each, and the ``setting`` behind them."""
    best: Row = {"median": np.inf, "steps": [np.inf] * len(seeds), "setting": {}}
    if agent in SETTINGS:
        for budget in BUDGETS:
            tried = [steps_to_optimum(agent, setting, env, facts, seeds, budget, EVERY) for setting in SETTINGS[agent]]
            best = min(tried, key=lambda row: (row["median"], np.mean(np.isinf(row["steps"]))))
            if np.isfinite(best["median"]):
                break
        return best
    for episodes in EPISODES:
        setting = {"k": facts["k_min"], "episodes": episodes}
        sequences = facts["actions"] ** facts["k_min"] if agent == "gorp" else 1
        every = episodes * sequences * env.spec.horizon
        if every * env.spec.horizon > MOST:
            break
        best = steps_to_optimum(agent, setting, env, facts, seeds, every * env.spec.horizon, every)
        if np.isfinite(best["median"]):
            break
    return best


def steps_to_optimum(agent: str, setting: Row, env: Env, facts: Row, seeds: Sequence[int], steps: int, every: int) -> Row:
    """As `complexity`, of one run."""
    module = import_module(f"rljax.agents.{agent}")
    names = set(vars(module.Config)["__dataclass_fields__"])
    config = override(module.Config(), {name: x for name, x in SMALL.items() if name in names} | setting)
    counts: Row = {"seeds": seeds, "steps": steps, "eval_every": every, "eval_episodes": 1, "log_every": steps}
    result = finished(training.train(module, config, env, num_envs=8 if agent == "ppo" else 1, **counts))
    first = dict.fromkeys(seeds, np.inf)
    for row in reversed(result.rows):
        if row["kind"] == "eval" and row["step"] and row["eval/return"] >= facts["optimal"] - 1e-4:
            first[row["seed"]] = row["step"]
    return {"median": float(np.median(list(first.values()))), "steps": list(first.values()), "setting": setting}


def correlations(rows: list[Row]) -> pd.DataFrame:
    """Spearman's rank correlation of sample complexity with each measure and each other agent, and its 95 % interval."""
    table = pd.DataFrame(rows)
    table["bound"] = 2 * np.log(table["horizon"]) + table["effective_horizon"] * np.log(table["actions"])
    medians = table.pivot(index="mdp", columns="agent", values="median")
    measures = table.drop_duplicates("mdp").set_index("mdp").loc[medians.index, list(MEASURES)]
    pairs: Iterable[tuple[str, str, Any]] = [
        *((agent, MEASURES[m], measures[m]) for agent in medians for m in MEASURES),
        *((a, b, medians[b]) for a, b in itertools.combinations(medians, 2)),
    ]
    found = [{"agent": agent, "with": other, "mdps": len(x)} | _rank(medians[agent], x) for agent, other, x in pairs]
    return pd.DataFrame(found)


def _rank(x: Any, y: Any) -> Row:
    """The correlation, and the percentiles of 2 000 bootstrap samples of MDPs; infinity is the highest rank."""
    pair = np.stack([x, y], 1).astype(float)
    rng = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantInputWarning)  # of samples of few MDPs
        drawn = [spearmanr(*pair[rng.integers(0, len(pair), len(pair))].T).statistic for _ in range(2_000)]
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return {"spearman": round(float(spearmanr(*pair.T).statistic), 3), "low": round(low, 3), "high": round(high, 3)}


def figure(rows: list[Row]) -> Figure:
    """A panel per agent: env steps to the optimum over the effective horizon; crosses where it was not found."""
    table = pd.DataFrame(rows)
    agents = list(table["agent"].unique())
    drawn = Figure(figsize=(3.6 * len(agents), 3.6), layout="constrained")
    panels = np.atleast_1d(drawn.subplots(1, len(agents), sharey=True))
    for axes, agent in zip(panels, agents, strict=True):
        part = table[table["agent"] == agent]
        family = part["mdp"].str.extract(r"tabular/([a-z]+)")[0].to_numpy()
        for name in sorted(set(family)):
            chosen = part[family == name]
            reached = chosen[np.isfinite(chosen["median"])]
            axes.scatter(reached["effective_horizon"], reached["median"], label=name)
        never = part[np.isinf(part["median"])]
        axes.scatter(never["effective_horizon"], [MOST * 2] * len(never), marker="x", color="black")
        axes.set(xlabel="effective horizon", yscale="log", title=agent.upper())
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("env steps to the optimal policy")
    panels[0].legend(frameon=False, fontsize=8)
    return drawn


if __name__ == "__main__":
    main()
