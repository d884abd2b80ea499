"""Faults without end: ``python tests/faults/campaign.py``, which writes ``benchmarks/faults.json``.

Runs of several kinds are killed, stopped, damaged and left without disk space, again and again. After each fault the same
command must go on and end with the rows and parameters of a run that nothing happened to, or refuse with one sentence and
exit code 2, touch nothing, and go on once what is broken is mended. Whatever else happens is a loss, and is listed with what
repeats it: ``--only FAULT/SUBJECT --seed SEED``.

All commands are processes of their own, forked from this one, which has imported rljax and computed nothing. The faults of a
subject strike one run after the other until it is at its end; then it is held against the undisturbed one, and the next begins.
Disk space and write permission are those of a small file system in memory; where that cannot be mounted, these faults are left
out, and it is said.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import jax
import matplotlib.pyplot  # noqa: F401 - what commands import is imported once, here
import orbax.checkpoint  # noqa: F401
import tyro

from rljax import store
from rljax.base import InputError
from rljax.experiments import cli, finetune, machine, report, sweep, train  # noqa: F401

SIZE = 64 * 2**20  # bytes of the file system for runs
PATIENCE = 300.0  # seconds until a process that does not end is called hung
STARTING = 10.0  # seconds in which a process starts, or more
TRIES = 4  # to place a fault, as a run may end before it
PRIOR = {"wsrl/warmup": "wsrl/offline", "wsrl/online": "wsrl/warmup"}  # the phase before

SMALL = """--seeds 2 --config.actor-width 8 --config.actor-depth 1 --config.critic-width 8 --config.critic-depth 1
    --config.batch-size 8"""
TUNING = "--eval-every 500 --eval-episodes 1 --offline-steps 2000 --warmup 2000 --steps 4000 --config.num-critics 2"
MODEL = """--config.size.width 16 --config.size.hidden 16 --config.size.groups 4 --config.size.classes 4 --config.starts 8
    --config.size.actor-width 16 --config.size.critic-width 16 --config.length 8 --config.every 8 --config.warmup 800"""
STUDY = """
from rljax.experiments.sweep import Run

