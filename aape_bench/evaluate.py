"""Predictions of one protocol -> scores -> a Record, with its predictions beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aape_bench import metrics, records
from aape_bench.clip_table import Rotation, partial
from aape_bench.identity import file_digest
from aape_bench.protocols import Outcome
from aape_bench.task import Task

if TYPE_CHECKING:
    import pandas as pd

    from aape_bench.selection import ModelChoice


@dataclass(frozen=True)
class Evaluation:
    """What a result is of: everything that its record says besides the scores.

    fingerprint: of the data. table: the clips that were evaluated. rotations: its rounds. skipped, repeated: see
    `records.Record`. protocol: label, name, code and settings. treatment: how audio reached the encoder.
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
    protocol: Mapping[str, Any]
    treatment: Mapping[str, Any]
    embedding: Mapping[str, Any]
    stages: dict[str, Any]


def write_result(results_dir: Path, evaluation: Evaluation, outcome: Outcome) -> Path:
    """Write predictions, then the record that names them; returns the record's path."""
    e = evaluation
    tested = e.table.iloc[outcome.test]
    expected = np.sort(np.concatenate([rotation.test for rotation in e.rotations]))
    assert np.array_equal(outcome.test, expected), "every test clip is predicted exactly once"
    _, predictions = records.record_paths(e.task.name, e.protocol["label"], e.model.label, e.key)
    records.write_predictions(
        results_dir / predictions,
        ids=list(tested["id"]),
        folds=list(outcome.fold),
        groups=list(tested["group"]),
        truth=list(tested["label"]),
        predicted=list(outcome.predicted),
        classes=outcome.classes,
        scores=outcome.scores,
    )
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
            "metric": e.task.metric,
            "fingerprint": e.fingerprint,
            "clips": len(e.table),
            "expected": e.task.clips,
            "partial": partial(e.task, len(e.table), e.table["label"].nunique()),
            "skipped": e.skipped,
            "repeated": e.repeated,
        },
        treatment=dict(e.treatment),
        protocol={**e.protocol, "choices": outcome.choices, "remarks": outcome.remarks},
        scores=_scores(e, outcome, tested),
        stages=e.stages,
        # a checkpoint says nothing yet of the clips it was trained on; weights that saw no audio overlap with none
        pretrain_overlap="none" if e.model.weights in ("none", "random") else "unknown",
        predictions=predictions.as_posix(),
        predictions_sha256=file_digest(results_dir / predictions),
    )
    return records.write_record(results_dir, record)


def _scores(evaluation: Evaluation, outcome: Outcome, tested: pd.DataFrame) -> dict[str, Any]:
    truth = tested["label"].to_numpy(str)
    groups = list(tested["group"])
    correct = truth == outcome.predicted
    seed = evaluation.model.seed
    draws = metrics.bootstrap_accuracy(correct, outcome.fold, groups, evaluation.task.name, seed)
    interval = None
    if draws is not None:
        low, high = metrics.interval(draws)
        interval = {"low": low, "high": high, "level": metrics.LEVEL, "method": metrics.INTERVAL_METHOD}
    folds = []
    for rotation in evaluation.rotations:
        inside = outcome.fold == rotation.name
        score = metrics.accuracy(truth[inside], outcome.predicted[inside])
        folds.append({"fold": rotation.name, "score": score, "clips": int(inside.sum())})
    return {
        "score": metrics.mean_over_folds(correct, outcome.fold),
        "interval": interval,
        "interval_reason": None if interval else "a fold has a single group (or clip), so nothing can be resampled",
        "folds": folds,
        "test_clips": len(tested),
        "groups": int(tested["group"].nunique()) or None,
        "chance": metrics.chance_accuracy(truth),
    }
