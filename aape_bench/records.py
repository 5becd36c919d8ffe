"""One JSON file per result that says everything, and its predictions beside it.

`records/<task>/<protocol>/<label>-<key>.json` and `predictions/<task>/<protocol>/<label>-<key>.csv.gz` under the
results folder. Predictions are written first; a record that exists has them. Two results are the same exactly
when their keys are equal.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aape_bench.errors import StorageError
from aape_bench.exchange.shape import misfits
from aape_bench.identity import digest, source_digest
from aape_bench.predictions import Predictions
from aape_bench.predictions import read as read_predictions
from aape_bench.storage import safe_name, write_json

if TYPE_CHECKING:
    from aape_bench.task import Task

SCHEMA = 2


@dataclass(frozen=True)
class Record:
    """A result. Nested values are plain JSON; an undefined number is null with a reason beside it.

    lineage:  hash of all that decides the result but the seed and the data: only equal ones are averaged
    model:    label, identity, settings, weights, checkpoint, parameters, dimension
    task:     name, kind, metric, fingerprint, clips (evaluated), expected, partial, skipped [{clip, reason}],
              repeated (clips whose file stands, byte for byte, in another fold or part as well),
              deciding (what of it is part of the key; absent from older records)
    protocol: label, name, code, settings, choices (per rotation: tried and chosen)
    scores:   of the task's metric: score, interval {low, high, level, method}, reason where one is null, folds
              [{fold, score, clips}], repeats [score]; test_clips, groups, chance; metrics: the same of every metric;
              per_class; figures: the task's own
    stages:   embed (of frozen embeddings) and fit: seconds, peak_memory_mb, threads, versions; embed also batch_size
              and busy, the share of its seconds during which the encoder computed
    """

    schema: int
    key: str
    date: str
    seed: int
    lineage: str
    model: dict[str, Any]
    task: dict[str, Any]
    treatment: dict[str, Any]
    protocol: dict[str, Any]
    scores: dict[str, Any]
    stages: dict[str, Any]
    pretrain_overlap: str
    predictions: str
    predictions_sha256: str


def result_key(
    encoder: str, data: str, task: dict[str, Any], treatment: Any, protocol: dict[str, Any], seed: int
) -> str:
    """The address of a result: 16 hex digits over everything that decides it."""
    about = {"schema": SCHEMA, "encoder": encoder, "data": data, "task": task, "treatment": treatment}
    about["protocol"] = protocol
    return digest({**about, "seed": seed})[:16]


def part_of_key(task: Task) -> dict[str, Any]:
    """What of a task, besides its data, decides a result: it is part of the result's key."""
    return {
        "metric": task.metric,
        "kind": task.kind,
        "metrics": task.metrics,
        "figures": source_digest([task.figures.__module__]) if task.figures is not None else None,
        "official": [task.clips, task.classes, task.part_clips],
    }


def record_paths(task: str, protocol: str, label: str, key: str) -> tuple[Path, Path]:
    """Record and predictions file, relative to the results folder."""
    name = f"{safe_name(label)}-{key}"
    return (
        Path("records") / safe_name(task) / safe_name(protocol) / f"{name}.json",
        Path("predictions") / safe_name(task) / safe_name(protocol) / f"{name}.csv.gz",
    )


def predictions_of(results_dir: Path, record: Record, scored: bool = True) -> Predictions:
    """A record's predictions. Raises StorageError where they are missing or are not those it was written with.

    scored: False leaves out the scores.
    """
    _, own = record_paths(record.task["name"], record.protocol["label"], record.model["label"], record.key)
    # another path may lead anywhere
    return read_predictions(results_dir / own, record.predictions_sha256, scored)


def write_record(results_dir: Path, record: Record) -> Path:
    """Write the record's JSON; its predictions must be there already. Returns the path."""
    path, _ = record_paths(record.task["name"], record.protocol["label"], record.model["label"], record.key)
    content = asdict(record)
    write_json(results_dir / path, {**content, "seal": digest(content)})
    return results_dir / path


def read_record(path: Path) -> Record:
    """Raises StorageError naming the file where it is not a record of a known schema, as it was written.

    The seal is a hash of the rest: it catches damage and careless edits, not forgery.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if value.get("schema") != SCHEMA:
            raise StorageError(
                f"The record {path} has schema {value.get('schema')}, this version reads {SCHEMA}. Read it with the "
                "version that wrote it, or move it away."
            )
        seal = value.pop("seal")
        if seal != digest(value) or not path.stem.endswith(value["key"]):
            raise StorageError(
                f"The record {path} is not as it was written (damaged, renamed or edited). Move it away and run again."
            )
        if wrong := next(misfits(value), None):
            raise StorageError(f"{path} is no record: {wrong}. Move it away and run again.")
        return Record(**{field.name: value[field.name] for field in fields(Record)})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StorageError(
            f"{path} is not a readable record ({type(error).__name__}: {error}). Move it away and run again."
        ) from None


def read_all(results_dir: Path) -> tuple[list[tuple[str, Record]], list[str]]:
    """Every record under the results folder with its relative path, sorted by path; and what could not be read."""
    found, unreadable = [], []
    for file in sorted((results_dir / "records").glob("*/*/[!.]*.json")):
        try:
            found.append((file.relative_to(results_dir).as_posix(), read_record(file)))
        except StorageError as error:
            unreadable.append(str(error))
    return found, unreadable
