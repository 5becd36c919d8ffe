"""The audio of a task's clips, row by row, decoded ahead by threads with bounded memory."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from aape_bench.audio import Samples, read_clip, to_rate
from aape_bench.errors import BrokenAudio, DataError
from aape_bench.randomness import numpy_stream
from aape_bench.task import Task

#: Samples, 64 MiB of them, that are kept waiting: of clips decoded ahead, and of clips waiting for others of their
#: length. More are only where one full batch has more.
_ROOM = 1 << 24
_MOST_AHEAD = 128


@dataclass(frozen=True)
class Batch:
    """Clips of one batch: their rows of the clip table, audio (n, samples) float32 zero-padded, lengths (n,)."""

    rows: list[int]
    audio: npt.NDArray[np.float32]
    lengths: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Crop:
    """Clips of these rows that are longer than the task's are cut at a place drawn from the seed."""

    seed: int
    rows: frozenset[int]


class ClipReader:
    """Reads the clips of a table at one sample rate, each cut to the task's length."""

    def __init__(
        self,
        task: Task,
        root: Path,
        table: pd.DataFrame,
        stats: Sequence[tuple[int, int, int]] | None,
        sample_rate: int,
        full_length: bool,
        crop: Crop | None = None,
    ) -> None:
        """stats: (size, mtime_ns, inode) per row as hashed; full_length: pad every clip to the task's length.

        crop: where longer training clips are cut; None: every clip at its head.
        """
        self.task, self.root, self.sample_rate, self.full_length = task, root, sample_rate, full_length
        #: Samples of a clip as long as the task's; None: of any length.
        self.full = None if task.clip_seconds is None else round(task.clip_seconds * sample_rate)
        # columns as they are: nothing here grows with the clips
        self._paths, self._ids = table["path"].array, table["id"].array
        self._starts, self._ends = table["start"].to_numpy(float), table["end"].to_numpy(float)
        self._stats = stats
        self._crop = crop

    def read(self, row: int) -> Samples:
        """(samples,) float32 of one clip. Raises BrokenAudio, or DataError where the file changed since hashing."""
        if self.task.generator is not None:
            samples = self.task.generator.clip(row)
            native = self.task.generator.sample_rate
            return to_rate(samples, native, self.sample_rate, self.task.clip_seconds, self.name(row))
        path = self.root / self._paths[row]
        start, end = (None if math.isnan(at) else float(at) for at in (self._starts[row], self._ends[row]))
        # one number per clip, whatever its length: the place as a share of what may be left out
        place = None
        if self._crop is not None and row in self._crop.rows:
            place = float(numpy_stream(self._crop.seed, "crop", self._ids[row]).random())
        samples = read_clip(path, self.sample_rate, self.task.clip_seconds, start, end, place)
        if self._stats is not None:
            found = path.stat()
            if (found.st_size, found.st_mtime_ns, found.st_ino) != self._stats[row]:
                raise DataError(f"The audio file {path} changed while it was being evaluated. Run the command again.")
        return samples

    def name(self, row: int) -> str:
        """What messages call the clip of a row: its file, or its id where it is generated."""
        return str(self._ids[row] if self.task.generator is not None else self.root / self._paths[row])

    def decoded(self, rows: Iterable[int]) -> Generator[tuple[int, Samples | BrokenAudio], None, None]:
        """Every row with its clip, or with what is wrong with it, in this order; threads decode ahead."""
        threads = min(4, os.cpu_count() or 1)
        pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        waiting: deque[tuple[int, Future[Samples | BrokenAudio]]] = deque()
        rest, longest = iter(rows), self.full or _ROOM // 16
        try:
            while True:
                ahead = min(max(_ROOM // longest, 2 * threads), _MOST_AHEAD)
                for row in islice(rest, max(0, ahead - len(waiting))):
                    waiting.append((row, pool.submit(self._attempt, row)))
                if not waiting:
                    return
                row, future = waiting.popleft()
                found = future.result()
                if not isinstance(found, BrokenAudio):
                    longest = max(longest, len(found))
                yield row, found
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def batches(self, clips: Iterable[tuple[int, Samples]], size: int, equal: bool) -> Iterator[Batch]:
        """Clips in batches of up to `size` of like lengths: which, depends on the clips and the size alone.

        A batch leaves as soon as there are `size` clips of one length; of what is left over, batches are made by
        falling length, equal: of one length each. Clips of unlimited length come in smaller batches where they are
        long. With `full_length` all are padded to the task's length.
        """
        room = max(_ROOM, size * (self.full or 0))
        waiting: dict[int, list[tuple[int, Samples]]] = {}
        held = 0
        for row, clip in clips:
            length = self.full if self.full_length and self.full else len(clip)
            alike = waiting.setdefault(length, [])
            alike.append((row, clip))
            held += length
            if len(alike) == size:
                yield _batch(length, waiting.pop(length))
                held -= size * length
            elif held >= room:
                yield from _left_over(waiting, size, room, equal)
                waiting, held = {}, 0
        yield from _left_over(waiting, size, room, equal)

    def _attempt(self, row: int) -> Samples | BrokenAudio:
        try:
            return self.read(row)
        except BrokenAudio as error:
            return error


def _left_over(waiting: dict[int, list[tuple[int, Samples]]], size: int, room: int, equal: bool) -> Iterator[Batch]:
    batch: list[tuple[int, Samples]] = []
    longest = 0
    for length in sorted(waiting, reverse=True):
        for one in waiting[length]:
            if batch and (len(batch) == size or (len(batch) + 1) * longest > room or (equal and length < longest)):
                yield _batch(longest, batch)
                batch = []
            longest = longest if batch else length
            batch.append(one)
    if batch:
        yield _batch(longest, batch)


def _batch(length: int, clips: Sequence[tuple[int, Samples]]) -> Batch:
    audio = np.empty((len(clips), length), np.float32)
    for place, (_, clip) in enumerate(clips):
        audio[place, : len(clip)] = clip
        audio[place, len(clip) :] = 0.0
    return Batch([row for row, _ in clips], audio, np.array([len(clip) for _, clip in clips], np.int64))
