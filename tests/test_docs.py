"""What the site says is so: every agent has its page, commands parse, code runs, scores are those of benchmarks/."""

from __future__ import annotations

import importlib
import importlib.util
import json
import pkgutil
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

import rljax
from rljax import envs, statistics
from rljax.agents import calql
from rljax.experiments import bench, cli, finetune, forms
from rljax.experiments import horizon as analysing
from rljax.experiments import train as training

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
README, SCORES = ((ROOT / name).read_text() for name in ("README.md", "benchmarks/README.md"))
NAV = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
PAGES = {path.relative_to(DOCS).as_posix(): path.read_text() for path in sorted(DOCS.rglob("*.md"))}
OF_AGENTS = {name: PAGES.get(f"agents/{name}.md", "") for name in cli.agent_names()}
EQUATION = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+)\$", re.DOTALL)
HEADINGS = ["When to choose it", "One update", "Deviations", "Preset", "Measured", "Config", "Functions", "Source"]
every_agent = pytest.mark.parametrize("name", OF_AGENTS)


def commands():
    """Every ``rljax ...`` line of a block, and every such command with its arguments within a line."""
    for text in (*PAGES.values(), README):
        blocks = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL))
        yield from re.findall(r"^rljax .+$", blocks, re.MULTILINE)
        yield from (
            x for x in re.findall(r"`(rljax (?:train|finetune) [^` ]+ [^`]+)`", text) if "AGENT" not in x and "ENV" not in x
        )


