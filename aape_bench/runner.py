"""Doing what is planned: every job's record, each computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aape_bench.addresses import judged_by, key_of, treatment_of
from aape_bench.errors import BenchError, StorageError
from aape_bench.identity import digest
from aape_bench.planning import Job, Options, existing
from aape_bench.progress import Progress, Silent
from aape_bench.storage import check_writable

if TYPE_CHECKING:
    import pandas as pd

    from aape_bench.evaluate import Evaluation, Outcome
    from aape_bench.executor import Executor


@dataclass(frozen=True)
class Finished:
    """What a run did: the records' paths, how many of them it computed, and what failed."""

    paths: list[Path]
    computed: int
    failures: list[BenchError]


def run(
    jobs: Sequence[Job], options: Options, progress: Progress | None = None, executor: Executor | None = None
) -> Finished:
    """Do what is missing. A job whose data or model fails does not stop the others; a disk that fails does.

    executor: other processes embed, train and probe, as `aape_bench.apart` says; what they made is put together here.
    """
    progress = progress or Silent()
    if any(job.action != "done" for job in jobs):
        check_writable(options.results_dir, "--results-dir")
        check_writable(options.cache_dir, "--cache-dir")
    paths: list[Path] = []
    computed = 0
    failures: dict[str, BenchError] = {}
    failed: dict[int, BenchError] = {}
    if executor is not None and (executor.spreads or executor.processes > 1):
        from aape_bench.apart import do_apart

        failed = do_apart(jobs, options, executor, progress)
    for place, job in enumerate(jobs):
        try:
            if place in failed:
                raise failed[place]
            path, new = _finish(job, jobs[place + 1 :], options, progress)
        except StorageError:
            raise
        except BenchError as error:
            failures.setdefault(str(error), error)
            continue
        paths.append(path)
        computed += new
    return Finished(paths, computed, list(failures.values()))


def _finish(job: Job, later: Sequence[Job], options: Options, progress: Progress) -> tuple[Path, bool]:
    """The path of the job's record, and whether it had to be computed; `later` jobs' embeddings may come with its."""
    from aape_bench.clip_table import side_column
    from aape_bench.evaluate import Evaluation, write_result
    from aape_bench.overlap import overlap_of

    model, data, chosen, name = job.model, job.data, job.protocol, job.name
    if (path := existing(job, options, progress)) is not None:
        if chosen.trains_encoder and chosen.settings.keep_weights:
            progress.say(
                f"{name}: the result is there, so nothing is trained: weights that were not kept then are not."
            )
        return path, False
    prints = data.fingerprints()
    if chosen.trains_encoder:
        from aape_bench.tuned import train

        made = train(job, options, progress)
    else:
        from aape_bench.frozen import embed_and_fit

        made = embed_and_fit(job, prints, options, progress, later)
    overlap = overlap_of(
        model.weights, model.card, model.declared, data.task, data.root, data.table, data.hashes(), options.cache_dir
    )
    treatment = treatment_of(model, chosen.input_of(data.task), options)
    evaluation = Evaluation(
        key=key_of(model, data, chosen, prints, options),
        lineage=digest([model.lineage, judged_by(data.task), chosen.description, treatment]),
        model=model,
        task=data.task,
        fingerprint=prints.data,
        table=made.table,
        rotations=made.rotations,
        skipped=[{"clip": data.table["id"][row], "reason": reason} for row, reason in sorted(made.broken.items())],
        repeated=_repeated(data.hashes(), data.table, side_column(data.task)),
        overlap=overlap.value,
        protocol={"label": chosen.label, **chosen.description},
        treatment=asdict(treatment),
        embedding=made.encoder,
        stages=made.stages,
    )
    if options.notes:
        for note in _notes(name, evaluation, made.outcome):
            progress.say(f"Note: {note}")
    path = write_result(options.results_dir, evaluation, made.outcome)
    made.clear()
    return path, True


def _notes(name: str, evaluation: Evaluation, outcome: Outcome) -> list[str]:
    """What a reader of the score should know, a sentence each."""
    notes = []
    if evaluation.overlap in ("train", "test", "same-generator"):
        of = "sounds made as this task's are" if evaluation.overlap == "same-generator" else "audio of this task"
        notes.append(f"{name}: the weights were trained on {of} (overlap: {evaluation.overlap}).")
    if evaluation.repeated:
        notes.append(
            f"{evaluation.task.name}: {evaluation.repeated} clips are, byte for byte, on several sides of splits."
        )
    return notes + [f"{name}: {remark}" for remark in outcome.remarks]


def _repeated(hashes: Sequence[str] | None, table: pd.DataFrame, side: str) -> int:
    """Clips whose content stands on another side of a split as well."""
    if hashes is None or table["start"].notna().any():  # clips cut from one file share its content rightly
        return 0
    where: dict[str, set[str]] = {}
    for content, name in zip(hashes, table[side], strict=True):
        where.setdefault(content, set()).add(name)
    return sum(len(where[content]) > 1 for content in hashes)
