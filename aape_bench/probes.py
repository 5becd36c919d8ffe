"""The probe of a frozen job, rotation by rotation: what several processes fit stays on disk until the record is there.

Folder: `RESULTS_DIR/probes/<task>/<protocol>/<model>-<key>/<fold>.npz`. A run in one process writes none of it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aape_bench import environment
from aape_bench.addresses import key_of
from aape_bench.clip_table import Rotation
from aape_bench.fits import read_fit, write_fit
from aape_bench.planning import Job, Options, ProtocolChoice
from aape_bench.problem import Fit, Problem
from aape_bench.protocols import protocol
from aape_bench.storage import safe_name


@dataclass(frozen=True)
class Probe:
    """What is fitted, and where its parts lie. seed: of the protocol's draws."""

    protocol: ProtocolChoice
    seed: int
    folder: Path

    @property
    def divides(self) -> bool:
        """Whether a rotation's fit needs no other's; as published, hear's later ones take over what the first chose."""
        return not getattr(self.protocol.settings, "as_published", False)

    def missing(self, rotations: Sequence[Rotation]) -> list[str]:
        """Names of the rotations that are not on disk."""
        absent = [one.name for one in rotations if read_fit(self._path(one.name)) is None]
        return absent if self.divides or not absent else [one.name for one in rotations]

    def fit(self, problem: Problem, names: Collection[str], advance: Callable[[int], None]) -> None:
        """Fit some rotations onto the disk; all at once where the probe does not divide. Raises as the protocol."""
        chosen = [one for one in problem.rotations if one.name in names]
        for some in [[one] for one in chosen] if self.divides else [chosen]:
            environment.reset_peak_memory()
            started = time.perf_counter()
            made = self._compute(problem, some, advance)
            seconds = (time.perf_counter() - started) / len(some)
            about = {"seconds": seconds, "peak_memory_mb": environment.peak_memory_mb()}
            for one, fit in zip(some, made, strict=True):
                write_fit(self._path(one.name), fit, about)

    def fits(self, problem: Problem, advance: Callable[[int], None]) -> tuple[list[Fit], list[dict[str, Any]]]:
        """One per rotation, those that are not on disk fitted here; and seconds and peak_memory_mb of the others."""
        there = {one.name: read_fit(self._path(one.name)) for one in problem.rotations}
        if not self.divides and None in there.values():
            there = dict.fromkeys(there)
        todo = [one for one in problem.rotations if there[one.name] is None]
        made = iter(self._compute(problem, todo, advance) if todo else [])
        found = [one[0] if one is not None else next(made) for one in there.values()]
        return found, [one[1] for one in there.values() if one is not None]

    def clear(self) -> None:
        """Delete what only an unfinished result needs."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, name: str) -> Path:
        return self.folder / f"{safe_name(name)}.npz"

    def _compute(self, problem: Problem, rotations: Sequence[Rotation], advance: Callable[[int], None]) -> list[Fit]:
        fit = protocol(self.protocol.name).fit
        return fit(replace(problem, rotations=rotations), self.protocol.settings, self.seed, advance)


def probe_of(job: Job, options: Options) -> Probe:
    """The probe of a job whose files are known."""
    key = key_of(job.model, job.data, job.protocol, job.data.fingerprints(), options)
    place = Path("probes") / safe_name(job.data.task.name) / safe_name(job.protocol.label)
    folder = options.results_dir / place / f"{safe_name(job.model.label)}-{key}"
    return Probe(job.protocol, job.model.seed, folder)
