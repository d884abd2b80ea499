"""The Mamba-2 layer's recurrence, in chunks against step by step: ``python speed_ssm.py`` (in benchmarks/).

Prints milliseconds of a forward pass and of a gradient, at batch 16, 16 heads x 64 and state 16, for chunk lengths and for
sequence lengths; medians of alternating runs without compilation, beside the rate of a matrix product in the same run.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from speed import gemm_rate

from rljax import ssm


def step_by_step(params: ssm.Params, x: jax.Array, reset: jax.Array, state: ssm.State) -> tuple[jax.Array, ssm.State]:
    """`rljax.ssm.scan` as a scan over `rljax.ssm.step`."""

    def one(state: ssm.State, now: tuple[jax.Array, jax.Array]) -> tuple[ssm.State, jax.Array]:
        y, state = ssm.step(params, *now, state)
        return state, y

    state, y = jax.lax.scan(one, state, (jnp.swapaxes(x, 0, 1), jnp.swapaxes(reset, 0, 1)))
    return jnp.swapaxes(y, 0, 1), state


def measured(functions: dict[str, Callable[..., Any]], args: tuple, rounds: int) -> dict[str, float]:
    """Median milliseconds of each function, called in turn."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for f in functions.values():
        jax.block_until_ready(f(*args))
    for _ in range(rounds):
        for name, f in functions.items():
            begin = time.perf_counter()
            jax.block_until_ready(f(*args))
            times[name].append(1e3 * (time.perf_counter() - begin))
    return {name: statistics.median(x) for name, x in times.items()}


def problem(length: int, batch: int) -> tuple:
    """Parameters of width 512, inputs, resets every hundred steps or so, and a first state."""
    params = ssm.init(jax.random.key(0), 512)
    x = jax.random.normal(jax.random.key(1), (batch, length, 512))
    reset = jax.random.uniform(jax.random.key(2), (batch, length)) < 0.01
    return params, x, reset, ssm.initial(params, batch)


def compiled(f: Callable[..., Any]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """``f`` and its gradient with respect to parameters and inputs."""
    loss = jax.grad(lambda params, x, *rest: jnp.square(f(params, x, *rest)[0]).sum(), (0, 1))
    return jax.jit(f), jax.jit(loss)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    print(f"GEMM {gemm_rate():.0f} GFLOP/s")
    kinds = {f"chunks of {n}": lambda *args, n=n: ssm.scan(*args, chunk=n) for n in (16, 32, 64, 128)}
    kinds["step by step"] = step_by_step
    both = {name: compiled(f) for name, f in kinds.items()}
    print("length 128, batch 16           forward ms  gradient ms")
    forward, gradient = (measured({k: f[i] for k, f in both.items()}, problem(128, 16), rounds) for i in (0, 1))
    for name in kinds:
        print(f"{name:30} {forward[name]:10.1f} {gradient[name]:12.1f}")
    print("length, batch 4, chunks of 32  forward ms  gradient ms")
    for length in (128, 256, 512, 1024, 2048, 4096):
        times = measured(dict(zip(("forward", "gradient"), compiled(ssm.scan), strict=True)), problem(length, 4), rounds)
        print(f"{length:<30} {times['forward']:10.1f} {times['gradient']:12.1f}")


if __name__ == "__main__":
    main()
