"""Checking and cutting down clip tables (their columns: see `aape_bench.task`).

A data set's metadata is untrusted text: paths may not leave the data folder, labels and folds must be there,
nothing may stand on two sides of a split.
"""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from aape_bench.errors import DataError
from aape_bench.file_stats import Stats
from aape_bench.holdout import hold_out
from aape_bench.metadata import unquoted
from aape_bench.task import PARTS, Task

# What `_inside` returns as it is: relative, no "." or "..", no Windows drive. A data set may have millions of paths.
_NAME = r"(?!\.{1,2}(?:/|\Z))[^/\\:\0]+"
_PLAIN = re.compile(f"{_NAME}(?:/{_NAME})*")


def check(task: Task, table: pd.DataFrame) -> pd.DataFrame:
    """The table with complete columns and a fresh index, or DataError naming the first row that breaks a rule."""
    table = table.reset_index(drop=True)
    side = side_column(task)
    if absent := [column for column in ("id", "path", "label", side) if column not in table]:
        raise DataError(f"{task.name}: the task's clip table has no column {', '.join(absent)}. Mend its read().")
    if table.empty:
        raise DataError(f"{task.name}: the metadata lists no clips. Restore the original metadata.")
    for column in ("start", "end"):
        table[column] = table[column].astype(float) if column in table else np.nan
    table["group"] = _groups(table)
    named = ["id", "path", side] + (["label"] if task.kind == "multiclass" else [])
    for column in named:
        texts = _texts(table[column])
        if "" in texts and not (column == "path" and task.generator is not None):
            row = texts.index("")
            raise DataError(
                f"{task.name}: row {row + 1} of the metadata ({unquoted(str(table['id'][row]))}) has no {column}. "
                "Restore the original metadata."
            )
        table[column] = pd.Series(texts, table.index, dtype=object)
    if task.kind != "multiclass":
        _check_label_tuples(task, table)
    table["path"] = [path if _PLAIN.fullmatch(path) else _inside(task, path) for path in table["path"].tolist()]
    _check_listed_once(task, table, side)
    if task.split_scheme == "parts" and (odd := set(table[side]) - set(PARTS)):
        raise DataError(f'{task.name}: unknown part "{unquoted(min(odd))}"; the parts are {", ".join(PARTS)}.')
    _check_groups(task, table, side)
    return table[["id", "path", "start", "end", "label", side, "group"]]


def side_column(task: Task) -> str:
    """The column that says on which side of a split a clip stands: `fold` or `split`."""
    return "fold" if task.split_scheme == "folds" else "split"


def class_names(task: Task, table: pd.DataFrame) -> list[str]:
    """Names of the classes that occur in the table, sorted."""
    if task.kind == "multiclass":
        return sorted(set(table["label"].tolist()))
    if task.kind == "multilabel":
        return sorted({name for names in table["label"] for name in names})
    return sorted({name for events in table["label"] for name, _, _ in events})


@dataclass(frozen=True)
class Present:
    """The rows whose files are there, (size, mtime in ns, inode) of each, and the paths of those that are not."""

    table: pd.DataFrame
    stats: Stats
    missing: list[str]


def select_present(task: Task, root: Path, table: pd.DataFrame, allow_partial: bool) -> Present:
    """Keep the rows whose files are present, one stat per file.

    Raises DataError with the counts where clips are missing and `allow_partial` is False, or where none is there.
    """
    stats = Stats()
    there = np.zeros(len(table), dtype=bool)
    folder = str(root)
    for row, path in enumerate(table["path"].tolist()):
        try:
            found = os.stat(os.path.join(folder, path))  # noqa: PTH116, PTH118  (pathlib takes most of the time)
        except (OSError, ValueError):
            continue
        if not stat.S_ISREG(found.st_mode):  # a folder, a device or a pipe is no clip
            continue
        there[row] = True
        stats.append(found)
    missing = list(table["path"][~there])
    present = int(there.sum())
    if present == 0:
        raise DataError(
            f"{task.name}: none of the {len(table)} clips in the metadata is under {root} (the first would be "
            f"{root / unquoted(missing[0])}). Unpack the audio there, or point --data-dir at the right folder."
        )
    kept = table[there].reset_index(drop=True)
    lacking = partial(task, kept)
    if not allow_partial and (missing or lacking):
        named = f" Missing are {len(missing)} files of the metadata, first {unquoted(missing[0])}." if missing else ""
        listed = "" if len(table) == task.clips else f" The metadata lists {len(table)}."
        classes = len(class_names(task, kept))
        counted = "" if classes == task.classes else f" They are of {classes} classes, not {task.classes}."
        parts = "" if lacking.startswith(f"{present} of ") or not lacking else f" There are {lacking}."
        raise DataError(
            f"{task.name}: {present} of {task.clips} clips are there, under {root}.{listed}{named}{counted or parts} "
            "Complete the data set, or give --allow-partial to evaluate on what is there (the result is marked as "
            "partial)."
        )
    return Present(kept, stats, missing)


