"""Configs are pytrees: stacking, grids, overrides, rules, JSON."""

from __future__ import annotations

import json
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import heads, normalize
from rljax.base import Array, Discrete, InputError, Spec
from rljax.config import check_action, check_ranges, choice, config, from_dict, grid, leaf, override, stack, static, to_dict


@config
class Inner:
    """A nested config."""

    scale: float = leaf(2.0, "(0, inf)")


@config
class Config:
    """One field of every sort."""

    lr: float = leaf(3e-4, "(0, inf)")
    discount: float = leaf(0.99, "[0, 1)")
    free: float = leaf(0.0)
    width: int = static(16, "[1, inf)")
    sizes: tuple[int, ...] = static((8, 8), "[1, inf)")
    flag: bool = static(False)
    head: heads.Head = choice(heads.Scalar(), heads.HEADS)
    stats: Callable = static(normalize.fixed, choices={"fixed": normalize.fixed, "running": normalize.running})
    inner: Inner = Inner()


def test_numbers_are_leaves_and_choices_are_structure():
    """Leaves are the numbers in order of their fields; a static field changes the structure, a leaf does not."""
    assert jax.tree.leaves(Config()) == [3e-4, 0.99, 0.0, 0.0, 2.0]
    assert jax.tree.structure(Config(lr=1.0)) == jax.tree.structure(Config())
    assert jax.tree.structure(Config(width=8)) != jax.tree.structure(Config())
    assert jax.tree.map(lambda x: x + 1, Config()).lr == 1 + 3e-4


def test_is_frozen():
    """Fields cannot be assigned."""
    with pytest.raises(AttributeError):
        Config().lr = 1.0


def test_stack_gives_float_arrays_and_keeps_choices():
    """Leaves get a leading axis and a float dtype, even when given as integers."""
    stacked = stack([Config(lr=1), Config(lr=2)])
    np.testing.assert_array_equal(stacked.lr, np.array([1.0, 2.0]))
    assert stacked.lr.dtype == jnp.result_type(float) and not stacked.lr.weak_type
    assert stacked.inner.scale.shape == (2,) and stacked.width == 16


def test_stack_refuses_different_programs():
    """The message names the static fields that differ, and only those."""
    with pytest.raises(InputError, match="width, flag") as error:
        stack([Config(), Config(lr=1.0, width=8, flag=True)])
    assert "lr" not in str(error.value)


def test_stacked_config_can_be_vmapped():
    """A function of the config sees one row at a time."""
    out = jax.jit(jax.vmap(lambda c: c.lr * c.width + c.inner.scale))(stack(grid(Config(), lr=[1.0, 2.0, 3.0])))
    np.testing.assert_allclose(out, [18.0, 34.0, 50.0])


def test_grid_is_the_product_with_the_last_name_fastest():
    """Rows come in the order of nested loops."""
    rows = grid(Config(), lr=[1.0, 2.0], discount=[0.1, 0.2, 0.3])
    assert [(c.lr, c.discount) for c in rows] == [(a, b) for a in (1.0, 2.0) for b in (0.1, 0.2, 0.3)]
    assert grid(Config()) == [Config()]


