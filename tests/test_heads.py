"""Value heads: decoding, targets, loss, gradient, support; against slow float64 numpy and the figures of the literature."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rljax import heads
from rljax.base import InputError, Transition
from rljax.data import Dataset, Info
from rljax.heads import C51, SYMLOG, HLGauss, Scalar, TwoHot

pytestmark = pytest.mark.usefixtures("no_rank_promotion")

LOW, HIGH, BINS = -10.0, 10.0, 51
WIDTH = (HIGH - LOW) / BINS  # of HLGauss's bins
GAUSS = HLGauss(LOW, HIGH, bins=BINS)
CATEGORICAL = [TwoHot(LOW, HIGH, bins=BINS), GAUSS, C51(LOW, HIGH, bins=BINS)]
CURVED = [TwoHot(-4.0, 4.0, transform=SYMLOG), HLGauss(-4.0, 4.0, transform=SYMLOG)]


def name(head):
    """Readable test ids."""
    return type(head).__name__ + ("" if getattr(head, "transform", None) is not SYMLOG else "Symlog")


parametrize = pytest.mark.parametrize("head", [Scalar(), *CATEGORICAL, *CURVED], ids=name)
categorical = pytest.mark.parametrize("head", CATEGORICAL, ids=name)


def slow_gauss(y, low=LOW, high=HIGH, bins=BINS, ratio=0.75):
    """``(probabilities, centers)`` of one number in float64, term by term."""
    width = (high - low) / bins
    edges = [low + i * width for i in range(bins + 1)]
    y = min(max(y, low), high)
    cdf = [0.5 * (1 + math.erf((e - y) / (ratio * width * math.sqrt(2)))) for e in edges]
    p = np.array([(b - a) / (cdf[-1] - cdf[0]) for a, b in zip(cdf, cdf[1:], strict=False)])
    return p, np.array([(a + b) / 2 for a, b in zip(edges, edges[1:], strict=False)])


def slow_two_hot(y, low=LOW, high=HIGH, bins=BINS):
    """Weights on the two nearest atoms in float64."""
    width = (high - low) / (bins - 1)
    at = (min(max(y, low), high) - low) / width
    p, i = np.zeros(bins), min(int(at), bins - 2)
    p[i], p[i + 1] = i + 1 - at, at - i
    return p


def entropy(p):
    """In nats."""
    return -sum(x * math.log(x) for x in p if x > 0)


@parametrize
def test_shapes(head):
    """`value` and `loss` drop the last axis and keep any others; `bias` has the network's outputs."""
    assert isinstance(head, heads.Head) and head.bias().shape == (head.size,)
    for leading in ((), (5,), (2, 5), (2, 5, 3)):
        out, target = jax.ShapeDtypeStruct((*leading, head.size), "float32"), jax.ShapeDtypeStruct(leading, "float32")
        assert jax.eval_shape(head.value, out).shape == leading == jax.eval_shape(head.loss, out, target).shape


@parametrize
def test_descending_the_loss_reaches_the_target(head):
    """The outputs that minimise the loss decode to the target, and the loss vanishes there."""
    target, optimizer = jnp.array([-1.0, 0.0, 0.3, 2.0]), optax.adam(optax.cosine_decay_schedule(0.1, 3_000))

    def step(carry, _):
        out, state = carry
        updates, state = optimizer.update(jax.grad(lambda x: head.loss(x, target).sum())(out), state)
        return (out + updates, state), None

    start = jnp.zeros((4, head.size))
    (out, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), length=3_000)
    np.testing.assert_allclose(head.value(out), target, atol=2e-3)
    np.testing.assert_allclose(head.loss(out, target), np.zeros(4), atol=1e-3)


@parametrize
def test_the_target_is_not_differentiated(head):
    """Gradients reach the outputs only."""
    out = jax.random.normal(jax.random.key(0), (4, head.size))
    assert not np.any(jax.grad(lambda t: head.loss(out, t).sum())(jnp.ones(4)))
    assert np.any(jax.grad(lambda x: head.loss(x, jnp.ones(4)).sum())(out))


