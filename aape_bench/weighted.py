"""Every metric as a weighted statistic: the score is the statistic with all weights 1 (see `aape_bench.metrics`).

Metrics by HEAR's names have hear-eval-kit's values, save that a class without both positive and negative test clips
is left out of a mean over classes. So is, in a bootstrap draw, a class that the draw leaves without.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from aape_bench.errors import DataError, UsageError
from aape_bench.events import event_counts, event_score, quotient
from aape_bench.predictions import Predictions, subset
from aape_bench.ranking import Ranking, countable
from aape_bench.resampling import INTERVAL_METHOD
from aape_bench.task import Kind

Array = npt.NDArray[np.float64]
Figures = Callable[[npt.NDArray[np.float32]], Array]


@dataclass(frozen=True)
class Metric:
    """One metric.

    figures: (predictions of one fold, repeat) -> a function from weights (clips, draws) to what the score is made of,
             (..., draws). Metrics that share it are computed in one pass.
    score:   those figures -> (draws,); NaN where undefined.
    chance:  what a classifier that has learned nothing gets, None where that has no plain meaning.
    classes: the classes of one fold that the metric averages over; None: it is no mean over classes.
    limits:  where given, bootstrap draws are shifted so that their median is the score, and kept within these. A
             clip drawn twice is its own neighbour in a ranking: average precision on resamples is higher than on
             the clips themselves, by more than the interval's width where classes are rare; and d' is convex.
    share:   of the clips, so that it is 1 exactly where every clip is right.
    """

    name: str
    title: str
    kinds: tuple[Kind, ...]
    higher_is_better: bool
    figures: Callable[[Predictions, int], Figures]
    score: Callable[[Array], Array]
    chance: Callable[[Predictions], float | None]
    classes: Callable[[Predictions], list[str]] | None = None
    limits: tuple[float, float] | None = None
    share: bool = False

    @property
    def of_scores(self) -> bool:
        """Whether it needs `Predictions.scores`; otherwise what was decided is enough."""
        return self.figures in (ranked, _first_hits)

    @property
    def interval_method(self) -> str:
        """How the interval of the score is made, in words."""
        return INTERVAL_METHOD + (", shifted so that their median is the score" if self.limits else "")


def by_fold(predictions: Predictions) -> dict[str, Predictions]:
    """The clips of each fold, in order of the folds' names."""
    folds = np.unique(predictions.folds)
    if len(folds) == 1:
        return {str(folds[0]): predictions}
    return {str(fold): subset(predictions, np.flatnonzero(predictions.folds == fold)) for fold in folds}


def positives(truth: Sequence[Any], classes: Sequence[str]) -> npt.NDArray[np.bool_]:
    """(clips, classes): which classes each clip is of; `truth` holds names or tuples of names.

    Raises DataError where a clip is of a class that is not among `classes`.
    """
    column = {name: at for at, name in enumerate(classes)}
    table = np.zeros((len(truth), len(classes)), bool)
    for row, label in enumerate(truth):
        for name in (label,) if isinstance(label, str) else label:
            if name not in column:
                raise DataError(f'The predictions have no scores of the class "{name}", which a test clip is of.')
            table[row, column[name]] = True
    return table


# Sums over clips: accuracies, events, means of values.


def _sums(parts: Any) -> Figures:
    """Weighted sums over clips of `parts` (figures, clips), dense or sparse."""
    from scipy.sparse import csr_array

    table = csr_array(parts, dtype=np.float64)
    return lambda weights: np.asarray(table @ weights.astype(np.float64))


def _ratio(sums: Array) -> Array:
    return quotient(sums[0], sums[1])


def _hits(same: Callable[[str], Any], part: Predictions, repeat: int) -> Figures:
    right = [same(truth) == same(said) for truth, said in zip(part.truth, part.decided[repeat], strict=True)]
    return _sums(np.stack([right, np.ones(len(right))]))


def _first_hits(part: Predictions, repeat: int) -> Figures:
    # hear-eval-kit: the highest score against the first of a clip's classes; a clip of none counts as of the first
    if part.kind == "multiclass":
        return _hits(str, part, repeat)
    assert part.scores is not None
    first = positives(part.truth, part.classes).argmax(axis=1)
    right = part.scores[repeat].argmax(axis=1) == first
    return _sums(np.stack([right, np.ones(len(right))]))


def _chroma(label: str) -> int:
    try:
        return int(label) % 12
    except ValueError:
        raise UsageError(
            f'The metric chroma_acc needs classes that are MIDI pitches; "{label}" is none. Choose another metric.'
        ) from None


def _hits_by_class(part: Predictions, repeat: int) -> Figures:
    from scipy.sparse import csr_array

    names, truth = np.unique(np.asarray(part.truth, dtype=object), return_inverse=True)
    right = np.array([a == b for a, b in zip(part.truth, part.decided[repeat], strict=True)], float)
    clips = np.arange(len(truth))
    row = np.concatenate([truth, truth + len(names)])
    column = np.concatenate([clips, clips])
    shape = (2 * len(names), len(truth))
    return _sums(csr_array((np.concatenate([right, np.ones(len(truth))]), (row, column)), shape=shape))


def _mean_recall(sums: Array) -> Array:
    right, clips = np.split(sums, 2)
    return _mean_defined(quotient(right, clips))


