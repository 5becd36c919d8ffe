"""Where a job's embeddings and its result are: both are addressed by whatever decides them, and by nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from aape_bench import records
from aape_bench.audio import TREATMENT
from aape_bench.cache import EmbeddingEntry, Treatment
from aape_bench.errors import StorageError
from aape_bench.identity import file_digest, source_digest
from aape_bench.protocols import Input
from aape_bench.task import Task
from aape_bench.task_data import TaskData

if TYPE_CHECKING:
    from aape_bench.choices import ModelChoice
    from aape_bench.contents import Fingerprints
    from aape_bench.planning import Options, ProtocolChoice

#: Core modules by which audio becomes embeddings.
EMBEDDING = ("audio", "containers", "clips", "embed", "encoder", "randomness")


def judged_by(task: Task) -> dict[str, Any]:
    """What of a task, besides its data, decides scores: choices on validation are made by its metric."""
    return {"metric": task.metric, "kind": task.kind}


def treatment_of(model: ModelChoice, given: Input, options: Options) -> Treatment:
    """How the task's audio reaches the encoder."""
    code = source_digest([f"aape_bench.{name}" for name in EMBEDDING])
    # training has a precision of its own, among its settings
    precision = "float32" if given.role == "training" else options.precision
    return Treatment(model.sample_rate, TREATMENT, code, given.role, precision, options.device, given.crop)


def entry_of(
    model: ModelChoice, data: TaskData, chosen: ProtocolChoice, prints: Fingerprints, options: Options
) -> EmbeddingEntry:
    """The cache's entry of these embeddings."""
    given = chosen.input_of(data.task)
    # a crop hangs on which clips are training clips, which the audio's fingerprint does not say
    audio = prints.audio if given.crop is None else prints.data
    treatment = treatment_of(model, given, options)
    return EmbeddingEntry(options.cache_dir, model.identity, audio, treatment, len(data.table))


def key_of(model: ModelChoice, data: TaskData, chosen: ProtocolChoice, prints: Fingerprints, options: Options) -> str:
    """Two results are the same exactly when this is."""
    treatment = treatment_of(model, chosen.input_of(data.task), options)
    task = data.task
    about = records.part_of_key(task)
    return records.result_key(model.identity, prints.data, about, treatment, chosen.description, model.seed)


def recorded(
    model: ModelChoice, data: TaskData, chosen: ProtocolChoice, prints: Fingerprints, options: Options
) -> Path | None:
    """The record of this result where it is there, readable, with its predictions, and skipped nothing unasked."""
    key = key_of(model, data, chosen, prints, options)
    path, predictions = records.record_paths(data.task.name, chosen.label, model.label, key)
    if not (options.results_dir / path).is_file() or not (options.results_dir / predictions).is_file():
        return None
    try:
        record = records.read_record(options.results_dir / path)
    except StorageError:
        return None
    if file_digest(options.results_dir / predictions) != record.predictions_sha256:
        return None
    return None if record.task["skipped"] and not options.skip_broken else options.results_dir / path
