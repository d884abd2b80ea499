"""Studies: agents x environments x configs x seeds, as few compiled programs, each with a run folder of its own.

All learners whose configs differ in numbers alone are one program; each choice that shapes a program, such as a width, takes
another. A study that was stopped or killed goes on with the same command: what is finished is left alone. The same command in
several processes, on one machine or on many that share the folder, divides the programs among them.
"""

from __future__ import annotations

import hashlib
import runpy
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd

from rljax import statistics, store
from rljax.base import InputError
from rljax.config import combinations, override
from rljax.data import Dataset, load
from rljax.experiments import machine, presets, progress, report
from rljax.experiments import train as training
from rljax.experiments.setup import Reward, Setup, label, run_name

Draw = Callable[[np.random.Generator], float]

RATE_SECONDS = 2.0  # that `Program.rates` runs each number of learners for
MOST = 10_000  # configs of one `Run`
LOOK_SECONDS = 1.0  # between looks at a program that another process trains


def uniform(low: float, high: float) -> Draw:
    """Numbers between ``low`` and ``high``, for a random search."""
    return lambda rng: float(rng.uniform(low, high))


def log_uniform(low: float, high: float) -> Draw:
    """Numbers between ``low`` and ``high``, both above 0, whose logarithms are uniform."""
    if not 0 < low <= high:
        raise InputError(f"log_uniform needs two numbers above 0, the smaller one first, got {low:g} and {high:g}")
    return lambda rng: float(np.exp(rng.uniform(np.log(low), np.log(high))))


@dataclass(frozen=True)
class Run:
    """One row of a study: ``agent`` on ``env`` with every config and every seed; what is not given comes from the preset.

    ``config`` changes fields of the preset's config, such as ``{"head.sigma": 0.5}``. Configs are all combinations of the
    values in ``grid``; with ``draws``, each of them ``num`` times with other numbers, the same ones whenever the study is
    read. Other fields are those of `rljax.train`.
    """

    agent: str
    env: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    draws: Mapping[str, Draw] = field(default_factory=dict)
    num: int = 1
    seeds: int | Sequence[int] = 1
    steps: int | None = None
    eval_every: int | None = None
    eval_episodes: int | None = None
    num_envs: int | None = None
    data: Dataset | str | Path | None = None
    sampling: str = "uniform"
    reward: Reward | None = None
    action_bounds: tuple[float, float] | None = None

    def changes(self) -> list[dict[str, Any]]:
        """The fields that vary, with their values, for each config."""
        for name in ("config", "grid", "draws"):
            if not isinstance(getattr(self, name), Mapping):
                raise InputError(f"{name} of a run must be a dictionary of fields, got {type(getattr(self, name)).__name__}")
        for name, values in self.grid.items():
            if isinstance(values, str) or not isinstance(values, Sequence) or not values:
                raise InputError(f"grid[{name!r}] must be a list of values, got {values!r}")
            if len(set(map(repr, values))) < len(values):
                raise InputError(f"grid[{name!r}] has the same value twice: {values!r}")
        twice = self.grid.keys() & self.draws.keys()
        if twice:
            raise InputError(f"{min(twice)} is in the grid and in the draws: give it once")
        count = int(np.prod([len(values) for values in self.grid.values()])) * self.num
        if not 1 <= count <= MOST:
            raise InputError(f"a run must have from 1 to {MOST} configs, got {count}")
        rng, rows = np.random.default_rng(0), combinations(self.grid)
        return [row | {name: draw(rng) for name, draw in self.draws.items()} for row in rows for _ in range(self.num)]


