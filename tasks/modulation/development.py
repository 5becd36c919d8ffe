"""The tasks of the suite on other clips: for choices, such as a learning rate, that must not look at the suite's own.

Classes and ranges are the suite's; every draw comes from another seed, so that no clip of the suite is among them.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np

from aape_bench.randomness import numpy_stream
from aape_bench.task import Generator, Task
from aape_bench.tasks.modulation import generated

if TYPE_CHECKING:
    import pandas as pd

SEED = 7919
CLIPS_PER_CLASS = 40


class _SeededClip(Protocol):
    """`make_clip` of a task's module."""

    def __call__(self, index: int, seed: int) -> np.ndarray: ...


def development(task: Task, clips_per_class: int = CLIPS_PER_CLASS) -> Task:
    """A task of this package on `clips_per_class` clips of each class that are none of its own.

    Its name is the task's with "-development" after it. Raises ValueError where the clips do not fill the folds evenly
    or are more than the task has.
    """
    if clips_per_class % generated.FOLDS or not 0 < clips_per_class <= generated.CLIPS_PER_CLASS:
        raise ValueError(
            f"clips_per_class must be a multiple of {generated.FOLDS}, at most {generated.CLIPS_PER_CLASS}."
        )
    assert task.generator is not None
    make_clip, name = cast(_SeededClip, task.generator.clip), f"{task.name}-development"

    def clip(row: int) -> np.ndarray:
        label, number = divmod(row, clips_per_class)
        return make_clip(label * generated.CLIPS_PER_CLASS + number, SEED)

    def read(folder: Path) -> pd.DataFrame:
        table = task.read(folder)
        table = table[np.arange(len(table)) % generated.CLIPS_PER_CLASS < clips_per_class].reset_index(drop=True)
        shuffle = numpy_stream(SEED, task.name, "folds")
        every_fold = np.repeat(np.arange(1, generated.FOLDS + 1), clips_per_class // generated.FOLDS)
        table["id"] = [f"{name}-{row:05d}" for row in range(len(table))]
        table["fold"] = np.concatenate([shuffle.permutation(every_fold) for _ in range(task.classes)])
        return table

    return dataclasses.replace(
        task,
        name=name,
        title=f"{task.title}, other clips for choices",
        clips=task.classes * clips_per_class,
        read=read,
        generator=Generator(clip, task.generator.sample_rate, (*task.generator.sources, __name__)),
        references=(),
        figures=None,
    )
