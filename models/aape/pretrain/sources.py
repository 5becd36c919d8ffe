"""What can be trained on: clips in a fixed order, from files, shards or a generator.

`open_source` takes what the command line's --audio takes:

    DIR                     every audio file below a folder (see `listing`)
    FILE.wav                one file
    LIST.csv, LIST.parquet  a manifest (see `listing`)
    SHARDS                  tar files in WebDataset's manner (see `shards`): train-000.tar, 'train-{000..099}.tar',
                            'shards/*.tar'
    generated:modulation    modulated sounds made as training goes on (see `modulated`), 10,000 an epoch, or as many
                            as `generated:modulation:COUNT` says
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aape_bench.errors import BrokenAudio, DataError, UsageError
from aape_bench.identity import digest
from aape_bench.metadata import shown
from aape_bench.models.aape.pretrain.crops import SAMPLE_RATE, Crop, read_crop

Ids = npt.NDArray[np.int64]

#: Errors of opening that are the file's own; others may pass (a network's, say) and are tried again.
_LASTING = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG)
_SECONDS_TO_WAIT = 0.5


class Source(ABC):
    """Clips in a fixed order.

    origins: (clips,) int64, equal for clips of one recording. files: (clips,) int64, equal for clips of one file.
    digest: SHA-256 over what the clips are called and where they are cut, not over their contents or their folder.
    generators: modules whose code makes the audio. remarks: what a person should know, one sentence each.
    """

    origins: Ids
    files: Ids
    digest: str
    generators: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.origins)

    def places(self) -> Iterable[str]:
        """Where every file is, in the order of their numbers: equal for one file under two names. (Made: none.)"""
        return ()

    @abstractmethod
    def name(self, clip: int) -> str:
        """What messages call a clip."""

    @abstractmethod
    def read(self, clip: int, seconds: float, draw: np.random.Generator, identify: bool = False) -> Crop:
        """A random crop of a clip, decided by `draw`; with its file's hashes if `identify`. Raises BrokenAudio."""


class Files(Source):
    """Audio files, or spans of them.

    names: paths relative to `root`, or absolute, one per file. files: which of them each clip is of; None: each clip
    is a file. spans: (clips, 2) seconds, NaN for the file's own start or end; None: whole files. origins: as of
    `Source`; None: each file is one.
    """

    def __init__(
        self,
        root: Path,
        names: Sequence[str],
        files: Ids | None = None,
        spans: npt.NDArray[np.float64] | None = None,
        origins: Ids | None = None,
        remarks: tuple[str, ...] = (),
    ) -> None:
        self._root, self._names, self._spans = str(root), names, spans
        self.files = np.arange(len(names)) if files is None else files
        self.origins = self.files if origins is None else origins
        self.remarks = remarks
        self.digest = digest_of(names, self.files, self.origins, np.zeros(0) if spans is None else spans)

    def places(self) -> Iterator[str]:
        """See `Source`."""
        return real_places(self._root, self._names)

    def name(self, clip: int) -> str:
        """The path of its file."""
        return os.path.join(self._root, self._names[self.files[clip]])  # noqa: PTH118  # a Path takes 10 times as long

    def read(self, clip: int, seconds: float, draw: np.random.Generator, identify: bool = False) -> Crop:
        name = self.name(clip)
        start, end = (None, None) if self._spans is None else self._spans[clip].tolist()
        with opened(name) as descriptor:
            return read_crop(
                *(descriptor, os.fstat(descriptor).st_size, name, seconds, draw.random()),
                start=None if start is None or np.isnan(start) else start,
                end=None if end is None or np.isnan(end) else end,
                identify=identify,
            )


class Joined(Source):
    """Several sources as one, in their order. Clips of one file are of one recording, whichever sources name it."""

    def __init__(self, parts: Sequence[Source]) -> None:
        self._parts = parts
        self._first = np.cumsum([0, *(len(part) for part in parts)])
        self.origins = _side_by_side([part.origins for part in parts])
        self.files, again = _files_of(parts)
        remarks = [remark for part in parts for remark in part.remarks]
        if len(again):
            self.origins = _one_origin(self.origins, self.files, again)
            remarks.append(f"{len(again)} files are named by more than one --audio and come as often in an epoch.")
        self.digest = digest_of([part.digest for part in parts], self.files, self.origins)
        self.generators = tuple(sorted({name for part in parts for name in part.generators}))
        self.remarks = tuple(remarks)

    def name(self, clip: int) -> str:
        part, clip = self._place(clip)
        return part.name(clip)

    def read(self, clip: int, seconds: float, draw: np.random.Generator, identify: bool = False) -> Crop:
        part, clip = self._place(clip)
        return part.read(clip, seconds, draw, identify)

    def _place(self, clip: int) -> tuple[Source, int]:
        part = int(np.searchsorted(self._first, clip, side="right")) - 1
        return self._parts[part], clip - int(self._first[part])


class Modulated(Source):
    """Modulated sounds, made anew for every epoch."""

    generators = ("aape_bench.tasks.modulation.generated",)

    def __init__(self, clips: int) -> None:
        self.origins = self.files = np.arange(clips)
        self.digest = digest(["modulation", clips])

    def name(self, clip: int) -> str:
        return f"generated:modulation clip {clip}"

    def read(self, clip: int, seconds: float, draw: np.random.Generator, identify: bool = False) -> Crop:  # noqa: ARG002
        from aape_bench.models.aape.pretrain.modulated import make_audio

        return Crop(make_audio(draw, round(seconds * SAMPLE_RATE)))


