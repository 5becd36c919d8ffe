"""Reading, checking and cutting down clip tables (their columns: see `aape_bench.task`).

A data set's metadata is untrusted text: paths may not leave the data folder, labels and folds must be there,
nothing may stand on two sides of a split.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import pandas as pd

from aape_bench.errors import DataError
from aape_bench.task import Task

PARTS = ("train", "valid", "test")


def read_csv(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """A metadata CSV as text columns (empty cells become NaN).

    Raises DataError naming the file where it is missing, unreadable, empty or lacks one of `columns`.
    """
    if path.exists() and not path.is_file():
        raise DataError(f"The metadata file {path} is no regular file. Restore the original.")
    try:
        table = pd.read_csv(path, dtype=str, encoding="utf-8", keep_default_na=False, na_values=[""])
    except FileNotFoundError:
        raise DataError(f"The metadata file {path} is missing. Unpack the data set so that it is there.") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise DataError(f"The metadata file {path} is not a readable CSV ({error}). Restore the original.") from None
    except OSError as error:
        raise DataError(f"The metadata file {path} cannot be read ({error.strerror or error}).") from None
    if missing := [column for column in columns if column not in table.columns]:
        raise DataError(
            f"The metadata file {path} has no column {', '.join(missing)} (it has: {', '.join(table.columns)}). "
            "Restore the original."
        )
    if table.empty:
        raise DataError(f"The metadata file {path} lists no clips. Restore the original.")
    return table


def check(task: Task, table: pd.DataFrame) -> pd.DataFrame:
    """The table with complete columns and a fresh index, or DataError naming the first row that breaks a rule."""
    table = table.reset_index(drop=True)
    side = side_column(task)
    if absent := [column for column in ("id", "path", "label", side) if column not in table]:
        raise DataError(f"{task.name}: the task's clip table has no column {', '.join(absent)}. Mend its read().")
    for column in ("start", "end"):
        table[column] = table[column].astype(float) if column in table else np.nan
    groups = table["group"] if "group" in table else pd.Series(index=table.index, dtype=object)
    blank = groups.isna() | (groups.astype(str).str.strip() == "")
    table["group"] = pd.Series([None if b else str(g) for g, b in zip(groups, blank, strict=True)], dtype=object)
    for column in ("id", "path", "label", side):
        empty = table[column].isna() | (table[column].astype(str).str.strip() == "")
        if column == "path" and task.generator is not None:
            continue
        if empty.any():
            row = int(np.flatnonzero(empty)[0])
            raise DataError(
                f"{task.name}: row {row + 1} of the metadata ({table['id'][row]}) has no {column}. "
                "Restore the original metadata."
            )
    for column in ("id", "path", "label", side):
        table[column] = table[column].astype(str).str.strip()
    table["path"] = [str(PurePosixPath(path)) if path else "" for path in table["path"]]
    for path in table["path"]:
        if path:
            _check_inside(task, path)
    _check_listed_once(task, table, side)
    if task.split_scheme == "parts" and (odd := set(table[side]) - set(PARTS)):
        raise DataError(f'{task.name}: unknown part "{min(odd)}"; the parts are {", ".join(PARTS)}.')
    _check_groups(task, table, side)
    return table[["id", "path", "start", "end", "label", side, "group"]]


def side_column(task: Task) -> str:
    """The column that says on which side of a split a clip stands: `fold` or `split`."""
    return "fold" if task.split_scheme == "folds" else "split"


@dataclass(frozen=True)
class Present:
    """The rows whose files are there, (size, mtime in ns, inode) of each, and the paths of those that are not."""

    table: pd.DataFrame
    stats: list[tuple[int, int, int]]
    missing: list[str]


def select_present(task: Task, root: Path, table: pd.DataFrame, allow_partial: bool) -> Present:
    """Keep the rows whose files are present, one stat per file.

    Raises DataError with the counts where clips are missing and `allow_partial` is False, or where none is there.
    """
    stats: list[tuple[int, int, int]] = []
    there = np.zeros(len(table), dtype=bool)
    for row, path in enumerate(table["path"]):
        try:
            found = (root / path).stat()
        except (OSError, ValueError):
            continue
        if not stat.S_ISREG(found.st_mode):  # a folder, a device or a pipe is no clip
            continue
        there[row] = True
        stats.append((found.st_size, found.st_mtime_ns, found.st_ino))
    missing = list(table["path"][~there])
    present = int(there.sum())
    classes = int(table["label"][there].nunique())
    if present == 0:
        raise DataError(
            f"{task.name}: none of the {len(table)} clips in the metadata is under {root} (the first would be "
            f"{root / missing[0]}). Unpack the audio there, or point --data-dir at the right folder."
        )
    if not allow_partial and (missing or partial(task, present, classes)):
        named = f" Missing are {len(missing)} files of the metadata, first {missing[0]}." if missing else ""
        listed = "" if len(table) == task.clips else f" The metadata lists {len(table)}."
        counted = "" if classes == task.classes else f" They are of {classes} classes, not {task.classes}."
        raise DataError(
            f"{task.name}: {present} of {task.clips} clips are there, under {root}.{listed}{named}{counted} Complete "
            "the data set, or give --allow-partial to evaluate on what is there (the result is marked as partial)."
        )
    return Present(table[there].reset_index(drop=True), stats, missing)


def partial(task: Task, clips: int, classes: int) -> str:
    """What of the official data set is there, "" where it is all of it: "100 of 2000"."""
    if clips != task.clips:
        return f"{clips} of {task.clips}"
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
    clips of one source recording share a fold. Every clip is tested at most once.
    """
    sides = table[side_column(task)].astype(str).to_numpy()
    if task.split_scheme == "parts":
        lacking = [part for part in PARTS if not (sides == part).any()]
        if lacking:
            raise DataError(f"{task.name}: no clip is present in the part {', '.join(lacking)}.")
        train, valid, test = (np.flatnonzero(sides == part) for part in PARTS)
        rounds = [Rotation("test", train, valid, test)]
    else:
        folds = sorted(set(sides), key=lambda fold: (not fold.isdecimal(), len(fold) if fold.isdecimal() else 0, fold))
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
    for rotation in rounds:
        if table["label"].iloc[rotation.train].nunique() < 2:
            raise DataError(f"{task.name}: the training clips of fold {rotation.name} are all of one class.")
    return rounds


