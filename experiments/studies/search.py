"""A search by Optuna, each batch of its trials one program: ``python -m rljax.experiments.studies.search --out FOLDER``.

An example to copy: SAC's step sizes and discount on the pendulum. In every round the sampler is asked for a batch of configs
(`optuna.Study.ask`), all of them are trained with all seeds at once, and it is told the IQM of each one's last returns. What
was stopped or killed goes on with the same command; trials are kept in FOLDER/trials.log.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from rljax import statistics
from rljax.agents import sac
from rljax.base import InputError
from rljax.config import override
from rljax.experiments import presets, report
from rljax.experiments import train as training
from rljax.experiments.cli import parse_seeds
from rljax.experiments.studies import finished

ENV = "pendulum"


@dataclass(frozen=True)
class Search:
    """Search for SAC's step sizes and discount on the pendulum."""

    out: Path  # the folder for the trials and their runs
    rounds: int = 4  # batches of trials, one after the other
    trials: int = 8  # configs of each, in one program
    seeds: str = "3"  # how many ("4" is 0, 1, 2, 3), or which ("3,5,7", or "7," for one)
    steps: int = 10_000  # env steps per seed


def main() -> None:
    """Go on until all rounds are done, and print the best trials."""
    try:
        study = search(tyro.cli(Search))
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    best = study.trials_dataframe(attrs=("number", "value", "params")).sort_values("value", ascending=False)
    print(best.head(10).to_string(index=False))


def search(search: Search) -> Any:
    """The `optuna.Study` after all rounds."""
    try:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
    except ImportError as error:
        raise InputError("this search needs Optuna: pip install 'rljax[search]'") from error
    if search.rounds < 1 or search.trials < 1:
        raise InputError(f"rounds and trials must be at least 1, got {search.rounds} and {search.trials}")
    seeds = parse_seeds(search.seeds)
    search.out.mkdir(parents=True, exist_ok=True)
    storage = JournalStorage(JournalFileBackend(str(search.out / "trials.log")))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(storage=storage, study_name=ENV, direction="maximize", load_if_exists=True)
    for number in range(search.rounds):
        while (known := len(study.trials)) < (number + 1) * search.trials:
            study.sampler = optuna.samplers.TPESampler(n_startup_trials=search.trials, seed=known)  # asked again, the same
            _suggest(study.ask())
        batch = study.trials[number * search.trials : (number + 1) * search.trials]
        if not all(trial.state.is_finished() for trial in batch):
            scores = evaluate(search, seeds, [trial.params for trial in batch], search.out / f"round{number}")
            for trial, score in zip(batch, scores, strict=True):
                study.tell(trial.number, score, skip_if_finished=True)
    return study


def _suggest(trial: Any) -> None:
    """What is searched; the trial keeps its values."""
    trial.suggest_float("actor_lr", 1e-5, 1e-2, log=True)
    trial.suggest_float("critic_lr", 1e-5, 1e-2, log=True)
    trial.suggest_float("discount", 0.9, 0.999)


def evaluate(search: Search, seeds: Sequence[int] | int, params: list[dict[str, float]], out: Path) -> list[float]:
    """For each of ``params`` the IQM of its seeds' last returns; a seed that diverged counts as the worst of all."""
    preset = presets.find("sac", ENV)
    configs = [override(preset.config, values) for values in params]
    steps, episodes = search.steps, preset.eval_episodes
    result = training.train(sac, configs, ENV, seeds=seeds, out=out, steps=steps, eval_every=steps, eval_episodes=episodes)
    rows = finished(result).rows
    dead, last = report.diverged(rows), report.scores(rows).iloc[-1]
    alive = [(int(config), int(seed)) not in dead for config, seed in last.index]
    scores = last.where(alive, last[alive].min())
    return [float(statistics.iqm(scores[index].to_numpy())) for index in range(len(configs))]


if __name__ == "__main__":
    main()
