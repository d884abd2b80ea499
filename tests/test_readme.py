"""What README.md shows runs as it stands, and what it lists is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rljax.experiments import cli, sweep

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
STUDY, TRAIN, OWN_LOOP = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("code", [pytest.param(TRAIN, id="train", marks=pytest.mark.slow), pytest.param(OWN_LOOP, id="loop")])
def test_example_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    assert not list(tmp_path.iterdir())


def test_study_is_planned(tmp_path):
    (tmp_path / "study.py").write_text(STUDY)
    programs = sweep.plan(sweep.read(tmp_path / "study.py"))
    assert [len(program.setup.learners) for program in programs] == [10, 10, 10]


def test_agents_are_those_of_the_table():
    table = README.split("## Agents")[1].split("##")[0]
    assert sorted(re.findall(r"\[`(\w+)`\]\(agents/", table)) == cli.agent_names()


def test_links_lead_somewhere():
    """Relative links of README and CONTRIBUTING name files of the repository."""
    for page in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md"):
        path = ROOT / page
        links = [x for x in re.findall(r"\]\(([^)#]+)\)", path.read_text()) if not x.startswith("http")]
        assert links and all((path.parent / link).exists() for link in links), page
