"""Embeddings of one data set -> a protocol's predictions -> scores -> a Record, with its predictions beside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from aape_bench import metrics, records
from aape_bench.clip_table import Rotation, partial
from aape_bench.identity import file_digest
from aape_bench.predictions import Predictions
from aape_bench.predictions import write as write_predictions
from aape_bench.protocols import protocol
from aape_bench.scenes import predictions_of_events, predictions_of_scenes, problem_of_scenes
from aape_bench.task import Task

if TYPE_CHECKING:
    import pandas as pd

    from aape_bench.choices import ModelChoice
    from aape_bench.finetune.job import Trained, Work
    from aape_bench.moments import Moments
    from aape_bench.problem import Fit, Problem
    from aape_bench.progress import Progress


@dataclass(frozen=True)
class Evaluation:
    """What a result is of: everything that its record says besides the scores.

    fingerprint: of the data. table: the clips that were evaluated. rotations: its rounds. skipped, repeated, overlap:
    see `records.Record`. protocol: label, name, code and settings. treatment: how audio reached the encoder.
    embedding: dimension and parameters. stages: what the stages took.
    """

    key: str
    lineage: str
    model: ModelChoice
    task: Task
    fingerprint: str
    table: pd.DataFrame
    rotations: Sequence[Rotation]
    skipped: list[dict[str, str]]
    repeated: int
    overlap: str
    protocol: Mapping[str, Any]
    treatment: Mapping[str, Any]
    embedding: Mapping[str, Any]
    stages: dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """Predictions and how they came about.

    choices: one entry per rotation in their order, what was tried on validation and what was chosen.
    remarks: what a reader of the score should know.
    """

    predictions: Predictions
    choices: list[dict[str, Any]]
    remarks: list[str]


@dataclass(frozen=True)
class Made:
    """What a protocol came to. table, rotations: without broken clips, which are row -> reason.

    encoder: dimension and parameters. stages: what they took. clear: deletes what only an unfinished result needs.
    """

    table: pd.DataFrame
    rotations: list[Rotation]
    broken: dict[int, str]
    outcome: Outcome
    encoder: Mapping[str, Any]
    stages: dict[str, Any]
    clear: Callable[[], None] = lambda: None


def problem_of(
    task: Task,
    table: pd.DataFrame,
    rotations: Sequence[Rotation],
    embeddings: npt.NDArray[np.float32],
    counts: npt.NDArray[np.int64],
) -> tuple[Problem, Moments | None]:
    """What a protocol of frozen embeddings is given; in event tasks also the moments that its rows are.

    embeddings: (clips, d) of scenes; in event tasks (moments, 1 + d), the time in ms first, `counts` (clips,) of them
    for each clip.
    """
    if task.kind != "event":
        return problem_of_scenes(task, embeddings, table, rotations), None
    from aape_bench.events import HEAR_GRID
    from aape_bench.moments import moments_of, problem_of_moments

    clip = np.repeat(np.arange(len(counts)), counts)
    moments = moments_of(task.metric, table, embeddings[:, 0], clip, task.postprocessing or HEAR_GRID)
    return problem_of_moments(moments, table, rotations, embeddings[:, 1:]), moments


def judge(
    task: Task,
    table: pd.DataFrame,
    rotations: Sequence[Rotation],
    problem: Problem,
    moments: Moments | None,
    fits: Sequence[Fit],
) -> Outcome:
    """What the fits of a problem say of every test clip. table, rotations, problem, moments: see `problem_of`."""
    if moments is not None:
        from aape_bench.moments import decide

        decisions = decide(moments, rotations, fits)
        predictions = predictions_of_events(task, table, rotations, moments.classes, [one.events for one in decisions])
        choices = [{**one.choice, "events": how.choice} for one, how in zip(fits, decisions, strict=True)]
    else:
        predictions = predictions_of_scenes(task, table, problem, fits)
        choices = [one.choice for one in fits]
    return Outcome(predictions, choices, list(dict.fromkeys(remark for one in fits for remark in one.remarks)))


def judge_by_training(work: Work, name: str, progress: Progress) -> tuple[Outcome, Trained]:
    """Let the protocol `name` train the encoder and predict every test clip."""
    trained = protocol(name).train(work, progress)
    predictions = predictions_of_scenes(work.task, work.table, trained.problem, trained.fits)
    remarks = list(dict.fromkeys(remark for one in trained.fits for remark in one.remarks))
    return Outcome(predictions, [one.choice for one in trained.fits], remarks), trained


def write_result(results_dir: Path, evaluation: Evaluation, outcome: Outcome) -> Path:
    """Write predictions, then the record that names them; returns the record's path."""
    e = evaluation
    _, predictions = records.record_paths(e.task.name, e.protocol["label"], e.model.label, e.key)
    write_predictions(results_dir / predictions, outcome.predictions)
    record = records.Record(
        schema=records.SCHEMA,
        key=e.key,
        date=datetime.now(UTC).isoformat(timespec="microseconds"),
        seed=e.model.seed,
        lineage=e.lineage,
        model={
            "label": e.model.label,
            "identity": e.model.identity,
            "settings": e.model.settings,
            "weights": e.model.weights,
            "checkpoint": e.model.checkpoint,
            "parameters": e.embedding["parameters"],
            "dimension": e.embedding["dimension"],
        },
        task={
            "name": e.task.name,
            "kind": e.task.kind,
            "metric": e.task.metric,
            "fingerprint": e.fingerprint,
            "clips": len(e.table),
            "expected": e.task.clips,
            "partial": partial(e.task, e.table),
            "skipped": e.skipped,
            "repeated": e.repeated,
            "deciding": records.part_of_key(e.task),
        },
        treatment=dict(e.treatment),
        protocol={**e.protocol, "choices": outcome.choices, "remarks": outcome.remarks},
        scores=scores_of(e.task, e.model.seed, outcome.predictions),
        stages=e.stages,
        pretrain_overlap=e.overlap,
        predictions=predictions.as_posix(),
        predictions_sha256=file_digest(results_dir / predictions),
    )
    return records.write_record(results_dir, record)


