"""Ending between two steps: a signal is noted, and acted on when the loop comes to it."""

from __future__ import annotations

import signal
import threading
from typing import Any


class Signals:
    """Within the block the first SIGTERM, SIGINT or SIGHUP is only noted; a second one acts as before."""

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
                if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, and jobs in the background
                    self._before.setdefault(number, signal.signal(number, self._note))
        return self

    def __exit__(self, *_: object) -> None:
        while self._before:
            signal.signal(*self._before.popitem())

    def _note(self, number: int, _: object) -> None:
        self.number = number
        self.__exit__()
