"""Scores and their bootstrap intervals. Pure functions of predictions; no torch, no scikit-learn.

A metric is a weighted statistic of the test clips of one fold: the score is the statistic with all weights 1, a
bootstrap draw is the same statistic weighted by how often each clip was drawn. Scores are unweighted means over
folds, then over repeats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from aape_bench.errors import UsageError
from aape_bench.predictions import Predictions
from aape_bench.resampling import (
    DRAWS,
    EQUAL,
    LEVEL,
    SINGLE_UNIT,
    UNANIMOUS_METHOD,
    WIDE,
    Resamples,
    interval,
    resample,
    unanimous,
    units,
)
from aape_bench.weighted import DEFAULTS, METRICS, Array, Figures, Metric, by_fold, positives, ranked, value_metric

__all__ = ["DEFAULTS", "DRAWS", "LEVEL", "METRICS", "Metric"]


@dataclass(frozen=True)
class Measurement:
    """A score with its interval; what is undefined or infinite is None, and `reason` says why.

    low, high: the 95 % interval, made by `method`. folds: [{fold, score, clips, classes}], the score averaged over
    repeats, `classes` how many it is a mean over (None: it is no such mean). repeats: the score of each.
    classes: how many classes were counted in at least one fold.
    """

    score: float | None
    low: float | None
    high: float | None
    reason: str | None
    method: str | None
    folds: list[dict[str, Any]]
    repeats: list[float | None]
    classes: int | None


def check_metric(task: str, metric: str, kind: str) -> None:
    """Raise UsageError where a task's metric cannot be computed for its kind."""
    if metric not in METRICS or kind not in METRICS[metric].kinds:
        fitting = [name for name, known in METRICS.items() if kind in known.kinds]
        raise UsageError(
            f'The task "{task}" asks for the metric "{metric}" on {kind} labels, which cannot be computed here. '
            f"For such labels there are: {', '.join(fitting) or 'none'}."
        )


def lower_is_better(metric: str) -> bool:
    """Whether a smaller score is the better one; a metric that is not known here counts the usual way."""
    return metric in METRICS and not METRICS[metric].higher_is_better


def score(metric: str, predictions: Predictions) -> float:
    """The score alone, without interval; infinite or NaN where `measure` has None."""
    return _overall(_points(_Prepared({metric: METRICS[metric]}, by_fold(predictions)))[metric])


def quality(metric: str, labels: npt.NDArray[Any], scores: npt.NDArray[np.float32], classes: Sequence[str]) -> float:
    """How good scores are by a metric of multiclass or multilabel tasks: higher is better, -inf where undefined.

    labels: (rows,) positions in `classes`, or (rows, classes) bool. scores: (rows, classes).
    """
    names = list(classes)
    exclusive = labels.ndim == 1
    predictions = Predictions(
        kind="multiclass" if exclusive else "multilabel",
        ids=[str(row) for row in range(len(labels))],
        folds=np.full(len(labels), "validation"),
        groups=[None] * len(labels),
        truth=[names[row] if exclusive else tuple(names[at] for at in np.flatnonzero(row)) for row in labels],
        classes=names,
        scores=scores[np.newaxis],
        decided=[[names[at] for at in scores.argmax(axis=1)]] if exclusive else [],
    )
    value = score(metric, predictions)
    if np.isnan(value):
        return float("-inf")
    return value if METRICS[metric].higher_is_better else -value


def measure(metric: str, predictions: Predictions, task: str, seed: int) -> Measurement:
    """The score of one metric with its interval."""
    return measure_all([metric], predictions, task, seed)[metric]


def measure_all(metrics: Sequence[str], predictions: Predictions, task: str, seed: int) -> dict[str, Measurement]:
    """Several metrics at once: equal to `measure` of each, but metrics that rank share the work."""
    return _measure({name: METRICS[name] for name in metrics}, predictions, task, seed)


def measure_value(name: str, predictions: Predictions, task: str, seed: int) -> Measurement:
    """The mean over test clips of one of `predictions.values` ("R@1"); clips where it is NaN do not count."""
    return _measure({name: value_metric(name)}, predictions, task, seed)[name]


