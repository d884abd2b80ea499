"""What a run is: its arguments checked and resolved (`prepare`), their form on disk, and what identifies it."""

from __future__ import annotations

import hashlib
import importlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType, ModuleType, NoneType
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from rljax import loops, store
from rljax.base import Array, Discrete, Env, HostEnv, InputError, Space, Spec, bounds
from rljax.config import check_fields, from_dict, stack, to_dict
from rljax.data import Dataset, digest, fit, load, spec_of, weights
from rljax.experiments import devices

CAPACITY = 1_000_000  # transitions kept for replay by an agent that does not say; never more than the run has steps
MOST_SEEDS = 1_000_000
CHANGEABLE = ("steps", "eval_episodes")
SETTINGS: Mapping[str, Any] = MappingProxyType(
    {"agent": str, "env": (str, NoneType), "config": (dict, list), "seeds": list}
    | dict.fromkeys(("num_envs", "eval_every", "log_every", *CHANGEABLE), int)
)
ROW: Mapping[str, Any] = MappingProxyType({"step": int, "seed": int, "config": int, "phase": str, "kind": str})
HOST: Mapping[str, Any] = MappingProxyType(
    {"identity": str, "diverged": list, "metrics_digest": str, "pending": str}
    | dict.fromkeys(("iteration", "capacity", "metrics_bytes"), int)
)


@dataclass(frozen=True)
class Reward:
    """What every reward that enters a loss becomes, scale * reward + bias; logs and evaluations hold raw rewards.

    ``failure`` is the raw reward of each step of an episode that never succeeds, where an agent asks for Monte-Carlo returns.
    """

    scale: float = 1.0
    bias: float = 0.0
    failure: float | None = None


@dataclass(frozen=True)
class Offline:
    """What a run remembers of the data that it learns from: its name, hash and reference returns, and how it is used."""

    name: str
    hash: str
    reference: tuple[float, float] | None
    sampling: str


@dataclass(frozen=True)
class Start:
    """How an online run goes on from a finished ``run``, a folder or a `Result` of `train`: fine-tuning.

    Every learner starts with what the run's learner of its seed has learned, or that of its only seed, ``initialise`` "both",
    "actor" or "critic"; then come ``warmup`` env steps with its policy, during which nothing is learned (None: as many as the
    config's warmup, or one batch, of calql an episode). The fraction ``retain`` of each batch is recorded data. Counts of
    optimisers go on, and with them IQL's ``actor_decay``: `rljax.experiments.presets.going_on` makes it constant.
    """

    run: Any
    initialise: str = "both"
    warmup: int | None = None
    retain: float = 0.0


@dataclass(frozen=True)
class Switch:
    """What a run remembers of its `Start`: the agent, identity and last step of the run before, and how it goes on from it."""

    agent: str
    identity: str
    step: int
    initialise: str
    warmup: int
    retain: float
    reference: tuple[float, float] | None


class Phase(NamedTuple):
    """A part of a run: its name in the rows, its loop, and the iteration at which it ends."""

    name: str
    loop: Callable[..., loops.Loop]
    end: int


