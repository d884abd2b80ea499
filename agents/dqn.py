"""Deep Q-Networks (Mnih et al. 2015, doi:10.1038/nature14236), double (arXiv:1509.06461) or plain, with n-step returns.

With the head `C51` and plain selection it is Categorical DQN (arXiv:1707.06887). One `update` follows each env step and makes
``utd`` critic steps; its batches are windows of ``n_step`` consecutive steps, one batch for each step of the window, which end
early where an episode does, and at the newest step. Exploration is epsilon-greedy, and epsilon falls along a line with the
number of updates, which is that of env steps after the warm-up.

Deviations: squared instead of Huber loss, Adam instead of RMSProp, a critic step for each env step instead of each fourth;
returns of several steps are not corrected for the policy that made them (arXiv:1710.02298).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import distrax
import jax
import jax.numpy as jnp

from rljax import heads, losses, nets, normalize, replay
from rljax.actor_critic import Metrics
from rljax.base import Agent, Batch, Discrete, Spec, Transition, example, no_memory, where
from rljax.config import check_action, check_ranges, choice, config, leaf, static
from rljax.optim import Model, adam, descend, model, polyak


def double(online: jax.Array, target: jax.Array) -> jax.Array:
    """The outputs by which the next action is chosen: the online critic's (arXiv:1509.06461 eq. 4)."""
    return online


def plain(online: jax.Array, target: jax.Array) -> jax.Array:
    """The outputs by which the next action is chosen: the target critic's, whose maximum is taken."""
    return target


def copied(config: Config, target: dict, online: dict, steps: jax.Array) -> dict:
    """The target: a copy of the critic made each time the number of critic ``steps`` is a multiple of ``config.period``."""
    return where(steps % jnp.asarray(config.period).astype(jnp.int32) == 0, online, target)


def averaged(config: Config, target: dict, online: dict, steps: jax.Array) -> dict:
    """The target: one Polyak step of ``config.tau`` further."""
    return polyak(target, online, config.tau)


@config
class Config:
    """Hyperparameters of DQN."""

    critic_lr: float = leaf(2.5e-4, "(0, inf)")  # Adam step size of the critic
    discount: float = leaf(0.99, "[0, 1)")  # discount per env step
    period: float = leaf(1_000.0, "[1, inf)")  # critic steps between copies to the target, where it is copied
    tau: float = leaf(0.005, "(0, 1]")  # Polyak step of the target, where it is averaged
    exploration_start: float = leaf(1.0, "[0, 1]")  # probability of a uniform action after the warm-up
    exploration: float = leaf(0.05, "[0, 1]")  # the same in the end
    exploration_steps: float = leaf(10_000.0, "(0, inf)")  # env steps from the one to the other
    critic_width: int = static(128, "[1, inf)")  # units per hidden layer of the critic
    critic_depth: int = static(2, "[0, inf)")  # hidden layers of the critic
    layer_norm: bool = static(False)  # LayerNorm before each ReLU
    num_critics: int = static(1, "[1, inf)")  # size of the critic ensemble; the minimum over all is used
    n_step: int = static(1, "[1, inf)")  # env steps whose rewards are summed before the bootstrap
    utd: int = static(1, "[1, inf)")  # critic steps per env step
    batch_size: int = static(64, "[1, inf)")  # windows per critic step
    warmup: int = static(1_000, "[1, inf)")  # env steps with uniform random actions before learning
    capacity: int = static(1_000_000, "[1, inf)")  # transitions kept for replay; never more than the run has steps
    selection: Callable = static(double, choices={"double": double, "plain": plain})  # which critic chooses the next action
    targets: Callable = static(copied, choices={"copied": copied, "averaged": averaged})  # how the target follows
    head: heads.Head = choice(heads.Scalar(), heads.HEADS)  # how critics encode values
    obs_stats: Callable = static(  # observation normalisation: none, or with running statistics
        normalize.fixed, choices={"fixed": normalize.fixed, "running": normalize.running}
    )


class Networks(NamedTuple):
    """The critics, and the head that decodes their outputs [N, B, A, size]."""

    critic: nets.Critic
    head: heads.Head


class State(NamedTuple):
    """Critics with their optimiser, their targets, the observations' statistics, and the critic steps made so far."""

    critic: Model
    target: dict
    stats: normalize.Stats
    steps: jax.Array