def _mean_defined(values: Array) -> Array:
    """(classes, draws) -> (draws,): the mean over classes that are not NaN."""
    there = ~np.isnan(values)
    with np.errstate(invalid="ignore"):  # a d' of +inf beside one of -inf: undefined
        total = np.where(there, values, 0).sum(axis=0)
    return quotient(total, there.sum(axis=0).astype(float))


def value_metric(name: str) -> Metric:
    """The mean over clips of one of `Predictions.values`; clips where it is NaN do not count."""

    def figures(part: Predictions, _: int) -> Figures:
        there = ~np.isnan(part.values[name])
        return _sums(np.stack([np.where(there, part.values[name], 0), there]))

    return Metric(name, name, ("multiclass", "multilabel", "event"), True, figures, _ratio, lambda _: None)


def _event_figures(metric: str, part: Predictions, repeat: int) -> Figures:
    return _sums(np.asarray(event_counts(metric, part.truth, part.decided[repeat]), float).T)


def _event_score(metric: str, sums: Array) -> Array:
    return np.asarray(event_score(metric, sums.T), dtype=float)


# Rankings, one class against the rest.


def ranked(part: Predictions, repeat: int) -> Ranking:
    """The ranking of one fold's clips by one repeat's scores."""
    assert part.scores is not None, "events are not ranked"
    return Ranking(positives(part.truth, part.classes), part.scores[repeat])


def _mean_precision(figures: Array) -> Array:
    return _mean_defined(figures[0])


def _mean_auroc(figures: Array) -> Array:
    return _mean_defined(figures[1])


def _d_prime(figures: Array) -> Array:
    from scipy.special import ndtri

    return _mean_defined(np.sqrt(2) * ndtri(figures[1]))


def _ranked_classes(part: Predictions) -> list[str]:
    counted = countable(positives(part.truth, part.classes))
    return [name for name, there in zip(part.classes, counted, strict=True) if there]


# What comes by chance.


def _majority(same: Callable[[str], Any], predictions: Predictions) -> float:
    """The share of the most frequent label among all test clips."""
    _, counts = np.unique([str(same(label)) for label in predictions.truth], return_counts=True)
    return float(counts.max() / counts.sum())


def _first_majority(predictions: Predictions) -> float:
    if predictions.kind == "multiclass":
        return _majority(str, predictions)
    first = positives(predictions.truth, predictions.classes).argmax(axis=1)
    return float(np.bincount(first).max() / len(first))


def _one_class(predictions: Predictions) -> float:
    return float(np.mean([1 / len(set(part.truth)) for part in by_fold(predictions).values()]))


def _prevalence(predictions: Predictions) -> float | None:
    shares = []
    for part in by_fold(predictions).values():
        positive = positives(part.truth, part.classes)
        if not (counted := countable(positive)).any():
            return None
        shares.append(positive[:, counted].mean())
    return float(np.mean(shares))


def _accuracy(name: str, title: str, same: Callable[[str], Any] = str) -> Metric:
    chance = partial(_majority, same)
    return Metric(name, title, ("multiclass",), True, partial(_hits, same), _ratio, chance, share=True)


def _one_vs_rest(
    name: str,
    title: str,
    score: Callable[[Array], Array],
    chance: Callable[[Predictions], float | None],
    limits: tuple[float, float] = (0, 1),
) -> Metric:
    return Metric(name, title, ("multiclass", "multilabel"), True, ranked, score, chance, _ranked_classes, limits)


def _event(name: str, title: str, higher_is_better: bool = True) -> Metric:
    figures, score = partial(_event_figures, name), partial(_event_score, name)
    return Metric(name, title, ("event",), higher_is_better, figures, score, lambda _: None)


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in [
        _accuracy("accuracy", "accuracy"),
        Metric(
            "macro_accuracy",
            "mean recall of the classes",
            ("multiclass",),
            True,
            _hits_by_class,
            _mean_recall,
            _one_class,
            lambda part: sorted(set(part.truth)),
            share=True,
        ),
        _one_vs_rest("mAP", "mean average precision of the classes", _mean_precision, _prevalence),
        _one_vs_rest("aucroc", "mean area under the ROC curve", _mean_auroc, lambda _: 0.5),
        _one_vs_rest("d_prime", "mean d' of the classes", _d_prime, lambda _: 0.0, (-np.inf, np.inf)),
        Metric(
            "top1_acc",
            "accuracy (HEAR)",
            ("multiclass", "multilabel"),
            True,
            _first_hits,
            _ratio,
            _first_majority,
            share=True,
        ),
        _accuracy("pitch_acc", "pitch accuracy (HEAR)"),
        _accuracy("chroma_acc", "pitch accuracy up to octaves (HEAR)", _chroma),
        _event("event_onset_200ms_fms", "event F1, onsets within 200 ms"),
        _event("event_onset_50ms_fms", "event F1, onsets within 50 ms"),
        _event("event_onset_offset_50ms_20perc_fms", "event F1, onsets within 50 ms and offsets within 20 %"),
        _event("segment_1s_er", "error rate of 1 s segments", higher_is_better=False),
    ]
}

#: Kind of task -> the metrics that its records have without saying.
DEFAULTS: dict[Kind, tuple[str, ...]] = {
    "multiclass": ("accuracy", "macro_accuracy", "mAP", "aucroc", "d_prime"),
    "multilabel": ("mAP", "aucroc", "d_prime"),
    "event": tuple(name for name, metric in METRICS.items() if "event" in metric.kinds),
}
