"""`rljax bench`: the lists of products against what is traced, the floor's program, tables, files and comparisons."""

from __future__ import annotations

import collections
import copy
import json
import math
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.interpreters import partial_eval

from rljax.agents import cql, drama, sac, sqirl
from rljax.config import override
from rljax.experiments import bench, cases, cli, floor
from rljax.world_model import DRAMA

OPTIMIZED = True  # compiled programs are looked at
P = floor.Product


def normalized(rows):
    """The sums over rows that LayerNorm's gradient takes as products: two for each of two layers, of critics and actor."""
    return (4, 4 * (P(10, 256, 256, 1),)), (1, 4 * (P(10, rows, 256, 1), P(1, rows, 256, 1)))


def cumulated(config):
    """By part of Drama, the cumulated probabilities of latents, by a triangular matrix; in imagination step by step."""
    groups, classes, seen = config.size.groups, config.size.classes, config.starts * (config.context - 1)
    counts = {
        "drama.model": ((1, config.batch_size * config.length),),
        "drama.imagination": ((1, seen), (config.ahead + 1, config.starts)),
    }
    counts["drama"] = sum(counts.values(), ())
    return {
        part: tuple((times, (P(1, rows * groups, classes, classes),)) for times, rows in found if rows)
        for part, found in counts.items()
    }


def beside(name, config):
    """What is traced and not listed; CQL's policy at both observations is computed once, for all that want it."""
    if name.startswith("drama"):
        return cumulated(config).get(name, ())
    found = {"cql": ((2, floor.network((11, 256, 256, 6), 256)),), "rlpd": normalized(256), "wsrl": normalized(1024)}
    return found.get(name, ())


def traced(jaxpr, times=1):
    """``(times, equation)`` of every product, also within loops."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield times, equation
        assert equation.primitive.name != "while", "products in it could not be counted"
        inner = times * (equation.params["length"] if equation.primitive.name == "scan" else 1)
        for value in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")
        ):
            if hasattr(value, "eqns") or hasattr(value, "jaxpr"):
                yield from traced(getattr(value, "jaxpr", value), inner)


def product_of(equation):
    """The `Product` that a traced product is, whichever operand is on the left."""
    sums, batch = equation.params["dimension_numbers"]
    shapes, free, last = [v.aval.shape for v in equation.invars], [], []
    for shape, summed, batched in zip(shapes, sums, batch, strict=True):
        own = [i for i in range(len(shape)) if i not in (*summed, *batched)]
        free.append(math.prod(shape[i] for i in own))
        last.append(bool(own) and max(summed, default=-1) > max(own))
    num, k = (math.prod(shapes[0][i] for i in axes) for axes in (batch[0], sums[0]))
    sums = (int(last[0]), int(last[1]))
    if sums == (0, 1):  # (w^T g^T)^T = g w
        free, sums = free[::-1], (1, 0)
    return canonical(P(num, free[0], k, free[1], sums))


def canonical(product):
    """x^T g and g^T x are the same."""
    m, n = sorted((product.m, product.n)) if product.sums == floor.WEIGHTS else (product.m, product.n)
    return product._replace(m=m, n=n)


def count(stages):
    found = collections.Counter()
    for times, products in stages:
        for product in products:
            found[canonical(product)] += times
    return found


def count_traced(case):
    """All products of the case's update that something depends on, but those with one term per sum."""
    loop = case.update(case.config)
    state = jax.eval_shape(loop.init, jax.random.key(0))
    closed = jax.make_jaxpr(loop.step)(state, jnp.int32(0), ())
    jaxpr, _ = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    found = collections.Counter()
    for times, equation in traced(jaxpr):
        product = product_of(equation)
        if product.k > 1:
            found[product] += times
    return found


def check(name, case):
    expected = count(floor.UPDATES[name](case.config, case.spec)) + count(beside(name, case.config))
    assert count_traced(case) == expected


@pytest.mark.parametrize("name", [name for name in bench.names() if name != "drama"])  # which is its parts
def test_products_are_those_of_the_update(name):
    check(name, cases.case(name))


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("sac", cases.standard(sac, sac.Config(utd=3, critic_depth=1, actor_width=8, num_critics=5))),
        ("sqirl", cases.regression(sqirl.Config(k=3, depth=1))),
        ("drama", cases.dreaming("drama", drama.Config(context=1, length=40, batch_size=3, starts=5, ahead=2, size=DRAMA))),
    ],
)
def test_products_at_other_sizes(name, case):
    check(name, case)


def products_in(compiled):
    return len(re.findall(r"\bdot\(", compiled.as_text()))


