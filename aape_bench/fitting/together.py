"""Several processes that do the same piece of work together, one piece after the other; DDP inside a piece is Fabric's.

The first process leads: it runs the command, and says each piece to the others, which do nothing else. They are
started as `fitting.fabric` says. Where a piece fails in one of them all end: the others wait for it in vain.
"""

from __future__ import annotations

import datetime
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from aape_bench.environment import resolve_device
from aape_bench.errors import BenchError
from aape_bench.executor import Done, Executor
from aape_bench.fitting.fabric import launch, leave, rank, under_torchrun
from aape_bench.progress import Progress, Silent
from aape_bench.training import Interrupted

Given = TypeVar("Given")
Made = TypeVar("Made")

#: How long a process may wait for the next piece: a data set may have to be read before.
_PATIENCE = datetime.timedelta(days=7)
#: What a process takes at most to end after the first one did.
_SECONDS_TO_END = 10.0


@dataclass(frozen=True)
class Together(Executor):
    """`processes` processes do each piece at once."""

    processes: int = 1
    device: str = "cpu"

    @property
    def threads(self) -> int | None:
        """As Fabric shares them out."""
        return None

    @property
    def spreads(self) -> bool:
        """They share a piece."""
        return False

    def begin(self) -> None:
        """Meet those that are there already; others are started when there is a piece."""
        if under_torchrun():
            _join(self.device, self.processes)

    def map(
        self,
        work: Callable[[Given, Progress], Made],
        pieces: Sequence[Given],
        names: Sequence[str],
        progress: Progress | None = None,
    ) -> list[Done[Made]]:
        """As `Executor.map`, but the first failure is raised."""
        done = []
        for piece, name in zip(pieces, names, strict=True):
            try:
                _say(piece, _join(self.device, self.processes))
                done.append(Done(work(piece, progress or Silent())))
            except RuntimeError as error:
                if not _is_lost(error):
                    raise
                raise BenchError(
                    f"{name}: one of the {self.processes} processes has ended and says why, or was killed. Run the "
                    "same command again: it goes on from the last state on disk."
                ) from None
        return done

    def end(self) -> None:
        """Let the others end in good order; not after a failure, when they may be inside a piece."""
        if (self.device, self.processes) in _GROUPS:
            _say(None, _GROUPS[self.device, self.processes])
        leave()


def together(devices: int, device: str) -> Together | None:
    """What trains with so many processes on this machine, or with all of torchrun's; None: one process needs nothing.

    device: as --device takes it.
    """
    processes = int(os.environ["WORLD_SIZE"]) if under_torchrun() else devices
    if processes == 1:
        return None
    # torch reads it when it is loaded: DDP warns of parameters that it was told may have no gradient, and have one
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    return Together(processes, resolve_device(device))


def follow(work: Callable[[Given, Progress], object], team: Together) -> int:
    """Do what the first process says until it ends; the exit status. For every process but the first."""
    if not under_torchrun():  # which ends its processes itself
        threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        group = _join(team.device, team.processes)
        while (piece := _hear(group)) is not None:
            work(piece, Silent())
    except Interrupted as stopped:
        return 128 + stopped.number
    except BenchError as error:
        print(f"aape-bench: process {rank()}: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        if not _is_lost(error):
            raise
        return 2  # the first process has said why it ended
    finally:
        leave()
    return 0


def _is_lost(error: RuntimeError) -> bool:
    """Whether another process of the group is gone."""
    return "onnection" in str(error)


def _end_with_parent() -> None:
    """A GPU's collectives would wait for a process that is gone."""
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(1)
    time.sleep(_SECONDS_TO_END)
    os._exit(2)


_GROUPS: dict[tuple[str, int], Any] = {}


def _join(device: str, processes: int) -> Any:
    """The group by which pieces are said, joined once."""
    import torch

    if (device, processes) not in _GROUPS:
        launch(device, processes, "32-true")
        _GROUPS[device, processes] = torch.distributed.new_group(backend="gloo", timeout=_PATIENCE)
    return _GROUPS[device, processes]


def _say(piece: object, group: Any) -> None:
    import torch

    torch.distributed.broadcast_object_list([piece], src=0, group=group, device=torch.device("cpu"))


def _hear(group: Any) -> Any:
    import torch

    heard: list[Any] = [None]
    torch.distributed.broadcast_object_list(heard, src=0, group=group, device=torch.device("cpu"))
    return heard[0]
