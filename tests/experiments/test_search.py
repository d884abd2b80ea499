"""The search by Optuna: what is asked and told, going on after a stop, and seeds that diverge."""

from __future__ import annotations

import math

import pytest

from rljax.base import InputError
from rljax.experiments.studies import search as module
from rljax.experiments.studies.search import Search, evaluate, search


def score(params):
    """Best where both step sizes are 1e-3 and the discount is 0.95."""
    return -sum(abs(math.log10(params[name]) + 3) for name in ("actor_lr", "critic_lr")) - 10 * abs(params["discount"] - 0.95)


@pytest.fixture
def asked(monkeypatch):
    """Batches of parameters that were to be evaluated; each is told its `score`."""
    batches = []

    def told(search, seeds, params, out):
        batches.append((out.name, params))
        return [score(x) for x in params]

    monkeypatch.setattr(module, "evaluate", told)
    return batches


def test_each_round_is_one_batch_and_later_ones_are_better(asked, tmp_path):
    study = search(Search(tmp_path, rounds=6, trials=10))
    assert [name for name, _ in asked] == [f"round{i}" for i in range(6)] and all(len(params) == 10 for _, params in asked)
    assert [trial.value for trial in study.trials] == [score(x) for _, params in asked for x in params]
    means = [sum(map(score, params)) / 10 for _, params in asked]
    assert min(means[3:]) > means[0]


def test_a_search_goes_on_where_it_was_stopped(asked, tmp_path, monkeypatch):
    """Between asking and telling, and then after two rounds: the same trials as of a search without a stop."""
    whole = search(Search(tmp_path / "whole", rounds=3, trials=4))

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(module, "evaluate", killed)
        with pytest.raises(KeyboardInterrupt):
            search(Search(tmp_path / "cut", rounds=1, trials=4))
    search(Search(tmp_path / "cut", rounds=2, trials=4))
    again = search(Search(tmp_path / "cut", rounds=3, trials=4))
    assert [(t.params, t.value) for t in again.trials] == [(t.params, t.value) for t in whole.trials]
    assert len(asked) == 6


def test_a_seed_that_diverged_counts_as_the_worst(tmp_path):
    params = [{"actor_lr": 1e-3, "critic_lr": 1e-3, "discount": 0.95}, {"actor_lr": 1e30, "critic_lr": 1e30, "discount": 0.95}]
    fine, diverged = evaluate(Search(tmp_path, steps=1_100), 1, params, tmp_path / "round0")
    assert fine == diverged and math.isfinite(fine)


@pytest.mark.parametrize(
    ("changes", "said"), [({"rounds": 0}, "at least 1"), ({"trials": 0}, "at least 1"), ({"seeds": "x"}, "x")]
)
def test_bad_input_is_told(tmp_path, changes, said):
    with pytest.raises(InputError, match=said):
        search(Search(tmp_path / "new", **changes))
    assert not (tmp_path / "new").exists()
