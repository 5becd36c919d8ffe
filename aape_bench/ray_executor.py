"""Pieces of work on many machines, as Ray tasks.

The machines share the folders of data, cache and results under the same paths, and have this package installed. A piece
leaves what it made there, so that nothing is lost with a process, a machine or the driver. Each has a fresh process
with one thread for numerical libraries: results are those of one machine.

Source: Moritz et al. 2018, "Ray: A Distributed Framework for Emerging AI Applications".
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import pickle
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from aape_bench import process
from aape_bench.errors import BenchError, UsageError
from aape_bench.executor import SECONDS_TO_STOP, THREADS, Answer, Done, Executor, Needs, answer, understood
from aape_bench.fitting.signals import Signals
from aape_bench.progress import Progress, Silent
from aape_bench.training import Interrupted

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.util.queue import Queue

Given = TypeVar("Given")
Made = TypeVar("Made")

#: How often a piece is begun again after its process or machine died.
RETRIES = 3
#: Seconds between two looks at what has come.
_PAUSE = 0.1
#: Lines that are taken in at once.
_LINES = 1000
#: It tells its maker of its use, and prints of dead processes in its own words, among the results.
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS_SKIP_REGEX": ".*"}


def require_ray() -> None:
    """Raise UsageError with the line that installs it where Ray is missing; nothing is imported."""
    from importlib.util import find_spec

    if find_spec("ray") is None:
        raise UsageError(
            'The executor "ray" needs Ray, which is not installed. Install it with pip install "aape-bench[ray]", on '
            "every machine of the cluster."
        )


@dataclass(frozen=True)
class OnRay(Executor):
    """A Ray cluster. address: as `ray.init` takes it; None: that of RAY_ADDRESS, else this machine alone."""

    address: str | None = None

    @property
    def processes(self) -> int:
        """Processors of the cluster as it is now."""
        connect(self.address)
        import ray

        return max(1, int(ray.cluster_resources().get("CPU", 1)))  # type: ignore[no-untyped-call]

    @property
    def threads(self) -> int:
        """One, on any number of processors."""
        return 1

    @property
    def spreads(self) -> bool:
        """As it was asked for."""
        return True

    def map(
        self,
        work: Callable[[Given, Progress], Made],
        pieces: Sequence[Given],
        names: Sequence[str],
        progress: Progress | None = None,
    ) -> list[Done[Made]]:
        """See `Executor.map`; what dies with its process or machine is done again, where there is room.

        Raises UsageError where the cluster cannot be joined.
        """
        if not pieces:
            return []
        connect(self.address)
        return _Round(work, pieces, names, progress or Silent()).run()


def connect(address: str | None) -> None:
    """Join the cluster, or start Ray on this machine until this process ends; nothing where that is done already."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)  # read when it is imported
    import ray

    if ray.is_initialized():
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    with _handlers_kept():
        if address == "local":
            _start()
            return
        try:
            _knock(address)
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:  # of many kinds: no answer, another version of Ray or of Python, no such name
            raise UsageError(
                f"The Ray cluster at {address} cannot be joined ({type(error).__name__}: {error}). Start one with "
                '"ray start --head", name its HOST:PORT with --address, use the same versions of Python and Ray on '
                "every machine, and where it asks for a token set RAY_AUTH_MODE=token on all of them."
            ) from None


