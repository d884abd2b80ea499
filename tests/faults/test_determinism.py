"""The table of what is bit-equal, made again agent by agent: ``pytest -m slow tests/faults/test_determinism.py``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
AGENTS = json.loads((HERE.parents[1] / "benchmarks" / "determinism.json").read_text())["agents"]


@pytest.mark.slow
@pytest.mark.parametrize("agent", AGENTS)
def test_runs_again_and_resumed_are_bit_equal(agent, tmp_path):
    command = [sys.executable, HERE / "determinism.py", "--agents", agent, "--out", tmp_path / "table.json"]
    subprocess.run(command, check=True)
    found = json.loads((tmp_path / "table.json").read_text())["agents"][agent]
    assert {found[way] for way in ("again", "resumed", "alone, resumed")} == {"equal"}
    assert all(value == "equal" or "bits differ, numbers by" in value for value in found.values())
