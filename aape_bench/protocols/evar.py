"""`evar`: one linear layer by Adam on standardised, frozen embeddings, as EVAR, M2D and BYOL-A report.

For each rotation: standardise on the training rows; train several classifiers that differ in their seed alone, with
Adam (its weight decay added to the gradient) on shuffled batches; after every epoch score the validation rows with
the task's metric. An epoch as good as the best so far replaces it, and training ends `patience` epochs after the
last such. The best epoch's classifier scores the test rows; nothing is refitted.

As in EVAR the loss is a mean over rows and classes: cross-entropy of exclusive labels, binary cross-entropy of others.
Scores are log-probabilities of exclusive classes, else probabilities.

Source of the settings and rules: EVAR (github.com/nttcslab/eval-audio-repr), README and linear evaluation, 2022-2024;
learning rate of the preset `m2d`: Niizumi et al. 2022, Masked Modeling Duo.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from aape_bench.clip_table import Rotation
from aape_bench.errors import UsageError
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
from aape_bench.protocols.numerics import Adam, product
from aape_bench.randomness import numpy_stream, torch_stream

if TYPE_CHECKING:
    import torch

#: Helpers whose code decides results as well.
SOURCES = ("aape_bench.protocols.common", "aape_bench.protocols.numerics")

#: Rotations are fitted at the same time while their copies of the embeddings have at most so many numbers: 1 GB.
_COPIES = 2**28

_LEARNING_RATES = {"evar": 3e-4, "m2d": 3e-5}


@dataclass(frozen=True)
class Settings:
    """preset: "evar" or "m2d": fills in the learning rate where that is not given.

    learning_rate: of Adam; evar 3e-4, m2d 3e-5.
    weight_decay: L2 penalty that Adam adds to the gradient.
    batch_size:  training rows of one step, shuffled anew in every epoch.
    epochs:      at most.
    patience:    epochs without a validation score as good as the best one, after which training ends.
    seeds:       one classifier each, at commas; the score is their mean.
    crop_seed:   of the place at which longer training clips are cut, in tasks with official parts; none: the head.
    """

    preset: Literal["evar", "m2d"] = "evar"
    learning_rate: float | None = None
    weight_decay: float = 1e-8
    batch_size: int = 200
    epochs: int = 200
    patience: int = 20
    seeds: str = "42,43,44"
    crop_seed: int | None = 42

    def __post_init__(self) -> None:
        if self.learning_rate is not None and self.learning_rate <= 0:
            raise UsageError("evar: learning_rate must be above 0.")
        if self.weight_decay < 0:
            raise UsageError("evar: weight_decay must not be below 0.")
        for name in ("batch_size", "epochs", "patience"):
            if getattr(self, name) < 1:
                raise UsageError(f"evar: {name} must be above 0.")
        _ = self.numbers

    @property
    def numbers(self) -> list[int]:
        """The seeds."""
        return listed("evar", "seeds", self.seeds, int)

    def resolved(self) -> Settings:
        """The same with the preset's learning rate filled in, and the seeds in one spelling."""
        rate = self.learning_rate if self.learning_rate is not None else _LEARNING_RATES[self.preset]
        return replace(self, learning_rate=rate, seeds=",".join(map(str, self.numbers)))


@dataclass
class _Best:
    """The best epoch of one seed so far."""

    quality: float = -math.inf
    epoch: int = 0
    stopped: int = 0
    scores: npt.NDArray[np.float32] | None = None


