"""Divergence, made on purpose in one of four learners: it is marked within a chunk, and its neighbours keep every bit.

``python tests/faults/divergence.py [--out benchmarks/divergence.json]`` goes through all agents and poisons and counts.

The learners are two seeds of two configs. A poison gets into the second learner between two chunks, so that the program is
that of the calm run to compare with: a weight, a row of its replay, the rewards or the observations of its env from then on;
or it is the step sizes of the second config, from the beginning; or a row of the data set, which all learners share.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from rljax import store
from rljax import world_model as wm
from rljax.base import Array, Discrete, Env, Spec, batch_env
from rljax.config import override
from rljax.data import Dataset, Info
from rljax.data.dataset import Steps, from_steps
from rljax.experiments import train as training

SIZES = {
    **{"actor_width": 8, "critic_width": 8, "width": 8, "actor_depth": 1, "critic_depth": 1, "depth": 1, "batch_size": 8},
    **{"warmup": 20, "capacity": 200, "rollout": 10, "epochs": 1, "minibatches": 1, "episodes": 2},
}
DRAMA = {"size": wm.Size(2, 3, 16, 4, 5, 16, 1, 8, 1, 8, 1, 8), "length": 8, "starts": 4, "context": 2, "ahead": 3, "every": 5}
CHUNK, AT, STEPS = 20, 40, 80  # steps of a chunk, steps before the poison, and all
ILL = 1  # the learner that is poisoned: the first seed of the second config

WEIGHTS = ("weight nan", "weight inf", "rate x 1000", "rate 1e30")
REWARDS = ("reward nan", "reward inf", "obs nan", "obs inf")
ROWS = ("row nan", "row inf")
DATA = ("data nan", "data inf")
TABLE = {
    **dict.fromkeys(("sac", "dqn", "sac_discrete", "wsrl"), (*WEIGHTS, *REWARDS, *ROWS)),
    **dict.fromkeys(("ppo", "drama"), (*WEIGHTS, *REWARDS)),
    **dict.fromkeys(("sqirl",), WEIGHTS),
    **dict.fromkeys(("td3_bc", "iql", "cql", "iql_discrete"), (*WEIGHTS, *DATA)),
    "bc": ("weight nan", "weight inf", "rate x 1000"),  # learns from no rewards, and its actions are bounded
    **dict.fromkeys(("rlpd",), (*WEIGHTS, *REWARDS, *ROWS, *DATA)),
}


class State(NamedTuple):
    """A point that drifts, and what is added to its rewards and observations."""

    x: jax.Array
    reward: jax.Array
    obs: jax.Array


def env(discrete: bool, horizon: int) -> Env:
    """Episodes of so many steps, in which a poison stays until the end."""

    def reset(key: jax.Array) -> tuple[State, jax.Array]:
        x = jax.random.normal(key, (2,))
        return State(x, jnp.zeros(()), jnp.zeros(())), x

    def step(state: State, action: jax.Array, key: jax.Array) -> tuple[State, jax.Array, jax.Array, jax.Array]:
        x = 0.9 * state.x + 0.1 * action + 0.1 * jax.random.normal(key, (2,))
        return state._replace(x=x), x + state.obs, -jnp.square(x).sum() + state.reward, jnp.array(False)

    action = Discrete(3) if discrete else Array((2,), "float32", -1.0, 1.0)
    return batch_env(Spec(Array((2,)), action, horizon), reset, step, 1, f"point{int(discrete)}")


CONTINUOUS, DISCRETE, SHORT = env(False, 100), env(True, 100), env(True, 10)


def recorded(discrete: bool, poison: float = 0.0) -> Dataset:
    """Twenty episodes of five steps; ``poison`` is added to one reward."""
    rng, num = np.random.default_rng(0), 100
    obs, last = rng.normal(size=(num, 2)).astype(np.float32), np.arange(num) % 5 == 4
    action = rng.integers(0, 3, num).astype(np.int32) if discrete else rng.uniform(-1, 1, (num, 2)).astype(np.float32)
    reward = np.where(np.arange(num) == 7, poison, 0.0) + rng.normal(size=num)
    never = np.zeros(num, bool)
    return from_steps(Steps(obs, action, reward, obs + 0.1, never, last, last, ~never), Info("point", "rljax"))


def tiny(agent: Any) -> Any:
    """The agent's config with small networks."""
    names = {field.name for field in dataclasses.fields(agent.Config)}
    sizes = SIZES | ({"warmup": 40} | DRAMA if "ahead" in names else {})
    return override(agent.Config(), {name: value for name, value in sizes.items() if name in names})


def wild(config: Any, rate: Callable[[float], float]) -> Any:
    """``config`` with all its step sizes changed."""
    rates = [field.name for field in dataclasses.fields(config) if field.name.endswith("lr")]
    return override(config, {name: rate(getattr(config, name)) for name in rates})


def run(name: str, poison: str = "", out: Path | None = None, seeds: int | None = None) -> training.Result:
    """A run of two seeds of two configs, or of so many ``seeds`` of one; without a ``poison`` it is calm."""
    agent = importlib.import_module(f"rljax.agents.{name}")
    discrete = name.endswith("discrete") or name in ("dqn", "ppo", "drama", "sqirl")
    kind, _, how = poison.partition(" ")
    config, value = tiny(agent), float(how) if how in ("nan", "inf") else 0.0
    rates = {"x 1000": lambda x: 1000 * x, "1e30": lambda x: 1e30}
    configs = [config, wild(config, rates.get(how, lambda x: 0.9 * x))] if seeds is None else config
    needs = not hasattr(config, "warmup") and name not in ("ppo", "sqirl") or hasattr(config, "recorded")
    kwargs = {"data": recorded(discrete, value if kind == "data" else 0.0)} if needs else {}
    counts = {"steps": STEPS, "eval_every": AT, "eval_episodes": 2, "log_every": CHUNK}
    with injected(kind, value) if kind in ("weight", "row", "reward", "obs") else contextlib.nullcontext():
        where = SHORT if name == "sqirl" else DISCRETE if discrete else CONTINUOUS  # a chunk of whole episodes
        return training.train(agent, configs, where, seeds=seeds or 2, out=out, **counts, **kwargs)


