"""`linear`: L2-regularised multinomial logistic regression on standardised, frozen scene embeddings.

For each rotation: standardise on the training clips, fit scikit-learn's LogisticRegression to convergence for
every strength of a log grid, choose by accuracy on the validation clips (ties go to the smaller C), then refit
scaler and classifier on training + validation with the chosen strength and predict the test clips.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from aape_bench.clip_table import Rotation
from aape_bench.errors import UsageError
from aape_bench.protocols import Outcome

if TYPE_CHECKING:
    import pandas as pd

KINDS = ("multiclass",)

#: Score of a class that a rotation never trained on (log-probabilities, float32).
LOWEST = np.finfo(np.float32).min


@dataclass(frozen=True)
class Settings:
    """c_min, c_max: the grid is C = 10**k for whole k from c_min to c_max.

    tolerance, max_iterations: of the L-BFGS solver; a fit that does not reach the tolerance is recorded.
    """

    c_min: int = -4
    c_max: int = 3
    tolerance: float = 1e-4
    max_iterations: int = 10000

    def __post_init__(self) -> None:
        if self.c_min > self.c_max:
            raise UsageError(f"linear: c_min={self.c_min} must not be above c_max={self.c_max}.")
        if not (self.c_min >= -12 and self.c_max <= 12):
            raise UsageError("linear: c_min and c_max are powers of ten and must lie in -12 .. 12.")
        if self.tolerance <= 0 or self.max_iterations < 1:
            raise UsageError("linear: tolerance and max_iterations must be above 0.")


def fit_predict(
    embeddings: npt.NDArray[np.float32],
    table: pd.DataFrame,
    rotations: Sequence[Rotation],
    settings: Settings,
    seed: int,  # noqa: ARG001  (the solver draws nothing)
    advance: Callable[[int], None],
) -> Outcome:
    """Predict every test clip once; see the module's text.

    embeddings: (n, d) float32, rows as in the clip table. `advance(1)` is called after each rotation.
    Scores are the predicted log-probabilities; a class that a rotation never trained on has the lowest score.
    """
    import sklearn.linear_model  # noqa: F401  (its thread pools must be loaded before they can be limited)
    from threadpoolctl import threadpool_limits

    names = table["label"].to_numpy(str)
    classes = sorted(set(names.tolist()))
    scores = np.full((len(names), len(classes)), LOWEST, dtype=np.float32)
    fold = np.full(len(names), "", dtype=object)
    predicted = np.full(len(names), "", dtype=object)
    choices = []
    # one BLAS thread: the sum order, and with it every bit, is then the same on any number of cores
    with threadpool_limits(limits=1):
        for rotation in rotations:
            scaler, probe, choice = _fit_rotation(embeddings, names, rotation, settings)
            clips = scaler.transform(_double(embeddings, rotation.test))
            columns = np.searchsorted(classes, probe.classes_)
            scores[rotation.test[:, None], columns] = np.maximum(probe.predict_log_proba(clips), LOWEST)
            predicted[rotation.test] = probe.predict(clips)
            fold[rotation.test] = rotation.name
            choices.append(choice)
            advance(1)
    test = np.sort(np.concatenate([rotation.test for rotation in rotations]))
    fits = [fit for choice in choices for fit in (*choice["tried"], {"converged": choice["refit_converged"]})]
    unsolved = sum(not fit["converged"] for fit in fits)
    remarks = [f"{unsolved} of {len(fits)} fits did not converge in max_iterations."] if unsolved else []
    return Outcome(test, fold[test].astype(str), predicted[test].astype(str), scores[test], classes, choices, remarks)


def _fit_rotation(
    embeddings: npt.NDArray[np.float32], names: npt.NDArray[np.str_], rotation: Rotation, settings: Settings
) -> tuple[Any, Any, dict[str, Any]]:
    """Scaler and classifier refitted on training + validation with the strength that validation chose."""
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler()
    train = scaler.fit_transform(_double(embeddings, rotation.train))
    validation = scaler.transform(_double(embeddings, rotation.validation))
    tried = []
    for exponent in range(settings.c_min, settings.c_max + 1):
        probe, converged = _fit(train, names[rotation.train], 10.0**exponent, settings)
        right = probe.predict(validation) == names[rotation.validation]
        tried.append({"C": 10.0**exponent, "validation_accuracy": float(right.mean()), "converged": converged})
    best = max(tried, key=lambda point: point["validation_accuracy"])  # the first, smallest C among equals
    both = np.sort(np.concatenate([rotation.train, rotation.validation]))
    scaler = StandardScaler()
    probe, converged = _fit(scaler.fit_transform(_double(embeddings, both)), names[both], best["C"], settings)
    choice = {"fold": rotation.name, "tried": tried, "chosen": {"C": best["C"]}, "refit_converged": converged}
    return scaler, probe, choice


def _fit(
    embeddings: npt.NDArray[np.float64], names: npt.NDArray[np.str_], strength: float, settings: Settings
) -> tuple[Any, bool]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    probe = LogisticRegression(C=strength, tol=settings.tolerance, max_iter=settings.max_iterations)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        probe.fit(embeddings, names)
    return probe, not any(issubclass(w.category, ConvergenceWarning) for w in caught)


def _double(embeddings: npt.NDArray[np.float32], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    return embeddings[rows].astype(np.float64)
