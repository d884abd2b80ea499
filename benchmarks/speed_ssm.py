"""Speed of the Mamba-2 layer at Drama's size (width 512, 16 heads x 64, state 16), in chunks and step by step.

``python benchmarks/speed_ssm.py`` prints steps/s, sequences times their length, of a gradient with respect to parameters and
inputs: at batch 16 and length 128 for chunks of 16 to 128 and for a scan over single steps, of the whole layer and of its
recurrence alone, without the projections that both have; then of the layer at batch 4 for lengths 128 to 4096. Cases
alternate; figures are medians over rounds, without compilation.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from rljax import ssm
from rljax.experiments import bench, floor


def step_by_step(params: ssm.Params, x: jax.Array, reset: jax.Array, state: ssm.State) -> tuple[jax.Array, ssm.State]:
    """`rljax.ssm.scan` as a scan over `rljax.ssm.step`."""

    def one(state: ssm.State, now: tuple[jax.Array, jax.Array]) -> tuple[ssm.State, jax.Array]:
        y, state = ssm.step(params, *now, state)
        return state, y

    state, y = jax.lax.scan(one, state, (jnp.swapaxes(x, 0, 1), jnp.swapaxes(reset, 0, 1)))
    return jnp.swapaxes(y, 0, 1), state


def gradient(f: Callable[..., Any], batch: int, length: int) -> Callable[[], Any]:
    """A gradient through ``f``, with resets every hundred steps or so."""
    params, state = ssm.init(jax.random.key(0), 512), ssm.initial(ssm.init(jax.random.key(0), 512), batch)
    x = jax.random.normal(jax.random.key(1), (batch, length, 512))
    reset = jax.random.uniform(jax.random.key(2), (batch, length)) < 0.01
    run = jax.jit(jax.grad(lambda params, x: jnp.square(f(params, x, reset, state)[0]).sum(), (0, 1)))
    return lambda: run(params, x)


def recurrence(chunk: int | None) -> Callable[[], Any]:
    """A gradient through the recurrence alone, at batch 16 and length 128: in chunks, or, for None, step by step."""
    params, keys = ssm.init(jax.random.key(0), 512), jax.random.split(jax.random.key(1), 4)
    shapes = (16, 128, 16, 64), (16, 128, 16), (16, 128, 16), (16, 128, 16)
    u, b, c, dt = (jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True))
    signals, h = ssm.Signals(u, b, c, jax.nn.softplus(dt)), ssm.initial(params, 16).h

    def loss(signals: ssm.Signals) -> jax.Array:
        if chunk is not None:
            return jnp.square(ssm.chunked(params, signals, jnp.zeros((16, 128), jnp.int32), h, chunk)[0]).sum()

        def one(h: jax.Array, now: ssm.Signals) -> tuple[jax.Array, jax.Array]:
            y, h = ssm.recurrent(params, now, h)
            return h, y

        in_time = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), signals)
        return jnp.square(jax.lax.scan(one, h, in_time)[1]).sum()

    run = jax.jit(jax.grad(loss))
    return lambda: run(signals)


def repeated(f: Callable[[], Any]) -> Callable[[int], None]:
    """``f`` so many times."""

    def run(num: int) -> None:
        for _ in range(num):
            jax.block_until_ready(f())

    return run


def main() -> None:
    """All cases."""
    cases: dict[str, tuple[Callable[[], Any], int]] = {}
    for chunk in (16, 32, 64, 128):
        cases[f"chunks of {chunk}"] = gradient(partial(ssm.scan, chunk=chunk), 16, 128), 16 * 128
    cases["step by step"] = gradient(step_by_step, 16, 128), 16 * 128
    for width in (8, 16, 32, 64):
        cases[f"recurrence in chunks of {width}"] = recurrence(width), 16 * 128
    cases["recurrence step by step"] = recurrence(None), 16 * 128
    for length in (128, 256, 512, 1024, 2048, 4096):
        cases[f"length {length}"] = gradient(ssm.scan, 4, length), 4 * length
    runs = {name: repeated(f) for name, (f, _) in cases.items()}
    took = bench.in_turns({"256^3": bench.products(bench.REFERENCE, 1).run, **runs}, rounds=7, seconds=0.2)
    print(json.dumps({"GFLOP/s": round(floor.flops(bench.REFERENCE) / took["256^3"] / 1e9, 1)}))
    for name, (_, steps) in cases.items():
        print(json.dumps({"case": name, "steps/s": round(steps / took[name], 1)}))


if __name__ == "__main__":
    main()
