"""What every file in agents/ promises, whatever the algorithm; "sac+hl_gauss" is SAC with that head."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
from functools import cache, partial
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import agents, base, heads, loops, replay
from rljax import world_model as wm
from rljax.base import Array, Batch, Discrete, InputError, Spec, Transition
from rljax.config import grid, override, stack

AGENTS = sorted(p.stem for p in Path(agents.__file__).parent.glob("*.py") if not p.stem.startswith("_"))
HEADLESS = {"bc", "bc_discrete", "drama", "gorp", "sqirl"}  # they have no choice of how values are encoded
EITHER = {"drama", "ppo"}  # they take both kinds of action: continuous ones here, and "ppo+discrete" the others
NAMES = AGENTS + [f"{agent}+{head}" for agent in AGENTS for head in heads.HEADS if agent not in HEADLESS and head != "scalar"]
NAMES += [f"{agent}+discrete" for agent in sorted(EITHER)]
QUICK = [name for name in NAMES if name.partition("+")[0] in ("sac", "iql") and "+" in name]  # in the default suite
CONTINUOUS = Spec(Array((3,)), Array((2,), "float32", (-2.0, 0.0), (2.0, 50.0)), 50)
DISCRETE = Spec(Array((3,)), Discrete(4), 50)
SIZE = wm.Size(2, 3, 16, 4, 5, 16, 1, 8, 1, 16, 1, 16)
SMALL = {"size": SIZE, "length": 6, "starts": 4, "context": 3, "ahead": 3}
SMALL |= {"width": 16, "depth": 1, "batch_size": 8, "rollout": 8, "epochs": 1, "minibatches": 1, "episodes": 2, "k": 2}
SEEDS = 8
INERT = {"exploration", "max_weight", "actor_decay", "target_gap", "gap_min"}  # do not show in two updates on noise
INERT |= {"lr_decay", "clip", "max_norm", "period", "exploration_start", "exploration_steps"}
INERT |= {"model_norm", "free_bits"}  # of a gradient that is never so large, and of a divergence that is never so small
INERT |= {"recorded"}  # is for loops
INERT_IN = {"gorp": {"discount"}, "dqn": {"tau"}}  # is for loops; moves nothing until a period is over
COUNTING = {"gorp"}  # learns without gradients, and begins with nothing random

KINDS = {"sac", "iql", "ppo"}  # one agent of each kind, whose costly tests are in the default suite
SIBLINGS = {"calql", "bc_discrete", "iql_discrete", "cql_discrete", "rlpd", "wsrl", "moorl"}  # compile the same steps as others
LONG = {"drama"}  # compiles ten times as long as the others
VARIED = {"sac", "iql"}  # whose variants are in the default suite


def slow_unless(quick):
    """Every agent, but only those for which ``quick`` holds in the default suite."""
    return pytest.mark.parametrize("name", [pytest.param(n, marks=() if quick(n) else pytest.mark.slow) for n in NAMES])


every_agent = slow_unless(lambda name: "+" not in name or name.endswith("+discrete"))
every_agent_but_siblings = slow_unless(lambda name: "+" not in name and name not in SIBLINGS | LONG)
every_agent_costly = slow_unless(lambda name: name in KINDS)


def load(name):
    """The module of an agent; with "+", and the heads that its config is to have, or the kind of action."""
    agent, _, head = name.partition("+")
    module = importlib.import_module(f"rljax.agents.{agent}")
    if head == "discrete":
        return SimpleNamespace(**vars(module), spec_given=DISCRETE)
    fields = {f.name for f in dataclasses.fields(module.Config)} & {"head", "value_head"}
    return SimpleNamespace(**vars(module), heads_given=dict.fromkeys(fields, head)) if head else module


def spec_of(module):
    """The spec of the kind of action that the agent takes."""
    if hasattr(module, "spec_given"):
        return module.spec_given
    try:
        module.check(module.Config(), CONTINUOUS)
    except InputError:
        return DISCRETE
    return CONTINUOUS


def extras_of(module):
    """What the agent wants to know of transitions beside themselves."""
    return getattr(module, "Extras", tuple)


def small(module, **changes):
    """The default config with networks of one layer of 16 units."""
    fields = [f.name for f in dataclasses.fields(module.Config)]
    sizes = {f: size for f in fields for end, size in SMALL.items() if f.endswith(end)}
    return override(module.Config(), sizes | getattr(module, "heads_given", {}) | changes)


def random_batch(spec, num, size, key, extras=tuple):
    """Noise of the right shapes [num, size, ...], with episodes that end either way; ``extras`` is the agent's `Extras`."""
    keys = jax.random.split(key, 6)
    shape = (num, size)

    def obs(key):
        x = jax.random.normal(key, (*shape, *spec.obs.shape))
        return (50 * jnp.abs(x)).astype(jnp.uint8) if spec.obs.dtype == "uint8" else x

    action = base.random_action(spec.action, keys[2], num * size)
    end = jax.random.uniform(keys[4], shape)
    return Batch(
        Transition(
            obs=obs(keys[0]),
            action=action.reshape(*shape, *action.shape[1:]),
            reward=jax.random.normal(keys[3], shape),
            next_obs=obs(keys[1]),
            terminated=end < 0.2,
            truncated=end > 0.8,
        ),
        extras._make(jax.random.normal(k, shape) for k in jax.random.split(keys[5], len(extras._fields)))
        if hasattr(extras, "_fields")
        else (),
    )


