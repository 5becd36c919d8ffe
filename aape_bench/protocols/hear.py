"""`hear`: HEAR's downstream training on frozen embeddings: small perceptrons over a grid, with early stopping.

Points of the grid (hidden layers x width x learning rate x initialisation) are drawn at random. Each is trained by
Adam with dropout and batch norm, scored with the task's metric on the validation rows every few epochs, and stopped
after `patience` such checks without a better score; its best check is kept. The point with the best check scores the
test rows; nothing is refitted. Exclusive labels: cross-entropy, scores are log-probabilities; others: binary
cross-entropy, scores are probabilities.

Mended, against hear-eval-kit: training rows are shuffled in every epoch; every rotation chooses among all points on
its own validation rows; embeddings are centred and divided by one deviation, as measured on the training rows, so
that an encoder's offset and overall scale decide nothing. (The features keep their relative scale, which HEAR's
perceptrons make use of: standardising each cost 9 points of accuracy on a toy task of 200 clips.) `as_published`
takes these three back: the rows' own order, embeddings as they are, and the points compared in the first rotation
alone, whose best one is trained in the others, so that clips which chose it are tested later.

Source: hear-eval-kit 2021.1.3 (its default grid); Turian et al. 2022, "HEAR: Holistic Evaluation of Audio
Representations".
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import numpy.typing as npt

from aape_bench.clip_table import Rotation
from aape_bench.errors import DataError, UsageError
from aape_bench.problem import Fit, Problem
from aape_bench.protocols.common import (
    chunks,
    fit_scaler,
    judged,
    listed,
    one_thread,
    plain,
    scaled,
    side_by_side,
    spread,
    targets,
    threads_allowed,
)
from aape_bench.protocols.perceptron import Initialisation, Perceptron, train
from aape_bench.randomness import numpy_stream, torch_stream

if TYPE_CHECKING:
    import torch

#: Helpers whose code decides results as well.
SOURCES = ("aape_bench.protocols.common", "aape_bench.protocols.numerics", "aape_bench.protocols.perceptron")

_LEAK = "As in hear-eval-kit, clips that are tested chose the point of the grid, in the first fold's validation."

#: Points are trained together while a batch has at most so many units in one of their layers: enough for narrow ones to
#: share the overhead, few enough for what passes between operations to stay in a processor's cache.
_TOGETHER = 2**17

_INITIALISATIONS = ("xavier_uniform", "xavier_normal")


@dataclass(frozen=True)
class Settings:
    """hidden_layers, hidden_width, learning_rates, initialisations: the grid, values at commas.

    grid_points: how many points of the grid are drawn and tried.
    dropout:     in the hidden layers.
    batch_size:  training rows of one step.
    max_epochs:  at most.
    validate_every: epochs between two checks on validation (sed_eval is slow: HEAR takes 10 for DCASE 2016 task 2).
    patience:    checks without a better score, after which training ends.
    normalise:   embeddings are centred and divided by one "common" deviation or by each "feature"'s own, as measured
                 on the training rows; or "none".
    as_published: HEAR's own behaviour: not shuffled, not normalised, grid compared in the first rotation only.
    """

    hidden_layers: str = "1,2"
    hidden_width: str = "1024"
    learning_rates: str = "3.2e-3,1e-3,3.2e-4,1e-4"
    initialisations: str = "xavier_uniform,xavier_normal"
    grid_points: int = 8
    dropout: float = 0.1
    batch_size: int = 1024
    max_epochs: int = 500
    validate_every: int = 3
    patience: int = 20
    normalise: Literal["common", "feature", "none"] = "common"
    as_published: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise UsageError("hear: dropout must be at least 0 and below 1.")
        for name, least in (("grid_points", 1), ("batch_size", 2), ("validate_every", 1), ("patience", 1)):
            if getattr(self, name) < least:
                raise UsageError(f"hear: {name} must be at least {least}.")
        if self.max_epochs < self.validate_every:
            raise UsageError("hear: max_epochs must not be below validate_every, or nothing is ever validated.")
        for point in self.grid():
            if not 0 <= point.hidden_layers <= 4 or not 1 <= point.hidden_width <= 65536:
                raise UsageError("hear: hidden_layers must lie in 0 .. 4 and hidden_width in 1 .. 65536.")
            if not 0 < point.learning_rate < math.inf:
                raise UsageError("hear: learning_rates must be above 0.")
            if point.initialisation not in _INITIALISATIONS:
                raise UsageError(f"hear: initialisations are {' and '.join(_INITIALISATIONS)}.")

    def grid(self) -> list[Point]:
        """Every point of the grid."""
        return [
            Point(*values)
            for values in itertools.product(
                listed("hear", "hidden_layers", self.hidden_layers, int),
                listed("hear", "hidden_width", self.hidden_width, int),
                listed("hear", "learning_rates", self.learning_rates, float),
                listed("hear", "initialisations", self.initialisations, str),
            )
        ]

    def resolved(self) -> Settings:
        """The same grid in one spelling, with what `as_published` entails."""
        grid = {
            name: ",".join(dict.fromkeys(str(getattr(point, field)) for point in self.grid()))
            for name, field in (
                ("hidden_layers", "hidden_layers"),
                ("hidden_width", "hidden_width"),
                ("learning_rates", "learning_rate"),
                ("initialisations", "initialisation"),
            )
        }
        normalise = "none" if self.as_published else self.normalise
        return replace(self, normalise=normalise, **grid)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Point:
    """One point of the grid."""

    hidden_layers: int
    hidden_width: int
    learning_rate: float
    initialisation: str


@dataclass(frozen=True)
class _Data:
    """One rotation, ready to learn from: rows (n, d), labels (n,) or (n, classes), the class of each output."""

    rotation: Rotation
    train: torch.Tensor
    labels: torch.Tensor
    validation: torch.Tensor
    test: torch.Tensor
    columns: npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Trained:
    """A point at its best check: its quality and its scores of the validation and of the test rows."""

    quality: float
    validation: npt.NDArray[np.float32]
    test: npt.NDArray[np.float32]
    story: dict[str, Any]


def fit(problem: Problem, settings: Settings, seed: int, advance: Callable[[int], None]) -> list[Fit]:
    """One Fit per rotation; see the module's text."""
    import torch  # noqa: F401  (its thread pool must be loaded before it can be limited)

    settings = settings.resolved()
    grid = settings.grid()
    drawn = numpy_stream(seed, "hear", "grid").permutation(len(grid))[: settings.grid_points]
    points = [grid[int(number)] for number in drawn]
    threads = threads_allowed()
    fits = []
    with one_thread(use_torch=True):
        for rotation in problem.rotations:
            data = _prepare(problem, rotation, settings)
            trained = _train_all(problem, data, points, settings, seed, threads)
            # the first drawn among equals
            best = max(range(len(points)), key=lambda number: (trained[number].quality, -number))
            chosen = points[best]
            tried = [
                {**asdict(point), "validation": plain(one.quality), **one.story}
                for point, one in zip(points, trained, strict=True)
            ]
            fits.append(
                Fit(
                    test=trained[best].test[None],
                    validation=trained[best].validation[None],
                    choice={"fold": rotation.name, "tried": tried, "chosen": asdict(chosen)},
                    remarks=[_LEAK] if settings.as_published and rotation is not problem.rotations[0] else [],
                )
            )
            if settings.as_published:
                points = [chosen]
            advance(1)
    return fits


