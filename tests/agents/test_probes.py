"""Every agent learns the exact values and the best actions of problems that isolate one ability each.

"sac+hl_gauss" is SAC with that head, "ppo+discrete" PPO with discrete actions.
"""

from __future__ import annotations

import dataclasses
import importlib
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import agents, heads, loops, nets, replay
from rljax.base import Batch, InputError, Spec, Transition, random_action
from rljax.config import override, stack

pytestmark = pytest.mark.timeout(1_800)  # two-hot and C51 take minutes
OPTIMIZED = True  # programs run long
OTHERS = {"bc", "bc_discrete", "drama", "gorp", "sqirl"}  # learn no values, those of each step of an episode, or in imagination
NAMES = sorted({p.stem for p in Path(agents.__file__).parent.glob("*.py") if not p.stem.startswith("_")} - OTHERS)
HEADED = [f"{name}+{head}" for name in NAMES for head in heads.HEADS if head != "scalar"]
HEADED += ["ppo+discrete"]
QUICK = {"sac", "iql", "ppo"}  # one of each kind, in the default suite
PATIENCE = {"two_hot": 4, "c51": 4}  # these take as many times the iterations: with Adam, atoms given up once come back slowly
VALUE_PATIENCE = 3  # times as many, where V is encoded so too
SUPPORT = {"low": -4.0, "high": 12.0, "bins": 33}  # holds all values of the probes; with more bins they move more slowly
NEAR = 0.125  # how far modes may be from the best actions: it costs 0.03 of a reward of 1, and ReLU critics have kinks
SEEDS = 3
DISCOUNT = 0.9
WARMUP, COARSE, FINE = 400, 1400, 600  # iterations: random, with large steps, with small steps
CONFIG = {
    "actor_lr": 3e-3,
    "critic_lr": 3e-3,
    "alpha_lr": 1e-9,  # the temperature stays where it is,
    "init_alpha": 1e-6,  # too small for the entropy bonus to show
    "discount": DISCOUNT,
    "tau": 0.05,
    "exploration_steps": 1_000,
    "actor_width": 32,
    "actor_depth": 1,
    "critic_width": 32,
    "batch_size": 32,
}
OFFLINE = {  # what makes each of them plain Q-learning on data of random actions
    "penalty": 1e-6,
    "num_actions": 1,
    "expectile": 0.985,
    "beta": 50.0,
    "value_lr": 3e-3,
    "alpha": 1e3,
    "target_noise": 1e-6,
    "critic_depth": 2,
    "critic_width": 64,
    "backup": "one_sample",
    "constraint": "fixed",
}
FEWER = {  # critics and steps than by default; a target that moves with tau
    "dqn": {"targets": "averaged"},
    "rlpd": {"num_critics": 3, "utd": 2},
    "wsrl": {"num_critics": 3, "utd": 2},
    "moorl": {"inner_steps": 2, "inner_batches": 2},
}
RECORDED = 2_000  # env steps
ROLLOUTS = {  # what agents that learn from rollouts take instead
    "lr": 3e-3,
    "discount": DISCOUNT,
    "entropy": 0.0,
    "actor_width": 32,
    "actor_depth": 1,
    "critic_width": 32,
    "rollout": 16,
}
ENVS, COARSE_ROLLOUTS, FINE_ROLLOUTS = 8, 150, 100


class Learned(NamedTuple):
    """What an agent learned on all probes: numpy arrays with leading axes [probe, seed].

    ``q`` [critic, state, choice] at ``choices`` [choice, ...], ``mode`` [state, ...]; of an agent that learns only V, which
    should become that of the best actions, V as the only choice.
    """

    spec: Spec
    q: np.ndarray
    choices: np.ndarray | None
    mode: np.ndarray
    alive: np.ndarray
    slack: float  # how far values may be from theirs: with bins a quarter of their width


