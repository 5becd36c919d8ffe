"""How an encoder is judged. A protocol chooses on validation only.

A protocol's module has `Settings` (frozen dataclass) and imports what is heavy on use. It judges frozen embeddings by
`fit(problem, settings, seed, advance) -> list[Fit]`, one `Fit` per rotation in their order, `advance(1)` after each;
where its settings have a `crop_seed`, training clips longer than the task's are cut at a place drawn from it (tasks in
official parts only). Or, with `TRAINS_ENCODER = True`, it gets the encoder itself: `train(work, progress)`, see
`aape_bench.finetune.job`. Where it has `of_task(settings, task)`, that fills in what a task decides.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

from aape_bench.errors import UsageError
from aape_bench.identity import source_digest
from aape_bench.problem import Fit, Problem
from aape_bench.settings import suggestion
from aape_bench.task import Task

if TYPE_CHECKING:
    from aape_bench.finetune.job import Trained, Work
    from aape_bench.progress import Progress

PROTOCOLS = {name: f"aape_bench.protocols.{name}" for name in ("linear", "knn", "evar", "hear", "finetune")}

#: Core modules by which scores become a result, whatever the protocol.
CORE = (
    "clip_table", "holdout", "problem", "scenes", "moments", "events", "predictions", "metrics", "weighted", "ranking",
    "resampling", "evaluate", "randomness",
)  # fmt: skip


class ProtocolModule(Protocol):
    """What a protocol's module offers."""

    Settings: type[Any]

    @staticmethod
    def fit(problem: Problem, settings: Any, seed: int, advance: Callable[[int], None]) -> list[Fit]: ...

    @staticmethod
    def train(work: Work, progress: Progress) -> Trained: ...


@dataclass(frozen=True)
class Input:
    """What of a task's audio a protocol is given: `role` and `crop` of `aape_bench.cache.Treatment`."""

    role: str
    crop: int | None


def protocol(name: str) -> ProtocolModule:
    """The protocol of that name. Raises UsageError with a suggestion where there is none."""
    if name not in PROTOCOLS:
        raise UsageError(f'There is no protocol "{name}".{suggestion(name, PROTOCOLS)}')
    return cast(ProtocolModule, importlib.import_module(PROTOCOLS[name]))


def trains_encoder(name: str) -> bool:
    """Whether the protocol gets the encoder instead of its embeddings."""
    return bool(getattr(protocol(name), "TRAINS_ENCODER", False))


def settings_of_task(name: str, settings: Any, task: Task) -> Any:
    """The protocol's settings with what the task decides filled in."""
    fill = getattr(protocol(name), "of_task", None)
    return settings if fill is None else fill(settings, task)


def input_of(name: str, settings: Any, task: Task) -> Input:
    """Event tasks are judged by timestamp embeddings, all others by scene embeddings or by training on whole clips."""
    if trains_encoder(name):
        return Input("training", None)
    if task.kind == "event":
        return Input("timestamps", None)
    crops = task.split_scheme == "parts" and task.generator is None and task.clip_seconds is not None
    return Input("scene", getattr(settings, "crop_seed", None) if crops else None)


def code_digest(name: str) -> str:
    """Hash of the code by which the protocol turns embeddings into a score and its interval."""
    module = protocol(name)
    helpers = getattr(module, "SOURCES", ())
    return source_digest([PROTOCOLS[name], *helpers, __name__, *(f"aape_bench.{part}" for part in CORE)])
