"""`train`: what the notebook, the command line and the launcher all call; `load`: a finished or stopped run, from disk."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rljax import evaluate, loops, normalize, replay, store, transfer
from rljax.base import Agent, Array, Batch, Env, HostEnv, InputError, Spec, to_env_units
from rljax.data import Dataset, mc_returns, normalized_score, weights
from rljax.experiments import devices, machine, progress
from rljax.experiments.machine import stop_signals
from rljax.experiments.setup import (
    Reward,
    Setup,
    Start,
    checked_host,
    checked_rows,
    identity,
    prepare,
    read_setup,
    refuse_no_run,
    refuse_other,
)

PyTree = Any
Rows = list[dict[str, Any]]

CHECKPOINT_SECONDS = 600.0  # a checkpoint is never older than this plus one chunk
FIRST_CHECKPOINT_SECONDS = 10.0  # what keeps checkpoints from being written is found soon
SAID = 12  # learners whose scores are said one by one

# What one iteration of a loop is.
_WHAT = MappingProxyType(
    {
        loops.online: "num_envs",
        loops.on_policy: "one rollout's env steps,",
        loops.sequences: "the env steps of one update,",
        loops.episodes: "the env steps of one iteration's episodes,",
        loops.offline: "one update's critic steps,",
    }
)


class Progress(NamedTuple):
    """A run at an iteration: the learners' states [N], which of them are finite [N], and what checkpoints keep beside.

    What is [N] is spread over the devices, and padded, as of `rljax.experiments.devices`.
    """

    iteration: int
    state: loops.LoopState
    alive: jax.Array
    capacity: int


@dataclass(frozen=True)
class Result:
    """A run that has ended or was stopped: ``rows`` as in metrics.jsonl, and the learners at ``step``.

    ``stopped``: Ctrl-C or SIGTERM came, be it in the last steps.
    """

    setup: Setup
    step: int
    rows: Rows
    state: PyTree
    diverged: tuple[bool, ...]
    out: Path | None
    stopped: bool = False

    def agent(self, seed: int = 0, config: int = 0) -> tuple[Agent, PyTree]:
        """``(agent, state)`` of the seed at index ``seed`` and the config at index ``config``; for a loop of your own.

        Raises:
            InputError: if there is no such index.
        """
        setup = self.setup
        for name, index, of in (("seed", seed, setup.seeds), ("config", config, setup.configs)):
            if not 0 <= index < len(of):
                values = f" ({', '.join(map(str, setup.seeds))})" if name == "seed" else ""
                raise InputError(
                    f"the run has {len(of)} {name}s{values}: the index must be from 0 to {len(of) - 1}, got {index}"
                )
        agent = setup.agent.make(setup.spec, setup.configs[config])
        index = seed * len(setup.configs) + config
        return agent, jax.tree.map(lambda x: x[index], self.state)

    def policy(self, seed: int = 0, config: int = 0) -> Callable[[Any], np.ndarray]:
        """``policy(obs) -> action``: the greedy policy for one observation or a batch of them, in the env's own units.

        ``seed`` and ``config`` are indices, as in `agent`.

        Raises:
            InputError: if there is no such index, or the agent has a memory.
        """
        agent, state = self.agent(seed, config)
        spec = self.setup.spec
        if agent.memory(1) != ():
            name = self.setup.agent.__name__.rpartition(".")[2]
            raise InputError(f"what {name} does depends on more than one observation: use agent() and its memory")

        @jax.jit
        def act(obs: jax.Array) -> jax.Array:
            action, _ = agent.mode(state, agent.memory(obs.shape[0]), obs)
            return to_env_units(spec.action, action) if isinstance(spec.action, Array) else action

        def policy(obs: Any) -> np.ndarray:
            obs = jnp.asarray(obs, spec.obs.dtype)
            single = obs.ndim == len(spec.obs.shape)
            if obs.shape[0 if single else 1 :] != spec.obs.shape:
                raise InputError(f"observations must have shape {spec.obs.shape}, or one axis before it, got {obs.shape}")
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
    env: Env | HostEnv | str | None = "pendulum",
    *,
    seeds: int | Sequence[int] = 1,
    steps: int = 20_000,
    eval_every: int = 5_000,
    eval_episodes: int = 10,
    num_envs: int | None = None,
    log_every: int = 500,
    data: Dataset | str | Path | None = None,
    sampling: str = "uniform",
    reward: Reward | None = None,
    action_bounds: tuple[float, float] | None = None,
    start: Start | None = None,
    out: str | Path | None = None,
    fresh: bool = False,
) -> Result:
    """Train ``agent`` (a module such as `rljax.agents.sac`) on ``env`` with several seeds in one program.

    ``config`` is the agent's Config, or a list of them that differ in numbers only: each is trained with each seed.
    ``steps``, ``eval_every`` and ``log_every`` count env steps per seed. With ``out``, everything is kept in that folder,
    and the same call continues a run that was stopped or killed; a larger ``steps`` extends it; ``fresh`` moves an
    earlier run aside. Ctrl-C stops at the end of a chunk.

    An offline agent learns from ``data`` (a data set, its file or name) instead, and ``steps`` count its critic gradient
    steps; ``env`` is only for evaluation, and may be None if ``data`` or ``action_bounds`` tell the actions' bounds.
    ``sampling`` is "uniform", "rw:TEMPERATURE", "aw:TEMPERATURE" or "top:PERCENT" (`rljax.data.weights`).

    ``reward`` is what becomes of every reward that enters a loss; logs and evaluations hold raw ones. With ``start`` any agent
    that learns from rewards does so online, from where another run has ended (`Start`); ``data`` is then what is retained, and
    ``reward``, if it is None, that of the run before.

    Raises:
        InputError: for anything that cannot work, before anything is computed or written.
    """
    if start is not None:
        start = _with_result(start)
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
        data=data,
        sampling=sampling,
        reward=reward,
        action_bounds=action_bounds,
        start=start,
    )
    check_start(setup)
    return _run(setup, None) if out is None else _run_in(setup, Path(out).absolute(), fresh)


def _with_result(start: Any) -> Start:
    if not isinstance(start, Start):
        raise InputError(f"start must be rljax.Start(run), got {start!r}")
    if isinstance(start.run, str | Path):
        return dataclasses.replace(start, run=load(start.run))
    if not isinstance(start.run, Result):
        raise InputError(f"the run to start from must be a run's folder or a result of train, got {start.run!r}")
    return start


def refuse_own_start(setup: Setup, out: Path, fresh: bool) -> None:
    """Raise `InputError` if the run would take the place of the one that it goes on from, or move it aside."""
    there = setup.origin.out if setup.origin else None
    if there is not None and (out == there or (fresh and out in there.parents)):
        raise InputError(f"{out} holds the run to go on from: choose another folder with --out")


def set_aside(out: Path) -> None:
    """Move the run in the folder aside, if there is one; `InputError` if it holds something else."""
    if out.exists():
        with store.locked(out):
            refuse_no_run(out)
        progress.say(f"moved the earlier run to {store.set_aside(out)}")


def planned(setup: Setup) -> Result:
    """What `train` will give, with shapes for arrays: a run to `Start` from in a plan."""
    state = _shapes(setup, setup.capacity()).agent
    return Result(setup, setup.total * setup.stride, [], state, (False,) * len(setup.learners), None)


def check_start(setup: Setup) -> None:
    """Raise `InputError` unless the learners can go on from the run before, of which shapes suffice."""
    if setup.origin is not None:
        jax.eval_shape(functools.partial(_beginning, setup), setup.origin.state)


def _run_in(setup: Setup, out: Path, fresh: bool) -> Result:
    refuse_own_start(setup, out, fresh)
    if fresh:
        set_aside(out)
    with store.locked(out):
        refuse_other(setup, out)
        return _run(setup, out)


def programs() -> int:
    """How many programs for chunks of training this process has compiled so far."""
    return _jit_run._cache_size()  # type: ignore[attr-defined,no-any-return]


def load(out: str | Path) -> Result:
    """The run in folder ``out`` as it stands at its newest checkpoint.

    Raises:
        InputError: if the folder holds no run, no checkpoint, or an agent or env that is not part of rljax.
    """
    out = Path(out).absolute()
    setup = read_setup(out)
    found = checked_host(out, store.newest(out, progress.warn))
    if found is None:
        raise InputError(f"{out} has no whole checkpoint: run its command, at least until the first checkpoint")
    step, host = found
    _refuse_changed_settings(setup, out, host)
    state = store.load(out, step, "agent", _shapes(setup, host["capacity"]).agent)
    rows = [row for row in read_rows(out) if row["step"] <= step]
    return Result(setup, step, rows, state, tuple(host["diverged"]), out)


def load_ring(out: str | Path) -> tuple[Setup, PyTree, int]:
    """``(setup, ring, rows)``: the first learner's replay [slots, E, ...] at the newest checkpoint, and the rows added to it.

    Raises:
        InputError: as `load`, and if the run has no replay.
    """
    out = Path(out).absolute()
    setup = load(out).setup
    if not setup.replays:
        kept = "sequences of env steps" if setup.learning is loops.sequences else "episodes that it did not keep"
        raise InputError(f"{out} learned from {kept if setup.interacts else 'recorded data'}: it has no replay of transitions")
    step, host = store.newest(out, progress.warn) or (0, {})
    rest = store.load(out, step, "loop", _shapes(setup, host["capacity"])._replace(agent=()))
    num_envs = setup.env.num_envs if setup.env else 1
    ring = jax.tree.map(lambda x: x[0].reshape(-1, num_envs, *x.shape[2:]), rest.ring)
    return setup, ring, host["iteration"]


def read_rows(out: Path) -> Rows:
    """The rows of a run's metrics.jsonl.

    Raises:
        InputError: if they are damaged, or end before the newest checkpoint.
    """
    path = out / "metrics.jsonl"
    rows, host = store.read_rows(path), store.newest_host(out)
    if host is not None:
        host = store.require(out / "checkpoints", host, {"metrics_bytes": int, "metrics_digest": str})
        store.require_prefix(path, host["metrics_bytes"], host["metrics_digest"])
    return checked_rows(out, rows)


def _refuse_changed_settings(setup: Setup, out: Path, host: dict[str, Any]) -> None:
    if host["identity"] != identity(setup.describe()) or len(host["diverged"]) != len(setup.learners):
        raise InputError(f"{out / 'config.json'} was changed after the run began: restore it, or start anew with --fresh")


def _say_sizes(setup: Setup) -> None:
    """Say what is rounded up or will not be learned, and how much memory is needed; refuse what cannot fit."""
    machine.require_memory(*_bytes(setup), progress.say, setup.mesh.size if setup.mesh else 1)
    stride = setup.stride
    for name, value in (("steps", setup.steps), ("eval_every", setup.eval_every)):
        if value % stride:
            what = _WHAT[setup.learning]
            progress.say(f"{name} {value} is rounded up to {-(-value // stride) * stride}, a multiple of {what} {stride}")
    if setup.warmup >= setup.total:
        progress.say(f"nothing will be learned: all {setup.steps} steps are warm-up; make it shorter, or raise --steps")
    if setup.data is not None and setup.offline and setup.offline.sampling != "uniform":
        effective = weights.effective_episodes(weights.probabilities(setup.data, setup.offline.sampling))
        few = ", fewer than 20: expect to imitate these few" if effective < 20 else ""
        progress.say(
            f"sampling {setup.offline.sampling}: effectively {effective:.1f} of {len(setup.data.length)} episodes{few}"
        )


def _run(setup: Setup, out: Path | None) -> Result:
    """Run to the end, or to the first boundary after a signal to stop."""
    stride, rows = setup.stride, []
    _say_sizes(setup)
    if out is not None:
        store.write_json(out / "config.json", setup.describe())
        machine.write_versions(out / "versions.json", progress.say)
        if setup.origin is not None:
            store.write_json(out / "before.json", _rows_before(setup))
    data = _on_device(setup)
    at, done = _begin(setup, out)
    rows += done
    if not rows:
        rows += _log(out, _evaluate(setup, at))
        _say_scores(0, rows)
    saved, compiled, warned, stop = time.monotonic(), set(), _clipped(setup, rows), False
    with progress.bar(setup.total * stride, at.iteration * stride) as bar, stop_signals(progress.say) as stopped:
        while at.iteration < setup.total and not stop:
            loop = setup.loop(at.iteration)
            if loop not in compiled:
                compiled.add(loop)
                at = _compile(setup, at, data, out)
            begin = time.monotonic()
            at, new = _chunk(setup, at, data)
            timing = _timing(setup, at, len(new), begin)
            if setup.evaluates(at.iteration):
                new = sorted(new + _evaluate(setup, at), key=lambda row: (row["seed"], row["config"]))
            stop = stopped()  # asked once, so that where it stops there is a checkpoint
            if out is not None and (stop or setup.evaluates(at.iteration) or _due(out, saved)):
                _save(out, setup, at, new)
                saved = time.monotonic()
            rows += _log(out, new)
            _log(out, [timing], "timing.jsonl")
            _show(bar, at.iteration * stride, new)
            if not warned and (warned := _clipped(setup, new)):
                progress.say(warned)
    if at.iteration < setup.total:
        progress.say(f"stopped at step {at.iteration * stride}; the same command continues from there")
    agent, alive = devices.gather(setup.mesh, (at.state.agent, at.alive), len(setup.learners))
    return Result(setup, at.iteration * stride, rows, agent, tuple((~np.asarray(alive)).tolist()), out, stopped())


def _clipped(setup: Setup, rows: Rows) -> str:
    """A sentence on the first row in which more than 1 % of the targets lay outside the support of their head, or ""."""
    for row in rows:
        for name, part in (("critic/clipped", "head"), ("value/clipped", "value_head")):
            head = getattr(setup.configs[row["config"]], part, None)
            if row.get(name, 0.0) > 0.01 and hasattr(head, "low"):
                which = f"seed {row['seed']}" + (f" of config {row['config']}" if len(setup.configs) > 1 else "")
                return (
                    f"by step {row['step']}, {100 * row[name]:.0f} % of the targets of {which} lay outside "
                    f"the support [{head.low:g}, {head.high:g}] and were clipped to it: "
                    f"widen config.{part}.low and config.{part}.high"
                )
    return ""


def _begin(setup: Setup, out: Path | None) -> tuple[Progress, Rows]:
    """The state to go on from, and the rows that lead to it: the newest checkpoint's, or the beginning's."""
    found = None if out is None else checked_host(out, store.newest(out, progress.say))
    if found is None and out is not None and (out / "checkpoints").exists():
        progress.say("no whole checkpoint is left: starting from step 0")
    if found is not None and out is not None:
        _refuse_changed_settings(setup, out, found[1])
        store.require_prefix(out / "metrics.jsonl", found[1]["metrics_bytes"], found[1]["metrics_digest"])
    if out is not None:
        store.drop_half_line(out / "timing.jsonl")
        store.drop_after(out, found[0] if found else -1)
    if out is None or found is None:
        if out is not None:
            store.truncate(out / "metrics.jsonl", 0)
        _say_start(setup)
        with progress.compiling("the agent"):
            state = jax.block_until_ready(_beginning(setup, setup.origin.state if setup.origin else ()))
        alive = devices.spread(setup.mesh, ~np.array(_already_diverged(setup)))
        return Progress(0, state, alive, setup.capacity()), []
    step, host = found
    shapes = _shapes(setup, host["capacity"])
    agent = store.load(out, step, "agent", shapes.agent)
    rest = store.load(out, step, "loop", shapes._replace(agent=()))
    store.truncate(out / "metrics.jsonl", host["metrics_bytes"])
    store.append(out / "metrics.jsonl", host["pending"])
    capacity = setup.capacity(host["capacity"])
    larger = _shapes(setup, capacity)
    state = rest._replace(agent=agent, ring=_grow(rest.ring, larger.ring), extras=_grow(rest.extras, larger.extras))
    beyond = f", beyond the {setup.steps} asked for" if step > setup.total * setup.stride else ""
    progress.say(f"resumed at step {step}" if step < setup.steps else f"finished at step {step}{beyond}")
    state, alive = devices.spread(setup.mesh, (state, ~np.array(host["diverged"])))
    return Progress(host["iteration"], state, alive, capacity), checked_rows(out, store.read_rows(out / "metrics.jsonl"))


def _save(out: Path, setup: Setup, at: Progress, pending: Rows) -> None:
    """Checkpoint ``at``, together with the rows that are about to be written."""
    metrics = out / "metrics.jsonl"
    state, alive = devices.gather(setup.mesh, (at.state, at.alive), len(setup.learners))
    host = {
        "identity": identity(setup.describe()),
        "iteration": at.iteration,
        "capacity": at.capacity,
        "diverged": (~np.asarray(alive)).tolist(),
        "metrics_bytes": metrics.stat().st_size,
        "metrics_digest": store.file_digest(metrics),
        "pending": "".join(store.encode(row) for row in pending),
    }
    store.save(out, at.iteration * setup.stride, {"agent": state.agent, "loop": state._replace(agent=())}, host)


def _due(out: Path, saved: float) -> bool:
    """Whether it is long since a checkpoint was written at ``saved``, or since the run began, if there is none."""
    limit = CHECKPOINT_SECONDS if (out / "checkpoints").exists() else FIRST_CHECKPOINT_SECONDS
    return time.monotonic() - saved > limit


def _grow(ring: PyTree, shapes: PyTree) -> PyTree:
    """The ring with empty slots after the last; exact as long as it has not wrapped around."""
    return jax.tree.map(lambda x, s: jnp.zeros(s.shape, s.dtype).at[:, : x.shape[1]].set(x), ring, shapes)


def _log(out: Path | None, rows: Rows, name: str = "metrics.jsonl") -> Rows:
    if out is not None:
        store.append(out / name, "".join(store.encode(row) for row in rows))
    return rows


def _compile(setup: Setup, at: Progress, data: Any, out: Path | None) -> Progress:
    """Compile the chunk that comes next by running no iteration of it."""
    begin, loop = time.monotonic(), setup.loop(at.iteration)
    with progress.compiling("the warm-up" if setup.phase(at.iteration + 1) == "warmup" else "the updates"):
        state, _, _ = jax.block_until_ready(_run_chunk(setup, at, data, 0))
    step = at.iteration * setup.stride
    _log(out, [{"step": step, "compiled": loop.__name__, "seconds": round(time.monotonic() - begin, 2)}], "timing.jsonl")
    return at._replace(state=state)


def _chunk(setup: Setup, at: Progress, data: Any) -> tuple[Progress, Rows]:
    """One chunk of training, and a row for each learner."""
    stop = setup.boundary(at.iteration)
    num = stop - at.iteration
    state, alive, sums = _run_chunk(setup, at, data, num)
    sums, fine = jax.tree.map(np.asarray, (sums, alive))
    rows = []
    for i, (seed, row) in enumerate(setup.learners):
        values = {name: float(x[i] / num) for name, x in sums.items() if not name.startswith("episode/")}
        values |= _episode_means({name: float(x[i]) for name, x in sums.items() if name.startswith("episode/")})
        head = {"step": stop * setup.stride, "seed": seed, "config": row, "phase": setup.phase(stop), "kind": "train"}
        rows.append(head | values | ({} if fine[i] else {"diverged": True}))
    for (seed, row), before, after in zip(setup.learners, np.asarray(at.alive), fine, strict=False):
        if before and not after:
            which = f"seed {seed}" if len(setup.configs) == 1 else f"seed {seed} of config {row}"
            progress.say(f"{which} diverged by step {stop * setup.stride}: it is frozen, its rows are marked")
    return Progress(stop, state, alive, at.capacity), rows


def _episode_means(sums: dict[str, float]) -> dict[str, float]:
    """Means over the episodes that ended in a chunk, from a loop's sums; nothing without episodes."""
    count = sums.get("episode/count")
    if not count:
        return {} if count is None else {"train/episodes": 0}
    return {
        "train/return": sums["episode/return"] / count,
        "train/length": sums["episode/length"] / count,
        "train/episodes": int(count),
    }


