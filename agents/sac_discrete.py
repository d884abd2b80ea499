"""Soft Actor-Critic for discrete actions (Christodoulou, arXiv:1910.07207).

Expectations over actions are exact sums. One `update` takes U batches, in the order of `rljax.agents.sac`.

Deviations: the target entropy defaults to 0.5 log|A|; the paper's 0.98 log|A| keeps the policy close to uniform
(arXiv:2112.02852 reports the same).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import distrax
import jax
import jax.numpy as jnp

from rljax import actor_critic, heads, losses, nets, normalize
from rljax.actor_critic import Metrics, Networks, State
from rljax.base import Agent, Batch, Discrete, Spec, Transition, no_memory
from rljax.config import check_action, check_ranges, choice, config, leaf, static
from rljax.optim import adam, descend, polyak


@config
class Config:
    """Hyperparameters of discrete SAC."""

    actor_lr: float = leaf(3e-4, "(0, inf)")  # Adam step size of the actor
    critic_lr: float = leaf(3e-4, "(0, inf)")  # Adam step size of the critics
    alpha_lr: float = leaf(3e-4, "(0, inf)")  # Adam step size of the temperature
    discount: float = leaf(0.99, "[0, 1)")  # discount per env step
    tau: float = leaf(0.005, "(0, 1]")  # Polyak step of the target critics, per critic step
    init_alpha: float = leaf(1.0, "(0, inf)")  # temperature before learning (reward units)
    target_entropy_scale: float = leaf(0.5)  # target entropy is this times the log of the number of actions
    actor_width: int = static(256, "[1, inf)")  # units per hidden layer of the actor
    actor_depth: int = static(2, "[0, inf)")  # hidden layers of the actor
    critic_width: int = static(256, "[1, inf)")  # units per hidden layer of each critic
    critic_depth: int = static(2, "[0, inf)")  # hidden layers of each critic
    layer_norm: bool = static(False)  # LayerNorm before each ReLU, in actor and critics
    num_critics: int = static(2, "[1, inf)")  # size of the critic ensemble; targets take the minimum over all
    utd: int = static(1, "[1, inf)")  # critic steps per env step (and per actor step)
    batch_size: int = static(256, "[1, inf)")  # transitions per critic step
    warmup: int = static(1_000, "[1, inf)")  # env steps with uniform random actions before learning
    capacity: int = static(1_000_000, "[1, inf)")  # transitions kept for replay; never more than the run has steps
    head: heads.Head = choice(heads.Scalar(), heads.HEADS)  # how critics encode values
    obs_stats: Callable = static(  # observation normalisation: none, or with running statistics
        normalize.fixed, choices={"fixed": normalize.fixed, "running": normalize.running}
    )


def check(config: Config, spec: Spec) -> None:
    """Raise `InputError` unless the numbers are in range and actions are discrete."""
    check_ranges(config)
    check_action("sac_discrete", spec, Discrete, "sac")


def networks(config: Config, num_actions: int) -> Networks:
    """Actor and critics for ``num_actions`` actions."""
    actor = nets.CategoricalPolicy(num_actions, config.actor_width, config.actor_depth, config.layer_norm)
    critic = nets.ensemble(config.num_critics)(
        config.head.size, config.critic_width, config.critic_depth, config.layer_norm, num_actions
    )
    return Networks(actor, critic, config.head)


def init(config: Config, spec: Spec, key: jax.Array) -> State:
    """Fresh networks, optimisers and temperature."""
    return actor_critic.init(config, networks(config, spec.action.n), spec, key)


def act(config: Config, state: State, memory: tuple, obs: jax.Array, key: jax.Array) -> tuple[jax.Array, tuple]:
    """``(actions [E] ~ pi, memory)`` for observations [E, ...]."""
    return distrax.Categorical(_logits(config, state, obs), dtype=jnp.int32).sample(seed=key), memory


def mode(config: Config, state: State, memory: tuple, obs: jax.Array) -> tuple[jax.Array, tuple]:
    """``(most probable actions [E], memory)`` for observations [E, ...]."""
    return jnp.argmax(_logits(config, state, obs), -1).astype(jnp.int32), memory


def update(config: Config, state: State, batch: Batch, key: jax.Array) -> tuple[State, Metrics]:
    """``(state, metrics)`` after U critic steps and one step of actor and temperature; transitions are [U, B, ...].

    Nothing is sampled, so ``key`` is not used.
    """
    net = networks(config, nets.outputs(state.actor.params))
    state, transitions = actor_critic.normalized(config, state, batch)
    state, critic_metrics = jax.lax.scan(partial(_critic_step, config, net), state, transitions)
    state, actor_metrics = _actor_step(config, net, state, transitions.obs[-1])
    return state, jax.tree.map(jnp.mean, critic_metrics) | actor_metrics


def make(spec: Spec, config: Config) -> Agent:
    """Discrete SAC bound to ``spec`` and ``config``; pure and safe to trace."""
    return Agent(
        init=partial(init, config, spec),
        memory=no_memory,
        act=partial(act, config),
        mode=partial(mode, config),
        update=partial(update, config),
        batches=config.utd,
    )


def _critic_step(config: Config, net: Networks, state: State, t: Transition) -> tuple[State, Metrics]:
    log_probs = jax.nn.log_softmax(net.actor.apply(state.actor.params, t.next_obs))
    q, out = losses.least(net.head, net.critic.apply(state.target, t.next_obs))
    value = (jnp.exp(log_probs) * (q - jnp.exp(state.alpha.params) * log_probs)).sum(-1)
    mixture = jax.nn.logsumexp(jax.nn.log_softmax(out) + log_probs[..., None], 1)  # for heads with distributions
    target = losses.backup(net.head, t.reward, t.terminated, value, mixture, config.discount)

    def loss(params: dict) -> tuple[jax.Array, Metrics]:
        out = net.critic.apply(params, t.obs)
        return losses.critic_loss(net.head, losses.chosen(out, t.action), target)

    critic, metrics = descend(adam(config.critic_lr), loss, state.critic)
    return state._replace(critic=critic, target=polyak(state.target, critic.params, config.tau)), metrics


def _actor_step(config: Config, net: Networks, state: State, obs: jax.Array) -> tuple[State, Metrics]:
    alpha = jnp.exp(state.alpha.params)
    q = net.head.value(net.critic.apply(state.critic.params, obs)).min(0)

    def loss(params: dict) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        log_probs = jax.nn.log_softmax(net.actor.apply(params, obs))
        probs = jnp.exp(log_probs)
        value = (probs * (alpha * log_probs - q)).sum(-1).mean()
        return value, (value, -(probs * log_probs).sum(-1).mean())

    actor, (value, entropy) = descend(adam(config.actor_lr), loss, state.actor)
    target_entropy = config.target_entropy_scale * jnp.log(net.actor.num_actions)
    state = actor_critic.temperature_step(config, state._replace(actor=actor), entropy, target_entropy)
    return state, {"actor/loss": value, "actor/entropy": entropy, "alpha/value": alpha}


def _logits(config: Config, state: State, obs: jax.Array) -> jax.Array:
    params = state.actor.params
    return networks(config, nets.outputs(params)).actor.apply(params, normalize.apply(state.stats, obs))
