"""Run folders: rows, whole files, checkpoints that are found, refused and replaced, the lock, and digests."""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rljax import store
from rljax.base import InputError

VALUES = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats() | st.sampled_from(["train", "eval", ""])


class Pair(NamedTuple):
    """A container of a checkpoint."""

    first: object
    second: object


def tree():
    """Leaves of every kind that a run keeps, odd numbers among them."""
    return {
        "keys": jax.random.split(jax.random.key(3), (2, 3)),
        "key": jax.random.key(2**32 - 1),
        "pair": Pair((), jnp.array([math.nan, math.inf, -math.inf, -0.0, 1e-45, 3.4028235e38], jnp.float32)),
        "flags": jnp.array([[True], [False]]),
        "image": jnp.arange(250, 256, dtype=jnp.uint8),
        "count": jnp.int32(-(2**31)),
        "list": [(), {"a": jnp.ones((2, 1, 3)), "b": Pair(jnp.zeros(1), ())}],
    }


def bits(x):
    """The bytes of an array, with its shape and dtype."""
    x = jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    return np.asarray(x).tobytes(), x.shape, x.dtype


def assert_same(a, b):
    """Structure, dtypes, shapes and all bits are equal."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype and bits(x) == bits(y)


def step_tree(step):
    """A small tree that knows its step."""
    return {"x": jnp.arange(4000) * step, "y": Pair(jnp.float32(step), ())}


def saved(run, *steps):
    """The run folder with checkpoints of those steps, each with a host dictionary."""
    for step in steps:
        store.save(run, step, {"agent": step_tree(step)}, {"iteration": step})
    return run


def names(run):
    """Names in the folder of checkpoints."""
    return sorted(p.name for p in (run / "checkpoints").iterdir())


@settings(deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(["step", "critic/loss", "kind", "x"]), VALUES), max_size=4), st.data())
def test_rows_survive_a_round_trip_and_a_cut(tmp_path_factory, rows, data):
    """Values and types come back, nan and inf included; of a file cut anywhere, the whole lines."""
    path = tmp_path_factory.mktemp("rows") / "metrics.jsonl"
    lines = [store.encode(row) for row in rows]
    for line in lines:
        assert line.endswith("\n") and line.count("\n") == 1
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
        store.append(path, line)
    assert repr(store.read_rows(path)) == repr(rows)
    size = sum(map(len, lines))
    cut = data.draw(st.integers(0, size))
    store.truncate(path, cut)
    whole = sum(sum(map(len, lines[: i + 1])) <= cut for i in range(len(lines)))
    assert repr(store.read_rows(path)) == repr(rows[:whole])


def test_numbers_that_are_not_finite_are_strings():
    """The words of the file format, and what reads them."""
    row = {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1.5, "e": True}
    assert store.encode(row) == '{"a": "nan", "b": "inf", "c": "-inf", "d": 1.5, "e": true}\n'


def test_rows_of_a_file_that_is_not_there(tmp_path):
    """None, and it cannot be cut back to what it never had."""
    assert store.read_rows(tmp_path / "metrics.jsonl") == []
    store.truncate(tmp_path / "metrics.jsonl", 0)
    with pytest.raises(InputError, match="has lost rows, 10 bytes"):
        store.require_prefix(tmp_path / "metrics.jsonl", 10, "")
    assert not list(tmp_path.iterdir())


def test_write_json_is_whole_or_not_at_all(tmp_path, monkeypatch):
    """A value that cannot be written, or a failure before the file is in place, leaves the old contents."""
    path = tmp_path / "config.json"
    store.write_json(path, {"a": [1, 2.5, None, "x"]})
    assert store.read_json(path) == {"a": [1, 2.5, None, "x"]} and os.listdir(tmp_path) == ["config.json"]
    with pytest.raises(TypeError):
        store.write_json(path, {"a": object()})
    assert store.read_json(path) == {"a": [1, 2.5, None, "x"]}
    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(type(path), "replace", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        store.write_json(path, {"b": 1})
    assert store.read_json(path) == {"a": [1, 2.5, None, "x"]}
    store.write_json(path, {"b": 1})
    assert store.read_json(path) == {"b": 1} and os.listdir(tmp_path) == ["config.json"]


@contextlib.contextmanager
def full(size):
    """No file can grow beyond so many bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("write", [store.append, store.write_json])
def test_a_full_disk_leaves_a_file_as_it_was(tmp_path, write):
    """The error names the file, and no part of what did not fit is left."""
    path = tmp_path / "rows"
    store.write_json(path, [1, 2])
    before = path.read_bytes()
    with full(len(before) + 3), pytest.raises(OSError, match="File too large: '.*rows'"):
        write(path, "a long line\n" * 3)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["rows"]