def learn(name, probes):
    """Train ``name`` on all probes with all seeds as one batch axis, through `loops.run`."""
    name, _, head = name.partition("+")
    given, head = (probes.discrete, "") if head == "discrete" else (probes.continuous, head)
    module = importlib.import_module(f"rljax.agents.{name}")
    try:
        module.check(module.Config(), spec := given)
    except InputError:
        spec = probes.discrete
    fields = {f.name for f in dataclasses.fields(module.Config)}
    rollouts, offline = hasattr(module, "loop"), "warmup" not in fields
    settings = ROLLOUTS if rollouts else (CONFIG | OFFLINE if offline else CONFIG) | FEWER.get(name, {})
    if head:
        settings = settings | dict.fromkeys(("head", "value_head"), override(heads.HEADS[head], SUPPORT))
    config = override(module.Config(), {name: value for name, value in settings.items() if name in fields})
    lengths = (COARSE_ROLLOUTS, FINE_ROLLOUTS) if rollouts else (2 * COARSE, 2 * FINE) if offline else (COARSE, FINE)
    kind = learn_from_rollouts if rollouts else learn_offline if offline else learn_online
    patience = PATIENCE.get(head, 1) * (VALUE_PATIENCE if head in PATIENCE and "value_head" in fields else 1)
    state, alive = kind(module, config, spec, probes, *(patience * n for n in lengths))
    obs = jnp.eye(spec.obs.shape[0])
    choices = jnp.arange(3) if spec is probes.discrete else jnp.linspace(-0.8, 0.8, 5)[:, None]
    q = jax.jit(jax.vmap(partial(values, module, config, spec is probes.discrete, obs, choices)))(state.agent)
    mode = jax.jit(jax.vmap(lambda state: module.mode(config, state, (), obs)[0]))(state.agent)
    q, mode, alive = (np.asarray(x).reshape(len(probes.all), SEEDS, *x.shape[1:]) for x in (q, mode, alive))
    return Learned(spec, q, None if rollouts else np.asarray(choices), mode, alive, 0.125 if head else 0.05)


def learn_online(module, config, spec, probes, coarse_steps, fine_steps):
    """``(state, alive)`` after the warm-up and two phases of learning."""
    num = len(probes.all) * SEEDS

    def loop(kind, row):
        config, probe = row
        agent = module.make(spec, config)._replace(draw=None)  # from new experience alone
        return kind(agent, probes.make(spec, probe), config.batch_size, WARMUP + coarse_steps + fine_steps)

    def rows(config):
        tables = jax.tree.map(lambda *x: jnp.repeat(jnp.stack(x), SEEDS, 0), *probes.all.values())
        return stack([config] * num), tables

    run = jax.jit(loops.run, static_argnums=0)
    coarse, fine = rows(config), rows(finer(config))
    warm_up, online = partial(loop, loops.warm_up), partial(loop, loops.online)
    keys = jax.random.split(jax.random.key(0), num)
    state = jax.jit(lambda x: jax.lax.map(lambda x: online(x[0]).init(x[1]), x))((coarse, keys))  # compiles faster than vmap
    alive = jnp.ones(num, bool)
    state, alive, _ = run(warm_up, coarse, state, alive, 0, WARMUP, ())
    state, alive, _ = run(online, coarse, state, alive, WARMUP, coarse_steps, ())
    state, alive, _ = run(online, fine, state, alive, WARMUP + coarse_steps, fine_steps, ())
    return state, alive


def learn_offline(module, config, spec, probes, coarse_steps, fine_steps):
    """``(state, alive)`` after two phases of learning from random actions, through `loops.offline`."""
    num = len(probes.all) * SEEDS
    tables = jax.tree.map(lambda *x: jnp.stack(x), *probes.all.values())
    data = jax.jit(jax.vmap(lambda p: record(module, probes.make(spec, p), spec, jax.random.key(9))))(tables)
    data = jax.tree.map(lambda x: jnp.repeat(x, SEEDS, 0), data)

    def loop(row):
        config, data = row
        init, step = loops.offline(module.make(spec, config), config.batch_size)
        return loops.Loop(init, lambda state, t, _: step(state, t, data))

    run = jax.jit(loops.run, static_argnums=0)
    keys = jax.random.split(jax.random.key(0), num)
    rows = [(stack([c] * num), data) for c in (config, finer(config))]
    state = jax.jit(lambda x: jax.lax.map(lambda x: loop(x[0]).init(x[1]), x))((rows[0], keys))
    state, alive, _ = run(loop, rows[0], state, jnp.ones(num, bool), 0, coarse_steps, ())
    state, alive, _ = run(loop, rows[1], state, alive, coarse_steps, fine_steps, ())
    return state, alive


