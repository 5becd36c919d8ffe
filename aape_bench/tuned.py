"""A job that trains the encoder: what of it a fine-tuning is given, and what comes of it."""

from __future__ import annotations

from aape_bench import environment
from aape_bench.addresses import key_of
from aape_bench.clip_table import left_out, rotations
from aape_bench.errors import BrokenAudio
from aape_bench.evaluate import Made, judge_by_training
from aape_bench.finetune.job import Work, clear, folders, missing_folds
from aape_bench.frozen import reader_of
from aape_bench.planning import Job, Options
from aape_bench.progress import Progress


def train(job: Job, options: Options, progress: Progress) -> Made:
    from aape_bench.finetune.forecast import settle

    work, broken = work_of(job, options, progress)
    if missing_folds(work):
        work = settle(work, progress)
    environment.reset_peak_memory()
    outcome, trained = judge_by_training(work, job.protocol.name, progress)
    facts = environment.stage_facts(threads=trained.encoder["threads"])
    stages = {"fit": {"seconds": round(trained.seconds, 3), **facts}}
    return Made(work.table, list(work.rotations), broken, outcome, trained.encoder, stages, clear=lambda: clear(work))


def work_of(job: Job, options: Options, progress: Progress) -> tuple[Work, dict[int, str]]:
    """What a protocol that trains the encoder is given, and the clips that are left out: row -> reason."""

    model, data, chosen = job.model, job.data, job.protocol
    broken = _broken(job, progress) if options.skip_broken else {}
    table, rounds, kept = left_out(data.task, data.table, rotations(data.task, data.table), broken)
    hashes, stats = data.hashes(), data.stats
    key = key_of(model, data, chosen, data.fingerprints(), options)
    folder, weights = folders(options.results_dir, data.task.name, chosen.label, model.label, key)
    work = Work(
        model=model,
        task=data.task,
        root=data.root,
        table=table,
        stats=None if stats is None else [one for one, there in zip(stats, kept, strict=True) if there],
        hashes=None if hashes is None else [one for one, there in zip(hashes, kept, strict=True) if there],
        rotations=rounds,
        recipe=chosen.settings,
        device=options.device,
        folder=folder,
        weights=weights,
    )
    return work, broken


def _broken(job: Job, progress: Progress) -> dict[int, str]:
    """Clips that cannot be used, row -> reason: all are decoded once."""
    reader = reader_of(job.model, job.data, None, job.protocol.input_of(job.data.task))
    rows = range(len(job.data.table))
    broken: dict[int, str] = {}
    with progress.stage(f"{job.name}: decoding", len(rows), "clips") as advance:
        for row, clip in reader.decoded(rows):
            if isinstance(clip, BrokenAudio):
                broken[row] = clip.what
            advance(1)
    return broken
