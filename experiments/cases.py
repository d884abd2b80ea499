"""What `rljax bench` measures: agents at standard sizes, on random numbers, and in an environment of each kind."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rljax import envs, loops, optim, replay
from rljax import world_model as wm
from rljax.agents import cql, drama, iql, rlpd, sac, sac_discrete, sqirl, td3_bc, wsrl
from rljax.base import Agent, Array, Batch, Discrete, Env, InputError, Spec, Transition
from rljax.config import override
from rljax.world_model import behaviour

Build = Callable[[Any], loops.Loop]

ROWS = 1_000_000  # transitions of the data set
CAPACITY = 20_000  # transitions of the replay
HOPPER = Spec(Array((11,)), Array((3,), "float32", -1.0, 1.0), 1000)
VECTOR = Spec(HOPPER.obs, Discrete(3), 100)
MINATAR = Spec(Array((10, 10, 4)), Discrete(3), 1000)
CART_POLE = "gymnax/CartPole-v1?horizon=100"
TRANSITIONS = MappingProxyType(
    {"sac": sac, "sac_discrete": sac_discrete, "td3_bc": td3_bc, "iql": iql, "cql": cql, "rlpd": rlpd, "wsrl": wsrl}
)


class Case(NamedTuple):
    """What is measured of an agent: ``update(config)`` alone, and ``loop(config)`` on ``data()``, which counts ``unit``.

    ``steps`` is how many of its unit an iteration of the loop makes, and ``gradients`` how many gradient steps of critics or
    models an update.
    """

    config: Any
    spec: Spec
    update: Build
    gradients: int
    loop: Build | None = None
    steps: int = 0
    unit: str = ""
    data: Callable[[], Any] = tuple


class Sizes(NamedTuple):
    """Of Drama's networks, and the units of each hidden layer of the other agents, or None for their own.

    ``env`` is where agents that learn from transitions act, or would act, whose shapes they have then.
    """

    drama: str = "xs"
    width: int | None = None
    env: str | None = None


def case(name: str, sizes: Sizes = Sizes()) -> Case:  # noqa: B008 - a constant
    """The case of this name.

    Shapes are the hopper's, batches 256, networks 2 x 256; SQIRL has two heads, so that targets are networks' values too, and
    Drama learns from images as MinAtar's.

    Raises:
        InputError: for an environment that is unknown, not compiled, or not for this agent.
    """
    if name == "sqirl":
        return regression(override(sqirl.Config(k=2), {} if sizes.width is None else {"width": sizes.width}))
    if name not in TRANSITIONS:
        return dreaming(name, override(drama.Config(), {"size": sizes.drama}))
    layers = {"actor_depth": 2, "critic_depth": 2}
    if sizes.width is not None:
        layers |= {"actor_width": sizes.width, "critic_width": sizes.width}
    return standard(TRANSITIONS[name], override(TRANSITIONS[name].Config(), layers), sizes.env)


def standard(module: ModuleType, config: Any, env_name: str | None = None) -> Case:
    """The case of an agent that learns from transitions: online, or from a data set of random numbers."""
    spec = VECTOR if module is sac_discrete else HOPPER
    if env_name is not None:
        spec = _env(env_name).spec
        module.check(config, spec)
    batches = module.make(spec, config).batches
    draw = partial(noise, spec, (batches, config.batch_size))
    found = Case(config, spec, lambda config: updates(module.make(spec, config), draw), batches)
    if not hasattr(config, "warmup"):
        return found._replace(
            loop=lambda config: loops.offline(module.make(spec, config), config.batch_size),
            steps=batches,
            unit="gradient steps",
            data=partial(recorded, spec),
        )
    env = _env(env_name or (CART_POLE if module is sac_discrete else "pendulum"))
    return found._replace(
        loop=lambda config: loops.online(module.make(env.spec, config), env, config.batch_size, CAPACITY),
        steps=1,
        unit="env steps",
        data=partial(recorded, env.spec) if module is rlpd else tuple,
    )


def regression(config: Any) -> Case:
    """SQIRL's regression, and its iteration on the cart pole."""
    env = _env(CART_POLE)
    agent = sqirl.make(VECTOR, config)
    shape = (agent.batches, config.batch_size)

    def draw(key: jax.Array) -> Batch:
        batch = noise(VECTOR, shape, key)
        return batch._replace(extras=sqirl.Extras(batch.transition.reward))

    def iteration(config: Any) -> loops.Loop:
        returns = replay.Returns(sqirl.Extras, config.discount)
        return loops.episodes(sqirl.make(env.spec, config), env, config.batch_size, CAPACITY, returns)

    steps = config.episodes * env.spec.horizon
    return Case(config, VECTOR, lambda c: updates(sqirl.make(VECTOR, c), draw), agent.batches, iteration, steps, "env steps")


