"""A table of a training's steps on disk: it grows by whole lines, and is cut where a resumed training begins."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from aape_bench.storage import storage_error, write_text

Row = Mapping[str, float | int | str | None]


class Table:
    """A CSV file that grows by whole lines and can be cut at a step; the step is its first column."""

    def __init__(self, path: Path, columns: Sequence[str], step: int) -> None:
        """Open for appending rows after `step`; what a killed run wrote beyond it, or half a line, is cut off.

        Raises StorageError.
        """
        self.path, self.columns = path, list(columns)
        try:
            # a crash of the machine may leave any bytes
            text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        except OSError as error:
            raise storage_error(path, error) from error
        lines = text.splitlines(keepends=True)
        kept = [line for line in lines[1:] if line.endswith("\n") and _step_of(line) <= step]
        write_text(path, _line(self.columns) + "".join(kept))

    def write(self, row: Row) -> None:
        """Append one row; columns that it lacks stay empty. Raises StorageError."""
        try:
            with self.path.open("a", encoding="utf-8", newline="") as handle:
                handle.write(_line([_text(row.get(column)) for column in self.columns]))
        except OSError as error:
            raise storage_error(self.path, error) from error


def _line(cells: Sequence[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(cells)
    return buffer.getvalue()


def _text(value: float | int | str | None) -> str:
    if value is None:
        return ""
    return f"{value:.8g}" if isinstance(value, float) else str(value)


def _step_of(line: str) -> float:
    first = line.partition(",")[0].strip()
    return int(first) if first.isdecimal() else float("inf")
