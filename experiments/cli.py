"""The ``rljax`` command and its subcommands. A user's mistake is one sentence on stderr and exit code 2."""

from __future__ import annotations

import dataclasses
import errno
import functools
import importlib
import json
import os
import pkgutil
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Generic, Literal, TypeVar

import tyro

from rljax.base import InputError
from rljax.experiments import forms

USAGE = """usage: rljax COMMAND ...

  train AGENT ENV      train seeds in one program; the same command continues a run that was stopped or killed
  sweep STUDY.py       train a study: agents x environments x configs x seeds
  finetune METHOD ENV  go on online from an offline run, or from a data set
  agents               list the agents
  envs                 list the environments
  data FILE            say what is in a data set, and draw data.png
  collect ENV          make data sets with random and trained policies, or mix those there are
  report RUNS...       write report.html, a page on runs and studies
  compare A B          say which of two runs is better, and how sure that is
  track RUN            give a run's numbers to TensorBoard or Weights & Biases
  show RUN             print a run's table and draw its curve.png
  play RUN             let a trained agent act, and draw the first episode
  horizon FILE         say how hard exploration is in a finite MDP, or estimate it for an environment
  bench [AGENTS...]    measure speed, and how near it is to that of the matrix products alone

rljax COMMAND --help lists the options of a command, and rljax train AGENT --help the agent's config.
"""


Form = TypeVar("Form")


@dataclass(frozen=True)
class Train(Generic[Form]):
    """Train AGENT on ENV. What is not given comes from the preset for AGENT and ENV, or for AGENT and the data set.

    Steps are env steps of each seed; of an agent that learns from data alone, critic gradient steps.
    """

    agent: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="AGENT")]]  # one of `rljax agents`
    env: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="ENV")]]  # one of `rljax envs`
    config: tyro.conf.FlagConversionOff[Form]
    steps: int  # steps of each seed; a larger number extends a finished run
    seeds: str = "1"  # how many ("4" is 0, 1, 2, 3), or which ("3,5,7", or "7," for one)
    out: Path | None = None  # the run's folder [runs/AGENT-ENV-HASH]
    eval_every: int = 5_000  # steps between evaluations
    eval_episodes: int = 10  # episodes of each evaluation
    num_envs: int = 1  # environments stepped in parallel by each seed
    fresh: bool = False  # begin anew; an earlier run in the folder is moved aside
    data: Path | None = None  # learn from this data set (see rljax data); for offline agents ENV is for evaluation
    sampling: str = "uniform"  # uniform, rw:TEMPERATURE, aw:TEMPERATURE or top:PERCENT of the data set's episodes
    eval: Literal["env", "none"] = "env"  # none: ENV is not used, no simulator is needed, and ENV may be left out
    action_low: float | None = None  # the actions' lower bound, with --eval none if the data set does not tell it
    action_high: float | None = None  # the actions' upper bound
    reward_scale: float = 1.0  # rewards that are learned from are reward-scale * reward + reward-bias
    reward_bias: float = 0.0  # see above; logs and evaluations hold raw rewards
    reward_failure: float | None = None  # raw reward of each step of an episode that fails (Monte-Carlo returns)
    sweep: tyro.conf.UseAppendAction[tuple[str, ...]] = ()  # FIELD=1,2,3 of the config, or log:LOW:HIGH, uniform:LOW:HIGH
    samples: int = 1  # how many configs with random numbers, for each of the others
    at_once: int | None = None  # learners of a program at the most, with --sweep [all]
    plan: bool = False  # with --sweep: print the programs, measure how fast they are, and train nothing


