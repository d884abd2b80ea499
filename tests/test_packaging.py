"""What is built is what lies in the folders, and imports resolve to one copy wherever python is started."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import rljax

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = ("rljax", "agents", "envs", "experiments")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the checkout that is not installed."""
    copy = tmp_path_factory.mktemp("checkout")
    for file in [ROOT / "pyproject.toml", ROOT / "LICENSE", *ROOT.glob("*.md")]:
        shutil.copy(file, copy)
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


@pytest.fixture(scope="module")
def wheel(checkout, tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, checkout]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = out.iterdir()
    with zipfile.ZipFile(path) as file:
        yield file


def run(code, cwd, *paths):
    """Standard output of ``code`` run in the folder ``cwd``, where imports search ``paths`` first."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=cwd, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout.split()


def test_listed_packages_are_the_folders():
    inits = [path.parent.relative_to(ROOT) for folder in FOLDERS for path in (ROOT / folder).rglob("__init__.py")]
    names = [".".join(path.parts if path.parts[0] == "rljax" else ("rljax", *path.parts)) for path in inits]
    assert sorted(PYPROJECT["tool"]["setuptools"]["packages"]) == sorted(names)


def test_floors_are_the_lowest_versions_allowed():
    """Of all that rljax imports; not of accelerators, clusters and notebooks, which .ci/versions does not install."""
    extras = PYPROJECT["project"]["optional-dependencies"]
    used = [x for name in ("atari", "data", "docs", "mujoco", "search", "track") for x in extras[name]]
    needed = [Requirement(x) for x in [*PYPROJECT["project"]["dependencies"], *used]]
    lowest = {x.name: Version(part.version) for x in needed for part in x.specifier if part.operator == ">="}
    text = (ROOT / "tests" / "floors.txt").read_text()
    floors = {name: Version(version) for name, version in re.findall(r"^([\w-]+)==(.+)$", text, re.MULTILINE)}
    assert {name: floors.get(name) for name in lowest} == lowest


def test_every_python_file_is_in_the_wheel(wheel):
    sources = [path.relative_to(ROOT).as_posix() for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    expected = {path if path.startswith("rljax/") else f"rljax/{path}" for path in sources}
    assert {name for name in wheel.namelist() if name.endswith(".py")} == expected


def test_wheel_has_marker_licence_and_command(wheel):
    files = {name.partition(".dist-info/")[2] or name: name for name in wheel.namelist()}
    assert "rljax/py.typed" in files and "licenses/LICENSE" in files
    assert "rljax = rljax.experiments.cli:main" in wheel.read(files["entry_points.txt"]).decode()


def test_installed_wheel_works_from_any_folder(wheel, tmp_path):
    target, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    wheel.extractall(target)  # all that installing a pure wheel does
    assert run("from rljax.agents import sac; print(sac.__file__)", empty, target) == [f"{target}/rljax/agents/sac.py"]


def test_checkout_works_uninstalled_from_its_root(checkout):
    code = "from rljax.agents import sac; import rljax; print(sac.__file__, rljax.__file__)"
    assert run(code, checkout) == [f"{checkout}/agents/sac.py", f"{checkout}/rljax/__init__.py"]


@pytest.mark.parametrize("first", ["import rljax.agents.sac", "from agents import sac", "import agents.sac"])
def test_bare_names_are_the_same_modules(first, checkout):
    code = (
        f"{first}\nimport agents.sac, envs.contract, experiments.presets, rljax.agents.sac, rljax.envs.contract\n"
        "assert agents is rljax.agents and agents.sac is rljax.agents.sac\n"
        "assert envs is rljax.envs and envs.contract is rljax.envs.contract\n"
        "assert experiments is rljax.experiments and experiments.presets is rljax.experiments.presets\n"
        "from agents.sac import Config\n"
        "print(Config is rljax.agents.sac.Config, Config.__module__)"
    )
    assert run(code, checkout) == ["True", "rljax.agents.sac"]


def test_foreign_project_beside_an_installed_wheel_is_not_taken_for_the_checkout(wheel, tmp_path):
    wheel.extractall(tmp_path)
    (tmp_path / "pyproject.toml").touch()
    assert run("import rljax; print(*rljax.__path__)", tmp_path, tmp_path) == [f"{tmp_path}/rljax"]


def test_import_is_light(checkout):
    code = "import sys, rljax; print(*{'jax', 'numpy', 'rljax.experiments'} & set(sys.modules), rljax.__version__)"
    assert len(run(code, checkout)) == 1


def test_train_is_the_function():
    from rljax.experiments import train

    assert rljax.train is train.train and rljax.Result is train.Result
    assert {"train", "Result", "__version__"} <= set(dir(rljax))
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        _ = rljax.nope