def scores_of(task: Task, seed: int, predictions: Predictions) -> dict[str, Any]:
    """A record's `scores`, of predictions alone."""
    names = dict.fromkeys([task.metric, *task.metrics, *metrics.DEFAULTS[task.kind]])
    measured = metrics.measure_all(list(names), predictions, task.name, seed)
    values = {name: metrics.measure_value(name, predictions, task.name, seed) for name in predictions.values}
    primary = measured[task.metric]
    return {
        **_as_json(primary),
        "folds": primary.folds,
        "repeats": primary.repeats,
        "test_clips": len(predictions.ids),
        "groups": len({group for group in predictions.groups if group is not None}) or None,
        "chance": metrics.chance(task.metric, predictions),
        "metrics": {name: _as_json(one) for name, one in {**measured, **values}.items()},
        "per_class": [asdict(one) for one in metrics.per_class(predictions)],
        "figures": _figures(task, predictions),
    }


def _as_json(measured: metrics.Measurement) -> dict[str, Any]:
    interval = None
    if measured.low is not None or measured.high is not None:
        interval = {"low": measured.low, "high": measured.high, "level": metrics.LEVEL, "method": measured.method}
    return {
        "score": measured.score,
        "interval": interval,
        "reason": measured.reason,
        "classes": measured.classes,
    }


def _figures(task: Task, predictions: Predictions) -> dict[str, float | None]:
    """The task's own figures; of several repeats, their mean."""
    if task.figures is None:
        return {}
    import pandas as pd

    found: list[Mapping[str, float | None]] = []
    for decided in predictions.decided:
        columns = {"id": predictions.ids, "fold": predictions.folds, "truth": predictions.truth, "predicted": decided}
        found.append(task.figures(pd.DataFrame(columns)))
    figures: dict[str, float | None] = {}
    for name in found[0] if found else ():
        numbers = [one[name] for one in found]
        known = [float(number) for number in numbers if number is not None and math.isfinite(number)]
        figures[name] = float(np.mean(known)) if len(known) == len(numbers) else None
    return figures