class Program(NamedTuple):
    """Learners of one program: arguments of `rljax.train`, what comes of them, and in which fields their configs differ."""

    setup: Setup
    env: str | None
    kwargs: dict[str, Any]
    varied: list[dict[str, Any]]

    @property
    def folder(self) -> str:
        """The run folder's name, which changes with everything that identifies the run."""
        return run_name(self.setup)

    def step(self, out: Path) -> int | None:
        """The step of the newest checkpoint; None without one."""
        found = store.newest(out / self.folder, lambda said: None) if (out / self.folder).exists() else None
        return None if found is None else found[0]

    def finished(self, out: Path) -> bool:
        """Whether all steps are done."""
        return (self.step(out) or 0) >= self.setup.steps

    def train(self, out: Path) -> training.Result:
        """Begin or go on."""
        setup = self.setup
        return training.train(setup.agent, setup.configs, self.env, out=out / self.folder, **self.kwargs)

    def split(self, most: int) -> list[Program]:
        """Programs of at most ``most`` learners each, as equal as can be: of fewer configs, or else of one and fewer seeds."""
        setup, parts = self.setup, -(-len(self.setup.learners) // most)
        if parts == 1:
            return [self]
        if len(setup.configs) > 1:
            pieces = np.array_split(np.arange(len(setup.configs)), min(parts, len(setup.configs)))
            chosen = [([setup.configs[i] for i in x], [self.varied[i] for i in x]) for x in pieces]
            made = [self._replace(setup=replace(setup, configs=tuple(configs)), varied=rows) for configs, rows in chosen]
            return [part for piece in made for part in piece.split(most)]
        return [
            self._replace(setup=replace(setup, seeds=tuple(x)), kwargs=self.kwargs | {"seeds": tuple(x)})
            for x in (piece.tolist() for piece in np.array_split(setup.seeds, parts))
        ]

    def rates(self) -> Iterator[tuple[int, float, float]]:
        """``(learners, seconds to compile, iterations of all of them per second)``, measured for 1, 4, 16, ... and all."""
        total = len(self.setup.learners)
        for num in sorted({total, *(4**i for i in range(total.bit_length()) if 4**i < total)}):
            part = self.split(num)[0].setup
            seconds, rate = training.speed(part, RATE_SECONDS)
            yield num, seconds, rate * len(part.learners)


def plan(runs: Sequence[Run], most: int | None = None) -> list[Program]:
    """The programs of a study, of at most ``most`` learners each.

    Raises:
        InputError: for anything that cannot work, before anything is computed or written.
    """
    if most is not None and most < 1:
        raise InputError(f"at once must be at least 1 learner, got {most}")
    programs: dict[str, Program] = {}
    for number, run in enumerate(runs):
        if not isinstance(run, Run):
            raise InputError(f"a study is a list of rljax.experiments.sweep.Run, its element {number} is {run!r}")
        for program in _programs(run):
            for part in [program] if most is None else program.split(most):
                programs.setdefault(part.folder, part)  # given twice, it is still trained once
    if not programs:
        raise InputError("the study has no runs")
    return list(programs.values())


def sweep(runs: Sequence[Run], out: str | Path, most: int | None = None) -> pd.DataFrame:
    """Train what is not finished of a study in folder ``out``; its `table`, of what there is after Ctrl-C.

    Raises:
        InputError: for anything that cannot work, before anything is computed or written.
    """
    programs, out = plan(runs, most), Path(out).absolute()
    train(programs, out)
    return table(programs, out)


def train(programs: Sequence[Program], out: Path, only: int | None = None) -> bool:
    """Train what is not finished, or of that program number ``only``, and say whether all is then.

    What another process trains is left to it, and taken over if it ends before its last step. A program that cannot be
    trained does not stop the others.

    Raises:
        InputError: after all others, for those that could not.
    """
    write(programs, out)
    left = deque(zip(titles(programs), programs, strict=True))
    if only is not None:
        left = deque([left[only - 1]])
    count, failed = len(left), []
    for title, program in _free(left, out):
        progress.say(title)
        try:
            if program.train(out).stopped:
                return all(other.finished(out) for _, other in [(title, program), *left])
        except InputError as error:
            if store.is_locked(out / program.folder):  # by a process that was quicker
                left.append((title, program))
                continue
            if only is not None:
                raise
            progress.say(f"it was left out: {error}")
            failed.append(f"{program.folder}: {error}")
    refuse(failed, count)
    return True


def titles(programs: Sequence[Program]) -> list[str]:
    """What messages call each program."""
    return [f"program {number + 1} of {len(programs)}, {program.folder}" for number, program in enumerate(programs)]


def refuse(failed: Sequence[str], count: int) -> None:
    """Raise `InputError` with the sentences on those of ``count`` programs that failed, if any did."""
    if failed:
        raise InputError(f"{len(failed)} of {count} programs could not be trained: {'; '.join(failed)}")


def _free(left: deque[tuple[str, Program]], out: Path) -> Iterator[tuple[str, Program]]:
    """Those of ``left`` that are not finished, each once no other process trains it."""
    told = set()
    while left:
        title, program = left.popleft()
        if store.is_locked(out / program.folder):
            left.append((title, program))
            if title in told:
                time.sleep(LOOK_SECONDS)
            else:
                told.add(title)
                progress.say(f"{title}, is being trained by another process")
        elif program.finished(out):
            progress.say(f"{title}, is finished")
        else:
            yield title, program


def write(programs: Sequence[Program], out: Path) -> None:
    """Keep the study in OUT/study.json; `InputError` if the folder holds something else."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file: choose a folder with --out")
    there = [path for path in out.iterdir() if not path.name.startswith("study.json")] if out.exists() else []
    if there and not (out / "study.json").exists():
        raise InputError(f"{out} is not empty and holds no study: choose another folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    rows = [{"folder": program.folder, "varied": program.varied} for program in programs]
    own = out / f"study.json.{uuid.uuid4().hex}"  # other processes may write it at the same time
    store.write_json(own, rows)
    own.replace(out / "study.json")


def table(programs: Sequence[Program], out: Path) -> pd.DataFrame:
    """For each config the fields that vary, how many seeds there are and diverged, and the IQM of their last return.

    The IQM, with its 95 % bootstrap interval, is of the seeds that did not diverge; ``best`` is the IQM of their best returns.
    Without evaluations, losses take the place of returns.
    """
    rows = []
    for program in programs:
        if program.step(out) is None:
            continue
        found = training.read_rows(out / program.folder)
        metric = report.shown(found)
        frame, dead = report.scores(found, metric), report.diverged(found)
        for index, varied in enumerate(program.varied):
            x = frame[index][[seed for seed in frame[index].columns if (index, seed) not in dead]]
            last, best = (y.to_numpy() for y in (x.iloc[-1], x.min() if metric.endswith("/loss") else x.max()))
            (low, high), count = statistics.interval(last), len(frame[index].columns)
            named = {"run": label(program.setup), **varied, "step": int(frame.index[-1]), "seeds": count}
            figures = {"IQM": statistics.iqm(last), "low": low, "high": high, "best": statistics.iqm(best)}
            rows.append(named | {"diverged": count - len(last)} | {name: float(x) for name, x in figures.items()})
    return pd.DataFrame(rows)


def text(table: pd.DataFrame) -> str:
    """The `table` for a terminal."""
    returns = dict.fromkeys(("IQM", "low", "high", "best"), "{:.1f}".format)
    other = {name: table[name].map(_short) for name in table.columns if name not in returns}
    return table.assign(**other).to_string(index=False, formatters=returns) if len(table) else "nothing is trained yet"


def said(programs: Sequence[Program], out: Path) -> Iterator[str]:
    """The plan in words: what each program is, the bytes that it needs, and how far it is."""
    learners = sum(len(program.setup.learners) for program in programs)
    yield f"{_counted(len(programs), 'program')}, {_counted(learners, 'learner')}, in {out}"
    for number, program in enumerate(programs):
        setup, state = program.setup, _state(program, out)
        fields = ", ".join(f"{name} {_values(program.varied, name)}" for name in program.varied[0])
        size = f"{_counted(len(setup.configs), 'config')} x {_counted(len(setup.seeds), 'seed')}"
        what = f"{label(setup)}, {size}, {setup.steps} steps"
        needs = machine.size(training.num_bytes(setup))
        yield f"program {number + 1}: {what}, {needs}, {state}" + (f"; {fields}" if fields else "")


def _state(program: Program, out: Path) -> str:
    """How far a program is, in words."""
    if store.is_locked(out / program.folder):
        return "being trained"
    step = program.step(out)
    if step is None:
        return "not begun"
    return "finished" if step >= program.setup.steps else f"at step {step}"


def measured(program: Program) -> Iterator[str]:
    """What `Program.rates` found, in words, and what follows: how many learners at once are best, and how long all take."""
    setup, best, compiling = program.setup, (0, 0.0), 0.0
    for num, seconds, rate in program.rates():
        yield f"  {num} at once: {rate * setup.stride:.0f} steps/s in all, {seconds:.1f} s to compile"
        best, compiling = max(best, (num, rate), key=lambda x: x[1]), max(compiling, seconds)
    total = len(setup.learners) * setup.total / best[1] + compiling
    advice = "" if best[0] == len(setup.learners) else f" with --at-once {best[0]}"
    yield f"  all steps take about {duration(total)}{advice}, and evaluations beside"


def duration(seconds: float) -> str:
    """``seconds`` for people, such as "2 h 05 min"."""
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min" if minutes else f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def default_folder(programs: Sequence[Program]) -> Path:
    """Where `rljax train --sweep` keeps its runs, by what they are."""
    every = hashlib.sha256(" ".join(sorted(program.folder for program in programs)).encode()).hexdigest()
    return Path("runs") / f"{label(programs[0].setup)}-sweep-{every[:8]}"


def read(path: Path) -> list[Run]:
    """The list RUNS of a Python file, which is run for it.

    Raises:
        InputError: if there is no such file or list, or the file raises an error.
    """
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    try:
        found = runpy.run_path(str(path))
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path} raises {type(error).__name__}: {error}") from error
    runs = found.get("RUNS")
    if not isinstance(runs, list | tuple):
        raise InputError(f"{path} must have a list RUNS of rljax.experiments.sweep.Run")
    return list(runs)


def _programs(run: Run) -> list[Program]:
    """The programs of all configs of a run, in the order in which the first config of each comes."""
    dataset = load(run.data) if isinstance(run.data, str | Path) else run.data
    preset, module = presets.find(run.agent, run.env or "none", dataset), import_module(f"rljax.agents.{run.agent}")
    base, changes = override(preset.config, run.config), run.changes()
    groups: dict[Any, list[tuple[Any, dict[str, Any]]]] = {}
    for row in changes:
        config = override(base, row)
        alone = float(config.discount) if dataset is not None and hasattr(module, "Extras") else None  # one for all returns
        groups.setdefault((jax.tree.structure(config), alone), []).append((config, row))
    kwargs: dict[str, Any] = {
        name: getattr(preset, name) if getattr(run, name) is None else getattr(run, name)
        for name in ("steps", "eval_every", "eval_episodes")
    } | {"seeds": run.seeds, "data": dataset, "sampling": run.sampling, "action_bounds": run.action_bounds}
    kwargs["reward"] = run.reward or preset.reward
    if run.env is not None:
        kwargs["num_envs"] = preset.num_envs if run.num_envs is None else run.num_envs
    given = [*run.config, *(changes[0] if changes else ())]
    made = []
    for rows in groups.values():
        setup = training.prepare(module, [config for config, _ in rows], run.env, **kwargs)
        configs = [presets.with_supports(replace(setup, configs=(config,)), preset, given)[0] for config in setup.configs]
        made.append(Program(replace(setup, configs=tuple(configs)), run.env, kwargs, [row for _, row in rows]))
    return made


def _values(varied: Sequence[Mapping[str, Any]], name: str) -> str:
    """The values of a field, or their range if there are many."""
    values = list(dict.fromkeys(row[name] for row in varied))
    if len(values) > 6:
        return f"{min(values):g} to {max(values):g}"
    return " ".join(map(_short, values))


def _counted(number: int, name: str) -> str:
    return f"{number} {name}" if number == 1 else f"{number} {name}s"


def _short(value: Any) -> str:
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:g}"
    return str(value)
