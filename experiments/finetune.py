"""``rljax finetune``: an offline run, or the one that a data set asks for, and the online run that goes on from it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar

import tyro

from rljax import envs
from rljax.base import InputError
from rljax.experiments import cli, forms, presets, progress
from rljax.experiments import train as training
from rljax.experiments.presets import Preset
from rljax.experiments.setup import Start, refuse_other, run_name

Form = TypeVar("Form")


@dataclass(frozen=True)
class Finetune(Generic[Form]):
    """Go on online from an offline run (--from), or train that first on a data set (--data, kept in the run's folder offline).

    METHOD is the agent that learns online. Network sizes, discount and head are those of the run to go on from; with --data
    alone both parts have those of METHOD's config. What is not given comes from the presets for METHOD and ENV, and all else of
    the offline part from its own: to choose more of it, train it with rljax train and give --from.
    """

    method: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="METHOD")]]  # one of `rljax agents`
    env: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="ENV")]]  # one of `rljax envs`
    config: tyro.conf.FlagConversionOff[Form]
    steps: int  # env steps of each seed; a larger number extends a finished run
    run: Annotated[Path | None, tyro.conf.arg(name="from")] = None  # the run to go on from, which must stay as it is
    data: Path | None = None  # the data set to learn from before, or to retain
    retain: float | None = None  # fraction of each online batch that is recorded data [0.5 for calql, else 0]
    warmup: int | None = None  # env steps with a frozen policy first [config.warmup, or a batch; of calql an episode]
    initialise: Literal["both", "actor", "critic"] = "both"  # what is taken over from the offline run
    offline_steps: int | None = None  # gradient steps of each seed before, with --data and without --from [preset]
    seeds: str | None = None  # how many or which, as in rljax train [those of the run, or 1]
    out: Path | None = None  # the run's folder [runs/METHOD-ENV-HASH, or with the data set's name]
    eval_every: int = 5_000  # steps between evaluations
    eval_episodes: int = 10  # episodes of each evaluation
    num_envs: int = 1  # environments stepped in parallel by each seed
    fresh: bool = False  # begin anew; an earlier run in the folder is moved aside


class Plan(NamedTuple):
    """A call of `rljax.train`: agent, config, env and keyword arguments; ``setup`` is what comes of it."""

    agent: Any
    config: Any
    env: str
    kwargs: dict[str, Any]
    setup: Any

    def train(self, out: Path, **kwargs: Any) -> Any:
        """Call it."""
        return training.train(self.agent, self.config, self.env, out=out, **(self.kwargs | kwargs))


def finetune(args: list[str]) -> int:
    """``rljax finetune``: 0 when the run is finished, 130 when it was stopped before."""
    given, preset, dataset, origin = _parse(args)
    config = forms.read(given.config, preset.config)
    before = None
    if origin is None and preset.before is not None:
        cli.find_agent(given.method).check(config, envs.make(given.env).spec)
        before, said = _before(given, config, preset.before, dataset)
        config, origin = presets.going_on(presets.carried(config, before.config)), training.planned(before.setup)
    else:
        said = []
    online = _online(given, config, preset, dataset, origin)
    cli.keep_programs()
    out = given.out or Path("runs") / run_name(online.setup)
    training.refuse_own_start(online.setup, out.absolute(), given.fresh)
    if given.fresh:
        training.set_aside(out.absolute())
    if before is None:
        return cli.finish(online.train(out), out)
    if out.exists():
        refuse_other(online.setup, out)
    for sentence in said if not (out / "offline" / "config.json").exists() else []:
        progress.say(sentence)
    offline = before.train(out / "offline")
    if offline.stopped:
        return 130
    return cli.finish(online.train(out, start=replace(online.kwargs["start"], run=offline)), out)


def _before(given: Finetune, config: Any, before: tuple[str, Preset], dataset: Any) -> tuple[Plan, list[str]]:
    """The offline run that comes first, and what there is to say of its heads."""
    name, preset = before
    agent = cli.find_agent(name)
    kwargs = _counts(given) | {
        "seeds": cli.parse_seeds(given.seeds or "1"),
        "steps": preset.steps if given.offline_steps is None else given.offline_steps,
        "eval_every": preset.eval_every,
        "data": dataset,
        "reward": preset.reward,
    }
    setup = training.prepare(agent, presets.carried(preset.config, config), given.env, **kwargs)
    made, said = presets.with_supports(setup, preset, forms.given(given.config))
    return Plan(agent, made, given.env, kwargs, replace(setup, configs=(made,))), said


def _online(given: Finetune, config: Any, preset: Preset, dataset: Any, origin: Any) -> Plan:
    """The run that goes on from ``origin``, or, without one, begins with its data."""
    agent = cli.find_agent(given.method)
    retain = preset.retain if given.retain is None else given.retain
    kwargs = _counts(given) | {
        "steps": given.steps,
        "eval_every": given.eval_every,
        "seeds": cli.parse_seeds(given.seeds or "1"),
    }
    if origin is None:
        if given.retain is not None or given.warmup is not None or given.initialise != "both":
            raise InputError(
                f"--retain, --warmup and --initialise are for going on from a run: agent {given.method} has config.recorded "
                "and config.warmup"
            )
        kwargs |= {"data": dataset, "reward": preset.reward}
        setup = training.prepare(agent, config, given.env, **kwargs)
        config, said = presets.with_supports(setup, preset, forms.given(given.config))
        for sentence in said:
            progress.say(sentence)
    else:
        seeds = origin.setup.seeds if given.seeds is None else kwargs["seeds"]
        used = given.run is not None or retain or hasattr(config, "recorded")
        start = Start(origin, given.initialise, given.warmup, retain)
        kwargs |= {"seeds": seeds, "data": dataset if used else None, "start": start}
    setup = training.prepare(agent, config, given.env, **kwargs)
    training.check_start(setup)
    return Plan(agent, config, given.env, kwargs, setup)


def _counts(given: Finetune) -> dict[str, Any]:
    return {"eval_episodes": given.eval_episodes, "num_envs": given.num_envs}


def _parse(args: list[str]) -> tuple[Finetune, Preset, Any, Any]:
    """The arguments, the preset with what the run before has decided, the data set, and the run before."""
    names, wants_help = forms.positionals(args), {"-h", "--help"} & set(args)
    if wants_help:
        names = [*names, *("wsrl", "pendulum")[len(names) :]]
    if len(names) != 2:
        raise InputError("rljax finetune needs METHOD and ENV alone, such as rljax finetune wsrl pendulum --data FILE")
    agent, run = cli.find_agent(names[0]), forms.value(args, "--from")
    for name in (arg.split("=")[0].removeprefix("--config.") for arg in args if arg.startswith("--config.")):
        forms.require_field(agent.Config(), name.replace("-", "_"))
    dataset = None if wants_help else cli.read_data(forms.value(args, "--data"))
    origin = None if wants_help or run is None else training.load(run)
    preset = presets.online(names[0], names[1], dataset)
    if origin is not None:
        preset = replace(preset, config=presets.going_on(presets.carried(preset.config, origin.setup.configs[0])))
    elif dataset is None and not wants_help:
        raise InputError("rljax finetune needs the run to go on from, --from RUN, or a data set to begin with, --data FILE")
    elif preset.before is None and not hasattr(preset.config, "recorded") and not wants_help:
        raise InputError(f"agent {names[0]} has no offline part: give the run to go on from with --from, or use rljax train")
    sizes = {name: getattr(preset, name) for name in ("steps", "eval_every", "eval_episodes", "num_envs")}
    defaults = Finetune(method=names[0], env=names[1], config=forms.form(preset.config), **sizes)
    given = forms.parse(Finetune[type(defaults.config)], args, "rljax finetune", defaults)  # type: ignore[misc]
    if given.offline_steps is not None and (origin is not None or preset.before is None):
        raise InputError("--offline-steps are for the offline part that --data asks for: leave them out")
    return given, preset, dataset, origin
