"""``rljax bench``: updates and env steps per second of the agents, beside what their dense products alone take here.

*Fraction of floor* is the time of all dense products of an update (`rljax.experiments.floor`) over the time of the update, both
measured in turns. What is compared between machines, or between a quiet and a busy one, is updates per second over the rate of
products of 256 x 256 x 256, which are measured in the same turns, as are all numbers of seeds of an agent.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import statistics
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh

from rljax import loops
from rljax import world_model as wm
from rljax.base import InputError
from rljax.config import stack, to_dict
from rljax.experiments import cases, devices, floor, machine

Row = dict[str, Any]
Name = TypeVar("Name", bound=Hashable)

FORMAT = "rljax bench 1"
WIDTHS = (5, 9, 5, 8, 7, 10, 6, 7, 6)  # of the table's columns
LEGEND = (
    "floor    time of the update's matrix products alone, over its time; GFLOP and GFLOP/s are theirs",
    "loop/s   env steps with learning, or * gradient steps from recorded data; rates are of all seeds",
    "compile  of the update, from no cache; memory its arguments, results and workspace, on each device",
    "256^3    GFLOP/s of products of 256 x 256 x 256",
)
REFERENCE = ((1, (floor.Product(1, 256, 256, 256),)),)


class Program(NamedTuple):
    """A compiled program: ``run(iterations)``, seconds of compiling, and bytes on each device while it runs.

    By the compiler's count: FLOPs, and ``traffic``, bytes that are read and written, of one iteration, on all devices.
    """

    run: Callable[[int], None]
    compiled: float
    bytes: int
    flops: float
    traffic: float


def names() -> tuple[str, ...]:
    """What can be measured."""
    return tuple(floor.UPDATES)


def planned(agents: Sequence[str], seeds: Sequence[int], sizes: cases.Sizes) -> list[Row]:
    """The rows to measure, ``{"agent", "seeds", "sizes"}``, of these agents or, if there are none, of all.

    Raises:
        InputError: for unknown agents, sizes or environments.
    """
    unknown = [name for name in agents if name not in names()]
    if unknown:
        raise InputError(f"cannot measure {unknown[0]!r}: choose of {', '.join(names())}")
    if sizes.drama not in wm.SIZES:
        raise InputError(f"--size must be one of {', '.join(wm.SIZES)}, got {sizes.drama!r}")
    if sizes.width is not None and sizes.width < 1:
        raise InputError(f"--width must be at least 1, got {sizes.width}")
    found = {name: cases.case(name, sizes) for name in agents or names()}
    return [{"agent": name, "seeds": num, "sizes": described(case)} for name, case in found.items() for num in seeds]


def described(case: cases.Case) -> Row:
    """All that must be the same for speeds to be compared."""
    return to_dict(case.config) | {"spec": str(case.spec)}


def bench(rows: Sequence[Row], sizes: cases.Sizes, rounds: int, seconds: float, say: Callable) -> Row:
    """All that is measured: ``{"format", "machine", "settings", "rows"}``, with the ``rows`` that are `planned`.

    Raises:
        InputError: for numbers that are too small.
    """
    if rounds < 1 or not seconds > 0:
        raise InputError("--rounds must be at least 1, and --seconds above 0")
    found = []
    with _compiling_anew():
        for agent, group in itertools.groupby(rows, lambda row: row["agent"]):
            of_agent = list(group)
            seeds = [row["seeds"] for row in of_agent]
            say(f"{agent}, {', '.join(map(str, seeds))} seed{'s' * (seeds != [1])}")
            measured = measure(agent, cases.case(agent, sizes), seeds, rounds, seconds)
            found += [row | numbers for row, numbers in zip(of_agent, measured, strict=True)]
    where = machine.versions() | {"threads": devices.threads()}
    return {"format": FORMAT, "machine": where, "settings": {"rounds": rounds, "seconds": seconds}, "rows": found}


def program(build: cases.Build, config: Any, seeds: int, data: Any = ()) -> Program:
    """The loop ``build(config)`` for so many seeds, as `rljax.train` runs it."""
    mesh, data = devices.mesh(seeds), devices.share(devices.mesh(seeds), data)
    learners = stack([config] * seeds), jax.random.split(jax.random.key(0), seeds), jnp.ones(seeds, bool)
    stacked, keys, alive = devices.spread(mesh, learners)

    def init(config: Any, keys: jax.Array) -> Any:
        return jax.lax.map(lambda x: build(x[0]).init(x[1]), (config, keys))

    state = jax.jit(devices.divided(mesh, init, (False, False)))(stacked, keys)
    run_all = partial(loops.run, build, in_turn=devices.in_turn(state))
    chunk = devices.divided(mesh, run_all, (False, False, False, True, True, True))
    compiled, seconds = _compile(jax.jit(chunk, donate_argnums=1), stacked, state, alive, jnp.int32(0), jnp.int32(1), data)
    carry = [state, 0]

    def run(num: int) -> None:
        carry[0], fine, _ = jax.block_until_ready(compiled(stacked, carry[0], alive, jnp.int32(carry[1]), jnp.int32(num), data))
        carry[1] += num
        if not fine.all():
            raise RuntimeError("the numbers are no longer finite, so their speed means nothing")

    return _described(run, compiled, seconds, mesh)


def products(stages: tuple[floor.Stage, ...], seeds: int) -> Program:
    """All products of ``stages``, and nothing else, for so many seeds."""

    def repeat(operands: floor.Operands, num: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, num, lambda _, number: floor.once(stages, operands, number), jnp.zeros(()))[None]

    mesh = devices.mesh(seeds)
    operands = devices.spread(mesh, jax.jit(partial(floor.init, stages, seeds))(jax.random.key(0)))
    all_of_them = devices.divided(mesh, repeat, (False, True))
    compiled, seconds = _compile(jax.jit(all_of_them), operands, jnp.int32(1))
    return _described(lambda num: jax.block_until_ready(compiled(operands, jnp.int32(num))), compiled, seconds, mesh)


def in_turns(runs: dict[Name, Callable[[int], Any]], rounds: int, seconds: float) -> dict[Name, float]:
    """Median seconds of an iteration of each ``run(iterations)``, of ``rounds`` measurements of about ``seconds``.

    They take turns, after one iteration that is not counted.
    """
    counts: dict[Name, int] = {}
    times: dict[Name, list[float]] = {name: [] for name in runs}
    for name, run in runs.items():
        run(1)
        counts[name] = max(1, round(seconds / _seconds(run, 1)))
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(_seconds(run, counts[name]) / counts[name])
    return {name: statistics.median(found) for name, found in times.items()}


def measure(name: str, case: cases.Case, seeds: Sequence[int], rounds: int, seconds: float) -> list[Row]:
    """For each number of seeds the numbers of its row: all rates are of all seeds together."""
    stages = floor.UPDATES[name](case.config, case.spec)
    data = () if case.loop is None else case.data()
    programs = {("reference", 1): products(REFERENCE, 1)}
    for num in seeds:
        programs |= {("update", num): program(case.update, case.config, num), ("floor", num): products(stages, num)}
        if case.loop is not None:
            programs["loop", num] = program(case.loop, case.config, num, data)
    took = in_turns({which: one.run for which, one in programs.items()}, rounds, seconds)
    return [_row(case, stages, num, programs, took) for num in seeds]


def _row(
    case: cases.Case,
    stages: tuple[floor.Stage, ...],
    seeds: int,
    programs: dict[tuple[str, int], Program],
    took: dict[tuple[str, int], float],
) -> Row:
    flops, update, seconds = floor.flops(stages), programs["update", seeds], took["update", seeds]
    row: Row = {
        "updates_per_s": seeds / seconds,
        "gradient_steps_per_update": case.gradients,
        "fraction_of_floor": took["floor", seeds] / seconds,
        "gflop_per_update": flops / 1e9,
        "compiler_gflop_per_update": update.flops / seeds / 1e9,
        "gflop_per_s": seeds * flops / took["floor", seeds] / 1e9,
        "reference_gflop_per_s": floor.flops(REFERENCE) / took["reference", 1] / 1e9,
        "compile_s": update.compiled,
        "peak_bytes": update.bytes,
    }
    if case.loop is not None:
        loop = programs["loop", seeds]
        row |= {"loop_per_s": case.steps * seeds / took["loop", seeds], "loop_unit": case.unit}
        row |= {"loop_compile_s": loop.compiled, "loop_peak_bytes": loop.bytes}
    return row


def table(found: Row) -> str:
    """The rows for people; the lines below say what the columns are."""
    names = ("seeds", "updates/s", "floor", "loop/s", "compile", "memory", "GFLOP", "GFLOP/s", "256^3")
    lines = [f"{'agent':<17}" + "".join(f"  {name:>{width}}" for name, width in zip(names, WIDTHS, strict=True))]
    for row in found["rows"]:
        star = "" if row.get("loop_unit", "env steps") == "env steps" else "*"
        cells = (
            str(row["seeds"]),
            f"{row['updates_per_s']:.1f}",
            f"{row['fraction_of_floor']:.2f}",
            f"{row['loop_per_s']:.1f}{star}" if "loop_per_s" in row else "",
            f"{row['compile_s']:.1f} s",
            machine.size(row["peak_bytes"]),
            f"{row['gflop_per_update']:.2f}",
            f"{row['gflop_per_s']:.1f}",
            f"{row['reference_gflop_per_s']:.1f}",
        )
        lines.append(f"{row['agent']:<17}" + "".join(f"  {x:>{width}}" for x, width in zip(cells, WIDTHS, strict=True)))
    return "\n".join([*lines, "", *LEGEND])


def write(found: Row, path: Path) -> None:
    """Write the JSON file."""
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def read(path: Path) -> Row:
    """What `write` has written.

    Raises:
        InputError: if there is no such file, or it is another's.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"there is no file {path}") from None
    except (UnicodeDecodeError, ValueError):
        raise InputError(f"{path} is no JSON file") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise InputError(f"{path} was not written by rljax bench --json")
    return found


