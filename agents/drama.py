"""Drama: an actor-critic that learns in the imagination of a Mamba-2 world model (Wang et al., arXiv:2410.08893).

One `update`: a step of the world model on replayed sequences; then imagination from the ends of other replayed sequences, and a
step of the actor by REINFORCE and of the critic by cross-entropy to lambda-returns. Policy and value see the latent z_t and
h_t, what the state-space model knows before o_t; acting carries its state from step to step (`Agent.memory`).

Deviations, each with the official code's behaviour as a function that can be passed in: V of the next state in lambda-returns
(``returns``; the official one has that of the state itself); the reward of each imagined action (``credit``; official: of the
action before); the current observation is encoded, for acting and where imagination begins (``latent``; official: the prior's
guess); episodes reset the state within sequences (``boundaries``; official: they do not). Further: RMSNorm instead of
BatchNorm, and observations less their mean; steps after an imagined end do not count; an update may come every ``every`` env
steps only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax

from rljax import loops, nets, normalize, replay
from rljax import world_model as wm
from rljax.actor_critic import Metrics
from rljax.base import Agent, Array, Batch, Discrete, Spec, Transition
from rljax.config import check_ranges, choice, config, leaf, static
from rljax.optim import Model, descend, laprop, model
from rljax.world_model import behaviour, imagination

loop = loops.sequences  # in which it learns


@config
class Config:
    """Hyperparameters of Drama; the defaults are the paper's, but for ``size`` and the precision."""

    model_lr: float = leaf(4e-5, "(0, inf)")  # LaProp step size of the world model
    lr: float = leaf(4e-5, "(0, inf)")  # LaProp step size of actor and critic
    rise: float = leaf(1_000.0, "(0, inf)")  # gradient steps in which step sizes rise from 0
    model_norm: float = leaf(1_000.0, "(0, inf)")  # largest norm of a gradient of the world model
    max_norm: float = leaf(100.0, "(0, inf)")  # largest norm of a gradient, of actor and of critic
    discount: float = leaf(0.985, "[0, 1)")  # discount per env step
    decay: float = leaf(0.95, "[0, 1]")  # lambda of the returns, per env step
    entropy: float = leaf(3e-4, "[0, inf)")  # weight of the entropy bonus
    tau: float = leaf(0.02, "(0, 1]")  # Polyak step of the slow critic, whose values regularise the critic's
    scale_decay: float = leaf(0.99, "[0, 1)")  # of the running range of returns, by which advantages are divided
    unimix: float = leaf(0.01, "[0, 1)")  # share of the uniform distribution in every latent
    free_bits: float = leaf(1.0, "[0, inf)")  # nats of KL divergence that cost nothing
    dynamics: float = leaf(1.0, "[0, inf)")  # weight of KL(sg(posterior) || prior)
    representation: float = leaf(0.1, "[0, inf)")  # weight of KL(posterior || sg(prior))
    size: wm.Size = choice(wm.XS, wm.SIZES)  # of all networks
    batch_size: int = static(16, "[1, inf)")  # sequences per world-model step
    length: int = static(128, "[2, inf)")  # env steps of a sequence
    starts: int = static(1_024, "[1, inf)")  # imagined episodes per update
    context: int = static(8, "[1, inf)")  # env steps before each of them that the model sees, the current one included
    ahead: int = static(16, "[1, inf)")  # H, env steps of an imagined episode
    every: int = static(1, "[1, inf)")  # env steps, in each env, per update
    warmup: int = static(1_032, "[1, inf)")  # env steps with uniform random actions before the first update
    capacity: int = static(100_000, "[1, inf)")  # env steps kept for replay; never more than the run has
    precision: str = static("full", choices={"full": "full", "bfloat16": "bfloat16"})  # of the world model's products
    sampling: Callable = static(  # which sequences are replayed
        replay.newest_first, choices={"dynamic": replay.newest_first, "uniform": replay.evenly}
    )
    latent: Callable = static(imagination.posterior, choices=imagination.LATENTS)  # of the current observation
    returns: Callable = static(imagination.standard, choices=imagination.RETURNS)  # lambda-returns
    credit: Callable = static(imagination.own, choices=imagination.CREDIT)  # whose an imagined reward or end is
    boundaries: Callable = static(imagination.reset, choices=imagination.BOUNDARIES)  # of episodes in sequences


