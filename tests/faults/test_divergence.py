"""Learners that diverge, made so on purpose: marked within a chunk, told in every aggregate, and no neighbour notices."""

from __future__ import annotations

import functools
import re
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parent))

import divergence

from rljax import statistics, store
from rljax.experiments import page, report, sweep

QUICK = {
    "sac": ("rate 1e30", "reward inf", "obs nan", "row nan"),
    "td3_bc": ("weight inf", "data nan"),
}


@pytest.fixture(scope="module")
def calm():
    """``calm(agent)``: the run without a poison, made once."""
    return functools.cache(divergence.run)


@pytest.mark.parametrize(
    ("name", "poison"),
    [
        pytest.param(name, poison, marks=() if poison in QUICK.get(name, ()) else pytest.mark.slow)
        for name, poisons in divergence.TABLE.items()
        for poison in poisons
    ],
)
def test_one_learner_diverges(calm, name, poison):
    """See `divergence.faults`."""
    assert divergence.faults(poison, calm(name), divergence.run(name, poison)) == []


def test_every_aggregate_says_so(tmp_path, capsys):
    """The table of the run, the page, the comparison and the table of a study count the one that is missing."""
    calm = divergence.run("td3_bc", "", tmp_path / "calm", seeds=4)
    mixed = divergence.run("td3_bc", "weight nan", tmp_path / "mixed", seeds=4)
    assert "seed 1 diverged by step 60: it is frozen" in capsys.readouterr().out
    _, host = store.newest(tmp_path / "mixed", pytest.fail)
    assert host["diverged"] == list(mixed.diverged) == [False, True, False, False] and not any(calm.diverged)
    assert report.summary(mixed.rows).endswith("3 seeds; 1 of 4 diverged")
    assert re.search(r"seed 1 diverged", re.sub("<[^>]*>", "", page.page([tmp_path / "mixed", tmp_path / "calm"])))
    assert ", 1 diverged" in page.compare(tmp_path / "mixed", tmp_path / "calm").splitlines()[0]
    program = sweep.Program(mixed.setup, None, {}, [{}])
    (tmp_path / "mixed").rename(tmp_path / program.folder)
    (row,) = sweep.table([program], tmp_path).to_dict("records")
    assert (row["seeds"], row["diverged"]) == (4, 1) and np.isfinite(row["IQM"])


def test_statistics_never_drop_a_score():
    """A score that is not finite makes the statistic so; nothing is left out of it in silence."""
    for bad in (np.nan, -np.inf):
        scores = np.array([[1.0, 2.0, 3.0, bad]])
        low, high = statistics.interval(scores[0])
        assert low == high == statistics.iqm(scores[0]) or np.isnan(low)
        assert not np.isfinite(statistics.optimality_gap(scores)) and np.isnan(statistics.pooled_iqm(scores)) == np.isnan(bad)