@dataclass(frozen=True)
class Sweep:
    """Train what is not finished of a study: a Python file with a list RUNS of rljax.experiments.sweep.Run.

    On a cluster each program is a task of its own; all machines need rljax, the file and the study's folder under the same
    path.
    """

    study: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="STUDY.py")]]  # the file, which is run
    out: Path | None = None  # the study's folder [runs/STUDY]
    at_once: int | None = None  # learners of a program at the most [all that differ in numbers and seeds only]
    plan: bool = False  # print the programs, measure how fast they are, and train nothing
    commands: bool = False  # print a command for each program that is not finished, for any scheduler, and train nothing
    only: int | None = None  # train this program alone, by its number in the plan
    on: Literal["here", "ray", "slurm"] = "here"  # who trains the programs: this process, or the workers of a cluster
    cpus: int | None = None  # on ray or slurm: CPUs of a program [1]
    gpus: int | None = None  # on ray or slurm: GPUs of a program [0]
    memory: int | None = None  # on ray or slurm: GiB of a program [what the cluster gives]
    address: str | None = None  # on ray: HOST:PORT of the cluster [RAY_ADDRESS, else this machine's]
    partition: str | None = None  # on slurm: where to submit; SBATCH_ACCOUNT and the like hold too [the default]
    minutes: int | None = None  # on slurm: time limit of a job; one that is not done then is requeued [60]
    detach: bool = False  # on slurm: submit the jobs and do not wait for them


@dataclass(frozen=True)
class Data:
    """Say what is in a D4RL, d3rlpy, Minari, OGBench or rljax data set, and draw it."""

    file: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="FILE")]]  # a file, a Minari folder, or a known name
    json: bool = False  # print one JSON object, and draw only with --out
    out: Path | None = None  # the picture [data.png]


@dataclass(frozen=True)
class Collect:
    """Make data sets on ENV as D4RL's are made, or, without ENV, mix files: --mix a.npz=0.95,b.npz=0.05 --out mixed.npz."""

    env: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="ENV")]] = ""  # one of `rljax envs`
    agent: Path | None = None  # the run of the expert
    medium: Path | None = None  # the run of the medium policy, such as a shorter one of the same agent
    kinds: str | None = None  # of random,medium,medium-replay,medium-expert,expert [all that the runs allow]
    mix: str | None = None  # one more set: kinds and their fractions, such as random=0.95,expert=0.05
    steps: int | None = None  # env steps of each [100000; of files, as many as there can be]
    seed: int = 0  # of the episodes
    format: Literal["npz", "hdf5", "minari"] = "hdf5"  # of the files; minari writes where Minari keeps its data sets
    out: Path | None = None  # the folder [data]; without ENV, the file


@dataclass(frozen=True)
class Report:
    """Write a page on runs and studies: curves, scores, which is better, what numbers do; one file that needs no network."""

    runs: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUNS")]]  # folders of runs or studies
    out: Path = Path("report.html")  # the page


@dataclass(frozen=True)
class Compare:
    """Say which of two runs in one environment is better, how sure that is, and where their configs differ."""

    a: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="A")]]  # a run's folder
    b: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="B")]]  # another one's


@dataclass(frozen=True)
class Track:
    """Give the numbers of RUN to TensorBoard, or with --wandb to Weights & Biases: one of their runs for each seed."""

    run: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]  # a run's folder
    out: Path | None = None  # TensorBoard's folder [RUN/tensorboard]
    wandb: str | None = None  # the project in Weights & Biases; WANDB_MODE=offline needs no account
    follow: bool = False  # go on until the run is finished


@dataclass(frozen=True)
class Show:
    """Print the table of RUN and write its curve.png."""

    run: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]  # a run's folder
    params_hash: bool = False  # print only a SHA-256 of everything the agents have learned, at the newest checkpoint


@dataclass(frozen=True)
class Play:
    """Let a trained agent of RUN act greedily; draw the first episode and print the returns."""

    run: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]  # a run's folder
    seed: int | None = None  # which seed's agent [the first]
    episodes: int = 1  # how many episodes
    json: bool = False  # print one JSON object
    out: Path | None = None  # the file to draw into [RUN/play.gif, .html or .png, as the environment can]
    imagine: bool = False  # draw what the agent's world model makes of the episode [RUN/imagine.png]