TINY = {"actor_width": 8, "actor_depth": 1, "critic_depth": 1, "batch_size": 8, "warmup": 1_000}
COUNTS = {"steps": 3_000, "eval_every": 500, "eval_episodes": 1}
RUNS = [Run("sac", "pendulum", config=TINY, grid={"critic_width": [8, 16], "actor_lr": [1e-4, 1e-3]}, **COUNTS)]
"""


@dataclass(frozen=True)
class Options:
    """Let faults happen to runs of several kinds, and say which were survived."""

    faults: int = 200  # how many at the least
    seed: int = 0  # of what happens when
    out: Path | None = Path("benchmarks/faults.json")  # the counts
    only: str = "/"  # FAULT/SUBJECT, a part of either, such as kill/ or /wsrl or disk-full/sac


class Lost(Exception):
    """A run did not go on as it must."""


class Subject(NamedTuple):
    """Arguments of a command without --out, and the phase in which faults must strike, if it has several."""

    name: str
    line: str
    phase: str = ""


class Whole(NamedTuple):
    """What an undisturbed run has given: the bytes of its rows by file, and hashes of its parameters."""

    rows: dict[Path, bytes]
    hashes: str


class Run(NamedTuple):
    """A run in ``disk/run`` that faults happen to; ``base`` is the folder that it begins as, if there is one."""

    subject: Subject
    disk: Path
    log: Path
    whole: Whole
    base: Path | None = None

    @property
    def out(self) -> Path:
        """Its folder."""
        return self.disk / "run"

    def launch(self, skewed: bool = False, name: str = "log") -> BaseProcess:
        """The process of its command."""
        return launch([*self.subject.line.split(), "--out", str(self.out)], self.log / name, skewed)

    def renew(self) -> None:
        """Begin anew."""
        shutil.rmtree(self.out, ignore_errors=True)
        if self.base is not None:
            shutil.copytree(self.base, self.out)

    def size(self) -> int:
        """Bytes of all rows there are."""
        return sum((self.out / name).stat().st_size for name in self.whole.rows if (self.out / name).exists())

    def parts(self) -> set[tuple[Path, int]]:
        """The checkpoints that are half-written, each with what tells it from others of its name."""
        found = [part for name in self.whole.rows for part in (self.out / name).parent.glob("checkpoints/*.part")]
        return {(part, part.stat().st_ino) for part in found}

    def last(self) -> dict[str, Any]:
        """The last whole row of the folder that has come last."""
        for name in reversed(self.whole.rows):
            lines = (self.out / name).read_bytes().split(b"\n") if (self.out / name).exists() else []
            if len(lines) > 1:
                row: dict[str, Any] = json.loads(lines[-2])
                return row
        return {}

    def step(self) -> int:
        """How far it is."""
        return int(self.last().get("step", 0))

    def over(self) -> bool:
        """Whether nothing is left that a fault could strike."""
        return self.size() >= sum(map(len, self.whole.rows.values())) or self.misses()

    def misses(self) -> bool:
        """Whether it is in another phase than faults must strike in."""
        return bool(self.subject.phase) and self.last().get("phase", "offline") != self.subject.phase

    def require_prefix(self) -> None:
        """Raise `Lost` unless all whole rows are those of the undisturbed run."""
        for name, rows in self.whole.rows.items():
            have = (self.out / name).read_bytes() if (self.out / name).exists() else b""
            if not rows.startswith(have[: have.rfind(b"\n") + 1]):
                raise Lost(f"rows of {name} are not those of the undisturbed run")

    def require_same(self) -> None:
        """Let it come to its end, and raise `Lost` unless all rows and parameters are those of the undisturbed run."""
        require(self, ended(self.launch()), 0)
        if metrics(self.out) != self.whole.rows:
            raise Lost("rows are not those of the undisturbed run")
        if hashes(self.out, self.whole.rows, self.log) != self.whole.hashes:
            raise Lost("parameters are not those of the undisturbed run")
        for name in self.whole.rows:
            store.read_rows((self.out / name).with_name("timing.jsonl"))
        if self.parts():
            raise Lost("half a checkpoint is left")


def launch(args: list[str], log: Path, skewed: bool = False) -> BaseProcess:
    """The process of ``rljax`` with these arguments; what it prints goes to ``log`` and ``log.err``."""
    return fork(partial(_command, args, skewed), log)


def fork(work: Callable[[], None], log: Path) -> BaseProcess:
    """A process that has begun to do ``work``."""
    log.with_suffix(".err").unlink(missing_ok=True)
    process = multiprocessing.get_context("fork").Process(target=_child, args=(work, log), daemon=True)
    process.start()
    wait(process, log.with_suffix(".err").exists)
    return process


def _child(work: Callable[[], None], log: Path) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for number, path in ((1, log), (2, log.with_suffix(".err"))):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
    work()


def _command(args: list[str], skewed: bool) -> None:
    sys.argv = ["rljax", *args]
    if skewed:
        now, now_ns, draw = time.time, time.time_ns, random.Random(0)
        behind = itertools.accumulate(map(lambda _: 3_600 * (draw.random() < 0.1), itertools.count()))  # set back at times
        time.time, time.time_ns = lambda: now() - next(behind), lambda: now_ns() - next(behind) * 10**9
    cli.main()


def ended(process: BaseProcess) -> int | None:
    """The exit code, once there is one; None of a process that had to be killed as it hung."""
    process.join(PATIENCE)
    if not process.is_alive():
        return process.exitcode
    killed(process)
    return None


def killed(process: BaseProcess) -> None:
    """Kill it and wait for its end."""
    process.kill()
    process.join()


def wait(process: BaseProcess, condition: Callable[[], bool]) -> bool:
    """Whether the condition came to hold while the process lived."""
    deadline = time.monotonic() + PATIENCE
    while process.is_alive() and time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError):  # what is looked at changes
            if condition():
                return True
        time.sleep(0.001)
    return False


def require(run: Run, code: int | None, *codes: int, name: str = "log") -> None:
    """Raise `Lost` unless the process ended with one of these codes, after a single sentence if it is 2."""
    said = (run.log / name).with_suffix(".err").read_text(errors="replace")
    said = re.sub("the checkpoint of step .* trying the one before it\n", "", said)
    last = f"it said: {said[:600]} ... {said[-600:]}"
    if code not in codes:
        raise Lost(f"exit code {'none, it hung' if code is None else code}; {last}")
    if "Traceback" in said:
        raise Lost(f"a traceback; {last}")
    if code == 2 and not (said.startswith("rljax: error: ") and said.count("\n") == 1):
        raise Lost(f"no single sentence; {last}")


def metrics(out: Path) -> dict[Path, bytes]:
    """The rows of all run folders, those of the part that comes first before the others."""
    found = {path.relative_to(out): path.read_bytes() for path in out.rglob("metrics.jsonl")}
    return dict(sorted(found.items(), key=lambda item: (-len(item[0].parts), item[0])))


def hashes(out: Path, names: Mapping[Path, bytes], log: Path) -> str:
    """Hashes of the parameters in all run folders."""

    def show() -> None:
        print([store.digest(train.load((out / name).parent).state) for name in names])

    code = ended(fork(show, log / "hashes"))
    return (log / "hashes").read_text() if code == 0 else f"unreadable: {(log / 'hashes.err').read_text()}"


def tree(folder: Path) -> dict[str, str]:
    """Digests of all files."""
    return {str(path): store.file_digest(path) for path in sorted(folder.rglob("*")) if path.is_file()}


# Moments: they return True at theirs, and False if the process has ended before.


def anytime(run: Run, process: BaseProcess, rng: random.Random) -> bool:
    """While it starts, or a while after its next row."""
    before, seconds = run.size(), rng.uniform(0, 1)
    if rng.random() < 0.3:
        seconds = rng.uniform(0.05, STARTING)
    elif not wait(process, lambda: run.size() != before):
        return False
    until = time.monotonic() + seconds
    return wait(process, lambda: time.monotonic() > until)


def writing(run: Run, process: BaseProcess, rng: random.Random) -> bool:
    """While it writes a checkpoint."""
    before = run.parts()  # what others have left
    while wait(process, lambda: bool(run.parts() - before)):
        time.sleep(rng.uniform(0, 0.1))
        with contextlib.suppress(FileNotFoundError):
            if run.parts() - before:
                return True
    return False


# Faults: they return what became of the command, "survived" or "refused", or None if the run was at its end before.


def launched(run: Run, rng: random.Random, moment: Callable[..., bool], skewed: bool = False) -> BaseProcess | None:
    """The process of the run at that moment; None if it was at its end before, or is in another phase."""
    process = run.launch(skewed)
    if moment(run, process, rng) and not run.misses():
        return process
    killed(process)
    return None


def stopped(
    run: Run, rng: random.Random, moment: Callable[..., bool], signals: tuple[int, ...], skewed: bool = False
) -> str | None:
    """It is killed or stopped by signals."""
    if (process := launched(run, rng, moment, skewed)) is None:
        return None
    for number in signals:
        if process.is_alive():
            os.kill(process.pid or 0, number)
        time.sleep(rng.uniform(0, 0.2))
    require(run, ended(process), *((-signal.SIGKILL,) if signal.SIGKILL in signals else (0, 130, -signal.SIGTERM)))
    return "survived"


def disk_full(run: Run, rng: random.Random, moment: Callable[..., bool]) -> str | None:
    """The disk is full, or nearly, until the command gives up."""
    if (process := launched(run, rng, moment)) is None:
        return None
    ballast, leave = run.disk / "ballast", rng.choice((0, rng.randrange(1, 64))) * 4_096
    try:
        with contextlib.suppress(OSError), ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, min(shutil.disk_usage(run.disk).free, SIZE) - leave))
        code = ended(process)
    finally:
        ballast.unlink()
    require(run, code, 0, 2)
    return "survived"


def damaged(run: Run, rng: random.Random, damage: Callable[[bytes, random.Random], bytes]) -> str | None:
    """A file of the newest checkpoint is damaged; whether the run can still be shown is asked at once."""
    newest = begun(run)
    path = rng.choice(
        [path for folder in newest for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size]
    )
    path.write_bytes(damage(path.read_bytes(), rng))
    folder = next(folder for folder in newest if folder in path.parents).parent.parent
    require(run, ended(launch(["show", str(folder), "--params-hash"], run.log / "log")), 0, 2)
    return "survived"


def begun(run: Run) -> list[Path]:
    """The newest checkpoint of each folder, after so long that there is one, and a row."""

    def newest() -> list[Path]:
        found = [list((run.out / name).parent.glob("checkpoints/*[0-9]/manifest.json")) for name in run.whole.rows]
        return [max((path.parent for path in paths), key=lambda path: int(path.name)) for paths in found if paths]

    if not newest() or not run.last():
        process = run.launch()
        wait(process, lambda: bool(newest() and run.last()))
        killed(process)
    return newest()


def truncated(data: bytes, rng: random.Random) -> bytes:
    """Its beginning."""
    return data[: rng.randrange(len(data))]


def zeroed(data: bytes, rng: random.Random) -> bytes:
    """Zeros."""
    return bytes(len(data))


def flipped(data: bytes, rng: random.Random) -> bytes:
    """One byte is another."""
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ rng.randrange(1, 256)]) + data[at + 1 :]


def cut(run: Run, rng: random.Random) -> str | None:
    """Rows are cut in the middle of a line: those that are newer than the checkpoint are made again, or else it refuses."""
    begun(run)
    path = rng.choice([path for path in run.out.rglob("metrics.jsonl") if path.stat().st_size])
    rows = path.read_bytes()
    path.write_bytes(left := rows[: rng.choice([at for at in range(1, len(rows)) if rows[at - 1 : at] != b"\n"])])
    before, process = tree(path.parent), run.launch()
    if wait(process, lambda: path.read_bytes() != left):  # it goes on
        killed(process)
        return "survived"
    require(run, code := ended(process), 0, 2)
    if code == 2:
        require_untouched(path.parent, before)
        path.write_bytes(rows)
    return "refused" if code else "survived"


def read_only(run: Run, rng: random.Random) -> str:
    """The folder cannot be written."""
    before = tree(run.out)
    mount("remount,ro", run.disk)
    try:
        code = ended(run.launch())
    finally:
        mount("remount,rw", run.disk)
    require(run, code, 2)
    require_untouched(run.out, before)
    return "refused"


def two(run: Run, rng: random.Random, moment: Callable[..., bool]) -> str | None:
    """A second process is given the same command: it is refused, or leaves to the other one what that one does."""
    if (first := launched(run, rng, moment)) is None:
        return None
    code = ended(run.launch(name="second"))
    first.terminate()
    require(run, code, 0, 2, name="second")
    require(run, ended(first), 0, 130, -signal.SIGTERM, *((2,) if code == 0 else ()))
    return "refused" if code else "survived"


def require_untouched(folder: Path, before: dict[str, str]) -> None:
    """Raise `Lost` unless all files are as before."""
    now = tree(folder)
    if changed := sorted(name for name in now.keys() | before.keys() if now.get(name) != before.get(name)):
        raise Lost(f"it refused and touched {', '.join(changed)}")


SIGNALS = {"kill": signal.SIGKILL, "terminate": signal.SIGTERM, "ctrl-c": signal.SIGINT}
MOMENTS = {"": anytime, "-in-write": writing}
FAULTS: dict[str, Callable[[Run, random.Random], str | None]] = {
    **{kind + at: partial(stopped, moment=MOMENTS[at], signals=(SIGNALS[kind],)) for kind in SIGNALS for at in MOMENTS},
    "ctrl-c-twice": partial(stopped, moment=writing, signals=(signal.SIGINT, signal.SIGINT)),
    "clock-back": partial(stopped, moment=anytime, signals=(signal.SIGTERM,), skewed=True),
    **{f"disk-full{at}": partial(disk_full, moment=MOMENTS[at]) for at in MOMENTS},
    **{f"checkpoint-{damage.__name__}": partial(damaged, damage=damage) for damage in (truncated, zeroed, flipped)},
    "metrics-cut": cut,
    "read-only": read_only,
    "two-processes": partial(two, moment=anytime),
}

MOUNTED = ("disk-full", "disk-full-in-write", "read-only")


def subjects(work: Path) -> list[Subject]:
    """What faults happen to."""
    (work / "study.py").write_text(STUDY)
    data = f"--data {work / 'random.hdf5'}"
    phases = [
        Subject(f"wsrl/{x}", f"finetune wsrl pendulum {SMALL} {TUNING} {data}", x) for x in ("offline", "warmup", "online")
    ]
    return [
        Subject("sac", f"train sac pendulum {SMALL} --steps 3000 --eval-every 500 --eval-episodes 1 --config.warmup 1000"),
        Subject("iql", f"train iql --eval none {SMALL} --steps 6000 --eval-every 1000 {data} --action-low -2 --action-high 2"),
        Subject("sqirl", "train sqirl tabular/trap?k=3 --seeds 2 --eval-episodes 1"),
        Subject("drama", f"train drama recall?horizon=20 {MODEL} --steps 3200 --eval-every 400 --eval-episodes 1"),
        Subject("sweep", f"sweep {work / 'study.py'}"),
        *phases,
    ]


def mount(options: str, folder: Path) -> bool:
    """Whether a small file system in memory could be mounted, or mounted in another way."""
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    return shutil.which("mount") is not None and subprocess.run(command, capture_output=True).returncode == 0


@contextlib.contextmanager
def disk(work: Path) -> Iterator[tuple[Path, bool]]:
    """A folder for runs, and whether it is a file system of its own."""
    folder = work / "disk"
    folder.mkdir()
    mounted = mount(f"size={SIZE}", folder)
    try:
        yield folder, mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def undisturbed(subject: Subject, disk: Path, log: Path) -> Whole:
    """What the subject's command gives when nothing happens."""
    bare = Run(subject, disk, log, Whole({}, ""))
    bare.renew()
    require(bare, ended(bare.launch()), 0)
    rows = metrics(bare.out)
    return Whole(rows, hashes(bare.out, rows, log))


