"""MOORL's update: at the ends of the meta step it is SAC or nothing, and in between it has Reptile's properties."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rljax import optim
from rljax.agents import moorl, sac
from rljax.base import Array, Batch, InputError, Spec
from rljax.config import override

A, B, K, U = 2, 8, 3, 2
SPEC = Spec(Array((3,)), Array((A,), "float32", -1.0, 1.0), 50)
CONFIG = moorl.Config(
    actor_lr=3e-3,
    critic_lr=1e-2,
    alpha_lr=2e-2,
    discount=0.8,
    tau=0.1,
    init_alpha=0.3,
    target_entropy_scale=0.7,
    meta_step=0.3,
    actor_width=4,
    actor_depth=1,
    critic_width=4,
    critic_depth=1,
    inner_steps=K,
    inner_batches=U,
    batch_size=B,
)
SHARED = {f.name for f in dataclasses.fields(sac.Config)} & {f.name for f in dataclasses.fields(moorl.Config)}
SAC = override(sac.Config(), {name: getattr(CONFIG, name) for name in SHARED if name not in ("head", "obs_stats")})
ONE = override(CONFIG, {"inner_steps": 1, "inner_batches": 1})
LINEAR = override(CONFIG, {"critic_depth": 0, "optimizers": "reset"})  # the critics' loss is quadratic

INIT = jax.jit(moorl.init, static_argnums=1)
UPDATE = jax.jit(moorl.update)
SAC_UPDATE = jax.jit(sac.update)


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def start(config=CONFIG):
    """A fresh state whose targets differ from the critics."""
    state = INIT(config, SPEC, jax.random.key(0))
    return state._replace(target=jax.tree.map(lambda x: 0.7 * x + 0.05, state.target))


def met(meta_step, config=CONFIG):
    """``config`` with this meta step."""
    return override(config, {"meta_step": meta_step})


def used(state):
    """``state`` with optimisers that have gone 7 steps."""
    rng = np.random.default_rng(9)
    noise = lambda x: x + 7 if jnp.issubdtype(x.dtype, jnp.integer) else x + 0.05 * rng.random(x.shape)  # noqa: E731
    moments = [m._replace(opt_state=jax.tree.map(noise, m.opt_state)) for m in (state.actor, state.critic, state.alpha)]
    return state._replace(actor=moments[0], critic=moments[1], alpha=moments[2])


def same(a, b):
    """Whether two trees are equal bit for bit."""
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def toward(old, new, step):
    """``old`` and ``step`` of the way to ``new``, leaf by leaf."""
    return jax.tree.map(lambda x, y: x + step * (y - x), old, new)


@pytest.mark.parametrize("targets", ["frozen", "polyak"])
def test_a_whole_meta_step_is_sac_done_k_times(targets, reference):
    """Step j is on batch j modulo U; frozen targets are put back after each step and follow the critics once, at the end."""
    config, state, t = met(1.0, override(CONFIG, {"targets": targets})), used(start()), reference.draw_batch(SPEC, U, B, 0)
    new, metrics = UPDATE(config, state, Batch(t), jax.random.key(1))
    slow, seen = state, []
    for j, key in enumerate(jax.random.split(jax.random.key(1), K)):
        one = jax.tree.map(lambda x, u=j % U: x[u : u + 1], t)
        slow, expected = SAC_UPDATE(SAC, slow, Batch(one), key)
        slow = slow._replace(target=state.target) if targets == "frozen" else slow
        seen.append(expected)
    if targets == "frozen":
        slow = slow._replace(target=toward(state.target, slow.critic.params, CONFIG.tau))
    reference.close(new, slow)
    assert metrics.keys() == seen[0].keys()
    for name in metrics:
        np.testing.assert_allclose(metrics[name], np.mean([s[name] for s in seen]), rtol=1e-9, err_msg=name)


@pytest.mark.parametrize("targets", ["frozen", "polyak"])
def test_the_meta_step_is_a_fraction_of_the_inner_displacement(targets, reference):
    """With 0 actor and critics stay to the bit; alpha and all moments are those of the inner steps, whatever the fraction."""
    config, state, batch = override(CONFIG, {"targets": targets}), used(start()), Batch(reference.draw_batch(SPEC, U, B, 0))
    none, some, whole = (UPDATE(met(x, config), state, batch, jax.random.key(1))[0] for x in (0.0, 0.3, 1.0))
    assert same((none.actor.params, none.critic.params), (state.actor.params, state.critic.params))
    for new, step in ((some, 0.3), (none, 0.0)):
        reference.close(new.actor.params, toward(state.actor.params, whole.actor.params, step))
        reference.close(new.critic.params, toward(state.critic.params, whole.critic.params, step))
        assert same((new.actor.opt_state, new.critic.opt_state), (whole.actor.opt_state, whole.critic.opt_state))
        assert same(new.alpha, whole.alpha) and not same(new.alpha.params, state.alpha.params)
        if targets == "frozen":
            reference.close(new.target, toward(state.target, new.critic.params, CONFIG.tau))
        else:
            assert same(new.target, whole.target)


def test_single_whole_steps_on_either_source_are_sac(reference):
    """K = 1: a run of updates on batches of two sources in irregular turn is SAC's run on the same batches."""
    sources = [reference.draw_batch(SPEC, 1, B, seed) for seed in (0, 1)]
    state = slow = start(ONE)
    for i, source in enumerate((0, 1, 1, 0, 1)):
        batch, key = Batch(sources[source]), jax.random.key(i)
        state, _ = UPDATE(met(1.0, ONE), state, batch, key)
        slow, _ = SAC_UPDATE(SAC, slow, batch, jax.random.split(key, 1)[0])
    reference.close(state, slow)


