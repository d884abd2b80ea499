"""What the build adds to the pages: equations as MathML, tables of configs, and the scores of ``benchmarks/``.

A page is Markdown. ``$...$`` and ``$$...$$`` become MathML, which browsers draw without scripts or fonts from elsewhere. A line
``[config: rljax.agents.sac.Config]`` becomes a table of that class's fields. Whatever is wrong in either stops the build.
"""

from __future__ import annotations

import html
import importlib
import pkgutil
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

from rljax.experiments import forms

ROOT = Path(__file__).parents[1]
SCORES = "benchmarks/index.md"


@event_priority(100)  # before mkdocstrings
def on_config(config: Any) -> Any:
    """The config, in which mkdocstrings finds the packages as a wheel has them: in a checkout they lie in four folders."""
    config.extra["packages"] = copy = tempfile.TemporaryDirectory(prefix="rljax-")  # is gone with the config
    for name in ("rljax", "rljax.agents", "rljax.envs", "rljax.experiments"):
        source = Path(str(importlib.import_module(name).__file__)).parent
        shutil.copytree(
            source, Path(copy.name, *name.split(".")), ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True
        )
    config.plugins["mkdocstrings"].config.handlers["python"]["paths"] = [copy.name]
    return config


def on_files(files: Files, config: Any) -> Files:
    """The pages, with ``benchmarks/README.md`` as one of them, and the pictures that it shows or names the folders of."""
    text = _scores()
    files.append(File.generated(config, SCORES, content=text))
    for name in sorted(set(re.findall(r"\]\(([\w./-]+\.png)\)", text))):
        files.append(File.generated(config, f"benchmarks/{name}", abs_src_path=str(ROOT / "benchmarks" / name)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """The page with tables where it asks for them."""
    return re.sub(r"^\[config: ([\w.]+)\]$", lambda match: table(match[1]), markdown, flags=re.MULTILINE)


def on_page_content(content: str, page: Any, config: Any, files: Files) -> str:
    """The page with MathML for its equations, as `pymdownx.arithmatex` has marked them."""
    marked = re.compile(r'<(span|div) class="arithmatex">(?:\\\((.*?)\\\)|\\\[(.*?)\\\])</\1>', re.DOTALL)
    return marked.sub(lambda match: _mathml(match[2], "inline") if match[2] else _mathml(match[3], "block"), content)


def table(name: str) -> str:
    """The fields of a class made with @config, from their declarations and comments, as Markdown."""
    rows = ["| field | default | allowed | what it is |", "|---|---|---|---|"]
    for field, _, comment in forms.described(pkgutil.resolve_name(name)):
        choices = field.metadata.get("choices") or {}
        allowed = ", ".join(f"`{name}`" for name in choices) or f"`{field.metadata['rule'] or 'True or False'}`"
        kind = " " if "static" in field.metadata or choices else " **number** "
        default = next((name for name, value in choices.items() if value == field.default), field.default)
        rows.append(f"|{kind}`{field.name}` | `{default}` | {allowed} | {_escaped(comment)} |")
    return "\n".join(rows)


def _escaped(text: str) -> str:
    return re.sub(r"([|<_*])", r"\\\1", text)


def _mathml(latex: str, display: str) -> str:
    found = convert(html.unescape(latex), display=display)
    spaced = '<mspace width="0.17em"/><mi>log</mi><mspace width="0.17em"/>'
    return found.replace(' xmlns="http://www.w3.org/1998/Math/MathML"', "").replace("<mi>log</mi>", spaced)


def _scores() -> str:
    """``benchmarks/README.md`` as a page of the site: a folder that it names is its curve, if it has one."""

    def link(match: re.Match[str]) -> str:
        text, target = match.groups()
        if target.startswith(("http", "#")):
            return match[0]
        picture = target if target.endswith(".png") else f"{target}/curve.png"
        if (ROOT / "benchmarks" / picture).exists():
            return f"[{text}]({picture})"
        return text

    return re.sub(r"\[([^][]*)\]\(([^)]+)\)", link, (ROOT / "benchmarks" / "README.md").read_text())
