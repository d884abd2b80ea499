"""What becomes of an input that is handed to the command ``rljax`` or to a function, in this process: `judge`.

* refused: exit code 2 and one line on stderr, or of a function an `InputError`, `TypeError`, `ValueError` or `OverflowError`
  of one line, or, where an object of another class is expected, Python's `AttributeError` that names both;
* accepted: it is legal after all; what would then be trained, measured or played is left out (`stubs`);
* traceback, hang (`SECONDS`), memory (`BYTES` more than before), and stray: something outside the working folder was written,
  a refusal left a file, a program was started, a connection made, or code run that lies in the data.

Inner functions, which see arrays inside compiled programs, may refuse in Python's or JAX's own words.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import os
import re
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax

from rljax.base import InputError

SECONDS = 10.0
BYTES = 4 * 2**30
WRITES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "shutil.rmtree"}
STARTS = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect"}
BAD = ("traceback", "hang", "memory", "stray")


class Case(NamedTuple):
    """An input: its group, what reproduces it, and a function that hands it over. ``inner``: see above."""

    group: str
    name: str
    call: Callable[[], Any]
    inner: bool = False


class Verdict(NamedTuple):
    """What came of a `Case`, and a sentence on it."""

    outcome: str
    said: str


class Accepted(BaseException):
    """The input is legal: what comes now takes long, and is another test's."""


class Hang(BaseException):
    """Time is over, or nothing happens any more."""


class Refused(Exception):
    """The command ended with exit code 2 and these words."""


class Box:
    """A working folder that is put back after each case, and a witness of what happens outside of it."""

    def __init__(self, root: Path) -> None:
        self.work, self.fixed = root / "work", root / "fixed"
        self.work.mkdir()
        (root / "outside").mkdir()
        (root / "outside" / "mine").write_text("mine")
        self.root, self.watching, self.seen = root, False, []
        self.kept: dict[str, tuple[int, int]] = {}
        sys.path.append(str(self.work))  # as that of the folder in which Python was started
        sys.addaudithook(self._hear)

    def keep(self) -> None:
        """What the working folder holds now is what each case finds."""
        shutil.rmtree(self.fixed, ignore_errors=True)
        shutil.copytree(self.work, self.fixed, symlinks=True)

    def clean(self) -> None:
        """Put the working folder back."""
        if self.files() != self.kept:
            shutil.rmtree(self.work)
            shutil.copytree(self.fixed, self.work, symlinks=True)
            self.kept = self.files()
        os.chdir(self.work)

    def files(self) -> dict[str, tuple[int, int]]:
        """Size and time of every file of the working folder and of ``outside``, but locks."""
        found = {}
        for top in (self.work, self.root / "outside"):
            for folder, names, files in os.walk(top):
                for name in [*names, *files]:
                    path = os.path.join(folder, name)
                    stat = os.lstat(path)
                    found[path] = (0, 0) if name in names else (stat.st_size, stat.st_mtime_ns)
        return {path: x for path, x in found.items() if not path.endswith(".lock")}

    def strays(self, before: dict[str, tuple[int, int]], refused: bool) -> list[str]:
        """What was done outside of the working folder, or, by an input that was refused, in it but for its run folder."""
        after = self.files()
        changed = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
        own = os.path.join(self.work, "run" if refused else "")
        return [*dict.fromkeys(self.seen), *(path for path in changed if not path.startswith(own))]

    def _hear(self, event: str, args: tuple) -> None:
        if not self.watching:
            return
        if event in STARTS and not (event == "subprocess.Popen" and "git" in str(args[1])):
            self.seen.append(f"{event} {args[:2]}"[:200])
        elif event == "pickle.find_class" and args[0] == "canary":
            self.seen.append("unpickled a canary")
        elif event == "exec" and self._is_data(getattr(args[0], "co_filename", "")):
            self.seen.append(f"ran {args[0].co_filename}")
        elif event == "open" and isinstance(args[0], str) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            self._written(args[0])
        elif event in WRITES and isinstance(args[0], str | os.PathLike):
            self._written(os.fspath(args[0]))

    def _is_data(self, path: str) -> bool:
        return path.startswith(str(self.root)) and os.path.basename(path) != "study.py"

    def _written(self, path: str | bytes) -> None:
        path, cache = os.path.realpath(os.fsdecode(path)), jax.config.jax_compilation_cache_dir or "/nowhere"
        own = (str(self.work), "/dev/null", os.path.realpath(cache))
        if not path.startswith(own) and "__pycache__" not in path and "matplotlib" not in path:
            self.seen.append(f"wrote {path}")


