"""Memory, versions and signals."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from rljax import store
from rljax.base import InputError
from rljax.experiments import machine


def test_memory_is_announced_and_held_against_what_is_free(monkeypatch):
    """State and a staging copy must fit: on a CPU both lie in the same memory."""
    said = []
    monkeypatch.setattr(machine, "_free_bytes", lambda: 10 * 2**20)
    machine.require_memory(4 * 2**20, 2**20, 0, said.append)
    assert said == ["replay takes 4.0 MiB, the run 5.0 MiB and 5.0 MiB more while a checkpoint is written"]
    with pytest.raises(InputError, match=r"needs 10\.2 MiB of memory and 10\.0 MiB are free: lower config\.capacity"):
        machine.require_memory(4 * 2**20, 2**20 + 100_000, 0, said.append)


def test_free_memory_is_that_of_the_machine():
    assert 2**20 < machine._free_bytes() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize(("number", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 * 2**40, "3.0 TiB")])
def test_size(number, text):
    assert machine.size(number) == text


def test_changed_versions_are_said_and_kept(tmp_path, monkeypatch):
    """One entry per change; the first and the unchanged say nothing."""
    said = []
    for python in ("3.11.0", "3.11.0", "3.12.0"):
        monkeypatch.setattr(machine.platform, "python_version", lambda python=python: python)
        machine.write_versions(tmp_path / "versions.json", said.append)
    assert [entry["python"] for entry in store.read_json(tmp_path / "versions.json")] == ["3.11.0", "3.12.0"]
    assert len(said) == 1 and "(python)" in said[0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_is_noted_and_second_acts(number):
    """The handlers of before are back afterwards."""
    seen, said = [], []
    before = signal.signal(number, lambda *_: seen.append(1))
    try:
        with machine.stop_signals(said.append) as stopped:
            assert not stopped() and not said
            os.kill(os.getpid(), number)
            assert stopped() and not seen and "a second signal stops at once" in said[0]
            os.kill(os.getpid(), number)
            assert seen == [1]
        os.kill(os.getpid(), number)
        assert seen == [1, 1]
    finally:
        signal.signal(number, before)


def test_other_threads_have_no_signals():
    """`train` works in a thread, where no handler can be set."""
    answers = []

    def run():
        with machine.stop_signals(print) as stopped:
            answers.append(stopped())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert answers == [False]