@pytest.mark.parametrize("size", [0, *(pytest.param(size, marks=pytest.mark.slow) for size in (40, 200)), 1_000])
def test_a_full_disk_leaves_the_checkpoints_as_they_were(tmp_path, intact, capfd, size):
    """Whichever of its files does not fit: one error, nothing printed beside it, and the newest is the one before."""
    run = copied(intact, tmp_path)
    with full(size), pytest.raises(OSError, match="File too large: '.*checkpoints/3'"):
        store.save(run, 3, {"agent": step_tree(3)}, {"iteration": 3, "pending": "x" * 2_000})
    assert names(run) == ["1", "2"] and store.newest(run, pytest.fail)[0] == 2
    assert capfd.readouterr() == ("", "")


def test_a_clock_that_is_set_back_while_checkpoints_are_written(tmp_path, monkeypatch):
    """By an hour at each look: they are written, and found by their numbers."""
    now, hours = time.time, itertools.count()
    monkeypatch.setattr(time, "time", lambda: now() - 3_600 * next(hours))
    saved(tmp_path, 1, 2, 3)
    assert names(tmp_path) == ["2", "3"] and store.newest(tmp_path, pytest.fail) == (3, {"iteration": 3})


def test_half_a_line_is_dropped(tmp_path):
    path = tmp_path / "timing.jsonl"
    store.drop_half_line(path)
    for text, left in (("", ""), ("{}", ""), ("{}\n{}\n", "{}\n{}\n"), ('{}\n{"st', "{}\n")):
        path.write_text(text)
        store.drop_half_line(path)
        assert path.read_text() == left


@pytest.mark.parametrize(
    ("text", "says"),
    [(None, "is not a run folder"), ("{", "cannot be read"), ("", "cannot be read"), ("[" * 100_000, "cannot be read")],
)
def test_read_json_says_what_is_wrong(tmp_path, text, says):
    """A file that is missing, cut off or empty is named in one sentence."""
    path = tmp_path / "config.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=f"config.json .*{says}"):
        store.read_json(path)


def test_what_never_ends_is_not_read(tmp_path):
    """A pipe, or a link to a device, in the place of a file."""
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "zero.json").symlink_to("/dev/zero")
    for name in ("pipe.json", "zero.json"):
        for read in (store.read_json, store.read_rows):
            with pytest.raises(InputError, match="is not a file"):
                read(tmp_path / name)


def test_require(tmp_path):
    """Names, kinds, and numbers of 64 bits."""
    assert store.require(tmp_path, {"a": 3, "b": "x"}, {"a": int}) == {"a": 3, "b": "x"}
    for wrong in ({}, {"a": "3"}, {"a": None}, {"a": 2**63}, [], None):
        with pytest.raises(InputError, match="is damaged, 'a' is missing or wrong"):
            store.require(tmp_path, wrong, {"a": int})


def test_inside(tmp_path):
    """A link within the run is fine, one that leads out of it, or a pipe, is not."""
    run = tmp_path / "run"
    run.mkdir()
    (tmp_path / "mine").write_text("mine")
    for name, target in (("new", "other"), ("out", tmp_path / "mine"), ("up", ".."), ("loop", "loop")):
        (run / name).symlink_to(target)
    os.mkfifo(run / "pipe")
    assert store.inside(run, "curve.png") == run / "curve.png"
    for name in ("out", "up", "../mine", "/etc/passwd"):
        with pytest.raises(InputError, match="leads out of the run folder"):
            store.inside(run, name)
    for name in ("pipe", "loop"):
        with pytest.raises(InputError, match="neither a file nor a folder"):
            store.inside(run, name)
    with pytest.raises(InputError), store.locked(run):
        pass


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path):
    """Typed keys, bool, uint8, int32, odd float32, empty tuples and NamedTuples; several trees; the host's values."""
    trees, host = (
        {"agent": tree(), "loop": Pair(jnp.arange(3), ())},
        {"iteration": 2**40, "pending": 'a\n"b"', "alive": [True]},
    )
    store.save(tmp_path, 7, trees, host)
    assert store.newest(tmp_path, pytest.fail) == (7, host)
    for name, expected in trees.items():
        back = store.load(tmp_path, 7, name, jax.eval_shape(lambda x=expected: x))
        assert_same(back, expected)
        assert store.digest(back) == store.digest(expected)
    assert names(tmp_path) == ["7"]


