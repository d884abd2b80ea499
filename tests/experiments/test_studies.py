"""The studies behind the benchmarks, with sizes so small that only their machinery is seen."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from rljax import data, envs
from rljax.experiments.collect import collect
from rljax.experiments.studies import heads, online


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """``run("regression --seeds 2")``: the rows that the study kept, and what it printed."""
    sizes = {"ROWS": 64, "TESTS": 32, "PHASES": 2, "STEPS": 5, "BATCH": 8, "NOISE": (0.0, 2.0), "RATES": (1e-3,)}
    for name, value in (sizes | {"SWEEP_STEPS": 1_100, "RATIOS": (0.5, 0.75)}).items():
        monkeypatch.setattr(heads, name, value)

    def run(line):
        part = line.split()[0]
        monkeypatch.setattr(sys, "argv", ["heads", *line.split(), "--out", str(tmp_path / "study")])
        heads.main()
        assert (tmp_path / "study" / f"{part}.png").read_bytes()[:4] == b"\x89PNG"
        lines = (tmp_path / "study" / f"{part}.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines], capsys.readouterr().out

    return run


def test_regression(run):
    """One finite error per head, condition and seed; noise makes it larger, and the table says the IQM."""
    heads._fit.clear_cache()
    rows, out = run("regression --seeds 3,4 --heads scalar hl_gauss")
    assert len(rows) == 2 * 2 * 2 * 2 and {row["seed"] for row in rows} == {3, 4}
    assert all(np.isfinite(row["score"]) and row["score"] < 0 for row in rows)
    assert len({row["score"] for row in rows}) == len(rows)
    first = [row["score"] for row in rows[:2]]
    assert f"{np.mean(first):.3f}" in out
    heads._fit.clear_cache()


@pytest.mark.slow
def test_sigma_is_one_program(run):
    """Deviations x supports x seeds are learners of one program; the count is printed."""
    rows, out = run("sigma --seeds 2")
    assert len(rows) == 2 * 3 * 2 and "6 configs x 2 seeds: 2 programs" in out
    assert run("sigma --seeds 2")[0] == rows


def test_bad_input_is_one_sentence(run, capsys):
    """No data set where one is needed."""
    for line in ("offline", "width --heads scalar --data nothing"):
        with pytest.raises(SystemExit) as end:
            run(line)
        assert end.value.code == 2 and "give --data ENV=FILE" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("part", "num"), [("methods", 8), ("ablation", 12)])
def test_online(part, num, tmp_path, monkeypatch, capsys):
    """A curve per method, seed and evaluation; what was trained offline is the same run for all that go on from it."""
    made = collect(envs.make("maze/open?horizon=20"), kinds=["random"], steps=400)["random"]
    data.save(made, tmp_path / "data.npz")
    out = tmp_path / "study"
    sizes = "--steps 1100 --offline-steps 8 --warmup 100 --eval-every 550 --seeds 2"
    args = f"{part} --env maze/open?horizon=20 --data {tmp_path / 'data.npz'} --out {out} {sizes}"
    monkeypatch.setattr(sys, "argv", ["online", *args.split()])
    online.main()
    rows = [json.loads(line) for line in (out / f"{part}.jsonl").read_text().splitlines()]
    assert len(rows) == num * 2 * 3 and len({row["method"] for row in rows}) == num
    assert (out / f"{part}.png").read_bytes()[:4] == b"\x89PNG"
    assert all(row["method"] in capsys.readouterr().out for row in rows[:1])


def test_a_study_of_no_data_is_one_sentence(tmp_path, monkeypatch, capsys):
    args = ["online", "methods", "--env", "maze/open", "--data", str(tmp_path / "no.npz"), "--out", str(tmp_path / "study")]
    monkeypatch.setattr(sys, "argv", args)
    with pytest.raises(SystemExit) as end:
        online.main()
    assert end.value.code == 2 and "no.npz" in capsys.readouterr().err
