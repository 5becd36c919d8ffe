"""`linear`: L2-regularised multinomial logistic regression on standardised, frozen scene embeddings.

For each rotation: standardise on the training clips, fit scikit-learn's LogisticRegression to convergence for
every strength of a log grid, choose by accuracy on the validation clips (ties go to the smaller C), then refit
scaler and classifier on training + validation with the chosen strength and predict the test clips.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from aape_bench.clip_table import Rotation
from aape_bench.errors import UsageError
from aape_bench.protocols import Outcome

VERSION = 1

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
    labels: Sequence[str],
    rotations: Sequence[Rotation],
    settings: Settings,
    seed: int,  # noqa: ARG001  (the solver draws nothing)
    advance: Callable[[int], None],
) -> Outcome:
    """Predict every test clip once; see the module's text.

    embeddings: (n, d) float32 in clip-table order; labels: (n,). `advance(1)` is called after each rotation.
    Scores are the predicted log-probabilities; a class that a rotation never trained on has the lowest score.
    """
    import sklearn.linear_model  # noqa: F401  (its thread pools must be loaded before they can be limited)
    from threadpoolctl import threadpool_limits

    names = np.asarray(labels)
    classes = sorted(set(labels))
    scores = np.full((len(names), len(classes)), LOWEST, dtype=np.float32)
    fold = np.full(len(names), "", dtype=object)
    predicted = np.full(len(names), "", dtype=object)
    choices = []
    # one BLAS thread: the sum order, and with it every bit, is then the same on any number of cores
    with threadpool_limits(limits=1):
        for rotation in rotations:
            probe, choice = _fit_rotation(embeddings, names, rotation, settings)
            clips = embeddings[rotation.test].astype(np.float64)
            columns = np.searchsorted(classes, probe.classes_)
            scores[rotation.test[:, None], columns] = np.maximum(probe.predict_log_proba(clips), LOWEST)
            predicted[rotation.test] = probe.predict(clips)
            fold[rotation.test] = rotation.name
            choices.append(choice)
            advance(1)
    test = np.sort(np.concatenate([rotation.test for rotation in rotations]))
    return Outcome(test, fold[test].astype(str), predicted[test].astype(str), scores[test], classes, choices)


def _fit_rotation(
    embeddings: npt.NDArray[np.float32], names: npt.NDArray[np.str_], rotation: Rotation, settings: Settings
) -> tuple[Any, dict[str, Any]]:
    train, validation = rotation.train, rotation.validation
    tried = []
    for exponent in range(settings.c_min, settings.c_max + 1):
        probe, converged = _fit(embeddings[train], names[train], 10.0**exponent, settings)
        right = probe.predict(embeddings[validation].astype(np.float64)) == names[validation]
        tried.append({"C": 10.0**exponent, "validation_accuracy": float(right.mean()), "converged": converged})
    best = max(tried, key=lambda point: point["validation_accuracy"])  # the first, smallest C among equals
    both = np.sort(np.concatenate([train, validation]))
    probe, converged = _fit(embeddings[both], names[both], best["C"], settings)
    choice = {"fold": rotation.name, "tried": tried, "chosen": {"C": best["C"]}, "refit_converged": converged}
    return probe, choice


def _fit(
    embeddings: npt.NDArray[np.float32], names: npt.NDArray[np.str_], strength: float, settings: Settings
) -> tuple[Any, bool]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(
        StandardScaler(),
        LogisticRegression(C=strength, tol=settings.tolerance, max_iter=settings.max_iterations),
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        probe.fit(embeddings.astype(np.float64), names)
    return probe, not any(issubclass(w.category, ConvergenceWarning) for w in caught)
