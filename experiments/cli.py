"""The ``rljax`` command and its subcommands. A user's mistake is one sentence on stderr and exit code 2."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import inspect
import io
import itertools
import json
import os
import pkgutil
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Generic, Literal, TypeVar

import tyro

from rljax.base import InputError
from rljax.config import override

USAGE = """usage: rljax COMMAND ...

  train AGENT ENV   train seeds in one program; the same command continues a run that was stopped or killed
  agents            list the agents
  envs              list the environments
  data FILE         say what is in a data set, and draw data.png
  collect ENV       make data sets with random and trained policies, or mix those there are
  show RUN          print a run's table and draw its curve.png
  play RUN          let a trained agent act, and draw the first episode

rljax COMMAND --help lists the options of a command, and rljax train AGENT --help the agent's config.
"""


Form = TypeVar("Form")


@dataclass(frozen=True)
class Train(Generic[Form]):
    """Train AGENT on ENV. What is not given comes from the preset for AGENT and ENV, or for AGENT and the data set.

    Steps are env steps of each seed; with --data, critic gradient steps of each seed.
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
    data: Path | None = None  # learn from this data set (see rljax data); ENV is for evaluation
    sampling: str = "uniform"  # uniform, rw:TEMPERATURE, aw:TEMPERATURE or top:PERCENT of the data set's episodes
    eval: Literal["env", "none"] = "env"  # none: ENV is not used, no simulator is needed, and ENV may be left out
    action_low: float | None = None  # the actions' lower bound, with --eval none if the data set does not tell it
    action_high: float | None = None  # the actions' upper bound
    reward_scale: float = 1.0  # rewards that are learned from are reward-scale * reward + reward-bias
    reward_bias: float = 0.0  # see above; logs and evaluations hold raw rewards
    reward_failure: float | None = None  # raw reward of each step of an episode that fails (Monte-Carlo returns)


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


INNER = "__"  # the dot of "head.low", in the name of a form's field


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
        _fail(f"{error.strerror or error}: {error.filename}" if error.filename else str(error))
    except KeyboardInterrupt:
        sys.exit(130)


