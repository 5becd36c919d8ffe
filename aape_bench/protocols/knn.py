"""`knn`: the nearest neighbours by cosine similarity of frozen embeddings; nothing is trained.

For each rotation k is chosen from a few by the task's metric on the validation rows, looked up among the training
rows (ties go to the smaller k); the test rows are then looked up among training + validation. Rows of equal
similarity come in their own order; an embedding of zeros is equally far from all.

Exclusive labels: a class's score is its share of the k votes, plus a part of one vote that puts classes with equally
many in the order of their summed similarity, then of their nearest row; so the highest score is the decision.
Others: the share of the k neighbours that have the class.

Retrieval (the test row is the query, training + validation the gallery, what shares a class is relevant):

    R@1     1 where the nearest row is relevant, else 0
    mAP@10  average precision of the first ten: the sum over relevant ranks of the precision there, over the number
            of relevant rows or 10, whichever is less (Weyand et al. 2020, Google Landmarks v2, with 10 for 100)

Both are undefined (NaN) for a query to which nothing in the gallery is relevant.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from aape_bench.clip_table import Rotation
from aape_bench.errors import UsageError
from aape_bench.problem import Fit, Problem
from aape_bench.protocols.common import (
    NUMBERS,
    judged,
    listed,
    one_thread,
    plain,
    side_by_side,
    spread,
    threads_allowed,
)

#: Helpers whose code decides results as well.
SOURCES = ("aape_bench.protocols.common",)
#: Rows of queries and of the gallery whose similarities are in memory at once; fewer of the latter if they are wide.
QUERIES, GALLERY = 512, 8192

#: Decimals of a similarity; what differs beyond them differs by the order of its sums.
DECIMALS = 12

_RETRIEVED = 10


@dataclass(frozen=True)
class Settings:
    """k: numbers of neighbours to choose from, at commas; one above the number of training rows means all of them."""

    k: str = "1,5,10,20"

    def __post_init__(self) -> None:
        if min(self.numbers) < 1 or max(self.numbers) > 1000:
            raise UsageError(f'knn: k must be whole numbers from 1 to 1000, not "{self.k}".')

    @property
    def numbers(self) -> list[int]:
        """The values of k, ascending."""
        return sorted(listed("knn", "k", self.k, int))

    def resolved(self) -> Settings:
        """The same choices in one spelling."""
        return replace(self, k=",".join(map(str, self.numbers)))


@dataclass(frozen=True)
class Neighbours:
    """rows: (queries, k) row positions in the problem, nearest first; similarity: (queries, k) cosine."""

    rows: npt.NDArray[np.int64]
    similarity: npt.NDArray[np.float64]


def fit(problem: Problem, settings: Settings, seed: int, advance: Callable[[int], None]) -> list[Fit]:  # noqa: ARG001
    """One Fit per rotation; see the module's text. (Nothing is drawn from the seed.)"""
    fits, threads = [], threads_allowed()
    with one_thread(use_torch=False):
        for rotation in problem.rotations:
            fits.append(_fit(problem, rotation, settings, threads))
            advance(1)
    return fits


def _fit(problem: Problem, rotation: Rotation, settings: Settings, threads: int) -> Fit:
    numbers = sorted({min(k, len(rotation.train)) for k in settings.numbers})
    near = nearest(problem.embeddings, rotation.validation, rotation.train, numbers[-1], threads)
    tried = []
    best, chosen, validation = -np.inf, 0, None
    for k in numbers:
        scores = _votes(problem, near, k, rotation.train)
        quality = judged(problem, rotation.validation, scores)
        tried.append({"k": k, "validation": plain(quality)})
        if validation is None or quality > best:
            best, chosen, validation = quality, k, scores
    assert validation is not None
    both = np.sort(np.concatenate([rotation.train, rotation.validation]))
    near = nearest(problem.embeddings, rotation.test, both, min(max(chosen, _RETRIEVED), len(both)), threads)
    return Fit(
        test=_votes(problem, near, chosen, both)[None],
        validation=validation[None],
        choice={"fold": rotation.name, "tried": tried, "chosen": {"k": chosen}},
        values=_retrieval(problem, rotation.test, near, both),
    )


