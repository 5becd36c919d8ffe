"""Which training clips each update sees, as pure functions: of (seed, epoch), and so of (seed, update).

An epoch is as many clips as there are, and epochs follow each other without a gap: every update has a whole batch, and
a run that goes on at any update sees what it would have seen.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from aape_bench.randomness import numpy_stream

Rows = npt.NDArray[np.int64]


def shuffled(clips: int, seed: int, epoch: int) -> Rows:
    """Every clip once, in random order."""
    return numpy_stream(seed, "finetune", "order", epoch).permutation(clips)


def balanced(labels: npt.NDArray[np.bool_], seed: int, epoch: int) -> Rows:
    """As many clips as there are, drawn with replacement in proportion to `class_weights`."""
    stream = numpy_stream(seed, "finetune", "balanced", epoch)
    return stream.choice(len(labels), size=len(labels), p=class_weights(labels))


def class_weights(labels: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """The probability of each clip: in proportion to the sum over its labels of 1 / (clips of the label), plus 1 / n.

    So one of the C classes that are there, or with the same probability none in particular, is drawn first, then a
    clip of it; clips without any label are drawn as well. labels: (n, classes). Returns (n,), its sum 1.
    """
    n = len(labels)
    counts = labels.sum(axis=0)
    weights = labels @ (1 / np.maximum(counts, 1)) + 1 / n
    return np.asarray(weights / weights.sum())


def batch_of(update: int, batch: int, clips: int, order: Callable[[int], Rows]) -> Rows:
    """The clips of the update with this number, from 0. order: epoch -> its clips, as the functions above."""
    epochs, places = np.divmod(np.arange(update * batch, (update + 1) * batch), clips)
    return np.concatenate([order(int(epoch))[places[epochs == epoch]] for epoch in np.unique(epochs)])