def based(run: Run, bases: dict[str, Path], work: Path) -> Run:
    """``run`` from where its phase begins: it goes on from the phase before until then, and is stopped."""
    name = run.subject.name
    if name not in PRIOR:
        return run
    if name not in bases:
        prior = Subject(PRIOR[name], run.subject.line, PRIOR[name].partition("/")[2])
        before = based(run._replace(subject=prior), bases, work)
        before.renew()
        process = before.launch()
        wait(process, lambda: not run.misses())
        process.terminate()
        require(run, ended(process), 130, -signal.SIGTERM)  # the first rows come before signals are heard
        bases[name] = Path(shutil.copytree(run.out, work / f"base-{run.subject.phase}"))
    return run._replace(base=bases[name])


class Outcome(NamedTuple):
    """What became of a fault: "survived", "refused" or "lost"; the seed that repeats it, and why it was lost."""

    subject: str
    fault: str
    seed: int
    became: str
    why: str = ""


def strikes(run: Run, faults: list[str], seed: int, say: Callable[[str], None]) -> Iterator[list[Outcome]]:
    """The outcomes of these faults, whenever a run has come to its end; of what shares a run with a loss nothing is told."""
    struck: list[Outcome] = []
    run.renew()
    for fault in faults:
        outcome = None
        for _ in range(TRIES):
            if run.over():
                yield settled(run, struck)
                struck = []
            if outcome := strike(run, fault, seed):
                break
        say(f"{run.subject.name} {fault}: {outcome.became if outcome else 'could not be placed'}, step {run.step()}")
        if outcome and outcome.became == "lost":
            yield [outcome]
            struck = []
            run.renew()
        elif outcome:
            struck.append(outcome)
    yield settled(run, struck)


