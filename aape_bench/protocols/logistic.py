"""Logistic regression of standardised embeddings: what is minimised, and scikit-learn's way of doing it.

Over weights W (d, outputs) and free offsets,

    C * (sum of losses over rows) + ||W||^2 / 2

by L-BFGS-B, until no part of the gradient of the mean loss (with its share of the penalty) is above the tolerance.
Losses: multinomial where the target is positions of classes; otherwise each output's own, against the rest.

`Whole` has scikit-learn fit all rows at once, in float64, outputs that are apart one after the other. What is too
large for that goes to `aape_bench.protocols.streamed`.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from aape_bench.protocols.common import Scaler, chunks

#: What a fit may have at most to be done whole: rows x dimensions, which are copied to float64 (0.8 GB), and rows x
#: dimensions x outputs, two of whose products are one step of the solver.
LARGEST_COPY, LARGEST_PRODUCT = 10**8, 10**9

_heard = threading.local()


@dataclass(frozen=True)
class Lesson:
    """Rows to learn from.

    embeddings: (clips, d) float32, also a view or memory-mapped. rows: (n,) of them, ascending. target: (n,) int64,
    positions of exclusive classes, or (n, outputs) bool.
    """

    embeddings: npt.NDArray[np.float32]
    rows: npt.NDArray[np.int64]
    scaler: Scaler
    target: npt.NDArray[Any]

    @property
    def exclusive(self) -> bool:
        """Whether the loss is multinomial."""
        return self.target.ndim == 1

    @property
    def outputs(self) -> int:
        """Columns of the weights."""
        return int(self.target.max()) + 1 if self.exclusive else self.target.shape[1]


@dataclass(frozen=True)
class Solution:
    """weights: (d, outputs), offsets: (outputs,), float64, for standardised rows; whether they reach the tolerance."""

    weights: npt.NDArray[np.float64]
    offsets: npt.NDArray[np.float64]
    converged: bool


class Fitter(Protocol):
    """Fits one lesson."""

    def fit(self, strength: float, start: Solution | None) -> Solution:
        """The solution at C = strength. start: where the solver begins, None: at zero."""
        ...


def too_large(rows: int, dimensions: int, outputs: int) -> bool:
    """Whether fits of this shape are streamed."""
    return rows * dimensions > LARGEST_COPY or rows * dimensions * outputs > LARGEST_PRODUCT


@contextmanager
def hearing_of_convergence() -> Iterator[None]:
    """Within, `Whole` hears of fits that did not converge.

    scikit-learn only warns. `warnings.catch_warnings` is all threads' at once: the thread that waits for the others
    enters this, and each warning comes to the thread that gave it.
    """
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("always", ConvergenceWarning)
        others = warnings.showwarning

        def hear(message: Any, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, ConvergenceWarning):
                _heard.unsolved = True
            else:
                others(message, category, *where, **more)

        warnings.showwarning = hear
        yield


class Whole:
    """scikit-learn's LogisticRegression, on a standardised copy of all rows."""

    def __init__(self, lesson: Lesson, tolerance: float, max_iterations: int) -> None:
        self.lesson, self.tolerance, self.max_iterations = lesson, tolerance, max_iterations
        width = lesson.embeddings.shape[1]
        self.standardised = np.empty((len(lesson.rows), width))
        at = 0
        for part in chunks(lesson.rows, width):
            piece = self.standardised[at : at + len(part)]
            np.subtract(lesson.embeddings[part], lesson.scaler.mean, out=piece)
            piece /= lesson.scaler.scale
            at += len(part)

    def fit(self, strength: float, start: Solution | None) -> Solution:
        """See `Fitter`; within `hearing_of_convergence`."""
        target = self.lesson.target
        if self.lesson.exclusive:
            return self._fit(target, strength, start)
        weights = np.empty((self.standardised.shape[1], target.shape[1]))
        offsets = np.empty(target.shape[1])
        converged = True
        for at in range(target.shape[1]):
            before = start and Solution(start.weights[:, at : at + 1], start.offsets[at : at + 1], True)
            one = self._fit(target[:, at], strength, before)
            weights[:, at], offsets[at] = one.weights[:, 0], one.offsets[0]
            converged &= one.converged
        return Solution(weights, offsets, converged)

    def _fit(self, target: npt.NDArray[Any], strength: float, start: Solution | None) -> Solution:
        from sklearn.linear_model import LogisticRegression

        probe = LogisticRegression(C=strength, tol=self.tolerance, max_iter=self.max_iterations, warm_start=True)
        if start is not None:
            probe.coef_, probe.intercept_ = start.weights.T, start.offsets
        _heard.unsolved = False
        probe.fit(self.standardised, target)
        return Solution(probe.coef_.T, probe.intercept_, not _heard.unsolved)