def _knock(address: str) -> None:
    """Raise OSError where nobody listens: Ray itself would try for ten minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=20).close()


def _start() -> None:
    """Ray on this machine alone, whose logs and sockets go with it."""
    import ray

    if not any(name.startswith("RAY_AUTH_") for name in os.environ):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # else Ray leaves one in the home folder
    folder = tempfile.mkdtemp(prefix="ray-")  # short: paths of sockets have 107 characters at most
    try:
        ray.init(
            address="local",
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=folder,
        )
    except Exception as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise UsageError(
            f"Ray could not be started on this machine ({type(error).__name__}: {error}). Use --executor local:N, or "
            "join a running cluster with --address."
        ) from None

    def leave() -> None:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(leave)


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Ray takes SIGTERM for itself as it starts."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            with contextlib.suppress(ValueError):  # not the main thread, in which Ray leaves them alone, too
                signal.signal(number, handler)


class _Round(Generic[Given, Made]):
    """One round of work: every piece a task, all handed over at once."""

    def __init__(
        self,
        work: Callable[[Given, Progress], Made],
        pieces: Sequence[Given],
        names: Sequence[str],
        progress: Progress,
    ) -> None:
        self.work, self.pieces, self.names, self.progress = work, pieces, names, progress
        self.waiting: dict[ObjectRef[Answer], int] = {}
        self.begun: set[int] = set()
        self.done: dict[int, Done[Made]] = {}

    def run(self) -> list[Done[Made]]:
        """All of it."""
        import ray
        from ray.util.queue import Queue
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        said = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
        # a signal is noted and acted on between two looks: Ray's own waiting would swallow what a handler raises
        with Signals() as signals:
            try:
                self._hand_over(said)
                while self.waiting:
                    finished, _ = ray.wait(list(self.waiting), num_returns=len(self.waiting), timeout=0)
                    self._listen(said)
                    for reference in finished:
                        self._take(reference)
                    if signals.number:
                        raise Interrupted(signals.number)
                    if self.waiting and not finished:
                        time.sleep(_PAUSE)
                self._listen(said)
            finally:
                self._stop()
                said.shutdown(force=True)
        return [self.done[index] for index in range(len(self.pieces))]

    def _hand_over(self, said: Queue) -> None:
        import ray

        largest = _largest()
        path = [one or str(Path.cwd()) for one in sys.path]
        # a process for each: what a foreign module leaves behind in one decides nothing in the next
        task = ray.remote(max_retries=RETRIES, max_calls=1)(_there)
        for index, piece in enumerate(self.pieces):
            needs = getattr(piece, "needs", None) or Needs()
            if needs.gpus > largest.gpus:
                self.progress.say(f"{self.names[index]}: waits for a machine with a GPU, of which Ray knows none.")
            options: dict[str, Any] = {"num_cpus": 1, "memory": min(needs.memory, largest.memory)}
            if needs.gpus:
                options["num_gpus"] = needs.gpus
            # pickled here: what the piece is of may be found only by way of this process's path
            given = pickle.dumps((self.work, piece))
            reference = task.options(name=self.names[index], **options).remote(said, index, path, given)
            self.waiting[reference] = index

    def _listen(self, said: Queue) -> None:
        """Pass on what the pieces have said so far."""
        from ray.exceptions import RayError

        with contextlib.suppress(RayError):  # the lines of a machine that is gone
            while lines := said.get_nowait_batch(min(said.size(), _LINES)):
                for index, line in lines:
                    if line is not None:
                        self.progress.say(f"{self.names[index]}: {line}")
                    elif index in self.begun:
                        self.progress.say(f"{self.names[index]}: its process ended; it is begun again.")
                    else:
                        self.begun.add(index)

    def _take(self, reference: ObjectRef[Answer]) -> None:
        """What became of one piece."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        index = self.waiting.pop(reference)
        try:
            self.done[index] = understood(self.names[index], ray.get(reference))
        except RayTaskError as error:  # before or after the work itself
            raise UsageError(
                f"{self.names[index]} could not be begun on a machine of the Ray cluster ({_last_line(error)}). "
                "Install the same version of aape-bench, with the same plugins, on every machine."
            ) from None
        except RayError as error:
            self.done[index] = Done(
                failure=BenchError(
                    f"{self.names[index]}: its process ended {1 + RETRIES} times before it was finished ({error}). "
                    "Where memory ran out, give Ray fewer processors; the same command goes on."
                )
            )

    def _stop(self) -> None:
        """End what still runs: asked first, so that it may write a checkpoint, forced after a while."""
        import ray
        from ray.exceptions import RayError

        left = list(self.waiting)
        for force in (False, True):
            for reference in left:
                with contextlib.suppress(RayError):
                    ray.cancel(reference, force=force)
            if left:
                _, left = ray.wait(left, num_returns=len(left), timeout=SECONDS_TO_STOP)
        self.waiting.clear()


def _largest() -> Needs:
    """The most that one machine has of each."""
    import ray

    there = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    return Needs(
        gpus=int(max((one.get("GPU", 0) for one in there), default=0)),
        memory=int(max((one.get("memory", 0) for one in there), default=0)),
    )


def _last_line(error: Exception) -> str:
    return str(error).strip().rpartition("\n")[2]


class _Relay(Silent):
    """Hands lines on to the driver; bars it leaves out."""

    def __init__(self, said: Queue, index: int) -> None:
        self.said, self.index = said, index

    def say(self, text: str | None) -> None:
        """Print one line, there; None: the piece begins."""
        from ray.exceptions import RayError

        with contextlib.suppress(RayError):  # work goes on without a listener
            self.said.put_nowait((self.index, text))


def _there(said: Queue, index: int, path: Sequence[str], given: bytes) -> Answer:
    """A task's whole life, in a process of Ray's."""
    sys.path += [one for one in path if one not in sys.path]
    os.environ.update(dict.fromkeys(THREADS, "1"))
    process.keep_freed_memory()
    from threadpoolctl import threadpool_limits

    relay = _Relay(said, index)
    relay.say(None)
    with threadpool_limits(limits=1):  # of what Ray has loaded before
        work, piece = pickle.loads(given)
        end = answer(work, piece, relay)
    if end[0] == "interrupted":
        # asked to by whoever runs this machine, not by the driver: Ray begins it again, elsewhere
        os._exit(1)
    return end