@parametrize
def test_gradient_by_finite_differences(head):
    """Central differences in float64."""
    with jax.enable_x64(True):
        x, target = jax.random.normal(jax.random.key(1), (3 * head.size,)), jnp.array([0.5, -0.2, 1.0])

        def f(x):
            return head.loss(x.reshape(3, head.size), target).sum()

        slow = jax.jit(jax.vmap(lambda e: (f(x + e) - f(x - e)) / 2e-6))(1e-6 * np.eye(x.size))
        np.testing.assert_allclose(jax.jit(jax.grad(f))(x), slow, rtol=1e-6, atol=1e-9)


@parametrize
def test_wrong_ranks_are_refused(head):
    """A target with an axis too many is an error, not a table of all pairs."""
    for target in (jnp.zeros((4, 1)), jnp.zeros((1, 4))):
        with pytest.raises((ValueError, TypeError)):
            head.loss(jnp.zeros((4, head.size)), target)


def test_scalar_by_hand():
    """The output is the value, the loss the squared error."""
    head, out = Scalar(), jnp.array([[1.0], [-2.0]])
    np.testing.assert_array_equal(head.value(out), [1.0, -2.0])
    np.testing.assert_array_equal(head.loss(out, jnp.array([3.0, -2.5])), [4.0, 0.25])
    assert head.metrics(jnp.ones(3)) == {}