class State(NamedTuple):
    """The world model, actor and critic, the scaling of observations, and the mean of what the encoder reads of them."""

    model: Model
    behaviour: behaviour.Behaviour
    stats: normalize.Stats
    centre: normalize.Stats


class Networks(NamedTuple):
    """The world model's networks and the agent's, and the numbers of an action."""

    model: wm.Networks
    heads: behaviour.Heads
    num: int


def check(config: Config, spec: Spec) -> None:
    """Raise `InputError` unless the numbers are in range; any observations and actions will do."""
    check_ranges(config)


def networks(config: Config, shape: tuple[int, ...], num: int, continuous: bool, centre: jax.Array | float = 0.0) -> Networks:
    """The networks for observations of ``shape`` and ``num`` actions, or dimensions of ``continuous`` ones."""
    model = wm.Networks(config.size, shape, None if config.precision == "full" else config.precision, centre)
    return Networks(model, behaviour.heads(config.size, num, continuous), num)


def init(config: Config, spec: Spec, key: jax.Array) -> State:
    """Fresh networks and optimisers."""
    key_model, key_behaviour = jax.random.split(key)
    net = networks(config, spec.obs.shape, wm.action_size(spec.action), not isinstance(spec.action, Discrete))
    of_model, of_behaviour = _optimizers(config)
    return State(
        model=model(of_model, wm.init(config.size, spec, key_model)),
        behaviour=behaviour.init(config.size, net.heads, of_behaviour, key_behaviour),
        stats=normalize.init(spec.obs),
        centre=normalize.init(Array((math.prod(spec.obs.shape),))),
    )


def act(config: Config, state: State, memory: wm.Memory, obs: jax.Array, key: jax.Array) -> tuple[jax.Array, wm.Memory]:
    """``(actions [E] ~ pi, memory)`` for observations [E, ...], with sampled latents."""
    key_latent, key_action = jax.random.split(key)
    net = _bound(config, state, obs.shape[1:])
    z = wm.sample(_latent(config, net, state, memory, obs), key_latent)
    action = net.heads.policy.sample(_out(net, state, wm.features(z, memory)), key_action)
    return action, wm.step(net.model, state.model.params, z, wm.encode_action(action, net.num), memory)


def mode(config: Config, state: State, memory: wm.Memory, obs: jax.Array) -> tuple[jax.Array, wm.Memory]:
    """``(most probable actions, or means, [E], memory)`` for observations [E, ...], with the most probable latents."""
    net = _bound(config, state, obs.shape[1:])
    z = wm.most_probable(_latent(config, net, state, memory, obs))
    action = net.heads.policy.mode(_out(net, state, wm.features(z, memory)))
    return action, wm.step(net.model, state.model.params, z, wm.encode_action(action, net.num), memory)


def update(config: Config, state: State, batch: Batch, key: jax.Array) -> tuple[State, Metrics]:
    """``(state, metrics)`` after a step of the world model on ``batch.transition`` [B, L, ...], and of actor and critic.

    They learn in imagination that goes on from ``batch.extras``, transitions [N, C, ...].
    """
    key_model, key_dream = jax.random.split(key)
    net = _bound(config, state, batch.transition.obs.shape[2:])
    state, model_metrics = learn_model(config, net, state, batch.transition, key_model)
    net = _bound(config, state, batch.transition.obs.shape[2:])  # with the new mean
    dream = imagine(config, net, state, batch.extras, key_dream)
    behaved, metrics = behaviour.learn(config, net.heads, state.behaviour, _optimizers(config)[1], dream)
    return state._replace(behaviour=behaved), model_metrics | metrics


