"""A task's data on this disk: where it is, which of its clips are there, and what they hold."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from aape_bench import clip_table
from aape_bench.contents import ContentMemory, Fingerprints, fingerprints
from aape_bench.errors import DataError
from aape_bench.file_stats import Stats
from aape_bench.task import Task


@dataclass(frozen=True)
class TaskData:
    """A task's clip table as it will be evaluated. `memory` and `stats` are None for generated tasks.

    Every job of the task asks what it holds: hashes and fingerprints are worked out once.
    """

    task: Task
    root: Path
    table: pd.DataFrame
    stats: Stats | None
    memory: ContentMemory | None
    _known: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def unread(self) -> int:
        """Files whose content is not known yet (new or changed since they were hashed)."""
        if self.memory is None or self.stats is None or "hashes" in self._known:
            return 0
        known = self.memory.known(self.table["path"].tolist(), self.stats)
        if None not in known:
            self._known["hashes"] = known
        return known.count(None)

    def hashes(self, advance: Any = lambda _: None) -> list[str] | None:
        """Content hash of every clip's file; files not known yet are read. None for generated tasks."""
        if self.memory is None or self.stats is None:
            return None
        if "hashes" not in self._known:
            self._known["hashes"] = self.memory.hashes(self.table["path"].tolist(), self.stats, advance)
        hashes: list[str] = self._known["hashes"]
        return hashes

    def fingerprints(self) -> Fingerprints:
        """What the audio and the whole data set are; files not known yet are read."""
        if "prints" not in self._known:
            self._known["prints"] = fingerprints(self.task, self.table, self.hashes())
        prints: Fingerprints = self._known["prints"]
        return prints


def load_task(task: Task, data_dir: Path, cache_dir: Path, allow_partial: bool) -> TaskData:
    """Read and check a task's metadata and see which clips are there."""
    if task.generator is not None:
        return TaskData(task, Path(), clip_table.check(task, task.read(Path())), None, None)
    if task.root is None and not data_dir.is_dir():
        raise DataError(
            f"The data directory {data_dir} does not exist. Name the folder that holds "
            f'"{folders(task)[0]}" with --data-dir or AAPE_BENCH_DATA_DIR. {task.by_hand}'.rstrip()
        )
    root = find_root(task, data_dir)
    if root is None:
        raise DataError(
            f"{task.name}: there is no folder {' or '.join(folders(task))} in the data directory {data_dir}. "
            f"{task.by_hand}".rstrip()
        )
    table = clip_table.check(task, task.read(root))
    present = clip_table.select_present(task, root, table, allow_partial)
    clip_table.rotations(task, present.table)
    if (arrow := sys.modules.get("pyarrow")) is not None:
        arrow.default_memory_pool().release_unused()  # pandas' strings pass through it: it would keep tens of MB
    return TaskData(task, root, present.table, present.stats, ContentMemory(cache_dir, root))


def folders(task: Task) -> tuple[str, ...]:
    """Where the task's data set may lie below the data directory; the first is where it is put."""
    return task.folders or (task.name,)


def find_root(task: Task, data_dir: Path) -> Path | None:
    """The folder of the task's data set, None where there is none."""
    places = [data_dir / folder for folder in folders(task)] if task.root is None else [task.root]
    return next((place for place in places if place.is_dir()), None)
