"""Average precision and AUROC of many classes under many clip weightings at once.

Both depend on the weights only through how much weight lies at, and between, the distinct scores of a class's
positive clips. So each class is sorted once, and a thousand bootstrap draws are one sparse product with their
weights, of several classes at a time. Equal scores count together, as in scikit-learn's average_precision_score and
roc_auc_score with sample_weight.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from aape_bench.errors import DataError

Weighted = npt.NDArray[np.float32]
Array = npt.NDArray[np.float64]

# Positive clips of the classes that are taken together, save where one class has more: their sums stay in the cache.
_TOGETHER = 256


class Ranking:
    """`ranking(weights (clips, draws)) -> (2, counted classes, draws)`: average precision, then AUROC.

    positive: (clips, classes) bool. scores: (clips, classes), higher is likelier; DataError where one is NaN.
    counted: positions of the classes with at least one positive and one negative clip; the others have neither
    figure. A draw in which a class has only positive or only negative clips gives NaN there.
    """

    def __init__(self, positive: npt.NDArray[np.bool_], scores: npt.NDArray[np.floating[Any]]) -> None:
        if np.isnan(scores).any():
            raise DataError("The predictions hold scores that are no numbers (NaN), so clips cannot be ranked by them.")
        self.counted = np.flatnonzero(countable(positive))
        positive, scores = positive[:, self.counted], scores[:, self.counted]
        self._parts = [_Classes(positive[:, some], scores[:, some]) for some in _together(positive.sum(axis=0))]

    def __call__(self, weights: Weighted) -> Array:
        nothing = np.empty((2, 0, weights.shape[1]))
        return np.concatenate([nothing, *(part(weights) for part in self._parts)], axis=1)


def countable(positive: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Which classes (classes,) have at least one positive and one negative clip."""
    return np.asarray(positive.any(axis=0) & ~positive.all(axis=0))


def _together(positives: npt.NDArray[np.int64]) -> Iterator[slice]:
    """Portions of classes that have so many positive clips."""
    start = 0
    while start < len(positives):
        size = max(1, int(np.searchsorted(np.cumsum(positives[start:]), _TOGETHER, "right")))
        yield slice(start, start + size)
        start += size


class _Classes:
    """Some classes' figures. A level is a distinct score of a class's positive clips: by class, ascending.

    first:  (classes + 1,) the first level of each class, and the number of all.
    owner:  (levels,) the class of each.
    at, above: the places at each level, and between it and the next.
    places: sparse (2 levels + classes, clips), sums weights of clips, class by class: below its first level, at it,
            between it and the next, at that, ... above the last.
    hits:   sparse (levels, clips), sums weights of the positive clips at each level.
    """

    def __init__(self, positive: npt.NDArray[np.bool_], scores: npt.NDArray[np.floating[Any]]) -> None:
        from scipy.sparse import csr_array

        clips, classes = scores.shape
        owner, clip = np.nonzero(positive.T)
        order = np.lexsort((scores[clip, owner], owner))
        owner, clip = owner[order], clip[order]
        score = scores[clip, owner]
        new = np.ones(len(owner), bool)
        new[1:] = (owner[1:] != owner[:-1]) | (score[1:] != score[:-1])
        self.owner, levels = owner[new], score[new]
        self.first = np.searchsorted(self.owner, np.arange(classes + 1))
        # a class alone needs no copies
        own_places = 2 * np.arange(len(levels)) + self.owner + 1
        self.at: Any = own_places if classes > 1 else slice(1, None, 2)
        self.above: Any = own_places + 1 if classes > 1 else slice(2, None, 2)
        place = np.empty((classes, clips), np.int64)
        for at, (start, stop) in enumerate(zip(self.first[:-1], self.first[1:], strict=True)):
            own = levels[start:stop]
            place[at] = np.searchsorted(own, scores[:, at], "left") + np.searchsorted(own, scores[:, at], "right")
        place += self._lowest()[:, None]
        column = np.broadcast_to(np.arange(clips), place.shape)
        shape = (2 * len(levels) + classes, clips)
        self.places = csr_array((np.ones(place.size, np.float32), (place.ravel(), column.ravel())), shape=shape)
        shape = (len(levels), clips)
        self.hits = csr_array((np.ones(len(clip), np.float32), (np.cumsum(new) - 1, clip)), shape=shape)

    def __call__(self, weights: Weighted) -> Array:
        """(2, classes, draws): average precision and AUROC."""
        sums, hits_at = (self.places @ weights).astype(np.float64), (self.hits @ weights).astype(np.float64)
        at = sums[self.at]
        reached, hits = self._so_high(at + sums[self.above]), self._so_high(hits_at)
        total, positives = reached[self.first[:-1]] + sums[self._lowest()], hits[self.first[:-1]]
        precision = np.divide(hits, reached, out=np.zeros_like(hits), where=reached > 0)
        negatives = total - positives
        # negatives below a positive clip; of those at its score half
        beaten = (negatives[self.owner] - (reached - hits)) + (at - hits_at) / 2
        both = (positives > 0) & (negatives > 0)
        figures = np.full((2, *positives.shape), np.nan)
        np.divide(self._by_class(hits_at * precision), positives, out=figures[0], where=both)
        np.divide(self._by_class(hits_at * beaten), positives * negatives, out=figures[1], where=both)
        return figures

    def _lowest(self) -> npt.NDArray[np.int64]:
        """The place below each class's first level."""
        return np.asarray(2 * self.first[:-1] + np.arange(len(self.first) - 1))

    def _so_high(self, values: Array) -> Array:
        """(levels, draws): at each level the sum of it and those above of its class; exact for counts."""
        onwards = np.zeros((len(values) + 1, values.shape[1]))
        np.cumsum(values[::-1], axis=0, out=onwards[-2::-1])
        if len(self.first) == 2:
            return onwards[:-1]
        return np.asarray(onwards[:-1] - onwards[self.first[1:]][self.owner])

    def _by_class(self, values: Array) -> Array:
        # each class by itself: `np.add.reduceat` adds in another order, and records hold every digit
        edges = zip(self.first[:-1], self.first[1:], strict=True)
        return np.stack([values[start:stop].sum(axis=0) for start, stop in edges])