@dataclass(frozen=True)
class Bench:
    """Measure updates/s, env steps/s and the fraction of the floor: time of an update's matrix products over its time.

    AGENTS: sac, sac_discrete, td3_bc, iql, cql, rlpd, wsrl, sqirl, drama, drama.model, drama.imagination, drama.behaviour.
    """

    agents: tyro.conf.Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="AGENTS")]] = ()  # which of them [all]
    seeds: str = "1"  # how many at once, such as 1,2,4,8 for a curve
    rounds: int = 7  # measurements of each program, which take turns; figures are medians
    seconds: float = 0.5  # of each measurement, about
    size: str = "xs"  # of Drama's networks: xs, s, drama
    width: int | None = None  # units of each hidden layer of the other agents [their own]
    env: str | None = None  # of agents that learn from transitions: act there, and have its shapes [pendulum; hopper's]
    json: Path | None = None  # write all numbers into this file
    show: Path | None = None  # show this file of an earlier --json, and measure nothing
    against: Path | None = None  # compare with this file of an earlier --json; the exit code is 1 if something is slower
    tolerance: float = 0.9  # of --against: the smallest ratio new / old, relative to the rate of 256 x 256 x 256 products


def main() -> None:
    """The console command; exits with 0, with 2 after a user's mistake, with 130 if it was stopped."""
    try:
        code = run(sys.argv[1:])
        sys.stdout.flush()
        sys.exit(code)
    except InputError as error:
        _fail(str(error))
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        advice = "; free some space and give the same command again" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        _fail((f"{error.strerror or error}: {error.filename}" if error.filename else str(error)) + advice)
    except KeyboardInterrupt:
        sys.exit(130)


