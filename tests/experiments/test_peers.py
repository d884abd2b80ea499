"""`benchmarks/peers/compare.py`: turns, the table and its file with ourselves as the peer, and what it refuses."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rljax.agents import iql

SCRIPTS = Path(__file__).parents[2] / "benchmarks" / "peers"
PLACE = f"{sys.executable}:{SCRIPTS}"


def compare(*args):
    command = [sys.executable, str(SCRIPTS / "compare.py"), *map(str, args)]
    env = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=env)


@pytest.fixture(scope="module")
def script():
    """The driver as a module."""
    before, sys.path = sys.path, [str(SCRIPTS), *sys.path]
    spec = importlib.util.spec_from_file_location("compare", SCRIPTS / "compare.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path = before
    return module


def test_ours_beside_ours(script, tmp_path):
    sizes = ("--rows", 300, "--depth", 1, "--rounds", 2, "--seconds", 0.01)
    done = compare("iql", "--peers", f"ours={PLACE}", *sizes, "--order", "corl", "--json", tmp_path / "found.json")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["format"] == script.FORMAT and found["agent"] == "iql"
    assert found["settings"]["depth"] == 1 and found["settings"]["order"] == "corl"
    for row in (found["reference"], *found["rows"]):
        assert len(row["rates"]) == len(row["cpu_rates"]) == 2 and min(row["rates"] + row["cpu_rates"]) > 0
        assert row["versions"]["jax"] and row["versions"]["commit"]
    assert str(tmp_path) not in json.dumps(found) and sys.executable not in json.dumps(found)
    ours, peer = done.stdout.splitlines()[-2:]
    assert ours.startswith("ours") and peer.startswith("ours") and done.stdout == script.table(found) + "\n"
    (ratio, *_) = re.findall(r"\) +([\d.]+) \(", peer)
    assert float(ratio) == pytest.approx(sum(script.ratios(*(row["rates"] for row in found["rows"]))) / 2, abs=0.01)


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (("dqn", "--peers", f"ours={PLACE}"), "cannot compare 'dqn': choose of td3_bc, iql, cql, sac"),
        (("sac", "--peers", f"other={PLACE}"), "there is no peer 'other': choose of cleanrl, corl, jax_corl,"),
        (("sac", "--peers", "rejax=python-of-nobody"), "must be NAME=PYTHON:CLONE, a program and a folder"),
        (("sac", "--peers", f"rejax={sys.executable}:nowhere"), "must be NAME=PYTHON:CLONE, a program and a folder"),
        (("sac", "--peers", f"ours={PLACE}", "--rounds", 0), "--rounds must be above 0, got 0"),
        (("sac", "--peers", f"ours={PLACE}", "--threads", 10**6), "--threads 1000000 is more than the"),
        (("iql", "--peers", f"ours={PLACE}", "--seeds", 2), "--seeds is for sac"),
        (("cql", "--peers", f"ours={PLACE}", "--order", "corl"), "--order is one of official, corl, and for iql, got corl"),
    ],
)
def test_refuses_with_one_sentence(args, sentence):
    done = compare(*args)
    assert done.returncode == 1 and sentence in done.stderr and len(done.stderr.splitlines()) == 1 and not done.stdout


@pytest.mark.parametrize("order", ["official", "corl"])
def test_our_iql_steps_in_the_order_asked_for(script, order, monkeypatch):
    spec = importlib.util.spec_from_file_location("ours", SCRIPTS / "ours.py")
    ours = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(ours)
    configs = []
    monkeypatch.setattr(
        ours.bench, "program", lambda loop, config, *rest: configs.append(config) or script.argparse.Namespace(compiled=0)
    )
    ours.build(script.argparse.Namespace(agent="iql", depth=1, seeds=1, rows=300, order=order))
    assert [config.order for config in configs] == [getattr(iql, order)]


def test_a_peer_that_fails_is_told(script):
    options = script.argparse.Namespace(**dict.fromkeys(script.SIZES, 1), order="official")
    with script.started(script.Peer("sbx", sys.executable), "iql", options) as found:
        with pytest.raises(script.Failed, match="of SBX only sac with one seed is measured"):
            script.answer(found)
    assert found.process.returncode == 1
