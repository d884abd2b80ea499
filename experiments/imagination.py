"""What a world model makes of an episode, to look at: ``rljax play RUN --imagine``."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from rljax import evaluate
from rljax.base import Env, InputError
from rljax.envs.render import CURVES, colors
from rljax.experiments.train import Result

SEEN, LONGEST, COLUMNS = 8, 64, 16  # steps that the model sees, steps in all, frames in a strip


def strip(result: Result, index: int, key: jax.Array) -> Figure:
    """A greedy episode of the learner at ``index``, as it was, as the model reconstructs it, and as it imagines it.

    Of its first `LONGEST` steps the model sees `SEEN`, or half of them, and imagines the others from the actions.

    Raises:
        InputError: if the run's agent has no world model, or its environment runs on the host.
    """
    module, env = result.setup.agent, result.setup.evaluated
    if not hasattr(module, "foresee"):
        raise InputError(f"agent {module.__name__.rpartition('.')[2]} has no world model: --imagine is for those that have")
    if not isinstance(env, Env):
        raise InputError("--imagine needs an environment that is compiled")
    obs, action, reward = _episode(result, index, env.resize(1), key)
    num = min(SEEN, max(len(obs) // 2, 1))
    _, state = result.agent(index)
    foresee = jax.jit(partial(module.foresee, result.setup.configs[0]), static_argnums=3)
    found = jax.tree.map(np.asarray, foresee(state, obs, action, num, key))
    scale = np.sqrt(np.asarray(state.stats.var)) if obs.ndim == 4 else 1.0
    draw = _frames if obs.ndim == 4 else _curves
    return draw(np.asarray(obs) / scale, found.reconstruction, found.imagined, found, np.asarray(reward), num)


def _episode(result: Result, index: int, env: Env, key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Observations, actions and rewards [T, ...] of an episode, cut after `LONGEST` steps."""
    agent, state = result.agent(index)

    @jax.jit
    def play(state: Any, key: jax.Array) -> tuple[jax.Array, ...]:
        _, obs, steps = evaluate.rollout(agent, env, state, key)

        def act(memory: Any, obs: jax.Array) -> tuple[Any, jax.Array]:
            action, memory = agent.mode(state, memory, obs)
            return memory, action[0]

        _, action = jax.lax.scan(act, agent.memory(1), obs)
        return obs[:, 0], action, steps.reward[:, 0], (steps.terminated | steps.truncated)[:, 0]

    obs, action, reward, done = play(state, key)
    length = min(int(np.argmax(done)) + 1 if np.any(done) else len(done), LONGEST)
    return obs[:length], action[:length], reward[:length]


def _frames(obs: Any, reconstruction: Any, imagined: Any, found: Any, reward: Any, num: int) -> Figure:
    """Rows of frames above the outcomes."""
    length = len(obs)
    blank = np.ones_like(obs[:num])
    shown = np.unique(np.linspace(0, length - 1, min(length, COLUMNS)).astype(int))
    whole = np.concatenate([reconstruction[:num], imagined])
    rows = {
        "episode": colors(obs),
        "reconstruction": colors(np.clip(reconstruction, 0, 1)),
        "imagination": np.concatenate([np.ones_like(colors(blank)), colors(np.clip(imagined, 0, 1))]),
        "difference": 1 - np.abs(obs - whole).max(-1, keepdims=True).repeat(3, -1),
    }
    figure = Figure(figsize=(0.8 * len(shown) + 1.2, 5.5), layout="constrained")
    parts: Any = figure.subfigures(2, height_ratios=(3.2, 1.6))
    upper, lower = parts
    for axes, (name, images) in zip(upper.subplots(4, len(shown), squeeze=False), rows.items(), strict=True):
        axes[0].set_ylabel(name, rotation=0, ha="right", va="center")
        for one, i in zip(axes, shown, strict=True):
            one.imshow(images[i], interpolation="nearest", vmin=0, vmax=1)
            one.set(xticks=[], yticks=[], title=str(i) if name == "episode" else "")
    _outcomes(lower.subplots(1, 2), found, reward, num)
    return figure


def _curves(obs: Any, reconstruction: Any, imagined: Any, found: Any, reward: Any, num: int) -> Figure:
    """Each element of the observation over time, at most `CURVES`, above the outcomes."""
    obs, reconstruction, imagined = (x.reshape(len(x), -1) for x in (obs, reconstruction, imagined))
    elements = min(obs.shape[1], CURVES)
    figure = Figure(figsize=(10, 1.3 * elements + 2.5), layout="constrained")
    parts: Any = figure.subfigures(2, height_ratios=(1.3 * elements, 2.2))
    upper, lower = parts
    steps = np.arange(len(obs))
    for i, axes in enumerate(upper.subplots(elements, sharex=True, squeeze=False)[:, 0]):
        axes.plot(steps, obs[:, i], color="black", label="episode")
        axes.plot(steps, reconstruction[:, i], label="reconstruction", lw=1)
        axes.plot(steps[num:], imagined[:, i], label="imagination", lw=1)
        axes.set_ylabel(str(i))
        axes.axvline(num - 0.5, color="gray", lw=0.8)
        if i == 0:
            axes.legend(frameon=False, ncols=3)
    _outcomes(lower.subplots(1, 2), found, reward, num)
    return figure


def _outcomes(panels: Any, found: Any, reward: Any, num: int) -> None:
    """Rewards and ends, as they were and as they are predicted; a line divides what was seen from what was imagined."""
    steps = np.arange(len(reward))
    ended = jnp.zeros(len(reward)).at[-1].set(1.0)
    for axes, name, real, predicted in zip(
        panels, ("reward", "probability of the end"), (reward, ended), (found.reward, found.end), strict=True
    ):
        axes.plot(steps, real, color="black", label="episode" if name == "reward" else "its last step")
        axes.plot(steps, predicted, label="predicted")
        axes.axvline(num - 0.5, color="gray", lw=0.8)
        axes.set(xlabel="env steps", ylabel=name)
        axes.legend(frameon=False)
