"""Clips -> embeddings, in bounded memory, shard by shard into the cache. (Imports torch.)"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from aape_bench.cache import EmbeddingEntry
from aape_bench.clips import Batch, ClipReader
from aape_bench.encoder import Encoder
from aape_bench.errors import ModelError


def embed(
    encoder: Encoder,
    reader: ClipReader,
    entry: EmbeddingEntry,
    batch_size: int,
    device: str,
    skip_broken: bool,
    advance: Callable[[int], None],
) -> None:
    """Compute the shards that `entry` still lacks; `advance(n)` is called after every batch of n clips.

    Decoding and resampling run in threads, ahead of the encoder. A broken clip stops the run, or becomes a row of
    NaN with its reason where `skip_broken`. Raises ModelError where the encoder breaks its contract.
    """
    encoder.to(device)
    shards = entry.shards()
    groups = [
        (number, list(shards[number][at : at + batch_size]))
        for number in entry.missing()
        for at in range(0, len(shards[number]), batch_size)
    ]
    started = time.perf_counter()
    rows: dict[int, npt.NDArray[np.float32]] = {}
    broken: dict[str, str] = {}
    batches = reader.batches([group for _, group in groups], skip_broken)
    for (number, group), batch in zip(groups, batches, strict=True):
        if batch.rows:
            embeddings = _scene_embeddings(encoder, batch, device, reader)
            rows.update(zip(batch.rows, embeddings, strict=True))
        broken.update({str(row): reason for row, reason in batch.broken.items()})
        advance(len(group))
        if group[-1] == shards[number][-1]:
            missing = np.full(encoder.scene_embedding_size, np.nan, np.float32)
            shard = np.stack([rows.get(row, missing) for row in shards[number]])
            entry.write(number, shard, time.perf_counter() - started, broken)
            started, rows, broken = time.perf_counter(), {}, {}


def _scene_embeddings(encoder: Encoder, batch: Batch, device: str, reader: ClipReader) -> npt.NDArray[np.float32]:
    audio = torch.from_numpy(batch.audio).to(device)
    padded = bool((batch.lengths < batch.audio.shape[1]).any())
    lengths = torch.from_numpy(batch.lengths).to(device) if padded and encoder.takes_lengths else None
    try:
        # float32 is what the record says: cuDNN would otherwise round convolutions' inputs to 10 bits (TF32)
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            embeddings = encoder.scene_embeddings(audio, lengths)
    except torch.OutOfMemoryError:
        raise ModelError(
            f"The device ran out of memory on a batch of {len(audio)} clips. Run again with a smaller --batch-size."
        ) from None
    expected = (len(batch.rows), encoder.scene_embedding_size)
    if tuple(embeddings.shape) != expected:
        raise ModelError(f"The encoder returned scene embeddings of shape {tuple(embeddings.shape)}, not {expected}.")
    if not embeddings.is_floating_point():
        raise ModelError(f"The encoder returned scene embeddings of type {embeddings.dtype}, not real numbers.")
    values = embeddings.detach().to("cpu", torch.float32).numpy()
    if not np.isfinite(values).all():
        row = batch.rows[int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])]
        raise ModelError(f"The encoder's embedding of the clip {reader.name(row)} has NaN or infinite values.")
    return values