def test_what_is_traced_twice_is_computed_once():
    """The compiled update of CQL has as many products as the list, which are fewer than are traced."""
    config = cql.Config(actor_width=8, critic_width=8, actor_depth=1, critic_depth=1, batch_size=4, num_actions=2)
    case = cases.standard(cql, config)
    loop = case.update(config)
    state = jax.eval_shape(loop.init, jax.random.key(0))
    compiled = jax.jit(loop.step).lower(state, jnp.int32(0), ()).compile()
    listed = sum(len(products) for _, products in floor.cql(config, case.spec))
    assert products_in(compiled) == listed < count_traced(case).total()


@pytest.mark.parametrize("seeds", [1, 3])
def test_floor_makes_every_product(seeds):
    """None is left out, merged with another, or made once for all rounds, and nothing is copied or transposed beside."""
    wide = (P(1, 48, 48, 48), P(1, 48, 48, 48), P(1, 48, 32, 48, floor.INPUTS), P(2, 32, 48, 40, floor.WEIGHTS))
    stages = ((1, wide), (3, (P(1, 48, 48, 48), P(4, 16, 16, 1))))
    operands = floor.init(stages, seeds, jax.random.key(0))
    assert {p: (x.shape[-2:], y.shape[-2:]) for p, (x, y) in operands.items()}[wide[3]] == ((48, 32), (48, 40))

    def rounds(operands, num):
        return jax.lax.fori_loop(0, num, lambda _, number: floor.once(stages, operands, number), jnp.zeros(()))

    compiled = jax.jit(rounds).lower(operands, jnp.int32(2)).compile()
    text = compiled.as_text()
    assert products_in(compiled) == 6
    assert not re.search(r"f32\[[\d,]*(48|40),(48|40)\]\S* (copy|transpose)\(", text)
    assert float(compiled(operands, jnp.int32(2))) <= 0
    assert floor.flops(stages) == 2 * (48**3 * 2 + 48 * 32 * 48 + 2 * 32 * 48 * 40 + 3 * (48**3 + 4 * 16 * 16))


def test_products_of_a_network():
    assert floor.network((3, 8, 1), 16, 2, weights=True) == (
        *(P(2, 16, 3, 8), P(2, 16, 8, 1)),  # forward
        *(P(2, 8, 16, 1, floor.WEIGHTS), P(2, 3, 16, 8, floor.WEIGHTS)),  # the last layer's inputs are only scaled
    )
    through = floor.network((3, 8, 2), 16, through=True)
    assert through[2:] == (P(1, 16, 2, 8, floor.INPUTS), P(1, 16, 8, 3, floor.INPUTS))


@pytest.fixture(scope="module")
def measured():
    """What is measured of agents that interact and learn from data, at tiny sizes."""
    jax.config.update("jax_disable_most_optimizations", True)  # compiling is what takes time here
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cases, "ROWS", 100)
        patch.setattr(cases, "case", lambda name, sizes: tiny(cases.TRANSITIONS[name]))
        rows = bench.planned(("sac",), (2,), cases.Sizes()) + bench.planned(("td3_bc",), (2, 1), cases.Sizes())
        found = bench.bench(rows, cases.Sizes(), 1, 0.001, lambda sentence: None)
    jax.config.update("jax_disable_most_optimizations", False)
    return found


def tiny(module):
    sizes = {f"{part}_{size}": number for part in ("actor", "critic") for size, number in (("width", 8), ("depth", 1))}
    return cases.standard(module, override(module.Config(), sizes | {"batch_size": 8}))


def test_sizes_and_shapes_can_be_chosen():
    case = cases.case("sac", cases.Sizes(width=8, env="gymnax/Pendulum-v1"))
    assert (case.config.actor_width, case.config.critic_width, case.spec.obs.shape) == (8, 8, (3,))
    assert cases.case("td3_bc").spec == cases.HOPPER and cases.case("sqirl", cases.Sizes(width=8)).config.width == 8
    state = jax.eval_shape(case.loop(case.config).init, jax.random.key(0))
    assert state.obs.shape[-1] == 3


def test_measured_rows(measured):
    online, offline, alone = measured["rows"]
    assert (alone["agent"], alone["seeds"]) == ("td3_bc", 1)
    assert alone["reference_gflop_per_s"] == offline["reference_gflop_per_s"] != online["reference_gflop_per_s"]
    assert (online["agent"], online["seeds"], online["loop_unit"]) == ("sac", 2, "env steps")
    assert (offline["agent"], offline["gradient_steps_per_update"], offline["loop_unit"]) == ("td3_bc", 2, "gradient steps")
    positive = ("updates_per_s", "fraction_of_floor", "gflop_per_s", "reference_gflop_per_s", "compile_s", "peak_bytes")
    assert all(row[name] > 0 for row in measured["rows"] for name in (*positive, "loop_per_s", "compiler_gflop_per_update"))
    assert measured["machine"]["threads"] >= 1 and "jax" in measured["machine"]["packages"]


def test_cache_of_programs_is_used_again(measured):
    assert jax.config.values["jax_enable_compilation_cache"]


