"""The contract of encoders that can be trained and ablated: what `aape-bench ablate` asks of a plugin.

A plugin says which variants of its training there are, what they are to answer, and trains one of them into a
checkpoint that its encoder loads. What is trained when, how it is evaluated and what follows from it is the core's
(`aape_bench.ablation`). (Imports no torch.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import pandas as pd

    from aape_bench.progress import Progress
    from aape_bench.task import Task

#: What a question is decided by: the mean score over the generated modulation tasks, or over all others that are
#: there; in both without the training's `controls`.
Endpoint = Literal["modulation", "real"]


@dataclass(frozen=True)
class Variant:
    """One way to train the encoder.

    name: letters, digits and underscores. settings: what differs from the reference, by the plugin's own names of
    settings; text or values. title: what it is, in one line.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    title: str = ""


@dataclass(frozen=True)
class Question:
    """A claim that the ablation decides, with its one primary endpoint; fixed before anything is trained.

    claim: a statement such as "The SBLU helps". ahead, of: it holds where variant `ahead` is ahead of every one of
    `of`. same_as: further pairs (ahead, of), where they are trained too: of each the claim must hold as well.
    """

    name: str
    claim: str
    ahead: str
    of: tuple[str, ...]
    endpoint: Endpoint = "modulation"
    same_as: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Setup:
    """One training, but for its seed.

    settings: the variant's. steps: optimiser steps. learning_rate: the peak; None: the preset's own. audio: what to
    train on, as the plugin's own command takes it.
    """

    settings: Mapping[str, Any]
    preset: str
    steps: int
    learning_rate: float | None
    audio: tuple[str, ...]


@dataclass(frozen=True)
class Trained:
    """A finished training.

    checkpoint: what the encoder loads. seconds: of training, all resumed pieces together. parameters: of the encoder.
    flops_per_step: forward and backward of one step, None where nobody counted.
    """

    checkpoint: Path
    seconds: float
    steps: int
    parameters: int
    flops_per_step: float | None = None


@dataclass(frozen=True)
class Run:
    """A finished training as `Training.curves` gets it. out: its folder, as `train` left it."""

    variant: Variant
    seed: int
    setup: Setup
    out: Path
    trained: Trained


@dataclass(frozen=True)
class Curves:
    """Lines that a plugin wants drawn, one figure.

    name: of the file. x, y: the axes' labels with units. log_x, log_y: on a logarithmic axis. table: one row per
    point, with the columns panel (a facet's title, "" for a single one), variant, seed (of lines that are of one
    training; None otherwise), x, y.
    """

    name: str
    title: str
    x: str
    y: str
    table: pd.DataFrame
    log_x: bool = False
    log_y: bool = False


class Interrupted(Exception):
    """A signal ended a training in good order: what is on disk goes on with the same call. number: the signal's."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(f"Ended by signal {number}.")


class Training(Protocol):
    """How an encoder plugin is trained and ablated. Methods raise BenchError where something does not fit.

    Setups that differ in the variant's settings alone share the order of the data, the masks and every initial
    weight that they have in common, all from the seed.
    """

    @property
    def presets(self) -> Sequence[str]:
        """Budgets by name."""

    @property
    def default_preset(self) -> str:
        """What `--preset` is where it is left out."""

    @property
    def default_audio(self) -> tuple[str, ...]:
        """What to train on where no --audio is named."""

    @property
    def default_variants(self) -> Sequence[str]:
        """Names of those that are trained where none are named."""

    @property
    def reference(self) -> str:
        """The variant that all others are compared with."""

    @property
    def tuned_on(self) -> str:
        """The variant that the learning rate of all is chosen on: a control, so that the reference has no favour."""

    @property
    def learning_rates(self) -> Sequence[float]:
        """What to choose from; none: the preset's own stands."""

    @property
    def controls(self) -> Sequence[str]:
        """Names of tasks that are shown but enter no endpoint."""

    @property
    def stability_task(self) -> str:
        """Name of the task whose clips the stability of every variant is measured on."""

    def preset_steps(self, preset: str) -> int:
        """Optimiser steps of a preset."""

    def audio_digest(self, audio: Sequence[str]) -> str:
        """Hash of what there is to train on. Raises BenchError where nothing is."""

    def audio_remarks(self, audio: Sequence[str]) -> Sequence[str]:
        """What a person should know of it, a sentence each. Raises as `audio_digest`."""

    def variants(self) -> Sequence[Variant]:
        """All that are known by name."""

    def questions(self) -> Sequence[Question]:
        """What the variants are to answer."""

    def development_tasks(self) -> Sequence[Task]:
        """Tasks for choices, which share no clip with those that judge."""

    def check(self, setup: Setup) -> None:
        """Refuse early, before anything is trained, what cannot be trained, evaluated or installed. Cheap."""

    def identity(self, setup: Setup, seed: int) -> str:
        """Hash of everything that decides the checkpoint: settings, seed, audio, code. Cheap."""

    def seconds_per_step(self, setup: Setup, device: str, progress: Progress) -> float:
        """Measure a few steps; nothing is written."""

    def train(self, setup: Setup, seed: int, out: Path, device: str, progress: Progress) -> Trained:
        """Train, going on from what an interrupted call left in the folder `out`, which is this training's alone.

        The checkpoint, below `out`, and its card are the same bytes however often it was interrupted. Raises
        Interrupted where a signal ended it in good order; any other end leaves what the next call goes on from.
        """

    def curves(self, runs: Sequence[Run]) -> Sequence[Curves]:
        """What the report draws of the trainings themselves, such as their losses."""
