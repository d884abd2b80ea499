"""Shallow Q-Iteration via Reinforcement Learning (Laidlaw, Zhu, Russell, Dragan, arXiv:2312.08369).

Learns what to do at step 0 of an episode, then at step 1, and so on. Iteration i plays ``episodes`` episodes, greedy on the
networks frozen for steps t < i and uniformly random from step i on, adds what follows step i to the replay, and makes one
`update`: regression of ``k`` heads on U batches, head 1 on the Monte-Carlo return, which is a sample of the random policy's
Q^1, and head j on the backup of head j - 1, so that it becomes Q^j. A copy of the network, of which head k counts, is then
frozen for step i. After as many iterations as an episode has steps, nothing changes the policy any more.

Deviations: U is that of episodes of full length; a run ends after its number of steps (authors: after 10 iterations without
exploration). The end of an episode by its time limit counts as an end, as in the authors' finite-horizon problem.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rljax import loops, nets, normalize
from rljax.base import Agent, Batch, Discrete, InputError, Spec, Transition, random_action
from rljax.config import check_action, check_ranges, config, leaf, static
from rljax.optim import Model, adam, descend, model

PyTree = Any
Metrics = dict[str, jax.Array]

loop = loops.episodes  # in which it learns


def running_mean(mean: jax.Array, loss: jax.Array, count: jax.Array) -> jax.Array:
    """Each head's loss [k] averaged over updates with decay 0.99, from the first one on."""
    return jnp.where(count == 0, loss, 0.99 * mean + 0.01 * loss)


def ones(mean: jax.Array, loss: jax.Array, count: jax.Array) -> jax.Array:
    """Heads weigh as much as their losses: [k]."""
    return jnp.ones_like(loss)


@config
class Config:
    """Hyperparameters of SQIRL; the defaults are the authors', who tuned ``episodes`` and ``k`` for each environment."""

    lr: float = leaf(1e-4, "(0, inf)")  # Adam step size
    discount: float = leaf(1.0, "[0, 1]")  # discount per env step
    max_norm: float = leaf(10.0, "(0, inf)")  # at which the gradient's global norm is clipped
    k: int = static(1, "[1, inf)")  # heads: Q of the random policy, and k - 1 steps of Q-iteration
    episodes: int = static(10, "[1, inf)")  # episodes per iteration, the paper's m
    epochs: int = static(10, "[1, inf)")  # how often an iteration learns from as many transitions as it has played
    width: int = static(64, "[1, inf)")  # units per hidden layer
    depth: int = static(2, "[0, inf)")  # hidden layers
    batch_size: int = static(128, "[1, inf)")  # transitions per gradient step
    capacity: int = static(1_000_000, "[1, inf)")  # transitions kept for replay; never more than the run has steps
    scales: Callable = static(  # what each head's loss is divided by
        running_mean, choices={"running_mean": running_mean, "ones": ones}
    )


class Extras(NamedTuple):
    """What batches hold beside transitions: the discounted sum of rewards from each step to the end of its episode."""

    mc_return: Any


class State(NamedTuple):
    """The network with its optimiser, and its copies for each step (leaves [T, ...]), of which the first ``frozen`` are made.

    ``scale`` [k] is what losses are divided by, after ``steps`` gradient steps.
    """

    net: Model
    copies: PyTree
    frozen: jax.Array
    scale: jax.Array
    steps: jax.Array
    stats: normalize.Stats


def check(config: Config, spec: Spec) -> None:
    """Raise `InputError` unless the numbers are in range and actions are discrete."""
    check_ranges(config)
    check_action("sqirl", spec, Discrete)
    if config.capacity < config.episodes * spec.horizon:
        raise InputError(
            f"config.capacity is {config.capacity}, less than the {config.episodes * spec.horizon} env steps of one iteration"
        )


def network(config: Config, num_actions: int) -> nets.Critic:
    """Values [B, A, k] of observations: one head for each Q^j."""
    return nets.Critic(config.k, config.width, config.depth, num_actions=num_actions)


def init(config: Config, spec: Spec, key: jax.Array) -> State:
    """A fresh network, and room for its copies."""
    stats = normalize.init(spec.obs)
    params = network(config, spec.action.n).init(key, jnp.zeros((1, *spec.obs.shape)))
    net = model(_optimizer(config), params)
    copies = jax.tree.map(lambda x: jnp.zeros((spec.horizon, *x.shape), x.dtype), params)
    return State(net, copies, jnp.int32(0), jnp.zeros(config.k), jnp.int32(0), stats)


def memory(n: int) -> jax.Array:
    """The step of the episode, 0 for each of n."""
    return jnp.zeros(n, jnp.int32)


