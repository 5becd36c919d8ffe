"""Embeddings on disk: addressed by what decides them, written in shards that are whole or absent.

An entry is the folder `embeddings/<address>/`: `entry.json` (what it holds; its batch size is kept by every run
that continues it), `NNNNN.npy` (float32 rows of one shard of clips: one a clip, or of timestamp embeddings one a
moment, whose first column is its time in ms) beside `NNNNN.json` (seconds, broken clips, moments per clip), and
`complete.json`. A shard's .npy is written last and is its marker. Shard boundaries depend only on the number of
clips, so a run that was killed continues to the same bytes; two runs may fill one entry at once.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aape_bench.errors import StorageError
from aape_bench.identity import digest, file_digest
from aape_bench.storage import atomic_write, create_json, remove_leftovers, write_json

SHARD_CLIPS = 128
_SCHEMA = 1


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


class EmbeddingEntry:
    """The embeddings of one data set by one encoder under one treatment."""

    def __init__(self, cache_dir: Path, encoder: str, audio: str, treatment: Treatment, clips: int) -> None:
        about = {"schema": _SCHEMA, "encoder": encoder, "audio": audio, "treatment": treatment, "clips": clips}
        self.address = digest(about)
        self.folder = cache_dir / "embeddings" / self.address[:32]
        self.clips = clips
        self.moments = treatment.role == "timestamps"
        self._about = about

    def shards(self) -> list[range]:
        """Row ranges of the clip table, one per shard."""
        return [range(at, min(at + SHARD_CLIPS, self.clips)) for at in range(0, self.clips, SHARD_CLIPS)]

    def missing(self) -> list[int]:
        """Numbers of the shards that are not there yet (or not whole)."""
        return [number for number, rows in enumerate(self.shards()) if not self._whole(number, rows)]

    def summary(self) -> dict[str, Any] | None:
        """What `complete` was given, None while shards are missing."""
        about = self._read("complete.json") if not self.missing() else None
        if about is not None and not {"dimension", "parameters", "stage"} <= about.keys():
            raise self._damaged("complete.json", "it does not say what it should")
        return about

    def begin(self, batch_size: int) -> int:
        """Open the entry for writing; returns the batch size to use, the recorded one where a run began before."""
        about = {**self._about, "treatment": vars(self._about["treatment"]), "batch_size": batch_size}
        remove_leftovers(self.folder)
        # of two runs that begin at once one writes the entry, and both read the same
        if create_json(self.folder / "entry.json", about):
            return batch_size
        recorded = self._read("entry.json") or {}
        if not isinstance(recorded.get("batch_size"), int) or recorded["batch_size"] < 1:
            raise self._damaged("entry.json", "it names no batch size")
        return int(recorded["batch_size"])

    def write(
        self,
        number: int,
        rows: npt.NDArray[np.float32],
        seconds: float,
        broken: dict[str, str],
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
        about = {"seconds": round(seconds, 3), "broken": broken, "sha256": sha256, "counts": counts}
        write_json(self.folder / f"{number:05d}.json", about)
        with atomic_write(self.folder / f"{number:05d}.npy") as handle:
            handle.write(content.getbuffer())

    def complete(self, summary: dict[str, Any]) -> None:
        """Say that all shards are there, with what the run knows of them (dimension, parameters, versions, ...)."""
        write_json(self.folder / "complete.json", summary)

    def read(self) -> npt.NDArray[np.float32]:
        """All rows, (clips, d) float32; of moments (moments, 1 + d), the time in ms first."""
        parts = [self._load(number) for number in range(len(self.shards()))]
        return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)

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

    def seconds(self) -> float:
        """Time spent embedding, summed over shards and runs."""
        return float(sum(self._shard(number)["seconds"] for number in range(len(self.shards()))))

    def _shard(self, number: int) -> dict[str, Any]:
        name = f"{number:05d}.json"
        about = self._read(name)
        types = {"seconds": float, "broken": dict, "sha256": str}
        if about is None or any(not isinstance(about.get(key), of) for key, of in types.items()):
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
