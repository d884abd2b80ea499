"""What a person sees while a run goes on: sentences on stdout, a bar and the compiler's clock on stderr."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator

from tqdm import tqdm


def say(sentence: str) -> None:
    """Print one line on stdout, above the bar if there is one."""
    tqdm.write(sentence, file=sys.stdout)
    sys.stdout.flush()


def warn(sentence: str) -> None:
    """Print one line on stderr, where it does not mix with what a command was asked for."""
    print(sentence, file=sys.stderr)


def live() -> bool:
    """Whether stderr is a terminal or a notebook, where a line can be redrawn."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


def bar(total: int, initial: int) -> tqdm:
    """A bar over env steps with rate and time left; silent where it could not be redrawn."""
    return tqdm(total=total, initial=initial, unit=" steps", disable=not live(), dynamic_ncols=True, leave=False)


@contextlib.contextmanager
def compiling(what: str) -> Iterator[None]:
    """Show "compiling <what>" and the seconds that it takes, while the block runs."""
    begin, done = time.monotonic(), threading.Event()

    def tick() -> None:
        while not done.wait(1.0):
            sys.stderr.write(f"\rcompiling {what}: {time.monotonic() - begin:.0f} s ")
            sys.stderr.flush()

    if not live():
        say(f"compiling {what}")
        yield
        return
    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        sys.stderr.write("\r" + " " * 60 + "\r")