def learn_from_rollouts(module, config, spec, probes, coarse, fine):
    """``(state, alive)`` after two phases of learning, through `loops.on_policy` in ENVS copies of each env."""
    num = len(probes.all) * SEEDS
    tables = jax.tree.map(lambda *x: jnp.repeat(jnp.stack(x), SEEDS, 0), *probes.all.values())

    def loop(row):
        config, probe = row
        return loops.on_policy(module.make(spec, config), probes.make(spec, probe).resize(ENVS))

    run = jax.jit(loops.run, static_argnums=0)
    keys = jax.random.split(jax.random.key(0), num)
    rows = [(stack([c] * num), tables) for c in (config, finer(config))]
    state = jax.jit(lambda x: jax.lax.map(lambda x: loop(x[0]).init(x[1]), x))((rows[0], keys))
    state, alive, _ = run(loop, rows[0], state, jnp.ones(num, bool), 0, coarse, ())
    state, alive, _ = run(loop, rows[1], state, alive, coarse, fine, ())
    return state, alive


def finer(config):
    """``config`` with a tenth of its step sizes."""
    names = [f.name for f in dataclasses.fields(config) if f.name in ("actor_lr", "critic_lr", "value_lr", "lr")]
    return override(config, {name: 3e-4 for name in names})


def record(module, env, spec, key):
    """A `replay.Recorded` of random actions."""
    key, key_env = jax.random.split(key)

    def step(carry, key):
        state, obs = carry
        key_act, key_step = jax.random.split(key)
        action = random_action(spec.action, key_act, 1)
        state, new = env.step(state, action, key_step)
        return (state, new.obs), Transition(obs, action, new.reward, new.next_obs, new.terminated, new.truncated)

    _, t = jax.lax.scan(step, env.reset(key_env), jax.random.split(key, RECORDED))
    t = jax.tree.map(lambda x: x[:, 0], t)
    extras = module.Extras(jnp.zeros(RECORDED)) if hasattr(module, "Extras") else ()
    return replay.Recorded(Batch(t, extras))


def values(module, config, discrete, obs, choices, state):
    """Q [critic, state, choice] of an actor-critic state, or V of one that has no Q."""
    if hasattr(module, "loop"):
        policy = nets.CATEGORICAL if discrete else nets.CLIPPED_GAUSSIAN
        net = module.networks(config, policy, len(choices) if discrete else choices.shape[-1])
        return net.head.value(net.critic.apply(state.networks.params["critic"], obs))[None, :, None]
    net = module.networks(config, len(choices) if discrete else choices.shape[-1])
    if discrete:
        return net.head.value(net.critic.apply(state.critic.params, obs))
    pairs = jnp.repeat(obs, len(choices), 0), jnp.tile(choices, (len(obs), 1))
    out = net.head.value(net.critic.apply(state.critic.params, *pairs))
    return out.reshape(-1, len(obs), len(choices))


