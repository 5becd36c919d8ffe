"""Logistic regression of embeddings that are too many to copy: value and gradient are summed over pieces of rows.

The objective of `aape_bench.protocols.logistic`, minimised by scipy's L-BFGS-B with the options that scikit-learn
gives it; outputs against the rest are one problem together. Embeddings are standardised when they are read. The two
products with a piece are in float32, as the embeddings are, which halves their time. Logits, losses and the sums over
pieces are in float64: a small loss is the difference of large numbers. Pieces depend on the shape alone and are added
up in their order, so the number of threads changes no bit.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from aape_bench.protocols.common import Scaler, side_by_side
from aape_bench.protocols.logistic import Lesson, Solution

if TYPE_CHECKING:
    import torch

#: Numbers of a piece: of its embeddings and of its logits.
PIECE = 2**22


def centred(scaler: Scaler) -> Scaler:
    """The scaler that `Streamed` solves for: its mean is one of float32, so that subtracting it there is exact enough.

    The offsets are free, so any centre has the same optimum; scores have to be of the same one. A feature that hardly
    leaves zero, so that the inverse of its deviation would overflow there, is only centred.
    """
    scale = np.where(scaler.scale < np.finfo(np.float32).tiny, 1.0, scaler.scale)
    return replace(scaler, mean=scaler.mean.astype(np.float32).astype(np.float64), scale=scale)


class Streamed:
    """Fits of one lesson, whose scaler is `centred`. device: torch's name. threads: of the CPU, each with a piece."""

    def __init__(self, lesson: Lesson, tolerance: float, max_iterations: int, device: str, threads: int) -> None:
        self.lesson, self.tolerance, self.max_iterations = lesson, tolerance, max_iterations
        self.device, self.threads = device, threads
        self._mean = lesson.scaler.mean.astype(np.float32)
        self._factor = (1 / lesson.scaler.scale).astype(np.float32)
        size = max(1, PIECE // (lesson.embeddings.shape[1] + lesson.outputs))
        self._pieces = [slice(at, min(at + size, len(lesson.rows))) for at in range(0, len(lesson.rows), size)]
        self._free: list[npt.NDArray[np.float32]] = []  # memory that a piece was in

    def fit(self, strength: float, start: Solution | None) -> Solution:
        """See `aape_bench.protocols.logistic.Fitter`."""
        from scipy import optimize

        width, outputs = self.lesson.embeddings.shape[1], self.lesson.outputs
        first = np.zeros((width + 1, outputs))
        if start is not None:
            first[:-1], first[-1] = start.weights, start.offsets
        found = optimize.minimize(
            lambda flat: self._value_and_gradient(flat.reshape(first.shape), strength),
            first.ravel(),
            method="L-BFGS-B",
            jac=True,
            options={
                "maxiter": self.max_iterations,
                "maxls": 50,
                "gtol": self.tolerance,
                "ftol": 64 * np.finfo(float).eps,
            },
        )
        solved = found.x.reshape(first.shape)
        return Solution(solved[:-1], solved[-1], bool(found.status == 0))

    def _value_and_gradient(
        self, parameters: npt.NDArray[np.float64], strength: float
    ) -> tuple[float, npt.NDArray[np.float64]]:
        """The mean loss with its share of the penalty, by parameters (d + 1, outputs), the offsets last."""
        import torch

        weights = torch.from_numpy(parameters[:-1].astype(np.float32)).to(self.device)
        offsets = torch.from_numpy(parameters[-1].copy()).to(self.device)
        loss, by_weights, by_offsets = 0.0, torch.zeros(weights.shape, dtype=torch.float64), torch.zeros_like(offsets)
        by_weights = by_weights.to(self.device)
        for value, of_weights, of_offsets in side_by_side(
            lambda piece: self._piece(piece, weights, offsets), self._pieces, self.threads
        ):
            loss += value
            by_weights += of_weights
            by_offsets += of_offsets
        rows, penalty = len(self.lesson.rows), 1 / strength
        gradient = np.empty_like(parameters)
        gradient[:-1] = by_weights.cpu().numpy()
        gradient[:-1] += penalty * parameters[:-1]
        gradient[-1] = by_offsets.cpu().numpy()
        gradient /= rows
        loss += penalty / 2 * float(np.square(parameters[:-1]).sum())
        return loss / rows, gradient.ravel()

    def _piece(
        self, piece: slice, weights: torch.Tensor, offsets: torch.Tensor
    ) -> tuple[float, torch.Tensor, torch.Tensor]:
        """Sum of losses of some rows, and its gradient by weights (float32) and offsets."""
        import torch

        memory = self._standardised(piece)
        rows = torch.from_numpy(memory[: piece.stop - piece.start]).to(self.device)
        logits = (rows @ weights).double() + offsets
        target = torch.from_numpy(self.lesson.target[piece]).to(self.device)
        if self.lesson.exclusive:
            logits = logits.log_softmax(dim=1)
            right = target[:, None]
            loss = -logits.gather(1, right).sum()
            change = logits.exp_()
            change.scatter_add_(1, right, torch.full(right.shape, -1.0, dtype=torch.float64, device=self.device))
        else:
            sign = torch.where(target, -1.0, 1.0).double()
            logits *= sign
            loss = torch.nn.functional.softplus(logits).sum()
            change = logits.sigmoid_().mul_(sign)
        by_weights = (change.float().T @ rows).T
        by_offsets = change.sum(dim=0)
        value = float(loss)
        self._free.append(memory)
        return value, by_weights, by_offsets

    def _standardised(self, piece: slice) -> npt.NDArray[np.float32]:
        """(at least as many rows, d), in memory that another piece was in before, where there is some."""
        rows, embeddings = self.lesson.rows[piece], self.lesson.embeddings
        try:
            memory = self._free.pop()
        except IndexError:
            largest = self._pieces[0]
            memory = np.empty((largest.stop - largest.start, embeddings.shape[1]), np.float32)
        values = memory[: len(rows)]
        together = rows[-1] - rows[0] == len(rows) - 1  # then they need not be gathered first
        np.subtract(embeddings[rows[0] : rows[-1] + 1] if together else embeddings[rows], self._mean, out=values)
        values *= self._factor
        return memory
