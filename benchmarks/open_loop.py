"""What a world model of size xs predicts of MinAtar's Breakout, 15 steps ahead: ``python benchmarks/open_loop.py OUT``.

A model learns from 50 000 steps of the random policy, with the preset; so does one whose actions were shuffled. On other
episodes each sees five steps, and then only the actions. OUT (.jsonl) gets, for each seed, model and number of steps ahead, the
squared error of the frame summed over pixels, and the area under the ROC curve of the predicted reward for "a reward came",
beside the error of the last frame seen. Windows end with their episode.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import mannwhitneyu

from rljax import envs, loops, optim, replay
from rljax import world_model as wm
from rljax.agents import drama
from rljax.base import Env, Transition
from rljax.experiments import presets
from rljax.world_model.imagination import reset

NAME = "gymnax/Breakout-MinAtar"
CONFIG = presets.find("drama", NAME).config
STEPS, UPDATES, SEEN, AHEAD, WINDOWS, NUM_ENVS = 50_000, 5_000, 5, 15, 4_000, 10


def play(env: Env, key: jax.Array, steps: int) -> Transition:
    """Transitions of the random policy, as a ring of `rljax.replay`."""
    agent = drama.make(env.spec, CONFIG)
    loop = loops.sequences_warm_up(agent, env, 0, steps)
    state = jax.jit(loop.init)(key)
    num = steps // env.num_envs
    state, _ = jax.jit(lambda state: jax.lax.scan(lambda s, t: (loop.step(s, t, ())[0], None), state, jnp.arange(num)))(state)
    ring: Transition = state.ring
    return ring


def train(net: wm.Networks, num: int, ring: Transition, params: wm.Params, key: jax.Array) -> wm.Params:
    """The model after UPDATES steps on sequences of ``ring``."""
    optimizer = optim.laprop(CONFIG.model_lr, CONFIG.rise, CONFIG.model_norm)
    scores = jnp.zeros(ring.reward.shape)

    def update(model: optim.Model, key: jax.Array) -> tuple[optim.Model, jax.Array]:
        key_draw, key_loss = jax.random.split(key)
        slots = jnp.int32(scores.size // NUM_ENVS)
        first = replay.starts(scores, slots, CONFIG.length, key_draw, CONFIG.batch_size, NUM_ENVS)
        t = replay.window(ring, first, CONFIG.length, NUM_ENVS)
        first = reset(t.terminated | t.truncated)
        t = t._replace(obs=t.obs.astype(float), action=wm.encode_action(t.action, num))
        loss = partial(wm.loss, CONFIG, net, batch=t, first=first, key=key_loss)
        model, metrics = optim.descend(optimizer, lambda params: loss(params), model)
        return model, metrics["model/loss"]

    run = jax.jit(lambda model, key: jax.lax.scan(update, model, jax.random.split(key, UPDATES)))
    model, _ = run(optim.model(optimizer, params), key)
    return model.params


def predict(net: wm.Networks, num: int, params: wm.Params, t: Transition, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``(frames, rewards)`` [B, AHEAD, ...] by the model that saw SEEN steps of windows [B, SEEN + AHEAD]."""
    found = wm.foresee(net, params, t.obs.astype(float), wm.encode_action(t.action, num), SEEN, key)
    return found.imagined, found.reward[:, SEEN:]


def windows(ring: Transition, key: jax.Array) -> tuple[Transition, np.ndarray]:
    """``(t, there)``: windows that begin anywhere, and which of their last AHEAD steps [B, AHEAD] belong to one episode."""
    scores = jnp.zeros(ring.reward.shape)
    first = replay.starts(scores, jnp.int32(scores.size // NUM_ENVS), SEEN + AHEAD, key, WINDOWS, NUM_ENVS)
    t = replay.window(ring, first, SEEN + AHEAD, NUM_ENVS)
    done = np.asarray(t.terminated | t.truncated)
    return t, np.cumsum(done, 1)[:, SEEN - 1 : -1] == 0


def rows(name: str, frames: Any, rewards: Any, t: Transition, there: np.ndarray) -> list[dict[str, Any]]:
    """Scores at each step ahead, and of all together."""
    error = np.square(np.asarray(frames, np.float64) - np.asarray(t.obs[:, SEEN:], np.float64)).sum((2, 3, 4))
    came = np.asarray(t.reward[:, SEEN:]) > 0
    found = []
    for ahead in (*range(AHEAD), None):
        at = there.copy()
        if ahead is not None:
            at[:, np.arange(AHEAD) != ahead] = False
        yes, no = np.asarray(rewards)[at & came], np.asarray(rewards)[at & ~came]
        auc = float(mannwhitneyu(yes, no).statistic) / (len(yes) * len(no)) if len(yes) and len(no) else None
        counted = {"ahead": "all" if ahead is None else ahead + 1, "windows": int(at.sum()), "rewards": len(yes)}
        found.append({"model": name, **counted, "error": float(error[at].mean()), "auc": auc})
    return found


def main() -> None:
    """Five seeds."""
    out = Path(sys.argv[1])
    env = envs.make(NAME, NUM_ENVS)
    assert isinstance(env, Env)
    num = wm.action_size(env.spec.action)
    shape = env.spec.obs.shape
    for seed in range(5):
        keys = jax.random.split(jax.random.key(seed), 7)
        learned, tested = play(env, keys[0], STEPS), play(env, keys[1], STEPS)
        net = wm.Networks(CONFIG.size, shape, centre=wm.flat(learned.obs.astype(float), shape).mean(0))
        shuffled = jax.random.permutation(keys[2], learned.action.reshape(-1)).reshape(learned.action.shape)
        t, there = windows(tested, keys[3])
        last = jnp.broadcast_to(t.obs[:, SEEN - 1 : SEEN], t.obs[:, SEEN:].shape)
        found = rows("last frame", last, jnp.zeros(there.shape), t, there)
        for name, ring in (("model", learned), ("shuffled actions", learned._replace(action=shuffled))):
            params = train(net, num, ring, jax.jit(partial(wm.init, CONFIG.size, env.spec))(keys[4]), keys[5])
            found += rows(name, *jax.jit(partial(predict, net, num))(params, t, keys[6]), t, there)
        with out.open("a") as file:
            file.writelines(json.dumps({"seed": seed} | row) + "\n" for row in found)
        print(seed, {row["model"]: (row["error"], row["auc"]) for row in found if row["ahead"] == "all"}, flush=True)


if __name__ == "__main__":
    main()
