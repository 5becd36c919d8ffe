"""What the protocols share: threads, standardisation, scores of classes that were never trained on."""

from __future__ import annotations

import contextlib
import math
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from aape_bench.errors import UsageError
from aape_bench.problem import Problem

#: Score of a class that a rotation never trained on (exclusive labels, float32).
LOWEST = np.finfo(np.float32).min

#: Rows, and numbers in them, that are standardised or scored at once.
CHUNK, NUMBERS = 16384, 2**23

Value = TypeVar("Value", int, float, str)
Given = TypeVar("Given")
Made = TypeVar("Made")


def listed(owner: str, name: str, text: str, kind: Callable[[str], Value]) -> list[Value]:
    """`"1,5,10"` -> `[1, 5, 10]`. Raises UsageError, naming the setting, for what is no such list."""
    try:
        values = [kind(part.strip()) for part in text.split(",")]
    except ValueError:
        raise UsageError(f'{owner}: {name} must be values at commas, such as 1,5,10, not "{text}".') from None
    if len(set(values)) < len(values):
        raise UsageError(f'{owner}: {name}="{text}" names a value twice.')
    return values


@contextlib.contextmanager
def one_thread(use_torch: bool) -> Iterator[None]:
    """One BLAS thread, and one of torch's: the order of sums, and with it every bit, is then the same anywhere."""
    import sklearn.linear_model  # noqa: F401  (its thread pools must be loaded before they can be limited)
    from threadpoolctl import threadpool_limits

    if not use_torch:
        with threadpool_limits(limits=1):
            yield
        return
    import torch

    threads = torch.get_num_threads()
    with threadpool_limits(limits=1):
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def threads_allowed() -> int:
    """Threads that numerical libraries would use: of this machine, or fewer by OMP_NUM_THREADS and its like."""
    import sklearn.linear_model  # noqa: F401  (as above)
    from threadpoolctl import threadpool_info

    return max((int(pool["num_threads"]) for pool in threadpool_info()), default=1)


def side_by_side(work: Callable[[Given], Made], pieces: Sequence[Given], threads: int) -> Iterator[Made]:
    """What `work` makes of each piece, in order; by several threads, or by the caller's own where one is enough.

    The threads are daemons: whatever ends the caller (Ctrl-C, an error of one piece) does not wait for the pieces in
    hand, and no further ones are begun. Raises what `work` raises.
    """
    if min(threads, len(pieces)) <= 1:
        yield from map(work, pieces)
        return
    results: list[Future[Made]] = [Future() for _ in pieces]
    waiting = deque(zip(results, pieces, strict=True))

    def take() -> None:
        with contextlib.suppress(IndexError):  # none are left
            while True:
                result, piece = waiting.popleft()
                try:
                    made = work(piece)
                except BaseException as error:
                    result.set_exception(error)
                else:
                    result.set_result(made)

    try:
        for _ in range(min(threads, len(pieces))):
            threading.Thread(target=take, daemon=True).start()
        for number in range(len(pieces)):
            yield results[number].result()
            results[number] = Future()  # what was handed over is not kept
    finally:
        waiting.clear()


def judged(problem: Problem, rows: npt.NDArray[np.int64], scores: npt.NDArray[np.float32]) -> float:
    """The problem's quality of these scores; what is undefined there is worse than anything."""
    quality = float(problem.quality(rows, scores))
    return -math.inf if math.isnan(quality) else quality


def plain(quality: float) -> float | None:
    """For JSON, which knows no infinities."""
    return quality if math.isfinite(quality) else None


@dataclass(frozen=True)
class Scaler:
    """mean, scale: (d,) float64; a row becomes (row - mean) / scale."""

    mean: npt.NDArray[np.float64]
    scale: npt.NDArray[np.float64]


def fit_scaler(embeddings: npt.NDArray[np.float32], rows: npt.NDArray[np.int64], common: bool = False) -> Scaler:
    """Mean and deviation of these rows, summed in float64; a constant feature is only centred.

    common: one scale for all features, the root of their mean variance, so that they keep their relations.
    """
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler()
    for part in chunks(rows, embeddings.shape[1]):
        scaler.partial_fit(embeddings[part].astype(np.float64))
    scale = scaler.scale_
    if common:
        whole = float(np.sqrt(scaler.var_.mean()))
        scale = np.full_like(scale, whole if (scale == np.sqrt(scaler.var_)).any() else 1.0)
    return Scaler(scaler.mean_, scale)


def scaled(
    embeddings: npt.NDArray[np.float32], rows: npt.NDArray[np.int64], scaler: Scaler | None
) -> npt.NDArray[np.float32]:
    """These rows, scaled where there is a scaler: (len(rows), d)."""
    if scaler is None:
        return embeddings[rows]
    values = np.empty((len(rows), embeddings.shape[1]), np.float32)
    start = 0
    for part in chunks(rows, embeddings.shape[1]):
        values[start : start + len(part)] = (embeddings[part].astype(np.float64) - scaler.mean) / scaler.scale
        start += len(part)
    return values


def chunks(rows: npt.NDArray[Any], width: int = 1) -> Iterator[npt.NDArray[Any]]:
    """Pieces of at most CHUNK rows, in order; of so few that, with `width` numbers each, they have at most NUMBERS."""
    size = max(1, min(CHUNK, NUMBERS // width))
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def targets(problem: Problem, rows: npt.NDArray[np.int64]) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """What a network is to learn of these rows, and the class of each of its outputs.

    Exclusive: positions (n,) among the classes that are there, and those classes; otherwise the labels, and every
    class.
    """
    labels = problem.labels[rows]
    if not problem.exclusive:
        return labels, np.arange(len(problem.classes))
    columns, positions = np.unique(labels, return_inverse=True)
    return positions.reshape(-1), columns


def spread(
    scores: npt.NDArray[np.floating[Any]], columns: npt.NDArray[np.int64] | Sequence[int], classes: int
) -> npt.NDArray[np.float32]:
    """(n, columns) scores -> (n, classes) float32, LOWEST for the classes that are in no column."""
    full = np.full((len(scores), classes), LOWEST, np.float32)
    full[:, columns] = np.maximum(scores, LOWEST)
    return full
