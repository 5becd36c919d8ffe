"""Records of models that never were, with predictions, through the code that writes real ones.

`write_records(folder, models, tasks, protocols)` makes a results folder: every model on every task by every protocol.
A model's scores say the true class as clearly as its skill; clips and groups have their own difficulty, which models
share, so that pairs of models are alike where real ones are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from aape_bench import records, registry
from aape_bench.evaluate import Evaluation, Outcome, write_result
from aape_bench.identity import digest
from aape_bench.predictions import Predictions
from aape_bench.protocols import code_digest
from aape_bench.randomness import numpy_stream
from aape_bench.task import Task


@dataclass(frozen=True)
class Model:
    """What records say of a model. skill: 0 guesses, 1 is middling, 3 is nearly always right.

    weights: as `choices.ModelChoice.weights`. skills: of single tasks, by name. overlap: task -> what records say.
    """

    label: str
    skill: float = 1.0
    weights: str = "file:0123456789ab"
    seed: int = 0
    parameters: int = 1_000_000
    dimension: int = 192
    skills: Mapping[str, float] = field(default_factory=dict)
    overlap: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: Mapping[str, Any] | None = None

    @property
    def identity(self) -> str:
        return digest(["made up", self.label, self.seed if self.weights == "random" else None])


def small(name: str, clips: int, classes: int | None = None) -> Task:
    """A registered task with fewer clips, which are then all that it has, and fewer classes."""
    task = registry.task(name)
    return replace(task, clips=clips, classes=classes or task.classes, part_clips=None, figures=None, references=())


def write_records(
    folder: Path,
    models: Sequence[Model],
    tasks: Sequence[Task],
    protocols: Sequence[str] = ("linear",),
    missing: int = 0,
) -> list[Path]:
    """Write every record; returns their paths. missing: clips of each task that are not there: it is partial then."""
    return [
        write_record(folder, model, task, protocol, missing)
        for task in tasks
        for protocol in protocols
        for model in models
    ]


def write_record(folder: Path, model: Model, task: Task, protocol: str = "linear", missing: int = 0) -> Path:
    """One record and its predictions."""
    return write_result_of(folder, model, task, predict(model, task, protocol, missing), protocol)


def write_result_of(folder: Path, model: Model, task: Task, predictions: Predictions, protocol: str = "linear") -> Path:
    """The record of these predictions."""
    table = pd.DataFrame({"id": predictions.ids, "label": predictions.truth, "group": predictions.groups})
    about = {"name": protocol, "code": code_digest(protocol), "settings": {}}
    treatment = {"sample_rate": 16000, "audio": "mono mean, soxr HQ, head", "code": digest("treatment"),
                 "role": "scene", "precision": "float32", "device": "cpu", "crop": None}  # fmt: skip
    fingerprint = digest([task.name, predictions.ids])
    stage = {
        "seconds": round(2.5 + model.skill, 3),
        "peak_memory_mb": 412.5,
        "threads": 1,
        "versions": {"python": "3.11.7"},
    }
    evaluation = Evaluation(
        key=records.result_key(model.identity, fingerprint, records.part_of_key(task), treatment, about, model.seed),
        lineage=digest([model.label, task.name, about, treatment]),
        model=model,  # type: ignore[arg-type]
        task=task,
        fingerprint=fingerprint,
        table=table,
        rotations=[],
        skipped=[],
        repeated=0,
        overlap=model.overlap.get(task.name, "none"),
        protocol={"label": protocol, **about},
        treatment=treatment,
        embedding={"parameters": model.parameters, "dimension": model.dimension},
        stages={"embed": {**stage, "batch_size": 32}, "fit": stage},
    )
    folds = dict.fromkeys(predictions.folds.tolist())
    choices = [{"fold": fold, "tried": [{"C": 1.0, "validation": 0.5}], "chosen": {"C": 1.0}} for fold in folds]
    return write_result(folder, evaluation, Outcome(predictions, choices, []))


def predict(model: Model, task: Task, protocol: str, missing: int = 0) -> Predictions:
    """The model's scores of every test clip, and what it decides on."""
    clips = task.clips - missing
    of_clip = numpy_stream(0, "clips", task.name, clips)
    names = [f"{task.name} {at:02d}" for at in range(task.classes)]
    groups = of_clip.integers(0, max(2, clips // 4), clips)
    hard = 0.7 * of_clip.standard_normal(clips) + 0.7 * of_clip.standard_normal(groups.max() + 1)[groups]
    if task.kind == "multilabel":
        positive = of_clip.random((clips, task.classes)) < min(0.5, 2.7 / task.classes)  # labels of an AudioSet clip
    else:
        positive = np.eye(task.classes, dtype=bool)[of_clip.integers(0, task.classes, clips)]
    of_model = numpy_stream(model.seed, "model", task.name, protocol, model.label)
    # how well models do on a clip is half theirs, half the clip's
    noise = 0.8 * of_model.standard_normal((clips, task.classes)) + 0.6 * of_clip.standard_normal((clips, task.classes))
    skill = model.skills.get(task.name, model.skill)
    scores = (noise + positive * (1.5 * skill - hard * (skill > 0))[:, None]).astype(np.float32)
    truth: list[Any] = [tuple(names[at] for at in np.flatnonzero(row)) for row in positive]
    folds = groups % 5 + 1 if task.split_scheme == "folds" else np.full(clips, "test")
    return Predictions(
        kind=task.kind,
        ids=[f"audio/{at:05d}.wav" for at in range(clips)],
        folds=folds.astype(str),
        groups=[f"source {group}" for group in groups],
        truth=[label[0] for label in truth] if task.kind == "multiclass" else truth,
        classes=names,
        scores=scores[np.newaxis],
        decided=[[names[at] for at in scores.argmax(axis=1)]] if task.kind == "multiclass" else [],
    )