def noise(module, spec, agent, key):
    """What an `update` of the agent learns from: noise, for agents that learn from sequences as its ``draw`` cuts it out."""
    if getattr(module, "loop", None) is not loops.sequences:
        return random_batch(spec, agent.batches, width_of(agent), key, extras_of(module))
    ring = jax.tree.map(lambda x: x.reshape(60, *x.shape[2:]), random_batch(spec, 30, 2, key).transition._replace(next_obs=()))
    count = jnp.zeros(60, jnp.int32)
    return agent.draw(ring, replay.Counts(count, count), 30, jax.random.fold_in(key, 1), 2)[0]


class Kit(NamedTuple):
    """An agent with its compiled functions, and a batch it can learn from."""

    spec: Spec
    agent: base.Agent
    init: object
    act: object
    mode: object
    update: object
    batch: Batch


@cache
def kit(name):
    """One set of compiled functions per agent for all tests that need no special config."""
    module = load(name)
    spec = spec_of(module)
    agent = module.make(spec, small(module))
    batch = jax.jit(partial(noise, module, spec, agent))(jax.random.key(7))
    return Kit(spec, agent, *map(jax.jit, (agent.init, agent.act, agent.mode, agent.update)), batch)


def width_of(agent):
    """B of an agent's batches: any, or as many as it plays episodes."""
    return agent.episodes if agent.episodes and agent.keep is None else 8


def types(tree):
    """Shape, dtype and weakness of every leaf, in the tree's structure."""
    return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), jax.tree.map(jax.typeof, tree))


def assert_finite(tree):
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(tree))


def differ(a, b):
    """Whether any leaf of two trees differs."""
    return any(np.any(np.asarray(x) != np.asarray(y)) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_agents_were_found():
    """The list that everything below is run on is not empty."""
    assert {"bc", "calql", "cql", "iql", "sac", "sac_discrete", "td3_bc"} <= set(NAMES)
    assert {"dqn", "moorl", "ppo", "ppo+discrete", "rlpd", "wsrl", "sac+c51", "calql+two_hot"} <= set(NAMES)


@every_agent_but_siblings
def test_has_both_doors(name):
    """Functions with the config first, and `make` that binds them into an `Agent`."""
    module, k = load(name), kit(name)
    assert all(callable(getattr(module, f)) for f in ("check", "init", "act", "mode", "update", "make"))
    assert isinstance(k.agent, base.Agent) and k.agent.batches >= 1
    config, key = small(module), jax.random.key(0)
    state = k.init(key)
    unbound = jax.jit(module.update)(config, state, k.batch, jax.random.key(1))
    bound = k.update(state, k.batch, jax.random.key(1))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), unbound, bound)


@every_agent
def test_check_refuses_bad_numbers_and_the_other_actions(name):
    """Each leaf that has a rule is held to it; the wrong kind of action is refused, if there is one."""
    module = load(name)
    spec = spec_of(module)
    module.check(module.Config(), spec)
    rules = {f.name: f.metadata["rule"] for f in dataclasses.fields(module.Config) if "rule" in f.metadata}
    for field in (f for f in rules if not dataclasses.fields(module.Config)[0].metadata.get("static") and "lr" in f):
        with pytest.raises(InputError, match=field):
            module.check(override(module.Config(), {field: -1.0}), spec)
    agent, other = name.partition("+")[0], DISCRETE if spec is CONTINUOUS else CONTINUOUS
    with contextlib.nullcontext() if agent in EITHER else pytest.raises(InputError, match=agent):
        module.check(module.Config(), other)