def dreaming(name: str, config: drama.Config, spec: Spec = MINATAR) -> Case:
    """Drama's update and its loop on MinAtar's Breakout, or one of the three parts of its update."""

    def draw(key: jax.Array) -> Any:
        if name == "drama.behaviour":
            return _dream(config, spec, key)
        keys = jax.random.split(key)
        learned = noise(spec, (config.batch_size, config.length), keys[0])
        seen = noise(spec, (config.starts, config.context), keys[1])
        return Batch(learned.transition._replace(next_obs=()), seen.transition._replace(next_obs=()))

    def update(config: Any) -> loops.Loop:
        agent = drama.make(spec, config)
        return updates(agent if name == "drama" else agent._replace(update=_part(name, config, spec)), draw)

    found = Case(config, spec, update, 1)
    if name != "drama":
        return found
    env = _env("gymnax/Breakout-MinAtar")

    def loop(config: Any) -> loops.Loop:
        return loops.sequences(drama.make(env.spec, config), env, config.batch_size, CAPACITY)

    return found._replace(loop=loop, steps=config.every, unit="env steps")


def _part(name: str, config: Any, spec: Spec) -> Callable[[Any, Any, jax.Array], tuple[Any, loops.Metrics]]:
    """The part of Drama's update of this name, as an update."""
    net = drama.networks(config, spec.obs.shape, wm.action_size(spec.action), not isinstance(spec.action, Discrete))

    def model(state: drama.State, batch: Batch, key: jax.Array) -> tuple[drama.State, loops.Metrics]:
        return drama.learn_model(config, net, state, batch.transition, key)

    def imagination(state: drama.State, batch: Batch, key: jax.Array) -> tuple[drama.State, loops.Metrics]:
        dream = drama.imagine(config, net, state, batch.extras, key)
        return state, {f"dream/{name}": x.mean() for name, x in dream._asdict().items()}

    def act(state: drama.State, dream: wm.Dream, key: jax.Array) -> tuple[drama.State, loops.Metrics]:
        optimizer = optim.laprop(config.lr, config.rise, config.max_norm)
        learned, metrics = behaviour.learn(config, net.heads, state.behaviour, optimizer, dream)
        return state._replace(behaviour=learned), metrics

    parts: dict[str, Any] = {"drama.model": model, "drama.imagination": imagination, "drama.behaviour": act}
    found: Callable[[Any, Any, jax.Array], tuple[Any, loops.Metrics]] = parts[name]
    return found


def updates(agent: Agent, draw: Callable[[jax.Array], Any]) -> loops.Loop:
    """One iteration: one ``agent.update`` on one of two batches of ``draw(key)``, of which each seed has its own.

    They take turns, so that nothing about a batch can be computed once for all iterations.
    """

    def init(key: jax.Array) -> loops.LoopState:
        key_agent, key_draw, key = jax.random.split(key, 3)
        batches = jax.vmap(draw)(jax.random.split(key_draw, 2))
        return loops.LoopState(agent.init(key_agent), (), (), (), batches, (), (), (), key)

    def step(state: loops.LoopState, t: jax.Array, data: Any) -> tuple[loops.LoopState, loops.Metrics]:
        key, key_update = jax.random.split(state.key)
        batch = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, t % 2, keepdims=False), state.ring)
        learned, metrics = agent.update(state.agent, batch, key_update)
        return state._replace(agent=learned, key=key), metrics

    return loops.Loop(init, step)


def noise(spec: Spec, shape: tuple[int, ...], key: jax.Array) -> Batch:
    """Transitions [*shape, ...] of random numbers, none of which ends an episode."""
    keys, flag = jax.random.split(key, 4), jnp.zeros(shape, bool)
    obs, next_obs = (jax.random.normal(k, (*shape, *spec.obs.shape)) for k in keys[:2])
    if isinstance(spec.action, Discrete):
        action = jax.random.randint(keys[2], shape, 0, spec.action.n)
    else:
        action = jax.random.uniform(keys[2], (*shape, *spec.action.shape), minval=-1)
    return Batch(Transition(obs, action, jax.random.normal(keys[3], shape), next_obs, flag, flag))


def recorded(spec: Spec) -> replay.Recorded:
    """A data set of `noise`."""
    return replay.Recorded(jax.jit(partial(noise, spec, (ROWS,)))(jax.random.key(0)))


def _dream(config: drama.Config, spec: Spec, key: jax.Array) -> wm.Dream:
    """Random numbers in the shapes of a dream in which no episode ends."""
    keys, shape = jax.random.split(key, 3), (config.ahead + 1, config.starts)
    return wm.Dream(
        features=jax.random.normal(keys[0], (*shape, config.size.latent + config.size.width)),
        action=jax.random.randint(keys[1], (config.ahead, config.starts), 0, spec.action.n),
        reward=jax.random.normal(keys[2], shape),
        ended=jnp.zeros(shape, bool),
    )


def _env(name: str) -> Env:
    env = envs.make(name)
    if not isinstance(env, Env):
        raise InputError(f"{name} is not compiled, so that its speed is not that of a loop: choose another of rljax envs")
    return env