@dataclass(frozen=True)
class Setup:
    """What a run is, and how far it goes.

    Counts are per seed: env steps online, one iteration being ``env.num_envs`` of them, or a rollout of as many in each env as
    the agent takes in one update, or the agent's episodes, each counted as the longest that it can be; critic gradient steps
    offline, one iteration being as many as the agent makes in one update.
    """

    agent: ModuleType
    configs: tuple[Any, ...]
    env: Env | HostEnv | None
    spec: Spec
    seeds: tuple[int, ...]
    steps: int
    eval_every: int
    eval_episodes: int
    log_every: int
    reward: Reward = Reward()
    data: Dataset | None = None
    offline: Offline | None = None
    origin: Any = None
    switch: Switch | None = None

    @property
    def learning(self) -> Callable[..., loops.Loop]:
        """The loop in which the agent learns: its module's ``loop``, or else online with a warm-up or a `Start`, or offline."""
        online = self.switch is not None or hasattr(self.configs[0], "warmup")
        named: Callable[..., loops.Loop] = getattr(self.agent, "loop", loops.online if online else loops.offline)
        return named

    @property
    def interacts(self) -> bool:
        """Whether there are env steps to learn from."""
        return self.learning is not loops.offline

    @property
    def replays(self) -> bool:
        """Whether every env step is kept in a ring, to learn from them more than once."""
        return self.learning is loops.online

    @property
    def warms_up(self) -> bool:
        """Whether there may be env steps without learning before the others."""
        return self.replays or self.learning is loops.sequences

    @property
    def stride(self) -> int:
        """Steps of one iteration."""
        if self.replays:
            return self.env.num_envs
        agent = self.agent.make(self.spec, self.configs[0])
        if self.learning is loops.episodes:
            return agent.episodes * self.spec.horizon
        return agent.batches * self.env.num_envs if self.interacts else agent.batches

    @property
    def total(self) -> int:
        """Iterations in all."""
        return -(-self.steps // self.stride)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The parts of the run, in order."""
        learning = Phase("online" if self.interacts else "offline", self.learning, self.total)
        if not self.warmup:
            return (learning,)
        random = loops.warm_up if self.replays else loops.sequences_warm_up
        return Phase("warmup", loops.frozen if self.switch else random, self.warmup), learning

    @property
    def warmup(self) -> int:
        """Iterations of the warm-up."""
        if not self.warms_up:
            return 0
        return -(-(self.switch.warmup if self.switch else self.configs[0].warmup) // self.stride)

    @property
    def stacked(self) -> Any:
        """The configs of all N = seeds x configs learners, the config varying fastest."""
        return stack(self.configs * len(self.seeds))

    @property
    def learners(self) -> list[tuple[int, int]]:
        """``(seed, config row)`` of each learner."""
        return [(seed, row) for seed in self.seeds for row in range(len(self.configs))]

    @property
    def mesh(self) -> Mesh | None:
        """The devices that the learners are spread over; None if it is one."""
        return devices.mesh(len(self.learners))

    @property
    def keys(self) -> jax.Array:
        """One key per learner, from its seed."""
        return jax.vmap(jax.random.key)(np.array([seed for seed, _ in self.learners], np.uint32))

    def capacity(self, at_least: int = 0) -> int:
        """Transitions in each learner's ring: the config's, but no more than the run has steps; none without replay."""
        keeps = self.learning is loops.episodes and self.agent.make(self.spec, self.configs[0]).keep is not None
        if not (self.warms_up or keeps):
            return 0
        return max(min(getattr(self.configs[0], "capacity", CAPACITY), self.total * self.stride), at_least)

    def boundary(self, t: int) -> int:
        """The iteration at which the chunk that starts at ``t`` ends."""
        log, evaluation = (-(-every // self.stride) for every in (self.log_every, self.eval_every))
        return min(t - t % log + log, t - t % evaluation + evaluation, *(phase.end for phase in self.phases if phase.end > t))

    def evaluates(self, t: int) -> bool:
        """Whether there is an evaluation after iteration ``t``."""
        return t % -(-self.eval_every // self.stride) == 0 or t == self.total

    def loop(self, t: int) -> Callable[..., loops.Loop]:
        """The loop that makes iteration ``t``."""
        return next(phase.loop for phase in self.phases if t < phase.end or phase.end == self.total)

    def phase(self, t: int) -> str:
        """The phase that iteration ``t`` ends or lies in, as rows name it."""
        return next(phase.name for phase in self.phases if t <= phase.end or phase.end == self.total)

    @property
    def reference(self) -> tuple[float, float] | None:
        """Returns of a random and of an expert policy, if the data set has them, or the env."""
        source = self.offline or self.switch
        return source.reference if source else getattr(self.env, "reference", None)

    @property
    def evaluated(self) -> Env | HostEnv | None:
        """The env whose episodes are evaluations."""
        return getattr(self.env, "evaluation", None) or self.env

    def describe(self) -> dict[str, Any]:
        """All of it as JSON; what is not in `CHANGEABLE` identifies the run."""
        configs = [to_dict(config) for config in self.configs]
        described = {
            "agent": self.agent.__name__.removeprefix("rljax.agents."),
            "env": None if self.env is None else self.env.name,
            "config": configs[0] if len(configs) == 1 else configs,
            "seeds": list(self.seeds),
            "num_envs": 1 if self.env is None else self.env.num_envs,
            "eval_every": self.eval_every,
            "log_every": self.log_every,
            "steps": self.steps,
            "eval_episodes": self.eval_episodes,
        }
        if self.offline:
            described |= {"offline": asdict(self.offline), "spec": _describe_spec(self.spec)}
        if self.switch:
            described["switch"] = asdict(self.switch)
        if self.reward != Reward():
            described["reward"] = asdict(self.reward)
        return described


def prepare(
    agent: ModuleType,
    config: Any,
    env: Env | HostEnv | str | None,
    *,
    seeds: int | Sequence[int],
    steps: int,
    eval_every: int,
    eval_episodes: int,
    num_envs: int | None = None,
    log_every: int = 500,
    data: Dataset | str | Path | None = None,
    sampling: str = "uniform",
    reward: Reward | None = None,
    action_bounds: tuple[float, float] | None = None,
    start: Start | None = None,
) -> Setup:
    """The `Setup` of `train`'s arguments, with a `Result` as the run of ``start``; `InputError` for the first that is wrong."""
    if not all(hasattr(agent, name) for name in ("Config", "check", "make")):
        raise InputError(f"agent must be a module such as rljax.agents.sac, got {agent!r}")
    _check_counts(steps=steps, eval_every=eval_every, eval_episodes=eval_episodes, log_every=log_every)
    made = _environment(env, num_envs)
    dataset = load(data) if isinstance(data, str | Path) else data
    if not isinstance(dataset, Dataset | None):
        raise InputError(f"data must be a data set, a path or a name, got {type(dataset).__name__}")
    spec = _spec(made, dataset, action_bounds)
    configs = _configs(agent, config, spec)
    setup = Setup(agent, configs, made, spec, _seeds(seeds), steps, eval_every, eval_episodes, log_every)
    if start is not None:
        setup = _started(setup, start)
    setup = _rewarded(setup, reward)
    _check_sources(setup, dataset)
    if dataset is not None:
        return _with_data(setup, dataset, sampling)
    if sampling != "uniform":
        raise InputError("sampling is for recorded data: leave it out, or give --data")
    return setup


def identity(described: dict[str, Any]) -> str:
    """16 hex digits of what identifies a run, from `Setup.describe`."""
    return hashlib.sha256(json.dumps(_identifying(described), sort_keys=True).encode()).hexdigest()[:16]


def label(setup: Setup) -> str:
    """The agent and what it learns from, as in the names of folders."""
    where = setup.data.info.name if setup.data is not None else setup.env.name if setup.env else ""
    return re.sub(r"[^\w.]+", "-", f"{_name(setup.agent)}-{where}")


def run_name(setup: Setup) -> str:
    """The folder's name of a run that is not given one; it changes with everything that identifies the run."""
    return f"{label(setup)}-{identity(setup.describe())[:8]}"


def _identifying(described: dict[str, Any]) -> dict[str, Any]:
    """Without what may change: a data set is known by its hash, not by the name of its file."""
    fields = {k: v for k, v in described.items() if k not in CHANGEABLE}
    if "offline" in fields:
        fields["offline"] = {k: v for k, v in fields["offline"].items() if k != "name"}
    return fields


def is_run(out: Path) -> bool:
    """Whether the folder holds a run, or what is left of one."""
    return any((out / name).exists() for name in ("config.json", "metrics.jsonl", "checkpoints"))


def refuse_other(setup: Setup, out: Path) -> None:
    """Raise `InputError` if the folder holds another run, or something else."""
    if (out / "config.json").exists():
        fields = _differences(_identifying(read_settings(out)), _identifying(setup.describe()))
        if fields:
            raise InputError(f"{out} holds another configuration ({'; '.join(fields)}): use another --out, or --fresh")
    elif is_run(out):
        raise InputError(f"{out / 'config.json'} is missing from a run: restore it, or start anew with --fresh")
    else:
        refuse_no_run(out)


def refuse_no_run(out: Path) -> None:
    """Raise `InputError` if the folder holds files, and no run."""
    if not is_run(out) and any(p.suffix != ".part" and p.name not in (".lock", "offline") for p in out.iterdir()):
        raise InputError(f"{out} is not empty and holds no run: choose another folder with --out")


def read_settings(out: Path) -> dict[str, Any]:
    """What `Setup.describe` wrote into config.json.

    Raises:
        InputError: if it is missing or damaged.
    """
    path = out / "config.json"
    there = store.require(path, store.read_json(path), SETTINGS)
    optional: dict[str, Any] = {name: dict for name in ("offline", "switch", "reward", "spec") if name in there}
    for row in there["config"] if isinstance(there["config"], list) else []:
        store.require(path, {"config": row}, {"config": dict})
    return store.require(path, there, optional)


def checked_rows(out: Path, rows: list[dict[str, Any]], name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    """``rows`` of the run's file ``name``, if all of them are of its learners, and hold numbers.

    Raises:
        InputError: if they are not.
    """
    there = read_settings(out)
    configs, seeds = len(there["config"]) if isinstance(there["config"], list) else 1, there["seeds"]
    for row in rows:
        store.require(out / name, row, {**ROW, **dict.fromkeys((key for key in row if "/" in key), (int, float))})
        if row["seed"] not in seeds or not 0 <= row["config"] < configs:
            raise InputError(f"{out / name} is damaged, it has rows of other seeds or configs: restore it")
    return rows


def checked_host(out: Path, found: tuple[int, dict[str, Any]] | None) -> tuple[int, dict[str, Any]] | None:
    """The newest checkpoint's step and ``host`` as `rljax.store.newest` gives them, if they are a run's.

    Raises:
        InputError: if they are not.
    """
    if found is not None:
        path = out / "checkpoints" / str(found[0]) / "host.json"
        host = store.require(path, found[1], HOST)
        if min(host["iteration"], host["capacity"], host["metrics_bytes"]) < 0 or host["capacity"] > found[0] + 2**31:
            raise InputError(f"{path} is damaged, its numbers are no sizes: restore it, or start anew with --fresh")
        checked_rows(out, store.parse_rows(path, host["pending"]))
    return found


def read_setup(out: Path) -> Setup:
    """The `Setup` in a run folder, without its data.

    Raises:
        InputError: if it is damaged, or was made by an agent or on an env that is not part of rljax.
    """
    there = read_settings(out)
    try:
        return _resolved(out, there)
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:  # as there are ways to be wrong
        said = " ".join(str(error).split())
        raise InputError(f"{out / 'config.json'} is damaged ({said}): restore it, or start anew with --fresh") from None


def _resolved(out: Path, there: dict[str, Any]) -> Setup:
    """The `Setup` that was described as ``there``."""
    if not re.fullmatch("[a-z0-9_]+", there["agent"]) or not find_spec("rljax.agents." + there["agent"]):
        raise InputError(f"{out} was made by agent {there['agent']}, which is not part of rljax: load it with train")
    agent = importlib.import_module("rljax.agents." + there["agent"])
    rows = there["config"] if isinstance(there["config"], list) else [there["config"]]
    configs = tuple(from_dict(agent.Config, row) for row in rows)
    offline, switch = there.get("offline"), there.get("switch")
    if offline:
        offline = Offline(**(offline | {"reference": _tuples(offline["reference"])}))
    if switch:
        switch = Switch(**(switch | {"reference": _tuples(switch["reference"])}))
    env = _known_environment(out, there)
    counts = {name: there[name] for name in ("steps", "eval_every", "eval_episodes", "log_every")}
    _check_counts(**counts)
    spec = _read_spec(there["spec"]) if offline else env.spec
    configs, seeds = _configs(agent, configs, spec), _seeds(there["seeds"])
    setup = Setup(agent, configs, env, spec, seeds, **counts, offline=offline, switch=switch)
    return _rewarded(setup, Reward(**there.get("reward", {})))


def _configs(agent: ModuleType, config: Any, spec: Spec) -> tuple[Any, ...]:
    configs = tuple(config) if isinstance(config, list | tuple) else (agent.Config() if config is None else config,)
    for row in configs:
        if not isinstance(row, agent.Config):
            raise InputError(f"config must be {agent.__name__}.Config or a list of them, got {row!r}")
    configs = tuple(map(check_fields, configs))
    for row in configs:
        agent.check(row, spec)
    stack(configs)
    return configs


def _check_counts(**counts: Any) -> None:
    for name, value in counts.items():
        if not isinstance(value, int):
            raise InputError(f"{name} must be a whole number, got {value!r}")
        if value < 1:
            raise InputError(f"{name} must be at least 1, got {value}")


def _environment(env: Env | HostEnv | str | None, num_envs: int | None) -> Env | HostEnv | None:
    from rljax import envs

    if isinstance(env, str):
        return envs.make(env, 1 if num_envs is None else num_envs)
    if not isinstance(env, Env | HostEnv | None):
        raise InputError(f"env must be an environment or the name of one, got {env!r}")
    return env if env is None or num_envs is None else env.resize(num_envs)


def _known_environment(out: Path, there: dict[str, Any]) -> Env | HostEnv | None:
    try:
        return _environment(there["env"], there["num_envs"])
    except InputError as error:
        raise InputError(f"{out} was made on an environment of your own, load it with train ({error})") from None


def _seeds(seeds: int | Sequence[int]) -> tuple[int, ...]:
    if isinstance(seeds, int) and 0 < seeds <= MOST_SEEDS:
        return tuple(range(seeds))
    given = [] if isinstance(seeds, int | str) else list(seeds)
    numbers = tuple(sorted(int(x) for x in given if isinstance(x, int | np.integer) and 0 <= x < 2**32 - 10_000))
    if not numbers or len(set(numbers)) < len(given):
        number, most = f"a number from 1 to {MOST_SEEDS}", 2**32 - 10_001
        raise InputError(f"seeds must be {number}, or distinct numbers from 0 to {most}, got {seeds!r}")
    return numbers


def _spec(env: Env | HostEnv | None, dataset: Dataset | None, bounds: tuple[float, float] | None) -> Spec:
    if env is not None and bounds is not None:
        raise InputError("the environment knows the bounds of its actions: leave out --action-low and --action-high")
    if env is not None:
        return env.spec
    if dataset is None:
        raise InputError("without an environment a data set is needed: give one with --data")
    return spec_of(dataset, *(bounds or ()))


def _rewarded(setup: Setup, reward: Reward | None) -> Setup:
    """``setup`` with these rewards, or those of the run that it goes on from."""
    if reward is None:
        reward = setup.origin.setup.reward if setup.origin else Reward()
    for name, x in asdict(reward).items():
        if x is not None and not abs(x) <= float(np.finfo(np.float32).max):
            raise InputError(f"the {name} of rewards must be finite, and what float32 can hold, got {x}")
    return replace(setup, reward=reward)


def _started(setup: Setup, start: Start) -> Setup:
    """``setup`` as it goes on from ``start``."""
    origin, config = start.run.setup, setup.configs[0]
    if hasattr(setup.agent, "loop"):
        raise InputError(f"agent {_name(setup.agent)} cannot go on from a run, it learns from its own episodes: use train")
    if not hasattr(config, "discount"):
        raise InputError(f"agent {_name(setup.agent)} does not learn from rewards: there is nothing that it could learn online")
    if origin.spec.obs.shape != setup.spec.obs.shape or not _same_actions(origin.spec.action, setup.spec.action):
        raise InputError(
            f"the run to start from has observations of shape {origin.spec.obs.shape} and actions {origin.spec.action}, "
            f"here they are {setup.spec.obs.shape} and {setup.spec.action}"
        )
    if len(origin.configs) > 1:
        raise InputError(f"the run to start from holds {len(origin.configs)} configs: give one with a single config")
    missing = sorted(set(setup.seeds) - set(origin.seeds))
    if missing and len(origin.seeds) > 1:
        raise InputError(f"the run to start from has no seed {missing[0]}: its seeds are {', '.join(map(str, origin.seeds))}")
    if start.initialise != "actor":
        _require_heads(setup, origin.configs[0])
    switch = Switch(
        agent=_name(origin.agent),
        identity=identity(origin.describe()),
        step=start.run.step,
        initialise=start.initialise,
        warmup=_warmup(setup, start.warmup),
        retain=_retained(setup, start.retain),
        reference=origin.reference,
    )
    return replace(setup, origin=start.run, switch=switch)


def _same_actions(a: Space, b: Space) -> bool:
    if isinstance(a, Discrete) or isinstance(b, Discrete):
        return a == b
    return a.shape == b.shape and bool(np.allclose(bounds(a), bounds(b)))


def _warmup(setup: Setup, given: int | None) -> int:
    """Env steps with the frozen policy: by default the config's, or one batch, or so many that an episode's return is known."""
    config = setup.configs[0]
    if given is None:
        longest = setup.spec.horizon * setup.env.num_envs if hasattr(setup.agent, "Extras") and setup.env else 0
        return int(getattr(config, "warmup", max(config.batch_size, longest)))
    if isinstance(given, bool) or not isinstance(given, int | np.integer) or given < 0:
        raise InputError(f"warmup must be a whole number of env steps, at least 0, got {given!r}")
    return int(given)


def _retained(setup: Setup, given: float) -> float:
    """The fraction of each batch that is recorded data."""
    config = setup.configs[0]
    if not isinstance(given, int | float) or not 0 <= given < 1:
        raise InputError(f"retain must be in [0, 1), got {given!r}")
    if given and hasattr(config, "recorded"):
        raise InputError(f"agent {_name(setup.agent)} has config.recorded for the share of recorded data: leave out --retain")
    if given and setup.agent.make(setup.spec, config).draw is not None:
        raise InputError(
            f"agent {_name(setup.agent)} draws from its replay in its own way, as its config says: leave out --retain"
        )
    if given and round(given * config.batch_size) in (0, config.batch_size):
        raise InputError(f"retain {given:g} of a batch of {config.batch_size} leaves one source without a transition")
    return float(given)


def _require_heads(setup: Setup, earlier: Any) -> None:
    """Raise `InputError` unless critics that are taken over go on to mean the same numbers."""

    def meaning(head: Any) -> tuple:
        return type(head), *(float(getattr(head, end, 0.0)) for end in ("low", "high")), getattr(head, "transform", None)

    for config in setup.configs:
        for name in ("head", "value_head"):
            before, now = getattr(earlier, name, None), getattr(config, name, None)
            if before is not None and now is not None and meaning(before) != meaning(now):
                raise InputError(f"config.{name} must be the one that the critics were trained with, {before}, got {now}")


def _check_sources(setup: Setup, dataset: Dataset | None) -> None:
    """Raise `InputError` unless the agent has what it learns from, an env or a data set or both, and no more."""
    name = _name(setup.agent)
    if not setup.interacts and dataset is None:
        raise InputError(f"agent {name} learns from recorded data: give a data set with --data")
    if not setup.interacts:
        return
    if not isinstance(setup.env, Env):
        where = "an environment" if setup.env is None else setup.describe()["env"]
        said = (
            "is needed to learn in" if setup.env is None else "runs on the host, where agents can be evaluated but not trained"
        )
        raise InputError(f"{where} {said}")
    if setup.learning is loops.episodes and setup.env.num_envs != 1:
        raise InputError(f"agent {name} plays as many episodes at once as its config says: leave out --num-envs")
    if setup.learning is loops.episodes and setup.stride > 10 * setup.steps:
        each = f"{setup.stride} env steps, {setup.stride // setup.spec.horizon} episodes of {setup.spec.horizon}"
        raise InputError(f"one iteration of {name} takes {each}: raise --steps, or choose a shorter horizon or fewer episodes")
    if setup.learning is loops.sequences:
        _check_rows(setup)
    mixes = hasattr(setup.configs[0], "recorded")
    if mixes and dataset is None:
        raise InputError(f"agent {name} learns from recorded data beside its own: give a data set with --data")
    if setup.switch and setup.switch.retain and dataset is None:
        raise InputError("retained data must come from somewhere: give a data set with --data, or --retain 0")
    if dataset is not None and not setup.replays:
        raise InputError(f"agent {name} learns from its own episodes alone: use rljax train, without --data")
    if dataset is not None and not mixes and not (setup.switch and setup.switch.retain):
        keep = "keep a fraction of it in each batch with --retain" if setup.switch else "use rljax finetune"
        raise InputError(f"agent {name} learns from its own experience: leave out --data, or {keep}")


def _check_rows(setup: Setup) -> None:
    """Raise `InputError` unless each env has the steps of a sequence when learning begins, and keeps as many."""
    config, num = setup.configs[0], setup.env.num_envs if setup.env else 1
    longest = max(config.length, config.context)
    for name, rows in (("warmup", setup.warmup * setup.stride // num), ("capacity", config.capacity // num)):
        if rows < longest:
            raise InputError(f"config.{name} must be at least {longest * num}: {longest} steps of a sequence in {num} envs")


def _with_data(setup: Setup, dataset: Dataset, sampling: str) -> Setup:
    fitted = fit(dataset, setup.spec)
    weights.parse(sampling)
    discounts = {config.discount for config in setup.configs} if hasattr(setup.agent, "Extras") else set()
    if len(discounts) > 1:
        raise InputError(f"agent {_name(setup.agent)} needs Monte-Carlo returns, so all configs must have one discount")
    info = fitted.info
    offline = Offline(info.name, digest(fitted), info.reference, sampling)
    return replace(setup, data=fitted, offline=offline)


def _describe_spec(spec: Spec) -> dict[str, Any]:
    """The spec as strict JSON: bounds that are not finite are left out."""

    def space(fields: dict[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in fields.items() if k in ("shape", "dtype") or np.isfinite(v).all()}

    return {"obs": space(asdict(spec.obs)), "action": space(asdict(spec.action)), "horizon": spec.horizon}


def _read_spec(said: dict[str, Any]) -> Spec:
    def space(fields: dict[str, Any]) -> Any:
        fixed = {k: _tuples(v) for k, v in fields.items()}
        if "n" in fixed:
            _check_counts(n=fixed["n"])
            return Discrete(**fixed)
        array = Array(**fixed)
        if any(np.asarray(x).dtype.kind not in "if" for x in (array.low, array.high)):
            raise ValueError("the bounds of a space must be numbers")
        np.broadcast_to(np.zeros(1, array.dtype), array.shape), bounds(array)  # or else a ValueError
        return array

    _check_counts(horizon=said["horizon"])
    return Spec(space(said["obs"]), space(said["action"]), said["horizon"])


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _differences(there: Any, mine: Any, name: str = "") -> list[str]:
    if isinstance(there, dict) and isinstance(mine, dict):
        prefix = name + "." if name else ""
        keys = [*there, *(k for k in mine if k not in there)]
        return [d for k in keys for d in _differences(there.get(k), mine.get(k), prefix + k)]
    mine = json.loads(json.dumps(mine))
    if there == mine:
        return []
    if name == "switch.identity":
        return ["it goes on from another run, or from one on other data"]
    return [f"{name} is {there} there, {mine} here"]


def _name(agent: ModuleType) -> str:
    return agent.__name__.rpartition(".")[2]