@every_agent
def test_update_keeps_structure_shapes_and_types(name):
    """The state can be the carry of a scan: nothing about it changes but numbers, and those are finite."""
    k = kit(name)
    state = k.init(jax.random.key(0))
    new, metrics = k.update(state, k.batch, jax.random.key(1))
    assert jax.tree.structure(new) == jax.tree.structure(state)
    assert types(new) == types(state)
    assert not any(x.weak_type for x in jax.tree.leaves(state))
    assert_finite((state, new, metrics))
    assert differ(state, new)


@every_agent
def test_parameters_are_float32(name):
    """No leaf of the state is float16 or float64, and no key hides in it."""
    dtypes = {str(x.dtype) for x in jax.tree.leaves(kit(name).init(jax.random.key(0)))}
    assert dtypes <= {"float32", "int32", "uint8", "bool"}


@every_agent
def test_metrics_are_the_same_scalars_each_call(name):
    """A flat dict "group/name" -> scalar, with the same keys at any call."""
    k = kit(name)
    state = k.init(jax.random.key(0))
    seen = []
    for i in range(3):
        state, metrics = k.update(state, k.batch, jax.random.key(i))
        assert all(x.shape == () and jnp.issubdtype(x.dtype, jnp.floating) for x in metrics.values())
        seen.append(tuple(metrics))
    assert len(set(seen)) == 1 and seen[0]
    assert all(key.count("/") == 1 and key == key.lower() for key in seen[0])


@every_agent
def test_actions_fit_the_space(name):
    """Shape, dtype and range, for usual and for huge observations; memory keeps its structure."""
    k = kit(name)
    state = k.init(jax.random.key(0))
    memory = k.agent.memory(6)
    for scale in (1.0, 1e4):
        obs = scale * jax.random.normal(jax.random.key(1), (6, *k.spec.obs.shape))
        for action, new in (k.act(state, memory, obs, jax.random.key(2)), k.mode(state, memory, obs)):
            assert action.shape == base.random_action(k.spec.action, jax.random.key(0), 6).shape
            assert types(new) == types(memory)
            if k.spec is DISCRETE:
                assert action.dtype == jnp.int32 and np.isin(action, range(4)).all()
            else:
                assert action.dtype == jnp.float32 and (np.abs(action) <= 1).all()


@every_agent
def test_keys_decide(name):
    """Two keys give two starts and two sets of actions, one key gives one; `mode` takes no key."""
    k = kit(name)
    state = k.init(jax.random.key(0))
    obs = jax.random.normal(jax.random.key(1), (64, *k.spec.obs.shape))
    memory = k.agent.memory(64)
    assert (differ(state, k.init(jax.random.key(1))) or name in COUNTING) and not differ(state, k.init(jax.random.key(0)))
    a, b, c = (k.act(state, memory, obs, jax.random.key(i))[0] for i in (0, 1, 0))
    assert (differ(a, b) or name in COUNTING) and not differ(a, c)
    assert len(np.unique(np.asarray(k.act(state, memory, jnp.zeros_like(obs), jax.random.key(2))[0]), axis=0)) > 1


@every_agent_but_siblings
def test_keys_are_used_once(name, key_reuse_checks):
    """No function consumes a key twice."""
    module = load(name)
    agent = kit(name).agent
    spec = spec_of(module)
    keys = jax.random.split(jax.random.key(0), 3)
    state = jax.jit(lambda key: agent.init(key))(keys[0])
    jax.jit(lambda *args: agent.act(*args))(state, agent.memory(3), jnp.zeros((3, *spec.obs.shape)), keys[1])
    jax.jit(lambda *args: agent.update(*args))(state, kit(name).batch, keys[2])