def _evaluate(setup: Setup, at: Progress) -> Rows:
    """A row for each learner, from one batch of whole episodes; none without an env."""
    if setup.env is None:
        return []
    step, first = at.iteration * setup.stride, at.iteration == 0
    with progress.compiling("the evaluation") if first else contextlib.nullcontext():
        results = _returns(setup, at.state.agent, step)
    rows = []
    for (seed, row), returns, lengths, alive in zip(setup.learners, *results, np.asarray(at.alive), strict=False):
        head = {"step": step, "seed": seed, "config": row, "phase": setup.phase(at.iteration), "kind": "eval"}
        values = {
            "eval/return": float(returns.mean(dtype=np.float64)),
            "eval/return_std": float(returns.std(dtype=np.float64)),
            "eval/length": float(lengths.mean()),
            "eval/episodes": len(returns),
        }
        if setup.reference is not None:
            values["eval/normalized"] = float(normalized_score(values["eval/return"], setup.reference))
        rows.append(head | values | ({} if alive else {"diverged": True}))
    return rows


def _returns(setup: Setup, state: PyTree, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns and lengths [N, episodes] of all learners at ``step``."""
    env, config, make = setup.evaluated.resize(setup.eval_episodes), setup.stacked, setup.agent.make
    numbers, mesh = np.array([10_000 + seed for seed, _ in setup.learners], np.uint32), setup.mesh
    if isinstance(env, Env):
        config, spread = devices.spread(mesh, (config, numbers))
        returns, lengths = _episodes(make, env, mesh, config, state, spread, np.int32(step))
        return np.asarray(returns), np.asarray(lengths)
    state = devices.gather(mesh, state, len(setup.learners))

    def act(obs: np.ndarray) -> np.ndarray:
        return np.asarray(_modes(make, setup.spec, config, state, obs))

    return evaluate.host_episodes(act, env, np.asarray(_start_seeds(numbers, step, env.num_envs)))


def _timing(setup: Setup, at: Progress, learners: int, begin: float) -> dict[str, Any]:
    seconds = time.monotonic() - begin
    return {"step": at.iteration * setup.stride, "seconds": round(seconds, 4), "learners": learners}


def _show(bar: Any, step: int, rows: Rows) -> None:
    bar.update(step - bar.n)
    last = {(row["seed"], row["config"]): row["train/return"] for row in rows if "train/return" in row}
    if last:
        bar.set_postfix_str("last return " + " ".join(f"{x:.0f}" for x in last.values()))
    _say_scores(step, rows)


def _say_scores(step: int, rows: Rows) -> None:
    scores = [row["eval/return"] for row in rows if row["kind"] == "eval"]
    if len(scores) > SAID:
        low, middle, high = np.quantile(scores, [0.0, 0.5, 1.0])
        progress.say(f"step {step}  eval/return of {len(scores)}: median {middle:.1f}, from {low:.1f} to {high:.1f}")
    elif scores:
        progress.say(f"step {step}  eval/return " + " ".join(f"{x:.1f}" for x in scores))


def _init(setup: Setup, capacity: int, mesh: Mesh | None = None) -> loops.LoopState:
    build, statics = _builder(setup, 0, capacity)
    state: loops.LoopState = _jit_init(build, statics, mesh, *devices.spread(mesh, (setup.stacked, setup.keys)))
    return state


def _beginning(setup: Setup, before: PyTree) -> loops.LoopState:
    """All learners' first states: fresh, with the data set's statistics if asked for, or taken over from ``before``."""
    state = _init(setup, setup.capacity(), setup.mesh)
    if setup.origin is not None:
        before = jax.tree.map(lambda x: jnp.take(x, jnp.asarray(_predecessors(setup)), 0), before)
        before = devices.spread(setup.mesh, before)
        take_over = functools.partial(transfer.transfer, parts=setup.switch.initialise)
        return state._replace(agent=jax.vmap(take_over)(state.agent, before))
    if setup.data is None or setup.configs[0].obs_stats is not normalize.dataset:
        return state
    stats = normalize.of(setup.data.transition.obs, setup.spec.obs)
    stats = devices.spread(setup.mesh, jax.tree.map(lambda x: jnp.repeat(x[None], len(setup.learners), 0), stats))
    return state._replace(agent=state.agent._replace(stats=stats))


def _say_start(setup: Setup) -> None:
    """Say where a run goes on from, if that is not the end of a run, and what it does not find there."""
    if setup.origin is None:
        return
    before = setup.origin.setup
    if setup.origin.step < before.steps:
        progress.say(f"the run to go on from has made {setup.origin.step} of its {before.steps} steps")
    missing = [name for name in _shapes(setup, setup.capacity()).agent._fields if name not in setup.origin.state._fields]
    if missing:
        progress.say(f"{' and '.join(missing)} of {before.agent.__name__.rpartition('.')[2]} are missing: they start anew")


def _predecessors(setup: Setup) -> list[int]:
    """For each learner the index of the one that it goes on from: that of its seed, or the only one."""
    seeds = setup.origin.setup.seeds
    return [seeds.index(seed) if seed in seeds else 0 for seed, _ in setup.learners]


def _rows_before(setup: Setup) -> Rows:
    """The evaluations of the run before, one for each learner of this one; its steps are counted back from 0."""
    rows: dict[tuple[int, int], dict[str, Any]] = {}
    for row in setup.origin.rows:
        if row["kind"] == "eval" and row["step"] < setup.origin.step:
            rows.setdefault((row["step"], row["seed"]), row)
    seeds, learners = setup.origin.setup.seeds, zip(setup.learners, _predecessors(setup), strict=True)
    moved = [
        rows[step, seeds[i]] | {"step": step - setup.origin.step, "seed": seed, "config": config}
        for (seed, config), i in learners
        for step in sorted({step for step, _ in rows})
    ]
    return sorted(moved, key=lambda row: row["step"])


def _already_diverged(setup: Setup) -> list[bool]:
    """For each learner whether the one that it goes on from had diverged."""
    if setup.origin is None:
        return [False] * len(setup.learners)
    return [setup.origin.diverged[i] for i in _predecessors(setup)]


def _shapes(setup: Setup, capacity: int) -> loops.LoopState:
    return jax.eval_shape(lambda: _init(setup, capacity))


def _bytes(setup: Setup) -> tuple[int, int, int]:
    """Bytes of replay, of all else that the learners keep, and of the data set that they share."""
    shapes = _shapes(setup, setup.capacity())
    ring, all_bytes = (_num_bytes(t) for t in (shapes.ring, shapes))
    return ring, all_bytes - ring, 0 if setup.data is None else _num_bytes(setup.data.transition)


def num_bytes(setup: Setup) -> int:
    """Bytes that a run takes on its device."""
    return sum(_bytes(setup))


def speed(setup: Setup, seconds: float) -> tuple[float, float]:
    """``(seconds to compile, iterations per second)`` of learning, measured for at least ``seconds``; nothing is kept."""
    alive, data = devices.spread(setup.mesh, jnp.ones(len(setup.learners), bool)), _on_device(setup)
    at = Progress(setup.warmup, _beginning(setup, ()), alive, setup.capacity())
    num, taken, compiled = 0, 0.0, 0.0
    while taken < seconds:
        begin = time.monotonic()
        state, _, _ = jax.block_until_ready(_run_chunk(setup, at, data, num))
        taken, at = time.monotonic() - begin, at._replace(state=state)
        if num == 0:
            compiled, taken = taken, 0.0
        num = max(1, 2 * num)
    return compiled, num / 2 / taken


def _num_bytes(tree: PyTree) -> int:
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _on_device(setup: Setup) -> Any:
    """What the loops get as their data: () online, else the data set, once for all learners."""
    if setup.data is None or setup.offline is None:
        return ()
    change, dataset = setup.reward, setup.data
    extras: Any = ()
    if hasattr(setup.agent, "Extras"):
        returns = mc_returns(dataset, setup.configs[0].discount, change.scale, change.bias, change.failure)
        extras = setup.agent.Extras(mc_return=returns)
    table: Any = ()
    if setup.offline.sampling != "uniform":
        table = weights.table(dataset, weights.probabilities(dataset, setup.offline.sampling))
    return devices.share(setup.mesh, replay.Recorded(Batch(dataset.transition, extras), table))


def _run_chunk(setup: Setup, at: Progress, data: Any, num: int) -> tuple[loops.LoopState, jax.Array, loops.Metrics]:
    build, statics = _builder(setup, at.iteration, at.capacity)
    config, span = devices.spread(setup.mesh, setup.stacked), (np.int32(at.iteration), np.int32(num))
    state, alive, sums = _jit_run(build, statics, setup.mesh, config, at.state, at.alive, *span, data)
    while not alive.is_ready():
        time.sleep(0.002)  # and hear signals
    return state, alive, sums


def _builder(setup: Setup, t: int, capacity: int) -> tuple[Callable[..., loops.Loop], tuple]:
    """``(build, statics)`` such that ``build(*statics, config)`` is the loop of one learner at iteration ``t``."""
    retain = setup.switch.retain if setup.switch else 0.0
    if setup.replays:
        return _online, (setup.loop(t), setup.agent, setup.env, capacity, setup.reward, retain)
    if setup.learning is loops.sequences:
        return _sequential, (setup.loop(t), setup.agent, setup.env, capacity, setup.reward)
    if setup.learning is loops.episodes:
        return _episodic, (setup.agent, setup.env, capacity, setup.reward)
    if setup.interacts:
        return _on_policy, (setup.agent, setup.env, setup.reward)
    return _offline, (setup.agent, setup.spec, setup.reward)


def _online(
    loop: Callable[..., loops.Loop], module: ModuleType, env: Env, capacity: int, reward: Reward, retain: float, config: Any
) -> loops.Loop:
    agent = _with_rewards(module.make(env.spec, config), reward)
    if retain:
        agent = agent._replace(draw=replay.mixed(retain))
    returns = _returned(module, reward, config) if hasattr(module, "Extras") else None
    return loop(agent, env, config.batch_size, capacity, returns)


def _episodic(module: ModuleType, env: Env, capacity: int, reward: Reward, config: Any) -> loops.Loop:
    agent = _with_rewards(module.make(env.spec, config), reward)
    return loops.episodes(agent, env, getattr(config, "batch_size", 0), capacity, _returned(module, reward, config))


def _sequential(
    loop: Callable[..., loops.Loop], module: ModuleType, env: Env, capacity: int, reward: Reward, config: Any
) -> loops.Loop:
    return loop(_with_rewards(module.make(env.spec, config), reward), env, config.batch_size, capacity)


def _returned(module: ModuleType, reward: Reward, config: Any) -> replay.Returns:
    return replay.Returns(module.Extras, config.discount, reward.scale, reward.bias, reward.failure)


def _on_policy(module: ModuleType, env: Env, reward: Reward, config: Any) -> loops.Loop:
    return loops.on_policy(_with_rewards(module.make(env.spec, config), reward), env)


def _offline(module: ModuleType, spec: Spec, reward: Reward, config: Any) -> loops.Loop:
    return loops.offline(_with_rewards(module.make(spec, config), reward), config.batch_size)


def _with_rewards(agent: Agent, change: Reward) -> Agent:
    """``agent`` as it learns from changed rewards."""
    if (change.scale, change.bias) == (1.0, 0.0):
        return agent

    def update(state: PyTree, batch: Batch, key: jax.Array) -> tuple[PyTree, loops.Metrics]:
        t = batch.transition
        return agent.update(state, batch._replace(transition=t._replace(reward=change.scale * t.reward + change.bias)), key)

    return agent._replace(update=update)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _jit_init(
    build: Callable[..., loops.Loop], statics: tuple, mesh: Mesh | None, config: Any, keys: jax.Array
) -> loops.LoopState:
    def init(config: Any, keys: jax.Array) -> loops.LoopState:
        # a map: under vmap the same initialisers compile for twice as long
        return jax.lax.map(lambda x: build(*statics, x[0]).init(x[1]), (config, keys))

    state: loops.LoopState = devices.divided(mesh, init, (False, False))(config, keys)
    return state


@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=4)
def _jit_run(
    build: Callable[..., loops.Loop],
    statics: tuple,
    mesh: Mesh | None,
    config: Any,
    state: loops.LoopState,
    alive: jax.Array,
    t: jax.Array,
    num: jax.Array,
    data: Any,
) -> tuple[loops.LoopState, jax.Array, loops.Metrics]:
    run = functools.partial(loops.run, functools.partial(build, *statics), in_turn=devices.in_turn(state))
    found: tuple[loops.LoopState, jax.Array, loops.Metrics]
    found = devices.divided(mesh, run, (False, False, False, True, True, True))(config, state, alive, t, num, data)
    return found


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _episodes(
    make: Callable, env: Env, mesh: Mesh | None, config: Any, state: PyTree, seeds: jax.Array, step: jax.Array
) -> tuple[jax.Array, jax.Array]:
    def one(config: Any, state: PyTree, seed: jax.Array, step: jax.Array) -> tuple[jax.Array, jax.Array]:
        key = jax.random.fold_in(jax.random.key(seed), step)
        return evaluate.episodes(make(env.spec, config), env, state, key)

    def all_of_them(config: Any, state: PyTree, seeds: jax.Array, step: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.vmap(one, (0, 0, 0, None))(config, state, seeds, step)

    found: tuple[jax.Array, jax.Array]
    found = devices.divided(mesh, all_of_them, (False, False, False, True))(config, state, seeds, step)
    return found


@functools.partial(jax.jit, static_argnums=(0, 1))
def _modes(make: Callable, spec: Spec, config: Any, state: PyTree, obs: jax.Array) -> jax.Array:
    """Actions [N, E, ...] of all learners, each for its observations [E, ...]."""

    def one(config: Any, state: PyTree, obs: jax.Array) -> jax.Array:
        agent = make(spec, config)
        return agent.mode(state, agent.memory(obs.shape[0]), obs)[0]

    return jax.vmap(one)(config, state, obs)


@functools.partial(jax.jit, static_argnums=2)
def _start_seeds(seeds: jax.Array, step: jax.Array, num: int) -> jax.Array:
    """Seeds uint32 [N, num] for a simulator on the host."""
    return jax.vmap(lambda seed: jax.random.bits(jax.random.fold_in(jax.random.key(seed), step), (num,)))(seeds)