def test_override_replaces_and_resolves_names():
    """Plain values are taken as they are, names of choices become values; the base is not touched."""
    base = Config()
    new = override(base, {"lr": 1, "stats": "running", "sizes": (4,), "flag": True})
    assert (new.lr, new.stats, new.sizes, new.flag) == (1, normalize.running, (4,), True)
    assert base == Config()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"discont": 0.9}, "no field 'discont': did you mean discount"),
        ({"zzz": 0.9}, "no field 'zzz': it has lr, discount"),
        ({"lr": "0.1"}, "config.lr must be a number, got '0.1'"),
        ({"lr": True}, "config.lr must be a number, got True"),
        ({"lr": None}, "config.lr must be a number"),
        ({"width": 8.0}, "config.width must be an integer, got 8.0"),
        ({"width": True}, "config.width must be an integer"),
        ({"sizes": (8, 2.5)}, "config.sizes"),
        ({"sizes": 8}, "config.sizes"),
        ({"flag": 1}, "config.flag"),
        ({"flag": "false"}, "config.flag"),
        ({"head": 3}, "config.head"),
        ({"head.sigma": 1.0}, "config.head has no field 'sigma': it has initial"),
        ({"head": "hl_gauss", "head.sigma": "1"}, "config.head.sigma must be a number, got '1'"),
        ({"head": "hl_gauss", "head.transform": "log"}, "config.head.transform must be one of linear, symlog, got 'log'"),
        ({"lr.x": 1.0}, "config.lr has no field 'x'"),
        ({"stats": 3}, "config.stats"),
        ({"stats": "moving"}, "config.stats must be one of fixed, running, got 'moving'"),
    ],
)
def test_override_refuses(changes, words):
    """Unknown fields and wrong types are refused with the field, the rule and the value."""
    with pytest.raises(InputError) as error:
        override(Config(), changes)
    assert words in str(error.value)


def test_override_reaches_into_configs_within():
    """Dotted names replace fields of the head, also of one chosen by the same call; a grid takes them too."""
    new = override(Config(), {"head": "hl_gauss", "head.sigma": 0.5, "head.bins": 21, "head.transform": "symlog"})
    assert new.head == heads.HLGauss(sigma=0.5, bins=21, transform=heads.SYMLOG)
    rows = grid(new, **{"head.low": [-1.0, -2.0], "lr": [1.0]})
    assert [row.head.low for row in rows] == [-1.0, -2.0]
    np.testing.assert_array_equal(stack(rows).head.low, [-1.0, -2.0])


def test_check_ranges_reaches_into_configs_within():
    """The sentence names the inner field; the inner config's own rules hold as well, for every row of a stack."""
    with pytest.raises(InputError, match=r"config\.head\.sigma must be in \(0, inf\), got -1"):
        check_ranges(Config(head=heads.HLGauss(sigma=-1.0)))
    rows = stack([Config(head=heads.C51(low=low, high=5.0)) for low in (-1.0, 5.0)])
    with pytest.raises(InputError, match=r"config\.head\.low must be below config\.head\.high, got 5 and 5"):
        check_ranges(rows)


@pytest.mark.parametrize("value", [1, 0.5, np.float32(0.5), np.float64(0.5), np.array([0.5]), jnp.array([0.5, 0.25])])
def test_override_takes_every_number_for_a_leaf(value):
    """Leaves may be Python, numpy or JAX numbers, or arrays of them."""
    assert override(Config(), {"lr": value}).lr is value


@pytest.mark.parametrize(
    ("rule", "inside", "outside"),
    [
        ("(0, 1)", [0.5, 1e-30], [0.0, 1.0, -1.0, 2.0]),
        ("[0, 1]", [0.0, 1.0, 0.5], [-1e-9, 1 + 1e-9]),
        ("[0, 1)", [0.0, 0.999], [1.0, -0.1]),
        ("(0, 1]", [1.0, 0.1], [0.0, 1.1]),
        ("(0, inf)", [1e300], [np.inf, 0.0, -np.inf]),
        ("(-inf, inf)", [-1e300, 0.0], [np.inf, -np.inf]),
        ("[0, inf]", [np.inf], [-np.inf]),
    ],
)
def test_intervals(rule, inside, outside):
    """Open and closed ends are honoured; nan lies in no interval."""

    @config
    class OneField:
        x: float = leaf(0.0, rule)

    for x in inside:
        check_ranges(OneField(x))
    for x in [*outside, np.nan]:
        with pytest.raises(InputError) as error:
            check_ranges(OneField(x))
        assert f"config.x must be in {rule}, got {x:g}" in str(error.value)


def test_ranges_reach_arrays_tuples_integers_and_nested_configs():
    """Every element counts, wherever it sits."""
    check_ranges(Config())
    check_ranges(stack(grid(Config(), lr=[1e-3, 1e-4])))
    for bad in (
        Config(lr=np.array([1e-3, 0.0])),
        Config(sizes=(8, 0)),
        Config(width=0),
        Config(inner=Inner(scale=-1.0)),
    ):
        with pytest.raises(InputError, match="must be in"):
            check_ranges(bad)


