"""Tasks from folders in HEAR's layout, as hearpreprocess writes and hear-eval-kit reads them.

    task_metadata.json      embedding_type, prediction_type, split_mode, splits, sample_duration, evaluation, ...
    labelvocabulary.csv     idx,label
    SPLIT.json              file name -> [label, ...], or in event tasks [{"label", "start", "end" in ms}, ...]
    RATE/SPLIT/FILE.wav     mono audio at one or more sample rates

`split_mode` is trainvaltest (splits train, valid, test), presplit_kfold or new_split_kfold (splits are folds: each is
tested once, with the next in order as validation, cyclically, which is this project's rule too).

Where a folder holds several rates the highest serves every encoder, resampled as all audio is, so that all results
on the folder share one data fingerprint. hear-eval-kit reads the folder of the encoder's own rate instead, which
another resampler made; `read_hear_task(folder, 16000)` does that.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import Any, Literal

import pandas as pd

from aape_bench.errors import DataError, UsageError
from aape_bench.events import HEAR_GRID, Event, PostProcessing
from aape_bench.metadata import MissingFile, read_csv, read_object, unquoted
from aape_bench.task import PARTS, Kind, Task

SPLIT_MODES = {"trainvaltest": "parts", "presplit_kfold": "folds", "new_split_kfold": "folds"}
#: Of an event or a filter: numbers beyond a day are damage, and would take all memory.
LONGEST_MS = 24 * 3600 * 1000
#: What hear-eval-kit's `create_events_from_prediction` takes where a grid leaves one out.
POST_PROCESSING = {"median_filter_ms": 150.0, "min_duration": 60.0, "threshold": 0.5}


@dataclass(frozen=True)
class Description:
    """What a folder's task_metadata.json says, checked.

    splits:  in the order in which the clip table has them.
    metrics: HEAR's names, the task's own first.
    grid:    the ways of post-processing that an event task chooses from on validation.
    """

    title: str
    kind: Kind
    split_scheme: Literal["folds", "parts"]
    splits: tuple[str, ...]
    clip_seconds: float | None
    metrics: tuple[str, ...]
    grid: tuple[PostProcessing, ...]


def read_hear_task(folder: Path, rate: int | None = None) -> Task:
    """The task in a HEAR folder; its `read` takes the same folder.

    rate: sample rate whose audio is read, else the highest that is there. A task read at a rate of one's own says so
    in its name, `hear:FOLDER@RATE`, since its audio is not the other's.

    Clips are all that the split files list, classes all that occur there. An event task whose prediction_type is
    multiclass is read like any event task: each class is decided for itself.

    Raises DataError naming the file that is missing, unreadable or against the layout; UsageError where there is no
    audio of the rate.
    """
    description = read_description(folder)
    table = _read(folder, rate=rate)
    if description.kind == "multiclass":
        classes = set(table["label"])
    elif description.kind == "multilabel":
        classes = {name for names in table["label"] for name in names}
    else:
        classes = {name for events in table["label"] for name, _, _ in events}
    part_clips = None
    if description.split_scheme == "parts":
        train, valid, test = (int((table["split"] == part).sum()) for part in PARTS)
        part_clips = (train, valid, test)
    return Task(
        name=f"hear:{folder.resolve().name}" + (f"@{rate}" if rate else ""),
        title=description.title,
        domain="other",
        kind=description.kind,
        metric=description.metrics[0],
        metrics=description.metrics[1:],
        split_scheme=description.split_scheme,
        clips=len(table),
        part_clips=part_clips,
        classes=len(classes),
        clip_seconds=description.clip_seconds,
        read=partial(_read, rate=rate),
        postprocessing=description.grid if description.kind == "event" else (),
        licence="unknown (HEAR's layout has no place for it)",
        citation="HEAR's layout: Turian et al., HEAR: Holistic Evaluation of Audio Representations, NeurIPS 2021 "
        "Competition Track. The data set's own citation is unknown.",
    )


def read_description(folder: Path) -> Description:
    """What task_metadata.json in `folder` says; DataError naming it where it is not HEAR's layout."""
    path = folder / "task_metadata.json"
    found = _read_json(path)
    embedding = _one_of(path, found, "embedding_type", ("scene", "event"))
    prediction = _one_of(path, found, "prediction_type", ("multiclass", "multilabel"))
    mode = _one_of(path, found, "split_mode", tuple(SPLIT_MODES))
    kind: Kind = "event" if embedding == "event" else "multiclass" if prediction == "multiclass" else "multilabel"
    evaluation = _names(path, found, "evaluation")
    splits = _names(path, found, "splits")
    for split in splits:
        _check_plain(path, split)
    if mode == "trainvaltest" and set(splits) != set(PARTS):
        raise _unfit(path, f"its splits are {', '.join(splits)}, but trainvaltest has {', '.join(PARTS)}")
    title = " ".join(str(found[key]) for key in ("task_name", "version") if found.get(key))
    return Description(
        f"{title or folder.name} (a HEAR task folder)",
        kind,
        "parts" if mode == "trainvaltest" else "folds",
        PARTS if mode == "trainvaltest" else tuple(sorted(splits)),
        _seconds(path, found),
        tuple(evaluation),
        _grid(path, found),
    )