@every_agent_but_siblings
def test_one_trace_for_all_hyperparameters(name):
    """Every number of the config may be traced: other values compile nothing, and each changes the outcome."""
    module, k = load(name), kit(name)
    traces = []

    @jax.jit
    def update(config, state, batch, key):
        traces.append(config)
        agent = module.make(k.spec, config)
        return agent.update(agent.init(key), batch, key)

    @jax.jit
    def twice(config, state, batch, key):
        traces.append(config)
        agent = module.make(k.spec, config)
        state, _ = agent.update(state, batch, key)
        return agent.update(state, batch, key)

    config = small(module)
    numbers = paths(config)
    inert = INERT | INERT_IN.get(name.partition("+")[0], set())
    state = jax.jit(lambda config, key: module.make(k.spec, config).init(key))(config, jax.random.key(0))
    for run in (update, twice):
        base_out = run(config, state, k.batch, jax.random.key(1))
        for field in numbers if run is twice else ():
            other = run(override(config, {field: another(config, field)}), state, k.batch, jax.random.key(1))
            assert differ(base_out, other) or "init" in field or field in inert, field
        for field in (f for f in numbers if run is update and "init" in f):
            other = run(override(config, {field: another(config, field)}), state, k.batch, jax.random.key(1))
            assert differ(base_out, other), field
    assert len(traces) == 2


def paths(config):
    """Dotted names of all leaves."""
    found = []
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            found += [f"{f.name}.{inner}" for inner in paths(value)]
        elif not f.metadata.get("static"):
            found.append(f.name)
    return found


def another(config, path):
    """Half of a number of the config, or a quarter for 0."""
    return 0.5 * attrgetter(path)(config) or 0.25


@pytest.mark.parametrize("name", QUICK)
def test_heads_in_one_program(name):
    """Each head through init, two updates and `mode`: types kept, numbers finite, its numbers traced and of effect."""
    module, traces = load(name), []
    spec = spec_of(module)
    batch = random_batch(spec, module.make(spec, small(module)).batches, 8, jax.random.key(7), extras_of(module))

    @jax.jit
    def run(config, key):
        traces.append(config)
        agent = module.make(spec, config)
        key_init, *keys = jax.random.split(key, 3)
        first = state = agent.init(key_init)
        for key in keys:
            state, metrics = agent.update(state, batch, key)
        return first, state, metrics, agent.mode(state, (), batch.transition.obs[0])[0]

    config = small(module)
    first, state, metrics, action = out = run(config, jax.random.key(0))
    assert types(first) == types(state) and differ(first, state)
    assert_finite(out)
    assert action.shape == batch.transition.action[0].shape
    assert 0 <= metrics["critic/clipped"] <= 1
    for field in (path for path in paths(config) if path.startswith("head.")):
        assert differ(out, run(override(config, {field: another(config, field)}), jax.random.key(0))), field
    assert len(traces) == 1


def stacked_runs(module, spec, steps, seeds=SEEDS):
    """``(run, config, keys, batches)``: run makes `steps` updates on batches [steps, U, B, ...] from a fresh state."""
    config = small(module)

    def run(key, batches):
        agent = module.make(spec, config)
        key_init, key_update = jax.random.split(key)
        keys = jax.random.split(key_update, steps)
        return jax.lax.scan(lambda s, x: agent.update(s, *x), agent.init(key_init), (batches, keys))

    keys = jax.random.split(jax.random.key(3), seeds)
    agent = module.make(spec, config)

    def draw(key):
        return jax.vmap(partial(noise, module, spec, agent))(jax.random.split(key, steps))

    return run, keys, jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(4), seeds))


@every_agent_costly
def test_a_seed_in_a_vmap_is_the_seed_alone(name):
    """One update in float32: losses and gradients agree to 1e-5 relative, for each of 8 seeds."""
    module = load(name)
    run, keys, batches = stacked_runs(module, spec_of(module), 1)
    states, metrics = jax.jit(jax.vmap(run))(keys, batches)
    alone = jax.jit(run)
    for i in range(SEEDS):
        state, expected = alone(keys[i], jax.tree.map(lambda x, i=i: x[i], batches))
        for key in expected:
            np.testing.assert_allclose(metrics[key][i], expected[key], rtol=1e-5, atol=1e-6, err_msg=key)
        moments = 0
        for (path, x), (_, y) in zip(jax.tree.leaves_with_path(states), jax.tree.leaves_with_path(state), strict=True):
            # Adam's first moment after one step is the gradient / 10; of LaProp only the second one is like that
            if (".nu" if name.startswith("drama") else ".mu") in jax.tree_util.keystr(path):
                moments += 1
                assert np.isfinite(y).all(), path
                np.testing.assert_allclose(x[i], y, rtol=0, atol=1e-5 * np.abs(y).max() + 1e-12, err_msg=str(path))
        assert moments or name in COUNTING


