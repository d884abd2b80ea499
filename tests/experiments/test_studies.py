"""The studies behind the benchmarks, with sizes so small that only their machinery is seen."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from rljax import data, envs
from rljax.envs import tabular
from rljax.experiments import report
from rljax.experiments.collect import collect
from rljax.experiments.studies import heads, horizon, online


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
@pytest.mark.timeout(3600)
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


def test_actions_are_reordered_and_nothing_else():
    """The analysis of an MDP is the same; which action is the best one is not."""
    made = envs.make("tabular/chain?length=6")
    other = horizon.reordered(made)
    assert horizon.analysis(other) == horizon.analysis(made)
    first, second = (tabular.from_env(env, identify=lambda state: state.at)[0] for env in (made, other))
    right = [np.argmax(mdp.successor[:-1, :, 0] == np.arange(1, 6)[:, None], 1).tolist() for mdp in (first, second)]
    assert len(set(right[0])) == 1 < len(set(right[1]))


def test_sample_complexity(tmp_path, monkeypatch):
    """A row for each MDP and agent, which is not computed again; GORP finds the optimum of a trap, after it has learned."""
    monkeypatch.setattr(horizon, "FAMILIES", ("tabular/trap?k=2",))
    study = horizon.Study(tmp_path, seeds="3", agents=("gorp",))
    (row,) = horizon.complexities(study)
    assert row["k_min"] == 2 and row["setting"]["k"] == 2 and 0 < row["median"] == np.median(row["steps"]) < np.inf
    monkeypatch.setattr(horizon, "complexity", None)
    assert horizon.complexities(study) == [row]


def test_rank_correlations(tmp_path):
    """By hand: infinity is the highest rank, and an interval holds the correlation."""
    measures = {"effective_horizon": [1, 2, 3, 4, 5], "epw": [5, 4, 3, 2, 1], "covering": [1, 3, 2, 5, 4]}
    measures |= {"horizon": [2, 9, 2, 9, 2], "actions": [3, 2, 3, 2, 3]}
    medians = [10.0, 20.0, 30.0, np.inf, np.inf]
    rows = [
        {"mdp": f"tabular/trap?k={i}", "agent": "ppo", "median": medians[i]} | {m: x[i] for m, x in measures.items()}
        for i in range(5)
    ]
    table = horizon.correlations(rows).set_index("with")["spearman"]
    assert table["effective horizon"] == pytest.approx(0.975, abs=1e-3) == -table["planning window"]
    assert 0.5 < table["log covering length"] == table["log T^2 A^H"] < 0.975  # 2.5, 5.8, 4.7, 7.2, 6.9
    report.save_png(horizon.figure(rows), tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes()[:4] == b"\x89PNG"
