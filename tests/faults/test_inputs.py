"""A slice of the campaign of bad inputs, and that the campaign notices each kind of failure."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parent))

import guard
import inputs

from rljax.base import InputError


@pytest.fixture(scope="module")
def box(tmp_path_factory):
    """A working folder with a data set, an MDP, a study and a run."""
    home = os.getcwd()
    made = guard.Box(tmp_path_factory.mktemp("box").resolve())
    inputs.furnish(made)
    with guard.stubs():
        yield made
    os.chdir(home)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("group", inputs.GROUPS)
def test_bad_inputs_are_refused_in_a_sentence(box, group):
    """Thirty of each group, the same in every run of the tests."""
    box.clean()
    cases = islice(inputs.GROUPS[group](random.Random(1), 30, box), 30)
    found = inputs.campaign(cases, box)
    assert found["failures"] == [] and found["counts"]["refused"] > 10


def raises(error):
    def call():
        raise error

    return call


def forever():
    while True:
        pass


OUTSIDE = "../outside/mine"
FAILURES = {
    "traceback": (
        raises(KeyError("config")),
        raises(AttributeError("it is None")),
        raises(ValueError("two\nlines")),
        raises(InputError("")),
    ),
    "hang": (forever, lambda: time.sleep(60)),
    "memory": (lambda: np.ones(2**26).sum(),),
    "stray": (
        lambda: Path(OUTSIDE).write_text("theirs"),
        lambda: os.remove(OUTSIDE),
        lambda: Path("../elsewhere").mkdir(),
        lambda: subprocess.run(["true"]),
        lambda: exec(compile("1", str(Path("data.npz").resolve()), "exec")),
        lambda: __import__("canary"),
        lambda: (Path("left").touch(), raises(InputError("no"))()),
    ),
}


@pytest.mark.parametrize(("outcome", "call"), [(name, call) for name, calls in FAILURES.items() for call in calls])
def test_failures_are_noticed(box, outcome, call):
    box.clean()
    assert guard.judge(guard.Case("test", "bad", call), box, seconds=0.3, limit=2**28).outcome == outcome


@pytest.mark.parametrize(
    ("outcome", "call"),
    [
        ("refused", raises(InputError("it must be a number"))),
        ("refused", raises(TypeError("it must be a number"))),
        ("accepted", lambda: None),
        ("accepted", lambda: Path("new").touch()),
    ],
)
def test_what_is_fine_is_told_apart(box, outcome, call):
    box.clean()
    assert guard.judge(guard.Case("test", "bad", call), box).outcome == outcome


def test_a_command_must_end_with_one_line(box, monkeypatch):
    """Its own words alone, on stderr, with exit code 2."""
    from rljax.experiments import cli

    box.clean()
    assert guard.judge(guard.command("test", "data", "nowhere"), box).outcome == "refused"
    for error in (TypeError("in one line"), KeyError("x"), UnicodeEncodeError("utf-8", "x", 0, 1, "it is none")):
        monkeypatch.setattr(cli, "run", lambda args, error=error: raises(error)())
        assert guard.judge(guard.command("test", "data", "nowhere"), box).outcome == "traceback"
