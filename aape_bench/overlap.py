"""Whether a checkpoint was trained on audio that a task judges it by.

A checkpoint's card lists what it was trained on as 64-bit hashes, two of every file: of its bytes (the first 8 bytes
of their SHA-256), and of the first two seconds of its sound, which are the same in any lossless format, with any tags
and whatever silence or cut comes after. Not found: audio that was resampled, coded with loss or changed in level, and
other pieces of a recording. Generated audio is told by the generator's module.

Of 2 million training files and 100,000 clips of a task, one clip is found by mere chance in about one of 10^7 cases.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from aape_bench.errors import CheckpointError
from aape_bench.storage import storage_error
from aape_bench.task import Task

if TYPE_CHECKING:
    import pandas as pd
    import soundfile

#: The card's field.
FIELD = "training_audio"
#: The card's field that names a package's weights from which training went on.
INITIAL_WEIGHTS = "initial_weights"

HEAD_SECONDS = 2.0
#: A file whose first sound comes later has no hash of its sound.
_LONGEST_SILENCE = 10.0
_LEAST_SECONDS = 0.025
#: Files that may be in another's place are clips; of longer ones the sound tells enough.
LARGEST_HASHED_FILE = 64 << 20
#: Hashes in a card: 43 MB of text. Of more files, the smallest hashes, a random part.
MOST_HASHES = 4_000_000

Hashes = npt.NDArray[np.uint64]
Value = Literal["none", "train", "test", "same-generator", "unknown"]


def hash_of_sha256(hexadecimal: str) -> int:
    """The 64-bit hash of a file whose SHA-256 is known."""
    return int(hexadecimal[:16], 16)


def hash_of_bytes(handle: BufferedReader[Any]) -> int:
    """The 64-bit hash of all that is in a file."""
    handle.seek(0)
    return hash_of_sha256(hashlib.file_digest(handle, "sha256").hexdigest())


def hash_of_sound(sound: soundfile.SoundFile) -> int | None:
    """The 64-bit hash of the first two seconds of a seekable file, just opened, from its first audible sample on.

    Over the mean of the channels, rounded to 16 bits. None where less than 25 ms are audible within
    the first ten seconds, or they cannot be decoded. (Some codecs decode a little otherwise after a seek.)
    """
    import soundfile

    rate = sound.samplerate
    wanted, limit = round(HEAD_SECONDS * rate), round((_LONGEST_SILENCE + HEAD_SECONDS) * rate)
    pieces: list[npt.NDArray[np.int16]] = []
    have = read = 0
    try:
        while have < wanted and read < limit:
            block = sound.read(min(rate, wanted), dtype="float32", always_2d=True)
            if not len(block):
                break
            read += len(block)
            level = np.nan_to_num(mono(block)).clip(-1.0, 1.0)
            piece = np.rint(level * 32768).clip(-32768, 32767).astype("<i2")
            if not pieces:
                piece = piece[np.argmax(piece != 0) :] if piece.any() else piece[:0]
            if len(piece):
                pieces.append(piece[: wanted - have])
                have += len(pieces[-1])
    except soundfile.LibsndfileError:
        return None
    if have < round(_LEAST_SECONDS * rate):
        return None
    return hash_of_sha256(hashlib.sha256(b"".join(piece.tobytes() for piece in pieces)).hexdigest())


def mono(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The mean of the channels: (n, channels) -> (n,)."""
    if samples.shape[1] == 1:
        return samples[:, 0]
    with np.errstate(over="ignore", invalid="ignore"):  # of broken files
        if samples.shape[1] == 2:  # numpy's mean over a short last axis takes 40 times as long
            return (samples[:, 0] + samples[:, 1]) / np.float32(2)
        return np.asarray(samples.mean(axis=1), dtype=np.float32)


