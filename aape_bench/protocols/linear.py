"""`linear`: L2-regularised logistic regression on standardised, frozen embeddings, solved to convergence.

For each rotation: standardise on the training rows, fit for strengths C of a log grid, choose by the task's metric on
the validation rows (ties go to the smaller C), then refit scaler and classifier on training + validation with the
chosen strength and score the test rows.

The grid is gone through from its smallest C, each fit begun where the one before ended, the refit where the chosen one
did. With path=cut it is left where validation fell at two strengths in a row: each below the best by more than
1 / (2 sqrt(n)), the most that the standard error of a share of n validation rows can be. path=whole tries all.

Exclusive labels: multinomial; scores are log-probabilities. Others: one classifier against the rest per class, all
with one strength; scores are probabilities, and a class that all or none of the training rows have gets that share.

With solver=auto, scikit-learn's LogisticRegression fits in float64 up to 1e8 rows x dimensions and 1e9 rows x
dimensions x outputs of a rotation; what is larger is streamed: the same objective and L-BFGS, by pieces of rows, on
`device`. Shape alone decides, and the choice is recorded. A separable problem at a large C is "solved" once the
gradient is below the tolerance; the two solvers then stop at different points.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from aape_bench.clip_table import Rotation
from aape_bench.errors import UsageError
from aape_bench.problem import Fit, Problem
from aape_bench.protocols.classifier import Classifier, subject
from aape_bench.protocols.common import Scaler, fit_scaler, judged, one_thread, plain, side_by_side, threads_allowed
from aape_bench.protocols.logistic import LARGEST_COPY, Fitter, Lesson, Whole, hearing_of_convergence, too_large
from aape_bench.protocols.streamed import Streamed, centred

#: Helpers whose code decides results as well.
SOURCES = tuple(f"aape_bench.protocols.{name}" for name in ("classifier", "common", "logistic", "streamed"))

#: Strengths in a row at which validation has fallen, that end the path.
FALLEN = 2

#: Rows x dimensions x outputs of all rotations below which threads would cost more than they save.
_SMALL = 10**7


@dataclass(frozen=True)
class Settings:
    """c_min, c_max: the grid is C = 10**k for whole k from c_min to c_max.

    tolerance, max_iterations: of the L-BFGS solver; a fit that does not reach the tolerance is recorded.
    path: whether the grid is cut where validation falls. solver: auto, by shape. device: of the streamed solver; any
    but the CPU streams whatever the shape.
    """

    c_min: int = -4
    c_max: int = 3
    tolerance: float = 1e-4
    max_iterations: int = 10000
    path: Literal["cut", "whole"] = "cut"
    solver: Literal["auto", "scikit-learn", "streamed"] = "auto"
    device: Literal["cpu", "cuda"] = "cpu"

    def __post_init__(self) -> None:
        if self.c_min > self.c_max:
            raise UsageError(f"linear: c_min={self.c_min} must not be above c_max={self.c_max}.")
        if not (self.c_min >= -12 and self.c_max <= 12):
            raise UsageError("linear: c_min and c_max are powers of ten and must lie in -12 .. 12.")
        if self.tolerance <= 0 or self.max_iterations < 1:
            raise UsageError("linear: tolerance and max_iterations must be above 0.")
        if self.device != "cpu" and self.solver == "scikit-learn":
            raise UsageError(f"linear: solver=scikit-learn runs on the CPU, not on device={self.device}.")


@dataclass(frozen=True)
class Probe:
    """A trained probe: scaler and classifier of one rotation, for any embeddings of the same encoder.

    validation: (validation rows, classes) float32, by the chosen classifier before the refit on training +
    validation. choice, remarks: as in `aape_bench.problem.Fit`.
    """

    scaler: Scaler
    classifier: Classifier
    validation: npt.NDArray[np.float32]
    choice: dict[str, Any]
    remarks: list[str] = field(default_factory=list)

    def scores(self, embeddings: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """(n, d) -> (n, classes) float32: log-probabilities of exclusive classes, else probabilities."""
        with one_thread(use_torch=False):
            return self.classifier.scores(embeddings, np.arange(len(embeddings)), self.scaler)


def fit(problem: Problem, settings: Settings, seed: int, advance: Callable[[int], None]) -> list[Fit]:  # noqa: ARG001
    """One Fit per rotation; see the module's text. (The solver draws nothing from the seed.)"""

    def whole(rotation: Rotation) -> Fit:
        probe = _probe(problem, rotation, settings, threads)
        test = probe.classifier.scores(problem.embeddings, rotation.test, probe.scaler)
        return Fit(test[None], probe.validation[None], probe.choice, probe.remarks)

    threads = threads_allowed()
    fits = []
    with _computing(problem, problem.rotations, settings):
        for one in side_by_side(whole, problem.rotations, _rotations_at_once(problem, settings, threads)):
            fits.append(one)
            advance(1)
    return fits


