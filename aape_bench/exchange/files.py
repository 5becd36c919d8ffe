"""Files of a results folder that somebody else made: bounded, inside the folder, and strictly JSON."""

from __future__ import annotations

import gzip
import json
import math
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from aape_bench.errors import StorageError, UsageError

#: Bytes. The largest record there is has 1 MB, the largest predictions (as20k, ten repeats) 2 GB unpacked.
MOST_RECORD = 64 * 2**20
MOST_PREDICTIONS = 2**30
MOST_UNPACKED = 8 * 2**30
_BLOCK = 2**20


def record_files(folder: Path) -> list[str]:
    """Paths of all records relative to the results folder, sorted. Raises UsageError where there are none."""
    root = folder / "records"
    found = sorted(root.glob("*/*/[!.]*.json")) if root.is_dir() else []
    if not found:
        raise UsageError(
            f"There are no records in {folder}. Name a results folder: one with records/ and predictions/ in it."
        )
    return [path.relative_to(folder).as_posix() for path in found]


def inside(folder: Path, relative: str, most: int) -> Path:
    """The regular file of that path below the folder. Raises StorageError where it is none, elsewhere, or too large."""
    parts = PurePosixPath(relative).parts
    if not parts or relative.startswith("/") or ".." in parts or "\\" in relative or "\0" in relative:
        raise StorageError(f'The path "{relative}" leads out of the results folder.')
    path = folder
    for part in parts:
        path = path / part
        if path.is_symlink():
            raise StorageError(f"{relative} is, or lies behind, a symbolic link.")
    try:
        found = path.stat()
    except OSError as error:
        raise StorageError(f"{relative} is missing ({error.strerror}).") from None
    if not stat.S_ISREG(found.st_mode):
        raise StorageError(f"{relative} is no regular file.")
    if found.st_size > most:
        raise StorageError(f"{relative} has {found.st_size} bytes, more than the {most} that are read.")
    return path


def read_json(path: Path) -> Any:
    """A file's JSON. Raises StorageError where it is none, or holds NaN, infinity or a key twice."""
    try:
        text = path.read_bytes().decode("utf-8")
        return json.loads(text, parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_unique)
    except (OSError, ValueError, RecursionError) as error:
        raise StorageError(f"{path.name} is not JSON that can be read ({type(error).__name__}: {error}).") from None


def check_unpacked(path: Path) -> None:
    """Raise StorageError where a gzip file unpacks to more than is read."""
    size = 0
    try:
        with gzip.open(path, "rb") as unpacked:
            while block := unpacked.read(_BLOCK):
                size += len(block)
                if size > MOST_UNPACKED:
                    raise StorageError(f"{path.name} unpacks to more than the {MOST_UNPACKED} bytes that are read.")
    except (OSError, EOFError, zlib.error) as error:
        raise StorageError(f"{path.name} cannot be unpacked ({error}).") from None


def blocks(path: Path) -> Iterator[bytes]:
    """A file's bytes."""
    with path.open("rb") as handle:
        while block := handle.read(_BLOCK):
            yield block


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text} is too large a number")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for at, (key, _) in enumerate(pairs) if key in dict(pairs[:at]))
        raise ValueError(f'"{twice}" stands there twice')
    return found
