"""TD3+BC's update against a slow numpy reference."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from rljax.agents import td3_bc
from rljax.base import Array, Batch, Spec
from rljax.config import override

A, B = 2, 24
SPEC = Spec(Array((3,)), Array((A,), "float32", -1.0, 1.0), 50)
CONFIG = td3_bc.Config(
    actor_lr=3e-3,
    critic_lr=1e-2,
    discount=0.8,
    tau=0.1,
    alpha=1.5,
    target_noise=0.4,
    actor_width=6,
    critic_width=6,
    batch_size=B,
)


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def reference_update(np_, c, actor, critic, target_actor, target, t, key):
    """Algorithm 1 of TD3 with equation 5 of arXiv:2106.06860."""
    num = len(t.reward)
    metrics = {"critic/loss": [], "critic/q": []}
    for u, k in enumerate(jax.random.split(key, num)):
        noise = np.clip(c.target_noise * np.asarray(jax.random.normal(k, (B, A), np.float64)), -c.noise_clip, c.noise_clip)
        action = np.clip(np.tanh(np_.mlp(target_actor, t.next_obs[u])) + noise, -1, 1)
        value = np.minimum(*(q[:, 0] for q in np_.critics(target, t.next_obs[u], action)))
        goal = np.where(t.terminated[u], t.reward[u], t.reward[u] + c.discount * value)

        def loss(params, u=u, goal=goal):
            return sum(((q[:, 0] - goal) ** 2).mean() for q in np_.critics(params, t.obs[u], t.action[u]))

        metrics["critic/loss"].append(loss(critic.params))
        metrics["critic/q"].append(np.mean(np_.critics(critic.params, t.obs[u], t.action[u])))
        critic = np_.adam(critic, c.critic_lr, loss)
    obs, recorded = t.obs[-1], t.action[-1]
    scale = c.alpha / np.abs(np_.critics(critic.params, obs, np.tanh(np_.mlp(actor.params, obs)))[0]).mean()

    def cloning(params):
        return ((np.tanh(np_.mlp(params, obs)) - recorded) ** 2).mean()

    def actor_loss(params):
        return cloning(params) - scale * np_.critics(critic.params, obs, np.tanh(np_.mlp(params, obs)))[0].mean()

    metrics |= {"actor/loss": actor_loss(actor.params), "actor/cloning": cloning(actor.params)}
    actor = np_.adam(actor, c.actor_lr, actor_loss)
    move = lambda old, new: old + c.tau * (new - old)  # noqa: E731
    target_actor = jax.tree.map(move, target_actor, actor.params)
    target = jax.tree.map(move, target, critic.params)
    return actor, critic, target_actor, target, {name: np.mean(x) for name, x in metrics.items()}


@pytest.mark.parametrize("delay", [1, 2])
def test_two_updates_equal_the_numpy_reference(delay, reference):
    """Metrics, parameters, both targets and Adam's moments after one update and after two, in float64."""
    config = override(CONFIG, {"policy_delay": delay})
    state = jax.jit(td3_bc.init, static_argnums=1)(config, SPEC, jax.random.key(0))
    moved = jax.tree.map(lambda x: 0.7 * x + 0.05, (state.target_actor, state.target))
    state = state._replace(target_actor=moved[0], target=moved[1])
    slow = reference.learner(state.actor.params), reference.learner(state.critic.params), *jax.tree.map(np.asarray, moved)
    for i in range(2):
        t, key = reference.draw_batch(SPEC, delay, B, i), jax.random.key(10 + i)
        state, metrics = jax.jit(td3_bc.update)(config, state, Batch(t), key)
        *slow, expected = reference_update(reference, config, *slow, t, key)
        assert metrics.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(metrics[name], value, rtol=1e-9, err_msg=f"{name}, update {i}")
        reference.follows(state.actor, slow[0])
        reference.follows(state.critic, slow[1])
        reference.close((state.target_actor, state.target), tuple(slow[2:]))


def test_alpha_zero_is_behaviour_cloning(reference):
    """The actor's first step then depends on no reward."""
    config = override(CONFIG, {"alpha": 0.0})
    state = jax.jit(td3_bc.init, static_argnums=1)(config, SPEC, jax.random.key(0))
    t = reference.draw_batch(SPEC, 2, B, 0)
    actors = [
        jax.jit(td3_bc.update)(config, state, Batch(t._replace(reward=scale * t.reward)), jax.random.key(1))[0].actor.params
        for scale in (1, -5)
    ]
    reference.close(*actors)