def run(args: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    commands = {
        f.__name__: f
        for f in (train, sweep, finetune, agents, envs, data, collect, report, compare, track, show, play, horizon, bench)
    }
    if not args or args[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if args else 2
    if args[0] == "--version":
        import rljax

        print(rljax.__version__)
        return 0
    if args[0] not in commands:
        raise InputError(f"unknown command {args[0]!r}: choose one of {', '.join(commands)}")
    if args[0] in ("train", "sweep", "finetune", "bench"):
        from rljax.experiments import devices

        devices.each_processor()  # before JAX computes anything
    return commands[args[0]](list(args[1:]))


def train(args: list[str]) -> int:
    """``rljax train``: 0 when the run is finished, 130 when it was stopped before."""
    given, dataset, preset = _parse_train(args)
    from rljax.experiments import presets, progress
    from rljax.experiments import train as training
    from rljax.experiments.setup import Reward, run_name

    seeds = parse_seeds(given.seeds)
    if (given.action_low is None) != (given.action_high is None):
        raise InputError("give both --action-low and --action-high, or neither")
    kwargs = {name: getattr(given, name) for name in ("steps", "eval_every", "eval_episodes", "sampling")} | {
        "seeds": seeds,
        "num_envs": None if given.eval == "none" else given.num_envs,
        "data": dataset,
        "reward": Reward(given.reward_scale, given.reward_bias, given.reward_failure),
        "action_bounds": None if given.action_low is None else (given.action_low, given.action_high),
    }
    agent, env = find_agent(given.agent), None if given.eval == "none" else given.env
    if given.sweep:
        from rljax.experiments import sweep as sweeping  # takes a second to import

        programs = sweeping.plan([_swept(given, preset, env, kwargs)], given.at_once)
        out = (given.out or sweeping.default_folder(programs)).absolute()
        return _sweep(programs, out, given.plan, sweeping.train)
    if given.plan or given.samples != 1 or given.at_once is not None:
        raise InputError("--plan, --samples and --at-once go with --sweep")
    setup = training.prepare(agent, forms.read(given.config, preset.config), env, **kwargs)
    config, said = presets.with_supports(setup, preset, forms.given(given.config))
    setup = dataclasses.replace(setup, configs=(config,))
    keep_programs()
    out = given.out or Path("runs") / run_name(setup)
    if given.fresh or not (out / "config.json").exists():
        for sentence in said:
            progress.say(sentence)
    return finish(training.train(agent, config, env, out=out, fresh=given.fresh, **kwargs), out)


def sweep(args: list[str]) -> int:
    """``rljax sweep``: 0 when the study is finished, 130 when it was stopped before."""
    given = forms.parse(Sweep, args, "rljax sweep")
    from rljax.experiments import clusters
    from rljax.experiments import sweep as sweeping

    clusters.check(given)
    programs = sweeping.plan(sweeping.read(given.study), given.at_once)
    out = (given.out or Path("runs") / given.study.stem).absolute()
    if given.commands:
        jobs = clusters.unfinished(programs, out, given)
        for job in jobs.values():
            print(job.command.line())
        if not jobs:
            print("all programs are finished", file=sys.stderr)  # not a command
        return 0
    if given.only is None:
        train = sweeping.train if given.on == "here" else functools.partial(clusters.train, given=given)
        return _sweep(programs, out, given.plan, train)
    if not 1 <= given.only <= len(programs):
        raise InputError(f"--only must be from 1 to {len(programs)}, the programs of the study, got {given.only}")
    keep_programs()
    return _finish_study(sweeping.train(programs, out, given.only), [programs[given.only - 1]], out)


def _sweep(programs: Sequence[Any], out: Path, plan: bool, train: Callable[[Sequence[Any], Path], bool]) -> int:
    """Say what ``programs`` are, and measure them for a ``plan``, or ``train`` them."""
    from rljax.experiments import progress
    from rljax.experiments import sweep as sweeping

    for sentence in sweeping.said(programs, out):
        progress.say(sentence)
    keep_programs()
    if not plan:
        return _finish_study(train(programs, out), programs, out)
    for number, program in enumerate(programs):
        progress.say(f"program {number + 1} of {len(programs)}, measured:")
        for sentence in sweeping.measured(program):
            progress.say(sentence)
    return 0


def _finish_study(finished: bool, programs: Sequence[Any], out: Path) -> int:
    """Print the table of these programs; 0, or 130 if they were stopped before their end."""
    from rljax.experiments import sweep as sweeping

    print(sweeping.text(sweeping.table(programs, out)))
    print(f"study in {out}")
    return 0 if finished else 130


def _swept(given: Train, preset: Any, env: str | None, kwargs: dict[str, Any]) -> Any:
    """The `Run` of a study that ``rljax train --sweep`` asks for."""
    from rljax.experiments import sweep as sweeping

    if given.fresh:
        raise InputError("--fresh does not go with --sweep: choose another folder with --out")
    grid: dict[str, list[Any]] = {}
    draws: dict[str, Any] = {}
    kinds = {"log": sweeping.log_uniform, "uniform": sweeping.uniform}
    for text in given.sweep:
        name, _, values = text.partition("=")
        name, (kind, *ends) = name.replace("-", "_"), values.split(":")
        if not values or (kind in kinds and len(ends) != 2) or name in grid or name in draws:
            raise InputError(f"--sweep must be FIELD=1,2,3 or FIELD=log:LOW:HIGH, each field once, got {text!r}")
        numbers = [forms.typed(preset.config, name, x, "rljax train") for x in (ends if kind in kinds else values.split(","))]
        if kind in kinds:
            draws[name] = kinds[kind](*numbers)
        else:
            grid[name] = numbers
    if given.samples != 1 and not draws:
        raise InputError("--samples is how many random numbers are drawn: give some with --sweep FIELD=log:LOW:HIGH")
    if given.samples == 1 and draws:
        raise InputError(f"--sweep {next(iter(draws))} draws random numbers: say how many with --samples, 2 or more")
    config = forms.changes(given.config, preset.config)
    return sweeping.Run(given.agent, env, config, grid, draws, given.samples, **kwargs)


def finish(result: Any, out: Path) -> int:
    """Print the table of the run in ``out`` and draw its curve.png; 0, or 130 if it was stopped before its end."""
    from rljax import store
    from rljax.experiments import report

    if result.step < result.setup.steps:
        return 130
    if not any(row["kind"] == "eval" for row in result.rows):
        print(f"run in {out}; it was not evaluated")
        return 0
    report.save_curve(report.read_before(out) + result.rows, result.setup.describe(), store.inside(out, "curve.png"))
    print(report.table(result.rows))
    if result.setup.switch:
        print(report.switch(result.rows))
    print(f"run and curve.png in {out}")
    return 0


def finetune(args: list[str]) -> int:
    """``rljax finetune``."""
    from rljax.experiments import finetune as tuning

    return tuning.finetune(args)


def agents(args: list[str]) -> int:
    """``rljax agents``: names and first lines."""
    _no_arguments("agents", args)
    for name in agent_names():
        print(f"{name:<14} {(find_agent(name).__doc__ or '').splitlines()[0]}")
    return 0


def envs(args: list[str]) -> int:
    """``rljax envs``: names."""
    _no_arguments("envs", args)
    from rljax import envs

    print("\n".join(envs.names()))
    return 0


def data(args: list[str]) -> int:
    """``rljax data``."""
    given = forms.parse(Data, args, "rljax data")
    from rljax.data import load
    from rljax.data.summary import summary
    from rljax.experiments import report

    dataset = load(given.file)
    numbers = summary(dataset)
    path = given.out or (None if given.json else Path("data.png"))
    print(json.dumps(numbers) if given.json else report.dataset_table(numbers), flush=True)
    if path is not None:
        report.save_png(report.dataset_figure(dataset), path)
    if not given.json:
        print(f"picture in {path}")
    return 0


def collect(args: list[str]) -> int:
    """``rljax collect``."""
    given = forms.parse(Collect, args, "rljax collect")
    mix = parse_shares(given.mix) if given.mix else {}
    if given.steps is not None and given.steps < 1:
        raise InputError(f"--steps must be at least 1, got {given.steps}")
    if not 0 <= given.seed < 2**32:
        raise InputError(f"--seed must be from 0 to {2**32 - 1}, got {given.seed}")
    keep_programs()
    from rljax.experiments import collect as collecting
    from rljax.experiments import progress

    if not given.env:
        if not mix or given.out is None:
            raise InputError("rljax collect needs ENV, or files to mix with --mix and the file to write with --out")
        collecting.require_free([given.out.stem], given.out.parent, given.out.suffix)
        mixed = collecting.mix_files(mix, given.steps, given.seed)
        collecting.write({given.out.stem: mixed}, given.out.parent, given.out.suffix, progress.say)
        return 0
    from rljax import envs

    env = envs.make(given.env)
    kinds = given.kinds.split(",") if given.kinds else collecting.possible(given.agent, given.medium)
    out, names = given.out or Path("data"), [*kinds, *([collecting.mixture_name(mix)] if mix else [])]
    if given.format != "minari":
        collecting.require_free(names, out, f".{given.format}")
    made = collecting.collect(
        env, given.agent, given.medium, kinds=kinds, steps=given.steps or 100_000, mix=mix, seed=given.seed
    )
    collecting.write(made, out, f".{given.format}", progress.say)
    return 0


def report(args: list[str]) -> int:
    """``rljax report``."""
    given = forms.parse(Report, args, "rljax report")
    from rljax.experiments import page

    given.out.write_text(page.page(given.runs), encoding="utf-8")
    print(f"page in {given.out}")
    return 0


def compare(args: list[str]) -> int:
    """``rljax compare``."""
    given = forms.parse(Compare, args, "rljax compare")
    from rljax.experiments import page

    print(page.compare(given.a, given.b))
    return 0


def track(args: list[str]) -> int:
    """``rljax track``."""
    given = forms.parse(Track, args, "rljax track")
    from rljax import store
    from rljax.experiments import track as tracking

    out = given.out or store.inside(given.run, "tensorboard")
    to = tracking.tensorboard(out) if given.wandb is None else tracking.wandb(given.wandb, given.run)
    count = tracking.track(given.run, to, given.follow)
    print(f"{count} rows for {f'TensorBoard in {out}' if given.wandb is None else f'the project {given.wandb}'}")
    return 0


def show(args: list[str]) -> int:
    """``rljax show``."""
    given = forms.parse(Show, args, "rljax show")
    from rljax import store
    from rljax.experiments import report
    from rljax.experiments.setup import read_settings
    from rljax.experiments.train import load, read_rows

    if given.params_hash:
        print(store.digest(load(given.run).state))
        return 0
    described, rows = read_settings(given.run), read_rows(given.run)
    print(report.table(rows, report.shown(rows)))
    if described.get("switch"):
        print(report.switch(rows))
    path = store.inside(given.run, "curve.png")
    report.save_curve(report.read_before(given.run) + rows, described, path)
    print(f"curve in {path}")
    return 0


def play(args: list[str]) -> int:
    """``rljax play``."""
    given = forms.parse(Play, args, "rljax play")
    if given.episodes < 1:
        raise InputError(f"--episodes must be at least 1, got {given.episodes}")
    keep_programs()
    from rljax import store
    from rljax.experiments import report
    from rljax.experiments.train import load

    numbers, suffix, contents = report.play(load(given.run), given.seed, given.episodes, given.imagine)
    path = given.out or store.inside(given.run, f"{'imagine' if given.imagine else 'play'}{suffix}")
    if path.suffix != suffix:
        raise InputError(f"this is drawn as {suffix}, so --out must end in it, got {path}")
    path.write_bytes(contents)
    if given.json:
        print(json.dumps(numbers | {"file": str(path)}))
    else:
        print(f"seed {numbers['seed']}: returns {' '.join(f'{x:.1f}' for x in numbers['returns'])}; drawn in {path}")
    return 0


def horizon(args: list[str]) -> int:
    """``rljax horizon``."""
    from rljax.experiments import horizon as analysing

    return analysing.horizon(args)


def bench(args: list[str]) -> int:
    """``rljax bench``: 1 if something is slower than in the file to compare with."""
    given = forms.parse(Bench, args, "rljax bench")
    from rljax.experiments import bench as benching
    from rljax.experiments import progress
    from rljax.experiments.cases import Sizes

    old = None if given.against is None else benching.read(given.against)
    if given.show is not None:
        found = benching.read(given.show)
    else:
        sizes = Sizes(given.size, given.width, given.env)
        rows = benching.planned(given.agents, parse_counts(given.seeds), sizes)
        if old is not None:
            benching.pairs(rows, old["rows"])  # which refuses what cannot be compared before it is measured
        found = benching.bench(rows, sizes, given.rounds, given.seconds, progress.warn)
    if given.json is not None:
        benching.write(found, given.json)
    print(benching.table(found))
    if old is None:
        return 0
    text, fine = benching.against(found, old, given.tolerance)
    print(f"\n{text}")
    return 0 if fine else 1


def agent_names() -> list[str]:
    """Modules of `rljax.agents`."""
    import rljax.agents

    return sorted(module.name for module in pkgutil.iter_modules(rljax.agents.__path__))


def find_agent(name: str) -> ModuleType:
    """The agent's module; `InputError` with a suggestion if there is none."""
    import difflib

    if name not in agent_names():
        close = difflib.get_close_matches(name, agent_names(), 1)
        hint = f"did you mean {close[0]}?" if close else f"choose one of {', '.join(agent_names())}"
        raise InputError(f"unknown agent {name!r}: {hint}")
    return importlib.import_module(f"rljax.agents.{name}")


def parse_seeds(text: str) -> tuple[int, ...]:
    """The seeds: "4" is 0, 1, 2, 3; "3,5,7" are these; "7," is 7 alone."""
    if not re.fullmatch(r"\s*\d+\s*(,\s*\d+\s*)*,?\s*", text):
        raise InputError(f'--seeds must be how many ("4") or which ("3,5,7", or "7," for one), got {text!r}')
    numbers = tuple(int(part) for part in text.split(",") if part.strip())
    if numbers == (0,) and "," not in text:
        raise InputError(f'--seeds must be at least 1, got {text!r} ("0," is the seed 0 alone)')
    if "," not in text and numbers[0] > 1_000_000:
        raise InputError(f"--seeds must be at most 1000000, got {text!r}")
    return numbers if "," in text else tuple(range(numbers[0]))


def parse_counts(text: str) -> tuple[int, ...]:
    """Numbers of seeds: "1,8" is one, and eight at once."""
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", text):
        raise InputError(f"--seeds must be numbers such as 1,2,4,8, got {text!r}")
    return tuple(map(int, text.split(",")))


def parse_shares(text: str) -> dict[str, float]:
    """The fractions: "a=0.9,b=0.1"."""
    shares = {}
    for part in text.split(","):
        name, _, number = part.rpartition("=")
        try:
            shares[name] = float(number)
        except ValueError:
            shares[name] = -1.0
        if not name or not 0 <= shares[name] <= 1:
            rule = "names with fractions from 0 to 1, such as random=0.95,expert=0.05"
            raise InputError(f"--mix must be {rule}, got {text!r}")
    return shares


def _parse_train(args: list[str]) -> tuple[Train, Any, Any]:
    """The arguments of ``rljax train``, the data set, and the preset: that for AGENT and ENV, or AGENT and the data set."""
    from rljax.experiments import presets

    names, wants_help = forms.positionals(args), {"-h", "--help"} & set(args)
    no_env = forms.value(args, "--eval") == "none"
    if not names and wants_help:
        names = ["sac"]
    if len(names) < (1 if no_env else 2) and not wants_help:
        raise InputError("rljax train needs AGENT and ENV, such as rljax train sac gymnax/Pendulum-v1")
    if len(names) > 2:
        raise InputError(f"rljax train takes AGENT and ENV, and does not know what to do with {names[2]!r}")
    agent = find_agent(names[0])
    for name in (arg.split("=")[0].removeprefix("--config.") for arg in args if arg.startswith("--config.")):
        forms.require_field(agent.Config(), name.replace("-", "_"))
    dataset = None if wants_help else read_data(forms.value(args, "--data"))
    env = names[1] if len(names) > 1 else ("none" if no_env else "pendulum")
    preset = presets.find(names[0], env, dataset)
    defaults = Train(
        agent=names[0],
        env=env,
        config=forms.form(preset.config),
        steps=preset.steps,
        eval_every=preset.eval_every,
        eval_episodes=preset.eval_episodes,
        num_envs=preset.num_envs,
        reward_scale=preset.reward.scale,
        reward_bias=preset.reward.bias,
        reward_failure=preset.reward.failure,
    )
    args = ["--help"] if wants_help else args if len(names) > 1 else [names[0], env, *(a for a in args if a != names[0])]
    given = forms.parse(Train[type(defaults.config)], args, "rljax train", defaults)  # type: ignore[misc]
    return given, dataset, preset


def read_data(name: str | None) -> Any:
    """The data set of this name or path, if one is given."""
    from rljax.data import load

    return None if name is None else load(name)


def keep_programs() -> None:
    """Keep compiled programs between commands, unless the user has set up JAX's cache already.

    XLA compiles for a number of threads, which JAX's cache does not tell apart: each has a folder of its own.
    """
    import jax

    from rljax.experiments import devices

    if jax.config.values["jax_compilation_cache_dir"] is None:
        home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        jax.config.update("jax_compilation_cache_dir", str(home / "rljax" / f"threads-{devices.threads()}"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def _no_arguments(command: str, args: list[str]) -> None:
    if args and args[0] not in ("-h", "--help"):
        raise InputError(f"rljax {command} takes no arguments, got {args[0]!r}")


def _fail(sentence: str) -> None:
    """Say it in one line; a name from a file or a command line may hold what would move a terminal's cursor."""
    plain = "".join(c if c.isprintable() else repr(c)[1:-1] for c in sentence)
    print(f"rljax: error: {plain}", file=sys.stderr)
    sys.exit(2)
