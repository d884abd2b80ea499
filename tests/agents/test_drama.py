"""Drama: returns, imagination that begins where acting is, each of the official code's ways, and what it learns."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import world_model as wm
from rljax.agents import drama
from rljax.base import Array, Discrete, InputError, Spec, Transition
from rljax.config import override
from rljax.world_model import behaviour, imagination

TINY = wm.Size(2, 3, 16, 4, 5, 16, 1, 8, 1, 8, 1, 8)
SPEC = Spec(Array((3,)), Discrete(4), 20)
CONFIG = drama.Config(size=TINY, batch_size=4, length=6, starts=5, context=4, ahead=3)


def state_of(config, spec=SPEC):
    """A state in which no parameter is zero or one."""
    state = jax.jit(partial(drama.init, config, spec))(jax.random.key(0))
    learned = state.behaviour
    leaves, tree = jax.tree.flatten((state.model.params, learned.actor.params, learned.critic.params))
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    model, actor, critic = jax.tree.unflatten(tree, moved)
    learned = learned._replace(actor=learned.actor._replace(params=actor), critic=learned.critic._replace(params=critic))
    return state._replace(model=state.model._replace(params=model), behaviour=learned)


def rows(num, length, end=None):
    """Transitions [num, length, ...] of one episode each, that ends with step ``end``."""
    keys = jax.random.split(jax.random.key(2), 3)
    flags = jnp.zeros((num, length), bool)
    return Transition(
        jax.random.normal(keys[0], (num, length, 3)),
        jax.random.randint(keys[1], (num, length), 0, 4),
        jax.random.normal(keys[2], (num, length)),
        (),
        flags if end is None else flags.at[:, end].set(True),
        flags,
    )


def test_lambda_returns_against_a_loop():
    """R_t = r_t + discount (1 - end_t) ((1 - lambda) V_t+1 + lambda R_t+1); the official one takes V_t but at the last step."""
    rng = np.random.default_rng(0)
    reward, ended, value = rng.normal(size=(6, 4)), rng.random((6, 4)) < 0.2, rng.normal(size=(7, 4))
    for function, shift in ((imagination.standard, 1), (imagination.official, 0)):
        later, expected = value[-1], []
        for t in reversed(range(6)):
            ahead = value[-1] if t == 5 else value[t + shift]
            later = reward[t] + 0.9 * np.where(ended[t], 0, 0.3 * ahead + 0.7 * later)
            expected.append(later)
        found = jax.jit(function)(*(jnp.asarray(x) for x in (reward, ended, value)), 0.9, 0.7)
        np.testing.assert_allclose(found, expected[::-1], rtol=1e-5, atol=1e-6)


def test_the_encoder_reads_observations_less_their_mean():
    """The mean is that of all sequences learned from, and of nothing else."""
    state, t = state_of(CONFIG), rows(4, 6)
    other = t._replace(obs=t.obs + 3)
    learn = jax.jit(lambda s, t: drama.learn_model(CONFIG, drama._bound(CONFIG, s, (3,)), s, t, jax.random.key(0))[0])
    after = learn(learn(state, t), other)
    seen = np.concatenate([np.asarray(x.obs).reshape(-1, 3) for x in (t, other)])
    mean = (np.sign(seen) * np.log1p(np.abs(seen))).mean(0)
    np.testing.assert_allclose(after.centre.mean, mean, rtol=1e-5, atol=1e-6)
    bound = drama._bound(CONFIG, after, (3,)).model
    logits = bound.apply(after.model.params.networks, t.obs[0], method="encode")
    plain = wm.Networks(TINY, (3,)).apply(after.model.params.networks, t.obs[0], method="encode")
    assert not np.allclose(logits, plain)
    images = jax.random.uniform(jax.random.key(1), (5, 10, 10, 2))
    net = wm.Networks(TINY, (10, 10, 2))
    params = net.init(jax.random.key(2), images, jnp.zeros((5, 4)))
    shifted = net.clone(centre=jnp.full(200, 0.25)).apply(params, images + 0.25, method="encode")
    np.testing.assert_allclose(shifted, net.apply(params, images, method="encode"), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("end", [None, 1, 2], ids=["one episode", "an end within", "an end before the last"])
def test_imagination_begins_where_acting_is(end):
    """The first h of a dream is the memory of an agent that has acted through the same context, and forgot at its end."""
    # latents that leave nothing to chance: then acting and seeing give the same
    state, t = state_of(CONFIG), rows(5, 4, end)
    sharp = jax.tree.map(lambda x: 1e4 * x, state.model.params.networks["params"]["posterior"])
    networks = {"params": state.model.params.networks["params"] | {"posterior": sharp}}
    config = override(CONFIG, {"unimix": 0.0})
    state = state._replace(model=state.model._replace(params=state.model.params._replace(networks=networks)))
    net = drama._bound(config, state, (3,))
    memory = wm.begin(TINY, 5)
    step = jax.jit(lambda z, a, memory: wm.step(net.model, state.model.params, z, wm.encode_action(a, 4), memory))
    encode = jax.jit(lambda x: wm.most_probable(net.model.apply(networks, x, method="encode")))
    for i in range(3):
        memory = step(encode(t.obs[:, i]), t.action[:, i], memory)
        if i == end:
            memory = wm.begin(TINY, 5)
    found = jax.jit(partial(drama.imagine, config, net))(state, t, jax.random.key(3))
    np.testing.assert_allclose(found.features[0], np.concatenate([encode(t.obs[:, 3]), memory.h], 1), rtol=1e-4, atol=1e-5)
    assert (end == 2) == (not np.asarray(memory.h).any())


def test_acting_sees_before_it_acts():
    """`act` encodes the observation it is given; with ``latent`` prior, as in the official code, that comes a step late."""
    state, obs = state_of(CONFIG), rows(64, 2).obs

    def features(latent):
        config = override(CONFIG, {"latent": latent})
        net = drama._bound(config, state, (3,)).model
        log_prob = jax.jit(lambda obs: config.latent(net, state.model.params, wm.begin(TINY, 64), obs, 0.01))
        return np.asarray(log_prob(obs[:, 0]) - log_prob(obs[:, 1]))

    assert features("posterior").any() and not features("prior").any()


def test_rewards_belong_to_the_actions_before_them():
    """Of H + 1 states' rewards an action has that of the one it leads to; with ``credit`` arrival, that of its own."""
    state, t = state_of(CONFIG), rows(5, 4)
    net = drama._bound(CONFIG, state, (3,))
    found = jax.jit(partial(drama.imagine, CONFIG, net))(state, t, jax.random.key(3))
    h = found.features[..., TINY.latent :]
    reward, ended = wm.outcome(net.model, state.model.params, h)
    np.testing.assert_allclose(found.reward, reward, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found.ended, ended)
    assert (found.features.shape, found.action.shape) == ((4, 5, TINY.latent + TINY.width), (3, 5))
    np.testing.assert_array_equal(imagination.own(found.reward), found.reward[1:])
    np.testing.assert_array_equal(imagination.arrival(found.reward), found.reward[:-1])


