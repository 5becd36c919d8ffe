"""A job whose encoder stays frozen: its embeddings, from the cache or computed, then a probe of them."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from aape_bench import environment
from aape_bench.addresses import entry_of
from aape_bench.choices import ModelChoice
from aape_bench.clip_table import left_out, rotations
from aape_bench.clips import ClipReader, Crop
from aape_bench.errors import BrokenAudio, ModelError
from aape_bench.evaluate import Made, judge, problem_of
from aape_bench.passes import in_one_pass
from aape_bench.planning import Job, Options
from aape_bench.probes import probe_of
from aape_bench.progress import Progress, Silent
from aape_bench.protocols import Input
from aape_bench.task_data import TaskData

if TYPE_CHECKING:
    import pandas as pd

    from aape_bench.cache import EmbeddingEntry
    from aape_bench.clip_table import Rotation
    from aape_bench.contents import Fingerprints
    from aape_bench.encoder import Encoder


#: Seconds of audio that are given to an encoder at once where no batch size is named.
AUDIO_SECONDS = {"cpu": 80.0, "cuda": 1280.0}


def embed_and_fit(
    job: Job, prints: Fingerprints, options: Options, progress: Progress, later: Sequence[Job] = ()
) -> Made:
    """The job's result, from its cached embeddings where they are there.

    later: jobs whose embeddings are computed with its own where they come of the same pass of the encoder.
    """
    asked, data, name = _embedded(job, prints, options, progress, later), job.data, job.name
    probe = probe_of(job, options)
    environment.reset_peak_memory()
    started = time.perf_counter()
    problem, moments = problem_of(data.task, asked.table, asked.rotations, asked.embeddings, asked.counts)
    missing = len(probe.missing(asked.rotations))
    shown = progress if missing else Silent()
    with shown.stage(f"{name}: {job.protocol.label}", missing, "folds") as advance:
        fits, before = probe.fits(problem, advance)
    outcome = judge(data.task, asked.table, asked.rotations, problem, moments, fits)
    seconds = time.perf_counter() - started + sum(one["seconds"] for one in before)
    facts = environment.stage_facts(threads=1)
    peaks = [one["peak_memory_mb"] for one in [facts, *before] if one["peak_memory_mb"] is not None]
    stages = {
        "embed": asked.summary["stage"],
        "fit": {"seconds": round(seconds, 3), **facts, "peak_memory_mb": max(peaks, default=None)},
    }
    return Made(asked.table, asked.rotations, asked.broken, outcome, asked.summary, stages, clear=probe.clear)


def fit_folds(job: Job, options: Options, progress: Progress, folds: Sequence[str]) -> None:
    """Fit the probe of some rotations onto the disk, where `embed_and_fit` finds them."""
    asked = _embedded(job, job.data.fingerprints(), options, progress)
    problem, _ = problem_of(job.data.task, asked.table, asked.rotations, asked.embeddings, asked.counts)
    with progress.stage(f"{job.name}: {job.protocol.label}", len(folds), "folds") as advance:
        probe_of(job, options).fit(problem, folds, advance)


@dataclass(frozen=True)
class _Embedded:
    """A job's cached embeddings as a probe gets them: without broken clips, which are row -> reason.

    embeddings, counts: see `aape_bench.evaluate.problem_of`. summary: the cache's.
    """

    table: pd.DataFrame
    rotations: list[Rotation]
    broken: dict[int, str]
    embeddings: npt.NDArray[np.float32]
    counts: npt.NDArray[np.int64]
    summary: dict[str, Any]


def _embedded(
    job: Job, prints: Fingerprints, options: Options, progress: Progress, later: Sequence[Job] = ()
) -> _Embedded:
    """The job's embeddings, computed where they are not there."""
    model, data, chosen, name = job.model, job.data, job.protocol, job.name
    entry = entry_of(model, data, chosen, prints, options)
    if damaged := entry.discard_damaged():
        progress.say(f"{name}: {len(damaged)} cached part(s) were damaged and are computed again.")
    if (summary := entry.summary()) is None:
        missing = entry.missing()
        _embed(job, entry, options, progress, missing, in_one_pass(job, later, options) if missing else ())
        summary = entry.complete()
        _say_what_waited(job, summary["stage"], progress)
    broken = entry.broken()
    if broken and not options.skip_broken:
        # an earlier run was told to skip it and this one was not
        row, what = min(broken.items())
        raise BrokenAudio(reader_of(model, data, None, chosen.input_of(data.task)).name(row), what)

    table, rounds, kept = left_out(data.task, data.table, rotations(data.task, data.table), broken)
    return _Embedded(table, rounds, broken, entry.read(kept), entry.counts()[kept], summary)