def test_file_holds_what_was_measured(measured, tmp_path):
    bench.write(measured, tmp_path / "bench.json")
    assert bench.read(tmp_path / "bench.json") == json.loads(json.dumps(measured))


def test_table_fits_a_terminal(measured):
    large = copy.deepcopy(measured)
    large["rows"][0] |= {"agent": "drama.imagination", "seeds": 1024, "updates_per_s": 123456.7, "loop_per_s": 99999.9}
    large["rows"][0] |= {"compile_s": 23.4, "peak_bytes": 2**40 - 1, "gflop_per_update": 123.45, "gflop_per_s": 99999.9}
    text = bench.table(large)
    assert len({len(line) for line in text.split("\n\n")[0].splitlines()[:2]}) == 1
    assert max(map(len, text.splitlines())) <= 100


def row(agent="sac", seeds=1, **changes):
    return {
        "agent": agent,
        "seeds": seeds,
        "sizes": {"batch_size": 256},
        "updates_per_s": 100.0,
        "reference_gflop_per_s": 50.0,
        "loop_per_s": 80.0,
    } | changes


def compared(new, old, tolerance=0.9):
    return bench.against({"rows": new}, {"rows": old}, tolerance)


def test_a_slower_machine_is_no_regression():
    half = {"updates_per_s": 50.0, "loop_per_s": 40.0, "reference_gflop_per_s": 25.0}
    text, fine = compared([row(**half)], [row(), row("iql")])
    assert fine and text.count("0.50      1.00") == 2 and "iql" not in text


@pytest.mark.parametrize("slow", ["updates_per_s", "loop_per_s"])
def test_a_slower_program_is_one(slow):
    text, fine = compared([row(), row(seeds=8, **{slow: 60.0})], [row(), row(seeds=8)])
    assert not fine and text.count("slower than 0.9") == 1
    assert compared([row(**{slow: 60.0})], [row()], 0.5)[1]


def test_what_one_has_not_measured_is_left_out():
    part = row()
    del part["loop_per_s"]
    assert compared([row()], [part])[0].count("sac") == 1


@pytest.fixture
def rljax(tmp_path, monkeypatch, capsys):
    """``rljax("bench ...")`` in a folder with files: its exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    whole = {"format": bench.FORMAT, "rows": []}
    full = {name: 1.0 for name in ("fraction_of_floor", "gflop_per_update", "gflop_per_s", "compile_s")} | {"peak_bytes": 2}
    files = {"old": [row(**full)], "slow": [row(updates_per_s=50.0, **full)], "wide": [row(sizes={"batch_size": 8}, **full)]}
    for name, rows in (files | {"other": [row("iql", **full)]}).items():
        (tmp_path / f"{name}.json").write_text(json.dumps(whole | {"rows": rows}))
    (tmp_path / "foreign.json").write_text("{}")
    (tmp_path / "broken.json").write_text("{")

    def run(line):
        monkeypatch.setattr(sys, "argv", ["rljax", *line.split()])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code, *capsys.readouterr()

    return run


def test_files_are_shown_and_compared(rljax):
    code, out, _ = rljax("bench --show old.json --json copy.json --against old.json")
    assert code == 0 and "100.0" in out and bench.read(Path("copy.json"))["rows"]
    assert rljax("bench --show old.json")[0] == 0
    code, out, _ = rljax("bench --show slow.json --against old.json")
    assert code == 1 and "slower than 0.9" in out
    assert rljax("bench --show slow.json --against old.json --tolerance 0.4")[0] == 0


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("bench scc", "cannot measure 'scc': choose of sac, "),
        ("bench sac --seeds 0", "--seeds must be numbers such as 1,2,4,8, got '0'"),
        ("bench sac --seeds 1;2", "--seeds must be numbers"),
        ("bench sac --rounds 0", "--rounds must be at least 1"),
        ("bench sac --seconds nan", "--seconds above 0"),
        ("bench drama --size m", "--size must be one of xs, s, drama, got 'm'"),
        ("bench sac --width 0", "--width must be at least 1, got 0"),
        ("bench sac --env gymnasium/Pendulum-v1", "gymnasium/Pendulum-v1 is not compiled"),
        ("bench sac --env gymnax/CartPole-v1", "agent sac does not take discrete actions"),
        ("bench sac --against missing.json", "there is no file missing.json"),
        ("bench sac --against foreign.json", "foreign.json was not written by rljax bench --json"),
        ("bench --show broken.json", "broken.json is no JSON file"),
        ("bench --show old.json --against wide.json", "sac was measured at other sizes: batch_size"),
        ("bench sac --against wide.json", "sac was measured at other sizes: "),
        ("bench sac --seeds 8 --against old.json", "there is nothing to compare"),
        ("bench --show old.json --against other.json", "there is nothing to compare"),
    ],
)
def test_a_mistake_is_one_sentence(rljax, line, sentence):
    code, _, err = rljax(line)
    assert code == 2 and sentence in err and err.count("\n") == 1
