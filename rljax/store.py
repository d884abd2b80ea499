"""Run folders: settings, metrics, timings and checkpoints on disk, such that a kill at any moment loses nothing.

A checkpoint is a folder ``checkpoints/<step>`` of orbax trees, ``host.json`` and ``manifest.json`` with a digest of each
file. It is written under a temporary name and renamed when whole; one that does not match its manifest is never used.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import hashlib
import json
import logging
import math
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import jax
import numpy as np

from rljax.base import InputError

PyTree = Any

JOIN_SECONDS = 10.0  # that the threads of a write that failed get to end


def encode(row: Mapping[str, Any]) -> str:
    """One line of JSON; numbers that are not finite become the strings "nan", "inf", "-inf"."""
    return json.dumps({k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}) + "\n"


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a ``.jsonl`` file, with "nan", "inf" and "-inf" as floats; a half-written last line is left out.

    Raises:
        InputError: if a line is not a JSON object.
    """
    return parse_rows(path, _text(path)) if path.exists() else []


def parse_rows(path: Path, text: str) -> list[dict[str, Any]]:
    """As `read_rows`, of ``text`` that is in ``path``, or comes into it."""
    names, rows, lines = {"nan", "inf", "-inf"}, [], text.splitlines(keepends=True)
    for number, line in enumerate(line for line in lines if line.endswith("\n")):
        try:
            rows.append(dict(json.loads(line)))
        except (ValueError, TypeError, RecursionError):
            raise InputError(f"{path} is damaged in line {number + 1}: restore it, or start anew with --fresh") from None
    return [{k: float(v) if isinstance(v, str) and v in names else v for k, v in row.items()} for row in rows]


def read_json(path: Path) -> Any:
    """The contents of a JSON file.

    Raises:
        InputError: if it is missing or broken.
    """
    try:
        return json.loads(_text(path))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: {path.parent} is not a run folder") from None
    except NotADirectoryError:
        raise InputError(f"{path.parent} is a file, not a run folder") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({error}): restore it, or start anew with --fresh") from None


def require(path: Path, found: Any, kinds: Mapping[str, Any]) -> dict[str, Any]:
    """``found``, which was read from ``path``, if it is an object with values of these kinds, whole numbers of 64 bits.

    Raises:
        InputError: if it is not.
    """
    values = found if isinstance(found, dict) else {}
    for name, kind in kinds.items():
        value = values.get(name, ...)
        if not isinstance(value, kind) or (isinstance(value, int) and not -(2**63) <= value < 2**63):
            raise InputError(f"{path} is damaged, {name!r} is missing or wrong: restore it, or start anew with --fresh")
    return values


