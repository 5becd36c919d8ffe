"""Content hashes of audio files, remembered by (size, mtime, inode): planning costs a stat per file.

A touched file is hashed again; if its bytes are the same, its hash and everything computed from it still hold.
The memory is one text file per data folder, a line per hashed file, only ever appended to: a line cut short
by a crash is passed over, and two processes may write at once.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from aape_bench.errors import DataError
from aape_bench.file_stats import Stat
from aape_bench.identity import canonical, digest, file_digest, source_digest
from aape_bench.storage import storage_error
from aape_bench.task import Task

_BLOCK = 4096  # rows of a table that are text at once


class ContentMemory:
    """Remembered SHA-256 per file under `root`; stored in `cache_dir`, which is made on the first write."""

    def __init__(self, cache_dir: Path, root: Path) -> None:
        self.root = root
        self.file = cache_dir / "contents" / f"{digest(str(root.resolve()))[:16]}.txt"

    def known(self, paths: Sequence[str], stats: Sequence[Stat]) -> list[str | None]:
        """The remembered hash of each file, None where the file is new or has changed."""
        rows: dict[str, list[int]] = {}
        for row, path in enumerate(paths):
            rows.setdefault(path, []).append(row)
        found: list[str | None] = [None] * len(paths)
        for path, stat, value in self._entries():  # of several lines the last holds
            for row in rows.get(path, ()):
                found[row] = value if stat == stats[row] else None
        return found

    def hashes(
        self, paths: Sequence[str], stats: Sequence[Stat], advance: Callable[[int], None] = lambda _: None
    ) -> list[str]:
        """The hash of each file; those not remembered are read now. Raises DataError where one cannot be read."""
        known = self.known(paths, stats)
        unread = [row for row, value in enumerate(known) if value is None]
        block = 256
        with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
            for first in range(0, len(unread), block):
                rows = unread[first : first + block]
                for row, value in zip(rows, pool.map(self._hash, [paths[r] for r in rows]), strict=True):
                    known[row] = value
                self._append([(paths[r], stats[r], str(known[r])) for r in rows])
                advance(len(rows))
        return [str(value) for value in known]

    def _hash(self, path: str) -> str:
        try:
            return file_digest(self.root / path)
        except OSError as error:
            raise DataError(f"{self.root / path} cannot be read ({error.strerror or error}).") from None

    def _entries(self) -> Iterator[tuple[str, Stat, str]]:
        if not self.file.is_file():
            return
        # newline: a name may hold any other end of a line
        with self.file.open(encoding="utf-8", errors="replace", newline="\n") as lines:
            for line in lines:
                fields = line.rstrip("\n").split(" ", 4)
                # the closing mark tells a whole line from one that a crash cut short
                if len(fields) == 5 and fields[4].endswith("\t.") and all(f.isdecimal() for f in fields[1:4]):
                    yield fields[4][:-2], (int(fields[1]), int(fields[2]), int(fields[3])), fields[0]

    def _append(self, entries: list[tuple[str, Stat, str]]) -> None:
        lines = [f"{value} {s[0]} {s[1]} {s[2]} {path}\t.\n" for path, s, value in entries]
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("ab") as handle:
                handle.write(("\n" + "".join(lines)).encode())
        except OSError as error:
            raise storage_error(self.file, error) from error


@dataclass(frozen=True)
class Fingerprints:
    """What a data set is. audio: of the samples that an encoder gets; data: of those, labels, splits and groups.

    Tasks that use the same files in the same order have one `audio`.
    """

    audio: str
    data: str


def fingerprints(task: Task, table: pd.DataFrame, hashes: Sequence[str] | None) -> Fingerprints:
    """SHA-256 over the clip table with each file's relative path and content hash.

    hashes: per row; None for a generated task, whose generator's sources stand in for them.
    """
    code = source_digest(task.generator.sources) if task.generator is not None else None
    files, spans = iter(hashes or ()), _rows(table[["id", "path", "start", "end"]])
    named = _digest({"task": task.name, "seconds": task.clip_seconds, "spans": spans, "files": files, "code": code})
    audio = named
    if hashes is not None:  # whatever the files are called, and whatever else they are used for
        spans = _rows(table[["start", "end"]])
        audio = _digest({"seconds": task.clip_seconds, "spans": spans, "files": iter(hashes)})
    about: dict[str, Any] = {"audio": named, "rows": _rows(table), "kind": task.kind, "splits": task.split_scheme}
    if task.postprocessing:  # a task folder may say how its events are to be found
        about["events"] = [vars(how) for how in task.postprocessing]
    return Fingerprints(audio, _digest(about))


def _rows(table: pd.DataFrame) -> Iterator[list[Any]]:
    """Row by row, None for what is not there."""
    for start in range(0, len(table), _BLOCK):
        block = table.iloc[start : start + _BLOCK]
        yield from block.astype(object).where(block.notna(), None).values.tolist()


def _digest(value: dict[str, Any]) -> str:
    """`identity.digest` of a dict, whose iterators count as lists but are never in memory as a whole."""
    found = hashlib.sha256()
    for place, (name, part) in enumerate(sorted(value.items())):
        found.update(f"{'{,'[place > 0]}{canonical(name)}:".encode())
        if not isinstance(part, Iterator):
            found.update(canonical(part).encode())
            continue
        found.update(b"[")
        first = True
        while block := list(itertools.islice(part, _BLOCK)):
            found.update((("" if first else ",") + canonical(block)[1:-1]).encode())
            first = False
        found.update(b"]")
    found.update(b"}")
    return found.hexdigest()
