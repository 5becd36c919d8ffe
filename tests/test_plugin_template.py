"""The template under docs/ is a package that builds, installs and runs as its README says."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

TEMPLATE = Path(__file__).resolve().parents[1] / "docs" / "plugin-template"

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that pip installed the template into, without network."""
    work = tmp_path_factory.mktemp("template")
    shutil.copytree(TEMPLATE, work / "source")  # building leaves folders behind
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    offline = ["--no-deps", "--no-index", "--no-build-isolation", "--target", str(work / "site")]
    done = subprocess.run([*pip, *offline, str(work / "source")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return work / "site"


@pytest.fixture
def aape_bench(installed: Path, tmp_path: Path) -> Run:
    """Run the command where the package is installed."""
    path = os.pathsep.join([str(installed), *filter(None, sys.path)])

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-P", "-m", "aape_bench", *arguments]
        environment = {**os.environ, "PYTHONPATH": path}
        return subprocess.run(line, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)

    return call


def test_it_is_listed_validated_and_run(aape_bench: Run) -> None:
    listed = aape_bench("models")
    assert "Levels in frequency bands" in listed.stdout, listed.stderr
    assert listed.stderr == ""
    assert "Tones: low or high" in aape_bench("tasks").stdout
    valid = aape_bench("validate", "--model", "example_bands")
    assert valid.returncode == 0, valid.stdout + valid.stderr
    assert " warn " not in valid.stdout.partition("hearvalidator")[0], valid.stdout
    line = ("run", "--model", "example_bands", "--set", "bands=10", "--task", "example_tones")
    first, again = aape_bench(*line), aape_bench(*line)
    assert first.returncode == 0, first.stderr
    (row,) = (line.split() for line in first.stdout.splitlines() if "example_bands" in line)
    assert row[:4] == ["example_bands[bands=10]", "example_tones", "linear", "accuracy"]
    assert float(row[4]) > 0.9
    assert "0 results computed, 1 already there" in again.stdout


def test_a_broken_one_is_reported_and_the_rest_goes_on(aape_bench: Run, installed: Path) -> None:
    encoder = installed / "aape_bench_example" / "__init__.py"
    honest = encoder.read_text()
    try:
        encoder.write_text(honest + "\nimport a_package_that_is_not_there\n")
        listed = aape_bench("models")
    finally:
        encoder.write_text(honest)
    assert listed.returncode == 0
    assert "logmel" in listed.stdout
    assert "example_bands" not in listed.stdout
    assert 'Skipped: The model "example_bands" could not be loaded' in listed.stderr
    assert "a_package_that_is_not_there" in listed.stderr
