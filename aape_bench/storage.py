"""Writing to disk so that a file is whole or absent, whenever the process is stopped."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from aape_bench.errors import StorageError


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """A binary handle whose content appears at `path` when the block ends, and not at all when it fails.

    Data first, fsync, then the name by atomic rename. Raises StorageError (disk full, read-only, no
    permission) naming `path`.
    """
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as handle:
                yield handle
                handle.flush()
                os.fsync(handle.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _fsync_folder(path.parent)
    except OSError as error:
        raise storage_error(path, error) from error


def create_json(path: Path, value: Any) -> bool:
    """As `write_json`, but only where there is no such file yet; whether it was written."""
    if path.exists():
        return False
    draft = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        write_json(draft, value)
        os.link(draft, path)  # fails where another process was first
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP):
            raise storage_error(path, error) from error
        draft.replace(path)  # a file system without links
    finally:
        draft.unlink(missing_ok=True)
    return True


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_write(path) as handle:
        handle.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write strictly valid JSON atomically: NaN and infinity are refused, not written."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def safe_name(label: str) -> str:
    """A label as part of a file name: only harmless characters, at most 100 of them."""
    safe = re.sub(r"[^A-Za-z0-9._=,\[\]@+-]", "_", label)
    return safe if len(safe) <= 100 else f"{safe[:90]}~{hashlib.sha256(label.encode()).hexdigest()[:8]}"


def check_writable(folder: Path, option: str) -> None:
    """Raise StorageError now rather than after an hour of work where `folder` cannot be written or made.

    Leaves nothing behind.
    """
    there = next((place for place in (folder, *folder.parents) if place.exists()), folder)
    probe = there / f".{secrets.token_hex(8)}.tmp"
    try:
        try:
            probe.write_bytes(b"x")
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(folder, error, f" Choose another folder with {option}.") from error


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files that a killed run left in `folder`: those older than a day, which no run still writes."""
    for draft in folder.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - draft.stat().st_mtime > 86400:
                draft.unlink()


def storage_error(path: Path, error: OSError, advice: str = "") -> StorageError:
    """The plain paragraph for an OSError met at `path`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        what = f"The disk is full: {path} could not be written."
        advice = advice or " Free some space and run the same command again; what was finished is kept."
    elif error.errno == errno.EFBIG:
        what = f"{path} could not be written: the limit on file size is reached."
        advice = advice or " Raise the limit (ulimit -f) and run the same command again."
    else:
        what = f"{path} could not be written: {error.strerror or error}."
        advice = advice or " Check the folder and its permissions, then run the same command again."
    return StorageError(what + advice)


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some network file systems cannot fsync a folder; the rename itself stands
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