def _check_inside(task: Task, path: str) -> None:
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or PureWindowsPath(path).drive or "\\" in path or "\0" in path:
        raise DataError(
            f'{task.name}: the metadata names the path "{path}", which leaves the data folder. Nothing outside it '
            "is read; restore the original metadata."
        )


def _check_listed_once(task: Task, table: pd.DataFrame, side: str) -> None:
    spans = zip(table["path"], table["start"], table["end"], table["id"], strict=True)
    clip = pd.Series([f"{path}|{start}|{end}" if path else name for path, start, end, name in spans])
    twice = table["id"].duplicated(keep=False) | clip.duplicated(keep=False)
    if not twice.any():
        return
    first = int(np.flatnonzero(twice)[0])
    rows = table[(table["id"] == table["id"][first]) | (clip == clip[first])]
    name, sides = rows["id"].iloc[0], sorted(set(rows[side].astype(str)))
    where = f"in {side}s {' and '.join(sides)}" if len(sides) > 1 else "twice"
    raise DataError(f"{task.name}: the clip {name} is listed {where} of the metadata. Restore the original metadata.")


def _check_groups(task: Task, table: pd.DataFrame, side: str) -> None:
    sides = table.dropna(subset=["group"]).groupby("group")[side].agg(lambda column: sorted(set(column.astype(str))))
    if (astride := sides[sides.map(len) > 1]).size:
        raise DataError(
            f'{task.name}: the group "{astride.index[0]}" stands in {side}s {" and ".join(astride.iloc[0])}, so '
            "training and test would share a source. Restore the original metadata."
        )
