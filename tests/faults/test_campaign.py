"""A few faults of the campaign, and that it tells a loss from what was survived."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# The first faults are survived. Then a row is changed.
CODE = """
import sys
from pathlib import Path

import campaign


def changed(run, rng):
    campaign.begun(run)
    path = run.out / "metrics.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"step": ', b'"step": 1', 1))
    return "survived"


def chosen(options, subjects, mounted):
    iql = next(subject for subject in subjects if subject.name == "iql")
    return {iql: ["kill-in-write", "checkpoint-flipped", "metrics-cut"], iql._replace(name="changed"): ["row-changed"]}


campaign.FAULTS["row-changed"] = changed
campaign.chosen = chosen
sys.exit(campaign.main(campaign.Options(faults=4, out=Path(sys.argv[1]))))
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_faults_are_survived_and_a_loss_is_told(tmp_path, pytestconfig):
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(pytestconfig.cache.mkdir("jax")),
        "PYTHONPATH": str(Path(__file__).parent),
    }
    out = tmp_path / "faults.json"
    done = subprocess.run([sys.executable, "-c", CODE, out], env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and out.exists(), done.stdout + done.stderr
    found = json.loads(out.read_text())
    assert (found["faults"], found["lost"]) == (4, 1), done.stderr
    assert found["counts"]["iql"]["kill-in-write"] == {"tried": 1, "survived": 1, "refused": 0, "lost": 0}
    assert found["counts"]["changed"] == {"row-changed": {"tried": 1, "survived": 0, "refused": 0, "lost": 1}}
    assert found["losses"][0]["why"] == "rows of metrics.jsonl are not those of the undisturbed run"
