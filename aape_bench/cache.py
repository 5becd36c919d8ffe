"""Embeddings on disk: addressed by what decides them, written in shards that are whole or absent.

An entry is the folder `embeddings/<address>/`: `entry.json` (what it holds; its batch size is kept by every run
that continues it), `NNNNN.npy` (float32 rows of one shard of clips: one a clip, or of timestamp embeddings one a
moment, whose first column is its time in ms) beside `NNNNN.json` (broken clips, moments per clip, how it was made), and
`complete.json`. A shard's .npy is written last and is its marker. Shard boundaries depend only on the number of
clips, so a run that was killed continues to the same bytes; several processes may fill one entry at once.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aape_bench.errors import StorageError
from aape_bench.identity import digest, file_digest
from aape_bench.storage import atomic_write, create_json, remove_leftovers, write_json

SHARD_CLIPS = 128
_SCHEMA = 2


@dataclass(frozen=True)
class Treatment:
    """How audio reaches the encoder; with encoder identity and audio fingerprint it addresses embeddings.

    audio: in words; code: hash of what decodes, cuts and resamples. role: "scene", "timestamps" or "training". crop:
    seed of the random place at which training clips longer than the task's are cut, None: every clip's head.
    """

    sample_rate: int
    audio: str
    code: str
    role: str = "scene"
    precision: str = "float32"
    device: str = "cpu"
    crop: int | None = None


@dataclass(frozen=True)
class Making:
    """How one shard was made. dimension, parameters: of the encoder.

    Of layers that were read in one pass each has an equal share of the seconds, and all have the pass's peak.

    seconds: wall time since the shard before, decoding included. busy_seconds: those of them during which the encoder
    computed, a device's work included. batch_size: clips given to the encoder at once, at most. peak_memory_mb: of
    the process so far.
    """

    dimension: int
    parameters: int | None
    seconds: float
    busy_seconds: float
    batch_size: int
    peak_memory_mb: float | None
    threads: int
    versions: dict[str, str | None]


class EmbeddingEntry:
    """The embeddings of one data set by one encoder under one treatment."""

    def __init__(self, cache_dir: Path, encoder: str, audio: str, treatment: Treatment, clips: int) -> None:
        about = {"schema": _SCHEMA, "encoder": encoder, "audio": audio, "treatment": treatment, "clips": clips}
        self.address = digest(about)
        self.folder = cache_dir / "embeddings" / self.address[:32]
        self.clips = clips
        self.moments = treatment.role == "timestamps"
        self.treatment = treatment
        self._about = about

    def shards(self) -> list[range]:
        """Row ranges of the clip table, one per shard."""
        return [range(at, min(at + SHARD_CLIPS, self.clips)) for at in range(0, self.clips, SHARD_CLIPS)]

    def missing(self) -> list[int]:
        """Numbers of the shards that are not there yet (or not whole)."""
        return [number for number, rows in enumerate(self.shards()) if not self._whole(number, rows)]

    def summary(self) -> dict[str, Any] | None:
        """What `complete` says, None while it has not been called or shards are missing."""
        about = self._read("complete.json") if not self.missing() else None
        if about is not None and not {"dimension", "parameters", "stage"} <= about.keys():
            raise self._damaged("complete.json", "it does not say what it should")
        return about

    def begin(self, batch_size: int, automatic: bool = False) -> tuple[int, bool]:
        """Open the entry for writing; the batch size to use and whether it may shrink, as a run began before."""
        about = {**self._about, "treatment": vars(self.treatment), "batch_size": batch_size, "automatic": automatic}
        remove_leftovers(self.folder)
        # of two runs that begin at once one writes the entry, and both read the same
        if create_json(self.folder / "entry.json", about):
            return batch_size, automatic
        recorded = self._recorded()
        return int(recorded["batch_size"]), bool(recorded["automatic"])

    def begun(self) -> tuple[int, bool] | None:
        """What `begin` will return whatever it is given; None where no run has begun."""
        return None if self._read("entry.json") is None else self.begin(1)

    def shrink(self, batch_size: int) -> int:
        """Record half of a batch size that memory does not do for, or what another process has recorded below it."""
        recorded = self._recorded()
        if (smaller := min(max(1, batch_size // 2), int(recorded["batch_size"]))) < recorded["batch_size"]:
            write_json(self.folder / "entry.json", {**recorded, "batch_size": smaller})
        return smaller

    def write(
        self,
        number: int,
        rows: npt.NDArray[np.float32],
        broken: dict[str, str],
        made: Making,
        counts: list[int] | None = None,
    ) -> None:
        """Store one shard.

        rows: (clips, d) float32, NaN where `broken` (row -> reason) says so; of moments (sum of counts, 1 + d), the
        time in ms first. counts: moments of each clip, 0 of a broken one.
        """
        # by way of memory: numpy's own writing to a file hides why a disk refused
        content = io.BytesIO()
        np.save(content, np.ascontiguousarray(rows, dtype=np.float32), allow_pickle=False)
        sha256 = hashlib.sha256(content.getbuffer()).hexdigest()
        about = {"broken": broken, "sha256": sha256, "counts": counts, "made": asdict(made)}
        write_json(self.folder / f"{number:05d}.json", about)
        with atomic_write(self.folder / f"{number:05d}.npy") as handle:
            handle.write(content.getbuffer())

    def complete(self) -> dict[str, Any]:
        """Say that all shards are there, and of all of them how they were made.

        dimension, parameters; stage, as a record has it: seconds, busy (the share of them during which the encoder
        computed), batch_size (the smallest), peak_memory_mb and threads (the largest), versions (the last).
        """
        made = [Making(**self._shard(number)["made"]) for number in range(len(self.shards()))]
        seconds = sum(one.seconds for one in made)
        peaks = [one.peak_memory_mb for one in made if one.peak_memory_mb is not None]
        stage = {
            "seconds": round(seconds, 3),
            "busy": round(sum(one.busy_seconds for one in made) / seconds, 3) if seconds else None,
            "batch_size": min(one.batch_size for one in made),
            "peak_memory_mb": max(peaks, default=None),
            "threads": max(one.threads for one in made),
            "versions": made[-1].versions,
        }
        summary = {"dimension": made[-1].dimension, "parameters": made[-1].parameters, "stage": stage}
        write_json(self.folder / "complete.json", summary)
        return summary

    def read(self, kept: npt.NDArray[np.bool_] | None = None) -> npt.NDArray[np.float32]:
        """Rows of all clips, (clips, d) float32; of moments (moments, 1 + d), the time in ms first.

        kept: (clips,) which clips'; None: all. In memory there is one copy, and a shard.
        """
        counts = self.counts()
        wanted = np.repeat(np.ones(self.clips, bool) if kept is None else kept, counts)
        rows = np.zeros((0, 0), np.float32)
        found = filled = 0
        for number in range(len(self.shards())):
            shard = self._load(number)
            if number == 0:
                rows = np.empty((int(wanted.sum()), shard.shape[1]), np.float32)
            some = wanted[found : found + len(shard)]
            part = shard if some.all() else shard[some]
            rows[filled : filled + len(part)] = part
            found, filled = found + len(shard), filled + len(part)
        return rows

    def counts(self) -> npt.NDArray[np.int64]:
        """Rows of every clip, (clips,): ones, or its number of moments."""
        if not self.moments:
            return np.ones(self.clips, np.int64)
        return np.concatenate([self._shard(number)["counts"] for number in range(len(self.shards()))]).astype(np.int64)

    def discard_damaged(self) -> list[int]:
        """Delete shards whose bytes are not those that were written, so that they are computed again; their numbers."""
        damaged = []
        for number, rows in enumerate(self.shards()):
            path = self.folder / f"{number:05d}.npy"
            if self._whole(number, rows) and file_digest(path) != self._shard(number)["sha256"]:
                path.unlink(missing_ok=True)
                damaged.append(number)
        return damaged

    def broken(self) -> dict[int, str]:
        """Row -> reason of every clip that could not be embedded."""
        found: dict[int, str] = {}
        for number in range(len(self.shards())):
            found.update({int(row): str(reason) for row, reason in self._shard(number)["broken"].items()})
        return found

    def _recorded(self) -> dict[str, Any]:
        recorded = self._read("entry.json") or {}
        size, automatic = recorded.get("batch_size"), recorded.get("automatic")
        if not isinstance(size, int) or size < 1 or not isinstance(automatic, bool):
            raise self._damaged("entry.json", "it names no batch size")
        return recorded

    def _shard(self, number: int) -> dict[str, Any]:
        name = f"{number:05d}.json"
        about = self._read(name)
        types = {"broken": dict, "sha256": str, "made": dict}
        if about is None or any(not isinstance(about.get(key), of) for key, of in types.items()):
            raise self._damaged(name, "it does not say what it should")
        if about["made"].keys() != {field.name for field in fields(Making)}:
            raise self._damaged(name, "it does not say what it should")
        return about

    def _load(self, number: int) -> npt.NDArray[np.float32]:
        return np.load(self.folder / f"{number:05d}.npy", mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]

    def _whole(self, number: int, rows: range) -> bool:
        try:
            shard = self._load(number)
        except (OSError, ValueError, EOFError):
            return False
        if self.moments:
            about = self._read(f"{number:05d}.json")
            counts = about.get("counts") if about else None
            if not isinstance(counts, list) or len(counts) != len(rows):
                return False
            return shard.ndim == 2 and len(shard) == sum(counts) and shard.dtype == np.float32
        return shard.ndim == 2 and len(shard) == len(rows) and shard.dtype == np.float32

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            value = json.loads((self.folder / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise self._damaged(name, str(error)) from None
        if not isinstance(value, dict):
            raise self._damaged(name, "it does not say what it should")
        return value

    def _damaged(self, name: str, why: str) -> StorageError:
        return StorageError(
            f"The cached file {self.folder / name} cannot be used ({why}). Delete the folder {self.folder}; its "
            "embeddings will be computed again."
        )