def test_boundaries():
    """A step begins an episode if the one before ended one; the official code resets nothing within a window."""
    done = jnp.array([[False, True, False, True]])
    np.testing.assert_array_equal(imagination.reset(done), [[True, False, True, False]])
    np.testing.assert_array_equal(imagination.cross(done), [[True, False, False, False]])


def test_nothing_is_learned_after_an_imagined_end():
    """Steps after the first end of a dream change neither gradient nor metric of the critic."""
    state, num = state_of(CONFIG), TINY.latent + TINY.width
    keys = jax.random.split(jax.random.key(0), 3)
    found = wm.Dream(
        jax.random.normal(keys[0], (4, 5, num)),
        jax.random.randint(keys[1], (3, 5), 0, 4),
        jax.random.normal(keys[2], (4, 5)),
        jnp.zeros((4, 5), bool).at[2].set(True),  # the second of three actions leads to the end
    )
    still = override(CONFIG, {"scale_decay": 0.999})
    net = drama._bound(still, state, (3,)).heads
    step = jax.jit(partial(behaviour.learn, still, net, optimizer=drama._optimizers(still)[1]))
    begin = state.behaviour._replace(features=state.behaviour.features._replace(count=jnp.array(1e12)))  # that do not move
    changed = found._replace(action=(found.action + found.ended[:-1]) % 4, reward=found.reward.at[3].add(100.0))
    a, b = step(begin, dream=found), step(begin, dream=changed)
    for name in ("actor", "critic"):
        jax.tree.map(np.testing.assert_array_equal, getattr(a[0], name).params, getattr(b[0], name).params)
    assert a[1]["critic/loss"] == b[1]["critic/loss"] and a[1]["actor/loss"] == b[1]["actor/loss"]
    other = step(begin, dream=found._replace(reward=found.reward.at[1].add(100.0)))
    assert other[1]["critic/loss"] != a[1]["critic/loss"]
    earlier = step(begin, dream=found._replace(reward=found.reward.at[0].add(100.0)))  # of the step before the dream
    assert earlier[1]["critic/loss"] == a[1]["critic/loss"]