def act(config: Config, state: State, memory: jax.Array, obs: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``(actions [E], memory)``: greedy at steps with a frozen network, uniformly random after them."""
    planned = memory < state.frozen
    random = random_action(Discrete(_num_actions(config, state)), key, obs.shape[0])
    return jnp.where(planned, _greedy(config, state, memory, obs, planned), random), memory + 1


def mode(config: Config, state: State, memory: jax.Array, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``(actions [E], memory)``: greedy on the network frozen for the step, or on the newest."""
    return _greedy(config, state, memory, obs, jnp.ones(memory.shape, bool)), memory + 1


def keep(state: State, memory: jax.Array) -> jax.Array:
    """Whether a transition from step ``memory`` [E] on is kept: only those that random actions follow are samples of Q^1."""
    return memory >= state.frozen


def update(config: Config, state: State, batch: Batch, key: jax.Array) -> tuple[State, Metrics]:
    """``(state, metrics)`` after U gradient steps, one on each batch [U, B, ...], and freezing a copy for the next step.

    Nothing is sampled, so ``key`` is not used.
    """
    state, losses = jax.lax.scan(partial(_step, config), state, batch)
    horizon = jax.tree.leaves(state.copies)[0].shape[0]
    copies = jax.tree.map(lambda c, x: c.at[state.frozen].set(x, mode="drop"), state.copies, state.net.params)
    state = state._replace(copies=copies, frozen=jnp.minimum(state.frozen + 1, horizon))
    metrics = {f"critic/loss_{j + 1}": loss for j, loss in enumerate(losses.mean(0))}
    return state, metrics | {"sqirl/frozen": state.frozen.astype(float)}


def make(spec: Spec, config: Config) -> Agent:
    """SQIRL bound to ``spec`` and ``config``; pure and safe to trace."""
    return Agent(
        init=partial(init, config, spec),
        memory=memory,
        act=partial(act, config),
        mode=partial(mode, config),
        update=partial(update, config),
        batches=math.ceil(config.episodes * spec.horizon * config.epochs / config.batch_size),
        episodes=config.episodes,
        keep=keep,
    )


def _optimizer(config: Config) -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(config.max_norm), adam(config.lr))


def _step(config: Config, state: State, batch: Batch) -> tuple[State, jax.Array]:
    """One gradient step on a batch [B, ...]; ``(state, losses [k])``."""
    t = batch.transition
    t = t._replace(obs=normalize.apply(state.stats, t.obs), next_obs=normalize.apply(state.stats, t.next_obs))
    target = targets(config, state, t, batch.extras.mc_return)
    net = network(config, _num_actions(config, state))

    def loss(params: PyTree) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        q = jnp.take_along_axis(net.apply(params, t.obs), t.action[:, None, None], 1)[:, 0]
        losses = jnp.square(q - target).mean(0)
        scale = config.scales(state.scale, jax.lax.stop_gradient(losses), state.steps)
        return (losses / jnp.maximum(scale, 1e-12)).mean(), (losses, scale)

    learned, (losses, scale) = descend(_optimizer(config), loss, state.net)
    return state._replace(net=learned, scale=scale, steps=state.steps + 1), losses


def targets(config: Config, state: State, t: Transition, mc_return: jax.Array) -> jax.Array:
    """What the heads learn, [B, k]: the return, and the backups r + discount max_a Q^j of the network as it is."""
    q = network(config, _num_actions(config, state)).apply(state.net.params, t.next_obs).max(1)
    ahead = jnp.where((t.terminated | t.truncated)[:, None], 0.0, q[:, :-1])
    return jnp.concatenate([mc_return[:, None], t.reward[:, None] + config.discount * ahead], 1)


def _num_actions(config: Config, state: State) -> int:
    return nets.outputs(state.net.params) // config.k


def _greedy(config: Config, state: State, at: jax.Array, obs: jax.Array, wanted: jax.Array) -> jax.Array:
    """Best actions [E] by head k where they are ``wanted``, of the network for each step ``at`` [E].

    One turn for each distinct step: with parameters of its own for every observation, nothing could be batched.
    """
    net, obs = network(config, _num_actions(config, state)), normalize.apply(state.stats, obs)

    def turn(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        wanted, action = carry
        step = jnp.where(wanted, at, jnp.iinfo(jnp.int32).max).min()
        params = jax.tree.map(lambda c, x: jnp.where(step < state.frozen, c[step], x), state.copies, state.net.params)
        best = jnp.argmax(net.apply(params, obs)[..., -1], -1).astype(jnp.int32)
        return wanted & (at != step), jnp.where(at == step, best, action)

    return jax.lax.while_loop(lambda carry: carry[0].any(), turn, (wanted, jnp.zeros(at.shape, jnp.int32)))[1]
