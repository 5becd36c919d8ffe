"""Labels as the outputs of a logistic regression, and its solution as scores of classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from aape_bench.problem import Problem
from aape_bench.protocols.common import Scaler, chunks, spread
from aape_bench.protocols.logistic import Solution


@dataclass(frozen=True)
class Subject:
    """What some rows teach.

    target: as in `aape_bench.protocols.logistic.Lesson`; of two exclusive classes one output, which is the second.
    columns: the classes that the rows have (exclusive), or that some have and some have not. shares: (classes,)
    float32, of the rows that have each.
    """

    exclusive: bool
    target: npt.NDArray[Any]
    columns: npt.NDArray[np.int64]
    shares: npt.NDArray[np.float32]

    @property
    def certain(self) -> bool:
        """Whether nothing is to be learned: all rows are alike."""
        return len(self.columns) < (2 if self.exclusive else 1)


def subject(problem: Problem, rows: npt.NDArray[np.int64]) -> Subject:
    """What these rows of a problem teach."""
    labels = problem.labels[rows]
    if problem.exclusive:
        columns, positions = np.unique(labels, return_inverse=True)
        positions = positions.reshape(-1)
        shares = np.bincount(labels, minlength=len(problem.classes)) / len(rows)
        target = positions if len(columns) > 2 else positions[:, None] == 1
    else:
        shares = labels.mean(axis=0)
        columns = np.flatnonzero((shares > 0) & (shares < 1))
        target = labels[:, columns]
    return Subject(problem.exclusive, target, columns, shares.astype(np.float32))


@dataclass(frozen=True)
class Classifier:
    """A subject's solution; None where it is certain."""

    subject: Subject
    solution: Solution | None

    @property
    def converged(self) -> bool:
        """Whether the solver reached its tolerance."""
        return self.solution is None or self.solution.converged

    def scores(
        self, embeddings: npt.NDArray[np.float32], rows: npt.NDArray[np.int64], scaler: Scaler
    ) -> npt.NDArray[np.float32]:
        """(rows, classes): log-probabilities of exclusive classes, LOWEST of those without rows; else probabilities."""
        scores = np.empty((len(rows), len(self.subject.shares)), np.float32)
        at = 0
        for part in chunks(rows, max(embeddings.shape[1], scores.shape[1])):
            scores[at : at + len(part)] = self._scores((embeddings[part] - scaler.mean) / scaler.scale)
            at += len(part)
        return scores

    def _scores(self, standardised: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        from scipy.special import expit, log_expit, log_softmax

        columns, shares, n = self.subject.columns, self.subject.shares, len(standardised)
        logits = np.zeros((n, 0)) if self.solution is None else standardised @ self.solution.weights
        if self.solution is not None:
            logits += self.solution.offsets
        if not self.subject.exclusive:
            scores = np.tile(shares, (n, 1))
            scores[:, columns] = expit(logits)
            return scores
        if len(columns) < 3:
            logits = np.hstack([log_expit(-logits), log_expit(logits)]) if len(columns) == 2 else np.zeros((n, 1))
        else:
            logits = log_softmax(logits, axis=1)
        return spread(logits, columns, len(shares))