def fit(problem: Problem, settings: Settings, seed: int, advance: Callable[[int], None]) -> list[Fit]:
    """One Fit per rotation with one repeat per seed; see the module's text."""
    import torch

    def work(rotation: Rotation) -> Fit:
        torch.set_num_threads(1)  # of this thread
        with torch.no_grad():
            return _fit(problem, rotation, settings.resolved(), seed)

    fits = []
    at_once = max(1, min(threads_allowed(), _COPIES // max(1, problem.embeddings.size)))
    with one_thread(use_torch=True):
        for one in side_by_side(work, problem.rotations, at_once):
            fits.append(one)
            advance(1)
    return fits


def _fit(problem: Problem, rotation: Rotation, settings: Settings, seed: int) -> Fit:
    import torch

    scaler = fit_scaler(problem.embeddings, rotation.train)
    learned, columns = targets(problem, rotation.train)
    train = torch.from_numpy(scaled(problem.embeddings, rotation.train, scaler))
    labels = torch.from_numpy(learned)
    validation = torch.from_numpy(scaled(problem.embeddings, rotation.validation, scaler))

    seeds = settings.numbers
    orders = [numpy_stream(seed, "evar", number, rotation.name, "order") for number in seeds]
    weights = _initial(seed, seeds, rotation.name, train.shape[1], len(columns))
    optimiser = Adam(weights, float(settings.learning_rate or 0), settings.weight_decay)
    bests = [_Best() for _ in seeds]
    kept = [weight.clone() for weight in weights]
    going = list(range(len(seeds)))  # whose classifiers `weights` are
    for epoch in range(1, settings.epochs + 1):
        order = torch.from_numpy(np.stack([orders[number].permutation(len(train)) for number in going]))
        for rows in torch.split(order, settings.batch_size, dim=1):
            optimiser.step(
                weights, _gradients(weights, [train[some] for some in rows], labels[rows], problem.exclusive)
            )
        for at, number in enumerate(going):
            best = bests[number]
            scores = _scores([weight[at] for weight in weights], validation, problem, columns)
            quality = judged(problem, rotation.validation, scores)
            if quality >= best.quality or best.scores is None:
                best.quality, best.epoch, best.scores = quality, epoch, scores
                for keep, weight in zip(kept, weights, strict=True):
                    keep[number] = weight[at]
            elif epoch - best.epoch >= settings.patience:
                best.stopped = epoch
        staying = [at for at, number in enumerate(going) if not bests[number].stopped]
        if not staying:
            break
        if len(staying) < len(going):
            going = [going[at] for at in staying]
            weights = [weight[staying] for weight in weights]
            optimiser.keep(staying)

    test = torch.from_numpy(scaled(problem.embeddings, rotation.test, scaler))
    tried = [
        {
            "seed": number,
            "validation": plain(best.quality),
            "epoch": best.epoch,
            "epochs": best.stopped or settings.epochs,
            "stopped_early": bool(best.stopped),
        }
        for number, best in zip(seeds, bests, strict=True)
    ]
    return Fit(
        test=np.stack([_scores([keep[n] for keep in kept], test, problem, columns) for n in range(len(seeds))]),
        validation=np.stack([best.scores for best in bests if best.scores is not None]),
        choice={
            "fold": rotation.name,
            "tried": tried,
            "chosen": [{"seed": one["seed"], "epoch": one["epoch"]} for one in tried],
        },
    )


def _initial(seed: int, seeds: list[int], fold: str, inputs: int, outputs: int) -> list[torch.Tensor]:
    """Weights (seeds, outputs, inputs) and offsets (seeds, 1, outputs), as torch.nn.Linear draws them."""
    import torch

    bound = inputs**-0.5
    weights, offsets = torch.empty(len(seeds), outputs, inputs), torch.empty(len(seeds), 1, outputs)
    for row, number in enumerate(seeds):
        stream = torch_stream(seed, "evar", number, fold, "initial")
        weights[row].uniform_(-bound, bound, generator=stream)
        offsets[row].uniform_(-bound, bound, generator=stream)
    return [weights, offsets]


def _gradients(
    weights: list[torch.Tensor], rows: list[torch.Tensor], labels: torch.Tensor, exclusive: bool
) -> list[torch.Tensor]:
    """Of the mean loss of each seed's batch, by `weights`: rows (b, d) of each seed, labels (seeds, b, ...).

    They are written out, as for one layer they are short: (predicted - true) / (rows x classes) at the outputs.
    """
    import torch

    logits = torch.stack([product(some, weight.T) for some, weight in zip(rows, weights[0], strict=True)])
    logits += weights[1]
    if exclusive:
        difference = logits.softmax(dim=2)
        difference.scatter_add_(2, labels[:, :, None], torch.full((*labels.shape, 1), -1.0))
    else:
        difference = logits.sigmoid().sub_(labels.float())
    difference /= logits.shape[1] * logits.shape[2]
    by_weight = [product(error.T, some) for error, some in zip(difference, rows, strict=True)]
    return [torch.stack(by_weight), difference.sum(dim=1, keepdim=True)]


def _scores(
    weights: list[torch.Tensor], rows: torch.Tensor, problem: Problem, columns: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    import torch

    parts: list[Any] = []
    for part in chunks(rows.numpy()):
        logits = product(torch.from_numpy(part), weights[0].T) + weights[1]
        parts.append((logits.log_softmax(dim=1) if problem.exclusive else logits.sigmoid()).numpy())
    return spread(np.concatenate(parts), columns, len(problem.classes))
