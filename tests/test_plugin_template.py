"""The template under docs/ is a package that builds, installs and runs as its README says."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from toys import Cli

from aape_bench import registry

TEMPLATE = Path(__file__).resolve().parents[1] / "docs" / "plugin-template"


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
def here(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package in this process."""
    monkeypatch.syspath_prepend(installed)
    registry._entries.cache_clear()
    yield
    registry._entries.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "aape_bench_example"]:
        del sys.modules[name]


@pytest.mark.usefixtures("here")
def test_it_is_listed_validated_and_run(cli: Cli) -> None:
    status, out, err = cli("models")
    assert (status, err) == (0, "")
    assert "Levels in frequency bands" in out
    assert "Tones: low or high" in cli("tasks")[1]
    status, out, err = cli("validate", "--model", "example_bands")
    assert status == 0, out + err
    assert " warn " not in out.partition("hearvalidator")[0], out
    line = ("run", "--model", "example_bands", "--set", "bands=10", "--task", "example_tones")
    status, out, err = cli(*line)
    assert status == 0, err
    (row,) = (line.split() for line in out.splitlines() if "example_bands" in line)
    assert row[:4] == ["example_bands[bands=10]", "example_tones", "linear", "accuracy"]
    assert float(row[4]) > 0.9
    assert "0 results computed, 1 already there" in cli(*line)[1]


def test_a_broken_one_is_reported_and_the_rest_goes_on(installed: Path, tmp_path: Path) -> None:
    """In a process of its own, as a person would meet it."""
    path = os.pathsep.join([str(installed), *filter(None, sys.path)])
    line = [sys.executable, "-P", "-m", "aape_bench", "models"]

    def models() -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": path}
        return subprocess.run(line, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert "example_bands" in models().stdout
    encoder = installed / "aape_bench_example" / "__init__.py"
    honest = encoder.read_text()
    try:
        encoder.write_text(honest + "\nimport a_package_that_is_not_there\n")
        listed = models()
    finally:
        encoder.write_text(honest)
    assert listed.returncode == 0
    assert "logmel" in listed.stdout
    assert "example_bands" not in listed.stdout
    assert 'Skipped: The model "example_bands" could not be loaded' in listed.stderr
    assert "a_package_that_is_not_there" in listed.stderr