def partial(task: Task, table: pd.DataFrame) -> str:
    """What of the official data set is there, "" where it is all of it: "100 of 2000"."""
    if len(table) != task.clips:
        return f"{len(table)} of {task.clips}"
    if task.part_clips is not None and "split" in table:
        counts = table["split"].value_counts()
        for part, expected in zip(PARTS, task.part_clips, strict=True):
            if (found := int(counts.get(part, 0))) != expected:
                return f"{found} of {expected} {part}"
    classes = len(class_names(task, table))
    return "" if classes == task.classes else f"{classes} of {task.classes} classes"


@dataclass(frozen=True)
class Rotation:
    """One training and testing round; arrays hold row positions of the clip table."""

    name: str
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def rotations(task: Task, table: pd.DataFrame) -> list[Rotation]:
    """The rounds of a task: one per present fold, or one for official parts.

    Folds: test fold i, validation the next present fold cyclically, training the rest. Never a random part:
    clips of one source recording share a fold. Parts: the official ones; where there is no validation part, a tenth
    of the training clips stands in (`aape_bench.holdout`). Every clip is tested at most once.
    """
    sides = table[side_column(task)].astype(str).to_numpy()
    if task.split_scheme == "parts":
        lacking = [part for part in ("train", "test") if not (sides == part).any()]
        if lacking:
            raise DataError(f"{task.name}: no clip is present in the part {' or '.join(lacking)}.")
        if task.part_clips is not None and task.part_clips[1] and not (sides == "valid").any():
            raise DataError(f"{task.name}: no clip is present in the part valid.")
        train, valid, test = (np.flatnonzero(sides == part) for part in PARTS)
        if not len(valid):
            train, valid = hold_out(
                task.name, table["id"].tolist(), class_sets(task, table), table["group"].tolist(), train
            )
            if not len(valid):
                raise DataError(
                    f"{task.name}: there is no validation part, and the {len(train)} training clips cannot spare one."
                )
        rounds = [Rotation("test", train, valid, test)]
    else:
        folds = sorted(set(sides), key=fold_order)
        if len(folds) < 3:
            raise DataError(
                f"{task.name}: clips of {len(folds)} fold(s) are present; training, validation and test need 3."
            )
        rounds = [
            Rotation(
                fold,
                np.flatnonzero((sides != fold) & (sides != following)),
                np.flatnonzero(sides == following),
                np.flatnonzero(sides == fold),
            )
            for fold, following in zip(folds, folds[1:] + folds[:1], strict=True)
        ]
    _check_trainable(task, table, rounds)
    return rounds


def left_out(
    task: Task, table: pd.DataFrame, rounds: Sequence[Rotation], broken: Collection[int]
) -> tuple[pd.DataFrame, list[Rotation], npt.NDArray[np.bool_]]:
    """Table and rounds without the broken rows, and which rows (rows of `table`,) stayed.

    Nobody changes sides: who validates in the whole table does so here, if it is there.
    Raises DataError where a part of a round is left without a clip, or training with a single class.
    """
    kept = np.array([row not in broken for row in range(len(table))])
    place = np.cumsum(kept) - 1
    fewer = []
    for one in rounds:
        train, validation, test = (place[rows[kept[rows]]] for rows in (one.train, one.validation, one.test))
        for part, rows in (("training", train), ("validation", validation), ("test", test)):
            if not len(rows):
                raise DataError(f"{task.name}: every {part} clip of fold {one.name} is broken. Replace the files.")
        fewer.append(Rotation(one.name, train, validation, test))
    table = table[kept].reset_index(drop=True)
    _check_trainable(task, table, fewer)
    return table, fewer, kept


def _check_trainable(task: Task, table: pd.DataFrame, rounds: Sequence[Rotation]) -> None:
    for rotation in rounds:
        trained = class_names(task, table.iloc[rotation.train])
        if len(trained) < (2 if task.kind == "multiclass" else 1):
            what = "all of one class" if trained else "of no class"
            raise DataError(f"{task.name}: the training clips of fold {rotation.name} are {what}.")


