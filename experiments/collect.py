"""`collect`: D4RL-shaped data sets (arXiv:2004.07219) from an environment and trained runs, with reference scores inside."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rljax import data, evaluate
from rljax.base import Agent, Array, Env, HostEnv, InputError, Spec, Transition, random_action, to_env_units, where
from rljax.data import with_minari
from rljax.data.dataset import Dataset, Info, Steps, from_steps
from rljax.experiments import progress
from rljax.experiments.train import Result, load, load_ring

KINDS = ("random", "medium", "medium-replay", "medium-expert", "expert")
ENVS = 10  # copies that are stepped side by side
REFERENCE_EPISODES = 100

PyTree = Any


def collect(
    env: Env | HostEnv,
    expert: str | Path | None = None,
    medium: str | Path | None = None,
    *,
    kinds: Sequence[str] = KINDS,
    steps: int = 100_000,
    mix: Mapping[str, float] | None = None,
    seed: int = 0,
) -> dict[str, Dataset]:
    """Data sets by name, each of ``steps`` env steps, rounded up to a multiple of 10.

    ``random`` acts uniformly; ``expert`` and ``medium`` are the stochastic policies of the run folders given, of which the
    first seed's agent is taken; ``medium-replay`` is all that the medium run kept in its replay; ``medium-expert`` is both
    policies' halves. ``mix`` maps kinds to fractions of the steps: "random-95-expert-5" and so on.
    References are the mean returns of the random and of the expert's greedy policy over 100 episodes.

    Raises:
        InputError: for an unknown kind, a missing run, or a run on other spaces.
    """
    if not isinstance(env, Env):
        raise InputError(f"{env.name} runs on the host: data is collected from environments that run in JAX")
    needed = _needed(kinds, mix or {})
    runs = {name: _load(name, run, env, name in needed) for name, run in (("expert", expert), ("medium", medium))}
    if "medium-replay" in needed and medium is None:
        raise InputError("medium-replay is the replay of a medium run: give one with --medium")
    base, rng = env.name.partition("?")[0].replace("/", "-"), np.random.default_rng(seed)
    reference = _reference(env, runs["expert"], seed)
    made: dict[str, Dataset] = {}
    for number, kind in enumerate(kind for kind in KINDS if kind in needed and kind != "medium-expert"):
        progress.say(f"collecting {kind}")
        info = Info(f"{base}-{kind}", "rljax", env.spec.action, reference)
        if kind == "medium-replay":
            made[kind] = _replay(Path(str(medium)), info)
        else:
            made[kind] = _rollouts(env, runs.get(kind), steps, jax.random.fold_in(jax.random.key(seed), number), info)
    if "medium-expert" in kinds:
        made["medium-expert"] = _mixture(made, {"medium": 0.5, "expert": 0.5}, steps, rng, f"{base}-medium-expert")
    if mix:
        name = mixture_name(mix)
        made[name] = _mixture(made, mix, steps, rng, f"{base}-{name}")
    return {name: dataset for name, dataset in made.items() if name in kinds or name not in KINDS}


def possible(expert: Path | None, medium: Path | None) -> list[str]:
    """The kinds that need no other runs than these."""
    missing = {name for name, run in (("expert", expert), ("medium", medium)) if run is None}
    return [kind for kind in KINDS if not any(name in kind for name in missing)]


def _needed(kinds: Sequence[str], mix: Mapping[str, float]) -> set[str]:
    for kind in (*kinds, *mix):
        if kind not in KINDS or (kind == "medium-expert" and kind in mix):
            raise InputError(f"unknown kind of data {kind!r}: choose from {', '.join(KINDS)}")
    if mix and abs(sum(mix.values()) - 1) > 1e-6:
        raise InputError(f"the fractions of a mixture must sum to 1, they sum to {sum(mix.values()):g}")
    return {*kinds, *mix, *(("medium", "expert") if "medium-expert" in kinds else ())}


def _load(name: str, run: str | Path | None, env: Env, needed: bool) -> Result | None:
    if run is None:
        if needed:
            option = "--agent" if name == "expert" else "--medium"
            raise InputError(f"{name} data needs the run of a policy: give its folder with {option}")
        return None
    result = load(run)
    spec = result.setup.spec
    if (spec.obs.shape, spec.action) != (env.spec.obs.shape, env.spec.action):
        trained = "an environment of your own" if result.setup.env is None else result.setup.env.name
        raise InputError(f"{run} was trained on {trained}, whose observations or actions are not those of {env.name}")
    return result


def _reference(env: Env, expert: Result | None, seed: int) -> tuple[float, float] | None:
    """Mean returns of the random and the expert policy; None without an expert."""
    if expert is None:
        return None
    many = env.resize(REFERENCE_EPISODES)
    agent, state = expert.agent(0)
    policies = ((_random_agent(env.spec), ()), (agent, state))
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1_000), 2)
    random, best = (float(_returns(*policy, many, key).mean()) for policy, key in zip(policies, keys, strict=True))
    if best <= random:
        progress.say(f"the expert's return {best:.1f} is not above the random policy's {random:.1f}: no reference is kept")
        return None
    return random, best


def _random_agent(spec: Spec) -> Agent:
    """An agent that acts uniformly; its memory is the key that draws its next action."""

    def mode(state: PyTree, memory: jax.Array, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
        keys = jax.vmap(jax.random.split)(jax.random.wrap_key_data(memory))
        action = jax.vmap(lambda key: random_action(spec.action, key, 1)[0])(keys[:, 0])
        return action, jax.random.key_data(keys[:, 1])

    def memory(n: int) -> jax.Array:
        return jax.random.key_data(jax.random.split(jax.random.key(0), n))

    def act(state: PyTree, memory: jax.Array, obs: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        return random_action(spec.action, key, obs.shape[0]), memory

    return Agent(lambda key: (), memory, act, mode, lambda state, batch, key: (state, {}), 1)


@functools.partial(jax.jit, static_argnums=(0, 2))
def _returns(agent: Agent, state: PyTree, env: Env, key: jax.Array) -> jax.Array:
    return evaluate.episodes(agent, env, state, key)[0]


def _rollouts(env: Env, run: Result | None, steps: int, key: jax.Array, info: Info) -> Dataset:
    """``steps`` env steps of the run's stochastic policy, or of uniform actions, as contiguous episodes."""
    agent, state = (_random_agent(env.spec), ()) if run is None else run.agent(0)
    rows = _interact(agent, env.resize(ENVS), -(-steps // ENVS), state, key)
    return _dataset(env.spec, rows, info)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _interact(agent: Agent, env: Env, num: int, state: PyTree, key: jax.Array) -> Transition:
    """Transitions [num, E, ...]; memory starts anew with each episode."""
    key, key_reset = jax.random.split(key)
    env_state, obs = env.reset(key_reset)

    def step(carry: tuple, key: jax.Array) -> tuple:
        memory, env_state, obs = carry
        key_act, key_step = jax.random.split(key)
        action, memory = agent.act(state, memory, obs, key_act)
        env_state, new = env.step(env_state, action, key_step)
        memory = where(new.terminated | new.truncated, fresh, memory)
        return (memory, env_state, new.obs), Transition(obs, action, new.reward, new.next_obs, new.terminated, new.truncated)

    fresh = agent.memory(env.num_envs)
    return jax.lax.scan(step, (fresh, env_state, obs), jax.random.split(key, num))[1]


def _replay(run: Path, info: Info) -> Dataset:
    """All that the first learner of a run keeps in its replay, oldest first."""
    setup, ring, rows = load_ring(run)
    slots = ring.reward.shape[0]
    oldest = rows % slots if rows > slots else 0
    order = (np.arange(min(rows, slots)) + oldest) % slots
    return _dataset(setup.spec, jax.tree.map(lambda x: np.asarray(x)[order], ring), info)


def _dataset(spec: Spec, rows: Transition, info: Info) -> Dataset:
    """The data set of transitions [T, E, ...]: copy after copy, with actions in the env's units."""
    t = Transition(*(np.swapaxes(np.asarray(x), 0, 1) for x in rows))
    action = np.asarray(to_env_units(spec.action, t.action)) if isinstance(spec.action, Array) else t.action
    last = t.terminated | t.truncated
    last[:, -1] = True
    flat = [x.reshape(-1, *x.shape[2:]) for x in (t.obs, action, t.reward, t.next_obs, t.terminated, t.truncated, last)]
    return from_steps(Steps._make([*flat, np.ones(flat[2].shape, bool)]), info)


def _mixture(made: dict[str, Dataset], mix: Mapping[str, float], steps: int, rng: Any, name: str) -> Dataset:
    counts = {kind: round(share * steps) for kind, share in mix.items()}
    parts = {kind: data.take(made[kind], count, rng) for kind, count in counts.items() if count}
    first = next(iter(parts.values()))
    joined = data.concatenate(parts, name)
    return joined._replace(info=replace(joined.info, reference=first.info.reference))


def mix_files(parts: Mapping[Any, float], steps: int | None, seed: int = 0) -> Dataset:
    """Whole episodes of several files (paths or names) of one environment, in these fractions of ``steps``.

    Without ``steps``, as many as there can be.

    Raises:
        InputError: if the fractions do not sum to 1, or the files do not go together.
    """
    if abs(sum(parts.values()) - 1) > 1e-6:
        raise InputError(f"the fractions of a mixture must sum to 1, they sum to {sum(parts.values()):g}")
    loaded = {str(path): data.load(path) for path in parts}
    most = min(int(len(loaded[str(path)].episode) / share) for path, share in parts.items() if share)
    total, rng = most if steps is None else steps, np.random.default_rng(seed)
    taken = {str(path): data.take(loaded[str(path)], round(share * total), rng) for path, share in parts.items() if share}
    return data.concatenate(taken, "-".join(f"{loaded[str(path)].info.name}-{100 * share:g}" for path, share in parts.items()))


def mixture_name(mix: Mapping[str, float]) -> str:
    """The name of a mixture, such as random-95-expert-5."""
    return "-".join(f"{kind}-{100 * share:g}" for kind, share in mix.items())


def require_free(names: Sequence[str], folder: Path, suffix: str) -> None:
    """Raise `InputError`, before anything is collected, if ``folder/<name><suffix>`` exists or cannot be written."""
    for name in names:
        if (folder / f"{name}{suffix}").exists():
            raise InputError(f"{folder / name}{suffix} exists already: choose another folder with --out")
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".part").touch()
        (folder / ".part").unlink()
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}; choose another folder with --out") from None
    for made in missing:
        made.rmdir()


def write(datasets: Mapping[str, Dataset], folder: Path, suffix: str, say: Callable[[str], None]) -> None:
    """Each data set as ``folder/<name><suffix>``, and one sentence about it.

    With the suffix ".minari" they are written where Minari keeps its data sets, as rljax/<env>-<name>-v0.
    """
    if suffix == ".minari":
        for dataset in datasets.values():
            name = f"rljax/{dataset.info.name}-v0"
            say(f"{with_minari.write(dataset, name)}: {name}, {len(dataset.episode)} transitions")
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name, dataset in datasets.items():
        path, returns = folder / f"{name}{suffix}", dataset.returns
        data.save(dataset, path)
        whole = returns[dataset.end != data.ENDS.index("cut off")]
        mean = f"their mean return {whole.mean():.1f}" if len(whole) else "so there is no return"
        say(f"{path}: {len(dataset.episode)} transitions, {len(whole)} whole episodes of {len(returns)}, {mean}")
