"""What tells that a file is the one that was hashed, of a hundred thousand files in little memory."""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence
from typing import overload

Stat = tuple[int, int, int]


class Stats(Sequence[Stat]):
    """(size, mtime in ns, inode) of one file after the other: 24 bytes each, where tuples take 160."""

    def __init__(self) -> None:
        self._sizes, self._times, self._inodes = array("q"), array("q"), array("Q")

    def append(self, found: os.stat_result) -> None:
        """Those of the next file."""
        self._sizes.append(found.st_size)
        self._times.append(found.st_mtime_ns)
        self._inodes.append(found.st_ino)

    def __len__(self) -> int:
        return len(self._sizes)

    @overload
    def __getitem__(self, row: int) -> Stat: ...
    @overload
    def __getitem__(self, row: slice) -> list[Stat]: ...
    def __getitem__(self, row: int | slice) -> Stat | list[Stat]:
        if isinstance(row, slice):
            return list(zip(self._sizes[row], self._times[row], self._inodes[row], strict=True))
        return self._sizes[row], self._times[row], self._inodes[row]
