"""All records as one flat table: a row each, a column for every entry, named by its path in the record."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aape_bench.errors import UsageError
from aape_bench.storage import atomic_write, write_text

if TYPE_CHECKING:
    import pandas as pd

    from aape_bench.records import Record

#: Entries that are one cell of JSON: their keys differ between models and protocols, or are many.
WHOLE = ("model.settings", "protocol.settings", "model.checkpoint", "task.deciding", "stages.embed.versions")


def flat(path: str, record: Record) -> dict[str, Any]:
    """One record as a row: `path`, then its entries; lists are JSON."""
    from dataclasses import asdict

    return {"path": path, **dict(_entries(asdict(record), ""))}


def table(found: list[tuple[str, Record]]) -> pd.DataFrame:
    """Every record as a row, numbers as numbers; an entry that a record has not is empty."""
    import pandas as pd

    frame = pd.DataFrame([flat(path, record) for path, record in found])
    # null where other records have an object: its entries are empty then
    parents = {str(name).rpartition(".")[0] for name in frame}
    frame = frame[[name for name in frame if not (name in parents and frame[name].isna().all())]].copy()
    for name in frame:
        known = [value for value in frame[name] if value is not None and value == value]
        if known and all(type(value) is int for value in known):
            frame[name] = frame[name].astype("Int64")
        elif known and all(type(value) in (int, float) for value in known):
            frame[name] = frame[name].astype("float64")
        else:
            texts = [None if value is None or value != value else str(value) for value in frame[name]]
            frame[name] = pd.Series(texts, dtype="string")
    return frame


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """Write the table as CSV."""
    write_text(path, frame.to_csv(index=False, lineterminator="\n"))


def write_parquet(path: Path, frame: pd.DataFrame) -> None:
    """Write the table as Parquet. Raises UsageError where pyarrow is not installed."""
    try:
        from pyarrow import Table, parquet
    except ImportError:
        raise UsageError(
            "Parquet needs pyarrow, which is not installed. Install it (pip install 'aape-bench[parquet]'), or export "
            "with --csv."
        ) from None
    with atomic_write(path) as target:
        parquet.write_table(Table.from_pandas(frame, preserve_index=False), target)


def _entries(value: Any, at: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and at not in WHOLE:
        for name, entry in value.items():
            yield from _entries(entry, f"{at}.{name}" if at else name)
    elif isinstance(value, dict | list):
        yield at, json.dumps(value, ensure_ascii=False, sort_keys=True)
    else:
        yield at, value
