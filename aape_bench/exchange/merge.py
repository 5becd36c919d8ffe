"""Results folders of several people joined into one.

Records are addressed by what decides them, so two folders never disagree about which result a record is. Where both
have it, the earlier is kept, if they are the same result but for when and where it was computed: scores may differ by
what another processor's arithmetic does to them. Results of one key that differ by more are refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from aape_bench.errors import BenchError, StorageError
from aape_bench.exchange import files
from aape_bench.exchange.verify import close, contents, differences, unlike_written
from aape_bench.storage import atomic_write

#: Scores of one result may differ by so much between machines.
MACHINES = 1e-3
#: Entries that say when and where a result was computed; the predictions' hash follows their last digits.
_CIRCUMSTANCES = ("date", "stages", "seal", "predictions_sha256")
_SHOWN = 3


@dataclass(frozen=True)
class Item:
    """One record of one folder. paths: of record and predictions below it; kept: it is in the output already."""

    folder: Path
    path: str
    record: dict[str, Any]
    kept: bool

    @property
    def date(self) -> datetime:
        return datetime.fromisoformat(self.record["date"])

    @property
    def where(self) -> str:
        return str(self.folder / self.path)


@dataclass(frozen=True)
class Merged:
    """What a merge did: records written, and there already; twice: how many stood in several folders.

    remarks: of those that differ in digits. failures: records that were left out, and why.
    """

    written: int
    there: int
    twice: int
    remarks: list[str]
    failures: list[BenchError]


def merge(folders: Sequence[Path], out: Path, keep_earlier: bool = False) -> Merged:
    """Write every sound record of the folders, with its predictions, into `out`; what that has stays.

    keep_earlier: where results of one key differ, take the earlier instead of refusing. Raises StorageError naming
    both, before anything is written, where they may not differ; UsageError where a folder has no records.
    """
    found: dict[str, list[Item]] = {}
    failures: list[BenchError] = []
    sources = [(out, True)] if (out / "records").is_dir() else []
    sources += [(folder, False) for folder in folders if folder.resolve() != out.resolve()]
    for folder, kept in sources:
        for path in [] if kept and not any((folder / "records").glob("*/*/*.json")) else files.record_files(folder):
            try:
                item = _item(folder, path, kept)
            except (BenchError, RecursionError, ValueError) as error:
                failures.append(StorageError(f"{folder / path} is left out. {error}"))
                continue
            found.setdefault(item.record["key"], []).append(item)
    chosen, remarks, conflicts = [], [], []
    for items in found.values():
        best = min(items, key=lambda item: (not item.kept, item.date, item.record["seal"]))
        chosen.append(best)
        for other in items:
            said, apart = _compared(best, other)
            remarks += [said] if said else []
            if apart and not keep_earlier:
                conflicts.append(
                    f"{best.where} and {other.where} are the same result by their key, but differ: {apart}. Run "
                    "records verify on both folders; if both are sound, --keep-earlier takes the earlier."
                )
    if conflicts:
        more = f" So do {len(conflicts) - 1} more." if len(conflicts) > 1 else ""
        raise StorageError(f"Nothing was merged. {conflicts[0]}{more}")
    new = [item for item in chosen if not item.kept]
    for item in new:
        _copy(item, out)
    twice = sum(len(items) > 1 for items in found.values())
    return Merged(len(new), len(chosen) - len(new), twice, remarks, failures)


def _item(folder: Path, path: str, kept: bool) -> Item:
    record = contents(folder, path)
    if problems := unlike_written(record, path):
        raise StorageError(" ".join(problems))
    predictions = files.inside(folder, record["predictions"], files.MOST_PREDICTIONS)
    hashed = hashlib.sha256()
    for block in files.blocks(predictions):
        hashed.update(block)
    _check_hash(record, hashed.hexdigest())
    return Item(folder, path, record, kept)


def _compared(best: Item, other: Item) -> tuple[str, str]:
    """A remark where two records of a key differ in digits only, and what else they differ in."""
    if other is best:
        return "", ""
    one, two = ({k: v for k, v in item.record.items() if k not in _CIRCUMSTANCES} for item in (best, other))
    apart = list(differences(one, two, ""))
    large = [entry for entry in apart if not close(entry.stated, entry.computed, MACHINES)]
    if large:
        more = f", and {len(large) - _SHOWN} more" if len(large) > _SHOWN else ""
        return "", f"{'; '.join(map(str, large[:_SHOWN]))}{more}"
    if apart or best.record["predictions_sha256"] != other.record["predictions_sha256"]:
        return f"{best.where} is kept; {other.where} differs from it in digits only.", ""
    return "", ""


def _copy(item: Item, out: Path) -> None:
    """Predictions first: a record that is there has them."""
    predictions = item.record["predictions"]
    hashed = hashlib.sha256()
    with atomic_write(out / predictions) as target:
        for block in files.blocks(files.inside(item.folder, predictions, files.MOST_PREDICTIONS)):
            hashed.update(block)
            target.write(block)
        _check_hash(item.record, hashed.hexdigest())
    source = files.inside(item.folder, item.path, files.MOST_RECORD)
    with atomic_write(out / item.path) as target:
        target.write(source.read_bytes())


def _check_hash(record: dict[str, Any], found: str) -> None:
    if found != record["predictions_sha256"]:
        raise StorageError(f"The predictions {record['predictions']} are not those that the record was written with.")