def test_check_action_names_the_alternative():
    """An agent refuses the other kind of action."""
    continuous, discrete = (Spec(Array((2,)), a, 10) for a in (Array((1,), "float32", -1.0, 1.0), Discrete(3)))
    check_action("sac", continuous, Array, "sac_discrete")
    check_action("sac_discrete", discrete, Discrete, "sac")
    with pytest.raises(InputError, match="sac does not take discrete actions; use sac_discrete"):
        check_action("sac", discrete, Array, "sac_discrete")
    with pytest.raises(InputError, match="sac_discrete does not take continuous actions; use sac"):
        check_action("sac_discrete", continuous, Discrete, "sac")


@config
class Plain:
    """What can be written to JSON and read back without importing this file."""

    lr: float = leaf(3e-4)
    width: int = static(16)
    sizes: tuple[int, ...] = static((8, 8))
    flag: bool = static(False)
    head: heads.Head = choice(heads.Scalar(), heads.HEADS)
    other: heads.Scalar = heads.Scalar()
    stats: Callable = static(normalize.fixed, choices={"fixed": normalize.fixed})


@pytest.mark.parametrize(
    "c",
    [
        Plain(),
        Plain(lr=0.1 + 0.2, width=3, sizes=(), flag=True, stats=normalize.running),
        Plain(lr=np.float32(0.5), width=np.int64(4)),
        Plain(head=heads.HLGauss()),
        Plain(head=heads.TwoHot(low=-3.5, high=0.1 + 0.2, bins=5, transform=heads.SYMLOG)),
    ],
)
def test_json_round_trip(c):
    """`from_dict` of the JSON text is the config itself, to the last digit."""
    assert from_dict(Plain, json.loads(json.dumps(to_dict(c)))) == c


def test_json_round_trip_of_a_stacked_config():
    """The rows of a grid survive as well."""
    stacked = stack(grid(Plain(), lr=[0.1, 0.2]))
    back = from_dict(Plain, json.loads(json.dumps(to_dict(stacked))))
    np.testing.assert_allclose(back.lr, stacked.lr, rtol=0)
    assert jax.tree.structure(back) == jax.tree.structure(stacked)


def test_to_dict_writes_names_and_paths():
    """Choices by name, other functions and nested configs by dotted path."""
    out = to_dict(Plain(stats=normalize.running))
    assert (out["head"], out["stats"]) == ("scalar", {"function": "rljax.normalize:running"})
    assert out["other"] == {"type": "rljax.heads:Scalar", "initial": 0.0}
    assert to_dict(Plain())["stats"] == "fixed"


@pytest.mark.parametrize(
    "path",
    ["os:system", "rljaxx.base:Array", "subprocess:run", "", "rljax.store:shutil", "rljax.store:Path"]
    + ["rljax.nothing:x", "rljax.store:nothing", "rljax.store", None, 3, {}],
)
def test_from_dict_follows_paths_into_rljax_only(path):
    """A config file cannot name code outside the package."""
    for entry in ({"function": path}, {"type": path}):
        with pytest.raises(InputError, match="not part of rljax"):
            from_dict(Plain, {"stats": entry})


def test_from_dict_refuses_what_names_nothing():
    """An object without a type or a function, or with one that is no config."""
    with pytest.raises(InputError, match="not part of rljax"):
        from_dict(Plain, {"stats": {}})
    with pytest.raises(TypeError):
        from_dict(Plain, {"stats": {"type": "rljax.store:save"}})


def test_a_wrong_value_is_told_in_a_line():
    """Also an array of several rows."""
    with pytest.raises(InputError) as error:
        override(Plain(), {"width": np.zeros((2, 2))})
    assert "\n" not in str(error.value)


def test_from_dict_refuses_unknown_fields():
    """An old or misspelt file says so."""
    with pytest.raises(InputError, match="did you mean width"):
        from_dict(Plain, {"widht": 3})
