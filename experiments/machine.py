"""The machine under a run: its memory, its software versions, its signals."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import psutil

from rljax import store
from rljax.base import InputError

_PACKAGES = ("rljax", "jax", "jaxlib", "flax", "optax", "chex", "distrax", "orbax-checkpoint", "gymnax", "brax", "numpy")


def require_memory(replay: int, rest: int, data: int, say: Callable[[str], None], devices: int = 1) -> None:
    """Announce the bytes of ``replay`` or ``data``, and refuse a run that cannot fit on this many ``devices``.

    What is counted: replay and the rest of the run's state, once on the device and once as a staging copy for
    checkpoints (in the host's memory); the data set, on the host and on the device.

    Raises:
        InputError: with the bytes needed and free, and what to change.
    """
    stats = jax.devices()[0].memory_stats() or {}
    host, device = _free_bytes(), stats.get("bytes_limit", 0) - stats.get("bytes_in_use", 0)
    need, staging = replay + rest + data, replay + rest
    on_device = -(-staging // devices) + data
    what = f"the data set takes {size(data)}" if data else f"replay takes {size(replay)}"
    say(f"{what}, the run {size(need)} and {size(staging)} more while a checkpoint is written")
    on_host = staging + (0 if stats else need)
    for name, wanted, free in (("device memory", on_device, device if stats else on_device), ("memory", on_host, host)):
        if wanted > free:
            raise InputError(
                f"the run needs {size(wanted)} of {name} and {size(free)} are free: lower config.capacity, --steps or --seeds"
            )


def require_free(need: int, what: str, advice: str) -> None:
    """Raise `InputError`, with the bytes needed and free and the ``advice``, unless ``need`` bytes of memory are free."""
    if need > _free_bytes():
        raise InputError(f"{what} needs {size(need)} of memory and {size(_free_bytes())} are free: {advice}")


def size(num_bytes: float) -> str:
    """``num_bytes`` for people, such as "1.5 GiB"."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if num_bytes < 1024 or unit == "TiB":
            return f"{num_bytes:.1f} {unit}" if unit != "B" else f"{num_bytes:.0f} B"
        num_bytes /= 1024
    raise AssertionError


def _free_bytes() -> int:
    """Free memory of the machine, or of the control group that this process is confined to."""
    free = [psutil.virtual_memory().available]
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        with contextlib.suppress(OSError, ValueError):  # no such group, or no limit ("max")
            free.append(int(Path(limit).read_text()) - int(Path(used).read_text()))
    return min(free)


def versions() -> dict[str, Any]:
    """Packages, Python, device, precision, compiler flags and the checkout's commit: what results may depend on."""
    packages = {}
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            packages[name] = metadata.version(name)
    device = jax.devices()[0]
    return {
        "python": platform.python_version(),
        "packages": packages,
        "device": f"{len(jax.devices())} x {device.platform} {device.device_kind}",
        "x64": bool(jax.config.values["jax_enable_x64"]),
        "matmul_precision": jax.config.values["jax_default_matmul_precision"],
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "git": _git_state(),
    }


def write_versions(path: Path, say: Callable[[str], None]) -> None:
    """Write `versions` to ``path``, a list with one entry per change; say so if a run goes on under others."""
    now, before = versions(), store.read_json(path) if path.exists() else []
    if before and before[-1] == now:
        return
    if before:
        changed = ", ".join(key for key in now if now[key] != before[-1].get(key))
        say(f"this run began under other versions ({changed}): results may differ in the last digits")
    store.write_json(path, [*before, now])


@contextlib.contextmanager
def stop_signals(say: Callable[[str], None]) -> Iterator[Callable[[], bool]]:
    """A function that tells whether Ctrl-C or SIGTERM came, which is said at once; a second one acts as usual."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, frame: Any) -> None:
        received.append(number)
        signal.signal(number, before[signal.Signals(number)])
        say("stopping as soon as these steps are done; a second signal stops at once")

    for number in before:
        signal.signal(number, handle)
    try:
        yield lambda: bool(received)
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _git_state() -> str | None:
    """Commit of the checkout that this code runs from, with "+" if it was changed; None outside one."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD").strip()
        return commit + ("+" if _git(root, "status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *args: str) -> str:
    return subprocess.run(["git", "-C", root, *args], capture_output=True, text=True, timeout=10).stdout