def _prepare(problem: Problem, rotation: Rotation, settings: Settings) -> _Data:
    import torch

    if len(rotation.train) < 2:
        raise DataError(f"hear: fold {rotation.name} has a single training row, and batch norm needs two of them.")
    scaler = None
    if settings.normalise != "none":
        scaler = fit_scaler(problem.embeddings, rotation.train, common=settings.normalise == "common")
    train, validation, test = (
        torch.from_numpy(scaled(problem.embeddings, rows, scaler))
        for rows in (rotation.train, rotation.validation, rotation.test)
    )
    labels, columns = targets(problem, rotation.train)
    return _Data(rotation, train, torch.from_numpy(labels), validation, test, columns)


def _train_all(
    problem: Problem, data: _Data, points: Sequence[Point], settings: Settings, seed: int, threads: int
) -> list[_Trained]:
    """Every point trained until its validation score no longer rises, in their order."""
    import torch

    def work(group: Sequence[Point]) -> dict[Point, _Trained]:
        torch.set_num_threads(1)  # of this thread
        with torch.no_grad():
            return _train(problem, data, group, settings, seed)

    trained: dict[Point, _Trained] = {}
    for group in side_by_side(work, _groups(points, min(len(data.train), settings.batch_size)), threads):
        trained |= group
    return [trained[point] for point in points]


def _groups(points: Sequence[Point], rows: int) -> list[list[Point]]:
    """The points that are trained together: of one depth, and of at most `_TOGETHER` units x rows of a batch."""
    groups: list[list[Point]] = []
    for _, same in itertools.groupby(sorted(points, key=_depth), key=_depth):
        units = math.inf
        for point in same:
            units += point.hidden_width
            if units * rows > _TOGETHER:
                groups.append([])
                units = point.hidden_width
            groups[-1].append(point)
    return groups