def test_single_steps_of_plain_gradients_descend_the_joint_loss(reference):
    """With K = 1 and gradient descent inside, the expected meta step of the critics is one of lr * eps on the mixed loss.

    The gradients on each source are the agent's own: after one step Adam's first moment is a tenth of them.
    """
    state, lr, eps, p = start(ONE), 0.05, 0.3, 0.25
    sources = [reference.draw_batch(SPEC, 1, B, seed) for seed in (0, 1)]
    sources = [t._replace(terminated=np.ones((1, B), bool)) for t in sources]  # so that targets are rewards
    theta, net = state.critic.params, moorl.networks(ONE, A)

    def meta_step(t):
        new, _ = UPDATE(ONE, state, Batch(t), jax.random.key(1))
        inner = jax.tree.map(lambda x, moment: x - lr * moment / 0.1, theta, new.critic.opt_state[0].mu)
        return optim.polyak(theta, inner, eps)

    def mixed(params):
        q = [net.critic.apply(params, t.obs[0], t.action[0])[..., 0] for t in sources]
        one, other = (((q - t.reward[0]) ** 2).mean(1).sum() for q, t in zip(q, sources, strict=True))
        return p * one + (1 - p) * other

    expected = jax.tree.map(lambda a, b: p * a + (1 - p) * b, *map(meta_step, sources))
    reference.close(expected, jax.tree.map(lambda x, g: x - lr * eps * g, theta, jax.grad(mixed)(theta)))


@pytest.mark.parametrize(("curvatures", "middle"), [((1.0, 1.0), True), ((1.0, 4.0), False)])
def test_reptile_rests_at_the_midpoint_of_two_equally_curved_tasks(curvatures, middle):
    """The expected meta step after K gradient steps on (c / 2) |x - m|^2 has its fixed point between the two optima m."""
    optima, optimizer = jnp.array([[1.0, -2.0], [5.0, 4.0]]), optax.sgd(0.1)

    def inner(x, optimum, curvature):
        task, model = lambda x: (curvature / 2 * ((x - optimum) ** 2).sum(), None), optim.model(optimizer, x)
        return jax.lax.fori_loop(0, K, lambda _, m: optim.descend(optimizer, task, m)[0], model).params

    def expected(_, x):
        return jax.vmap(lambda *task: optim.polyak(x, inner(x, *task), 0.3))(optima, jnp.array(curvatures)).mean(0)

    rest = jax.lax.fori_loop(0, 500, expected, jnp.array([10.0, 10.0]))
    np.testing.assert_allclose(expected(0, rest), rest, rtol=1e-9)
    assert np.allclose(rest, optima.mean(0), rtol=1e-6) == middle, rest


def test_critics_at_the_midpoint_are_moved_to_and_fro(reference):
    """Linear critics halfway between the optima of two sources that differ in rewards: the two meta steps are opposite."""
    one = reference.draw_batch(SPEC, U, B, 0)
    one = jax.tree.map(lambda x: np.repeat(x[:1], U, 0), one)._replace(terminated=np.ones((U, B), bool))
    other = one._replace(reward=np.cos(3 * one.reward))
    x = np.concatenate([one.obs[0], one.action[0], np.ones((B, 1))], 1)
    *kernel, bias = np.linalg.lstsq(x, (one.reward[0] + other.reward[0]) / 2)[0]
    head = {"kernel": np.stack([np.array(kernel)[:, None]] * 2), "bias": np.full((2, 1), bias)}
    state = start(LINEAR)
    state = state._replace(critic=state.critic._replace(params={"params": {"head": jax.tree.map(jnp.asarray, head)}}))
    new = [UPDATE(LINEAR, state, Batch(t), jax.random.key(1))[0].critic.params for t in (one, other)]
    there, back = (jax.tree.map(jnp.subtract, x, state.critic.params) for x in new)
    assert min(np.abs(x).max() for x in jax.tree.leaves(there)) > 1e-3
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, -b, rtol=1e-5), there, back)


def test_reset_optimisers_start_afresh_and_persistent_ones_go_on(reference):
    """Moments of the past change nothing, or something; the first update from a fresh state is the same."""
    fresh, batch = start(LINEAR), Batch(reference.draw_batch(SPEC, U, B, 0))
    update = partial(UPDATE, batch=batch, key=jax.random.key(1))
    keep = override(LINEAR, {"optimizers": "persistent"})
    assert same(update(LINEAR, used(fresh)), update(LINEAR, fresh))
    reference.close(update(keep, fresh), update(LINEAR, fresh))
    assert not np.allclose(update(keep, used(fresh))[0].alpha.params, update(keep, fresh)[0].alpha.params)
    for config, count in ((keep, 2 * K), (LINEAR, K)):
        state, _ = update(config, update(config, fresh)[0])
        assert [int(m.opt_state[0].count) for m in (state.actor, state.critic, state.alpha)] == [count] * 3


def test_check_refuses_more_batches_than_steps():
    with pytest.raises(InputError, match="inner_batches"):
        moorl.check(override(CONFIG, {"inner_batches": K + 1}), SPEC)
