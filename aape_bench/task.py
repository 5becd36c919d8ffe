"""The Task contract: a small frozen description and a function that reads its metadata into a clip table.

Clip table (pandas.DataFrame, one row per clip, in a fixed order):

    id     unique text, stands in the predictions file
    path   file, relative to the task's folder, with `/`; "" for generated clips
    start, end   seconds within the file; NaN where the whole file is the clip
    label  multiclass: the class name; multilabel: a tuple of class names, sorted, perhaps empty;
           event: a tuple of (class name, start, end) in seconds from the clip's start, sorted by start
    fold   for tasks in official folds   | split  "train", "valid" or "test" for tasks with official parts
    group  what must not straddle a split (speaker, source recording), or None

Where no clip is of the part "valid", a tenth of the training clips is held out (see `aape_bench.holdout`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from aape_bench.events import PostProcessing

#: Names of official parts, in the order of `Task.part_clips`.
PARTS = ("train", "valid", "test")

Kind = Literal["multiclass", "multilabel", "event"]


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
class Archive:
    """One file to download for a data set.

    url, file: where it is and what it is called on disk.
    size:  bytes, hash: "md5:..." or "sha256:..."; both None unless they were published and read there.
    into:  folder below the data set's own that it unpacks into, "" for the data set's folder itself.
    strip: leading folders of the archive's paths that are left out ("ESC-50-master/audio/x" with 1: "audio/x").
    """

    url: str
    file: str
    size: int | None = None
    hash: str | None = None
    into: str = ""
    strip: int = 0


@dataclass(frozen=True)
class Task:
    """One downstream task.

    name, title, domain:  "esc50", one line, and "sound" | "speech" | "music" | "modulation".
    kind, metric:  what a label is, and the metric that the leaderboard shows and validation chooses by.
    metrics:  further metrics for the record (names of `aape_bench.metrics.METRICS`); those of the kind go without
              saying.
    split_scheme:  "folds": column `fold`; "parts": column `split`.
    clips, classes:  of the complete, official data set. part_clips: of its train, valid and test parts.
    clip_seconds:  longer clips are cut to this; None: every clip is taken whole.
    read:  `folder -> clip table` of every clip in the metadata, whether or not its file is present.
    folders:  names under the data directory where the data set may lie, first choice first.
    archives: what `aape-bench data fetch` gets; none where a person must act.
    by_hand:  what to get, from where, and where to put it.
    root:     where a task that was named by its folder lies; None: in one of `folders` under the data directory.
    generator:  for tasks that need no files; `read` then ignores its argument.
    postprocessing: of an event task, the ways to find events in scores of moments that validation chooses from; none:
              HEAR's.
    recipe:   the preset of fine-tuning that it takes (`aape_bench.finetune.recipe`).
    references: names of encoder plugins whose rows belong into every table of this task.
    figures:  predictions -> further figures for the record, by name (None: undefined). It gets a DataFrame in
              clip-table order with id, fold, truth, predicted (multiclass: class names).
    """

    name: str
    title: str
    domain: Literal["sound", "speech", "music", "modulation", "other"]
    kind: Kind
    metric: str
    split_scheme: Literal["folds", "parts"]
    clips: int
    classes: int
    clip_seconds: float | None
    read: Callable[[Path], pd.DataFrame]
    metrics: tuple[str, ...] = ()
    part_clips: tuple[int, int, int] | None = None
    folders: tuple[str, ...] = ()
    archives: tuple[Archive, ...] = ()
    by_hand: str = ""
    root: Path | None = None
    generator: Generator | None = None
    postprocessing: tuple[PostProcessing, ...] = ()
    recipe: str = "other"
    references: tuple[str, ...] = ()
    figures: Callable[[pd.DataFrame], Mapping[str, float | None]] | None = None
    licence: str = ""
    citation: str = ""
    homepage: str = ""
