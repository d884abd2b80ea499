"""Notebooks and their paired scripts hold the same cells. ``pytest --nbmake notebooks`` runs them."""

from __future__ import annotations

from pathlib import Path

import jupytext
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def test_notebooks_were_found():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_script_is_the_notebook(path):
    cells = [[(c.cell_type, c.source) for c in jupytext.read(p).cells] for p in (path, path.with_suffix(".py"))]
    assert cells[0] == cells[1]
