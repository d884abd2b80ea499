"""The page on runs and studies, whose numbers are read back from it, also in a real browser; and the comparison of two runs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest

from rljax import statistics, store
from rljax.base import InputError
from rljax.experiments import entries, page
from rljax.experiments.cli import run as rljax

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
STEPS = range(0, 20_001, 1_000)


CONFIG = {"actor_lr": 1e-3, "head": {"type": "x", "bins": 5}}


def write(out, agent="sac", env="pendulum", configs=(CONFIG,), seeds=5, dead=(), at=0.0):
    """A finished run's folder, without checkpoints; its scores rise from 0 by ``at`` and a noise; those ``dead`` diverged."""
    rng, rows, count = np.random.default_rng(len(agent + env)), [], len(configs)
    for step in STEPS:
        for seed in range(seeds):
            for config in range(count):
                score = step / 20_000 * (at + 10 * config) + rng.normal()
                row = {"step": step, "seed": seed, "config": config, "phase": "online", "kind": "eval", "eval/return": score}
                rows.append(row | ({"diverged": True} if (config, seed) in dead and step > 10_000 else {}))
    out.mkdir(parents=True)
    settings = {"agent": agent, "env": env, "config": configs[0] if count == 1 else list(configs), "seeds": list(range(seeds))}
    counts = {"num_envs": 1, "eval_every": 1_000, "log_every": 500, "steps": 20_000, "eval_episodes": 10}
    store.write_json(out / "config.json", settings | counts)
    store.write_json(
        out / "versions.json", [{"device": "1 x cpu cpu", "packages": {"jax": "0.10.2"}, "git": "abcdef0123456789"}]
    )
    (out / "metrics.jsonl").write_text("".join(map(store.encode, rows)))
    timing = [{"step": 0, "compiled": "online", "seconds": 7.25}, {"step": 500, "seconds": 3.5, "learners": 5}]
    (out / "timing.jsonl").write_text("".join(map(store.encode, timing)))
    return out


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Three agents on three tasks with five seeds, one of which diverged."""
    out = tmp_path_factory.mktemp("study")
    for i, agent in enumerate(("sac", "ppo", "<dqn>")):
        for env in ("pendulum", "brax/hopper", "maze/open"):
            write(out / f"{agent.strip('<>')}-{env.replace('/', '-')}", agent, env, at=20 * i, dead={(0, 3)} if i == 2 else ())
    return out


class Tables(HTMLParser):
    """``found[id]``: rows of a table's texts; ``titles``: all tooltips."""

    def __init__(self, text):
        super().__init__()
        self.found, self.titles, self.inside = {}, [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "table":
            self.rows = self.found.setdefault(dict(attrs)["id"], [])
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        self.inside = tag

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside in ("td", "th", "button"):
            self.rows[-1][-1] += data
        elif self.inside == "title":
            self.titles.append(data)


def test_numbers_are_those_of_the_runs(study):
    text = page.page(sorted(study.iterdir()))
    tables = Tables(text)
    assert len(text.encode()) < 5e6 and not re.search(r'(src|href)="(https?:)?//|url\(["\']?http|@import', text)
    header, *rows = tables.found["scores"]
    assert len(rows) == 9
    for row in (dict(zip(header, row, strict=True)) for row in rows):
        (entry,) = (e for e in entries.read(sorted(study.iterdir())) if (e.env, e.label) == (row["task"], row["agent"]))
        assert float(row["IQM"]) == pytest.approx(float(statistics.iqm(entry.last)), abs=0.05)
        assert [float(row["low"]), float(row["high"])] == pytest.approx(
            list(map(float, statistics.interval(entry.last))), abs=0.05
        )
        assert (row["seeds"], row["diverged"]) == ("5", "1" if entry.agent == "<dqn>" else "0")
        assert [float(x) for x in row["last of each seed"].split()] == pytest.approx(entry.last, abs=0.05)
    assert [row[0] for row in tables.found["aggregates"]] == ["agent", "<dqn>", "ppo", "sac"]
    chances = {tuple(row[:2]): float(row[3]) for row in tables.found["improvements"][1:]}
    assert all(float(row[4]) <= float(row[3]) <= float(row[5]) for row in tables.found["improvements"][1:])
    assert chances["<dqn>", "ppo"] == pytest.approx(0.8, abs=0.05) and chances["ppo", "sac"] > 0.95  # a fifth has diverged
    assert "<dqn> on brax/hopper: seed 3 diverged" in re.sub("<[^>]*>", "", text).replace("&lt;", "<").replace("&gt;", ">")
    assert "<dqn>" not in text  # escaped wherever it stands
    assert tables.found["runs"][1] == ["dqn-brax-hopper", "3.50", "7.20", "1 x cpu cpu", "jax 0.10.2", "abcdef012"]
    assert sum("step 20000: " in title for title in tables.titles) == 9


def test_diverged_seeds_count_as_the_lowest(study):
    """Over all tasks the fifth seed of <dqn>, whose others are the highest, is at 0."""
    found = entries.read(sorted(study.iterdir()))
    pooled = entries.pooled(found, ["pendulum", "brax/hopper", "maze/open"])
    (scores,) = (x for label, x in zip(pooled.labels, pooled.scores, strict=True) if label == "<dqn>")
    assert scores.shape == (3, 5) and (np.sort(scores, 1)[:, 0] == 0).all() and (np.sort(scores, 1)[:, 1:] > 0.8).all()


def test_curves_over_all_tasks_end_at_the_scores(study):
    """Of runs of any length: the first has half the steps of the others, and as many evaluations."""
    found = entries.read(sorted(study.iterdir()))
    found[0].scores.index = found[0].scores.index // 2
    pooled = entries.pooled(found, ["pendulum", "brax/hopper", "maze/open"])
    for scores, curves in zip(pooled.scores, pooled.curves, strict=True):
        assert curves.shape == (len(entries.SHARES), 3, 5)
        np.testing.assert_allclose(curves[-1], scores)
    (rising,) = (x for label, x in zip(pooled.labels, pooled.curves, strict=True) if label == "ppo")
    np.testing.assert_allclose(statistics.pooled_iqm(rising), entries.SHARES * statistics.pooled_iqm(rising[-1]), atol=0.1)


def test_normalised_scores_are_shown_where_the_task_has_them(tmp_path):
    """Of a mean of 20 and a reference of 100, in one of two tasks."""
    for env in ("hopper", "pendulum"):
        out = write(tmp_path / env, env=env, at=20.0)
        rows = store.read_rows(out / "metrics.jsonl")
        normalized = [row | ({"eval/normalized": row["eval/return"] * 5} if env == "hopper" else {}) for row in rows]
        (out / "metrics.jsonl").write_text("".join(map(store.encode, normalized)))
    header, *rows = Tables(page.page([tmp_path / "hopper", tmp_path / "pendulum"])).found["scores"]
    column, iqm = header.index("normalised IQM"), header.index("IQM")
    assert float(rows[0][column]) == pytest.approx(5 * float(rows[0][iqm]), abs=0.3) and rows[1][column] == ""


def test_configs_of_a_sweep_are_told_apart(tmp_path):
    configs = [{"actor_lr": rate, "tau": 0.1} for rate in (1e-4, 1e-3, 1e-2)]
    store.write_json(tmp_path / "study.json", [{"folder": "one", "varied": [{}] * 3}, {"folder": "not yet", "varied": []}])
    write(tmp_path / "one", configs=configs)
    tables = Tables(page.page([tmp_path]))
    assert [row[1] for row in tables.found["scores"][1:]] == ["sac actor_lr=0.0001", "sac actor_lr=0.001", "sac actor_lr=0.01"]
    assert [row[2:] for row in tables.found["differences"]] == [["actor_lr"], ["0.0001"], ["0.001"], ["0.01"]]
    assert "aggregates" not in tables.found
    assert sum(title.startswith("sac actor_lr=0.01: IQM") for title in tables.titles) == 1  # what numbers do


def test_runs_alike_are_told_apart_by_their_folders(tmp_path):
    found = entries.read([write(tmp_path / "a"), write(tmp_path / "b")])
    assert [entry.label for entry in found] == ["sac (a)", "sac (b)"]


def test_many_configs_are_compared_with_the_best(tmp_path):
    configs = [{"actor_lr": i / 100} for i in range(1, 11)]
    tables = Tables(page.page([write(tmp_path / "one", configs=configs)]))
    assert len(tables.found["improvements"]) == 1 + 9
    assert {row[0] for row in tables.found["improvements"][1:]} == {"sac actor_lr=0.1"}


def test_every_seed_diverged(tmp_path):
    tables = Tables(page.page([write(tmp_path / "one", dead={(0, seed) for seed in range(5)})]))
    assert tables.found["scores"][1][2:6] == ["", "", "", ""] and tables.found["scores"][1][8] == "5"


def test_comparison(tmp_path, capsys):
    a, b = write(tmp_path / "a", at=20, configs=[{"tau": 0.1}]), write(tmp_path / "b", agent="ppo", at=0, dead={(0, 1)})
    assert rljax(["compare", str(a), str(b)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("A: sac on pendulum, IQM ") and lines[1].endswith("of 4 seeds at step 20000, 1 diverged")
    assert lines[2] == "probability that a seed of A scores above one of B: 1.00"
    assert "tau: 0.1 in A, none in B" in lines
    alive = write(tmp_path / "c", agent="dqn", at=20)
    assert rljax(["compare", str(a), str(alive)]) == 0
    assert re.search(r"above one of B: 0\.\d\d, 95 % interval \[0\.\d\d, [01]\.\d\d\]", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("report nothing", "nothing holds neither a run nor a study"),
        ("report empty", "empty holds neither a run nor a study"),
        ("report planned", "nothing of planned is trained yet"),
        ("report begun", "begun has no evaluation: there is nothing to report of it yet"),
        ("report damaged", "is damaged"),
        ("report", "RUNS"),
        ("compare one several", "rljax compare takes runs of one config each: use rljax report"),
        ("compare one elsewhere", "one was evaluated on pendulum and elsewhere on maze/open"),
    ],
)
def test_what_is_refused(tmp_path, monkeypatch, command, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "planned").mkdir()
    store.write_json(tmp_path / "planned" / "study.json", [{"folder": "none", "varied": [{}]}])
    for name in ("one", "begun", "damaged"):
        write(tmp_path / name)
    write(tmp_path / "several", configs=[{}, {}])
    write(tmp_path / "elsewhere", env="maze/open")
    (tmp_path / "begun" / "metrics.jsonl").write_text("")
    (tmp_path / "damaged" / "metrics.jsonl").write_text("{\n")
    with pytest.raises(InputError) as refusal:
        rljax(command.split())
    assert sentence in str(refusal.value) and not (tmp_path / "report.html").exists()


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (apt-get install chromium)")
def test_in_a_browser(study, tmp_path):
    """A click sorts, the numbers are in the document, and nothing is wider than a phone's 400 px; light and dark."""
    probe = """
        <script>
        document.documentElement.style.width = "400px";
        const outside = [...document.querySelectorAll("body *")].filter(x => x.matches(".wide") || !x.closest(".wide"));
        const right = Math.max(...outside.map(x => x.getBoundingClientRect().right));
        const column = () => [...document.querySelectorAll("#scores tbody tr")].map(row => Number(row.cells[2].textContent));
        const heading = document.querySelectorAll("#scores th button")[2];
        const given = column(); heading.click(); const up = column(); heading.click(); const down = column();
        const ink = getComputedStyle(document.querySelector("svg text")).fill;
        const paper = getComputedStyle(document.body).backgroundColor;
        document.body.innerHTML = `<pre>${JSON.stringify({right, given, up, down, ink, paper})}</pre>`;
        </script></body>
    """
    path, found = tmp_path / "report.html", {}
    path.write_text(page.page(sorted(study.iterdir())).replace("</body>", probe))
    for name, flags in {"light": [], "dark": ["--force-dark-mode"]}.items():
        command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / name}", *flags]
        dump = subprocess.run([*command, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=120).stdout
        found[name] = json.loads(re.search(r"<pre>(.*)</pre>", dump).group(1))
    light, dark = found["light"], found["dark"]
    iqms = [float(statistics.iqm(entry.last)) for entry in entries.read(sorted(study.iterdir()))]
    assert light["given"] == pytest.approx(iqms, abs=0.05)
    assert light["up"] == sorted(light["given"]) and light["down"] == sorted(light["given"], reverse=True)
    assert 0 < light["right"] <= 400
    assert [light["ink"], light["paper"]] == ["rgb(28, 32, 36)", "rgb(255, 255, 255)"]
    assert [dark["ink"], dark["paper"]] == ["rgb(230, 232, 235)", "rgb(20, 23, 26)"]
