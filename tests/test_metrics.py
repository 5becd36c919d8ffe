"""Scores against plain loops; intervals against what a bootstrap must do."""

from __future__ import annotations

import numpy as np
import pytest

from aape_bench import metrics
from aape_bench.errors import UsageError

FOLDS = np.repeat(["1", "2", "3"], [30, 60, 10])


def outcome(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(100) < 0.7


def test_folds_weigh_the_same_whatever_their_size() -> None:
    correct = FOLDS == "3"
    assert metrics.mean_over_folds(correct, FOLDS) == pytest.approx(1 / 3)
    assert metrics.accuracy(["a", "b", "c", "d"], ["a", "b", "x", "d"]) == 0.75


def test_interval_agrees_with_a_plain_bootstrap_over_clips() -> None:
    correct = outcome()
    drawn = metrics.bootstrap_accuracy(correct, FOLDS, [None] * 100, "toy", 0)
    assert drawn is not None
    low, high = metrics.interval(drawn)
    rng = np.random.default_rng(1)
    draws = [
        np.mean([rng.choice(correct[fold == FOLDS], (fold == FOLDS).sum()).mean() for fold in "123"])
        for _ in range(4000)
    ]
    assert low == pytest.approx(np.quantile(draws, 0.025), abs=0.015)
    assert high == pytest.approx(np.quantile(draws, 0.975), abs=0.015)


def test_groups_are_drawn_whole() -> None:
    # ten clips of a group are all right or all wrong: ten times fewer independent outcomes, a wider interval
    folds = np.repeat(["1"], 400)
    groups = [f"g{row // 10}" for row in range(400)]
    correct = np.repeat(np.random.default_rng(0).random(40) < 0.5, 10)
    by_group = metrics.bootstrap_accuracy(correct, folds, groups, "toy", 0)
    by_clip = metrics.bootstrap_accuracy(correct, folds, [None] * 400, "toy", 0)
    assert by_group.std() == pytest.approx(np.sqrt(10) * by_clip.std(), rel=0.1)


def test_two_models_meet_the_same_resamples() -> None:
    # the second model is right wherever the first is: no resample can show it behind
    worse, groups = outcome(), [f"g{row // 3}" for row in range(100)]
    better = worse | outcome(5)
    difference = metrics.bootstrap_accuracy(better, FOLDS, groups, "toy", 3) - metrics.bootstrap_accuracy(
        worse, FOLDS, groups, "toy", 3
    )
    assert (difference >= 0).all()
    renamed = metrics.bootstrap_accuracy(worse, FOLDS, [f"x{999 - row // 3}" for row in range(100)], "toy", 3)
    assert (renamed == metrics.bootstrap_accuracy(worse, FOLDS, groups, "toy", 3)).all()


def test_draws_come_from_task_and_seed() -> None:
    def draws(task: str, seed: int) -> np.ndarray:
        return metrics.bootstrap_accuracy(outcome(), FOLDS, [None] * 100, task, seed)

    assert (draws("toy", 0) == draws("toy", 0)).all()
    assert (draws("toy", 0) != draws("toy", 1)).any()
    assert (draws("toy", 0) != draws("other", 0)).any()


def test_several_seeds_are_averaged_on_each_resample() -> None:
    a, b = outcome(1), outcome(2)
    both = metrics.bootstrap_accuracy(np.stack([a, b]), FOLDS, [None] * 100, "toy", 0)
    single = [metrics.bootstrap_accuracy(one, FOLDS, [None] * 100, "toy", 0) for one in (a, b)]
    assert np.allclose(both, np.mean(single, axis=0))


def test_a_single_group_in_a_fold_has_no_interval() -> None:
    groups = ["one"] * 30 + [f"g{row}" for row in range(70)]
    assert metrics.bootstrap_accuracy(outcome(), FOLDS, groups, "toy", 0) is None


@pytest.mark.parametrize(("metric", "kind"), [("mAP", "multilabel"), ("accuracy", "multilabel"), ("f1", "event")])
def test_a_metric_that_cannot_be_computed_is_refused(metric: str, kind: str) -> None:
    with pytest.raises(UsageError, match=f'"{metric}" on {kind} labels'):
        metrics.check_metric("toy", metric, kind)


def test_chance_is_the_most_frequent_class() -> None:
    assert metrics.chance_accuracy(["a", "a", "b", "c"]) == 0.5
