"""The wheel holds what the package needs, and pyproject's lists are complete."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {"aape_bench": "aape_bench", "models": "aape_bench/models", "tasks": "aape_bench/tasks"}


def expected_files() -> set[str]:
    """Every module, table and checkpoint of the three source folders, by its name in the wheel."""
    return {
        f"{inside}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, inside in FOLDERS.items()
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".csv", ".typed", ".safetensors", ".md") and path.name != "train.py"
    }


def test_the_packages_listed_are_the_packages_there() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    there = {name.rpartition("/")[0].replace("/", ".") for name in expected_files() if name.endswith("/__init__.py")}
    assert sorted(listed) == sorted(there)


@pytest.mark.slow
def test_the_wheel_is_complete(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path / "dist", tmp_path / "src"]
    tracked = [*FOLDERS, "pyproject.toml", "README.md", "LICENSE"]
    (tmp_path / "src").mkdir()
    import shutil

    for name in tracked:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / "src" / name)
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert expected_files() <= names
    assert not [name for name in names if name.startswith(("tests", "models", "tasks"))]


def test_constraints_pin_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = {
        line.partition("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    import re

    wanted = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    names = {re.split(r"[<>=\[ ]", requirement)[0].lower().replace("_", "-") for requirement in wanted}
    assert names <= pinned


def test_the_readme_names_every_command() -> None:
    readme = (ROOT / "README.md").read_text()
    for command in ("make demo", "make test", *(f"aape-bench {c}" for c in ("run", "leaderboard", "plot", "models"))):
        assert command in readme, command