@pytest.mark.parametrize("continuous", [False, True], ids=["discrete", "continuous"])
def test_it_learns_what_a_feature_says(continuous):
    """Among random features one tells what to do, in dreams whose rewards are of the action alone."""
    config = drama.Config(lr=1e-3, rise=100.0, discount=0.5)
    size = override(wm.XS, {"groups": 4, "classes": 4, "width": 16, "actor_width": 32, "critic_width": 32})
    net = behaviour.heads(size, 1 if continuous else 3, continuous)
    optimizer = drama._optimizers(config)[1]
    wanted = jnp.array([-0.6, 0.6]) if continuous else jnp.array([0, 2])

    def update(state, key):
        keys = jax.random.split(key, 3)
        which = jax.random.randint(keys[0], (4, 64), 0, 2)
        features = jax.random.normal(keys[1], (4, 64, size.latent + size.width)).at[..., 0].set(2 * which - 1)
        action = net.policy.sample(behaviour.actions(net, state.actor.params, state.features, features[:-1]), keys[2])
        best = wanted[which[:-1]]
        reward = -3 * (jnp.square(action[..., 0] - best) if continuous else (action != best))
        dream = wm.Dream(features, action, jnp.concatenate([jnp.zeros((1, 64)), reward]), jnp.zeros((4, 64), bool))
        return behaviour.learn(config, net, state, optimizer, dream)[0], reward.mean()

    begin = behaviour.init(size, net, optimizer, jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), 600)
    reward = np.asarray(jax.jit(lambda begin: jax.lax.scan(update, begin, keys))(begin)[1])
    assert reward[:10].mean() < -1 and reward[-100:].mean() > -0.2, (reward[:10].mean(), reward[-100:].mean())


def test_continuous_actions_are_first_tried_widely():
    """Deviations are 1 at first, and within 0.1 and 1.65 whatever the actor has learned; means are 0 at first."""
    actor = behaviour.heads(wm.XS, 2, continuous=True).actor
    features = jax.random.normal(jax.random.key(0), (64, 5))
    params = actor.init(jax.random.key(1), features)
    mean, log_std = actor.apply(params, features)
    np.testing.assert_allclose(mean, 0, atol=0.05)
    np.testing.assert_allclose(np.exp(log_std), 1, atol=0.05)
    _, far = actor.apply(jax.tree.map(lambda x: 1e4 * x, params), features)
    assert 0.09 < np.exp(far).min() < 0.11 and 1.5 < np.exp(far).max() < 2


OFFICIAL = {"returns": "official", "credit": "arrival", "latent": "prior", "boundaries": "cross"}


@pytest.mark.parametrize("change", [OFFICIAL, {"precision": "bfloat16", "context": 1}], ids=["official", "half precision"])
def test_variants_update(change):
    """The official code's ways; half precision, and imagination from single observations; actions are vectors."""
    config = override(CONFIG, change)
    spec = Spec(SPEC.obs, Array((2,), "float32", -1, 1), 20)
    t, state = rows(4, 6, 2), state_of(config, spec)
    t = t._replace(action=jnp.stack([jnp.sin(t.obs[..., 0]), jnp.cos(t.obs[..., 1])], -1))
    batch = drama.Batch(t, jax.tree.map(lambda x: x[:, : config.context], t))
    new, metrics = jax.jit(partial(drama.update, config))(state, batch, jax.random.key(0))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((new, metrics)))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), new) == jax.tree.map(lambda x: (x.shape, x.dtype), state)


def test_bad_input():
    """A number out of its range, also of the size's, in one sentence."""
    with pytest.raises(InputError, match="config.size.classes"):
        drama.check(override(drama.Config(), {"size.classes": 1}), SPEC)
    with pytest.raises(InputError, match="config.discount"):
        drama.check(override(drama.Config(), {"discount": 1.0}), SPEC)
