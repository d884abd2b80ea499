"""Each kind of drawing is a file of its kind, with the episode in it."""

from __future__ import annotations

import io

import jax
import numpy as np
import pytest
from PIL import Image

from rljax import envs
from rljax.base import random_action
from rljax.envs.render import FRAMES, render


def episode(name, length):
    """``(env, states, obs, reward)`` of ``length`` random steps of one copy."""
    env = envs.make(name)

    def body(carry, key):
        state, obs = carry
        key_action, key_step = jax.random.split(key)
        new, step = env.step(state, random_action(env.spec.action, key_action, 1), key_step)
        return (new, step.obs), (state, obs, step.reward)

    key = jax.random.key(0)
    out = jax.jit(lambda key: jax.lax.scan(body, env.reset(key), jax.random.split(key, length))[1])(key)
    return env, *jax.tree.map(lambda x: np.asarray(x[:, 0]), out)


@pytest.mark.parametrize(
    ("name", "length", "frames"),
    [
        ("pendulum", 30, 30),
        ("pendulum?horizon=500", 500, FRAMES),
        ("maze/umaze", 40, 40),
        ("gymnax/CartPole-v1", 12, 12),
        ("gymnax/Breakout-MinAtar", 9, 9),
    ],
)
def test_animation_has_a_frame_per_step(name, length, frames):
    """Thinned out beyond the limit; pictures differ as the state does."""
    suffix, contents = render(*episode(name, length))
    image = Image.open(io.BytesIO(contents))
    assert (suffix, image.format, image.n_frames) == (".gif", "GIF", frames)
    first = np.asarray(image.convert("RGB"))
    image.seek(frames - 1)
    assert np.any(first != np.asarray(image.convert("RGB")))


def test_other_envs_are_plotted():
    suffix, contents = render(*episode("gymnax/Reacher-misc", 20))
    assert suffix == ".png" and Image.open(io.BytesIO(contents)).format == "PNG"


def test_brax_is_a_page_with_its_scene():
    suffix, contents = render(*episode("brax/inverted_pendulum", 5))
    assert suffix == ".html" and b"<html>" in contents.lower() and b"inverted" not in contents[:20]
