"""The Task contract: a small frozen description and a function that reads its metadata into a clip table.

Clip table (pandas.DataFrame, one row per clip, in a fixed order):

    id     unique text, stands in the predictions file
    path   file, relative to the task's folder, with `/`; "" for generated clips
    start, end   seconds within the file; NaN where the whole file is the clip
    label  class name
    fold   for tasks in official folds   | split  "train", "valid" or "test" for tasks with official parts
    group  what must not straddle a split (speaker, source recording), or None
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


@dataclass(frozen=True)
class Generator:
    """Audio made from a seed instead of read from files.

    clip:     `index (row of the clip table) -> (samples,) float32 in [-1, 1]`; the same on every call.
    sample_rate: Hz.
    sources:  dotted names of the modules that decide the audio; hashed into the data fingerprint.
    """

    clip: Callable[[int], np.ndarray]
    sample_rate: int
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Task:
    """One downstream task.

    name, title, domain:  "esc50", one line, and "sound" | "speech" | "music" | "modulation".
    kind, metric:  what a label is, and the metric the leaderboard shows.
    split_scheme:  "folds": column `fold`; "parts": column `split`.
    clips, classes, clip_seconds:  of the complete, official data set; longer clips are cut to `clip_seconds`.
    read:  `folder -> clip table` of every clip in the metadata, whether or not its file is present.
    folders:  names under the data directory where the data set may lie, first choice first.
    by_hand:  what to get, from where, and where to put it.
    generator:  for tasks that need no files; `read` then ignores its argument.
    """

    name: str
    title: str
    domain: Literal["sound", "speech", "music", "modulation"]
    kind: Literal["multiclass", "multilabel", "event"]
    metric: str
    split_scheme: Literal["folds", "parts"]
    clips: int
    classes: int
    clip_seconds: float
    read: Callable[[Path], pd.DataFrame]
    folders: tuple[str, ...] = ()
    by_hand: str = ""
    generator: Generator | None = None
    licence: str = ""
    citation: str = ""
    homepage: str = ""