class TrainingAudio:
    """What weights were trained on.

    generators: modules whose code made audio. complete: whether nothing is left out. hashes: ascending, each once.
    """

    def __init__(self, generators: Iterable[str] = (), complete: bool = True, hashes: Hashes | None = None) -> None:
        self.generators = tuple(sorted(set(generators)))
        self.complete = complete
        self._hashes: Hashes = np.zeros(0, np.uint64) if hashes is None else hashes
        self._new: list[int] = []

    def add(self, hashes: Iterable[int]) -> None:
        """Take in the hashes of a file."""
        self._new.extend(hashes)

    @property
    def hashes(self) -> Hashes:
        """All of them, ascending, each once."""
        if self._new:
            self._hashes = _union(self._hashes, np.array(self._new, np.uint64))
            self._new = []
        return self._hashes

    def has(self, hashes: Hashes) -> npt.NDArray[np.bool_]:
        """Which of these are among them: (n,) bool."""
        own = self.hashes
        if not len(own):
            return np.zeros(len(hashes), bool)
        return np.asarray(own[np.minimum(np.searchsorted(own, hashes), len(own) - 1)] == hashes)

    def merge(self, other: TrainingAudio) -> None:
        """Take in what another process, an earlier part of the run or the initial weights were trained on."""
        self._hashes = _union(self.hashes, other.hashes)
        self.generators = tuple(sorted({*self.generators, *other.generators}))
        self.complete = self.complete and other.complete

    def card(self) -> dict[str, Any]:
        """The field `FIELD` of a checkpoint's card: JSON without any path or name of a file."""
        kept = self.hashes[:MOST_HASHES]
        # differences of sorted numbers leave their upper bytes empty
        steps = np.diff(kept, prepend=np.uint64(0)).astype(">u8")
        packed = zlib.compress(steps.view(np.uint8).reshape(-1, 8).T.tobytes())
        return {
            "format": 1,
            "hashes": base64.b64encode(packed).decode(),
            "count": len(kept),
            "complete": self.complete and len(kept) == len(self.hashes),
            "generators": list(self.generators),
        }

    @classmethod
    def from_card(cls, card: Mapping[str, Any]) -> TrainingAudio | None:
        """What a card says, None where it says nothing. Raises CheckpointError where the field is damaged."""
        if (field := card.get(FIELD)) is None:
            return None
        try:
            if field["format"] != 1:
                raise ValueError(f"format {field['format']}")
            count = int(field["count"])
            packed = base64.b64decode(field["hashes"], validate=True)
            raw = zlib.decompressobj().decompress(packed, 8 * count + 1) if 0 <= count <= MOST_HASHES else b""
            if len(raw) != 8 * count:
                raise ValueError("of another length")
            steps = np.frombuffer(raw, np.uint8).reshape(8, count).T.copy().view(">u8").reshape(-1)
            hashes = np.cumsum(steps, dtype=np.uint64)
            if (hashes[1:] <= hashes[:-1]).any():
                raise ValueError("not in order")
            return cls(map(str, field["generators"]), field["complete"] is True, hashes)
        except (KeyError, TypeError, ValueError, OverflowError, binascii.Error, zlib.error) as error:
            raise CheckpointError(
                f"The checkpoint's list of training audio is damaged ({error}). Copy the file again."
            ) from None


@dataclass(frozen=True)
class Overlap:
    """What of a task is among a checkpoint's training audio.

    value: "test": clips that it is judged by, "train": clips of other parts only, "same-generator": the task's
    generator made training audio, "none", or "unknown", where the checkpoint does not tell. clips: how many are.
    """

    value: Value
    clips: int = 0