def draws(metric: str, predictions: Predictions | Sequence[Predictions], task: str, seed: int) -> Array | None:
    """The score on DRAWS resamples of the test clips (DRAWS,), or None where a fold has a single group or clip.

    Of several predictions of the same clips (seeds of one model) the score is their mean on the same resample.
    Shifted as `Metric.limits` says. A draw may be infinite (d') or NaN (no class counts in it).
    """
    several = [predictions] if isinstance(predictions, Predictions) else list(predictions)
    each = draws_of_each(metric, several, task, seed)
    if each is None:
        return None
    with np.errstate(invalid="ignore"):
        return np.asarray(np.mean(each, axis=0))


def draws_of_each(metric: str, several: Sequence[Predictions], task: str, seed: int) -> Array | None:
    """`draws` of each of several predictions of the same clips, (predictions, DRAWS): clips are drawn once for all."""
    return scores_and_draws(metric, several, task, seed)[1]


def scores_and_draws(metric: str, several: Sequence[Predictions], task: str, seed: int) -> tuple[Array, Array | None]:
    """`score` (predictions,) and `draws` (predictions, DRAWS) of each of several predictions of the same clips.

    Clips are drawn once for all, and what a metric sorts is sorted once for both.
    """
    first = several[0]
    for other in several[1:]:
        if list(other.ids) != list(first.ids) or (other.folds != first.folds).any():
            raise ValueError("predictions are averaged only where they are of the same clips")
    resamples = _resamples(by_fold(first), task, seed)
    how = METRICS[metric]
    points, each = [], []
    for one in several:
        prepared = _Prepared({metric: how}, by_fold(one))
        points.append(_overall(_points(prepared)[metric]))
        if resamples is not None:
            drawn = _draws(prepared, resamples)[metric]
            each.append(drawn if how.limits is None else _shifted(how, drawn, points[-1]))
    return np.array(points), np.array(each) if resamples is not None else None


@dataclass(frozen=True)
class Bounds:
    """A 95 % interval, how it was made, and why a bound is None."""

    low: float | None
    high: float | None
    method: str | None
    reason: str | None


def bounds_of_draws(metric: str, drawn: Array, predictions: Predictions) -> Bounds:
    """The interval that `draws` make; predictions: any one of those that they are of."""
    return _bounds(METRICS[metric], drawn, sum(int(units(p.groups).max()) + 1 for p in by_fold(predictions).values()))


def _bounds(metric: Metric, drawn: Array, count: int) -> Bounds:
    if (drawn == drawn[0]).all():
        sure = unanimous(count)
        if metric.share and drawn[0] in (0.0, 1.0):
            ends = (sure, 1.0) if drawn[0] else (0.0, 1 - sure)
            return Bounds(*ends, UNANIMOUS_METHOD, None)
        return Bounds(None, None, None, EQUAL)
    low, high = interval(drawn)
    return Bounds(low, high, metric.interval_method, WIDE if low is None or high is None else None)


def chance(metric: str, predictions: Predictions) -> float | None:
    """What a classifier that has learned nothing gets on these clips; None where that has no plain meaning."""
    return METRICS[metric].chance(predictions)


@dataclass(frozen=True)
class ClassFigures:
    """Figures of one class; None where undefined or of another kind of task.

    clips: test clips of that class. accuracy: share of them that is recognised (multiclass). average_precision,
    auroc: of the class against the rest, mean over the folds that have both (not event tasks). onset_f: event F1
    with onsets within 200 ms, mean over folds (event tasks). All are means over repeats.
    """

    name: str
    clips: int
    accuracy: float | None = None
    average_precision: float | None = None
    auroc: float | None = None
    onset_f: float | None = None