def check(config: Config, spec: Spec) -> None:
    """Raise `InputError` unless the numbers are in range and actions are discrete."""
    check_ranges(config)
    check_action("dqn", spec, Discrete, "sac")


def networks(config: Config, num_actions: int) -> Networks:
    """Critics for ``num_actions`` actions."""
    sizes = (config.critic_width, config.critic_depth, config.layer_norm)
    return Networks(nets.ensemble(config.num_critics)(config.head.size, *sizes, num_actions), config.head)


def init(config: Config, spec: Spec, key: jax.Array) -> State:
    """Fresh critics."""
    stats = normalize.init(spec.obs)
    net = networks(config, spec.action.n)
    critic = nets.init(net.critic, net.head, key, normalize.apply(stats, example(spec.obs, 1)))
    return State(model(adam(config.critic_lr), critic), jax.tree.map(jnp.copy, critic), stats, jnp.int32(0))


def epsilon(config: Config, steps: jax.Array) -> jax.Array:
    """The probability of a uniform action after this many critic steps."""
    passed = jnp.minimum(steps / (config.utd * config.exploration_steps), 1.0)
    return config.exploration_start + passed * (config.exploration - config.exploration_start)


def act(config: Config, state: State, memory: tuple, obs: jax.Array, key: jax.Array) -> tuple[jax.Array, tuple]:
    """``(epsilon-greedy actions [E], memory)`` for observations [E, ...]."""
    policy = distrax.EpsilonGreedy(_q(config, state, obs), epsilon(config, state.steps), dtype=jnp.int32)
    return policy.sample(seed=key), memory


def mode(config: Config, state: State, memory: tuple, obs: jax.Array) -> tuple[jax.Array, tuple]:
    """``(greedy actions [E], memory)`` for observations [E, ...]."""
    return jnp.argmax(_q(config, state, obs), -1).astype(jnp.int32), memory


def update(config: Config, state: State, batch: Batch, key: jax.Array) -> tuple[State, Metrics]:
    """``(state, metrics)`` after ``utd`` critic steps, each on ``n_step`` neighbours of transitions [utd * n_step, B, ...].

    Nothing is sampled, so ``key`` is not used.
    """
    net = networks(config, _num_actions(config, state))
    split = jax.tree.map(lambda x: x.reshape(config.utd, config.n_step, *x.shape[1:]), batch.transition)
    t, discount = jax.vmap(partial(losses.n_step, discount=config.discount))(split)
    stats = config.obs_stats(state.stats, t.obs)
    t = t._replace(obs=normalize.apply(stats, t.obs), next_obs=normalize.apply(stats, t.next_obs))
    explored = epsilon(config, state.steps)
    state, metrics = jax.lax.scan(partial(_step, config, net), state._replace(stats=stats), (t, discount))
    return state, jax.tree.map(jnp.mean, metrics) | {"actor/epsilon": explored}


def make(spec: Spec, config: Config) -> Agent:
    """DQN bound to ``spec`` and ``config``; pure and safe to trace."""
    return Agent(
        init=partial(init, config, spec),
        memory=no_memory,
        act=partial(act, config),
        mode=partial(mode, config),
        update=partial(update, config),
        batches=config.utd * config.n_step,
        draw=None if config.n_step == 1 else replay.windows(config.n_step),
    )


def _step(config: Config, net: Networks, state: State, x: tuple[Transition, jax.Array]) -> tuple[State, Metrics]:
    t, discount = x
    online, target = (net.critic.apply(params, t.next_obs) for params in (state.critic.params, state.target))
    best = net.head.value(config.selection(online, target)).min(0).argmax(-1)
    value, out = losses.least(net.head, losses.chosen(target, best))
    goal = losses.backup(net.head, t.reward, t.terminated, value, out, discount)

    def loss(params: dict) -> tuple[jax.Array, Metrics]:
        return losses.critic_loss(net.head, losses.chosen(net.critic.apply(params, t.obs), t.action), goal)

    critic, metrics = descend(adam(config.critic_lr), loss, state.critic)
    steps = state.steps + 1
    followed = config.targets(config, state.target, critic.params, steps)
    return State(critic, followed, state.stats, steps), metrics


def _num_actions(config: Config, state: State) -> int:
    return nets.outputs(state.critic.params) // config.head.size


def _q(config: Config, state: State, obs: jax.Array) -> jax.Array:
    net = networks(config, _num_actions(config, state))
    return net.head.value(net.critic.apply(state.critic.params, normalize.apply(state.stats, obs))).min(0)
