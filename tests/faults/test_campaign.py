"""A few faults of the campaign, and that it tells a loss from what was survived."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# The first part is survived. In the second one a row is changed, of which the checkpoint knows: the run cannot go on.
CODE = """
import sys
from pathlib import Path

import campaign


def changed(run, rng):
    campaign.begun(run)
    path = run.out / "metrics.jsonl"
    path.write_text(path.read_text().replace('"step": 500', '"step": 501', 1))
    return "survived"


def main(faults, out):
    campaign.FAULTS = faults
    return campaign.main(campaign.Options(faults=len(faults), out=Path(out), only="/iql"))


quick = {name: campaign.FAULTS[name] for name in ("kill-in-write", "checkpoint-flipped", "metrics-cut")}
print(main(quick, sys.argv[1]), main({"row-changed": changed}, sys.argv[2]))
"""


@pytest.mark.timeout(600)
def test_faults_are_survived_and_a_loss_is_told(tmp_path, pytestconfig):
    files = [tmp_path / "survived.json", tmp_path / "lost.json"]
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(pytestconfig.cache.mkdir("jax")),
        "PYTHONPATH": str(Path(__file__).parent),
    }
    done = subprocess.run([sys.executable, "-c", CODE, *files], env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["0 1"], done.stdout + done.stderr
    survived, lost = (json.loads(file.read_text()) for file in files)
    assert (survived["faults"], survived["lost"], survived["losses"]) == (3, 0, [])
    assert survived["counts"]["iql"]["kill-in-write"] == {"tried": 1, "survived": 1, "refused": 0, "lost": 0}
    assert lost["counts"] == {"iql": {"row-changed": {"tried": 1, "survived": 0, "refused": 0, "lost": 1}}}
    assert [(one["fault"], one["why"]) for one in lost["losses"]] == [
        ("row-changed", "rows of metrics.jsonl are not those of the undisturbed run")
    ]