def _depth(point: Point) -> int:
    return point.hidden_layers


@dataclass
class _Progress:
    """One point in training and, as they were at its best check, its network's state and validation scores."""

    network: Perceptron
    quality: float = -math.inf
    epoch: int = 0
    stopped: int = 0
    scores: npt.NDArray[np.float32] | None = None
    state: list[torch.Tensor] = field(default_factory=list)

    def check(self, epoch: int, quality: float, scores: npt.NDArray[np.float32], patience: int) -> None:
        """Take notice of a check on validation; `patience` epochs after the best one training ends."""
        if quality > self.quality or self.scores is None:
            self.quality, self.epoch, self.scores = quality, epoch, scores
            self.state = [part.clone() for part in self.network.state()]
        elif epoch - self.epoch >= patience:
            self.stopped = epoch


def _train(
    problem: Problem, data: _Data, points: Sequence[Point], settings: Settings, seed: int
) -> dict[Point, _Trained]:
    """Train points of equal depth side by side, each until its validation score no longer rises."""
    import torch

    order = numpy_stream(seed, "hear", data.rotation.name, "order")
    networks = {point: _Progress(_network(data, point, settings, seed)) for point in points}
    count = len(data.train)
    for epoch in range(1, settings.max_epochs + 1):
        going = [one for one in networks.values() if not one.stopped]
        if not going:
            break
        rows = torch.from_numpy(np.arange(count) if settings.as_published else order.permutation(count))
        for batch in rows.tensor_split(_cuts(count, settings.batch_size)):
            labels = data.labels[batch]
            gradient = functools.partial(_gradient, labels=labels, exclusive=problem.exclusive)
            train([one.network for one in going], data.train[batch], gradient)
        if epoch % settings.validate_every == 0:
            for one in going:
                scores = _scores(one.network, data.validation, problem, data.columns)
                quality = judged(problem, data.rotation.validation, scores)
                one.check(epoch, quality, scores, settings.patience * settings.validate_every)
    return {point: _finished(one, problem, data, settings) for point, one in networks.items()}


def _network(data: _Data, point: Point, settings: Settings, seed: int) -> Perceptron:
    # a point's streams hang on the point itself: its result is the same whichever others are drawn
    stream = ("hear", data.rotation.name, *map(str, asdict(point).values()))
    return Perceptron(
        data.train.shape[1],
        [point.hidden_width] * point.hidden_layers,
        len(data.columns),
        dropout=settings.dropout,
        initialisation=cast(Initialisation, point.initialisation),
        learning_rate=point.learning_rate,
        initial=torch_stream(seed, *stream, "initial"),
        masks=numpy_stream(seed, *stream, "dropout"),
    )


def _gradient(logits: torch.Tensor, labels: torch.Tensor, exclusive: bool) -> torch.Tensor:
    """Gradient of the loss by the logits (n, outputs). It is a mean over rows; of several labels, over logits."""
    import torch

    if exclusive:
        error = logits.softmax(dim=1)
        return error.sub_(torch.nn.functional.one_hot(labels, logits.shape[1])).div_(len(logits))
    return logits.sigmoid().sub_(labels.float()).div_(logits.numel())


def _finished(one: _Progress, problem: Problem, data: _Data, settings: Settings) -> _Trained:
    """The network put back to its best check, and its scores of the test rows."""
    assert one.scores is not None
    for part, value in zip(one.network.state(), one.state, strict=True):
        part.copy_(value)
    epochs = one.stopped or settings.max_epochs
    return _Trained(
        one.quality,
        one.scores,
        _scores(one.network, data.test, problem, data.columns),
        {"epoch": one.epoch, "epochs": epochs, "stopped_early": epochs < settings.max_epochs},
    )


def _cuts(count: int, size: int) -> list[int]:
    """Where batches begin after the first; a last row by itself joins the batch before it, for batch norm's sake."""
    cuts = list(range(size, count, size))
    return cuts[:-1] if cuts and cuts[-1] == count - 1 else cuts


def _scores(
    network: Perceptron, rows: torch.Tensor, problem: Problem, columns: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    import torch

    parts: list[Any] = []
    for part in chunks(rows.numpy()):
        logits = network.logits(torch.from_numpy(part))
        parts.append((logits.log_softmax(dim=1) if problem.exclusive else logits.sigmoid()).numpy())
    return spread(np.concatenate(parts), columns, len(problem.classes))
