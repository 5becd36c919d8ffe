"""Audio in tar files, as WebDataset has it: read in place, any member at any time, nothing is unpacked.

An index of the members is made once by going through the headers; a clip is then a span of bytes. That is why tars
must not be compressed. Members of one sample (equal names up to the first dot, side by side) are one recording.
"""

from __future__ import annotations

import array
import contextlib
import glob
import io
import itertools
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from aape_bench.errors import BrokenAudio, DataError
from aape_bench.models.aape.pretrain.crops import Crop, File, read_crop
from aape_bench.models.aape.pretrain.listing import ENDINGS
from aape_bench.models.aape.pretrain.sources import Source, digest_of, opened

_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_LARGEST_HEADER = 16 << 20
_MOST_SHARDS = 1_000_000
_MOST_DIGITS = 100
_BUFFER = 1 << 18
_MOST_IN_MEMORY = 64 << 20


class Shards(Source):
    """Members of tar files: names, the shard of each, and where its bytes are."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths
        self._names: list[str] = []
        spans, origins, remarks, origin = array.array("q"), array.array("q"), [], -1
        for shard, path in enumerate(paths):
            before = None
            members, damage = _members(path)
            for name, offset, size in members:
                folder, _, file = name.rpartition("/")
                if file.startswith(".") or os.path.splitext(file)[1].lower() not in ENDINGS:  # noqa: PTH122
                    continue
                origin += (key := (folder, file.partition(".")[0])) != before
                before = key
                self._names.append(name)
                spans.extend((shard, offset, size))
                origins.append(origin)
            if damage:
                remarks.append(f"{path} is damaged after {len(members)} members ({damage}). Those are used.")
        self._spans = np.frombuffer(spans, np.int64).reshape(-1, 3) if spans else np.zeros((0, 3), np.int64)
        self.origins = np.frombuffer(origins, np.int64) if origins else np.zeros(0, np.int64)
        self.files = np.arange(len(self._names))
        self.remarks = tuple(remarks)
        self.digest = digest_of([*(path.name for path in paths), *self._names], self._spans)

    def places(self) -> Iterator[str]:
        """See `Source`."""
        tars = [str(path.resolve()) for path in self._paths]
        return (f"{tars[shard]}\0{offset}" for shard, offset, _ in self._spans.tolist())

    def name(self, clip: int) -> str:
        """The shard and the member's name in it."""
        return f"{self._paths[int(self._spans[clip, 0])]}: {ascii(self._names[clip])[1:-1]}"

    def read(self, clip: int, seconds: float, draw: np.random.Generator, identify: bool = False) -> Crop:
        shard, offset, size = self._spans[clip].tolist()
        with opened(str(self._paths[shard])) as tar, _member(tar, offset, size) as file:
            if os.fstat(tar).st_size < offset + size:
                raise BrokenAudio(self.name(clip), "is truncated (its tar file was cut since training began)")
            return read_crop(file, size, self.name(clip), seconds, draw.random(), identify=identify)


def is_shards(text: str) -> bool:
    """Whether a text names tar files."""
    return text.lower().endswith((".tar", *_COMPRESSED))


def read_shards(text: str) -> Shards:
    """Shards by name, glob or braces, each once: 'a/train-{000..099}.tar', 'a/*.tar', 'a/{x,y}.tar'.

    Raises DataError where a name or pattern has none, one is compressed or no tar, or no audio is in them.
    """
    paths: dict[Path, Path] = {}  # by where they really are: patterns may overlap
    for name in map(os.path.expanduser, expand_braces(text)):
        found = sorted(glob.glob(name)) if _has_glob(name) else [name]  # noqa: PTH207
        if not found:
            raise DataError(f"No file matches {name}. Correct --audio.")
        for path in map(Path, found):
            paths.setdefault(path.resolve(), path)
    for path in paths.values():
        if path.name.lower().endswith(_COMPRESSED):
            raise DataError(f"{path} is compressed, so its members cannot be read one by one. Repack it as plain .tar.")
        if not path.is_file():
            raise DataError(f"There is no tar file {path}. Correct --audio.")
    shards = Shards(list(paths.values()))
    if not len(shards):
        raise DataError(f"There is no audio in {text}: no member of the tar files is audio by its ending.")
    return shards