@pytest.mark.parametrize(
    "other",
    [Pair((), jnp.arange(4)), Pair(jnp.arange(2), jnp.arange(3)), {"second": jnp.arange(3)}, jnp.arange(3)],
    ids=["shape", "one more array", "one name less", "no container"],
)
def test_a_checkpoint_of_other_arrays_is_told(tmp_path, other):
    """What another version's state was made of is not this one's."""
    store.save(tmp_path, 7, {"agent": Pair((), jnp.arange(3))}, {})
    with pytest.raises(InputError, match="the checkpoint of step 7 in .* holds other arrays than this code's: use the version"):
        store.load(tmp_path, 7, "agent", jax.eval_shape(lambda: other))


def test_a_folder_without_checkpoints(tmp_path):
    """There is none, whether or not the folder of checkpoints exists."""
    assert store.newest(tmp_path, pytest.fail) is None
    (tmp_path / "checkpoints").mkdir()
    assert store.newest(tmp_path, pytest.fail) is None


def test_nothing_stays_in_memory_of_a_checkpoint(tmp_path):
    """A run may write them by the thousand."""

    def objects(steps):
        for step in steps:
            store.save(tmp_path, step, {"params": {"x": jnp.ones(3)}}, {})
        gc.collect()
        return len(gc.get_objects())

    before = objects(range(3))
    assert objects(range(3, 11)) - before < 80


def test_two_checkpoints_are_kept(tmp_path, monkeypatch):
    """The newest by number, not by name; a relative path will do; saving a step again replaces it."""
    monkeypatch.chdir(tmp_path)
    run = type(tmp_path)("run")
    saved(run, 8, 9, 10, 100)
    assert names(run) == ["10", "100"]
    store.save(run, 100, {"agent": step_tree(5)}, {"iteration": -1})
    assert store.newest(run, pytest.fail) == (100, {"iteration": -1})
    assert_same(store.load(run, 100, "agent", step_tree(0)), step_tree(5))


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    """A run with checkpoints 1 and 2."""
    return saved(tmp_path_factory.mktemp("run"), 1, 2)


