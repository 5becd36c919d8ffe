"""What the benchmarks share: one row per comparison, alternating runs, medians, CPU seconds of children."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import pandas as pd


@dataclass(frozen=True)
class Row:
    """One comparison. ours, theirs: medians in `unit`; ratio: theirs / ours of medians, above 1 where ours is less.

    theirs, ratio: None where nothing was there to compare with. runs: of each side.
    """

    benchmark: str
    what: str
    ours: float
    theirs: float | None
    unit: str
    ratio: float | None
    runs: int
    notes: str = ""


@dataclass(frozen=True)
class Cost:
    """What one run took. wall, cpu: seconds; peak: resident memory in MB."""

    wall: float
    cpu: float
    peak: float


def compared(
    benchmark: str, what: str, ours: Sequence[float], theirs: Sequence[float], unit: str, notes: str = ""
) -> Row:
    """The row of two lists of measurements."""
    mine, other = statistics.median(ours), statistics.median(theirs) if theirs else None
    ratio = None if other is None else other / mine
    return Row(benchmark, what, mine, other, unit, ratio, len(ours), notes)


def alternating(runs: int, *sides: Callable[[], Cost]) -> list[list[Cost]]:
    """Each side's costs, run in turn `runs` times after one warm-up of each."""
    for side in sides:
        side()
    costs: list[list[Cost]] = [[] for _ in sides]
    for _ in range(runs):
        for found, side in zip(costs, sides, strict=True):
            found.append(side())
    return costs


def in_process(work: Callable[[], object]) -> Cost:
    """Cost of a call in this process; its peak is the process's so far."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Cost(time.perf_counter() - wall, time.process_time() - cpu, peak)


def command(
    arguments: Sequence[str | Path], environment: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Cost:
    """Cost of a command with all its children, from process start to end. Raises CalledProcessError where it fails."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [str(one) for one in arguments],
        env={**os.environ, **(environment or {})},
        cwd=cwd,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    code = process.returncode = os.waitstatus_to_exitcode(status)
    if code != 0:
        sys.stderr.buffer.write(said[-4000:])
        raise subprocess.CalledProcessError(code, process.args)
    return Cost(time.perf_counter() - started, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def table(rows: Sequence[Row]) -> pd.DataFrame:
    """The rows as a table."""
    return pd.DataFrame([asdict(row) for row in rows], columns=[field.name for field in fields(Row)])
