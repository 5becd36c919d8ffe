"""Scores and their bootstrap intervals. Pure functions of arrays; no torch, no scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from aape_bench.errors import UsageError
from aape_bench.randomness import numpy_stream

DRAWS = 1000
LEVEL = 0.95
INTERVAL_METHOD = f"bootstrap percentile, {DRAWS} draws, groups (else clips) resampled within folds"

#: Metric -> the kind of task that it scores.
METRICS = {"accuracy": "multiclass"}


def check_metric(task: str, metric: str, kind: str) -> None:
    """Raise UsageError where a task's metric cannot be computed for its kind."""
    if METRICS.get(metric) != kind:
        raise UsageError(
            f'The task "{task}" asks for the metric "{metric}" on {kind} labels, which cannot be computed here. '
            f"There are: {', '.join(f'{name} ({of})' for name, of in METRICS.items())}."
        )


def accuracy(truth: Sequence[str] | npt.NDArray[np.str_], predicted: Sequence[str] | npt.NDArray[np.str_]) -> float:
    """Share of clips whose predicted class is the true one.

    >>> accuracy(["dog", "rain", "dog"], ["dog", "dog", "dog"])
    0.6666666666666666
    """
    return float(np.mean(np.asarray(truth) == np.asarray(predicted)))


def mean_over_folds(correct: npt.NDArray[np.bool_], folds: npt.NDArray[np.str_]) -> float:
    """Unweighted mean over folds of the share of correct clips; both arrays (n,)."""
    return float(np.mean([correct[folds == fold].mean() for fold in np.unique(folds)]))


def bootstrap_accuracy(
    correct: npt.NDArray[np.bool_],
    folds: npt.NDArray[np.str_],
    groups: Sequence[str | None],
    task: str,
    seed: int,
) -> npt.NDArray[np.float64] | None:
    """The score (`mean_over_folds`) on DRAWS resamples of the test clips.

    correct: (n,) or (seeds, n); with several seeds the statistic is the mean over them on the same resample.
    folds, groups: (n,). Within each fold whole groups are drawn with replacement, or clips where the task has
    no groups. The draws come from (task, seed) alone: two models on the same clips meet the same resamples, so
    differences may be taken draw by draw.
    Returns (DRAWS,), or None where a fold has a single group: nothing then says how much another would differ.
    """
    shares = np.atleast_2d(correct).mean(axis=0)
    units = np.array([f"clip {row}" if group is None else f"group {group}" for row, group in enumerate(groups)])
    per_fold = []
    for fold in np.unique(folds):
        inside = folds == fold
        # units in order of first appearance, so that the draws do not hang on how groups are spelled
        _, first, unit = np.unique(units[inside], return_index=True, return_inverse=True)
        unit = np.argsort(np.argsort(first))[unit]
        size = np.bincount(unit).astype(float)
        if len(size) < 2:
            return None
        right = np.bincount(unit, weights=shares[inside])
        rng = numpy_stream(seed, "bootstrap", task, str(fold))
        counts = rng.multinomial(len(size), np.full(len(size), 1 / len(size)), size=DRAWS)
        per_fold.append((counts @ right) / (counts @ size))
    return np.asarray(np.mean(per_fold, axis=0))


def interval(draws: npt.NDArray[np.float64]) -> tuple[float, float]:
    """The central 95 % of bootstrap draws."""
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def chance_accuracy(truth: Sequence[str] | npt.NDArray[np.str_]) -> float:
    """Accuracy of always naming the most frequent class of the test clips."""
    _, counts = np.unique(np.asarray(truth), return_counts=True)
    return float(counts.max() / counts.sum())
