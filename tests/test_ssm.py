"""The Mamba-2 layer: `scan`, `step` and a sequential reference in float64 agree, with resets anywhere."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import ssm

WIDTH, SIZES = 12, {"expand": 2, "head": 8, "state": 5}


def silu(x):
    return x / (1 + np.exp(-x))


def reference(params, x, reset, state):
    """One step after another, one sequence after another, in float64; `(y, tail, h)`."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    (B, T, _), K, inner, H = x.shape, len(p.bias), len(p.norm), len(p.dt)
    N = (K - inner) // 2
    tail, h = (np.array(s, np.float64) for s in state)
    y = np.zeros((B, T, p.out.shape[1]))
    for b in range(B):
        for t in range(T):
            if reset[b, t]:
                tail[b], h[b] = 0, 0
            z, before, dt = np.split(np.asarray(x[b, t], np.float64) @ p.into, [inner, inner + K])
            window = np.concatenate([tail[b], before[None]])
            tail[b] = window[1:]
            mixed = silu((window * p.conv).sum(0) + p.bias)
            u, c_in, c_out = mixed[:inner].reshape(H, -1), mixed[inner : inner + N], mixed[inner + N :]
            dt = np.logaddexp(0, dt + p.dt)
            out = []
            for i in range(H):
                h[b, i] = np.exp(-dt[i] * np.exp(p.log_a[i])) * h[b, i] + dt[i] * np.outer(u[i], c_in)
                out.append(h[b, i] @ c_out + p.skip[i] * u[i])
            gated = np.concatenate(out) * silu(z)
            y[b, t] = gated / np.sqrt((gated**2).mean() + 1e-5) * p.norm @ p.out
    return y, tail, h


def problem(length, seed=0, batch=3, resets=0.1, dtype=jnp.float32):
    """Parameters, inputs, resets and a state that is not zero."""
    keys = jax.random.split(jax.random.key(seed), 5)
    params = ssm.init(keys[0], WIDTH, **SIZES)
    params = params._replace(bias=0.1 * jnp.arange(params.bias.shape[0]) / 10, norm=params.norm + 0.1, skip=params.skip * 0.7)
    state = ssm.initial(params, batch)
    state = ssm.State(*(jax.random.normal(k, s.shape) for k, s in zip(keys[1:3], state, strict=True)))
    x = jax.random.normal(keys[3], (batch, length, WIDTH)).astype(dtype)
    return params, x, jax.random.uniform(keys[4], (batch, length)) < resets, state


def stepped(params, x, reset, state):
    """`step` over time."""

    def one(state, x):
        y, state = ssm.step(params, *x, state)
        return state, y

    state, y = jax.lax.scan(one, state, (jnp.swapaxes(x, 0, 1), jnp.swapaxes(reset, 0, 1)))
    return jnp.swapaxes(y, 0, 1), state


def close(got, wanted, tolerance):
    """Within ``tolerance`` of the largest number."""
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        b = np.asarray(b, np.float64)
        assert np.abs(np.asarray(a, np.float64) - b).max() <= tolerance * max(np.abs(b).max(), 1e-6)


@pytest.mark.parametrize("chunk", [1, 8, 32])
@pytest.mark.parametrize("length", [1, 2, 7, 31, 32, 33, 64, 100])
def test_scan_step_and_the_sequential_reference_agree(length, chunk):
    params, x, reset, state = problem(length, seed=length)
    y, tail, h = reference(params, x, np.asarray(reset), state)
    close(jax.jit(partial(ssm.scan, chunk=chunk))(params, x, reset, state), (y, ssm.State(tail, h)), 1e-4)
    if chunk == 8:
        close(jax.jit(stepped)(params, x, reset, state), (y, ssm.State(tail, h)), 1e-4)


@pytest.mark.parametrize("length", [1, 31, 70])
def test_another_implementation_agrees(length):
    """The mixer of mamba2-jax, which knows no resets, with the same parameters and from the same state; gradients, too."""
    from flax import nnx
    from mamba2_jax.modeling import Mamba2Config, Mamba2Mixer

    params, x, _, state = problem(length)
    config = Mamba2Config(hidden_size=WIDTH, state_size=SIZES["state"], head_dim=SIZES["head"], chunk_size=16)
    graph, weights = nnx.split(Mamba2Mixer(config, 0, rngs=nnx.Rngs(0)))

    def theirs(params, x):
        given = {
            ("in_proj", "kernel"): params.into,
            ("conv1d", "conv", "kernel"): params.conv[:, None],
            ("conv1d", "conv", "bias"): params.bias,
            ("dt_bias",): params.dt,
            ("A_log",): params.log_a,
            ("D",): params.skip,
            ("norm", "weight"): params.norm,
            ("out_proj", "kernel"): params.out,
        }
        flat = nnx.to_flat_state(weights)
        assert {path for path, _ in flat} == set(given)
        filled = nnx.from_flat_state([(path, leaf.replace(given[path])) for path, leaf in flat])
        y, tail, h = nnx.merge(graph, filled)(x, jnp.swapaxes(state.tail, 1, 2), state.h)
        return y, (jnp.swapaxes(tail, 1, 2), h)

    def ours(params, x):
        return ssm.scan(params, x, jnp.zeros(x.shape[:2], bool), state)

    results = []
    for f in (ours, theirs):
        found = jax.jit(f)(params, x)
        gradients = jax.jit(jax.grad(lambda p, x, f=f: jnp.square(f(p, x)[0]).sum(), (0, 1)))(params, x)
        results.append(jax.tree.leaves((found, gradients)))
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max())


