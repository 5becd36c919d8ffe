"""`kill -9` at random moments, in real processes: the next run ends in the same bytes."""

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


def start(data: Path, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            sys.executable, "-c", "from aape_bench.cli import main; main()", "run", "--model", MODELS,
            "--task", "esc50", "--data-dir", data, "--allow-partial", "--batch-size", "4",
            "--results-dir", folder / "results", "--cache-dir", folder / "cache",
        ],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=folder,
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
    began = time.perf_counter()
    process = start(small_esc50, whole)
    assert process.wait() == 0, process.stderr and process.stderr.read()
    took = time.perf_counter() - began
    moments = random.Random(0)
    killed = 0
    for _ in range(5):
        process = start(small_esc50, cut)
        time.sleep(moments.uniform(0.3, 1.0) * took)
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        assert set(predictions(cut).items()) <= set(predictions(whole).items())
    assert killed > 0
    process = start(small_esc50, cut)
    assert process.wait() == 0, process.stderr and process.stderr.read()
    assert len(predictions(whole)) == 2
    assert predictions(cut) == predictions(whole)
    assert leaderboard(cut) == leaderboard(whole)