def fit_probe(problem: Problem, rotation: Rotation, settings: Settings) -> Probe:
    """The probe of one rotation, of the strength that validation chose, refitted on training + validation."""
    threads = threads_allowed()
    with _computing(problem, [rotation], settings):
        return _probe(problem, rotation, settings, threads)


def _streams(problem: Problem, rotation: Rotation, settings: Settings) -> bool:
    if settings.solver != "auto":
        return settings.solver == "streamed"
    return settings.device != "cpu" or too_large(*_shape(problem, rotation))


def _shape(problem: Problem, rotation: Rotation) -> tuple[int, int, int]:
    return len(rotation.train) + len(rotation.validation), problem.embeddings.shape[1], len(problem.classes)


def _rotations_at_once(problem: Problem, settings: Settings, threads: int) -> int:
    """A streamed fit has all threads for itself; of others' copies of the rows two of the largest are kept at most."""
    if any(_streams(problem, rotation, settings) for rotation in problem.rotations):
        return 1
    shapes = [_shape(problem, rotation) for rotation in problem.rotations]
    if sum(rows * width * outputs for rows, width, outputs in shapes) < _SMALL:
        return 1
    return max(1, min(threads, 2 * LARGEST_COPY // max(rows * width for rows, width, _ in shapes)))


@contextmanager
def _computing(problem: Problem, rotations: Sequence[Rotation], settings: Settings) -> Iterator[None]:
    if settings.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise UsageError("linear: device=cuda is set, but PyTorch sees no CUDA device. Use device=cpu.")
    streams = any(_streams(problem, rotation, settings) for rotation in rotations)
    with one_thread(use_torch=streams), hearing_of_convergence():
        yield


class _Course:
    """One rotation's fits of some rows: their scaler and, for every strength, a classifier."""

    def __init__(
        self, problem: Problem, rows: npt.NDArray[np.int64], settings: Settings, streams: bool, threads: int
    ) -> None:
        scaler = fit_scaler(problem.embeddings, rows)
        self.scaler = centred(scaler) if streams else scaler
        self.subject = subject(problem, rows)
        self.fitter: Fitter | None = None
        if not self.subject.certain:
            lesson = Lesson(problem.embeddings, rows, self.scaler, self.subject.target)
            how = settings.tolerance, settings.max_iterations
            self.fitter = Streamed(lesson, *how, settings.device, threads) if streams else Whole(lesson, *how)

    def classifier(self, strength: float, start: Classifier | None) -> Classifier:
        """Of C = strength, its solver begun from another classifier where that has the same classes."""
        if self.fitter is None:
            return Classifier(self.subject, None)
        before = None
        if start is not None and np.array_equal(start.subject.columns, self.subject.columns):
            before = start.solution
        return Classifier(self.subject, self.fitter.fit(strength, before))


def _probe(problem: Problem, rotation: Rotation, settings: Settings, threads: int) -> Probe:
    streams = _streams(problem, rotation, settings)
    grid = [10.0**exponent for exponent in range(settings.c_min, settings.c_max + 1)]
    course = _Course(problem, rotation.train, settings, streams, threads)
    tried: list[dict[str, Any]] = []
    classifier, chosen, best, fallen = None, None, -np.inf, 0
    chance = 0.5 / math.sqrt(max(1, len(rotation.validation)))
    for strength in grid:
        classifier = course.classifier(strength, classifier)
        scores = classifier.scores(problem.embeddings, rotation.validation, course.scaler)
        quality = judged(problem, rotation.validation, scores)
        tried.append({"C": strength, "validation": plain(quality), "converged": classifier.converged})
        fallen = fallen + 1 if quality < best - chance else 0
        if chosen is None or quality > best:  # the first, smallest C among equals
            chosen, best, validation, start = strength, quality, scores, classifier
        if fallen == FALLEN and settings.path == "cut":
            break
    assert chosen is not None
    del course  # its copy of the rows, before the next is made
    both = np.sort(np.concatenate([rotation.train, rotation.validation]))
    course = _Course(problem, both, settings, streams, threads)
    classifier = course.classifier(chosen, start)
    choice: dict[str, Any] = {
        "fold": rotation.name,
        "solver": "streamed" if streams else "scikit-learn",
        "tried": tried,
        "chosen": {"C": chosen},
        "refit_converged": classifier.converged,
    }
    if len(tried) < len(grid):
        why = f"validation was below its best by more than chance at {FALLEN} strengths in a row"
        choice["untried"] = {"C": grid[len(tried) :], "why": why}
    unsolved = sum(not point["converged"] for point in tried) + (not classifier.converged)
    remarks = [f"Fold {rotation.name}: {unsolved} of {len(tried) + 1} fits did not converge in max_iterations."]
    return Probe(course.scaler, classifier, validation, choice, remarks if unsolved else [])