@pytest.mark.parametrize("ratio", [0.55, 0.75, 2.0])
def test_gauss_equals_the_slow_one(ratio):
    """Probabilities, value and excess loss against a loop over bins in float64, also beyond the support."""
    head = HLGauss(LOW, HIGH, sigma=ratio, bins=BINS)
    ys = [-1e6, -10.0, -9.7, -3.21, 0.0, 0.1, 7.77, 10.0, 11.0]
    out = np.random.default_rng(0).normal(size=(len(ys), BINS))
    log_p = out - np.log(np.exp(out).sum(-1, keepdims=True))
    for y, row, logits in zip(ys, log_p, out, strict=True):
        q, centers = slow_gauss(y, ratio=ratio)
        target, logits = jnp.float32(y), jnp.asarray(logits, jnp.float32)
        np.testing.assert_allclose(head.probabilities(target), q, atol=2e-6)
        np.testing.assert_allclose(head.value(logits), np.exp(row) @ centers, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(head.loss(logits, target), -(q @ row) - entropy(q), rtol=2e-5)


@pytest.mark.parametrize("head", [CATEGORICAL[0], CATEGORICAL[2]], ids=name)
def test_two_hot_equals_the_slow_one(head):
    """Weights and excess loss against float64, also beyond the support; an atom itself gets all the weight."""
    out = np.random.default_rng(0).normal(size=(7, BINS))
    for y, logits in zip([-99.0, -10.0, -9.9, 0.0, 0.2, 9.99, 10.0], out, strict=True):
        q, row = slow_two_hot(y), logits - np.log(np.exp(logits).sum())
        np.testing.assert_allclose(head.probabilities(jnp.float32(y)), q, atol=4e-6)
        loss = head.loss(jnp.asarray(logits, jnp.float32), jnp.float32(y))
        np.testing.assert_allclose(loss, -(q @ row) - entropy(q), rtol=2e-5)
    assert (head.probabilities(jnp.float32(0.0)) == 1).sum() == 1


@categorical
def test_targets_are_distributions_and_keep_their_mean(head):
    """Probabilities sum to one and decode to the number within 1e-4 bins, away from the ends."""
    y = jnp.linspace(-8.0, 8.0, 1_001)
    q = head.probabilities(y)
    assert float(q.min()) >= 0
    np.testing.assert_allclose(q.sum(-1), np.ones(len(y)), rtol=2e-6)
    np.testing.assert_allclose(head.value(jnp.log(q + 1e-30)), y, atol=1e-4 * WIDTH)


@pytest.mark.parametrize(("ratio", "nats"), [(0.55, 0.943), (0.75, 1.200), (2.0, 2.122)])
def test_entropy_floor_of_the_cross_entropy(ratio, nats):
    """A plain cross-entropy could not go below this; the logged loss is the excess over it, and is 0 at the target."""
    q = HLGauss(LOW, HIGH, sigma=ratio, bins=BINS).probabilities(jnp.linspace(-5.0, 5.0, 201))
    np.testing.assert_allclose(np.mean([entropy(p) for p in np.asarray(q, np.float64)]), nats, atol=0.002)
    loss = HLGauss(LOW, HIGH, sigma=ratio, bins=BINS).loss(jnp.log(q + 1e-30), jnp.linspace(-5.0, 5.0, 201))
    np.testing.assert_allclose(loss, np.zeros(201), atol=1e-6)


def test_five_bins_carry_the_mass():
    """Five or six bins hold more than a thousandth each at sigma 0.75."""
    q = GAUSS.probabilities(jnp.linspace(-5.0, 5.0, 201))
    assert set(np.unique((q > 1e-3).sum(-1))) == {5, 6}


def test_bias_at_the_ends_of_the_support():
    """0.69 bins inwards at an edge, 0.37 at the middle of the last bin; two hot has none."""
    for sign in (-1, 1):
        edge = sign * 10.0
        middle = sign * (10.0 - WIDTH / 2)
        for y, bins in ((edge, 0.69), (middle, 0.37)):
            decoded = float(GAUSS.value(jnp.log(GAUSS.probabilities(jnp.float32(y)) + 1e-30)))
            np.testing.assert_allclose(sign * (y - decoded) / WIDTH, bins, atol=0.005)
        exact = CATEGORICAL[0].value(jnp.log(CATEGORICAL[0].probabilities(jnp.float32(edge)) + 1e-30))
        np.testing.assert_allclose(exact, edge, rtol=1e-6)


@categorical
@pytest.mark.parametrize("y", [-1e30, -1e6, 1e6, 1e30])
def test_far_outside_the_support(head, y):
    """Loss and gradient stay finite and are those of the nearest end; the metric tells."""
    out, target = jax.random.normal(jax.random.key(0), (3, head.size)), jnp.full(3, y)
    loss, grad = jax.value_and_grad(lambda x: head.loss(x, target).sum())(out)
    assert np.isfinite(loss) and np.isfinite(grad).all()
    np.testing.assert_allclose(loss, head.loss(out, jnp.full(3, math.copysign(10, y))).sum(), rtol=1e-6)
    assert head.metrics(target)["clipped"] == 1
    np.testing.assert_allclose(head.metrics(jnp.array([0.0, 3.0, y, 10.0]))["clipped"], 0.25)


@categorical
def test_gradient_is_the_difference_of_distributions(head):
    """d loss / d logits = softmax(logits) - target."""
    out, y = jax.random.normal(jax.random.key(0), (6, head.size)), jnp.linspace(-12.0, 9.0, 6)
    grad = jax.grad(lambda x: head.loss(x, y).sum())(out)
    np.testing.assert_allclose(grad, jax.nn.softmax(out) - head.probabilities(y), atol=1e-6)


@categorical
def test_descends_like_the_squared_error_near_the_target(head):
    """Where prediction and target are close, a step moves the value the way the squared error's gradient does."""
    y = jnp.linspace(-5.0, 5.0, 21)
    for shift in (-0.05, 0.05):
        out = jnp.log(head.probabilities(y + shift) + 1e-30)
        step = -jax.grad(lambda x: head.loss(x, y).sum())(out)
        moved = jax.jvp(head.value, (out,), (step,))[1]
        assert (np.sign(moved) == -np.sign(shift)).all()


@categorical
def test_low_precision_networks(head):
    """bfloat16 outputs: everything is computed in float32, and equals that of the same outputs widened."""
    out, y = jax.random.normal(jax.random.key(0), (6, head.size)).astype(jnp.bfloat16), jnp.linspace(-9.0, 9.0, 6)
    assert head.value(out).dtype == head.loss(out, y).dtype == jnp.float32
    np.testing.assert_array_equal(head.value(out), head.value(out.astype(jnp.float32)))
    np.testing.assert_array_equal(head.loss(out, y), head.loss(out.astype(jnp.float32), y))
    assert jax.grad(lambda x: head.loss(x, y).sum())(out).dtype == jnp.bfloat16


@parametrize
def test_double_precision_is_kept(head):
    """Under x64 nothing falls back to float32."""
    with jax.enable_x64(True):
        out, y = jax.random.normal(jax.random.key(0), (6, head.size)), jnp.linspace(-3.0, 3.0, 6)
        assert head.value(out).dtype == head.loss(out, y).dtype == head.bias().dtype == jnp.float64


@pytest.mark.parametrize("initial", [-9.0, -0.5, 0.0, 3.3, 9.5])
@categorical
def test_initial_value(head, initial):
    """The bias alone decodes to the number asked for; without it logits decode to the middle."""
    head = head.__class__(low=-10.0, high=30.0, initial=initial, bins=BINS)
    least = -10 + (1.5 if isinstance(head, HLGauss) else 1.0) * 40 / 50
    np.testing.assert_allclose(head.value(head.bias()), max(initial, least), atol=0.04 if initial < least else 2e-4)
    np.testing.assert_allclose(head.value(jnp.zeros(BINS)), 10.0, atol=1e-4)
    assert np.isfinite(head.bias()).all()


@categorical
@pytest.mark.parametrize("initial", [-1e9, 1e9])
def test_initial_value_outside_the_support(head, initial):
    """It starts one bin inside the nearest end, with finite logits."""
    head = head.__class__(low=-10.0, high=30.0, initial=initial, bins=BINS)
    assert np.isfinite(head.bias()).all()
    np.testing.assert_allclose(head.value(head.bias()), math.copysign(20, initial) + 10, atol=1.6 * 40 / 50)


def test_initial_value_of_scalar_and_symlog():
    """Regression starts at its bias; with symlog the number is in units of values."""
    np.testing.assert_array_equal(Scalar(initial=-3.0).bias(), [-3.0])
    head = TwoHot(-4.0, 4.0, initial=12.0, transform=SYMLOG)
    np.testing.assert_allclose(head.value(head.bias()), 12.0, rtol=1e-4)


@pytest.mark.parametrize("x", [0.0, 1e-7, -1e-3, 0.5, -20.0, 1e4])
def test_symlog_and_its_inverse(x):
    """By their definitions, in float64 numpy; small numbers survive."""
    np.testing.assert_allclose(heads.symlog(jnp.float32(x)), np.sign(x) * np.log1p(abs(x)), rtol=1e-6)
    np.testing.assert_allclose(heads.symexp(heads.symlog(jnp.float32(x))), x, rtol=1e-5)


@pytest.mark.parametrize("head", CURVED, ids=name)
def test_symlog_targets_keep_their_mean_on_the_axis(head):
    """Numbers from -40 to 40 on a support that ends at exp(4) - 1 decode to themselves."""
    y = jnp.linspace(-40.0, 40.0, 101)
    np.testing.assert_allclose(head.value(jnp.log(head.probabilities(y) + 1e-30)), y, rtol=1e-3, atol=1e-3)


def slow_projection(head, target, scale, logits):
    """C51's projection (Algorithm 1 of arXiv:1707.06887), atom by atom in float64."""
    p = np.exp(logits - logits.max())
    p /= p.sum()
    z = np.linspace(head.low, head.high, head.bins)
    moved = target + scale * (z - p @ z)
    return sum(w * slow_two_hot(y, head.low, head.high, head.bins) for w, y in zip(p, moved, strict=True))


def test_c51_backs_up_distributions():
    """r + discount Z, terminal successors, and clipped ends equal the paper's algorithm; the mean is the number's."""
    head, rng = CATEGORICAL[2], np.random.default_rng(0)
    out = 3 * rng.normal(size=(5, BINS))
    target, scale = np.array([0.3, -2.0, 1.0, 9.0, 0.0]), np.array([0.99, 0.9, 0.0, 0.99, 1.0])
    args = (jnp.asarray(x, jnp.float32) for x in (target, scale, out))
    q = head.backup(*args)
    for row, *rest in zip(q, target, scale, out, strict=True):
        np.testing.assert_allclose(row, slow_projection(head, *rest), atol=2e-6)
    np.testing.assert_allclose(q[2], slow_two_hot(1.0), atol=2e-6)
    log_p = out - np.log(np.exp(out).sum(-1, keepdims=True))
    slow = [-(w @ r) - entropy(w) for w, r in zip(np.asarray(q, np.float64), log_p, strict=True)]
    np.testing.assert_allclose(head.loss(jnp.asarray(out, jnp.float32), q), slow, rtol=2e-5)
    narrow = head.backup(jnp.zeros(1), jnp.full(1, 0.5), 5 * jnp.eye(BINS)[20:21])
    np.testing.assert_allclose(jnp.log(narrow + 1e-30).shape, (1, BINS))
    np.testing.assert_allclose(narrow @ np.linspace(LOW, HIGH, BINS), [0.0], atol=1e-5)


@pytest.mark.parametrize("head", [Scalar(), *CATEGORICAL[:2]], ids=name)
def test_other_heads_back_up_numbers(head):
    """The target passes through, whatever the successor's outputs are."""
    target = jnp.arange(4.0)
    np.testing.assert_array_equal(head.backup(target, jnp.ones(4), jnp.ones((4, head.size))), target)


def test_numbers_are_leaves():
    """Ends and deviation can be stacked and vmapped in one program; bins are structure."""
    assert jax.tree.leaves(HLGauss(-1.0, 2.0, 0.5, 0.9)) == [-1.0, 2.0, 0.5, 0.9]
    assert jax.tree.structure(HLGauss(bins=5)) != jax.tree.structure(HLGauss(bins=6))
    stacked = HLGauss(jnp.array([-1.0, -10.0]), jnp.array([1.0, 10.0]), jnp.zeros(2), jnp.array([0.5, 0.75]), 11)
    out = jax.random.normal(jax.random.key(0), (2, 11))
    together = jax.jit(jax.vmap(lambda h, o: h.loss(o, jnp.float32(0.3))))(stacked, out)
    rows = HLGauss(-1.0, 1.0, 0.0, 0.5, 11), HLGauss(bins=11)
    alone = [h.loss(o, jnp.float32(0.3)) for h, o in zip(rows, out, strict=True)]
    np.testing.assert_allclose(together, alone, rtol=1e-5)


def dataset(rewards, ends):
    """A `Dataset` of episodes with these rewards; ``ends`` are indices into `rljax.data.ENDS`."""
    flat = np.concatenate(rewards).astype(np.float32)
    n, sizes = len(flat), np.array([len(r) for r in rewards])
    obs, flags = np.zeros((n, 1), np.float32), np.zeros(n, bool)
    return Dataset(
        transition=Transition(obs, np.zeros((n, 1), np.float32), flat, obs, flags, flags),
        episode=np.repeat(np.arange(len(rewards)), sizes).astype(np.int32),
        length=sizes.astype(np.int32),
        returns=np.array([r.sum() for r in rewards], np.float64),
        dropped=np.zeros(len(rewards)),
        end=np.array(ends, np.uint8),
        info=Info("made", "made"),
    )


def test_support_from_a_data_set():
    """Ends are the discounted returns' extremes, computed by hand, with the padding asked for and the sparse rule."""
    d = dataset([np.array([1.0, 2.0, 4.0]), np.array([-3.0])], [0, 0])
    low, high = heads.support_from(d, 0.5, pad=0.0)
    assert (low, high) == (-3.0, 4.0)
    assert heads.support_from(d, 0.9, pad=0.0)[1] == pytest.approx(1 + 0.9 * (2 + 0.9 * 4))
    assert heads.support_from(d, 0.5, pad=0.1) == pytest.approx((-3.7, 4.7))
    assert heads.support_from(d, 0.5, scale=2.0, bias=-1.0, pad=0.0) == (-7.0, 7.0)
    sparse = dataset([np.array([0.0, 0.0]), np.array([0.0, 1.0])], [1, 0])
    assert heads.support_from(sparse, 0.9, bias=-1.0, failure=0.0, pad=0.0) == pytest.approx((-10.0, 0.0))
    assert heads.support_from(sparse, 0.9, bias=-1.0, pad=0.0) == pytest.approx((-1.9, 0.0))


@pytest.mark.parametrize(
    ("rewards", "kwargs", "ends"),
    [
        ((-1.0, 0.0), {}, (-10.0, 0.0)),
        ((1.0, 1.0), {}, (1.0, 10.0)),
        ((-2.0, 3.0), {}, (-20.0, 30.0)),
        ((0.0, 1.0), {"scale": 10.0, "bias": -5.0}, (-50.0, 50.0)),
        ((0.0, 1.0), {"bonus": (-0.5, 0.25)}, (-4.5, 12.25)),
    ],
)
def test_support_from_a_range_of_rewards(rewards, kwargs, ends):
    """Rewards for ever, or one alone; the bonus of all later steps is added."""
    assert heads.support_from(rewards, 0.9, pad=0.0, **kwargs) == pytest.approx(ends)
    width = ends[1] - ends[0]
    assert heads.support_from(rewards, 0.9, **kwargs) == pytest.approx((ends[0] - width / 10, ends[1] + width / 10))


def test_support_of_one_value_is_not_empty():
    """All returns equal: still low < high."""
    for d in (dataset([np.array([0.0])], [0]), dataset([np.array([5.0])], [0])):
        low, high = heads.support_from(d, 0.99)
        assert low < d.returns[0] < high


@pytest.mark.parametrize("rewards", [(1.0, 0.0), (0.0, math.inf), (math.nan, 1.0), (0.0,), (0.0, 1.0, 2.0), 5, None, "ab"])
def test_support_refuses(rewards):
    """Two finite numbers in order, and a discount below 1."""
    with pytest.raises(InputError, match="two finite rewards"):
        heads.support_from(rewards, 0.9)
    with pytest.raises(InputError, match="discount"):
        heads.support_from((0.0, 1.0), 1.0)


@pytest.mark.parametrize("kwargs", [{"pad": -0.6}, {"pad": math.nan}, {"bonus": (math.nan, 0.0)}, {"scale": math.inf}])
def test_support_refuses_what_leads_to_none(kwargs):
    """No end is ever infinite, NaN, or on the wrong side."""
    for source in ((-1.0, 1.0), dataset([np.array([1.0, 2.0])], [0])):
        with pytest.raises(InputError):
            heads.support_from(source, 0.9, **kwargs)


def test_support_of_a_transformed_head():
    """Its ends are on the axis of the bins: symlogs of the padded ends."""
    low, high = heads.support_from((-1.0, 0.0), 0.99, transform=SYMLOG)
    np.testing.assert_allclose([low, high], [-np.log(111.0), np.log(11.0)], rtol=1e-5)


def test_symlog_and_symexp_have_slope_one_at_zero():
    """A value that starts at exactly 0 learns."""
    assert jax.grad(heads.symexp)(0.0) == jax.grad(heads.symlog)(0.0) == 1.0
    head = TwoHot(-10.0, 10.0, transform=SYMLOG)
    assert np.abs(jax.grad(head.value)(head.bias())).max() > 0.01
    for x in (-300.0, 300.0):
        assert np.isfinite(jax.grad(heads.symlog)(x))


@pytest.mark.parametrize("head", [TwoHot(bins=1001), HLGauss(bins=1001), C51(bins=1001)], ids=name)
def test_low_precision_targets(head):
    """A bfloat16 number is taken for what it is."""
    y = jnp.asarray([7.3], jnp.bfloat16)
    np.testing.assert_array_equal(head.probabilities(y), head.probabilities(y.astype(jnp.float32)))


@categorical
@pytest.mark.parametrize("ends", [(1e8, 1e8 + 1), (-3e38, 3e38), (-1e39, 1e39), (1e6, 1e6 + 1), (0.0, math.inf)])
def test_check_refuses_what_float32_cannot_hold(head, ends):
    """Bins that are one and the same number would make NaN of the first update."""
    with pytest.raises(InputError, match=r"head\.low and head\.high"):
        head.__class__(*ends).check()
    head.__class__(-1e30, 1e30).check()
    head.__class__(0.0, 1e-6).check()


@categorical
def test_check_refuses_an_empty_support(head):
    """Ends must be in order."""
    with pytest.raises(InputError, match=r"head\.low must be below head\.high, got 3 and 3"):
        head.__class__(low=3.0, high=3.0).check()
