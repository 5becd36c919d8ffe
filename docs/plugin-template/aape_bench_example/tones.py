"""`example_tones`: is a tone low or high? Generated, so that it needs no data. (A task of files: tasks/esc50.py.)"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from aape_bench.randomness import numpy_stream
from aape_bench.task import Generator, Task

RATE, SECONDS = 16000, 0.5
CLASSES = {"low": (200.0, 400.0), "high": (800.0, 1600.0)}  # Hz
CLIPS, FOLDS = 40, 5


def clip(index: int) -> npt.NDArray[np.float32]:
    """The clip of a row of the table, (samples,): a tone in noise, the same on every call."""
    draw = numpy_stream(0, "example_tones", index)
    lowest, highest = list(CLASSES.values())[index % 2]
    time = np.arange(round(RATE * SECONDS)) / RATE
    tone = np.sin(2 * np.pi * draw.uniform(lowest, highest) * time + draw.uniform(0, 6))
    return (0.1 * tone + 0.05 * draw.standard_normal(len(time))).astype(np.float32)


def read(_: Path) -> pd.DataFrame:
    """The clip table: see `aape_bench.task`."""
    rows = range(CLIPS)
    return pd.DataFrame(
        {
            "id": [f"tone-{row:02d}" for row in rows],
            "path": "",
            "label": [list(CLASSES)[row % 2] for row in rows],
            "fold": [str(1 + row // 2 % FOLDS) for row in rows],
            "group": None,
        }
    )


task = Task(
    name="example_tones",
    title="Tones: low or high",
    domain="other",
    kind="multiclass",
    metric="accuracy",
    split_scheme="folds",
    clips=CLIPS,
    classes=len(CLASSES),
    clip_seconds=SECONDS,
    read=read,
    generator=Generator(clip, RATE, sources=(__name__, "aape_bench.randomness")),
    licence="generated",
)