def _read(folder: Path, rate: int | None) -> pd.DataFrame:
    """The clip table of a HEAR folder: splits in order, clips by name."""
    description = read_description(folder)
    vocabulary = _vocabulary(folder / "labelvocabulary.csv")
    audio = _rate_folder(folder, description.splits, rate)
    labels_of = {"multiclass": _one_label, "multilabel": _labels, "event": _events}[description.kind]
    side = "split" if description.split_scheme == "parts" else "fold"
    side_of: dict[str, str] = {}
    paths: list[str] = []
    labels: list[Any] = []
    for split in description.splits:
        path = folder / f"{split}.json"
        listed = _read_json(path)
        if not listed:
            raise _unfit(path, "it lists no clips")
        for name in sorted(listed):
            _check_plain(path, name)
            if name in side_of:
                raise _unfit(path, f"its clip {name} stands in the split {side_of[name]} as well")
            labels.append(labels_of(path, name, listed[name], vocabulary))
            paths.append(f"{audio}/{split}/{name}")
            side_of[name] = split
    return pd.DataFrame({"id": list(side_of), "path": paths, "label": labels, side: list(side_of.values())})


def _rate_folder(folder: Path, splits: tuple[str, ...], rate: int | None) -> str:
    there = sorted(
        int(entry.name)
        for entry in folder.iterdir()
        if re.fullmatch("[1-9][0-9]*", entry.name) and any((entry / split).is_dir() for split in splits)
    )
    if not there:
        raise DataError(
            f"{folder} holds no audio: there is no folder such as 16000/{splits[0]}. Unpack the audio of at least "
            "one sample rate there."
        )
    if rate is not None and rate not in there:
        raise UsageError(
            f"{folder} holds no audio at {rate} Hz; it has {', '.join(map(str, there))}. Name one of these, as in "
            f"hear:{folder}@{there[-1]}, or none for the highest."
        )
    return str(rate or there[-1])


def _vocabulary(path: Path) -> frozenset[str]:
    table = read_csv(path, ("idx", "label"))
    if table[["idx", "label"]].isna().to_numpy().any():
        raise _unfit(path, "a row lacks its idx or label")
    for column in ("idx", "label"):
        if (twice := table[column][table[column].duplicated()]).size:
            raise _unfit(path, f'it has the {column} "{unquoted(twice.iloc[0])}" twice')
    if sorted(table["idx"]) != sorted(map(str, range(len(table)))):
        raise _unfit(path, f"its idx is not 0 to {len(table) - 1}")
    return frozenset(table["label"])


def _one_label(path: Path, name: str, found: object, vocabulary: frozenset[str]) -> str:
    if not isinstance(found, list) or len(found) != 1:
        raise _unfit(path, f"its clip {name} should have a list of one label, not {unquoted(found)}")
    return _label(path, name, found[0], vocabulary)


def _labels(path: Path, name: str, found: object, vocabulary: frozenset[str]) -> tuple[str, ...]:
    if not isinstance(found, list):
        raise _unfit(path, f"its clip {name} should have a list of labels, not {unquoted(found)}")
    return tuple(sorted({_label(path, name, label, vocabulary) for label in found}))


