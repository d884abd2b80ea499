"""What a run is: its arguments checked and resolved (`prepare`), their form on disk, and what identifies it."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax import loops, store
from rljax.base import Array, Discrete, Env, HostEnv, InputError, Spec
from rljax.config import check_fields, from_dict, stack, to_dict
from rljax.data import Dataset, digest, fit, load, spec_of, weights

CHANGEABLE = ("steps", "eval_episodes")
SETTINGS = frozenset({"agent", "env", "config", "seeds", "num_envs", "eval_every", "log_every", *CHANGEABLE})


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
    reward: Reward


@dataclass(frozen=True)
class Setup:
    """What a run is, and how far it goes.

    Counts are per seed: env steps online, one iteration being ``env.num_envs`` of them; critic gradient steps offline, one
    iteration being as many as the agent makes in one update.
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
    data: Dataset | None = None
    offline: Offline | None = None

    @property
    def stride(self) -> int:
        """Steps of one iteration."""
        if self.offline:
            return self.agent.make(self.spec, self.configs[0]).batches
        return self.env.num_envs

    @property
    def total(self) -> int:
        """Iterations in all."""
        return -(-self.steps // self.stride)

    @property
    def warmup(self) -> int:
        """Iterations of the random warm-up."""
        return 0 if self.offline else -(-self.configs[0].warmup // self.stride)

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
        """Transitions in each learner's ring: the config's, but no more than the run has steps; none offline."""
        if self.offline:
            return 0
        return max(min(self.configs[0].capacity, self.total * self.stride), at_least)

    def boundary(self, t: int) -> int:
        """The iteration at which the chunk that starts at ``t`` ends."""
        log, evaluation = (-(-every // self.stride) for every in (self.log_every, self.eval_every))
        marks = [t - t % log + log, t - t % evaluation + evaluation, self.total]
        return min(marks + [self.warmup] * (t < self.warmup))

    def evaluates(self, t: int) -> bool:
        """Whether there is an evaluation after iteration ``t``."""
        return t % -(-self.eval_every // self.stride) == 0 or t == self.total

    def loop(self, t: int) -> Callable[..., loops.Loop]:
        """The loop that makes iteration ``t``."""
        if self.offline:
            return loops.offline
        return loops.warm_up if t < self.warmup else loops.online

    def phase(self, t: int) -> str:
        """The phase that iteration ``t`` ends or lies in, as rows name it."""
        if self.offline:
            return "offline"
        return "warmup" if t <= self.warmup else "online"

    @property
    def reference(self) -> tuple[float, float] | None:
        """Returns of a random and of an expert policy, if the data set has them."""
        return self.offline.reference if self.offline else None

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
) -> Setup:
    """The `Setup` of `train`'s arguments; `InputError` for the first that cannot work."""
    if not all(hasattr(agent, name) for name in ("Config", "check", "make")):
        raise InputError(f"agent must be a module such as rljax.agents.sac, got {agent!r}")
    _check_counts(steps=steps, eval_every=eval_every, eval_episodes=eval_episodes, log_every=log_every)
    made = _environment(env, num_envs)
    dataset = load(data) if isinstance(data, str | Path) else data
    if not isinstance(dataset, Dataset | None):
        raise InputError(f"data must be a data set, a path or a name, got {type(dataset).__name__}")
    spec = _spec(made, dataset, action_bounds)
    configs = tuple(config) if isinstance(config, list | tuple) else (agent.Config() if config is None else config,)
    for row in configs:
        if not isinstance(row, agent.Config):
            raise InputError(f"config must be {agent.__name__}.Config or a list of them, got {row!r}")
    configs = tuple(map(check_fields, configs))
    for row in configs:
        agent.check(row, spec)
    stack(configs)
    setup = Setup(agent, configs, made, spec, _seeds(seeds), steps, eval_every, eval_episodes, log_every)
    if dataset is None:
        if sampling != "uniform" or reward not in (None, Reward()):
            raise InputError("sampling and changed rewards are for recorded data: leave them out, or give --data")
        return _without_data(setup)
    return _with_data(setup, dataset, sampling, Reward() if reward is None else reward)


def identity(described: dict[str, Any]) -> str:
    """16 hex digits of what identifies a run, from `Setup.describe`."""
    return hashlib.sha256(json.dumps(_identifying(described), sort_keys=True).encode()).hexdigest()[:16]


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
        fields = _differences(_identifying(read_settings(out)), setup.describe())
        if fields:
            raise InputError(f"{out} holds another configuration ({'; '.join(fields)}): use another --out, or --fresh")
    elif is_run(out):
        raise InputError(f"{out / 'config.json'} is missing from a run: restore it, or start anew with --fresh")
    else:
        refuse_no_run(out)


def refuse_no_run(out: Path) -> None:
    """Raise `InputError` if the folder holds files, and no run."""
    if not is_run(out) and any(p.suffix != ".part" and p.name != ".lock" for p in out.iterdir()):
        raise InputError(f"{out} is not empty and holds no run: choose another folder with --out")


def read_settings(out: Path) -> dict[str, Any]:
    """What `Setup.describe` wrote into config.json.

    Raises:
        InputError: if it is missing or damaged.
    """
    there = store.read_json(out / "config.json")
    if not (isinstance(there, dict) and SETTINGS <= there.keys()):
        raise InputError(f"{out / 'config.json'} is damaged, settings are missing: restore it, or start anew with --fresh")
    return there


def read_setup(out: Path) -> Setup:
    """The `Setup` in a run folder, without its data.

    Raises:
        InputError: if it is damaged, or was made by an agent or on an env that is not part of rljax.
    """
    there = read_settings(out)
    try:
        agent = importlib.import_module("rljax.agents." + there["agent"])
    except ImportError:
        raise InputError(f"{out} was made by agent {there['agent']}, which is not part of rljax: load it with train") from None
    rows = there["config"] if isinstance(there["config"], list) else [there["config"]]
    try:
        configs = tuple(from_dict(agent.Config, row) for row in rows)
    except (AttributeError, TypeError) as error:
        raise InputError(f"{out / 'config.json'} does not fit the config of {there['agent']} ({error})") from None
    offline = there.get("offline")
    if offline:
        reference, reward = _tuples(offline["reference"]), Reward(**offline["reward"])
        offline = Offline(**(offline | {"reference": reference, "reward": reward}))
    env = _known_environment(out, there)
    counts = {name: there[name] for name in ("steps", "eval_every", "eval_episodes", "log_every")}
    spec = _read_spec(there["spec"]) if offline else env.spec
    return Setup(agent, configs, env, spec, tuple(there["seeds"]), **counts, offline=offline)


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
    return env if env is None or num_envs is None else env.resize(num_envs)


def _known_environment(out: Path, there: dict[str, Any]) -> Env | HostEnv | None:
    try:
        return _environment(there["env"], there["num_envs"])
    except InputError as error:
        raise InputError(f"{out} was made on an environment of your own, load it with train ({error})") from None


def _seeds(seeds: int | Sequence[int]) -> tuple[int, ...]:
    if isinstance(seeds, int) and seeds > 0:
        return tuple(range(seeds))
    given = [] if isinstance(seeds, int | str) else list(seeds)
    numbers = tuple(sorted(int(x) for x in given if isinstance(x, int | np.integer) and 0 <= x < 2**32 - 10_000))
    if not numbers or len(set(numbers)) < len(given):
        raise InputError(f"seeds must be a number above 0, or distinct numbers from 0 to {2**32 - 10_001}, got {seeds!r}")
    return numbers


def _spec(env: Env | HostEnv | None, dataset: Dataset | None, bounds: tuple[float, float] | None) -> Spec:
    if env is not None and bounds is not None:
        raise InputError("the environment knows the bounds of its actions: leave out --action-low and --action-high")
    if env is not None:
        return env.spec
    if dataset is None:
        raise InputError("without an environment a data set is needed: give one with --data")
    return spec_of(dataset, *(bounds or ()))


def _without_data(setup: Setup) -> Setup:
    if not hasattr(setup.configs[0], "warmup"):
        raise InputError(f"agent {_name(setup.agent)} learns from recorded data: give a data set with --data")
    if not isinstance(setup.env, Env):
        raise InputError(f"{setup.describe()['env']} runs on the host, where agents can be evaluated but not trained")
    return setup


def _with_data(setup: Setup, dataset: Dataset, sampling: str, reward: Reward) -> Setup:
    if hasattr(setup.configs[0], "warmup"):
        raise InputError(f"agent {_name(setup.agent)} learns from its own experience: leave out --data")
    if not np.isfinite([x for x in asdict(reward).values() if x is not None]).all():
        raise InputError(f"the scale, bias and failure of rewards must be finite, got {reward}")
    fitted = fit(dataset, setup.spec)
    weights.parse(sampling)
    discounts = {config.discount for config in setup.configs} if hasattr(setup.agent, "Extras") else set()
    if len(discounts) > 1:
        raise InputError(f"agent {_name(setup.agent)} needs Monte-Carlo returns, so all configs must have one discount")
    info = fitted.info
    offline = Offline(info.name, digest(fitted), info.reference, sampling, reward)
    return replace(setup, data=fitted, offline=offline)


def _describe_spec(spec: Spec) -> dict[str, Any]:
    """The spec as strict JSON: bounds that are not finite are left out."""

    def space(fields: dict[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in fields.items() if k in ("shape", "dtype") or np.isfinite(v).all()}

    return {"obs": space(asdict(spec.obs)), "action": space(asdict(spec.action)), "horizon": spec.horizon}


def _read_spec(said: dict[str, Any]) -> Spec:
    def space(fields: dict[str, Any]) -> Any:
        fixed = {k: _tuples(v) for k, v in fields.items()}
        return Discrete(**fixed) if "n" in fixed else Array(**fixed)

    return Spec(space(said["obs"]), space(said["action"]), said["horizon"])


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _differences(there: Any, mine: Any, name: str = "") -> list[str]:
    if isinstance(there, dict) and isinstance(mine, dict):
        prefix = name + "." if name else ""
        return [d for k in there for d in _differences(there[k], mine.get(k), prefix + k)]
    mine = json.loads(json.dumps(mine))
    return [] if there == mine else [f"{name} is {there} there, {mine} here"]


def _name(agent: ModuleType) -> str:
    return agent.__name__.rpartition(".")[2]
