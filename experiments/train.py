"""`train`: what the notebook, the command line and the launcher all call; `load`: a finished or stopped run, from disk."""

from __future__ import annotations

import functools
import importlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax import evaluate, loops, store
from rljax.base import Agent, Array, Env, InputError, to_env_units
from rljax.config import from_dict, stack, to_dict
from rljax.experiments import machine, progress
from rljax.experiments.machine import stop_signals

PyTree = Any
Rows = list[dict[str, Any]]

CHECKPOINT_SECONDS = 600.0  # a checkpoint is never older than this plus one chunk


@dataclass(frozen=True)
class Setup:
    """What a run is, and how far it goes. Counts are env steps per seed; one iteration is ``env.num_envs`` of them."""

    agent: ModuleType
    configs: tuple[Any, ...]
    env: Env
    seeds: tuple[int, ...]
    steps: int
    eval_every: int
    eval_episodes: int
    log_every: int

    @property
    def total(self) -> int:
        """Iterations in all."""
        return -(-self.steps // self.env.num_envs)

    @property
    def warmup(self) -> int:
        """Iterations of the random warm-up."""
        return -(-self.configs[0].warmup // self.env.num_envs)

    @property
    def stacked(self) -> Any:
        """The configs of all N = seeds x configs learners, the config varying fastest."""
        return stack(self.configs * len(self.seeds))

    @property
    def learners(self) -> list[tuple[int, int]]:
        """``(seed, config row)`` of each learner."""
        return [(seed, row) for seed in self.seeds for row in range(len(self.configs))]

    @property
    def keys(self) -> jax.Array:
        """One key per learner, from its seed."""
        return jax.vmap(jax.random.key)(jnp.asarray([seed for seed, _ in self.learners], jnp.uint32))

    def capacity(self, at_least: int = 0) -> int:
        """Transitions in each learner's ring: the config's, but no more than the run has steps."""
        return max(min(self.configs[0].capacity, self.total * self.env.num_envs), at_least)

    def boundary(self, t: int) -> int:
        """The iteration at which the chunk that starts at ``t`` ends."""
        log, evaluation = (-(-every // self.env.num_envs) for every in (self.log_every, self.eval_every))
        marks = [t - t % log + log, t - t % evaluation + evaluation, self.total]
        return min(marks + [self.warmup] * (t < self.warmup))

    def evaluates(self, t: int) -> bool:
        """Whether there is an evaluation after iteration ``t``."""
        return t % -(-self.eval_every // self.env.num_envs) == 0 or t == self.total

    def loop(self, t: int) -> Callable[..., loops.Loop]:
        """The loop that makes iteration ``t``."""
        return loops.warm_up if t < self.warmup else loops.online

    def describe(self) -> dict[str, Any]:
        """All of it as JSON; what is not in `CHANGEABLE` identifies the run."""
        configs = [to_dict(config) for config in self.configs]
        return {
            "agent": self.agent.__name__.removeprefix("rljax.agents."),
            "env": self.env.name,
            "config": configs[0] if len(configs) == 1 else configs,
            "seeds": list(self.seeds),
            "num_envs": self.env.num_envs,
            "eval_every": self.eval_every,
            "log_every": self.log_every,
            "steps": self.steps,
            "eval_episodes": self.eval_episodes,
        }


CHANGEABLE = ("steps", "eval_episodes")
_SETTINGS = frozenset({"agent", "env", "config", "seeds", "num_envs", "eval_every", "log_every", *CHANGEABLE})


class Progress(NamedTuple):
    """A run at an iteration: the learners' states [N], which of them are finite [N], and what checkpoints keep beside."""

    iteration: int
    state: loops.LoopState
    alive: jax.Array
    capacity: int


@dataclass(frozen=True)
class Result:
    """A run that has ended or was stopped: ``rows`` as in metrics.jsonl, and the learners at ``step`` env steps."""

    setup: Setup
    step: int
    rows: Rows
    state: PyTree
    diverged: tuple[bool, ...]
    out: Path | None

    def agent(self, seed: int = 0, config: int = 0) -> tuple[Agent, PyTree]:
        """``(agent, state)`` of the seed at index ``seed`` and the config at index ``config``; for a loop of your own."""
        setup = self.setup
        agent = setup.agent.make(setup.env.spec, setup.configs[config])
        index = seed * len(setup.configs) + config
        return agent, jax.tree.map(lambda x: x[index], self.state)

    def policy(self, seed: int = 0, config: int = 0) -> Callable[[Any], np.ndarray]:
        """``policy(obs) -> action``: the greedy policy for one observation or a batch of them, in the env's own units."""
        agent, state = self.agent(seed, config)
        spec = self.setup.env.spec

        @jax.jit
        def act(obs: jax.Array) -> jax.Array:
            action, _ = agent.mode(state, agent.memory(obs.shape[0]), obs)
            return to_env_units(spec.action, action) if isinstance(spec.action, Array) else action

        def policy(obs: Any) -> np.ndarray:
            obs = jnp.asarray(obs, spec.obs.dtype)
            single = obs.ndim == len(spec.obs.shape)
            action = np.asarray(act(obs[None] if single else obs))
            return action[0] if single else action

        return policy

    def plot(self, metric: str = "eval/return") -> Any:
        """A matplotlib figure of ``metric`` over env steps: one line per seed, their IQM and its 95 % interval."""
        from rljax.experiments import report

        return report.curve(self.rows, metric, self.setup.describe())


def train(
    agent: ModuleType,
    config: Any = None,
    env: Env | str = "pendulum",
    *,
    seeds: int | Sequence[int] = 1,
    steps: int = 20_000,
    eval_every: int = 5_000,
    eval_episodes: int = 10,
    num_envs: int | None = None,
    log_every: int = 500,
    out: str | Path | None = None,
    fresh: bool = False,
) -> Result:
    """Train ``agent`` (a module such as `rljax.agents.sac`) on ``env`` with several seeds in one program.

    ``config`` is the agent's Config, or a list of them that differ in numbers only: each is trained with each seed.
    ``steps``, ``eval_every`` and ``log_every`` count env steps per seed. With ``out``, everything is kept in that folder,
    and the same call continues a run that was stopped or killed; a larger ``steps`` extends it; ``fresh`` moves an
    earlier run aside. Ctrl-C stops at the end of a chunk.

    Raises:
        InputError: for anything that cannot work, before anything is computed or written.
    """
    setup = prepare(
        agent,
        config,
        env,
        seeds=seeds,
        steps=steps,
        eval_every=eval_every,
        eval_episodes=eval_episodes,
        num_envs=num_envs,
        log_every=log_every,
    )
    _say_rounding(setup)
    machine.require_memory(*_bytes(setup), progress.say)
    if out is None:
        return _run(setup, None)
    out = Path(out).absolute()
    if fresh and out.exists():
        with store.locked(out):
            pass
        aside = store.set_aside(out)
        progress.say(f"moved the earlier run to {aside}")
    with store.locked(out):
        _identify(setup, out)
        return _run(setup, out)


def load(out: str | Path) -> Result:
    """The run in folder ``out`` as it stands at its newest checkpoint.

    Raises:
        InputError: if the folder holds no run, no checkpoint, or an agent or env that is not part of rljax.
    """
    out = Path(out).absolute()
    setup = _read_setup(out)
    found = store.newest(out, progress.warn)
    if found is None:
        raise InputError(f"{out} has no whole checkpoint yet: run its command until the first evaluation")
    step, host = found
    state = store.load(out, step, "agent", _shapes(setup, host["capacity"]).agent)
    rows = [row for row in store.read_rows(out / "metrics.jsonl") if row["step"] <= step]
    return Result(setup, step, rows, state, tuple(host["diverged"]), out)


def prepare(
    agent: ModuleType,
    config: Any,
    env: Env | str,
    *,
    seeds: int | Sequence[int],
    steps: int,
    eval_every: int,
    eval_episodes: int,
    num_envs: int | None = None,
    log_every: int = 500,
) -> Setup:
    """The `Setup` that `train` makes of its arguments; `InputError` for the first that cannot work."""
    from rljax import envs

    counts = {"steps": steps, "eval_every": eval_every, "eval_episodes": eval_episodes, "log_every": log_every}
    for name, value in counts.items():
        if value < 1:
            raise InputError(f"{name} must be at least 1, got {value}")
    if isinstance(env, str):
        made = envs.make(env, 1 if num_envs is None else num_envs)
    else:
        made = env if num_envs is None else _resized(env, num_envs)
    configs = tuple(config) if isinstance(config, list | tuple) else (agent.Config() if config is None else config,)
    for row in configs:
        agent.check(row, made.spec)
    seeds = tuple(range(seeds)) if isinstance(seeds, int) else tuple(sorted(seeds))
    if not seeds or len(set(seeds)) < len(seeds) or not all(0 <= seed < 2**32 - 10_000 for seed in seeds):
        raise InputError(f"seeds must be at least one number, distinct, from 0 to {2**32 - 10_001}, got {list(seeds)}")
    stack(configs)
    return Setup(agent, configs, made, seeds, steps, eval_every, eval_episodes, log_every)


def _say_rounding(setup: Setup) -> None:
    num_envs = setup.env.num_envs
    for name, value in (("steps", setup.steps), ("eval_every", setup.eval_every)):
        if value % num_envs:
            progress.say(
                f"{name} {value} is rounded up to {-(-value // num_envs) * num_envs}, a multiple of num_envs {num_envs}"
            )


def _identify(setup: Setup, out: Path) -> None:
    """Write config.json and versions.json, or hold the setup against the ones that are there."""
    path, mine = out / "config.json", setup.describe()
    if path.exists():
        there = read_settings(out)
        fields = _differences({k: v for k, v in there.items() if k not in CHANGEABLE}, mine)
        if fields:
            raise InputError(f"{out} holds another configuration ({'; '.join(fields)}): use another --out, or --fresh")
    elif any(p.suffix != ".part" and p.name != ".lock" for p in out.iterdir()):
        raise InputError(f"{out} is not empty and holds no run: choose another folder with --out")
    store.write_json(path, mine)
    machine.write_versions(out / "versions.json", progress.say)


def _differences(there: Any, mine: Any, name: str = "") -> list[str]:
    if isinstance(there, dict) and isinstance(mine, dict):
        prefix = name + "." if name else ""
        return [d for k in there for d in _differences(there[k], mine.get(k), prefix + k)]
    mine = json.loads(json.dumps(mine))
    return [] if there == mine else [f"{name} is {there} there, {mine} here"]


def read_settings(out: Path) -> dict[str, Any]:
    """What `Setup.describe` wrote into config.json.

    Raises:
        InputError: if it is missing or damaged.
    """
    there = store.read_json(out / "config.json")
    if not (isinstance(there, dict) and _SETTINGS <= there.keys()):
        raise InputError(f"{out / 'config.json'} is damaged, settings are missing: restore it, or start anew with --fresh")
    return there


def _read_setup(out: Path) -> Setup:
    there = read_settings(out)
    from rljax import envs

    try:
        agent = importlib.import_module("rljax.agents." + there["agent"])
    except ImportError:
        raise InputError(f"{out} was made by agent {there['agent']}, which is not part of rljax: load it with train") from None
    rows = there["config"] if isinstance(there["config"], list) else [there["config"]]
    try:
        configs = tuple(from_dict(agent.Config, row) for row in rows)
    except (AttributeError, TypeError) as error:
        raise InputError(f"{out / 'config.json'} does not fit the config of {there['agent']} ({error})") from None
    return Setup(
        agent=agent,
        configs=configs,
        env=envs.make(there["env"], there["num_envs"]),
        seeds=tuple(there["seeds"]),
        **{name: there[name] for name in ("steps", "eval_every", "eval_episodes", "log_every")},
    )


def _run(setup: Setup, out: Path | None) -> Result:
    """Run to the end, or to the first boundary after a signal to stop."""
    num_envs, rows = setup.env.num_envs, []
    at, done = _begin(setup, out)
    rows += done
    if not rows:
        rows += _log(out, _evaluate(setup, at))
    saved, compiled = time.monotonic(), set()
    with progress.bar(setup.total * num_envs, at.iteration * num_envs) as bar, stop_signals() as stopped:
        while at.iteration < setup.total and not stopped():
            loop = setup.loop(at.iteration)
            if loop not in compiled:
                compiled.add(loop)
                at = _compile(setup, at, loop, out)
            begin = time.monotonic()
            at, new = _chunk(setup, at)
            timing = _timing(setup, at, len(new), begin)
            if setup.evaluates(at.iteration):
                new = sorted(new + _evaluate(setup, at), key=lambda row: (row["seed"], row["config"]))
            due = time.monotonic() - saved > CHECKPOINT_SECONDS or stopped() or _first(out)
            if out is not None and (due or setup.evaluates(at.iteration)):
                _save(out, at, new, num_envs)
                saved = time.monotonic()
            rows += _log(out, new)
            _log(out, [timing], "timing.jsonl")
            _show(bar, at.iteration * num_envs, new)
    if at.iteration < setup.total:
        progress.say(f"stopped at step {at.iteration * num_envs}; the same command continues from there")
    dead = tuple((~np.asarray(at.alive)).tolist())
    return Result(setup, at.iteration * num_envs, rows, at.state.agent, dead, out)


def _begin(setup: Setup, out: Path | None) -> tuple[Progress, Rows]:
    """The state to go on from, and the rows that lead to it: the newest checkpoint's, or the beginning's."""
    found = None if out is None else store.newest(out, progress.say)
    if out is not None:
        store.drop_after(out, found[0] if found else -1)
    if out is None or found is None:
        if out is not None:
            store.truncate(out / "metrics.jsonl", 0)
        with progress.compiling("the agent"):
            state = jax.block_until_ready(_init(setup, setup.capacity()))
        return Progress(0, state, jnp.ones(len(setup.learners), bool), setup.capacity()), []
    step, host = found
    store.truncate(out / "metrics.jsonl", host["metrics_bytes"])
    store.append(out / "metrics.jsonl", host["pending"])
    shapes = _shapes(setup, host["capacity"])
    agent = store.load(out, step, "agent", shapes.agent)
    rest = store.load(out, step, "loop", shapes._replace(agent=()))
    capacity = setup.capacity(host["capacity"])
    state = rest._replace(agent=agent, ring=_grow(rest.ring, _shapes(setup, capacity).ring))
    progress.say(f"resumed at step {step}" if step < setup.steps else f"finished at step {step}")
    alive = ~jnp.asarray(host["diverged"])
    return Progress(host["iteration"], state, alive, capacity), store.read_rows(out / "metrics.jsonl")


def _save(out: Path, at: Progress, pending: Rows, num_envs: int) -> None:
    """Checkpoint ``at``, together with the rows that are about to be written."""
    metrics = out / "metrics.jsonl"
    host = {
        "iteration": at.iteration,
        "capacity": at.capacity,
        "diverged": (~np.asarray(at.alive)).tolist(),
        "metrics_bytes": metrics.stat().st_size if metrics.exists() else 0,
        "pending": "".join(store.encode(row) for row in pending),
    }
    store.save(out, at.iteration * num_envs, {"agent": at.state.agent, "loop": at.state._replace(agent=())}, host)


def _first(out: Path | None) -> bool:
    return out is not None and not (out / "checkpoints").exists()


def _grow(ring: PyTree, shapes: PyTree) -> PyTree:
    """The ring with empty slots after the last; exact as long as it has not wrapped around."""
    return jax.tree.map(lambda x, s: jnp.zeros(s.shape, s.dtype).at[:, : x.shape[1]].set(x), ring, shapes)


def _log(out: Path | None, rows: Rows, name: str = "metrics.jsonl") -> Rows:
    if out is not None:
        store.append(out / name, "".join(store.encode(row) for row in rows))
    return rows


def _compile(setup: Setup, at: Progress, loop: Callable[..., loops.Loop], out: Path | None) -> Progress:
    """Compile the chunk of ``loop`` by running no iteration of it."""
    begin = time.monotonic()
    with progress.compiling("the warm-up" if loop is loops.warm_up else "the updates"):
        state, alive, _ = jax.block_until_ready(_run_chunk(setup, at, loop, 0))
    step = at.iteration * setup.env.num_envs
    _log(out, [{"step": step, "compiled": loop.__name__, "seconds": round(time.monotonic() - begin, 2)}], "timing.jsonl")
    return at._replace(state=state, alive=alive)


def _chunk(setup: Setup, at: Progress) -> tuple[Progress, Rows]:
    """One chunk of training, and a row for each learner."""
    loop, stop = setup.loop(at.iteration), setup.boundary(at.iteration)
    num = stop - at.iteration
    state, alive, sums = _run_chunk(setup, at, loop, num)
    sums = jax.tree.map(np.asarray, sums)
    rows = []
    for i, (seed, row) in enumerate(setup.learners):
        episodes = {name: float(sums[f"episode/{name}"][i]) for name in ("count", "return", "length")}
        values = {name: float(x[i] / num) for name, x in sums.items() if not name.startswith("episode/")}
        if episodes["count"]:
            values["train/return"] = episodes["return"] / episodes["count"]
            values["train/length"] = episodes["length"] / episodes["count"]
        values["train/episodes"] = int(episodes["count"])
        phase = "warmup" if loop is loops.warm_up else "online"
        head = {"step": stop * setup.env.num_envs, "seed": seed, "config": row, "phase": phase, "kind": "train"}
        rows.append(head | values | ({} if alive[i] else {"diverged": True}))
    for (seed, row), before, after in zip(setup.learners, at.alive, alive, strict=True):
        if before and not after:
            which = f"seed {seed}" if len(setup.configs) == 1 else f"seed {seed} of config {row}"
            progress.say(f"{which} diverged by step {stop * setup.env.num_envs}: it is frozen, its rows are marked")
    return Progress(stop, state, alive, at.capacity), rows


def _evaluate(setup: Setup, at: Progress) -> Rows:
    """A row for each learner, from one batch of whole episodes."""
    step = at.iteration * setup.env.num_envs
    env = _resized(setup.env, setup.eval_episodes)
    seeds = jnp.asarray([10_000 + seed for seed, _ in setup.learners], jnp.uint32)
    if at.iteration == 0:
        with progress.compiling("the evaluation"):
            out = _episodes(setup.agent.make, env, setup.stacked, at.state.agent, seeds, step)
            out = jax.block_until_ready(out)
    else:
        out = _episodes(setup.agent.make, env, setup.stacked, at.state.agent, seeds, step)
    phase = "warmup" if at.iteration <= setup.warmup else "online"
    rows = []
    for (seed, row), returns, lengths, alive in zip(setup.learners, *map(np.asarray, out), at.alive, strict=True):
        head = {"step": step, "seed": seed, "config": row, "phase": phase, "kind": "eval"}
        values = {
            "eval/return": float(returns.mean(dtype=np.float64)),
            "eval/return_std": float(returns.std(dtype=np.float64)),
            "eval/length": float(lengths.mean()),
            "eval/episodes": len(returns),
        }
        rows.append(head | values | ({} if alive else {"diverged": True}))
    return rows


def _timing(setup: Setup, at: Progress, learners: int, begin: float) -> dict[str, Any]:
    seconds = time.monotonic() - begin
    return {"step": at.iteration * setup.env.num_envs, "seconds": round(seconds, 4), "learners": learners}


def _show(bar: Any, step: int, rows: Rows) -> None:
    bar.update(step - bar.n)
    last = {(row["seed"], row["config"]): row["train/return"] for row in rows if "train/return" in row}
    if last:
        bar.set_postfix_str("last return " + " ".join(f"{x:.0f}" for x in last.values()))
    scores = [row["eval/return"] for row in rows if row["kind"] == "eval"]
    if scores:
        progress.say(f"step {step}  eval/return " + " ".join(f"{x:.1f}" for x in scores))


@functools.lru_cache(maxsize=16)
def _resized(env: Env, num_envs: int) -> Env:
    return env.resize(num_envs)


def _init(setup: Setup, capacity: int) -> loops.LoopState:
    return _jit_init(setup.agent.make, setup.env, capacity, setup.stacked, setup.keys)


def _shapes(setup: Setup, capacity: int) -> loops.LoopState:
    return jax.eval_shape(lambda: _init(setup, capacity))


def _bytes(setup: Setup) -> tuple[int, int]:
    """Bytes of replay, and of all else that a run keeps, for all learners."""
    shapes = _shapes(setup, setup.capacity())
    ring, all_bytes = (sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(t)) for t in (shapes.ring, shapes))
    return ring, all_bytes - ring


def _run_chunk(
    setup: Setup, at: Progress, loop: Callable[..., loops.Loop], num: int
) -> tuple[loops.LoopState, jax.Array, loops.Metrics]:
    t, num = jnp.int32(at.iteration), jnp.int32(num)
    return _jit_run(loop, setup.agent.make, setup.env, at.capacity, setup.stacked, at.state, at.alive, t, num)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _jit_init(make: Callable, env: Env, capacity: int, config: Any, keys: jax.Array) -> loops.LoopState:
    # a map: under vmap the same initialisers compile for twice as long
    return jax.lax.map(lambda x: _online(make, env, capacity, x[0]).init(x[1]), (config, keys))


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3), donate_argnums=5)
def _jit_run(
    loop: Callable[..., loops.Loop],
    make: Callable,
    env: Env,
    capacity: int,
    config: Any,
    state: loops.LoopState,
    alive: jax.Array,
    t: jax.Array,
    num: jax.Array,
) -> tuple[loops.LoopState, jax.Array, loops.Metrics]:
    build = lambda c: loop(make(env.spec, c), env, c.batch_size, capacity)  # noqa: E731
    return loops.run(build, config, state, alive, t, num, ())


@functools.partial(jax.jit, static_argnums=(0, 1))
def _episodes(
    make: Callable, env: Env, config: Any, state: PyTree, seeds: jax.Array, step: jax.Array
) -> tuple[jax.Array, jax.Array]:
    def one(config: Any, state: PyTree, seed: jax.Array) -> tuple[jax.Array, jax.Array]:
        key = jax.random.fold_in(jax.random.key(seed), step)
        return evaluate.episodes(make(env.spec, config), env, state, key)

    return jax.vmap(one)(config, state, seeds)


def _online(make: Callable, env: Env, capacity: int, config: Any) -> loops.Loop:
    return loops.online(make(env.spec, config), env, config.batch_size, capacity)