def open_source(texts: Sequence[str]) -> Source:
    """What --audio names, once or several times (see the module's text).

    Raises UsageError or DataError where there is no such thing or no audio in it.
    """
    if not all(texts) or not texts:
        what = "An --audio is empty, as a variable that is not set makes it" if texts else "No audio is named"
        raise UsageError(f"{what}. Name a folder, a manifest, shards or generated:modulation with --audio.")
    parts = []
    for text in texts:
        try:
            parts.append(_open_part(text))
        except OSError as error:  # a name that is too long, for example
            reason = error.strerror or error
            raise DataError(f"--audio {shown(text)} cannot be opened ({reason}). Correct it.") from None
    return parts[0] if len(parts) == 1 else Joined(parts)


def _open_part(text: str) -> Source:
    from aape_bench.models.aape.pretrain import listing, shards

    if text == "generated" or text.startswith("generated:"):
        kind, _, count = text.removeprefix("generated").removeprefix(":").partition(":")
        number = count or "10000"
        # Python refuses to read thousands of digits
        if kind not in ("", "modulation") or not number.isdecimal() or len(number) > 10 or not 0 < int(number) <= 10**9:
            raise UsageError(f"There is no generated audio {shown(text)}. There is generated:modulation[:CLIPS].")
        return Modulated(int(number))
    path = Path(os.path.expanduser(text))  # noqa: PTH111  Path's own raises where there is no such user
    if path.is_dir():
        return listing.read_folder(path)
    if shards.is_shards(text):
        return shards.read_shards(text)
    if not path.exists():
        raise DataError(f"There is no folder or file {text}. Correct --audio.")
    if path.suffix.lower() in (".csv", ".parquet"):
        return listing.read_manifest(path)
    if path.suffix.lower() in listing.ENDINGS:
        return Files(path.parent, [path.name])
    raise DataError(
        f"{text} is no folder, no manifest (.csv, .parquet), no tar file and no audio file that libsndfile reads. "
        "Correct --audio."
    )


@contextlib.contextmanager
def opened(name: str) -> Iterator[int]:
    """The descriptor of a regular file, open for reading until the block ends. Raises BrokenAudio."""
    descriptor = _open(name)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise BrokenAudio(name, "is no regular file")
        yield descriptor
    finally:
        os.close(descriptor)


def _open(name: str) -> int:
    for last in (False, True):
        try:
            # a pipe or device must not keep training waiting
            return os.open(name, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        except FileNotFoundError:
            raise BrokenAudio(name, "is missing") from None
        except OSError as error:
            if last or error.errno in _LASTING:
                raise BrokenAudio(name, f"cannot be read ({error.strerror or error})") from None
            time.sleep(_SECONDS_TO_WAIT)
    raise AssertionError


def real_places(root: str, names: Iterable[str]) -> Iterator[str]:
    """Where files are, whatever they are called from where; of links, those of folders are followed."""
    folders: dict[str, str] = {}  # a file's own links would cost a question to the disk for each
    for name in names:
        folder, file = os.path.split(os.path.join(root, name))  # noqa: PTH118
        if (real := folders.get(folder)) is None:
            real = folders[folder] = os.path.realpath(folder)
        yield f"{real}/{file}"


def digest_of(names: Sequence[str], *arrays: npt.NDArray[Any]) -> str:
    """SHA-256 (hex) over names and numbers."""
    content = hashlib.sha256("\0".join(names).encode("utf-8", "surrogateescape"))
    for array in arrays:
        content.update(f"{array.shape}{array.dtype}".encode() + array.tobytes())
    return content.hexdigest()


def _side_by_side(ids: Sequence[Ids]) -> Ids:
    first = np.cumsum([0, *(int(part.max()) + 1 for part in ids)])
    return np.concatenate([part + offset for part, offset in zip(ids, first[:-1], strict=True)])


def _files_of(parts: Sequence[Source]) -> tuple[Ids, Ids]:
    """Every clip's file, numbered over all parts: a number of its own for each place; and those that parts share."""
    known: dict[str, int] = {}
    numbers, again, first = [], set[int](), 0
    for part in parts:
        count = int(part.files.max()) + 1
        own = np.arange(first, first + count)
        for file, place in enumerate(part.places()):
            if (number := known.setdefault(place, first + file)) != first + file:
                own[file] = number
                again.add(number)
        numbers.append(own[part.files])
        first += count
    return np.concatenate(numbers), np.array(sorted(again), np.int64)


def _one_origin(origins: Ids, files: Ids, shared: Ids) -> Ids:
    """Origins, those made one that have clips of one of the shared files."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    clips = np.flatnonzero(np.isin(files, shared))
    first_file = int(origins.max()) + 1
    nodes = first_file + int(files.max()) + 1
    links = coo_array((np.ones(len(clips)), (origins[clips], first_file + files[clips])), shape=(nodes, nodes))
    groups = connected_components(links, directed=False)[1]
    return np.asarray(np.unique(groups[origins], return_inverse=True)[1], dtype=np.int64)
