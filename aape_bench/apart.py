"""The trainings of a run, a fold at a time, in several processes; the run then finds them done.

A piece says in words what it is of, so that it can be sent anywhere that sees the same folders.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from aape_bench import planning, selection
from aape_bench.errors import BenchError, StorageError
from aape_bench.executor import Executor
from aape_bench.progress import Progress
from aape_bench.task import Task


@dataclass(frozen=True)
class Piece:
    """One fold of one job. model: arguments of `selection.select_model`. task: as --task takes it."""

    model: tuple[str, dict[str, Any], str, int]
    task: str
    protocol: planning.ProtocolChoice
    fold: str
    options: planning.Options


def train_apart(
    jobs: Sequence[planning.Job], options: planning.Options, executor: Executor, progress: Progress
) -> dict[int, BenchError]:
    """Train every fold that is missing; places of the jobs that failed, with the first reason.

    Raises StorageError; Interrupted.
    """
    pieces, names, owners = [], [], []
    failures: dict[int, BenchError] = {}
    for place, job in enumerate(jobs):
        try:
            folds = _folds(job, options, progress, executor.threads)
        except StorageError:
            raise
        except BenchError as error:
            failures[place] = error
            continue
        for fold in folds:
            pieces.append(Piece(job.model.words, _task_text(job.data.task), job.protocol, fold, options))
            names.append(f"{job.name}, fold {fold}")
            owners.append(place)
    for place, done in zip(owners, executor.map(train_piece, pieces, names, progress), strict=True):
        if done.failure is not None:
            failures.setdefault(place, done.failure)
    return failures


def train_piece(piece: Piece, progress: Progress) -> None:
    """Train one fold into the job's folder."""
    from aape_bench.finetune.forecast import settle
    from aape_bench.finetune.job import train_fold
    from aape_bench.tuned import work_of

    model = selection.select_model(*piece.model)
    options = replace(piece.options, references=False)
    (job,), _ = planning.plan([model], selection.select_tasks([piece.task]), [piece.protocol], options)
    work, _ = work_of(job, options, progress)
    train_fold(settle(work, progress), piece.fold, progress)


def _folds(job: planning.Job, options: planning.Options, progress: Progress, threads: int | None) -> list[str]:
    """Those that are missing; a budget of minutes has then become a number of updates."""
    from aape_bench.finetune.forecast import settle
    from aape_bench.finetune.job import missing_folds
    from aape_bench.tuned import work_of

    if job.action == "done" or not job.protocol.trains_encoder or planning.existing(job, options, progress) is not None:
        return []
    work, _ = work_of(job, options, progress)
    missing = missing_folds(work)
    if missing:
        settle(work, progress, threads)
    return missing


def _task_text(task: Task) -> str:
    if task.root is None:
        return task.name
    return f"hear:{task.root}{task.name.removeprefix(f'hear:{task.root.resolve().name}')}"
