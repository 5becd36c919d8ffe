"""A job whose encoder stays frozen: its embeddings, from the cache or computed, then a probe of them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from aape_bench import environment
from aape_bench.addresses import entry_of
from aape_bench.clip_table import left_out, rotations
from aape_bench.clips import ClipReader, Crop
from aape_bench.errors import BrokenAudio
from aape_bench.evaluate import Made, judge
from aape_bench.planning import Job, Options
from aape_bench.progress import Progress
from aape_bench.protocols import Input
from aape_bench.selection import ModelChoice
from aape_bench.task_data import TaskData

if TYPE_CHECKING:
    from aape_bench.cache import EmbeddingEntry
    from aape_bench.contents import Fingerprints
    from aape_bench.encoder import Encoder


def embed_and_fit(job: Job, prints: Fingerprints, options: Options, progress: Progress) -> Made:
    model, data, chosen, name = job.model, job.data, job.protocol, job.name
    entry = entry_of(model, data, chosen, prints, options)
    if damaged := entry.discard_damaged():
        progress.say(f"{name}: {len(damaged)} cached part(s) were damaged and are computed again.")
    given = chosen.input_of(data.task)
    summary = entry.summary() or _embed(model, data, entry, given, options, progress, name)
    broken = entry.broken()
    if broken and not options.skip_broken:
        # an earlier run was told to skip it and this one was not
        row, what = min(broken.items())
        raise BrokenAudio(reader_of(model, data, None, given).name(row), what)

    table, rounds, kept = left_out(data.task, data.table, rotations(data.task, data.table), broken)
    embeddings, counts = entry.read(), entry.counts()
    if broken:
        embeddings, counts = embeddings[np.repeat(kept, counts)], counts[kept]
    environment.reset_peak_memory()
    started = time.perf_counter()
    with progress.stage(f"{name}: {chosen.label}", len(rounds), "folds") as advance:
        outcome = judge(data.task, table, rounds, embeddings, counts, chosen.name, chosen.settings, model.seed, advance)
    stages = {
        "embed": {"seconds": round(entry.seconds(), 3), **summary["stage"]},
        "fit": {"seconds": round(time.perf_counter() - started, 3), **environment.stage_facts(threads=1)},
    }
    return Made(table, rounds, broken, outcome, summary, stages)


def _embed(
    model: ModelChoice,
    data: TaskData,
    entry: EmbeddingEntry,
    given: Input,
    options: Options,
    progress: Progress,
    name: str,
) -> dict[str, Any]:
    import torch

    from aape_bench.embed import embed

    encoder = model.build()
    batch_size = entry.begin(options.batch_size)
    if batch_size != options.batch_size:
        progress.say(f"{name}: continuing with batches of {batch_size}, as they were begun.")
    missing, shards = entry.missing(), entry.shards()
    if 0 < len(missing) < len(shards):
        progress.say(f"{name}: {len(shards) - len(missing)} of {len(shards)} parts are there already.")
    reader = reader_of(model, data, encoder, given)
    environment.reset_peak_memory()
    with progress.stage(f"{name}: embedding", sum(len(shards[n]) for n in missing), "clips") as advance:
        embed(encoder, reader, entry, batch_size, options.device, options.skip_broken, advance)
    summary = {
        "dimension": encoder.timestamp_embedding_size if entry.moments else encoder.scene_embedding_size,
        "parameters": encoder.parameter_count,
        "stage": {"batch_size": batch_size, **environment.stage_facts(threads=torch.get_num_threads())},
    }
    entry.complete(summary)
    return summary


def reader_of(model: ModelChoice, data: TaskData, encoder: Encoder | None, given: Input) -> ClipReader:
    full_length = encoder is not None and not encoder.takes_lengths
    crop = None
    if given.crop is not None:
        (rotation,) = rotations(data.task, data.table)
        crop = Crop(given.crop, frozenset(rotation.train.tolist()))
    return ClipReader(data.task, data.root, data.table, data.stats, model.sample_rate, full_length, crop)
