"""How frozen embeddings become predictions. A protocol chooses on validation only.

A protocol's module has `Settings` (frozen dataclass), `KINDS` (of labels that it can predict) and
`fit_predict(embeddings, table, rotations, settings, seed, advance) -> Outcome`; it imports what is heavy on use.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from aape_bench.clip_table import Rotation
from aape_bench.errors import UsageError
from aape_bench.identity import source_digest
from aape_bench.settings import suggestion

if TYPE_CHECKING:
    import pandas as pd

PROTOCOLS = {"linear": "aape_bench.protocols.linear"}


@dataclass(frozen=True)
class Outcome:
    """Predictions and how they came about.

    test: (m,) row positions of the tested clips, ascending. scores: (m, classes) float32, higher is likelier.
    predicted: (m,) class names. fold: (m,) name of the rotation that tested the clip.
    classes: names in the order of the columns.
    remarks: what a reader of the score should know.
    choices: one entry per rotation in their order, what was tried on validation and what was chosen.
    """

    test: npt.NDArray[np.int64]
    fold: npt.NDArray[np.str_]
    predicted: npt.NDArray[np.str_]
    scores: npt.NDArray[np.float32]
    classes: list[str]
    choices: list[dict[str, Any]]
    remarks: list[str]


class ProtocolModule(Protocol):
    """What a protocol's module offers."""

    KINDS: tuple[str, ...]
    Settings: type[Any]

    @staticmethod
    def fit_predict(
        embeddings: npt.NDArray[np.float32],
        table: pd.DataFrame,
        rotations: Sequence[Rotation],
        settings: Any,
        seed: int,
        advance: Callable[[int], None],
    ) -> Outcome: ...


def code_digest(name: str) -> str:
    """Hash of the code by which the protocol turns embeddings into a score and its interval."""
    core = [f"aape_bench.{part}" for part in ("clip_table", "evaluate", "metrics", "randomness")]
    return source_digest([PROTOCOLS[name], __name__, *core])


def protocol(name: str) -> ProtocolModule:
    """The protocol of that name. Raises UsageError with a suggestion where there is none."""
    if name not in PROTOCOLS:
        raise UsageError(f'There is no protocol "{name}".{suggestion(name, PROTOCOLS)}')
    return cast(ProtocolModule, importlib.import_module(PROTOCOLS[name]))