@every_agent_costly
def test_a_hundred_updates_in_a_vmap_are_those_alone(name):
    """In float64 a seed of a vmap follows the seed alone to 1e-6; parameters are float64."""
    module = load(name)
    with jax.enable_x64(True):
        run, keys, batches = stacked_runs(module, spec_of(module), 100)
        states, metrics = jax.jit(jax.vmap(run))(keys, batches)
        state, expected = jax.jit(run)(keys[2], jax.tree.map(lambda x: x[2], batches))
        assert {x.dtype for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating)} == {np.dtype("float64")}
        mine = jax.tree.map(lambda x: x[2], (states, metrics))
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-8), mine, (state, expected))
        assert differ(*(jax.tree.map(lambda x, i=i: x[i], states) for i in (1, 2)))


@every_agent_costly
def test_stacked_configs_equal_a_loop(name):
    """A grid under one vmap gives each row what it gets alone."""
    module, k = load(name), kit(name)
    fields = {f.name for f in dataclasses.fields(module.Config)} - INERT_IN.get(name.partition("+")[0], set())
    values = {"actor_lr": [1e-3, 1e-2], "critic_lr": [1e-3, 1e-2], "lr": [1e-3, 1e-2], "discount": [0.5, 0.9]}
    rows = grid(small(module), **{name: x for name, x in values.items() if name in fields})

    def run(config, key):
        agent = module.make(k.spec, config)
        key_init, key_update, key_again = jax.random.split(key, 3)
        state, _ = agent.update(agent.init(key_init), k.batch, key_update)
        return agent.update(state, k.batch, key_again)[1]

    together = jax.jit(jax.vmap(run, (0, None)))(stack(rows), jax.random.key(0))
    alone = jax.jit(run)
    for i, row in enumerate(rows):
        for key, value in alone(row, jax.random.key(0)).items():
            np.testing.assert_allclose(together[key][i], value, rtol=1e-5, atol=1e-6, err_msg=key)
    assert len(set(zip(*(np.asarray(x).tolist() for x in together.values()), strict=True))) == len(rows)


def variants():
    """Agents and what of them is varied: not Drama, whose batches are sequences, and nothing for which there is no field."""
    needs = {"utd": None, "images": None, "running": "obs_stats", "layer_norm": "layer_norm"}
    for name in NAMES:
        fields = {f.name for f in dataclasses.fields(load(name).Config)}
        for change, field in needs.items():
            if name.partition("+")[0] != "drama" and (field is None or field in fields):
                yield pytest.param(name, change, marks=() if name in VARIED else pytest.mark.slow)


@pytest.mark.parametrize(("name", "change"), variants())
def test_variants_update(name, change):
    """Four batches per update, images, running statistics and LayerNorm keep types and stay finite."""
    module = load(name)
    spec = spec_of(module)
    fields = {f.name for f in dataclasses.fields(module.Config)}
    batches = {field: 4 for field in ("utd", "policy_delay", "inner_batches") if field in fields}
    changes = {"utd": batches, "images": {}, "running": {"obs_stats": "running"}, "layer_norm": {"layer_norm": True}}
    if change == "images":
        spec = Spec(Array((10, 10, 2), "uint8", 0, 255), spec.action, 50)
    agent = module.make(spec, small(module, **changes[change]))
    num = 4 if batches and change == "utd" else module.make(spec, small(module)).batches
    assert agent.batches == num
    batch = random_batch(spec, num, 8, jax.random.key(2), extras_of(module))
    state = jax.jit(agent.init)(jax.random.key(0))
    new, metrics = jax.jit(agent.update)(state, batch, jax.random.key(1))
    assert types(new) == types(state)
    assert_finite((new, metrics))
    assert all(x.shape == () for x in metrics.values())
    action, _ = jax.jit(agent.mode)(new, agent.memory(8), batch.transition.obs[0])
    assert action.shape == batch.transition.action[0].shape