def blocks():
    """The Python of every page, with what it includes, but for what is only shown."""
    for page, text in PAGES.items():
        for code in re.findall(r"^``` ?{?\.?python}?\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            code = re.sub(r'--8<-- "(.+)"', lambda match: (ROOT / match[1]).read_text(), code)
            yield pytest.param(code, id=f"{page}-{code.split(chr(10))[0][:30]}")


def leaves(nav):
    """The files that the navigation names."""
    if isinstance(nav, str):
        return [nav]
    return [file for part in (nav.values() if isinstance(nav, dict) else nav) for file in leaves(part)]


@pytest.fixture(scope="module")
def hooks():
    """The module docs/hooks.py."""
    spec = importlib.util.spec_from_file_location("hooks", DOCS / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_agent_and_every_page_is_in_the_navigation():
    files = leaves(NAV)
    assert {f"agents/{name}.md" for name in cli.agent_names()} <= set(files)
    assert sorted(files) == sorted({*PAGES, "benchmarks/index.md"})


@every_agent
def test_pages_of_agents_are_alike(name, hooks):
    page = OF_AGENTS[name]
    assert re.findall(r"^## (.+)$", page, re.MULTILINE) == HEADINGS
    assert (
        f"(`{name}`)" in page.splitlines()[0] and f'"agents/{name}.py"' in page and f'"experiments/presets/{name}.py"' in page
    )
    assert f"[config: rljax.agents.{name}.Config]" in page
    rows = hooks.table(f"rljax.agents.{name}.Config").splitlines()[2:]
    assert rows and all(re.fullmatch(r"\|.*`\w+` \| `.*` \| `.*` \| .{5,} \|", row) for row in rows)


@every_agent
def test_scores_are_those_of_the_benchmarks(name):
    """Numbers with an interval stand in benchmarks/README.md; an agent without any is not trained there."""
    measured = OF_AGENTS[name].split("## Measured")[1].split("\n## ")[0]
    scores = re.findall(r"-?\d[\d.]* \[-?[\d.]+, -?[\d.]+\]", measured)
    assert all(score in SCORES for score in scores)
    assert bool(scores) != ("Not measured here yet." in measured)
    assert scores or f"train {name} " not in SCORES


def test_counts_of_the_campaigns_are_those_of_the_benchmarks():
    """Faults by subject and inputs by group, in the order of the files; and what of them is said in words."""
    faults, inputs, divergence = (
        json.loads((ROOT / "benchmarks" / f"{name}.json").read_text()) for name in ("faults", "inputs", "divergence")
    )
    kinds = [list(kinds.values()) for kinds in faults["counts"].values()]
    counted = [[sum(x[name] for x in found) for name in ("tried", "survived", "refused", "lost")] for found in kinds]
    counted += [list(group["counts"].values()) for group in inputs["groups"].values()]
    rows = re.findall(r"^\|[^|]+((?:\| \d+ )+)\|$", PAGES["trust.md"].partition("## Divergence")[0], re.MULTILINE)
    assert [[int(x) for x in row.split("|")[1:]] for row in rows] == counted
    said = "{agents} agents in {runs} runs, {learners diverged} learners diverged, as they should, and {faults} times"
    assert said.format_map(divergence["total"]) in " ".join(PAGES["trust.md"].split())


def test_the_table_of_what_is_bit_equal_is_that_of_the_benchmarks():
    equal = json.loads((ROOT / "benchmarks" / "determinism.json").read_text())["agents"]
    assert set(equal) == set(OF_AGENTS)
    assert {row[way] for row in equal.values() for way in ("again", "resumed", "alone, resumed")} == {"equal"}
    rows = re.findall(r"^\| \[(\w+)\]\(agents/\1.md\) \| (.+) \|$", PAGES["trust.md"], re.MULTILINE)
    shown = {
        name: [re.sub(r"bits differ, numbers by (\S+) .* (\S+) at \d+", r"\1, \2", x) for x in row.values()]
        for name, row in equal.items()
    }
    assert {name: row.split(" | ") for name, row in rows} == shown


def test_tables_of_speed_are_those_of_the_benchmarks():
    shown = re.findall(r"^\$ rljax bench --show (\S+)\n(.*?)\n```", PAGES["performance.md"], re.MULTILINE | re.DOTALL)
    assert len(shown) == 3
    for file, text in shown:
        assert text == bench.table(bench.read(ROOT / file))


def test_ratios_to_peers_are_those_of_the_benchmarks():
    """Every file of benchmarks/peers/results, one row for each peer in it."""
    rows = []
    for file in (ROOT / "benchmarks" / "peers" / "results").glob("*.json"):
        found = json.loads(file.read_text())
        ours, *peers = ([row["name"], np.array(row["rates"])] for row in found["rows"])
        for name, rates in peers:
            ratio = ours[1] / rates
            numbers = f"{np.median(ours[1]):.3g} | {name} {np.median(rates):.3g}"
            spread = f"{np.median(ratio):.2f} ({ratio.min():.2f} - {ratio.max():.2f})"
            settings = found["settings"]
            what = found["agent"] + f", {settings['seeds']} seeds" * (settings["seeds"] > 1)
            what += f", {settings['order']} order" * (settings["order"] != "official")
            what += f" of depth {settings['depth']}, 1 action" * (settings["actions"] == 1)
            rows.append(f"| {what} | {settings['threads']} | {numbers} | {spread} |")
    assert sorted(rows) == sorted(re.findall(r"^\| .+ \(.+ - .+\) \|$", PAGES["performance.md"], re.MULTILINE))


def test_curves_and_seconds_are_those_of_the_benchmarks():
    """The IQM at the end of each run before and after, and the medians of starting, in the order of their file."""
    speed, page = ROOT / "benchmarks" / "speed", PAGES["performance.md"]
    stored = json.loads((speed / "curves.json").read_text())
    spread = [f"{statistics.iqm(np.array([*curve.values()][-1])):.1f}" for curve in stored["spread"]["scores"].values()]
    assert re.findall(r"ends at (-[\d.]+) \[.+\] before and (-[\d.]+) \[", page) == [tuple(spread)]
    rows = re.findall(r"^\| (\w+) \| .+ \| (-[\d.]+) \[.+\] \| (-[\d.]+) \[.+\] \|$", page, re.MULTILINE)
    ends = [
        (name, *(f"{statistics.iqm(np.array(list(curve[when].values())[-1])):.1f}" for when in ("before", "after")))
        for curves in (stored["agents"], stored["later"]["agents"])
        for name, curve in curves.items()
    ]
    assert rows == ends
    seconds = json.loads((speed / "startup.json").read_text())["medians"].values()
    shown = [float(x) for x in re.findall(r"^\| .+ \| ([\d.]+) \|$", page, re.MULTILINE)]
    np.testing.assert_allclose(shown, list(seconds), atol=0.05)


@pytest.mark.parametrize("line", sorted(set(commands())))
def test_command_parses(line, monkeypatch):
    data = SimpleNamespace(info=SimpleNamespace(name="", reference=None), returns=np.zeros(2))
    monkeypatch.setattr(cli, "read_data", lambda name: data if name else None)
    monkeypatch.setattr(training, "load", lambda run: SimpleNamespace(setup=SimpleNamespace(configs=(calql.Config(),))))
    _, command, *args = shlex.split(line.replace("--help", "").partition(" | ")[0], comments=True)
    if command in ("train", "finetune"):
        env = (forms.positionals(args) + ["pendulum"])[1].partition("?")[0]
        assert env in envs.names() or env.startswith("gymnasium/") or env.endswith(".npz")
        cli._parse_train(args) if command == "train" else finetune._parse(args)
    elif command in ("agents", "envs"):
        assert not args
    else:
        form = analysing.Horizon if command == "horizon" else getattr(cli, command.title())
        forms.parse(form, args, f"rljax {command}")


@pytest.mark.parametrize("code", list(blocks()))
def test_code_runs(code, monkeypatch):
    """What trains for long stands in README.md too, whose test runs it."""
    monkeypatch.syspath_prepend(DOCS / "examples")
    program = compile(code, "page", "exec")
    if code not in README:
        found = {"__name__": __name__}
        exec(program, found)
        if "result" in found:
            last = [row for row in found["result"].rows if row["kind"] == "eval"][-3:]
            assert [row["eval/return"] for row in last] == [1.0, 1.0, 1.0]


def test_names_are_there():
    """Every name of rljax that a page mentions, and every study that it runs."""
    text = "\n".join(PAGES.values())
    names = set(re.findall(r"(?:`|: )(rljax\.[\w.]+)", text)) | set(re.findall(r"python -m ([\w.]+)", text))
    assert len(names) > 100
    assert all(pkgutil.resolve_name(name) for name in names)


def test_core_is_documented():
    text = "\n".join(PAGES.values())
    modules = {module.name for module in pkgutil.walk_packages([str(Path(rljax.__file__).parent)], "rljax.")}
    own = {name for name in modules if name.split(".")[1] not in ("agents", "envs", "experiments", "alias")}
    assert len(own) > 20 and not {name for name in own - {"rljax.data"} if f"::: {name}\n" not in text}


@pytest.mark.parametrize("page", [page for page, text in PAGES.items() if "$" in text])
def test_equations_are_understood(page, hooks):
    """No command of LaTeX is left in the MathML."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", PAGES[page], flags=re.DOTALL)
    for block, inline in EQUATION.findall(text):
        found = hooks.convert((block or inline).strip())
        assert "\\" not in found and "<mi>&" not in re.sub(r"&#x\w+;", "", found), block or inline