@contextlib.contextmanager
def injected(kind: str, value: float) -> Iterator[None]:
    """Within the block, the second learner is poisoned at the first chunk that begins at step `AT` or later."""
    chunk, done = training._chunk, []

    def poisoned(setup: Any, at: training.Progress, data: Any) -> Any:
        if not done and at.iteration * setup.stride >= AT and value != 0.0:
            done.append(True)
            at = at._replace(state=_poisoned(at.state, kind, value))
        return chunk(setup, at, data)

    with mock.patch.object(training, "_chunk", poisoned):
        yield


def _poisoned(state: Any, kind: str, value: float) -> Any:
    if kind == "row":
        reward = state.ring.reward.at[ILL, 3].set(value)
        return state._replace(ring=state.ring._replace(reward=reward))
    if kind in ("reward", "obs"):
        point, age = state.env
        return state._replace(env=(point._replace(**{kind: getattr(point, kind).at[ILL].set(value)}), age))
    leaves, structure = jax.tree.flatten(state.agent)
    where = next(i for i, x in enumerate(leaves) if jnp.issubdtype(x.dtype, jnp.inexact) and x.ndim > 1)
    leaves[where] = leaves[where].at[ILL].set(value)
    return state._replace(agent=jax.tree.unflatten(structure, leaves))


def faults(poison: str, calm: training.Result, mixed: training.Result) -> list[str]:
    """What is not as it should be in a run with a ``poison``, beside the run without."""
    found, learners = [], mixed.setup.learners
    expected = {ILL} if poison.split()[0] in ("weight", "row", "reward", "obs") else set(range(len(learners)))
    if poison.startswith("rate"):
        expected = {i for i, (_, config) in enumerate(learners) if config == 1}
    ill = {i for i, dead in enumerate(mixed.diverged) if dead}
    if any(calm.diverged):
        found.append("the calm run diverged")
    if ill != expected and not (poison == "rate x 1000" and ill <= expected):
        found.append(f"learners {sorted(ill)} are marked, not {sorted(expected)}")
    if not {i for i in range(len(learners)) if not _finite(mixed, i)} <= ill:
        found.append("a learner that is not marked has numbers that are not finite")
    begin = 0 if poison.split()[0] in ("rate", "data") else AT
    for i in sorted(ill):
        marked = [row["step"] for row in _rows(mixed, i) if row.get("diverged")]
        last = _warm(mixed) if begin < _warm(mixed) else begin
        if poison != "rate x 1000" and (not marked or min(marked) > max(begin, last) + CHUNK):
            found.append(f"learner {i} is marked from step {min(marked, default=None)} on")
        if any(not row.get("diverged") for row in _rows(mixed, i) if marked and row["step"] > min(marked)):
            found.append(f"learner {i} is not marked in every row after that")
    for i in set(range(len(learners))) - expected:
        if repr(_rows(mixed, i)) != repr(_rows(calm, i)) or _learned(mixed, i) != _learned(calm, i):
            found.append(f"learner {i}, a neighbour, is another one than in the calm run")
    return found


def _warm(result: training.Result) -> int:
    return result.setup.warmup * result.setup.stride


def _rows(result: training.Result, i: int) -> list[dict[str, Any]]:
    return [row for row in result.rows if (row["seed"], row["config"]) == result.setup.learners[i]]


def _learned(result: training.Result, i: int) -> str:
    return store.digest(jax.tree.map(lambda x: x[i], result.state))


def _finite(result: training.Result, i: int) -> bool:
    leaves = [np.asarray(x[i]) for x in jax.tree.leaves(result.state) if jnp.issubdtype(x.dtype, jnp.inexact)]
    rows = [row for row in _rows(result, i) if row["kind"] == "train"]
    numbers = [value for row in rows for value in row.values() if isinstance(value, float)]
    return all(np.isfinite(x).all() for x in leaves) and bool(np.isfinite(numbers).all())


@dataclass(frozen=True)
class Divergence:
    """Poison every agent in every way, and say what came of it."""

    out: Path | None = None  # the JSON file, of which --only changes its agent
    only: str | None = None  # one agent


def main(given: Divergence) -> int:
    """Run all; 1 if anything was not as it should be."""
    found: dict[str, dict[str, Any]] = {}
    for name in TABLE if given.only is None else (given.only,):
        with contextlib.redirect_stdout(io.StringIO()):
            calm, mixed = run(name), {poison: run(name, poison) for poison in TABLE[name]}
        found[name] = {poison: {"diverged": sum(x.diverged), "faults": faults(poison, calm, x)} for poison, x in mixed.items()}
        print(name, json.dumps(found[name]), flush=True)
    if given.only and given.out and given.out.exists():
        found = json.loads(given.out.read_text())["agents"] | found
    rows = [row for agent in found.values() for row in agent.values()]
    total = {"agents": len(found), "runs": len(rows), "learners diverged": sum(row["diverged"] for row in rows)}
    total["faults"] = sum(map(len, (row["faults"] for row in rows)))
    if given.out is not None:
        given.out.write_text(json.dumps({"total": total, "agents": found}, indent=1) + "\n")
    return int(total["faults"] > 0)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Divergence)))
