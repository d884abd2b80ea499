"""Numbers of a run in TensorBoard's and Weights & Biases' own files, read back with their libraries."""

from __future__ import annotations

import math
import sys
import threading

import pytest

from rljax import store
from rljax.base import InputError
from rljax.experiments import track
from rljax.experiments.cli import run as rljax


@pytest.fixture
def run(tmp_path):
    """A finished run of two seeds and two configs, one of whose losses is not finite."""
    rows = [
        {"step": step, "seed": seed, "config": config, "phase": "online", "kind": "train", "critic/loss": step + seed + 0.5}
        for step in (500, 1_000)
        for seed in (3, 4)
        for config in (0, 1)
    ]
    rows[-1] |= {"critic/loss": math.nan, "train/episodes": 7}
    write(tmp_path / "run", rows)
    return tmp_path / "run"


def write(out, rows):
    out.mkdir(exist_ok=True)
    settings = {"agent": "sac", "env": "pendulum", "config": [{"tau": 0.1}, {"tau": 0.2}], "seeds": [3, 4], "steps": 1_000}
    counts = {"num_envs": 1, "eval_every": 500, "log_every": 500, "eval_episodes": 1}
    store.write_json(out / "config.json", settings | counts)
    (out / "metrics.jsonl").write_text("".join(map(store.encode, rows)))


def events(folder):
    """``{name: [(step, value)]}`` of a folder of event files."""
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for path in folder.iterdir():
        data, at = path.read_bytes(), 0
        while at < len(data):  # length, its checksum, the event, its checksum
            length = int.from_bytes(data[at : at + 8], "little")
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 16 + length
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def test_tensorboard_gets_each_learner_apart(run, capsys):
    assert rljax(["track", str(run)]) == 0
    assert capsys.readouterr().out == f"8 rows for TensorBoard in {run / 'tensorboard'}\n"
    found = {folder.name: events(folder) for folder in (run / "tensorboard").iterdir()}
    assert sorted(found) == ["seed3-config0", "seed3-config1", "seed4-config0", "seed4-config1"]
    assert found["seed3-config1"] == {"critic/loss": [(500, 503.5), (1_000, 1_003.5)]}
    assert found["seed4-config1"] == {"critic/loss": [(500, 504.5)], "train/episodes": [(1_000, 7)]}  # NaN is left out
    with pytest.raises(InputError, match="exists: remove it, or choose another folder with --out"):
        rljax(["track", str(run)])


def test_wandb_without_an_account(run, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    assert rljax(["track", str(run), "--wandb", "study"]) == 0
    assert len(list((run / "wandb").glob("offline-run-*/run-*.wandb"))) == 4


def test_a_run_is_followed_to_its_end(run, monkeypatch):
    """Rows that come are given once; the run is finished when its last step is there and in a checkpoint."""
    rows, seen = store.read_rows(run / "metrics.jsonl"), []
    write(run, rows[:4])
    monkeypatch.setattr(track, "SECONDS", 0.01)

    def go_on():
        store.append(run / "metrics.jsonl", "".join(map(store.encode, rows[4:])))
        path = run / "metrics.jsonl"
        host = {"metrics_bytes": path.stat().st_size, "metrics_digest": store.file_digest(path)}
        folder = run / "checkpoints" / "1000"
        folder.mkdir(parents=True)
        store.write_json(folder / "host.json", host)
        store.write_json(folder / "manifest.json", {"host.json": store.file_digest(folder / "host.json")})

    threading.Timer(0.2, go_on).start()
    count = track.track(run, lambda name, config: track.Tracker(lambda *x: seen.append((name, *x)), lambda: None), follow=True)
    assert count == len(seen) == 8 and len({str(x) for x in seen}) == 8


@pytest.mark.parametrize(("module", "args"), [("tensorboardX", []), ("wandb", ["--wandb", "study"])])
def test_what_is_not_installed(run, monkeypatch, module, args):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=rf'{module} is not installed: pip install "rljax\[track\]"'):
        rljax(["track", str(run), *args])


def test_no_run(tmp_path):
    with pytest.raises(InputError, match="nothing"):
        rljax(["track", str(tmp_path / "nothing")])