def overlap_of(
    weights: str,
    card: Mapping[str, Any],
    declared: Mapping[str, Value] | None,
    task: Task,
    root: Path,
    table: pd.DataFrame,
    hashes: Sequence[str] | None,
    cache_dir: Path,
    advance: Callable[[int], None] = lambda _: None,
) -> Overlap:
    """Look for a task's clips in the list of training audio of the checkpoint, if there is one.

    weights: "none" and "random" have seen no audio (of a file that says "random" of itself the list decides). card:
    the checkpoint's, empty where there is none. declared: of a package's weights, see `packages.PackageWeights`. root:
    of the task's files. hashes: SHA-256 of each row's file, None for generated tasks. cache_dir: where hashes of sounds
    are remembered; those that are not cost a decode of a file's head, and `advance(n)` is called. Raises
    CheckpointError where the list is damaged.
    """
    if weights == "none" or (weights == "random" and not card):
        return Overlap("none")
    from_package = str(card.get(INITIAL_WEIGHTS, "")).startswith("package:")
    before = _declared(declared, task) if from_package else "unknown"
    trained = TrainingAudio.from_card(card)
    if before == "test":
        return Overlap(before)
    if trained is None:  # of weights that were trained on from a package's, a declared "none" says too little
        return Overlap(before if before == "train" or weights.startswith("package:") else "unknown")
    absent = Overlap("train" if before == "train" else "none" if trained.complete else "unknown")
    if task.generator is not None:
        same = set(trained.generators) & set(task.generator.sources)
        return Overlap("same-generator", len(table)) if same else absent
    if hashes is None or not len(trained.hashes):
        return absent
    sounds = SoundMemory(cache_dir).hashes(list(hashes), [root / path for path in table["path"]], advance)
    same_bytes = trained.has(np.array([hash_of_sha256(one) for one in hashes], np.uint64))
    seen = same_bytes | trained.has(np.array([one or 0 for one in sounds], np.uint64))
    if not seen.any():
        return absent
    judged = (table["split"] == "test").to_numpy() if task.split_scheme == "parts" else np.ones(len(table), bool)
    return Overlap("test" if (seen & judged).any() else "train", int(seen.sum()))


def _declared(declared: Mapping[str, Value] | None, task: Task) -> Value:
    if declared is None:
        return "unknown"
    # other people's packages were trained without our generators
    return declared.get(task.name, "unknown" if task.generator is None else "none")


class SoundMemory:
    """Hashes of sounds by the SHA-256 of their files' bytes: one text file, a line per file, only ever appended to."""

    def __init__(self, cache_dir: Path) -> None:
        self.file = cache_dir / "contents" / "sounds.txt"

    def hashes(
        self, contents: Sequence[str], paths: Sequence[Path], advance: Callable[[int], None] = lambda _: None
    ) -> list[int | None]:
        """`hash_of_sound` of every file; those not remembered are decoded now. None also where a file is no audio."""
        known = self._read()
        unread = {content: path for content, path in zip(contents, paths, strict=True) if content not in known}
        waiting, block = list(unread.items()), 256
        with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
            for first in range(0, len(waiting), block):
                part = waiting[first : first + block]
                sounds = pool.map(_sound_of_file, [path for _, path in part])
                new = dict(zip([content for content, _ in part], sounds, strict=True))
                self._append(new)
                known.update(new)
                advance(len(part))
        return [known[content] for content in contents]

    def _read(self) -> dict[str, int | None]:
        known: dict[str, int | None] = {}
        if self.file.is_file():
            for line in self.file.read_text(encoding="ascii", errors="replace").split("\n"):
                fields = line.split(" ")
                # the closing mark tells a whole line from one that a crash cut short
                if len(fields) == 3 and fields[2] == "." and (fields[1] == "-" or fields[1].isdecimal()):
                    known[fields[0]] = None if fields[1] == "-" else int(fields[1])
        return known

    def _append(self, new: Mapping[str, int | None]) -> None:
        lines = [f"{content} {'-' if sound is None else sound} .\n" for content, sound in new.items()]
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("ab") as handle:
                handle.write(("\n" + "".join(lines)).encode())
        except OSError as error:
            raise storage_error(self.file, error) from error


def _union(one: Hashes, other: Hashes) -> Hashes:
    """Ascending, each once. (numpy's own set operations take 10 times as long on millions.)"""
    together = np.sort(np.concatenate([one, other]))
    return np.asarray(together[np.diff(together, prepend=~together[:1]) != 0])


def _sound_of_file(path: Path) -> int | None:
    import soundfile

    try:
        with soundfile.SoundFile(path) as sound:
            return hash_of_sound(sound) if sound.seekable() else None
    except (soundfile.LibsndfileError, OSError, TypeError):
        return None
