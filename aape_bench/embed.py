"""Clips -> embeddings, in bounded memory, shard by shard into the cache. (Imports torch.)"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import accumulate, chain, islice

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from aape_bench.audio import Samples
from aape_bench.cache import EmbeddingEntry, Making
from aape_bench.clips import Batch, ClipReader
from aape_bench.encoder import Encoder
from aape_bench.environment import peak_memory_mb, versions
from aape_bench.errors import BrokenAudio, ModelError


def embed(
    encoder: Encoder,
    reader: ClipReader,
    entry: EmbeddingEntry,
    batch_size: int,
    device: str,
    skip_broken: bool,
    advance: Callable[[int], None],
    *,
    shards: Sequence[int] | None = None,
    model: str = "encoder",
    shrink: Callable[[int], int] | None = None,
    beside: Sequence[tuple[EmbeddingEntry, int]] = (),
) -> None:
    """Compute shards of `entry`; `advance(n)` is called after every n clips, below 0 where n are done again.

    Decoding and resampling run in threads, ahead of the encoder. A broken clip stops the run, or becomes a row of
    NaN with its reason where `skip_broken`. shards: their numbers, None: those that are missing. model: its name in
    messages. shrink: where a device's memory does not do for batches of a size, the smaller size to go on with, from
    the shard on that was begun; None: that is an error. beside: entries that share the encoder's values with `entry`,
    which has the first, and how many values each has. Raises ModelError where the encoder breaks its contract.
    """
    encoder.to(device)
    work = _Work(encoder, reader, entry, device, skip_broken, advance, model, beside)
    todo = deque(entry.missing() if shards is None else shards)
    while todo:
        if work.embed(todo, batch_size):
            continue
        if shrink is None or batch_size == 1:
            advice = "Run again with a smaller --batch-size." if batch_size > 1 else "It needs a larger device."
            raise ModelError(
                f"The device ran out of memory when {model} was given batches of up to {batch_size} clips. {advice}"
            )
        if device == "cuda":
            torch.cuda.empty_cache()
        batch_size = shrink(batch_size)


@dataclass(frozen=True)
class _Work:
    encoder: Encoder
    reader: ClipReader
    entry: EmbeddingEntry
    device: str
    skip_broken: bool
    advance: Callable[[int], None]
    model: str
    beside: Sequence[tuple[EmbeddingEntry, int]]

    def embed(self, todo: deque[int], batch_size: int) -> bool:
        """Compute and take off shards from the left of `todo`; whether memory did for it."""
        ranges = self.entry.shards()
        clips = self.reader.decoded(chain.from_iterable(ranges[number] for number in tuple(todo)))
        with closing(clips):
            while todo:
                if not self._shard(todo[0], islice(clips, len(ranges[todo[0]])), ranges[todo[0]], batch_size):
                    return False
                todo.popleft()
        return True

    def _shard(
        self, number: int, clips: Iterator[tuple[int, Samples | BrokenAudio]], all_rows: range, batch_size: int
    ) -> bool:
        started, busy, done = time.perf_counter(), 0.0, 0
        rows: dict[int, npt.NDArray[np.float32]] = {}
        broken: dict[str, str] = {}
        for batch in self.reader.batches(self._usable(clips, broken), batch_size, not self._may_pad):
            began = time.perf_counter()
            if (embeddings := self._forward(batch)) is None:
                self.advance(-done)
                return False
            busy += time.perf_counter() - began
            rows.update(zip(batch.rows, self._checked(*embeddings, batch), strict=True))
            done += len(batch.rows)
            self.advance(len(batch.rows))
        self.advance(len(broken))
        seconds, entries = time.perf_counter() - started, self._entries()
        for entry, columns in entries:
            made = Making(
                dimension=columns.stop - columns.start,
                parameters=self.encoder.parameter_count,
                seconds=round(seconds / len(entries), 4),
                busy_seconds=round(busy / len(entries), 4),
                batch_size=batch_size,
                peak_memory_mb=peak_memory_mb(),
                threads=torch.get_num_threads(),
                versions=versions(),
            )
            if entry.moments:
                moments = [self._of(rows[row], columns) if row in rows else self._nothing(columns) for row in all_rows]
                entry.write(number, np.concatenate(moments), broken, made, [len(clip) for clip in moments])
            else:
                missing = np.full(made.dimension, np.nan, np.float32)
                found = np.stack([rows[row][columns] if row in rows else missing for row in all_rows])
                entry.write(number, found, broken, made)
        return True

    def _entries(self) -> list[tuple[EmbeddingEntry, slice]]:
        """Every entry, and which of the encoder's values are its."""
        every = [(self.entry, self._size - sum(size for _, size in self.beside)), *self.beside]
        stops = accumulate(size for _, size in every)
        return [(entry, slice(stop - size, stop)) for (entry, size), stop in zip(every, stops, strict=True)]

    def _of(self, clip: npt.NDArray[np.float32], columns: slice) -> npt.NDArray[np.float32]:
        """A clip's moments, the time first, with only these of their values."""
        if not self.beside:
            return clip
        return np.concatenate([clip[:, :1], clip[:, 1 + columns.start : 1 + columns.stop]], axis=1)

    def _nothing(self, columns: slice) -> npt.NDArray[np.float32]:
        return np.zeros((0, 1 + columns.stop - columns.start), np.float32)

    @property
    def _size(self) -> int:
        """Values of an embedding, of all entries together."""
        return self.encoder.timestamp_embedding_size if self.entry.moments else self.encoder.scene_embedding_size

    @property
    def _may_pad(self) -> bool:
        return self.encoder.takes_lengths or (self.reader.full_length and self.reader.full is not None)

    def _usable(
        self, clips: Iterator[tuple[int, Samples | BrokenAudio]], broken: dict[str, str]
    ) -> Iterator[tuple[int, Samples]]:
        for row, clip in clips:
            if not isinstance(clip, BrokenAudio):
                yield row, clip
            elif self.skip_broken:
                broken[str(row)] = clip.what
            else:
                raise clip

    def _forward(self, batch: Batch) -> tuple[Tensor, Tensor | None] | None:
        """Embeddings, and times of moments, on the CPU; None where the memory does not do."""
        encoder, takes_lengths = self.encoder, self.encoder.takes_lengths
        padded = bool((batch.lengths < batch.audio.shape[1]).any())
        bf16 = self.entry.treatment.precision == "bf16"
        try:
            audio = torch.from_numpy(batch.audio).to(self.device)
            lengths = torch.from_numpy(batch.lengths).to(self.device) if padded and takes_lengths else None
            # float32 is what the record says: cuDNN would otherwise round convolutions' inputs to 10 bits (TF32)
            with (
                torch.inference_mode(),
                torch.backends.cudnn.flags(enabled=True, allow_tf32=False),
                torch.autocast(self.device, torch.bfloat16, enabled=bf16),
            ):
                if self.entry.moments:
                    embeddings, times = encoder.timestamp_embeddings(audio, lengths)
                    return self._on_cpu(embeddings, "timestamp"), times.detach().to("cpu", torch.float32)
                return self._on_cpu(encoder.scene_embeddings(audio, lengths), "scene"), None
        except torch.OutOfMemoryError:
            return None

    def _on_cpu(self, embeddings: Tensor, kind: str) -> Tensor:
        if not embeddings.is_floating_point():
            raise ModelError(f"{self.model} returned {kind} embeddings of type {embeddings.dtype}, not real numbers.")
        return embeddings.detach().to("cpu", torch.float32)  # waits for the device

    def _checked(self, embeddings: Tensor, times: Tensor | None, batch: Batch) -> list[npt.NDArray[np.float32]]:
        """One vector per clip; of moments one (t, 1 + d) array per clip, the time in ms first."""
        kind = "scene" if times is None else "timestamp"
        expected: tuple[int, ...] = (len(batch.rows), self.encoder.scene_embedding_size)
        if times is not None:
            steps = embeddings.shape[1] if embeddings.ndim == 3 else 0
            expected = (len(batch.rows), steps, self.encoder.timestamp_embedding_size)
        if tuple(embeddings.shape) != expected:
            raise ModelError(
                f"{self.model} returned {kind} embeddings of shape {tuple(embeddings.shape)}, not {expected}."
            )
        values = embeddings.numpy()
        if times is not None:
            return self._moments(values, times, batch)
        self._check_finite(values, batch.rows)
        return list(values)

    def _moments(self, values: npt.NDArray[np.float32], times: Tensor, batch: Batch) -> list[npt.NDArray[np.float32]]:
        if tuple(times.shape) != values.shape[:2]:
            raise ModelError(f"{self.model} returned times of shape {tuple(times.shape)}, not {values.shape[:2]}.")
        ends = 1000.0 * batch.lengths / self.reader.sample_rate
        clips = []
        for row, vectors, centre, end in zip(batch.rows, values, times.numpy(), ends, strict=True):
            inside = np.isfinite(centre) & (centre <= end)  # padding has a time of NaN or beyond the clip's end
            moments = np.concatenate([centre[inside, None], vectors[inside]], axis=1)
            self._check_finite(moments[None], [row])
            if (np.diff(moments[:, 0]) <= 0).any():
                raise ModelError(
                    f"The moments that {self.model} made of the clip {self.reader.name(row)} are not in order of time."
                )
            clips.append(moments)
        return clips

    def _check_finite(self, values: npt.NDArray[np.float32], rows: Sequence[int]) -> None:
        if not (finite := np.isfinite(values).reshape(len(values), -1).all(axis=1)).all():
            row = rows[int(np.flatnonzero(~finite)[0])]
            raise ModelError(
                f"The embedding that {self.model} made of the clip {self.reader.name(row)} has NaN or infinite values."
            )
