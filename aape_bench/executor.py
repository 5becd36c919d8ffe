"""Pieces of work that do not need each other, in this process or in several.

`local` does one after the other here; `local:N` gives each a fresh process, N at a time, with one thread for
numerical libraries, so that results do not depend on N. However this process ends, the others end with it. `ray` does
the same on many machines (`aape_bench.ray_executor`).
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from aape_bench.errors import BenchError, StorageError, UsageError
from aape_bench.progress import Progress, Silent
from aape_bench.training import Interrupted

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

Given = TypeVar("Given")
Made = TypeVar("Made")

#: What numerical libraries read their number of threads from, when they are loaded.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
#: How long a process that is asked to stop may take, for its last checkpoint.
SECONDS_TO_STOP = 60.0
_MOST_PROCESSES = 1024


@dataclass(frozen=True)
class Done(Generic[Made]):
    """What became of one piece of work: its value, or why there is none."""

    value: Made | None = None
    failure: BenchError | None = None


@dataclass(frozen=True)
class Needs:
    """What a piece takes of a machine besides one processor. gpus: of its own. memory: bytes, about."""

    gpus: int = 0
    memory: int = 1 << 30


class Executor(ABC):
    """Where work is done."""

    @property
    @abstractmethod
    def processes(self) -> int:
        """How many pieces are done side by side; 1: in this process."""

    @property
    def threads(self) -> int | None:
        """Of numerical libraries, for each piece; None: all there are."""
        return None if self.processes == 1 else 1

    @property
    def spreads(self) -> bool:
        """Whether several pieces make a run faster."""
        return self.processes > 1

    @abstractmethod
    def map(
        self,
        work: Callable[[Given, Progress], Made],
        pieces: Sequence[Given],
        names: Sequence[str],
        progress: Progress | None = None,
    ) -> list[Done[Made]]:
        """Do `work(piece, progress)` for each, in order; what fails does not stop the others, a disk that fails does.

        work: a module's function. pieces: pickled, as values are, for other processes; `needs` of one says what it
        takes. names: what messages call them. Raises StorageError; Interrupted, and whatever a signal's handler
        raises, after all processes ended.
        """


@dataclass(frozen=True)
class Local(Executor):
    """This machine. processes: 1 is this one."""

    processes: int = 1

    def map(
        self,
        work: Callable[[Given, Progress], Made],
        pieces: Sequence[Given],
        names: Sequence[str],
        progress: Progress | None = None,
    ) -> list[Done[Made]]:
        """See `Executor.map`."""
        progress = progress or Silent()
        if self.processes == 1:
            return [_here(work, piece, name, progress) for piece, name in zip(pieces, names, strict=True)]
        return _Pool(work, pieces, names, progress).run(self.processes)


def parse_executor(text: str, address: str | None = None) -> Executor:
    """`local`, `local:N` or `ray`, which may join a cluster at `address`. Raises UsageError."""
    if text == "ray":
        from aape_bench.ray_executor import OnRay, require_ray

        require_ray()
        return OnRay(address)
    name, colon, count = text.partition(":")
    if name != "local" or (colon and not (count.isdecimal() and 0 < int(count) <= _MOST_PROCESSES)):
        raise UsageError(
            f'There is no executor "{text}". There are: local, one thing after the other; local:N, N processes side by '
            "side, such as local:4; and ray, many machines."
        )
    if address is not None:
        raise UsageError(f'--address names a Ray cluster, which --executor {text} does not use. Say "--executor ray".')
    return Local(int(count or 1))


def _here(work: Callable[[Given, Progress], Made], piece: Given, name: str, progress: Progress) -> Done[Made]:
    try:
        return Done(work(piece, _Named(name, progress)))
    except StorageError:
        raise
    except BenchError as error:
        return Done(failure=BenchError(f"{name}: {error}"))


#: What became of a piece, as it may be sent: what kind of end, and its value or words.
Answer = tuple[str, Any]


def answer(work: Callable[[Any, Progress], Any], piece: Any, progress: Progress) -> Answer:
    """Do the piece where it is to be done."""
    try:
        return "made", work(piece, progress)
    except Interrupted as stopped:
        return "interrupted", stopped.number
    except StorageError as error:
        return "full", str(error)
    except BenchError as error:
        return "failed", str(error)
    except Exception:
        return "bug", traceback.format_exc()


def understood(name: str, said: Answer) -> Done[Any]:
    """An answer where the others wait for it. Raises what ends them all."""
    kind, value = said
    if kind == "made":
        return Done(value)
    if kind == "interrupted":
        raise Interrupted(value)
    if kind == "full":
        raise StorageError(value)
    if kind == "bug":
        raise RuntimeError(f"{name} failed in its process:\n{value}")
    return Done(failure=BenchError(f"{name}: {value}"))


class _Named:
    """Puts a name before everything that is reported."""

    def __init__(self, name: str, progress: Progress) -> None:
        self.name, self.progress = name, progress

    def say(self, text: str) -> None:
        """One line."""
        self.progress.say(f"{self.name}: {text}")

    def stage(self, title: str, total: int, unit: str) -> AbstractContextManager[Callable[[int], None]]:
        """One bar."""
        return self.progress.stage(f"{self.name}: {title}", total, unit)


@dataclass
class _Running:
    """One process. answer: what it made, once it has said so."""

    index: int
    process: SpawnProcess
    ear: Connection
    answer: Answer | None = None


class _Pool(Generic[Given, Made]):
    """One round of work in several processes."""

    def __init__(
        self,
        work: Callable[[Given, Progress], Made],
        pieces: Sequence[Given],
        names: Sequence[str],
        progress: Progress,
    ) -> None:
        self.work, self.pieces, self.names, self.progress = work, pieces, names, progress
        self.context = multiprocessing.get_context("spawn")  # a forked torch may hang
        self.running: list[_Running] = []
        self.done: dict[int, Done[Made]] = {}

    def run(self, processes: int) -> list[Done[Made]]:
        """All of it, `processes` at a time."""
        waiting = list(range(len(self.pieces)))[::-1]
        try:
            while waiting or self.running:
                while waiting and len(self.running) < processes:
                    self._start(waiting.pop())
                self._listen()
                self._take_finished()
        finally:
            self._stop()
        return [self.done[index] for index in range(len(self.pieces))]

    def _start(self, index: int) -> None:
        ear, mouth = self.context.Pipe()
        process = self.context.Process(target=_there, args=(mouth, self.work, self.pieces[index]))
        with _one_thread():
            process.start()
        mouth.close()
        self.running.append(_Running(index, process, ear))

    def _listen(self, seconds: float | None = None) -> None:
        ready = wait([one for each in self.running for one in (each.ear, each.process.sentinel)], seconds)
        for each in self.running:
            if each.ear in ready:
                self._hear(each)

    def _hear(self, each: _Running) -> None:
        """Take in what a process has said so far."""
        # a process that is gone closes its end: then there is no more to hear
        with contextlib.suppress(EOFError, OSError):
            while each.ear.poll():
                kind, value = each.ear.recv()
                if kind == "say":
                    self.progress.say(f"{self.names[each.index]}: {value}")
                else:
                    each.answer = (kind, value)
            return
        each.process.join()

    def _take_finished(self) -> None:
        for each in [one for one in self.running if not one.process.is_alive()]:
            self._hear(each)
            each.process.join()
            each.ear.close()
            self.running.remove(each)
            self.done[each.index] = self._result(each)

    def _result(self, each: _Running) -> Done[Made]:
        if each.answer is not None:
            return understood(self.names[each.index], each.answer)
        code = each.process.exitcode or 0
        end = f"was ended by signal {-code}" if code < 0 else f"ended with status {code}"
        return Done(
            failure=BenchError(
                f"{self.names[each.index]}: its process {end} before it was finished. Where memory ran out, use fewer "
                "processes (--executor local:N); the same command goes on."
            )
        )

    def _stop(self) -> None:
        """End what still runs: asked first, so that it may write a checkpoint, forced after a while."""
        for each in self.running:
            each.process.terminate()
        deadline = time.monotonic() + SECONDS_TO_STOP
        try:
            for each in self.running:
                while each.process.is_alive() and time.monotonic() < deadline:
                    self._hear(each)  # a full pipe would keep it from ending
                    each.process.join(0.1)
        finally:
            for each in self.running:
                each.process.kill()
                each.process.join()
                each.ear.close()
            self.running.clear()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Processes started within the block give numerical libraries one thread each."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class _Relay(Silent):
    """Hands lines on to the process that started this one; bars it leaves out."""

    def __init__(self, mouth: Connection) -> None:
        self.mouth = mouth

    def say(self, text: str) -> None:
        """Print one line, there."""
        self.mouth.send(("say", text))


def _there(mouth: Connection, work: Callable[[Any, Progress], Any], piece: Any) -> None:
    """A process's whole life."""
    # the terminal's interrupt is for the parent alone, which then asks once: a second signal would end work at once
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, args=(mouth,), daemon=True).start()
    mouth.send(answer(work, piece, _Relay(mouth)))


def _end_with_parent(mouth: Connection) -> None:
    """Wait for the other end to close, which nothing but the parent's end closes; then end as if asked to."""
    with contextlib.suppress(EOFError, OSError):
        mouth.recv()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(SECONDS_TO_STOP)
    os._exit(1)
