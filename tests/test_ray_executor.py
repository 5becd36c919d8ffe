"""Work on Ray: as in processes of one machine, and what dies is begun again."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import executor_work as work
import pytest
from test_executor import Lines, names

from aape_bench.errors import StorageError, UsageError
from aape_bench.executor import SECONDS_TO_STOP, Executor, parse_executor
from aape_bench.ray_executor import connect
from aape_bench.training import Interrupted

pytest.importorskip("ray", reason="Ray is not installed (the extra `ray`)")


@pytest.fixture(scope="module")
def on_ray() -> Executor:
    """Ray on this machine, which ends with this process."""
    before = signal.getsignal(signal.SIGTERM)
    executor = parse_executor("ray")
    assert executor.processes >= 1
    assert signal.getsignal(signal.SIGTERM) is before  # Ray would have taken it
    return executor


def test_values_are_in_order_and_a_failure_stops_nothing(on_ray: Executor) -> None:
    said = Lines()
    done = on_ray.map(work.square, range(2, 5), names(3), said)
    assert [one.value for one in done] == [4, None, 16]
    assert str(done[1].failure) == "piece 1: three cannot be squared"
    assert sorted(said.lines) == [f"piece {number}: squaring {number + 2}" for number in range(3)]


def test_a_process_that_dies_is_begun_again(on_ray: Executor, tmp_path: Path) -> None:
    said = Lines()
    (done,) = on_ray.map(work.die_once, [tmp_path / "died"], names(1), said)
    assert done.value == "lived"
    assert said.lines == ["piece 0: its process ended; it is begun again."]


def test_each_task_computes_with_one_thread(on_ray: Executor) -> None:
    assert on_ray.map(work.threads, [0], names(1))[0].value == (1, 1)


def test_a_bug_and_a_full_disk_end_everything(on_ray: Executor, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"piece 0 failed(?s:.*)executor_work(?s:.*)ZeroDivisionError: a bug"):
        on_ray.map(work.raise_something, [1], names(1))
    with pytest.raises(StorageError, match="The disk is full"):
        on_ray.map(work.fill_the_disk, [tmp_path], names(1))


def test_an_interrupt_cancels_what_runs(on_ray: Executor, tmp_path: Path) -> None:
    folders = [tmp_path / str(number) for number in range(40)]
    started = time.monotonic()
    with pytest.raises(Interrupted):
        on_ray.map(work.interrupt_the_driver, [(folder, os.getpid()) for folder in folders], names(40))
    assert time.monotonic() - started < SECONDS_TO_STOP
    assert 0 < sum(folder.exists() for folder in folders) < 40


def test_nobody_at_the_address_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with pytest.raises(UsageError, match=r"The Ray cluster at 127.0.0.1:1 cannot be joined \(ConnectionRefused"):
        connect("127.0.0.1:1")
