"""`kill -9` of a worker, and of the driver, in the middle of a run on Ray: the leaderboard is that of an unhurt run."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="Ray is not installed (the extra `ray`)")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds processes in /proc")]

TIMES = ("seconds", "date")


def start(data: Path, folder: Path, executor: str) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    with (folder / "said").open("a") as said:
        return subprocess.Popen(
            [
                sys.executable, "-c", "from aape_bench.cli import main; main()", "run", "--executor", executor,
                "--model", "vit{blocks=1;width=48}", "--task", "esc50", "--data-dir", data, "--allow-partial",
                "--results-dir", folder / "results", "--cache-dir", folder / "cache",
            ],
            stdout=said, stderr=said, text=True, cwd=folder,
        )  # fmt: skip


def leaderboard(folder: Path) -> list[dict[str, str]]:
    with (folder / "results" / "leaderboard.csv").open(newline="") as handle:
        return [{key: value for key, value in row.items() if key not in TIMES} for row in csv.DictReader(handle)]


def descendants(pid: int) -> dict[int, str]:
    """Processes that it started, and theirs, with how they call themselves."""
    parents, titles = dict[int, int](), dict[int, str]()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            titles[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue  # it has ended meanwhile
    found = {pid}
    while more := {one for one, parent in parents.items() if parent in found} - found:
        found |= more
    return {one: titles[one] for one in found - {pid}}


def workers(driver: subprocess.Popen[str]) -> list[int]:
    """Processes that do a piece or have done one; Ray calls them as we call the piece."""
    return [pid for pid, title in descendants(driver.pid).items() if title.startswith("ray::vit")]


def alive(pid: int) -> bool:
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())  # nothing of one that only waits to be noticed
    except OSError:
        return False


def until(found: Callable[[], object], process: subprocess.Popen[str] | None = None) -> None:
    deadline = time.monotonic() + 120
    while not found():
        assert process is None or process.poll() is None, "it had ended before it could be met at work"
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, _generated_esc50: Path) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    assert start(_generated_esc50, folder, "local").wait() == 0
    return folder


def test_a_worker_that_is_killed_changes_nothing(whole: Path, small_esc50: Path, tmp_path: Path) -> None:
    process = start(small_esc50, tmp_path, "ray")
    until(lambda: list(tmp_path.rglob("entry.json")), process)
    (worker,) = workers(process)
    os.kill(worker, signal.SIGKILL)
    assert process.wait() == 0, (tmp_path / "said").read_text()
    assert "its process ended; it is begun again" in (tmp_path / "said").read_text()
    assert leaderboard(tmp_path) == leaderboard(whole)


def test_a_driver_that_is_killed_loses_nothing(whole: Path, small_esc50: Path, tmp_path: Path) -> None:
    process = start(small_esc50, tmp_path, "ray")
    until(lambda: list(tmp_path.rglob("00000.npy")), process)
    at_work = workers(process)
    shards = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")}
    process.kill()
    assert process.wait() == -signal.SIGKILL
    until(lambda: not any(map(alive, at_work)))
    assert start(small_esc50, tmp_path, "local").wait() == 0, (tmp_path / "said").read_text()
    assert leaderboard(tmp_path) == leaderboard(whole)
    assert {path: path.stat().st_mtime_ns for path in shards} == shards