def _events(path: Path, name: str, found: object, vocabulary: frozenset[str]) -> tuple[Event, ...]:
    if not isinstance(found, list) or not all(isinstance(event, dict) for event in found):
        raise _unfit(path, f"its clip {name} should have a list of events, not {unquoted(found)}")
    events = []
    for event in found:
        if lacking := [key for key in ("label", "start", "end") if key not in event]:
            raise _unfit(path, f"an event of its clip {name} has no {', '.join(lacking)}")
        start, end = (_number(event[key]) for key in ("start", "end"))
        if start is None or end is None or not 0 <= start <= end <= LONGEST_MS:
            raise _unfit(
                path,
                f"an event of its clip {name} lasts from {unquoted(event['start'])} to {unquoted(event['end'])}; both "
                "should be milliseconds from the clip's start, the end no earlier than the start and "
                "within a day",
            )
        events.append((_label(path, name, event["label"], vocabulary), start / 1000, end / 1000))
    return tuple(sorted(events, key=lambda event: (event[1], event[2], event[0])))


def _label(path: Path, name: str, found: object, vocabulary: frozenset[str]) -> str:
    if not isinstance(found, str | int | float):
        raise _unfit(path, f"its clip {name} should have names or numbers as labels, not {unquoted(found)}")
    if str(found) not in vocabulary:
        raise _unfit(path, f'its clip {name} has the label "{unquoted(found)}", which is not in labelvocabulary.csv')
    return str(found)


def _number(found: object) -> float | None:
    if isinstance(found, bool) or not isinstance(found, int | float):
        return None
    try:
        value = float(found)
    except OverflowError:
        return None
    return value if math.isfinite(value) else None


def _seconds(path: Path, found: Mapping[str, Any]) -> float | None:
    if "sample_duration" not in found:
        raise _unfit(path, "it has no sample_duration (seconds, or null for clips of any length)")
    if found["sample_duration"] is None:
        return None
    seconds = _number(found["sample_duration"])
    if seconds is None or seconds <= 0:
        raise _unfit(path, f"its sample_duration is {unquoted(found['sample_duration'])}, not seconds above 0 or null")
    return seconds


def _grid(path: Path, found: Mapping[str, Any]) -> tuple[PostProcessing, ...]:
    """The event_postprocessing_grid of the metadata, every combination, or HEAR's own."""
    params = found.get("evaluation_params") or {}
    if not isinstance(params, dict):
        raise _unfit(path, f"its evaluation_params are {unquoted(params)}, not an object")
    if "event_postprocessing_grid" not in params:
        return HEAR_GRID
    grid = params["event_postprocessing_grid"]
    if not isinstance(grid, dict) or set(grid) - set(POST_PROCESSING):
        raise _unfit(path, f"its event_postprocessing_grid may have only {', '.join(POST_PROCESSING)}")
    for key, values in grid.items():
        numbers = [_number(value) for value in values] if isinstance(values, list) else []
        if not numbers or any(number is None or not 0 <= number <= LONGEST_MS for number in numbers):
            raise _unfit(path, f"{key} in its event_postprocessing_grid is no list of numbers from 0 to {LONGEST_MS}")
    choices = [grid.get(key, [default]) for key, default in POST_PROCESSING.items()]
    return tuple(sorted({PostProcessing(*map(float, choice)) for choice in itertools.product(*choices)}))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return read_object(path)
    except MissingFile:
        raise DataError(
            f"The HEAR task file {path} is missing. Name the folder that holds task_metadata.json, and unpack it whole."
        ) from None


def _one_of(path: Path, found: Mapping[str, Any], key: str, allowed: tuple[str, ...]) -> str:
    value = found.get(key)
    if value not in allowed:
        raise _unfit(path, f"its {key} is {unquoted(value)}, not one of {', '.join(allowed)}")
    return str(value)


def _names(path: Path, found: Mapping[str, Any], key: str) -> list[str]:
    value = found.get(key)
    if not isinstance(value, list) or not value or not all(isinstance(name, str) and name for name in value):
        raise _unfit(path, f"its {key} should be a list of names, not {unquoted(value)}")
    if len(set(value)) < len(value):
        raise _unfit(path, f"its {key} names something twice")
    return value


def _check_plain(path: Path, name: str) -> None:
    plain = PureWindowsPath(name).name == name == name.strip() and name.isprintable()
    if not plain or name in ("", ".."):
        raise _unfit(path, f'it names "{unquoted(name)}", which is no plain name of a file or split')


def _unfit(path: Path, what: str) -> DataError:
    return DataError(f"The HEAR task file {path} cannot be used: {what}. Restore the original, or preprocess again.")
