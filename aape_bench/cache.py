"""Embeddings on disk: addressed by what decides them, written in shards that are whole or absent.

An entry is the folder `embeddings/<address>/`: `entry.json` (what it holds; its batch size is kept by every run
that continues it), `NNNNN.npy` (float32 rows of one shard of clips) beside `NNNNN.json` (seconds, broken clips),
and `complete.json`. A shard's .npy is written last and is its marker. Shard boundaries depend only on the number of
clips, so a run that was killed continues to the same bytes; two runs may fill one entry at once.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aape_bench.errors import StorageError
from aape_bench.identity import digest
from aape_bench.storage import atomic_write, create_json, write_json

SHARD_CLIPS = 128
_SCHEMA = 1


@dataclass(frozen=True)
class Treatment:
    """How audio reaches the encoder; with encoder identity and audio fingerprint it addresses embeddings.

    audio: in words; code: hash of what decodes, cuts and resamples.
    """

    sample_rate: int
    audio: str
    code: str
    role: str = "scene"
    precision: str = "float32"
    device: str = "cpu"


class EmbeddingEntry:
    """The embeddings of one data set by one encoder under one treatment."""

    def __init__(self, cache_dir: Path, encoder: str, audio: str, treatment: Treatment, clips: int) -> None:
        about = {"schema": _SCHEMA, "encoder": encoder, "audio": audio, "treatment": treatment, "clips": clips}
        self.address = digest(about)
        self.folder = cache_dir / "embeddings" / self.address[:32]
        self.clips = clips
        self._about = about

    def shards(self) -> list[range]:
        """Row ranges of the clip table, one per shard."""
        return [range(at, min(at + SHARD_CLIPS, self.clips)) for at in range(0, self.clips, SHARD_CLIPS)]

    def missing(self) -> list[int]:
        """Numbers of the shards that are not there yet (or not whole)."""
        return [number for number, rows in enumerate(self.shards()) if not self._whole(number, len(rows))]

    def summary(self) -> dict[str, Any] | None:
        """What `complete` was given, None while shards are missing."""
        return self._read("complete.json") if not self.missing() else None

    def begin(self, batch_size: int) -> int:
        """Open the entry for writing; returns the batch size to use, the recorded one where a run began before."""
        about = {**self._about, "treatment": vars(self._about["treatment"]), "batch_size": batch_size}
        # of two runs that begin at once one writes the entry, and both read the same
        if create_json(self.folder / "entry.json", about):
            return batch_size
        recorded = self._read("entry.json") or {}
        if not isinstance(recorded.get("batch_size"), int) or recorded["batch_size"] < 1:
            raise self._damaged("entry.json", "it names no batch size")
        return int(recorded["batch_size"])

    def write(self, number: int, rows: npt.NDArray[np.float32], seconds: float, broken: dict[str, str]) -> None:
        """Store one shard: rows (clips, d) float32, NaN where `broken` (row -> reason) says so."""
        write_json(self.folder / f"{number:05d}.json", {"seconds": round(seconds, 3), "broken": broken})
        # by way of memory: numpy's own writing to a file hides why a disk refused
        content = io.BytesIO()
        np.save(content, np.ascontiguousarray(rows, dtype=np.float32), allow_pickle=False)
        with atomic_write(self.folder / f"{number:05d}.npy") as handle:
            handle.write(content.getbuffer())

    def complete(self, summary: dict[str, Any]) -> None:
        """Say that all shards are there, with what the run knows of them (dimension, parameters, versions, ...)."""
        write_json(self.folder / "complete.json", summary)

    def read(self) -> npt.NDArray[np.float32]:
        """All rows, (clips, d) float32."""
        parts = [self._load(number) for number in range(len(self.shards()))]
        return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)

    def broken(self) -> dict[int, str]:
        """Row -> reason of every clip that could not be embedded."""
        found: dict[int, str] = {}
        for number in range(len(self.shards())):
            info = self._read(f"{number:05d}.json") or {}
            found.update({int(row): str(reason) for row, reason in info.get("broken", {}).items()})
        return found

    def seconds(self) -> float:
        """Time spent embedding, summed over shards and runs."""
        infos = (self._read(f"{number:05d}.json") or {} for number in range(len(self.shards())))
        return float(sum(info.get("seconds", 0.0) for info in infos))

    def _load(self, number: int) -> npt.NDArray[np.float32]:
        return np.load(self.folder / f"{number:05d}.npy", mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]

    def _whole(self, number: int, rows: int) -> bool:
        try:
            shard = self._load(number)
        except (OSError, ValueError, EOFError):
            return False
        return shard.ndim == 2 and len(shard) == rows and shard.dtype == np.float32

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            return dict(json.loads((self.folder / name).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise self._damaged(name, str(error)) from None

    def _damaged(self, name: str, why: str) -> StorageError:
        return StorageError(
            f"The cached file {self.folder / name} cannot be used ({why}). Delete the folder {self.folder}; its "
            "embeddings will be computed again."
        )
