"""Fine-tuning on one data set: its rounds, each trained in a folder of its own, scores that stay when a run is stopped.

Folder: `RESULTS_DIR/finetune/<task>/<model>-<key>/<fold>/`, with what resumes the training (`state.pt`) and, last,
what came of it (`fit.npz`). It is deleted when the record is written.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aape_bench.clip_table import Rotation, class_sets
from aape_bench.errors import DataError, StorageError, UsageError
from aape_bench.finetune.recipe import Recipe
from aape_bench.fits import read_fit, write_fit
from aape_bench.fitting.fabric import rank, require_lightning
from aape_bench.holdout import hold_out
from aape_bench.problem import Fit, Problem
from aape_bench.scenes import problem_of_scenes
from aape_bench.storage import safe_name
from aape_bench.task import Task

if TYPE_CHECKING:
    import pandas as pd

    from aape_bench.choices import ModelChoice
    from aape_bench.encoder import Encoder
    from aape_bench.finetune.learner import Material
    from aape_bench.progress import Progress

FIT = "fit.npz"


@dataclass(frozen=True)
class Work:
    """One model on one data set.

    table, stats, hashes: without broken clips; stats and hashes of each row's file, None for generated tasks.
    rotations: the task's own. recipe: resolved. folder: of this result alone. weights: where fine-tuned encoders go, a
    file each fold.
    """

    model: ModelChoice
    task: Task
    root: Path
    table: pd.DataFrame
    stats: Sequence[tuple[int, int, int]] | None
    hashes: Sequence[str] | None
    rotations: Sequence[Rotation]
    recipe: Recipe
    device: str
    folder: Path
    weights: Path

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.model.label} on {self.task.name}"


@dataclass(frozen=True)
class Trained:
    """What came of it. problem: what the fits are of. encoder: dimension, parameters, threads. seconds: of training."""

    problem: Problem
    fits: list[Fit]
    encoder: dict[str, Any]
    seconds: float


def folders(results_dir: Path, task: str, protocol: str, label: str, key: str) -> tuple[Path, Path]:
    """Folder of an unfinished result, and of fine-tuned weights."""
    name = f"{safe_name(label)}-{key}"
    return (
        results_dir / "finetune" / safe_name(task) / name,
        results_dir / "weights" / safe_name(task) / safe_name(protocol) / name,
    )


def check(task: Task) -> None:
    """Raise UsageError where a task cannot be fine-tuned on."""
    if task.kind == "event":
        raise UsageError(
            f"{task.name} is an event task, which fine-tuning does not judge: it trains on whole clips. "
            "Leave the task out, or use --protocol hear or linear."
        )


def train(work: Work, progress: Progress) -> Trained:
    """Every round in turn; those that are there are not done again. work: settled (see `forecast`).

    Raises Interrupted, ModelError, StorageError.
    """
    problem = problem_of(work)
    _check_alone(work)
    finished = []
    for rotation in problem.rotations:
        folder = work.folder / safe_name(rotation.name)
        finished.append(_read(folder / FIT) or _train(work, problem, rotation, folder, progress))
    fits, encoder, seconds = zip(*finished, strict=True)
    return Trained(problem, list(fits), encoder[0], sum(seconds))


def _check_alone(work: Work) -> None:
    """Raise StorageError where other processes would be needed, which do not listen any more."""
    from aape_bench.finetune.learner import world

    if world() > 1 and (missing := missing_folds(work)):
        raise StorageError(f"{work.name}: fold {missing[0]} is gone from {work.folder}. Run the same command again.")


def train_fold(work: Work, fold: str, progress: Progress) -> None:
    """One round, in its folder, unless it is there. Raises as `train`."""
    problem = problem_of(work)
    (rotation,) = [one for one in problem.rotations if one.name == fold]
    folder = work.folder / safe_name(fold)
    if _read(folder / FIT) is None:
        _train(work, problem, rotation, folder, progress)


def missing_folds(work: Work) -> list[str]:
    """The rounds that are not trained yet; what is there and damaged is deleted."""
    names = [rotation.name for rotation in work.rotations]
    return [name for name in names if _read(work.folder / safe_name(name) / FIT) is None]


def clear(work: Work) -> None:
    """Delete what only an unfinished result needs."""
    shutil.rmtree(work.folder, ignore_errors=True)


def problem_of(work: Work) -> Problem:
    """Labels, classes and rounds."""
    require_lightning()
    made = rounds(work.task, work.table, work.rotations, work.recipe)
    return problem_of_scenes(work.task, np.zeros((len(work.table), 0), np.float32), work.table, made)


def rounds(task: Task, table: pd.DataFrame, rotations: Sequence[Rotation], recipe: Recipe) -> list[Rotation]:
    """The rotations that are trained and validated on; their test clips are those of `rotations`.

    Tasks in parts keep theirs. Of tasks in folds, everything but the test fold is trained on, less a part of it held
    out for validation, groups whole: no official fold is given up for that. As published, where there is no official
    validation part: all of it is trained on, and the test clips validate.
    """
    if task.split_scheme == "parts" and (not recipe.as_published or "valid" in set(table["split"])):
        return list(rotations)
    made, classes = [], class_sets(task, table)
    for one in rotations:
        train = np.sort(np.concatenate([one.train, one.validation]))
        validation = one.test
        if not recipe.as_published:
            name = f"{task.name}, fine-tuning, fold {one.name}"
            ids, groups = table["id"].tolist(), table["group"].tolist()
            train, validation = hold_out(name, ids, classes, groups, train, recipe.validation_share)
            if not len(validation):
                raise DataError(f"{task.name}: the training clips of fold {one.name} cannot spare any to validate.")
        made.append(Rotation(one.name, train, validation, one.test))
    return made


def material_of(work: Work, problem: Problem, rotation: Rotation, folder: Path) -> tuple[ModelChoice, Material]:
    """What one round is trained on, its encoder with its first weights, and the model as the recipe pools it."""
    from aape_bench.clips import ClipReader
    from aape_bench.finetune.learner import Material

    pooling = work.recipe.pooling
    model = work.model if pooling is None else work.model.pooled(pooling)
    encoder = model.build_anew()
    reader = ClipReader(work.task, work.root, work.table, work.stats, model.sample_rate, not encoder.takes_lengths)
    material = Material(
        encoder=encoder,
        reader=reader,
        problem=problem,
        rotation=rotation,
        recipe=work.recipe,
        seed=model.seed,
        device=work.device,
        folder=folder,
        name=work.name,
    )
    return model, material


def _train(
    work: Work, problem: Problem, rotation: Rotation, folder: Path, progress: Progress
) -> tuple[Fit, dict[str, Any], float]:
    import torch

    from aape_bench.finetune.trainer import STATE, fine_tune

    model, material = material_of(work, problem, rotation, folder)
    tuned = fine_tune(material, progress)
    encoder = material.encoder
    facts = {
        "dimension": encoder.scene_embedding_size,
        "parameters": encoder.parameter_count,
        "threads": torch.get_num_threads(),
    }
    if rank() == 0:
        if work.recipe.keep_weights:
            _keep(work, model, rotation, encoder)
        folder.mkdir(parents=True, exist_ok=True)
        write_fit(folder / FIT, tuned.fit, {"encoder": facts, "seconds": tuned.seconds})
        (folder / STATE).unlink(missing_ok=True)
    return tuned.fit, facts, tuned.seconds


def _keep(work: Work, model: ModelChoice, rotation: Rotation, encoder: Encoder) -> None:
    """Write the fine-tuned encoder, whose card says that it has heard the training clips."""
    from aape_bench.checkpoint import RANDOM_WEIGHTS
    from aape_bench.overlap import FIELD, TrainingAudio, hash_of_sha256

    before = {name: value for name, value in model.card.items() if name != RANDOM_WEIGHTS}
    heard = TrainingAudio.from_card(before) or TrainingAudio(complete=model.path is None)
    rows = np.concatenate([rotation.train, rotation.validation])
    if work.hashes is not None:
        heard.add(hash_of_sha256(work.hashes[row]) for row in rows.tolist())
    elif work.task.generator is not None:
        heard.merge(TrainingAudio(generators=work.task.generator.sources))
    how = {
        "task": work.task.name,
        "fold": rotation.name,
        "recipe": dataclasses.asdict(work.recipe),
        "seed": model.seed,
    }
    path = work.weights / f"{safe_name(rotation.name)}.safetensors"
    model.save(encoder, path, {**before, "fine_tuned": how, FIELD: heard.card()})


def _read(path: Path) -> tuple[Fit, dict[str, Any], float] | None:
    """None where it is not there, or of no use."""
    if (there := read_fit(path)) is None:
        return None
    fit, about = there
    return fit, dict(about["encoder"]), float(about["seconds"])