def test_long_sequences_agree():
    """1024 steps, with one reset in a hundred and with none."""
    for resets in (0.01, 0.0):
        args = problem(1024, batch=1, resets=resets)
        y, tail, h = reference(args[0], args[1], np.asarray(args[2]), args[3])
        close(jax.jit(ssm.scan)(*args), (y, ssm.State(tail, h)), 1e-4)


@pytest.mark.parametrize("where", [[0], [1], [0, 1], [7], [8], [9], [15], [6, 7, 8, 9], list(range(16))])
def test_resets_at_the_edges_of_chunks(where):
    """With chunks of 8: at their first and last steps, next to each other, and everywhere."""
    params, x, _, state = problem(16, batch=1)
    reset = jnp.zeros((1, 16), bool).at[0, jnp.array(where)].set(True)
    y, tail, h = reference(params, x, np.asarray(reset), state)
    close(jax.jit(partial(ssm.scan, chunk=8))(params, x, reset, state), (y, ssm.State(tail, h)), 1e-4)


def test_a_reset_cuts_off_all_that_was_before():
    """Neither inputs nor the state before a reset change anything after it, but for rounding, and gradients tell the same."""
    params, x, _, state = problem(40, batch=2)
    reset = jnp.zeros((2, 40), bool).at[:, 21].set(True)
    other = x.at[:, :21].add(5.0)
    run = jax.jit(ssm.scan)
    (y, after), (z, same) = run(params, x, reset, state), run(params, other, reset, jax.tree.map(lambda s: s + 1, state))
    close((y[:, 21:], after), (z[:, 21:], same), 1e-5)
    assert np.abs(y[:, :21] - z[:, :21]).max() > 0.1
    grads = jax.grad(lambda x, s: run(params, x, reset, s)[0][:, 21:].sum(), (0, 1))(x, state)
    assert np.abs(grads[0][:, :21]).max() < 1e-5 and np.abs(grads[0][:, 21:]).max(-1).min() > 1e-3
    assert not any(g.any() for g in grads[1])


def test_two_halves_are_the_whole():
    params, x, reset, state = problem(50)
    y, end = jax.jit(ssm.scan)(params, x, reset, state)
    first, middle = jax.jit(ssm.scan)(params, x[:, :19], reset[:, :19], state)
    second, last = jax.jit(ssm.scan)(params, x[:, 19:], reset[:, 19:], middle)
    close((jnp.concatenate([first, second], 1), last), (y, end), 1e-5)


@pytest.mark.parametrize("resets", [0.0, 0.2])
def test_gradients_agree_and_are_finite(resets):
    """Of scan against those of step after step, for all parameters, inputs and the state, in float64 to 1e-9."""
    with jax.enable_x64(True):
        args = jax.tree.map(lambda x: x.astype(float) if x.dtype == jnp.float32 else x, problem(45, resets=resets))

        def loss(f, params, x, state):
            y, end = f(params, x, args[2], state)
            return (jnp.sin(y) * jnp.cos(jnp.arange(y.size).reshape(y.shape))).sum() + end.h.sum() + (end.tail**2).sum()

        both = [jax.jit(jax.grad(partial(loss, f), (0, 1, 2)))(args[0], args[1], args[3]) for f in (ssm.scan, stepped)]
        close(*both, 1e-9)
        assert all(np.isfinite(g).all() for g in jax.tree.leaves(both))


def test_gradients_stay_finite_where_decays_overflow():
    """Steps so large that exp of the masked differences would be infinite, and of the others 0."""
    params, x, reset, state = problem(64, resets=0.05)
    params = params._replace(dt=params.dt + 50, log_a=params.log_a + 3)
    value, grads = jax.jit(jax.value_and_grad(lambda p: jnp.square(ssm.scan(p, x, reset, state)[0]).sum()))(params)
    assert np.isfinite(value) and all(np.isfinite(g).all() for g in grads)


def test_bfloat16():
    """Products in bfloat16 stay within its accuracy of float32; decays and the state are float32."""
    params, x, reset, state = problem(200, dtype=jnp.bfloat16)
    y, end = jax.jit(ssm.scan)(params, x, reset, state)
    wanted, exact = jax.jit(ssm.scan)(params, x.astype(jnp.float32), reset, state)
    assert y.dtype == jnp.bfloat16 and {s.dtype for s in end} == {jnp.dtype("float32")}
    close((y, end), (wanted, exact), 4e-2)
    close(jax.jit(stepped)(params, x, reset, state), (wanted, exact), 4e-2)


def test_fresh_parameters():
    """Steps between 1e-3 and 0.1, decays exp(-dt A) with A in [1, 16], sizes as documented."""
    params = ssm.init(jax.random.key(0), 512)
    assert [x.shape for x in params] == [(512, 2096), (4, 1056), (1056,), (16,), (16,), (16,), (1024,), (1024, 512)]
    dt = jax.nn.softplus(params.dt)
    assert (dt >= 1e-3 * 0.999).all() and (dt <= 0.1 * 1.001).all()
    assert (params.log_a >= 0).all() and (params.log_a <= np.log(16)).all()
    assert np.abs(ssm.init(jax.random.key(0), 512, layers=4).out).max() < np.abs(params.out).max() * 0.51


@pytest.mark.parametrize(("decays", "half_life"), [(ssm.short, 9.8), (ssm.long, 40)])
def test_how_long_fresh_layers_remember(decays, half_life):
    dt, log_a = decays(jax.random.key(0), 20_000)
    assert np.median(np.log(2) / (dt * np.exp(log_a))) == pytest.approx(half_life, rel=0.05)