def judge(case: Case, box: Box, seconds: float = SECONDS, limit: int = BYTES) -> Verdict:
    """Hand the case over, and say what came of it."""
    before, started = box.files(), _reset_peak()
    box.seen, spent = [], [time.process_time()]

    def look(*_: Any) -> None:  # on a busy machine, 10 s of a clock are few of work
        spent.append(time.process_time())
        if spent[-1] - spent[0] > seconds or spent[-1] - spent[-2] < seconds / 200:
            raise Hang

    signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
    faulthandler.dump_traceback_later(60 * seconds, exit=True)  # within a library that hears no signals
    box.watching = True
    try:
        outcome, said = _outcome(case)
    except Hang:
        outcome, said = "hang", f"longer than {seconds:g} s"
    finally:
        box.watching = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
    if time.process_time() - spent[0] > 1.5 * seconds:
        outcome, said = "hang", f"{time.process_time() - spent[0]:.1f} s"
    used = _peak() - started
    if used > limit:
        return Verdict("memory", f"{used / 2**30:.1f} GiB")
    strays = box.strays(before, outcome == "refused")
    return Verdict("stray", "; ".join(strays)[:500]) if strays and outcome != "hang" else Verdict(outcome, said)


def _outcome(case: Case) -> tuple[str, str]:
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            case.call()
    except Accepted:
        return "accepted", ""
    except (Refused, InputError) as error:
        said = str(error)
        return ("refused" if said.strip() and "\n" not in said else "traceback"), said
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        clear = isinstance(error, TypeError | ValueError | OverflowError) and "\n" not in str(error) and str(error).strip()
        other = isinstance(error, AttributeError) and re.fullmatch(
            r"(type object )?'.*' (object )?has no attribute '.*'", str(error)
        )
        told = clear or other or case.inner
        return ("refused" if told and not getattr(case.call, "command", False) else "traceback"), said
    return "accepted", ""


def _reset_peak() -> int:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return 1024 * int(line.split()[1])
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def named(value: Any) -> str:
    """``value`` in a case's name."""
    text = ascii(value)
    return text if len(text) < 200 else f"{text[:50]}... ({len(text)} characters)"


def command(group: str, *args: str, note: str = "") -> Case:
    """The case of ``rljax ARGS``; ``note`` is what else reproduces it."""
    from rljax.experiments import cli

    def call() -> None:
        out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", errors=how) for how in ("strict", "backslashreplace"))
        with mock.patch.object(sys, "argv", ["rljax", *args]), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                cli.main()
            except SystemExit as end:
                code = end.code
            out.flush()
        err.seek(0)
        said = err.read()
        if code == 2:
            lines = said.splitlines()
            raise Refused(lines[-1] if lines and lines[-1].startswith("rljax: error: ") else f"{said}\n(no sentence)")
        if code not in (0, 1, 130):
            raise RuntimeError(f"exit code {code}: {said}")

    call.command = True  # type: ignore[attr-defined]
    return Case(group, (f"{note}; " if note else "") + "rljax " + " ".join(map(named, args)), call)


@contextlib.contextmanager
def stubs() -> Iterator[None]:
    """Within the block, legal inputs get as far as the first thing that is compiled, and are `Accepted`."""

    def accept(*args: Any, **kwargs: Any) -> None:
        raise Accepted

    names = (
        *("train._beginning", "train._compile", "train._evaluate", "train.speed", "bench.measure", "report._rollout"),
        *("report._host_rollout", "collect._rollouts", "collect._reference", "collect._interact"),
    )
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(mock.patch(f"rljax.experiments.{name}", accept))
        stack.enter_context(mock.patch("rljax.horizon.sample._estimate", accept))
        yield