def class_sets(task: Task, table: pd.DataFrame) -> list[tuple[str, ...]]:
    """The classes of every clip."""
    if task.kind == "multiclass":
        return [(name,) for name in table["label"]]
    if task.kind == "multilabel":
        return list(table["label"])
    return [tuple(sorted({name for name, _, _ in events})) for events in table["label"]]


def fold_order(fold: str) -> tuple[bool, int, str]:
    """The key by which folds are sorted: numbers by value and first, then names."""
    return not fold.isdecimal(), len(fold) if fold.isdecimal() else 0, fold


def _groups(table: pd.DataFrame) -> pd.Series[Any]:
    if "group" not in table:
        return pd.Series([None] * len(table), index=table.index, dtype=object)
    texts = _texts(table["group"], strip=False)
    return pd.Series([text if text.strip() else None for text in texts], table.index, dtype=object)


def _texts(column: pd.Series[Any], strip: bool = True) -> list[str]:
    """The values as text, "" for what is not there. Of equal ones there is one object: labels are few, clips many."""
    once: dict[str, str] = {}
    cells = zip(column.tolist(), column.isna().tolist(), strict=True)
    texts = ("" if absent else str(value) for value, absent in cells)
    return [once.setdefault(text, text) for text in ((text.strip() for text in texts) if strip else texts)]


def _check_label_tuples(task: Task, table: pd.DataFrame) -> None:
    """Multilabel: tuples of names; event: tuples of (name, start, end)."""
    for name, label in zip(table["id"], table["label"], strict=True):
        if not isinstance(label, tuple):
            raise DataError(f"{task.name}: the label of the clip {unquoted(name)} is no tuple. Mend the task's read().")
        names = label if task.kind == "multilabel" else [event[0] for event in label]
        if any(not isinstance(one, str) or not one.strip() for one in names):
            raise DataError(
                f"{task.name}: the clip {unquoted(name)} has an empty label. Restore the original metadata."
            )
        if task.kind == "multilabel" and len(set(label)) < len(label):
            raise DataError(f"{task.name}: the clip {unquoted(name)} has a label twice. Restore the original metadata.")
        if task.kind == "event" and any(not 0 <= start <= end < math.inf for _, start, end in label):
            raise DataError(
                f"{task.name}: an event of the clip {unquoted(name)} ends before its start or has no time. Restore the "
                "original metadata."
            )


def _inside(task: Task, path: str) -> str:
    """The path in its plainest form; DataError where it leaves the data folder. "" stays as it is."""
    if not path:
        return ""
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or PureWindowsPath(path).drive or "\\" in path or "\0" in path:
        raise DataError(
            f'{task.name}: the metadata names the path "{unquoted(path)}", which leaves the data folder. Nothing '
            "outside it is read; restore the original metadata."
        )
    return str(parts)


def _check_listed_once(task: Task, table: pd.DataFrame, side: str) -> None:
    paths = [path or name for path, name in zip(table["path"].tolist(), table["id"].tolist(), strict=True)]
    clip = pd.Series(paths, table.index, dtype=object)
    if table["start"].notna().any() or table["end"].notna().any():
        clip = clip + "|" + table["start"].astype(str) + "|" + table["end"].astype(str)
    twice = table["id"].duplicated(keep=False) | clip.duplicated(keep=False)
    if not twice.any():
        return
    first = int(np.flatnonzero(twice)[0])
    rows = table[(table["id"] == table["id"][first]) | (clip == clip[first])]
    name, sides = rows["id"].iloc[0], sorted(set(rows[side].astype(str)))
    where = f"in {side}s {' and '.join(sides)}" if len(sides) > 1 else "twice"
    raise DataError(
        f"{task.name}: the clip {unquoted(name)} is listed {where} of the metadata. Restore the original metadata."
    )


def _check_groups(task: Task, table: pd.DataFrame, side: str) -> None:
    pairs = table.loc[table["group"].notna(), ["group", side]].drop_duplicates()
    if (astride := pairs["group"].duplicated()).any():
        group = pairs["group"][astride].iloc[0]
        sides = sorted(pairs[side][pairs["group"] == group])
        raise DataError(
            f'{task.name}: the group "{unquoted(group)}" stands in {side}s {" and ".join(sides)}, so training and test '
            "would share a source. Restore the original metadata."
        )