def nearest(
    embeddings: npt.NDArray[np.float32],
    queries: npt.NDArray[np.int64],
    gallery: npt.NDArray[np.int64],
    k: int,
    threads: int = 1,
) -> Neighbours:
    """The k rows of the gallery with the highest cosine similarity to each query; equals in the gallery's order.

    threads: each looks up some of the queries.
    """
    rows = np.empty((len(queries), k), np.int64)
    similarity = np.empty((len(queries), k))
    parts = [slice(start, start + QUERIES) for start in range(0, len(queries), QUERIES)]
    looked_up = side_by_side(
        lambda part: _nearest(_unit(embeddings[queries[part]]), embeddings, gallery, k), parts, threads
    )
    for part, (found, values) in zip(parts, looked_up, strict=True):
        rows[part], similarity[part] = gallery[found], values
    return Neighbours(rows, similarity)


def _nearest(
    queries: npt.NDArray[np.float64], embeddings: npt.NDArray[np.float32], gallery: npt.NDArray[np.int64], k: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Positions in the gallery and similarities, (queries, k); the gallery is gone through in its order."""
    order = np.empty((len(queries), 0), np.int64)
    best = np.empty((len(queries), 0))
    size = max(1, min(GALLERY, NUMBERS // embeddings.shape[1]))
    for start in range(0, len(gallery), size):
        block = _unit(embeddings[gallery[start : start + size]])
        similar = np.round(queries @ block.T, DECIMALS)
        if best.shape[1] == k:  # of equals the earlier stay
            candidates = similar > best[:, -1:]
        elif similar.shape[1] > k:
            candidates = similar >= np.partition(similar, -k, axis=1)[:, -k, None]
        else:
            candidates = np.ones(similar.shape, bool)
        query, column = np.nonzero(candidates)
        kept = np.repeat(np.arange(len(queries)), best.shape[1])
        query, position, value = (
            np.concatenate([kept, query]),
            np.concatenate([order.ravel(), start + column]),
            np.concatenate([best.ravel(), similar[query, column]]),
        )
        ranked = np.lexsort((position, -value, query))
        counts = np.bincount(query, minlength=len(queries))
        first = np.cumsum(counts) - counts
        width = min(k, int(counts.min()))
        take = ranked[first[:, None] + np.arange(width)]
        order, best = position[take], value[take]
    return order, best


def _unit(embeddings: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Rows of length 1, in float64 as encoders may put all clips close together; zeros stay zeros."""
    rows = embeddings.astype(np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    rows /= np.where(norms > 0, norms, 1.0)
    return rows


def _votes(problem: Problem, near: Neighbours, k: int, gallery: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """(queries, classes) scores by the first k neighbours."""
    labels = problem.labels[near.rows[:, :k]]
    if not problem.exclusive:
        shares: npt.NDArray[np.float32] = labels.mean(axis=1, dtype=np.float32)
        return shares
    columns = np.unique(problem.labels[gallery])
    scores = np.zeros((len(labels), len(problem.classes)), np.float32)
    for query, (voted, similarity) in enumerate(zip(labels, near.similarity[:, :k], strict=True)):
        names, first, member = np.unique(voted, return_index=True, return_inverse=True)
        summed = np.round(np.bincount(member.reshape(-1), weights=similarity), DECIMALS - 2)
        place = np.empty(len(names))
        place[np.lexsort((-first, summed))] = np.arange(len(names))  # a later place is a better one
        scores[query, names] = (np.bincount(member.reshape(-1)) + place / len(names)) / k
    return spread(scores[:, columns], columns, len(problem.classes))


def _retrieval(
    problem: Problem, queries: npt.NDArray[np.int64], near: Neighbours, gallery: npt.NDArray[np.int64]
) -> dict[str, npt.NDArray[np.float64]]:
    truth, found = problem.labels[queries], problem.labels[near.rows[:, :_RETRIEVED]]
    if problem.exclusive:
        relevant = found == truth[:, None]
        counts = np.bincount(problem.labels[gallery], minlength=len(problem.classes))[truth]
    else:
        relevant = (found & truth[:, None]).any(axis=2)
        counts = _sharing(truth, problem.labels[gallery])
    ranks = np.arange(1, relevant.shape[1] + 1)
    precision = np.cumsum(relevant, axis=1) / ranks
    most = np.minimum(counts, _RETRIEVED)
    average = (precision * relevant).sum(axis=1) / np.maximum(most, 1)
    return {"R@1": np.where(counts > 0, relevant[:, 0], np.nan), "mAP@10": np.where(counts > 0, average, np.nan)}


def _sharing(truth: npt.NDArray[np.bool_], gallery: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """How many rows of the gallery share a class with each query, counted once for every set of classes that occurs."""
    sets, which = np.unique(truth, axis=0, return_inverse=True)
    counts = np.array([int(gallery[:, classes].any(axis=1).sum()) for classes in sets], np.int64)
    return counts[which.reshape(-1)]
