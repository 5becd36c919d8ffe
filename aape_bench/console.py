"""What a person sees in the terminal: tables, notes and progress bars. Rich is imported on use."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from aape_bench.planning import Job
    from aape_bench.registry import Broken

#: Where standard error is no terminal (a log file), long stages say a line this often.
SECONDS_BETWEEN_LINES = 30


def print_remarks(remarks: Sequence[str]) -> None:
    """Say what a reader must know as notes on standard error, a line each."""
    for remark in remarks:
        _say(f"Note: {remark}", error=True)


def print_notices(jobs: Sequence[Job]) -> None:
    """What a reader must know before she believes a number."""
    from aape_bench.clip_table import partial

    for label in sorted({job.model.label for job in jobs if job.model.weights == "random"}):
        _say(f"Note: {label} runs with seeded random weights, not trained ones (weights: random).", error=True)
    for data in {job.data.task.name: job.data for job in jobs}.values():
        if part := partial(data.task, data.table):
            _say(f"Note: {data.task.name} is partial: {part}.", error=True)


def print_plan(jobs: Sequence[Job]) -> None:
    """A table of what a run would do, one row per job."""
    what = {
        "done": "nothing, the result is there",
        "fit": "fit, embeddings are cached",
        "embed": "embed and fit",
        "train": "train the encoder",
        "read files": "read new files first; then only what is missing",
    }
    rows = [
        (job.model.label, str(job.model.seed), job.data.task.name, str(len(job.data.table)), job.protocol.label,
         what[job.action])
        for job in jobs
    ]  # fmt: skip
    print_table(("model", "seed", "task", "clips", "protocol", "to do"), rows)


#: Column of the leaderboard -> its heading; those of NARROW alone where the terminal has no room for all.
HEADINGS = {
    "rank": "rank", "model": "model", "task": "task", "protocol": "protocol", "metric": "metric", "score": "score",
    "interval": "95 % interval", "n_test": "test clips", "partial": "partial", "data": "data", "weights": "weights",
    "pretrain_overlap": "overlap", "seeds": "seeds",
}  # fmt: skip
NARROW = ("rank", "model", "task", "score", "interval", "partial", "weights")
WIDE_ENOUGH = 110


def print_board(board: pd.DataFrame) -> None:
    """The leaderboard's columns that people read; `data` only where rows differ in nothing else."""
    import shutil

    several = board.duplicated(["model", "task", "protocol"], keep=False) & (board["source"] == "ours")
    fits = not sys.stdout.isatty() or shutil.get_terminal_size().columns >= WIDE_ENOUGH
    needed = set(NARROW)
    if board.duplicated(["model", "task"]).any():
        needed |= {"protocol", "metric"}
    if several.any():
        needed.add("data")
    columns = [c for c in HEADINGS if c in needed or (fits and c != "data")]
    shown = board.astype(object).where(board.notna(), None)
    rows = []
    for row in shown.to_dict("records"):
        cells = {**row, "score": number_text(row["score"]), "interval": interval_text(row["ci_low"], row["ci_high"])}
        rows.append([_text(cells[column]) for column in columns])
    print_table([HEADINGS[column] for column in columns], rows)


def interval_text(low: float | None, high: float | None, signed: bool = False) -> str:
    """Both bounds, or that there are none; signed where they are of a difference."""
    if low is None and high is None:
        return "undefined"
    if signed:
        return " to ".join("undefined" if bound is None else f"{bound:+.3f}" for bound in (low, high))
    return f"{number_text(low)} - {number_text(high)}"


def number_text(value: float | None) -> str:
    """Three decimals."""
    return "undefined" if value is None else f"{value:.3f}"


def _text(value: object) -> str:
    return "" if value is None else str(value)


def print_table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], styles: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Columns of text, folded to the terminal's width; in a file or pipe every row is one line.

    styles: of cells by their whole text, as Rich names them.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    terminal = Console(highlight=False)
    if not terminal.is_terminal:
        terminal.width = 220  # a file or pipe has no width to fit into
    table = Table(box=None, header_style="bold", pad_edge=False)
    for head in heads:
        table.add_column(head, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=styles.get(cell, "")) for cell in row))
    terminal.print(table)


def print_broken(broken: Sequence[Broken]) -> None:
    """Say on standard error which plugins were left out, and why."""
    for plugin in broken:
        _say(f"Skipped: {plugin.reason}", error=True)


def print_facts(title: str, **facts: str) -> None:
    """A title and below it each fact that is not empty, as `name: value`."""
    _say(title)
    for name, value in facts.items():
        if value:
            _say(f"  {name}: {value}")


def duration(seconds: float) -> str:
    """In the unit that people would use."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def _say(text: str, error: bool = False) -> None:
    print(text, file=sys.stderr if error else sys.stdout)


class RichProgress:
    """Progress bars with rate and time left on standard error, plain lines where that is no terminal."""

    def __init__(self) -> None:
        from rich.console import Console

        # no emoji: FILE.py:ok: is a name
        self.console = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)

    def say(self, text: str) -> None:
        """Print one line."""
        self.console.print(text, markup=False)

    @contextmanager
    def stage(self, title: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        """Show one bar until the stage ends."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        if not self.console.is_terminal:
            started = said = time.perf_counter()
            done = 0

            def count(n: int) -> None:
                nonlocal done, said
                done += n
                if (now := time.perf_counter()) - said > SECONDS_BETWEEN_LINES and 0 < done < total:
                    said = now
                    left = (now - started) / done * (total - done)
                    self.say(f"{title}: {done} of {total} {unit}, {done / (now - started):.1f}/s, {left:.0f} s left")

            yield count
            seconds = time.perf_counter() - started
            self.say(f"{title}: {done} {unit} in {seconds:.1f} s ({done / max(seconds, 1e-9):.1f}/s)")
            return
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        started = time.perf_counter()
        with Progress(*columns, console=self.console) as bars:
            bar = bars.add_task(title, total=total, rate="")
            finished = 0

            def advance(n: int) -> None:
                nonlocal finished
                finished += n
                rate = finished / max(time.perf_counter() - started, 1e-9)
                bars.update(bar, advance=n, rate=f"{rate:.1f} {unit}/s")

            yield advance