def _text(path: Path) -> str:
    """The text of a file; nothing is waited for, as for a pipe, and nothing endless is read, as a device."""
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is not a file: restore it, or start anew with --fresh")
    return path.read_text(errors="replace")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` to ``path`` as a whole or not at all."""
    write_bytes(path, (json.dumps(value, indent=2) + "\n").encode())


def write_bytes(path: Path, contents: bytes) -> None:
    """Write ``contents`` to ``path`` as a whole or not at all."""
    part = path.with_name(path.name + ".part")
    with _writing(path):
        try:
            part.write_bytes(contents)
            part.replace(path)
        except OSError:
            part.unlink(missing_ok=True)
            raise


def inside(run: Path, name: str) -> Path:
    """The path of ``name`` in a run folder, for writing.

    Raises:
        InputError: if there is something that is neither a file nor a folder, or a link that leads out of the run folder.
    """
    path = run / name
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(run)):  # `Path.resolve` fails in a loop
        raise InputError(f"{path} is a link that leads out of the run folder: put what it leads to in its place")
    if os.path.lexists(path) and not (path.is_file() or path.is_dir()):
        raise InputError(f"{path} is neither a file nor a folder: remove it")
    return path


def append(path: Path, text: str) -> None:
    """Add ``text`` at the end of ``path`` as a whole, or, if the disk is full, not at all."""
    size = path.stat().st_size if path.exists() else 0
    with _writing(path):
        try:
            with path.open("a") as file:
                file.write(text)
        except OSError:
            truncate(path, size)
            raise


def drop_half_line(path: Path) -> None:
    """Cut off what a process that was killed has left of a last line."""
    if path.exists():
        truncate(path, path.read_bytes().rfind(b"\n") + 1)


def truncate(path: Path, size: int) -> None:
    """Cut ``path`` back to ``size`` bytes, if it is longer."""
    if path.exists() and path.stat().st_size > size:
        os.truncate(path, size)


def require_prefix(path: Path, size: int, digest: str) -> None:
    """Hold the first ``size`` bytes of ``path`` against their `file_digest`.

    Raises:
        InputError: if some are missing or changed.
    """
    have = path.stat().st_size if path.exists() else 0
    if have < size:
        raise InputError(f"{path} has lost rows, {size - have} bytes of them: restore it, or start anew with --fresh")
    if file_digest(path, size) != digest:
        raise InputError(f"{path} was changed after it was written: restore it, or start anew with --fresh")


def file_digest(path: Path, size: int | None = None) -> str:
    """BLAKE2b of the first ``size`` bytes of ``path``, or of all."""
    total = hashlib.blake2b()
    with path.open("rb") as file:
        while chunk := file.read(2**20 if size is None else min(size, 2**20)):
            total.update(chunk)
            size = None if size is None else size - len(chunk)
    return total.hexdigest()


@contextlib.contextmanager
def locked(run: Path) -> Iterator[None]:
    """Create the run folder and hold its lock; a folder that this call created and left empty is removed again.

    Raises:
        InputError: if the folder cannot be written or locked, holds links that lead out of it, or another process holds the
            lock.
    """
    made, unlocked = [p for p in (run, *run.parents) if not p.exists()], not (run / ".lock").exists()
    try:
        run.mkdir(parents=True, exist_ok=True)
        file = inside(run, ".lock").open("a")
    except OSError as error:
        raise InputError(f"cannot write to {run}: {error.strerror}; choose another folder with --out") from None
    with file:
        try:
            _lock(file)
        except BlockingIOError:
            raise InputError(f"another process is writing to {run}: wait for it, or choose another folder with --out") from None
        except OSError as error:
            raise InputError(
                f"{run} cannot be locked ({error.strerror}): choose a folder on a file system with flock"
            ) from None
        try:
            for path in run.rglob("*"):
                inside(run, str(path.relative_to(run)))
            yield
        except InputError:
            if unlocked:
                (run / ".lock").unlink(missing_ok=True)
            raise
        finally:
            if os.listdir(run) in ([], [".lock"]):
                (run / ".lock").unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # another run has been begun beside this one
                    for folder in made:
                        folder.rmdir()


def is_locked(run: Path) -> bool:
    """Whether a process holds the lock of the run folder."""
    if not (run / ".lock").is_file():
        return False
    try:
        with (run / ".lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except BlockingIOError:
        return True
    return False


def _lock(file: IO[str]) -> None:
    """Take the lock; `BlockingIOError` if another process has it for longer than a look by `is_locked` takes."""
    for _ in range(5):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(0.02)
    raise BlockingIOError


def set_aside(run: Path) -> Path | None:
    """Move a run folder to ``<name>.old-K`` and return the new path, or None if there was none."""
    if not run.exists():
        return None
    number = 1
    while (aside := run.with_name(f"{run.name}.old-{number}")).exists():
        number += 1
    return run.rename(aside)


def save(run: Path, step: int, trees: Mapping[str, PyTree], host: Mapping[str, Any], keep: int = 2) -> None:
    """Write checkpoint ``step`` and remove all but the newest ``keep``. ``trees`` hold arrays, ``host`` is JSON."""
    import orbax.checkpoint as ocp

    folder = run.resolve() / "checkpoints"
    part = folder / f"{step}.part"
    shutil.rmtree(part, ignore_errors=True)
    with _writing(folder / str(step)):
        try:
            part.mkdir(parents=True)
            with _quiet(), _uncounted(), ocp.StandardCheckpointer() as checkpointer:
                for name, tree in trees.items():
                    checkpointer.save(part / name, tree)
                    checkpointer.wait_until_finished()
            write_json(part / "host.json", host)
            write_json(part / "manifest.json", _digests(part))
        except (OSError, ValueError):
            shutil.rmtree(part, ignore_errors=True)
            raise
    shutil.rmtree(folder / str(step), ignore_errors=True)
    part.rename(folder / str(step))
    for old in _steps(folder)[:-keep]:
        shutil.rmtree(folder / str(old))


def newest(run: Path, say: Callable[[str], None]) -> tuple[int, dict[str, Any]] | None:
    """``(step, host)`` of the newest checkpoint that is whole, or None; ``say`` is told of each one that is not.

    Raises:
        InputError: if ``host`` is no JSON.
    """
    folder = run.resolve() / "checkpoints"
    for step in reversed(_steps(folder)):
        fault = _fault(folder / str(step))
        if fault is None:
            return step, read_json(folder / str(step) / "host.json")
        say(f"the checkpoint of step {step} is damaged ({fault}); trying the one before it")
    return None


def newest_host(run: Path) -> dict[str, Any] | None:
    """``host`` of the newest checkpoint in which it is whole, be its arrays so or not; None if there is none."""
    folder = run / "checkpoints"
    for step in reversed(_steps(folder)):
        with contextlib.suppress(InputError, OSError, KeyError, TypeError):
            manifest = read_json(folder / str(step) / "manifest.json")
            if manifest["host.json"] == file_digest(folder / str(step) / "host.json"):
                host: dict[str, Any] = read_json(folder / str(step) / "host.json")
                return host
    return None


def drop_after(run: Path, step: int) -> None:
    """Remove all checkpoints newer than ``step`` and all half-written ones. Hold the lock: they may be another's work."""
    folder = run.resolve() / "checkpoints"
    for old in [*folder.glob("*.part"), *(folder / str(s) for s in _steps(folder) if s > step)]:
        shutil.rmtree(old)


def load(run: Path, step: int, name: str, target: PyTree) -> PyTree:
    """One tree of checkpoint ``step``, with the structure, shapes and dtypes of ``target`` (`jax.eval_shape` will do).

    Raises:
        InputError: if it holds another structure or other shapes, as those of another version may.
    """
    import orbax.checkpoint as ocp

    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), target)
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            found = checkpointer.restore(run.resolve() / "checkpoints" / str(step) / name, target)
        if len(jax.tree.leaves(found)) < len(jax.tree.leaves(target)):  # where () was kept, () comes back
            raise ValueError("an array is missing")
        return found
    except ValueError as error:
        raise InputError(
            f"the checkpoint of step {step} in {run} holds other arrays than this code's: use the version that wrote it "
            "(versions.json), or start anew with --fresh"
        ) from error


def digest(tree: PyTree) -> str:
    """SHA-256 over paths, dtypes, shapes and bytes of the arrays of ``tree``."""
    total = hashlib.sha256()
    for path, x in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x)
        total.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode() + array.tobytes())
    return total.hexdigest()


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Let what the operating system refuses be an `OSError` that names ``path``; tensorstore's is a ValueError."""
    try:
        yield
    except (OSError, ValueError) as error:
        found = re.search(r"os_error_code='(\d+)'", str(error))
        code = error.errno if isinstance(error, OSError) else int(found[1]) if found else None
        if code is None:
            raise
        raise OSError(code, os.strerror(code), str(path)) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what orbax and its threads print of a failure or an interrupt, which is raised once they have ended."""
    before, disabled, hook = threading.enumerate(), logging.root.manager.disable, sys.unraisablehook
    logging.disable(logging.CRITICAL)
    sys.unraisablehook = lambda unraisable: None
    try:
        yield
    except BaseException:
        for thread in threading.enumerate():
            if thread not in before:
                thread.join(JOIN_SECONDS)
        gc.collect()
        raise
    finally:
        logging.disable(disabled)
        sys.unraisablehook = hook


@contextlib.contextmanager
def _uncounted() -> Iterator[None]:
    """Without tensorstore's metrics, which orbax asks for with each tree: what they are returned in is never freed."""
    import tensorstore

    name = "experimental_collect_matching_metrics"
    before = getattr(tensorstore, name)
    setattr(tensorstore, name, lambda *args: [])
    try:
        yield
    finally:
        setattr(tensorstore, name, before)


def _steps(folder: Path) -> Sequence[int]:
    return sorted(int(p.name) for p in folder.iterdir() if re.fullmatch("0|[1-9][0-9]{,17}", p.name)) if folder.is_dir() else []


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "manifest.json")
    return {str(p.relative_to(folder)): file_digest(p) for p in files}


def _fault(folder: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        manifest, found = require(folder / "manifest.json", read_json(folder / "manifest.json"), {}), _digests(folder)
    except (OSError, ValueError):
        return "its manifest is missing or broken"
    wrong = sorted(name for name in manifest.keys() | found.keys() if manifest.get(name) != found.get(name))
    return f"{wrong[0]} is missing or changed" if wrong else None
