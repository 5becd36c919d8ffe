"""What long work tells the person who waits: the core speaks to this interface, the command line shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


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
