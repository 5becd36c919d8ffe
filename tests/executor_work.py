"""Work for other processes, which import it by name."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from aape_bench.errors import DataError, StorageError
from aape_bench.progress import Progress
from aape_bench.training import Interrupted


def square(number: int, progress: Progress) -> int:
    progress.say(f"squaring {number}")
    with progress.stage("squaring", 1, "numbers") as advance:
        advance(1)
    if number == 3:
        raise DataError("three cannot be squared")
    return number**2


def fall_over(number: int, progress: Progress) -> int:
    progress.say("about to")
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 2:
        os._exit(7)
    return number


def threads(_: int, __: Progress) -> tuple[int, int]:
    import torch
    from threadpoolctl import threadpool_info

    return torch.get_num_threads(), max([1, *(pool["num_threads"] for pool in threadpool_info())])


def raise_something(number: int, _: Progress) -> int:
    if number == 1:
        raise ZeroDivisionError("a bug")
    return number


def fill_the_disk(folder: Path, _: Progress) -> None:
    (folder / "begun").touch()
    raise StorageError("The disk is full.")


def be_interrupted(_: int, __: Progress) -> None:
    raise Interrupted(signal.SIGTERM)


def write_much(number: int, progress: Progress) -> int:
    for _ in range(2000):
        progress.say("x" * 1000)
    return number


def die_once(mark: Path, _: Progress) -> str:
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "lived"


def interrupt_the_driver(given: tuple[Path, int], _: Progress) -> None:
    """The first piece to come does; all then go on until they are stopped."""
    folder, driver = given
    folder.mkdir(parents=True)
    if len(list(folder.parent.iterdir())) == 1:
        os.kill(driver, signal.SIGINT)
    while True:
        time.sleep(0.05)