def run(args: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    commands = {"train": train, "agents": agents, "envs": envs, "data": data, "collect": collect, "show": show, "play": play}
    if not args or args[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if args else 2
    if args[0] == "--version":
        import rljax

        print(rljax.__version__)
        return 0
    if args[0] not in commands:
        raise InputError(f"unknown command {args[0]!r}: choose one of {', '.join(commands)}")
    return commands[args[0]](list(args[1:]))


def train(args: list[str]) -> int:
    """``rljax train``: 0 when the run is finished, 130 when it was stopped before."""
    given, dataset, preset = _parse_train(args)
    from rljax.experiments import presets, progress
    from rljax.experiments import train as training
    from rljax.experiments.setup import Reward, identity

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
    setup = training.prepare(agent, _read_form(given, preset.config), env, **kwargs)
    options = {name.replace(INNER, ".") for name, value in vars(given.config).items() if value is not None}
    config, said = presets.with_supports(setup, preset, options)
    setup = dataclasses.replace(setup, configs=(config,))
    _compilation_cache()
    out = given.out or Path("runs") / _run_name(setup, identity(setup.describe()))
    if given.fresh or not (out / "config.json").exists():
        for sentence in said:
            progress.say(sentence)
    result = training.train(agent, config, env, out=out, fresh=given.fresh, **kwargs)
    if result.step < given.steps:
        return 130
    if not any(row["kind"] == "eval" for row in result.rows):
        print(f"run in {out}; it was not evaluated")
        return 0
    from rljax.experiments import report

    report.save_curve(result.rows, result.setup.describe(), out / "curve.png")
    print(f"{report.table(result.rows)}\nrun and curve.png in {out}")
    return 0


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
    given = _tyro(Data, args, "rljax data")
    from rljax.data import load
    from rljax.data.summary import summary
    from rljax.experiments import report

    dataset = load(given.file)
    numbers = summary(dataset)
    path = given.out or (None if given.json else Path("data.png"))
    if path is not None:
        report.save_png(report.dataset_figure(dataset), path)
    if given.json:
        print(json.dumps(numbers))
    else:
        print(f"{report.dataset_table(numbers)}\npicture in {path}")
    return 0


def collect(args: list[str]) -> int:
    """``rljax collect``."""
    given = _tyro(Collect, args, "rljax collect")
    mix = parse_shares(given.mix) if given.mix else {}
    if given.steps is not None and given.steps < 1:
        raise InputError(f"--steps must be at least 1, got {given.steps}")
    _compilation_cache()
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


def show(args: list[str]) -> int:
    """``rljax show``."""
    given = _tyro(Show, args, "rljax show")
    from rljax import store
    from rljax.experiments import report
    from rljax.experiments.setup import read_settings
    from rljax.experiments.train import load, read_rows

    if given.params_hash:
        print(store.digest(load(given.run).state))
        return 0
    described, rows = read_settings(given.run), read_rows(given.run)
    print(report.table(rows, report.shown(rows)))
    report.save_curve(rows, described, given.run / "curve.png")
    print(f"curve in {given.run / 'curve.png'}")
    return 0


def play(args: list[str]) -> int:
    """``rljax play``."""
    given = _tyro(Play, args, "rljax play")
    if given.episodes < 1:
        raise InputError(f"--episodes must be at least 1, got {given.episodes}")
    _compilation_cache()
    from rljax.experiments import report
    from rljax.experiments.train import load

    numbers, suffix, contents = report.play(load(given.run), given.seed, given.episodes)
    path = given.out or given.run / f"play{suffix}"
    if path.suffix != suffix:
        raise InputError(f"this environment is drawn as {suffix}, so --out must end in it, got {path}")
    path.write_bytes(contents)
    if given.json:
        print(json.dumps(numbers | {"file": str(path)}))
    else:
        print(f"seed {numbers['seed']}: returns {' '.join(f'{x:.1f}' for x in numbers['returns'])}; drawn in {path}")
    return 0


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
    return numbers if "," in text else tuple(range(numbers[0]))


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
            raise InputError(f"--mix must be names with fractions, such as random=0.95,expert=0.05, got {text!r}")
    return shares


def _parse_train(args: list[str]) -> tuple[Train, Any, Any]:
    """The arguments of ``rljax train``, the data set, and the preset: that for AGENT and ENV, or AGENT and the data set."""
    from rljax.experiments import presets

    names, wants_help = _positionals(args), {"-h", "--help"} & set(args)
    no_env = _value(args, "--eval") == "none"
    if not names and wants_help:
        names = ["sac"]
    if len(names) < (1 if no_env else 2) and not wants_help:
        raise InputError("rljax train needs AGENT and ENV, such as rljax train sac gymnax/Pendulum-v1")
    if len(names) > 2:
        raise InputError(f"rljax train takes AGENT and ENV, and does not know what to do with {names[2]!r}")
    agent = find_agent(names[0])
    for name in (arg.split("=")[0].removeprefix("--config.") for arg in args if arg.startswith("--config.")):
        _require_field(agent.Config(), name.replace("-", "_"))
    dataset = None if wants_help else _dataset(_value(args, "--data"))
    env = names[1] if len(names) > 1 else ("none" if no_env else "pendulum")
    preset = presets.find(names[0], env, dataset)
    defaults = Train(
        agent=names[0],
        env=env,
        config=_form(preset.config),
        steps=preset.steps,
        eval_every=preset.eval_every,
        eval_episodes=preset.eval_episodes,
        num_envs=preset.num_envs,
        reward_scale=preset.reward.scale,
        reward_bias=preset.reward.bias,
        reward_failure=preset.reward.failure,
    )
    args = ["--help"] if wants_help else args if len(names) > 1 else [names[0], env, *(a for a in args if a != names[0])]
    given = _tyro(Train[type(defaults.config)], args, "rljax train", defaults)  # type: ignore[misc]
    return given, dataset, preset


def _require_field(config: Any, path: str) -> None:
    """Raise `InputError` unless ``config``, or one of the choices for a config within it, has the field."""
    name, _, inner = path.partition(".")
    override(config, {name: getattr(config, name, None)})
    if inner and inner not in _inner_fields(config, name):
        known = ", ".join(_inner_fields(config, name)) or "none"
        raise InputError(f"config.{name} has no field {inner!r}: its fields are {known}")


def _inner_fields(config: Any, name: str) -> dict[str, tuple[Any, str]]:
    """``{field: (type, comment)}`` of all choices for the config within ``config`` called ``name``."""
    choices = next(f.metadata.get("choices") or {} for f in dataclasses.fields(config) if f.name == name)
    found: dict[str, tuple[Any, str]] = {}
    for choice in filter(dataclasses.is_dataclass, choices.values()):
        for field, kind, comment in _described(type(choice)):
            found.setdefault(field.name, (_as_names(field, kind), comment))
    return found


def _dataset(name: str | None) -> Any:
    from rljax.data import load

    return None if name is None else load(name)


def _value(args: list[str], option: str) -> str | None:
    """The value given to ``option``, if it is given."""
    for i, arg in enumerate(args):
        if arg == option and i + 1 < len(args):
            return args[i + 1]
        if arg.startswith(option + "="):
            return arg.partition("=")[2]
    return None


def _positionals(args: list[str]) -> list[str]:
    """The arguments that are neither options nor their values; all options but two take one value."""
    found, skip = [], False
    for arg in args:
        if skip:
            skip = False
        elif arg.startswith("-"):
            skip = arg not in ("-h", "--help", "--fresh") and "=" not in arg
        else:
            found.append(arg)
    return found


def _form(config: Any) -> Any:
    """``config`` as a dataclass that tyro can fill: choices as their names, comments as help."""
    values, fields = {}, []
    for field, kind, comment in _described(type(config)):
        value, choices = getattr(config, field.name), field.metadata.get("choices") or {}
        values[field.name] = next((k for k, v in choices.items() if _same_choice(v, value)), value)
        fields.append((field.name, Annotated[_as_names(field, kind), tyro.conf.arg(help=comment)]))
        if dataclasses.is_dataclass(value):
            for inner, (inner_kind, help_) in _inner_fields(config, field.name).items():
                name = f"{field.name}.{inner}"
                values[name.replace(".", INNER)] = None
                option = tyro.conf.arg(name=name, help=f"{help_}; as the head has it, or computed, if not given")
                fields.append((name.replace(".", INNER), Annotated[inner_kind | None, option]))
    return dataclasses.make_dataclass("Config", fields, frozen=True)(**values)


def _described(config: type) -> list[tuple[Any, Any, str]]:
    """``(field, type, comment)`` of each field."""
    comments = dict(re.findall(r"^    (\w+): .*?  # (.+)$", inspect.getsource(config), re.MULTILINE))
    kinds = inspect.get_annotations(config, eval_str=True)
    return [(field, kinds[field.name], comments.get(field.name, "")) for field in dataclasses.fields(config)]


def _as_names(field: Any, kind: Any) -> Any:
    return Literal[tuple(field.metadata["choices"])] if field.metadata.get("choices") else kind


def _same_choice(choice: Any, value: Any) -> bool:
    """Whether ``value`` is what ``choice`` stands for; of a config within the config, only the kind matters."""
    return type(choice) is type(value) if dataclasses.is_dataclass(choice) else choice is value or choice == value


def _read_form(given: Train, preset: Any) -> Any:
    """``preset`` with what was given instead."""
    there = vars(_form(preset))
    return override(preset, {k.replace(INNER, "."): v for k, v in vars(given.config).items() if v != there[k]})


def _tyro(command: Any, args: list[str], prog: str, defaults: Any = None) -> Any:
    """Parse with tyro; what it says of a mistake becomes one sentence."""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(command, args=args, prog=prog, default=defaults)
    except SystemExit as end:
        if not end.code:
            raise
    lines = [line.strip("│ ") for line in complaint.getvalue().splitlines()][1:]  # the first is a title
    parts = [list(part) for rule, part in itertools.groupby(lines, lambda line: set(line) <= set("─-╭╮╰╯")) if not rule]
    raise InputError(" ".join(parts[0]).rstrip(".") + f"; see {prog} --help")


def _run_name(setup: Any, digest: str) -> str:
    where = setup.data.info.name if setup.data is not None else setup.env.name
    return re.sub(r"[^\w.]+", "-", f"{setup.agent.__name__.rpartition('.')[2]}-{where}-{digest[:8]}")


def _compilation_cache() -> None:
    """Keep compiled programs between commands, unless the user has set up JAX's cache already."""
    import jax

    if jax.config.values["jax_compilation_cache_dir"] is None:
        home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        jax.config.update("jax_compilation_cache_dir", str(home / "rljax"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def _no_arguments(command: str, args: list[str]) -> None:
    if args and args[0] not in ("-h", "--help"):
        raise InputError(f"rljax {command} takes no arguments, got {args[0]!r}")


def _fail(sentence: str) -> None:
    print(f"rljax: error: {sentence}", file=sys.stderr)
    sys.exit(2)
