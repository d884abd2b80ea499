"""Meta Offline-Online Reinforcement Learning (Chaudhary, Mondal, Behera, arXiv:2506.09574).

SAC that is trained on two tasks in turn, learning from recorded and from new data, by a first-order meta-update (Reptile,
arXiv:1803.02999): from the meta parameters K ordinary SAC steps are made on batches of one of the two sources, and the meta
parameters of actor and critics move a fraction of the way to where these steps have led. The run draws the source anew before
each `update`, which takes the batches of one source.

No code and no table of the paper was at hand. Inferred, and to be swept: K, the meta step, how often data are recorded ones,
the inner step sizes, that Adam's moments are kept between updates (`persistent`, or `reset`), that targets do not move
within an update and then follow the meta critics (`frozen`, or `polyak`), that the temperature is copied, and that each inner
step has a batch of its own. No result of the paper is claimed to be reproduced.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from rljax import actor_critic, heads, normalize, replay
from rljax.actor_critic import Metrics, State, act, mode, networks
from rljax.base import Agent, Array, Batch, InputError, Spec, Transition, no_memory
from rljax.config import check_action, check_ranges, choice, config, leaf, static
from rljax.optim import Model, adam, polyak


def persistent(config: Config, state: State) -> State:
    """The state from which the inner steps start: with the moments that the last ones left."""
    return state


def reset(config: Config, state: State) -> State:
    """The state from which the inner steps start: with fresh optimisers for actor, critics and temperature."""

    def fresh(model: Model, lr: jax.Array | float) -> Model:
        return Model(model.params, adam(lr).init(model.params))

    actor, critic = fresh(state.actor, config.actor_lr), fresh(state.critic, config.critic_lr)
    return state._replace(actor=actor, critic=critic, alpha=fresh(state.alpha, config.alpha_lr))


def frozen(old: dict, new: dict) -> dict:
    """The targets within an update: where they were."""
    return old


def moving(old: dict, new: dict) -> dict:
    """The targets within an update: following the inner critics."""
    return new


@config
class Config:
    """Hyperparameters of MOORL; SAC's are those of arXiv:1812.05905, the others are inferred."""

    actor_lr: float = leaf(3e-4, "(0, inf)")  # Adam step size of the inner actor
    critic_lr: float = leaf(3e-4, "(0, inf)")  # Adam step size of the inner critics
    alpha_lr: float = leaf(3e-4, "(0, inf)")  # Adam step size of the temperature
    discount: float = leaf(0.99, "[0, 1)")  # discount per env step
    tau: float = leaf(0.005, "(0, 1]")  # Polyak step of the target critics
    init_alpha: float = leaf(1.0, "(0, inf)")  # temperature before learning (reward units)
    target_entropy_scale: float = leaf(1.0)  # target entropy is minus this times the number of action dimensions
    meta_step: float = leaf(0.5, "[0, 1]")  # how far the meta parameters go to where the inner steps led
    recorded: float = leaf(0.5, "[0, 1]")  # probability that an update learns from recorded data
    actor_width: int = static(256, "[1, inf)")  # units per hidden layer of the actor
    actor_depth: int = static(2, "[0, inf)")  # hidden layers of the actor
    critic_width: int = static(256, "[1, inf)")  # units per hidden layer of each critic
    critic_depth: int = static(2, "[0, inf)")  # hidden layers of each critic
    layer_norm: bool = static(False)  # LayerNorm before each ReLU, in actor and critics
    num_critics: int = static(2, "[1, inf)")  # size of the critic ensemble; targets take the minimum over all
    inner_steps: int = static(5, "[1, inf)")  # K, SAC steps per update
    inner_batches: int = static(5, "[1, inf)")  # batches per update; inner step j uses batch j modulo this
    batch_size: int = static(256, "[1, inf)")  # transitions per inner step
    warmup: int = static(1_000, "[1, inf)")  # env steps with uniform random actions before learning
    capacity: int = static(1_000_000, "[1, inf)")  # transitions kept for replay; never more than the run has steps
    optimizers: Callable = static(persistent, choices={"persistent": persistent, "reset": reset})  # of the inner steps
    targets: Callable = static(frozen, choices={"frozen": frozen, "polyak": moving})  # within an update
    head: heads.Head = choice(heads.Scalar(), heads.HEADS)  # how critics encode values
    obs_stats: Callable = static(  # observation normalisation: none, or with running statistics
        normalize.fixed, choices={"fixed": normalize.fixed, "running": normalize.running}
    )


def check(config: Config, spec: Spec) -> None:
    """Raise `InputError` unless the numbers are in range and actions are continuous."""
    check_ranges(config)
    check_action("moorl", spec, Array, "sac_discrete")
    if config.inner_batches > config.inner_steps:
        raise InputError(f"config.inner_batches is {config.inner_batches}, more than config.inner_steps, {config.inner_steps}")


def init(config: Config, spec: Spec, key: jax.Array) -> State:
    """Fresh networks, optimisers and temperature."""
    action = jnp.zeros((1, *spec.action.shape), float)
    return actor_critic.init(config, networks(config, action.shape[-1]), spec, key, action)


def update(config: Config, state: State, batch: Batch, key: jax.Array) -> tuple[State, Metrics]:
    """``(state, metrics)`` after K inner SAC steps and one meta step; transitions [U, B, ...] are of one source."""
    state, transitions = actor_critic.normalized(config, state, batch)
    num = transitions.reward.shape[0]
    index = jnp.arange(config.inner_steps) % num
    inner, metrics = jax.lax.scan(
        lambda s, x: _inner_step(config, s, jax.tree.map(lambda leaf: leaf[x[0]], transitions), x[1]),
        config.optimizers(config, state),
        (index, jax.random.split(key, config.inner_steps)),
    )
    critic = inner.critic._replace(params=polyak(state.critic.params, inner.critic.params, config.meta_step))
    actor = inner.actor._replace(params=polyak(state.actor.params, inner.actor.params, config.meta_step))
    target = config.targets(polyak(state.target, critic.params, config.tau), inner.target)
    return inner._replace(actor=actor, critic=critic, target=target), jax.tree.map(jnp.mean, metrics)


def make(spec: Spec, config: Config) -> Agent:
    """MOORL bound to ``spec`` and ``config``; pure and safe to trace."""
    return Agent(
        init=partial(init, config, spec),
        memory=no_memory,
        act=partial(act, config),
        mode=partial(mode, config),
        update=partial(update, config),
        batches=config.inner_batches,
        draw=replay.either(config.recorded),
    )


def _inner_step(config: Config, state: State, t: Transition, key: jax.Array) -> tuple[State, Metrics]:
    """One SAC step on a batch [B, ...]: critics, their targets as ``config.targets`` says, actor, temperature."""
    net, one = networks(config, t.action.shape[-1]), jax.tree.map(lambda x: x[None], t)
    new, metrics = actor_critic.soft_update(config, net, state, one, key)
    return new._replace(target=config.targets(state.target, new.target)), metrics