def per_class(predictions: Predictions) -> list[ClassFigures]:
    """The figures of every class, in the order of `predictions.classes`."""
    p = predictions
    clips = positives([_names(p.kind, label) for label in p.truth], p.classes).sum(axis=0)
    if p.kind == "event":
        found = {"onset_f": [_finite(score("event_onset_200ms_fms", _only(p, name))) for name in p.classes]}
    else:
        precision, auroc = _mean_rankings(p)
        found = {"average_precision": precision, "auroc": auroc}
    if p.kind == "multiclass":
        _, table = confusion(p)
        found["accuracy"] = [table[at, at] / table[at].sum() if table[at].any() else None for at in range(len(table))]
    return [
        ClassFigures(name, int(clips[at]), **{figure: values[at] for figure, values in found.items()})
        for at, name in enumerate(p.classes)
    ]


def confusion(predictions: Predictions) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Class names, and how many test clips of class i (row) were taken for class j (column), summed over repeats."""
    classes = list(predictions.classes)
    at = {name: number for number, name in enumerate(classes)}
    truth = np.array([at[name] for name in predictions.truth], dtype=np.int64)
    cells = np.zeros(len(classes) ** 2, np.int64)
    for decided in predictions.decided:
        said = np.array([at[name] for name in decided], dtype=np.int64)
        cells += np.bincount(truth * len(classes) + said, minlength=len(cells))
    return classes, cells.reshape(len(classes), len(classes))


def _names(kind: str, label: Any) -> tuple[str, ...]:
    if kind == "multiclass":
        return (label,)
    return tuple(label) if kind == "multilabel" else tuple({name for name, _, _ in label})


def _only(predictions: Predictions, name: str) -> Predictions:
    """The same clips with the events of one class alone."""
    truth = [tuple(event for event in clip if event[0] == name) for clip in predictions.truth]
    decided = [[tuple(e for e in clip if e[0] == name) for clip in repeat] for repeat in predictions.decided]
    return replace(predictions, truth=truth, decided=decided, classes=[name])


def _mean_rankings(predictions: Predictions) -> list[list[float | None]]:
    """Average precision and AUROC of every class."""
    classes = len(predictions.classes)
    total, count = np.zeros((2, classes)), np.zeros(classes)
    for part in by_fold(predictions).values():
        ones = np.ones((len(part.ids), 1), np.float32)
        for repeat in range(part.repeats):
            ranking = ranked(part, repeat)
            total[:, ranking.counted] += ranking(ones)[:, :, 0]
            count[ranking.counted] += 1
    return [[figure / n if n else None for figure, n in zip(row, count, strict=True)] for row in total.tolist()]


def _measure(metrics: Mapping[str, Metric], predictions: Predictions, task: str, seed: int) -> dict[str, Measurement]:
    parts = by_fold(predictions)
    prepared = _Prepared(metrics, parts)
    points = _points(prepared)
    resamples = _resamples(parts, task, seed)
    drawn = None if resamples is None else _draws(prepared, resamples)
    return {
        name: _measurement(metric, points[name], None if drawn is None else drawn[name], parts)
        for name, metric in metrics.items()
    }


class _Prepared:
    """Metrics of each fold and repeat as functions of weights, made on first use; those that share one get it once."""

    def __init__(self, metrics: Mapping[str, Metric], parts: Mapping[str, Predictions]) -> None:
        self.metrics, self.parts = metrics, parts
        self.repeats = next(iter(parts.values())).repeats
        self._made: dict[tuple[str, int], list[tuple[Figures, list[str]]]] = {}

    def of(self, fold: str, repeat: int) -> list[tuple[Figures, list[str]]]:
        """Functions, each with the names of its metrics."""
        if (fold, repeat) not in self._made:
            sharing: dict[Any, list[str]] = {}
            for name, metric in self.metrics.items():
                sharing.setdefault(metric.figures, []).append(name)
            part = self.parts[fold]
            self._made[fold, repeat] = [(prepare(part, repeat), names) for prepare, names in sharing.items()]
        return self._made[fold, repeat]


def _points(prepared: _Prepared) -> dict[str, Array]:
    """The score of every metric, (repeats, folds)."""
    points = {name: np.empty((prepared.repeats, len(prepared.parts))) for name in prepared.metrics}
    for at, (fold, part) in enumerate(prepared.parts.items()):
        ones = np.ones((len(part.ids), 1), np.float32)
        for repeat in range(prepared.repeats):
            for figures, names in prepared.of(fold, repeat):
                found = figures(ones)
                for name in names:
                    points[name][repeat, at] = prepared.metrics[name].score(found)[0]
    return points


def _overall(points: Array) -> float:
    """The score of (repeats, folds)."""
    with np.errstate(invalid="ignore"):
        return float(points.mean(axis=1).mean())


def _resamples(parts: Mapping[str, Predictions], task: str, seed: int) -> dict[str, Resamples] | None:
    """Those of every fold, or None where one has a single group or clip."""
    unit = {fold: units(part.groups) for fold, part in parts.items()}
    if any(of.max() == 0 for of in unit.values()):
        return None
    return {fold: resample(of, fold, task, seed) for fold, of in unit.items()}


def _draws(prepared: _Prepared, resamples: Mapping[str, Resamples]) -> dict[str, Array]:
    """The score of every metric on every resample, (DRAWS,) each."""
    drawn = {name: np.empty((len(prepared.parts), prepared.repeats, DRAWS)) for name in prepared.metrics}
    with np.errstate(invalid="ignore"):  # a d' of +inf beside one of -inf
        for at, fold in enumerate(prepared.parts):
            for repeat in range(prepared.repeats):
                for portion, weights in resamples[fold].weights():
                    for figures, names in prepared.of(fold, repeat):
                        found = figures(weights)
                        for name in names:
                            drawn[name][at, repeat, portion] = prepared.metrics[name].score(found)
        return {name: np.asarray(of.mean(axis=1).mean(axis=0)) for name, of in drawn.items()}


def _measurement(metric: Metric, points: Array, drawn: Array | None, parts: Mapping[str, Predictions]) -> Measurement:
    from aape_bench.clip_table import fold_order  # on use: pandas comes with it

    with np.errstate(invalid="ignore"):
        of_folds, of_repeats = points.mean(axis=0), points.mean(axis=1)
        overall = of_repeats.mean()
    reasons = [] if np.isfinite(overall) else [_why(points, list(parts))]
    bounds = Bounds(None, None, None, SINGLE_UNIT)
    if drawn is not None:
        counts = sum(int(units(part.groups).max()) + 1 for part in parts.values())
        bounds = _bounds(metric, _shifted(metric, drawn, overall), counts)
    if bounds.reason is not None:
        reasons.append(bounds.reason)
    counted = None if metric.classes is None else [metric.classes(part) for part in parts.values()]
    folds = [
        {
            "fold": fold,
            "score": _finite(of_folds[at]),
            "clips": len(part.ids),
            "classes": None if counted is None else len(counted[at]),
        }
        for at, (fold, part) in enumerate(parts.items())
    ]
    return Measurement(
        score=_finite(overall),
        low=bounds.low,
        high=bounds.high,
        method=bounds.method,
        reason="; ".join(reasons) or None,
        folds=sorted(folds, key=lambda entry: fold_order(str(entry["fold"]))),
        repeats=[_finite(value) for value in of_repeats],
        classes=None if counted is None else len({name for names in counted for name in names}),
    )


def _shifted(metric: Metric, drawn: Array, overall: float) -> Array:
    """The draws as `Metric.limits` says; NaN where score or median is infinite or undefined."""
    if metric.limits is None:
        return drawn
    middle = np.quantile(drawn, 0.5, method="lower")  # interpolates nothing: draws may be infinite
    if not np.isfinite([overall, middle]).all():
        return np.full_like(drawn, np.nan)
    return np.clip(drawn + (overall - middle), *metric.limits)


def _why(points: Array, folds: Sequence[str]) -> str:
    if np.isinf(points).any():
        fold = folds[int(np.argwhere(np.isinf(points))[0, 1])]
        return f"in fold {fold} a class has an AUROC of exactly 0 or 1, so that its d' is infinite"
    fold = folds[int(np.argwhere(np.isnan(points))[0, 1])]
    return f"the test clips of fold {fold} hold nothing that the metric counts"


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
