"""Clips as waveforms, in any order and again and again: decoded ahead by threads, and once only where memory allows."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aape_bench.audio import Samples
from aape_bench.clips import ClipReader

#: Decoded audio that is kept, in bytes.
MEMORY = 2 << 30
#: Batches that are decoded in advance.
AHEAD = 3


@dataclass(frozen=True)
class Draw:
    """The clips of one batch. rows: of the clip table. places: in [0, 1), where longer clips are cut."""

    rows: Sequence[int]
    places: Sequence[float]


class Waveforms:
    """Batches of waveforms, the same bytes however often clips were read before. memory: bytes that may be kept."""

    def __init__(self, reader: ClipReader, memory: int = MEMORY) -> None:
        self._reader, self._memory = reader, memory
        self._kept: dict[int, Samples] = {}

    def batches(
        self, draws: Iterable[Draw], seconds: float | None = None
    ) -> Generator[tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]]:
        """Audio (n, samples) float32, zero-padded at the end, and lengths (n,) of every draw.

        seconds: longer clips are cut to this; None: none are. Raises BrokenAudio or DataError where a clip cannot be
        read.
        """
        longest = None if seconds is None else round(seconds * self._reader.sample_rate)
        pool = ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1), thread_name_prefix="decode")
        waiting: deque[tuple[Draw, list[Future[Samples]]]] = deque()
        left = iter(draws)
        try:
            while True:
                while len(waiting) < AHEAD and (draw := next(left, None)) is not None:
                    waiting.append((draw, [pool.submit(self._read, row) for row in draw.rows]))
                if not waiting:
                    return
                draw, clips = waiting.popleft()
                yield self._assemble([clip.result() for clip in clips], draw.places, longest)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _read(self, row: int) -> Samples:
        if (known := self._kept.get(row)) is not None:
            return known
        samples = self._reader.read(row)
        if samples.nbytes <= self._memory:  # threads may overshoot by a few clips
            self._memory -= samples.nbytes
            self._kept[row] = samples
        return samples

    def _assemble(
        self, clips: list[Samples], places: Sequence[float], longest: int | None
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        if longest is not None:
            clips = [_cut(clip, longest, place) for clip, place in zip(clips, places, strict=True)]
        lengths = np.array([len(clip) for clip in clips], np.int64)
        audio = np.zeros((len(clips), self._width(lengths, longest)), np.float32)
        for row, clip in enumerate(clips):
            audio[row, : len(clip)] = clip
        return audio, lengths

    def _width(self, lengths: npt.NDArray[np.int64], longest: int | None) -> int:
        task = self._reader.task
        if self._reader.full_length and task.clip_seconds is not None:
            whole = round(task.clip_seconds * self._reader.sample_rate)
            return whole if longest is None else min(whole, longest)
        return int(lengths.max())


def _cut(clip: Samples, longest: int, place: float) -> Samples:
    first = int(place * (max(0, len(clip) - longest) + 1))
    return clip[first : first + longest]
