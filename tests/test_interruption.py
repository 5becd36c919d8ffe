"""`kill -9` at many moments, in real processes: the next run ends in the same bytes."""

from __future__ import annotations

import csv
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

MODELS = "logmel,vit{blocks=2;width=96}"
TIMES = ("seconds", "date")


def heed_interrupts() -> None:
    """Where the tests run in the background, their children would inherit that interrupts are ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(data: Path, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            sys.executable, "-c", "from aape_bench.cli import main; main()", "run", "--model", MODELS,
            "--task", "esc50", "--data-dir", data, "--allow-partial", "--batch-size", "4",
            "--results-dir", folder / "results", "--cache-dir", folder / "cache",
        ],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=folder, preexec_fn=heed_interrupts,
    )  # fmt: skip


def predictions(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (folder / "results" / "predictions").rglob("*.csv.gz")}


def leaderboard(folder: Path) -> list[dict[str, str]]:
    with (folder / "results" / "leaderboard.csv").open(newline="") as handle:
        return [{key: value for key, value in row.items() if key not in TIMES} for row in csv.DictReader(handle)]


@pytest.mark.slow
def test_killed_runs_continue_to_the_same_bytes(small_esc50: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    process = start(small_esc50, whole)
    assert process.wait() == 0, process.stderr and process.stderr.read()
    moments = random.Random(0)
    killed = 0
    for files in (1, 2, 4, 6, 8):
        process = start(small_esc50, cut)
        # a run is met at work, however fast the machine: once this many files are there, and a little later
        while process.poll() is None and sum(path.is_file() for path in cut.rglob("*")) < files:
            time.sleep(0.001)
        time.sleep(moments.uniform(0.0, 0.05))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        assert set(predictions(cut).items()) <= set(predictions(whole).items())
    assert killed >= 3
    process = start(small_esc50, cut)
    assert process.wait() == 0, process.stderr and process.stderr.read()
    assert len(predictions(whole)) == 2
    assert predictions(cut) == predictions(whole)
    assert leaderboard(cut) == leaderboard(whole)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_that_is_asked_to_stop_leaves_nothing_half_written(
    small_esc50: Path, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    process = start(small_esc50, tmp_path)
    while process.poll() is None and not list(tmp_path.rglob("entry.json")):
        time.sleep(0.001)
    process.send_signal(number)
    _, said = process.communicate()
    assert process.returncode == status, said
    assert "The same command goes on from here" in said
    assert "Traceback" not in said
    assert not list(tmp_path.rglob("*.tmp"))