def embed_shards(
    job: Job, options: Options, progress: Progress, shards: Sequence[int] | None = None, beside: Sequence[Job] = ()
) -> None:
    """Compute shards of the job's cached embeddings, in this process and perhaps others beside it.

    shards: their numbers, None: all that are missing; those that are there are passed over. `embed_and_fit` goes on
    from there. beside: jobs `in_one_pass` with it. Raises as `aape_bench.embed.embed`.
    """
    entry = entry_of(job.model, job.data, job.protocol, job.data.fingerprints(), options)
    missing = entry.missing()
    _embed(job, entry, options, progress, missing if shards is None else sorted(set(missing) & set(shards)), beside)


def _embed(
    job: Job,
    entry: EmbeddingEntry,
    options: Options,
    progress: Progress,
    shards: Sequence[int],
    beside: Sequence[Job] = (),
) -> None:
    """Compute shards, and the same ones of the jobs `beside`; where that fails, the job's alone."""
    if beside and shards:
        try:
            _pass(job, entry, options, progress, shards, beside)
        except ModelError as error:  # of another layer, perhaps, or for want of memory
            progress.say(f"Note: {job.name}: its layers are embedded one by one, for together they failed: {error}")
            shards = sorted(set(shards) & set(entry.missing()))
        else:
            return
    if shards:
        _pass(job, entry, options, progress, shards, ())


def _pass(
    job: Job,
    entry: EmbeddingEntry,
    options: Options,
    progress: Progress,
    shards: Sequence[int],
    beside: Sequence[Job],
) -> None:
    """One pass of the encoder over the shards' clips. Raises as `aape_bench.embed.embed`."""
    from aape_bench.embed import embed

    model, data, name = job.model, job.data, job.name
    encoder, others = _built(job, beside, options)
    batch_size, automatic = entry.begin(*_batch_size(data, options))
    for other, _ in others:
        other.begin(batch_size, automatic)
    if options.batch_size not in (None, batch_size):
        progress.say(f"{name}: continuing with batches of {batch_size}, as they were begun.")
    ranges = entry.shards()
    if len(shards) < len(ranges):
        progress.say(f"{name}: embedding {len(shards)} of {len(ranges)} parts.")

    def shrink(size: int) -> int:
        smaller = entry.shrink(size)
        progress.say(f"Note: {name}: the device's memory does not do for batches of {size}; {smaller} from here on.")
        return smaller

    environment.reset_peak_memory()
    reader = reader_of(model, data, encoder, job.protocol.input_of(data.task))
    title = f"{name}: embedding" + f", {1 + len(others)} layers in one pass" * bool(others)
    with progress.stage(title, sum(len(ranges[number]) for number in shards), "clips") as advance:
        try:
            embed(
                encoder, reader, entry, batch_size, options.device, options.skip_broken, advance,
                shards=shards, model=model.label, shrink=shrink if automatic and not others else None, beside=others,
            )  # fmt: skip
        except ModelError as error:
            if options.precision == "float32":
                raise
            raise ModelError(f"{error} (It ran at --precision {options.precision}, not float32.)") from error


def _built(job: Job, beside: Sequence[Job], options: Options) -> tuple[Encoder, list[tuple[EmbeddingEntry, int]]]:
    """The encoder of a job and of those beside it, and these' entries with the sizes of their embeddings."""
    if not beside:
        return job.model.build(), []
    encoder, sizes = job.model.build_beside([one.model for one in beside])
    return encoder, [
        (entry_of(one.model, one.data, one.protocol, one.data.fingerprints(), options), size)
        for one, size in zip(beside, sizes, strict=True)
        if size is not None  # None: its own job will say why
    ]


def _say_what_waited(job: Job, stage: dict[str, Any], progress: Progress) -> None:
    if stage["seconds"] > 30 and stage["busy"] < 0.9 and job.data.stats is not None:
        progress.say(
            f"{job.name}: the encoder computed for {stage['busy']:.0%} of {stage['seconds']:.0f} s; else it waited for "
            f"clips. aape-bench data prepare --rate {job.model.sample_rate} makes a copy that is read faster."
        )


def _batch_size(data: TaskData, options: Options) -> tuple[int, bool]:
    """Clips given to the encoder at once, and whether that may shrink."""
    if options.batch_size is not None:
        return options.batch_size, False
    return automatic_batch_size(options.device, data.task.clip_seconds), True


def automatic_batch_size(device: str, clip_seconds: float | None) -> int:
    """The power of two that makes a batch of about AUDIO_SECONDS; clips of any length count as 10 s."""
    fitting = AUDIO_SECONDS[device] / (clip_seconds or 10.0)
    return int(2 ** min(max(math.floor(math.log2(max(fitting, 1.0))), 0), 7))


def reader_of(model: ModelChoice, data: TaskData, encoder: Encoder | None, given: Input) -> ClipReader:
    full_length = encoder is not None and not encoder.takes_lengths
    crop = None
    if given.crop is not None:
        (rotation,) = rotations(data.task, data.table)
        crop = Crop(given.crop, frozenset(rotation.train.tolist()))
    return ClipReader(data.task, data.root, data.table, data.stats, model.sample_rate, full_length, crop)
