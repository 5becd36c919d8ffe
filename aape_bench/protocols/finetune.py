"""`finetune`: the whole encoder and a linear head trained on the task, by a published recipe.

The best update is chosen on validation: the task's official part, or where it has none a tenth of the training clips,
groups whole. `as_published` chooses on the test clips instead, as the published figures of EAT, SSLAM and M2D did for
tasks without a validation part; the record says so. Any encoder whose scene embeddings have a gradient can be trained;
SpecAugment and drop path take one that offers them (`aape_bench.encoder`).

Scores are log-probabilities of exclusive classes, else probabilities. See `aape_bench.finetune.recipe` for the sources.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast, get_args

from aape_bench.errors import UsageError
from aape_bench.finetune.job import check, train
from aape_bench.finetune.recipe import Preset, Recipe
from aape_bench.task import Task

__all__ = ["SOURCES", "TRAINS_ENCODER", "Settings", "of_task", "train"]

#: It gets the encoder, not embeddings.
TRAINS_ENCODER = True

Settings = Recipe

#: Helpers whose code decides results as well.
SOURCES = (
    *(f"aape_bench.finetune.{name}" for name in ("recipe", "augment", "groups", "objective", "sampler", "shares")),
    *(f"aape_bench.finetune.{name}" for name in ("waveforms", "learner", "trainer", "job")),
    "aape_bench.fitting.fabric",
    "aape_bench.protocols.common",
)


def of_task(settings: Recipe, task: Task) -> Recipe:
    """The recipe with what the task decides filled in. Raises UsageError where the task cannot be fine-tuned on."""
    check(task)
    preset = settings.preset or task.recipe
    if preset not in get_args(Preset):
        known = ", ".join(get_args(Preset))
        raise UsageError(
            f'{task.name} names the fine-tuning recipe "{preset}", unknown here. There are: {known}. Give one with '
            "--protocol-set preset=other, or mend the task's plugin."
        )
    return replace(settings, preset=cast(Preset, preset)).resolved()
