"""What calls leave behind in memory, measured so that a leak of a few bytes per call shows. (Imports torch.)"""

from __future__ import annotations

import contextlib
import gc
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

#: Calls that may fill caches, then rounds of calls after each of which is measured: this many settle it where much is
#: kept, and more where it is little, for torch itself keeps some bytes of its first hundred calls or so.
FIRST, CALLS, ROUNDS, MOST_ROUNDS = 4, 4, 5, 30
#: Bytes per call that are much.
MUCH = 1024
#: Where memory is kept, and the bytes per call from which that says something: a process grows in pages and arenas.
PLACES = (("in Python objects and arrays", 64), ("in tensors", 1), ("in the process", 256 * 1024))


def growth(call: Callable[[int], None], device: str) -> tuple[float, str]:
    """Bytes that every call keeps, and where; (0, "") where nothing grows.

    call: is given another number each time. Only what grows in every single round counts, and of that the smallest
    growth: a cache that fills up once, or a list that doubles now and then, is none. A process may also give memory
    back at any time: of its growth the median counts.
    """
    growing: list[tuple[float, str]] = []
    # made before anything is measured, and only written to
    levels = np.zeros((MOST_ROUNDS + 1, len(PLACES)), np.int64)
    for number in range(FIRST):
        call(number)
    started = not tracemalloc.is_tracing()
    if started:
        tracemalloc.start()
    gc.collect()
    gc.freeze()  # what is there is not looked at again: only new objects count
    try:
        call(FIRST)  # what tracing itself makes Python allocate
        _measure(device, levels[0])
        for turn in range(MOST_ROUNDS):
            for number in range(CALLS):
                call(FIRST + 1 + turn * CALLS + number)
            _measure(device, levels[turn + 1])
            if turn + 1 < ROUNDS:
                continue
            growing = _growing(levels[: turn + 2])
            # a process grows for reasons of its own, too: of that only all rounds tell
            if not growing or any(size >= MUCH for size, where in growing if where != PLACES[-1][0]):
                break
    finally:
        gc.unfreeze()
        if started:
            tracemalloc.stop()
    return max(growing, default=(0.0, ""))


def _growing(levels: npt.NDArray[np.int64]) -> list[tuple[float, str]]:
    """Where memory grows, and by how much per call."""
    steps = np.diff(levels, axis=0) / CALLS
    steady = (steps[:, 0].min(), steps[:, 1].min(), np.median(steps[:, 2]))
    return [(float(size), name) for size, (name, least) in zip(steady, PLACES, strict=True) if size >= least]


def _measure(device: str, levels: npt.NDArray[np.int64]) -> None:
    """Write down the bytes now in use, in the order of PLACES."""
    gc.collect()
    levels[0] = tracemalloc.get_traced_memory()[0]
    levels[1] = torch.cuda.memory_allocated() if device == "cuda" else _tensor_bytes()
    with contextlib.suppress(OSError):  # Linux; elsewhere it stays 0
        levels[2] = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _tensor_bytes() -> int:
    """Of all tensors that Python has made since `gc.freeze`, each storage once."""
    storages = {}
    for thing in gc.get_objects():
        if type(thing) in (torch.Tensor, torch.nn.Parameter):
            with contextlib.suppress(RuntimeError, NotImplementedError):  # sparse or fake ones have no storage
                storage = thing.untyped_storage()
                storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())