def strike(run: Run, fault: str, seed: int) -> Outcome | None:
    """The outcome of a fault, as far as it can be told at once; None if it could not be placed."""
    name = run.subject.name
    try:
        became = FAULTS[fault](run, random.Random(f"{fault} {name} {seed}"))
        run.require_prefix()
    except Lost as error:
        return Outcome(name, fault, seed, "lost", str(error))
    return Outcome(name, fault, seed, became) if became else None


def settled(run: Run, struck: list[Outcome]) -> list[Outcome]:
    """The outcomes once the run is at its end, which are losses if it is not as it must be; and it begins anew."""
    try:
        if struck:
            run.require_same()
    except (Lost, InputError) as error:
        struck = [one._replace(became="lost", why=str(error)) for one in struck]
    run.renew()
    return struck


def campaign(options: Options, say: Callable[[str], None]) -> list[Outcome]:
    """All outcomes; they are written as they come."""
    begin, outcomes, bases = time.monotonic(), [], {}
    with tempfile.TemporaryDirectory() as name, disk(Path(name)) as (folder, mounted):
        work = Path(name)
        versions = prepared(work)
        cells = chosen(options, subjects(work), mounted)
        skipped = [] if mounted else list(MOUNTED)
        if skipped:
            say(f"{', '.join(skipped)}: left out, as no file system can be mounted here")
        wholes: dict[str, Whole] = {}
        for number in range(-(-options.faults // max(1, sum(map(len, cells.values()))))):
            for subject, faults in cells.items():
                if subject.line not in wholes:
                    wholes[subject.line] = undisturbed(subject, folder, work)
                    say(f"{subject.name}: undisturbed, {sum(map(len, wholes[subject.line].rows.values()))} bytes of rows")
                run = based(Run(subject, folder, work, wholes[subject.line]), bases, work)
                random.Random(f"{subject.name} {options.seed + number}").shuffle(faults)
                if len(outcomes) >= options.faults:
                    continue
                for struck in strikes(run, faults, options.seed + number, say):
                    outcomes += [one._replace(why=one.why.replace(name, "")) for one in struck]
                    if options.out is not None:
                        written = summary(outcomes, time.monotonic() - begin, skipped)
                        store.write_json(options.out, written | {"versions": versions})
    return outcomes


def prepared(work: Path) -> dict[str, Any]:
    """The versions of what is tested; makes the data set, and lets all processes share their compiled programs."""
    for agent in ("sac", "iql", "calql", "wsrl", "sqirl", "drama"):
        cli.find_agent(agent)
    gc.freeze()
    jax.config.update("jax_compilation_cache_dir", os.environ.get("JAX_COMPILATION_CACHE_DIR", str(work / "programs")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.config.update("jax_disable_most_optimizations", True)
    made = launch(f"collect pendulum --kinds random --steps 1000 --out {work}".split(), work / "log")
    told = fork(lambda: print(json.dumps(machine.versions())), work / "versions")
    if (ended(made), ended(told)) != (0, 0):
        raise SystemExit((work / "log.err").read_text() + (work / "versions.err").read_text())
    found: dict[str, Any] = json.loads((work / "versions").read_text())
    return found


def chosen(options: Options, subjects: list[Subject], mounted: bool) -> dict[Subject, list[str]]:
    """The faults of each subject that are asked for and possible."""
    fault, _, name = options.only.partition("/")
    faults = [kind for kind in FAULTS if kind.startswith(fault) and (mounted or kind not in MOUNTED)]
    return {subject: list(faults) for subject in subjects if subject.name.startswith(name)}


def summary(outcomes: list[Outcome], seconds: float, skipped: list[str]) -> dict[str, Any]:
    """The counts for each subject and fault, all losses, and what was left out."""
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for one in outcomes:
        row = counts.setdefault(one.subject, {}).setdefault(
            one.fault, dict.fromkeys(("tried", "survived", "refused", "lost"), 0)
        )
        row["tried"] += 1
        row[one.became] += 1
    lost = [one._asdict() for one in outcomes if one.became == "lost"]
    total = {"faults": len(outcomes), "lost": len(lost), "minutes": round(seconds / 60, 1), "left_out": skipped}
    return total | {"counts": counts, "losses": lost}


def main(options: Options) -> int:
    """0 if nothing was lost."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # and leave nothing mounted
    outcomes = campaign(options, partial(print, flush=True))
    lost = [one for one in outcomes if one.became == "lost"]
    for one in lost:
        print(f"lost: --only {one.fault}/{one.subject} --seed {one.seed}: {one.why}")
    print(f"{len(outcomes)} faults, {len(lost)} lost")
    return 1 if lost or not outcomes else 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
