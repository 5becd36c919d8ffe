"""The command line besides `run`: help, lists, leaderboard, plot; and how quickly it answers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from aape_bench import console
from aape_bench.console import RichProgress

Cli = Callable[..., tuple[int, str, str]]


def in_a_new_process(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command and print, last, which of the slow packages it imported."""
    program = (
        "import sys\nfrom aape_bench.cli import main\n"
        "try: main()\n"
        "finally: print('IMPORTED', *sorted({'torch', 'sklearn', 'scipy', 'matplotlib', 'pandas'} & set(sys.modules)))"
    )
    line = [sys.executable, "-P", "-c", program, *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["-h"], ["--version"], ["run", "--help"], ["plot", "--help"], ["models"]]
)
def test_help_and_lists_import_nothing_slow(arguments: list[str]) -> None:
    done = in_a_new_process(*arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].split() == ["IMPORTED"]


def test_every_command_has_help_with_an_example(cli: Cli) -> None:
    for command in ("run", "models", "tasks", "leaderboard", "plot"):
        status, out, _ = cli(command, "--help")
        assert status == 0
        assert f"aape-bench {command}" in out.split("Example")[1]


def test_a_run_with_nothing_to_do_imports_neither_torch_nor_scikit_learn(small_esc50: Path) -> None:
    line = ["run", "--model", "logmel", "--task", "esc50", "--data-dir", small_esc50, "--allow-partial"]
    first = in_a_new_process(*line)
    assert first.returncode == 0, first.stderr
    again = in_a_new_process(*line)
    assert "0 results computed, 1 already there" in again.stdout
    assert again.stdout.splitlines()[-1] == "IMPORTED pandas"


def test_models_and_tasks_are_listed(cli: Cli) -> None:
    out = cli("models")[1]
    assert all(name in out for name in ("aape", "vit", "logmel", "hear:"))
    out = cli("models", "aape")[1]
    assert "bilateral | gaussian | one_sided" in out
    out = cli("tasks")[1]
    assert all(name in out for name in ("esc50", "tremolo", "generated", "2000"))
    out = cli("tasks", "esc50")[1]
    assert all(text in out for text in ("Piczak", "CC BY-NC", "https://github.com/karolpiczak"))
    status, _, err = cli("tasks", "esc5")
    assert status == 2
    assert "esc50" in err


def test_leaderboard_and_plot_from_records(cli: Cli, small_esc50: Path, tmp_path: Path) -> None:
    cli("run", "--model", "logmel", "--task", "esc50", "--data-dir", small_esc50, "--allow-partial")
    (tmp_path / "results" / "leaderboard.csv").unlink()
    status, out, _ = cli("leaderboard")
    assert status == 0
    assert "45 of 2000" in out
    ours = (tmp_path / "results" / "leaderboard.csv").read_text()
    status, out, _ = cli("leaderboard", "--published")
    assert "published" in out
    assert "EAT" in out
    assert (tmp_path / "results" / "leaderboard.csv").read_text().startswith(ours)
    status, out, _ = cli("plot", "--published", "--out", tmp_path / "plots")
    assert status == 0
    assert (tmp_path / "plots" / "scores-esc50.png").read_bytes()[:4] == b"\x89PNG"


def test_names_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    with RichProgress().stage("my.py:ok: [bold]embedding", 1, "clips") as advance:
        advance(1)
    assert capsys.readouterr().err.startswith("my.py:ok: [bold]embedding: 1 clips")


def test_a_stage_may_begin_again(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", 0)
    with RichProgress().stage("embedding", 4, "clips") as advance:
        for done in (0, 2, -2, 4):  # memory did not do for the batch after the first
            advance(done)
    assert capsys.readouterr().err.startswith("embedding: 2 of 4 clips")


@pytest.mark.parametrize("command", ["leaderboard", "plot"])
def test_no_results_yet_is_said(cli: Cli, tmp_path: Path, command: str) -> None:
    status, _, err = cli(command, "--results-dir", tmp_path / "none")
    assert status == 2
    assert "aape-bench run" in err
    assert not (tmp_path / "none").exists()


def test_a_damaged_record_is_named_and_computed_again(cli: Cli, small_esc50: Path, tmp_path: Path) -> None:
    line = ("run", "--model", "logmel", "--task", "esc50", "--data-dir", small_esc50, "--allow-partial")
    cli(*line)
    (record,) = (tmp_path / "results").rglob("*.json")
    whole = json.loads(record.read_text())["scores"]
    record.write_text(record.read_text()[:100])
    status, _, err = cli("leaderboard")
    assert status == 0
    assert record.name in err
    assert "1 result computed" in cli(*line)[1]
    assert json.loads(record.read_text())["scores"] == whole


def test_python_inside_a_checkout_with_a_wheel_says_so(tmp_path: Path) -> None:
    """The bare aape_bench folder of a checkout hides the installed package: one plain message."""
    import aape_bench

    checkout = tmp_path / "checkout"
    checkout.mkdir()
    package = Path(aape_bench.__file__).parent
    (checkout / "pyproject.toml").write_text("")
    import shutil

    shutil.copytree(package, checkout / "aape_bench", ignore=shutil.ignore_patterns("models", "tasks", "__pycache__"))
    line = [sys.executable, "-m", "aape_bench", "run", "--model", "logmel", "--task", "tremolo"]
    done = subprocess.run(line, capture_output=True, text=True, cwd=checkout, check=False)
    assert done.returncode == 2
    assert "started inside a source checkout" in done.stderr
