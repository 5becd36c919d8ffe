"""What long work tells the person who waits: the core speaks to this interface, the command line shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

#: Where standard error is no terminal (a log file), long stages say a line this often.
SECONDS_BETWEEN_LINES = 30


class Progress(Protocol):
    """Somewhere to report to."""

    def say(self, text: str) -> None:
        """One line of plain text."""

    def stage(self, title: str, total: int, unit: str) -> AbstractContextManager[Callable[[int], None]]:
        """A stage of `total` units; the context gives `advance(n)`."""
        ...


class Silent:
    """Reports nothing; the default of the Python functions."""

    def say(self, text: str) -> None:
        """Pass over the text."""

    @contextmanager
    def stage(self, title: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:  # noqa: ARG002
        """Pass over the stage."""
        yield lambda _: None


class RichProgress:
    """Progress bars with rate and time left on standard error, plain lines where that is no terminal."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(stderr=True, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Print one line."""
        self.console.print(text, markup=False)

    @contextmanager
    def stage(self, title: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        """Show one bar until the stage ends."""
        import time

        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        if not self.console.is_terminal:
            started = said = time.perf_counter()
            done = 0

            def count(n: int) -> None:
                nonlocal done, said
                done += n
                if (now := time.perf_counter()) - said > SECONDS_BETWEEN_LINES and done < total:
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