def payload(folder):
    """The largest file of a checkpoint: its arrays."""
    return max((p for p in (folder / "agent").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def flip(folder):
    path = payload(folder)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(folder):
    store.truncate(payload(folder), payload(folder).stat().st_size - 1)


def remove(folder):
    payload(folder).unlink()


def add(folder):
    (folder / "agent" / "stray").touch()


def without_manifest(folder):
    (folder / "manifest.json").unlink()


def broken_manifest(folder):
    store.truncate(folder / "manifest.json", 20)


def changed_host(folder):
    (folder / "host.json").write_text('{"iteration": 3}')


@pytest.mark.parametrize("damage", [flip, cut, remove, add, without_manifest, broken_manifest, changed_host])
def test_a_damaged_checkpoint_is_said_and_the_one_before_is_used(tmp_path, intact, damage):
    """One sentence names its step and what is wrong; nothing is touched until the ones after are dropped."""
    run = copied(intact, tmp_path)
    damage(run / "checkpoints" / "2")
    said = []
    assert store.newest(run, said.append) == (1, {"iteration": 1})
    assert len(said) == 1 and "\n" not in said[0]
    assert said[0].startswith("the checkpoint of step 2 is damaged (") and said[0].endswith("); trying the one before it")
    assert "manifest" in said[0] if "manifest" in damage.__name__ else "is missing or changed" in said[0]
    assert names(run) == ["1", "2"]
    store.drop_after(run, 1)
    assert names(run) == ["1"]
    assert store.newest(run, pytest.fail) == (1, {"iteration": 1})
    assert_same(store.load(run, 1, "agent", step_tree(0)), step_tree(1))


def test_what_a_damaged_host_says_is_not_used(tmp_path, intact):
    """`newest_host` is that of the newest checkpoint in which it is whole, whatever else is damaged there."""
    run = copied(intact, tmp_path)
    flip(run / "checkpoints" / "2")
    assert store.newest_host(run)["iteration"] == 2
    host = run / "checkpoints" / "2" / "host.json"
    host.write_text(host.read_text().replace("iteration", "iteratiom"))
    assert store.newest_host(run)["iteration"] == 1
    without_manifest(run / "checkpoints" / "1")
    assert store.newest_host(run) is None


def test_no_checkpoint_is_left_if_all_are_damaged(tmp_path, intact):
    """Both are said, newest first."""
    run, said = copied(intact, tmp_path), []
    for step in ("1", "2"):
        flip(run / "checkpoints" / step)
    assert store.newest(run, said.append) is None
    assert ["step 2" in said[0], "step 1" in said[1], len(said)] == [True, True, 2]


def test_a_half_written_checkpoint_is_not_used(tmp_path, intact):
    """What a kill during `save` leaves is passed over without a word, and the next save of that step is not hindered."""
    run = copied(intact, tmp_path)
    part = run / "checkpoints" / "3.part"
    (run / "checkpoints" / "2").rename(part)
    assert store.newest(run, pytest.fail) == (1, {"iteration": 1})
    (part / "stray").touch()
    saved(run, 3)
    assert store.newest(run, pytest.fail) == (3, {"iteration": 3}) and names(run) == ["1", "3"]


def copied(intact, tmp_path):
    """A copy of the run that may be damaged."""
    return shutil.copytree(intact, tmp_path / "run")


HOLD = """
import sys
from pathlib import Path
from rljax import store
with store.locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused(tmp_path):
    """While one process holds the lock another gets one sentence; when the holder is killed the lock is free."""
    run = tmp_path / "runs" / "a"
    command = [sys.executable, "-c", HOLD, str(run)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=f"another process is writing to {run}: "), store.locked(run):
            pytest.fail("the lock was given twice")
        assert run.is_dir()
        holder.kill()
    with store.locked(run):
        (run / "config.json").touch()
    assert sorted(os.listdir(run)) == [".lock", "config.json"]


def test_the_lock_leaves_nothing_behind(tmp_path):
    """Folders that it made are removed if nothing was written, also after an error; those that were there stay."""
    run = tmp_path / "runs" / "deep" / "a"
    with store.locked(run):
        assert os.listdir(run) == [".lock"]
    assert os.listdir(tmp_path) == []
    (tmp_path / "runs").mkdir()
    with pytest.raises(InputError, match="wrong"), store.locked(run):
        raise InputError("wrong")
    assert os.listdir(tmp_path) == ["runs"] and os.listdir(tmp_path / "runs") == []
    with store.locked(tmp_path / "runs"):
        pass
    assert os.listdir(tmp_path) == ["runs"] and os.listdir(tmp_path / "runs") == []


def test_the_lock_leaves_a_neighbour_alone(tmp_path):
    """A run begun beside this one in a folder that this one made keeps it, and the error is still the first one."""
    with pytest.raises(InputError, match="wrong"), store.locked(tmp_path / "runs" / "a"):
        (tmp_path / "runs" / "b").mkdir()
        raise InputError("wrong")
    assert os.listdir(tmp_path / "runs") == ["b"]


def test_a_folder_that_cannot_be_made(tmp_path):
    """A file in the way is one sentence."""
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write to .*; choose another folder with --out"):
        with store.locked(tmp_path / "file" / "run"):
            pass


def test_set_aside_counts_up(tmp_path):
    """The first free number from 1 on; nothing is overwritten; without a run there is nothing to do."""
    run = tmp_path / "run"
    assert store.set_aside(run) is None
    for number in (1, 2, 3):
        run.mkdir()
        (run / "mark").write_text(str(number))
        assert store.set_aside(run) == tmp_path / f"run.old-{number}"
        assert not run.exists()
    assert [(tmp_path / f"run.old-{i}" / "mark").read_text() for i in (1, 2, 3)] == ["1", "2", "3"]


def test_digest_is_a_function_of_the_values():
    """Equal trees agree, in numpy as in jax; it is 64 hexadecimal digits."""
    assert store.digest(tree()) == store.digest(tree())
    plain = {"a": jnp.arange(3), "b": Pair(jnp.zeros(2), ())}
    assert store.digest(plain) == store.digest(jax.tree.map(np.asarray, plain))
    assert len(store.digest(plain)) == 64 and int(store.digest(plain), 16)


def test_digest_changes_with_any_leaf():
    """One changed bit, another dtype, shape, name or order of the same bytes: all digests differ."""
    leaves, structure = jax.tree.flatten(tree())
    seen = [store.digest(tree())]
    for i, leaf in enumerate(leaves):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            changed = jax.random.wrap_key_data(jax.random.key_data(leaf).at[..., -1].add(1))
        else:
            data = bytearray(np.asarray(leaf).tobytes())
            data[-1] ^= 1
            changed = np.frombuffer(bytes(data), leaf.dtype).reshape(leaf.shape)
        seen.append(store.digest(jax.tree.unflatten(structure, [*leaves[:i], changed, *leaves[i + 1 :]])))
    zeros = np.zeros((2, 3), np.float32)
    for other in (zeros, zeros.T, zeros.reshape(6), zeros.view(np.int32), -zeros):
        seen.append(store.digest({"a": other}))
    seen += [store.digest({"b": zeros}), store.digest(()), store.digest({"a": zeros[0], "b": zeros[1]})]
    assert len(set(seen)) == len(seen)