def pairs(new: Sequence[Row], old: Sequence[Row]) -> list[tuple[Row, Row]]:
    """``(new, old)`` rows of the same agent and number of seeds.

    Raises:
        InputError: if there are none, or one was measured at other sizes.
    """
    before = {(row["agent"], row["seeds"]): row for row in old}
    found = [(row, before[row["agent"], row["seeds"]]) for row in new if (row["agent"], row["seeds"]) in before]
    if not found:
        raise InputError("there is nothing to compare: no agent was measured with the same number of seeds before")
    for row, other in found:
        changed = [k for k in row["sizes"] | other["sizes"] if row["sizes"].get(k) != other["sizes"].get(k)]
        if changed:
            raise InputError(f"{row['agent']} was measured at other sizes: {', '.join(changed)}")
    return found


def against(new: Row, old: Row, tolerance: float) -> tuple[str, bool]:
    """``(text, fine)``: how the rows that both have compare, and whether no ratio is below ``tolerance``.

    What counts is the ratio of rates that were divided by that of the reference product, measured in the same turns.

    Raises:
        InputError: as `pairs`.
    """
    lines, fine = [f"{'agent':<17}  seeds  what         new/old  relative"], True
    for row, other in pairs(new["rows"], old["rows"]):
        for what in ("updates_per_s", "loop_per_s"):
            if what in row and what in other:
                raw = row[what] / other[what]
                relative = raw * other["reference_gflop_per_s"] / row["reference_gflop_per_s"]
                fine &= relative >= tolerance
                told = f"  slower than {tolerance:g}" * (relative < tolerance)
                name = what.removesuffix("_per_s")
                lines.append(f"{row['agent']:<17}  {row['seeds']:>5}  {name:<11}  {raw:>7.2f}  {relative:>8.2f}{told}")
    return "\n".join(lines), fine


def _compile(function: Any, *args: Any) -> tuple[Any, float]:
    """The compiled function, and the seconds of tracing and compiling."""
    begin = time.perf_counter()
    return function.lower(*args).compile(), time.perf_counter() - begin


def _described(run: Callable[[int], Any], compiled: Any, seconds: float, mesh: Mesh | None) -> Program:
    """Bytes: arguments, results that are not arguments again, and workspace, as the compiler has planned them."""
    plan = compiled.memory_analysis()
    used = plan.argument_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes + plan.temp_size_in_bytes
    counts, times = compiled.cost_analysis(), mesh.size if mesh else 1
    return Program(run, seconds, used, times * counts.get("flops", 0.0), times * counts.get("bytes accessed", 0.0))


def _seconds(run: Callable[[int], Any], num: int) -> float:
    begin = time.perf_counter()
    run(num)
    return time.perf_counter() - begin


@contextlib.contextmanager
def _compiling_anew() -> Iterator[None]:
    """Within the block no program comes from the persistent cache: seconds of compiling are what they are the first time."""
    before = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # what it has found out about the setting
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()
