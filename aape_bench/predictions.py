"""Predictions of one result: what every test clip is, and what a classifier said of it; and their file.

The file is a compressed CSV, one row per test clip in clip-table order, all clips of one repeat before those of the
next. Its columns:

    id, fold, group   text; an empty group is none
    repeat            0, 1, ...
    kind              multiclass, multilabel or event, the same in every row
    truth, predicted  multiclass: the class name; otherwise JSON: a list of names, or of [name, start, end] in
                      seconds; `predicted` is empty in multilabel tasks
    value:<name>      a further figure of the clip, the same in every repeat
    score:<class>     nine significant digits, which give back every float32; empty in event tasks
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import re
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import numpy.typing as npt

from aape_bench.errors import StorageError
from aape_bench.identity import file_digest
from aape_bench.storage import atomic_write
from aape_bench.task import Kind

_FIXED = ("id", "fold", "group", "repeat", "kind", "truth", "predicted")
_BLOCK = 1000  # rows compressed at a time
_QUOTED = re.compile('[,"\r\n]')


@dataclass(frozen=True)
class Predictions:
    """One entry per test clip, in clip-table order; every clip is tested exactly once.

    ids, folds: (m,) text; `folds` names the rotation that tested the clip. groups: (m,) text or None.
    truth:   (m,) labels as in the clip table: a name, a tuple of names, or a tuple of (name, start, end) seconds.
    classes: names in the order of the columns of `scores`.
    scores:  (repeats, m, classes) float32, higher is likelier; None for event tasks, whose scores are of moments.
    decided: [repeat][clip]: multiclass the class name of the highest score (the first of equals); event a tuple of
             (name, start, end) in seconds; multilabel none are decided, and the sequence is empty.
    values:  further figures per clip, (m,) each, e.g. "R@1".
    """

    kind: Kind
    ids: Sequence[str]
    folds: npt.NDArray[np.str_]
    groups: Sequence[str | None]
    truth: Sequence[Any]
    classes: Sequence[str]
    scores: npt.NDArray[np.float32] | None
    decided: Sequence[Sequence[Any]]
    values: Mapping[str, npt.NDArray[np.float64]] = field(default_factory=dict)

    @property
    def repeats(self) -> int:
        """How many classifiers of one and the same protocol predicted every clip."""
        return len(self.scores) if self.scores is not None else len(self.decided)


def subset(predictions: Predictions, rows: npt.NDArray[np.integer[Any]]) -> Predictions:
    """The clips at these positions, in this order."""
    p = predictions
    return Predictions(
        kind=p.kind,
        ids=[p.ids[row] for row in rows],
        folds=p.folds[rows],
        groups=[p.groups[row] for row in rows],
        truth=[p.truth[row] for row in rows],
        classes=p.classes,
        scores=None if p.scores is None else p.scores[:, rows],
        decided=[[repeat[row] for row in rows] for repeat in p.decided],
        values={name: values[rows] for name, values in p.values.items()},
    )


def write(path: Path, predictions: Predictions) -> None:
    """Write the file, whole or not at all; equal predictions give equal bytes.

    Raises StorageError where it cannot be written.
    """
    p = predictions
    names = [*_FIXED, *(f"value:{name}" for name in p.values), *(f"score:{name}" for name in p.classes)]
    # random digits hardly compress further on higher levels, which take ten times as long
    with atomic_write(path) as target, gzip.GzipFile("", "wb", 1, target, mtime=0) as packed:
        packed.write(_encode([",".join(map(_quote, names))]))
        values = [list(map(repr, map(float, column))) for column in p.values.values()]
        for repeat in range(p.repeats):
            for start in range(0, len(p.ids), _BLOCK):
                rows = range(start, min(start + _BLOCK, len(p.ids)))
                texts = [
                    ",".join([*_head(p, repeat, row), *(column[row] for column in values), *tail])
                    for row, tail in zip(rows, _tails(p, repeat, rows), strict=True)
                ]
                packed.write(_encode(texts))


def read(path: Path, sha256: str | None = None, scored: bool = True) -> Predictions:
    """The predictions of a file that `write` made.

    sha256: what its bytes must hash to. scored: False leaves out the scores, which take most of the time. Raises
    StorageError where the file is missing, damaged or another one.
    """
    again = "Run the command that made them again."
    if not path.is_file() or (sha256 is not None and file_digest(path) != sha256):
        raise StorageError(f"The predictions {path} are missing or not as they were written. {again}")
    try:
        with gzip.open(path, "rt", encoding="utf-8", errors="surrogatepass", newline="") as text, _long_cells():
            return _parse(text, scored)
    except (OSError, EOFError, zlib.error, csv.Error, ValueError, LookupError, ArithmeticError, TypeError) as error:
        raise StorageError(
            f"The predictions {path} cannot be read ({type(error).__name__}: {error}). {again}"
        ) from None


def _head(p: Predictions, repeat: int, row: int) -> list[str]:
    decided = p.decided[repeat][row] if p.decided else None
    truth, predicted = _label(p.kind, p.truth[row]), "" if decided is None else _label(p.kind, decided)
    texts = (str(p.ids[row]), str(p.folds[row]), p.groups[row] or "", str(repeat), p.kind, truth, predicted)
    return [_quote(text) for text in texts]


def _tails(p: Predictions, repeat: int, rows: range) -> list[list[str]]:
    if p.scores is None:
        return [[""] * len(p.classes)] * len(rows)
    if not p.classes:
        return [[]] * len(rows)
    digits = ",".join(["%.9g"] * len(p.classes))
    return [[digits % tuple(scores)] for scores in p.scores[repeat, rows.start : rows.stop].tolist()]


def _label(kind: Kind, label: Any) -> str:
    if kind == "multiclass":
        return str(label)
    plain = list(label) if kind == "multilabel" else [[name, float(start), float(end)] for name, start, end in label]
    return json.dumps(plain, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _quote(text: str) -> str:
    if _QUOTED.search(text):
        return '"' + text.replace('"', '""') + '"'
    return text


def _encode(rows: Sequence[str]) -> bytes:
    # names of files need not be valid text: lone surrogates stand for such bytes
    return ("\n".join(rows) + "\n").encode("utf-8", "surrogatepass")


@contextlib.contextmanager
def _long_cells() -> Iterator[None]:
    """Lets the CSV reader take cells of more than 128 kB: events of a long clip."""
    before = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _parse(text: io.TextIOBase, with_scores: bool) -> Predictions:
    names = next(csv.reader(text, strict=True), [])
    first_score = next((at for at, name in enumerate(names) if name.startswith("score:")), len(names))
    value_names = [name.removeprefix("value:") for name in names[len(_FIXED) : first_score]]
    classes = [name.removeprefix("score:") for name in names[first_score:]]
    if names != [*_FIXED, *(f"value:{name}" for name in value_names), *(f"score:{name}" for name in classes)]:
        raise ValueError("its columns are not those of predictions")
    heads: list[list[str]] = []
    values: list[list[float]] = []

    def scores_of_rows() -> Iterator[str]:
        for cells, scores in _rows(text, first_score, len(names)):
            heads.append(cells[: len(_FIXED)])
            values.append([float(value) for value in cells[len(_FIXED) :]])
            if with_scores and scores.strip(","):
                yield scores

    scores = _numbers(scores_of_rows(), len(classes))
    if not heads:
        raise ValueError("it has no rows")
    repeats = int(heads[-1][3]) + 1
    clips = len(heads) // repeats
    kind = heads[0][4]
    clip = [(head[:3], kind, head[5]) for head in heads[:clips]]
    if kind not in get_args(Kind) or len(scores) not in (0, len(heads)) or clips * repeats != len(heads):
        raise ValueError("rows are missing")
    for at, head in enumerate(heads):
        if (head[:3], head[4], head[5]) != clip[at % clips] or int(head[3]) != at // clips:
            raise ValueError(f"row {at + 1} is out of place")
    known = cast(Kind, kind)
    decided = [_unlabel(known, head[6]) for head in heads] if kind != "multilabel" else []
    columns = np.array(values[:clips], dtype=float).reshape(clips, len(value_names))
    scored = len(scores) > 0 or (with_scores and kind != "event" and not classes)
    return Predictions(
        kind=known,
        ids=[head[0] for head in heads[:clips]],
        folds=np.array([head[1] for head in heads[:clips]], dtype=str),
        groups=[head[2] or None for head in heads[:clips]],
        truth=[_unlabel(known, head[5]) for head in heads[:clips]],
        classes=classes,
        scores=scores.reshape(repeats, clips, len(classes)) if scored else None,
        decided=[decided[start : start + clips] for start in range(0, len(decided), clips)],
        values={name: columns[:, at].copy() for at, name in enumerate(value_names)},
    )


def _rows(text: io.TextIOBase, first_score: int, columns: int) -> Iterator[tuple[list[str], str]]:
    """Every row's cells before its scores, and the scores as they stand there.

    Quotes stand around whole cells, as `write` and Python's csv module have it: only up to the last one of a row does
    it take a CSV reader.
    """
    for number, line in enumerate(_whole_lines(iter(text)), 1):
        quoted = line.rfind('"') + 1
        cells = next(csv.reader([line[:quoted]], strict=True)) if quoted else []
        if any("," in cell for cell in cells[first_score:]):
            raise ValueError(f"row {number} has a score that is no number")
        rest = line[quoted:]
        if quoted and rest and not rest.startswith(","):
            raise ValueError(f"row {number} goes on behind a quote")
        if not quoted or rest:
            cells += rest.removeprefix("," if quoted else "").split(",", first_score - len(cells))
        cells, scores = cells[:first_score], cells[first_score:]
        found = len(cells) + sum(part.count(",") + 1 for part in scores)
        if found != columns:
            raise ValueError(f"row {number} has {found} cells, not {columns}")
        yield cells, ",".join(scores)


def _whole_lines(lines: Iterator[str]) -> Iterator[str]:
    """Lines without their ends; those that a quoted cell goes over are one."""
    for line in lines:
        parts, inside = [line], line.count('"') % 2
        while inside and (more := next(lines, "")):
            parts.append(more)
            inside ^= more.count('"') % 2
        yield "".join(parts).removesuffix("\n").removesuffix("\r")


def _numbers(rows: Iterator[str], columns: int) -> npt.NDArray[np.float32]:
    """(rows, columns), whatever their number."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "loadtxt: input contained no data", UserWarning)
        table = np.loadtxt(rows, np.float32, comments=None, delimiter=",", ndmin=2)
    return table if table.size else np.empty((0, columns), np.float32)


def _unlabel(kind: Kind, text: str) -> Any:
    if kind == "multiclass":
        return text
    labels = json.loads(text)
    if kind == "multilabel":
        return tuple(map(str, labels))
    return tuple((str(name), float(start), float(end)) for name, start, end in labels)