@pytest.fixture(scope="module", params=[pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in NAMES + HEADED])
def learned(request, probes):
    """``learned(probe) -> (Q [seed, critic, state, choice], exact Q, modes, best actions, slack of Q)`` of one agent."""
    result = learn(request.param, probes)
    assert result.alive.all(), f"{request.param} diverged: {result.alive}"

    def of(name):
        at, p = list(probes.all).index(name), probes.all[name]
        states, value = probes.visited(p), probes.optimal(p, DISCOUNT)
        if result.choices is None:
            exact = value[states, None]
        else:
            rewards = [[probes.reward(result.spec, p, s, a) for a in result.choices] for s in states]
            exact = np.array(rewards) + DISCOUNT * np.where(p.end, 0.0, value[p.to])[states, None]
        best = np.asarray(probes.index(p.best)) if result.spec is probes.discrete else p.best[:, None]
        return result.q[at][:, :, states], exact, result.mode[at][:, states], best[states], result.slack

    return of


def told(name, q, exact):
    """The measured values, for people: range over seeds, critics and actions at each state."""
    ranges = [f"{q[:, :, s].min():.4f} .. {q[:, :, s].max():.4f}" for s in range(q.shape[2])]
    return f"{name}: learned {ranges}, exact {np.round(exact, 4).tolist()}"


def test_agents_were_found():
    """The list that everything below is run on is not empty."""
    assert {"calql", "cql", "dqn", "iql", "moorl", "ppo", "rlpd", "sac", "sac_discrete", "td3_bc", "wsrl"} <= set(NAMES)


def test_a_time_limit_does_not_end_the_value(learned):
    """Reward 1 for ever, episodes cut at 6 steps: the value is 1 / (1 - discount) within 2 %, not that of 6 steps."""
    q, exact, *_ = learned("time_limit")
    np.testing.assert_allclose(exact, 1 / (1 - DISCOUNT))
    np.testing.assert_allclose(q, np.broadcast_to(exact, q.shape), rtol=0.02, err_msg=told("time limit", q, exact))


def test_a_terminal_state_ends_the_value(learned):
    """Reward 1 in each of 4 steps, then a terminal state: the value counts the steps that are left, within 2 %."""
    q, exact, *_ = learned("terminal")
    finite = [(1 - DISCOUNT**left) / (1 - DISCOUNT) for left in (4, 3, 2, 1)]
    np.testing.assert_allclose(exact, np.repeat(np.array(finite)[:, None], exact.shape[1], 1), rtol=1e-6)
    np.testing.assert_allclose(q, np.broadcast_to(exact, q.shape), rtol=0.02, err_msg=told("terminal", q, exact))


def test_values_follow_the_observation(learned):
    """One step, four observations: the value is the reward of each."""
    q, exact, *_ = learned("observation")
    np.testing.assert_allclose(exact[:, 0], [-1.0, 1.0, 0.5, 2.0])
    np.testing.assert_allclose(q, np.broadcast_to(exact, q.shape), rtol=0, atol=0.03, err_msg=told("observation", q, exact))


def test_the_best_action_is_found(learned):
    """One step, one observation: the mode is the action with the largest reward, inside of [-1, 1], and Q says why."""
    q, exact, mode, best, slack = learned("action")
    assert_best(mode, best)
    np.testing.assert_allclose(q, np.broadcast_to(exact, q.shape), rtol=0, atol=slack, err_msg=told("action", q, exact))


def test_reward_after_a_step_is_discounted(learned):
    """Two steps, 0 and then 1: values discount and 1, within 2 %."""
    q, exact, *_ = learned("delay")
    np.testing.assert_allclose(exact[:, 0], [DISCOUNT, 1.0])
    np.testing.assert_allclose(q, np.broadcast_to(exact, q.shape), rtol=0.02, err_msg=told("delay", q, exact))


def test_the_best_action_of_each_observation_is_found(learned):
    """Two steps from either start, another best action in each state: all are found, and Q says why."""
    q, exact, mode, best, slack = learned("both")
    assert_best(mode, best)
    np.testing.assert_allclose(q, np.broadcast_to(exact, q.shape), rtol=0, atol=0.1 + slack, err_msg=told("both", q, exact))


def assert_best(mode, best):
    """Modes [seed, state, ...] are the best actions [state, ...]: the same index, or within NEAR."""
    np.testing.assert_allclose(mode, np.broadcast_to(best, mode.shape), rtol=0, atol=NEAR)