def expand_braces(text: str) -> list[str]:
    """'a-{08..10}{x,y}' -> 'a-08x', 'a-08y', 'a-09x', ... Raises DataError where that makes too many."""
    pieces: list[list[str]] = []
    count = 1
    for piece in re.split(r"(\{[^{}]*\})", text):
        inner = piece[1:-1] if piece.startswith("{") and piece.endswith("}") else None
        if inner is not None and (ends := re.fullmatch(r"(\d+)\.\.(\d+)", inner)):
            # Python refuses to read thousands of digits
            if max(map(len, ends.groups())) > _MOST_DIGITS or abs(int(ends[2]) - int(ends[1])) >= _MOST_SHARDS:
                raise DataError(f"{text} names more than {_MOST_SHARDS} files.")
            first, last = int(ends[1]), int(ends[2])
            numbers = range(first, last + 1) if first <= last else range(first, last - 1, -1)
            pieces.append([str(number).zfill(len(ends[1])) for number in numbers])
        elif inner is not None and "," in inner:
            pieces.append(inner.split(","))
        else:
            pieces.append([piece])
        count *= len(pieces[-1])
        if count > _MOST_SHARDS:
            raise DataError(f"{text} names more than {_MOST_SHARDS} files.")
    return ["".join(parts) for parts in itertools.product(*pieces)]


def _has_glob(name: str) -> bool:
    return glob.has_magic(name) and not Path(name).exists()


def _members(path: Path) -> tuple[list[tuple[str, int, int]], str]:
    """Name, offset and size of every plain file in a tar; and what is wrong with its rest, "" where nothing is."""
    members: list[tuple[str, int, int]] = []
    try:
        with path.open("rb") as handle:
            total = os.fstat(handle.fileno()).st_size
            try:
                with tarfile.open(fileobj=_Headers(handle), mode="r:") as tar:  # type: ignore[call-overload]
                    at = 0
                    while (member := tar.next()) is not None:
                        tar.members = []  # it would keep them all
                        if member.size < 0 or tar.offset <= at:  # a negative size leads back, and round for ever
                            return members, "a damaged header"
                        at = tar.offset
                        if member.offset_data + member.size > total:
                            return members, "a member is longer than the file"
                        if member.isreg() and not member.issparse():
                            members.append((member.name, member.offset_data, member.size))
                    handle.seek(tar.offset)
                    # tarfile takes a damaged header for the end
                    return members, "" if not handle.read(tarfile.BLOCKSIZE).strip(b"\0") else "a damaged header"
            except (tarfile.TarError, ValueError, OverflowError, EOFError, RecursionError) as error:
                if members:
                    return members, str(error)
                raise DataError(f"{path} is damaged or no tar file ({error}). Correct --audio.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}).") from None


class _Headers:
    """A tar as tarfile reads its headers: never gigabytes at once, whatever a header says."""

    def __init__(self, inner: BinaryIO) -> None:
        self._inner = inner
        self.seek, self.tell = inner.seek, inner.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _LARGEST_HEADER:
            raise tarfile.ReadError("a header is too large")
        return self._inner.read(size)


@contextlib.contextmanager
def _member(tar: int, offset: int, size: int) -> Iterator[File]:
    """A member as a file of its own, in memory where it is small and the system has such files."""
    if size > _MOST_IN_MEMORY or not hasattr(os, "memfd_create"):
        with io.BufferedReader(_Window(tar, offset, size), _BUFFER) as handle:
            yield handle
        return
    descriptor = os.memfd_create("member")
    try:
        os.lseek(tar, offset, os.SEEK_SET)
        left = size
        while left > 0 and (data := os.read(tar, left)):
            os.write(descriptor, data)
            left -= len(data)
        yield descriptor
    finally:
        os.close(descriptor)


class _Window(io.RawIOBase):
    """A span of bytes of an open file, as a file."""

    def __init__(self, descriptor: int, offset: int, size: int) -> None:
        self._descriptor, self._offset, self._size, self._at = descriptor, offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        wanted = max(0, min(len(view), self._size - self._at))
        os.lseek(self._descriptor, self._offset + self._at, os.SEEK_SET)
        data = os.read(self._descriptor, wanted)
        view[: len(data)] = data
        self._at += len(data)
        return len(data)
