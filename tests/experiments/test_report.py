"""Tables and curves of rows whose numbers are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rljax.base import InputError
from rljax.experiments import report

RUN = {"agent": "sac", "env": "pendulum", "config": {}}


def rows_of(scores, config=0, dead=()):
    """Eval rows of ``scores`` {seed: [returns at steps 0, 100, ...]}; seeds in ``dead`` diverged after the first."""
    return [
        {"step": 100 * i, "seed": seed, "config": config, "kind": "eval", "eval/return": x}
        | ({"diverged": True} if seed in dead and i else {})
        for seed, values in scores.items()
        for i, x in enumerate(values)
    ]


def test_table_gives_last_and_best_and_iqm():
    """Of the last evaluation: seeds 1 2 3 4 have the interquartile mean 2.5."""
    table = report.table(rows_of({seed: [0.0, 9.0, float(seed)] for seed in (1, 2, 3, 4)}))
    assert [line.split() for line in table.splitlines()[2:6]] == [["0", str(s), f"{s}.0", "9.0"] for s in (1, 2, 3, 4)]
    assert table.splitlines()[0] == "evaluation return at step 200"
    assert "config 0: IQM 2.5, 95 % interval [1" in table and table.endswith("4 seeds")


def test_diverged_seeds_are_marked_counted_and_left_out():
    table = report.table(rows_of({0: [0.0, 1.0], 1: [0.0, math.nan], 2: [0.0, 3.0]}, dead=[1]))
    assert "IQM 2.0" in table and "2 seeds; 1 of 3 diverged" in table
    assert [line.endswith("diverged") for line in table.splitlines()[2:5]] == [False, True, False]
    assert "every seed diverged (1 of 1)" in report.table(rows_of({1: [0.0, math.nan]}, dead=[1]))


def test_curve_draws_each_seed_and_the_iqm_of_each_config():
    rows = rows_of({0: [0.0, 1.0], 1: [2.0, 3.0]}) + rows_of({0: [5.0, 5.0], 1: [5.0, 7.0]}, config=1)
    axes = report.curve(rows, "eval/return", RUN | {"config": [{}, {}]}).axes[0]
    thick = [line for line in axes.lines if line.get_linewidth() == 2]
    assert len(axes.lines) == 6 and [line.get_label() for line in thick] == ["config 0", "config 1"]
    np.testing.assert_allclose(thick[0].get_ydata(), [1.0, 2.0])
    np.testing.assert_allclose(thick[0].get_xdata(), [0, 100])


def test_unknown_metric_is_told_with_those_there_are():
    with pytest.raises(InputError, match="no metric 'loss': it has eval/return"):
        report.curve(rows_of({0: [1.0]}), "loss", RUN)
    with pytest.raises(InputError, match="no rows yet"):
        report.table([])
