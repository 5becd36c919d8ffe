"""Work in several processes: the same values as in one, failures said, and nothing that outlives the rest."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import executor_work as work
import pytest

from aape_bench.errors import StorageError, UsageError
from aape_bench.executor import Local, parse_executor
from aape_bench.progress import Silent
from aape_bench.training import Interrupted


class Lines(Silent):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def names(count: int) -> list[str]:
    return [f"piece {number}" for number in range(count)]


@pytest.mark.parametrize(("text", "processes"), [("local", 1), ("local:1", 1), ("local:12", 12)])
def test_executors_have_names(text: str, processes: int) -> None:
    assert parse_executor(text).processes == processes


@pytest.mark.parametrize("text", ["", "rays", "local:", "local:0", "local:x", "local:-1", "local:2:3", "LOCAL"])
def test_others_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="local:N"):
        parse_executor(text)


def test_an_address_is_for_ray_alone() -> None:
    with pytest.raises(UsageError, match="--address names a Ray cluster"):
        parse_executor("local:2", "127.0.0.1:6379")


def test_ray_that_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r'pip install "aape-bench\[ray\]"'):
        parse_executor("ray")


@pytest.mark.parametrize("processes", [1, 3])
def test_values_are_in_order_and_a_failure_stops_nothing(processes: int) -> None:
    said = Lines()
    done = Local(processes).map(work.square, range(6), names(6), said)
    assert [one.value for one in done] == [0, 1, 4, None, 16, 25]
    assert str(done[3].failure) == "piece 3: three cannot be squared"
    assert sorted(said.lines) == [f"piece {number}: squaring {number}" for number in range(6)]


def test_no_work_is_no_work() -> None:
    assert Local(3).map(work.square, [], []) == []


def test_a_process_that_dies_is_said(capfd: pytest.CaptureFixture[str]) -> None:
    done = Local(2).map(work.fall_over, range(4), names(4))
    assert [one.value for one in done] == [0, None, None, 3]
    assert "piece 1: its process was ended by signal 9" in str(done[1].failure)
    assert "piece 2: its process ended with status 7" in str(done[2].failure)
    assert "Traceback" not in capfd.readouterr().err


def test_each_process_computes_with_one_thread() -> None:
    assert [one.value for one in Local(2).map(work.threads, range(2), names(2))] == [(1, 1)] * 2


def test_a_bug_shows_where_it_is() -> None:
    with pytest.raises(RuntimeError, match=r"piece 1 failed(?s:.*)executor_work(?s:.*)ZeroDivisionError: a bug"):
        Local(2).map(work.raise_something, range(2), names(2))
    assert not multiprocessing.active_children()


def test_a_full_disk_and_an_interrupt_end_everything(tmp_path: Path) -> None:
    folders = [tmp_path / str(number) for number in range(5)]
    for folder in folders:
        folder.mkdir()
    with pytest.raises(StorageError, match="The disk is full"):
        Local(2).map(work.fill_the_disk, folders, names(5))
    assert not (folders[4] / "begun").exists()
    with pytest.raises(Interrupted):
        Local(2).map(work.be_interrupted, range(2), names(2))
    assert not multiprocessing.active_children()


def test_processes_that_say_much_do_not_hang() -> None:
    said = Lines()
    assert [one.value for one in Local(2).map(work.write_much, range(2), names(2), said)] == [0, 1]
    assert len(said.lines) == 4000