def learn_model(config: Config, net: Networks, state: State, t: Transition, key: jax.Array) -> tuple[State, Metrics]:
    """``(state, metrics)`` after a step of the world model on transitions [B, L, ...]."""
    t, first = _ready(config, net, state, t)
    state = state._replace(centre=normalize.running(state.centre, wm.flat(t.obs, net.model.shape)))
    loss = partial(wm.loss, config, net.model.clone(centre=state.centre.mean), batch=t, first=first, key=key)
    learned, metrics = descend(_optimizers(config)[0], loss, state.model)
    return state._replace(model=learned), metrics


def imagine(config: Config, net: Networks, state: State, t: Transition, key: jax.Array) -> wm.Dream:
    """Episodes of H steps that follow transitions [N, C, ...], of whose last one the observation is seen and nothing else."""
    key_start, key_dream = jax.random.split(key)
    t, first = _ready(config, net, state, t)
    start = wm.recall(net.model, state.model.params, t.obs, t.action, first, config.latent, config.unimix, key_start)

    def act(features: jax.Array, key: jax.Array) -> jax.Array:
        return net.heads.policy.sample(_out(net, state, features), key)

    return wm.dream(net.model, state.model.params, start, act, net.num, config.ahead, config.unimix, key_dream)


def foresee(config: Config, state: State, obs: jax.Array, action: jax.Array, num: int, key: jax.Array) -> wm.Foreseen:
    """What the model makes of an episode's observations and actions [T, ...], ``num`` of them seen; without axis B."""
    net = _bound(config, state, obs.shape[1:])
    given = normalize.apply(state.stats, obs)[None], wm.encode_action(action, net.num)[None]
    return jax.tree.map(lambda x: x[0], wm.foresee(net.model, state.model.params, *given, num, key))


def make(spec: Spec, config: Config) -> Agent:
    """Drama bound to ``spec`` and ``config``; pure and safe to trace."""
    return Agent(
        init=partial(init, config, spec),
        memory=partial(wm.begin, config.size),
        act=partial(act, config),
        mode=partial(mode, config),
        update=partial(update, config),
        batches=config.every,
        draw=replay.sequences(config.sampling, config.batch_size, config.length, config.starts, config.context),
    )


def _bound(config: Config, state: State, shape: tuple[int, ...]) -> Networks:
    """The networks for observations of ``shape``, read off the parameters."""
    params = state.model.params.networks["params"]
    num = params["stem"]["kernel"].shape[0] - config.size.latent
    continuous = nets.outputs({"params": state.behaviour.actor.params["params"]["mlp"]}) != num
    return networks(config, shape, num, continuous, state.centre.mean)


def _ready(config: Config, net: Networks, state: State, t: Transition) -> tuple[Transition, jax.Array]:
    """Transitions [B, T, ...] as the model reads them, and where episodes begin."""
    first = config.boundaries(t.terminated | t.truncated)
    return t._replace(obs=normalize.apply(state.stats, t.obs), action=wm.encode_action(t.action, net.num)), first


def _latent(config: Config, net: Networks, state: State, memory: wm.Memory, obs: jax.Array) -> jax.Array:
    """Log-probabilities of the current latents."""
    return config.latent(net.model, state.model.params, memory, normalize.apply(state.stats, obs), config.unimix)


def _out(net: Networks, state: State, features: jax.Array) -> Any:
    return behaviour.actions(net.heads, state.behaviour.actor.params, state.behaviour.features, features)


def _optimizers(config: Config) -> tuple[Any, Any]:
    """Of the world model, and of actor and critic."""
    return laprop(config.model_lr, config.rise, config.model_norm), laprop(config.lr, config.rise, config.max_norm)
