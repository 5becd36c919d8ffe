"""Which clips are trained on when."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from aape_bench.finetune.sampler import balanced, batch_of, class_weights, shuffled


def labels() -> np.ndarray:
    """400 clips of 5 classes of very different sizes, the last without any clip; 20 clips of no class."""
    rng = np.random.default_rng(0)
    table = rng.random((400, 5)) < [0.9, 0.3, 0.05, 0.02, 0.0]
    table[:20] = False
    return table


def test_an_epoch_is_a_permutation_of_its_own() -> None:
    first, second, other = shuffled(50, 0, 0), shuffled(50, 0, 1), shuffled(50, 1, 0)
    for order in (first, second, other):
        assert sorted(order.tolist()) == list(range(50))
    assert np.array_equal(first, shuffled(50, 0, 0))
    assert len({tuple(order.tolist()) for order in (first, second, other, np.arange(50))}) == 4


def test_weights_written_out() -> None:
    table = np.array([[1, 0], [1, 0], [1, 1], [0, 0]], bool)
    # 1/3 for each of the first class, 1 for the one of the second, 1/4 for each clip; together 3
    expected = np.array([1 / 3 + 1 / 4, 1 / 3 + 1 / 4, 1 / 3 + 1 + 1 / 4, 1 / 4]) / 3
    assert class_weights(table) == pytest.approx(expected)


def test_classes_are_drawn_as_often_as_expected() -> None:
    table, epochs = labels(), 200
    drawn = np.concatenate([balanced(table, 0, epoch) for epoch in range(epochs)])
    assert len(drawn) == 400 * epochs
    count = table.sum(axis=0)
    # The probability of each clip as a class drawn first (of 4 and "any"), then a clip of it.
    of_clip = [(sum(1 / count[k] for k in range(5) if row[k]) + 1 / 400) / 5 for row in table]
    for index in range(4):
        expected = sum(p for p, row in zip(of_clip, table, strict=True) if row[index])
        found = table[drawn, index].mean()
        assert found == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / len(drawn)))
        assert found >= 0.19  # however rare; by chance the rarest is 0.02
    assert set(drawn.tolist()) == set(range(400))
    assert np.bincount(drawn)[:20].mean() / len(drawn) == pytest.approx(1 / 2000, rel=0.1)


def test_balanced_draws_depend_on_seed_and_epoch_alone() -> None:
    table = labels()
    assert np.array_equal(balanced(table, 0, 3), balanced(table, 0, 3))
    assert not np.array_equal(balanced(table, 0, 3), balanced(table, 0, 4))
    assert not np.array_equal(balanced(table, 0, 3), balanced(table, 1, 3))


@pytest.mark.parametrize(("clips", "batch"), [(10, 4), (10, 5), (3, 8), (7, 7)])
def test_updates_take_whole_batches_from_epoch_after_epoch(clips: int, batch: int) -> None:
    order = partial(shuffled, clips, 0)
    updates = [batch_of(update, batch, clips, order) for update in range(9)]
    assert all(len(rows) == batch for rows in updates)
    taken = np.concatenate(updates)
    expected = np.concatenate([order(epoch) for epoch in range(30)])
    assert np.array_equal(taken, expected[: len(taken)])
