"""Paired differences over seeds, against scipy's own test and known values."""

from __future__ import annotations

import pandas as pd
import pytest
from ablation_scores import MODULATION, REAL, row, scores
from scipy.stats import ttest_rel

from aape_bench.ablation.statistics import Scores, difference, holm, with_stability
from aape_bench.errors import DataError
from aape_bench.randomness import numpy_stream


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_interval_and_p_are_those_of_the_paired_t_test(seeds: int) -> None:
    draw = numpy_stream(seeds, "test", "t")
    first, second = draw.uniform(0.4, 0.6, (2, seeds))
    found = difference("a", "b", dict(enumerate(first)), dict(enumerate(second)))
    reference = ttest_rel(first, second)
    assert (found.low, found.high) == pytest.approx(tuple(reference.confidence_interval(0.95)), abs=1e-12)
    assert found.p == pytest.approx(reference.pvalue, rel=1e-9)
    assert found.mean == pytest.approx((first - second).mean())
    assert found.reason == ""


def test_what_a_seed_does_to_both_variants_cancels() -> None:
    by_seed = {0: 0.2, 1: 0.5, 2: 0.8}
    found = difference("a", "b", {s: v + 0.01 + 0.001 * s for s, v in by_seed.items()}, by_seed)
    assert found.low is not None
    assert found.low > 0


def test_the_interval_covers_the_true_difference_as_often_as_it_says() -> None:
    draw = numpy_stream(0, "test", "coverage")
    covered, repeats = 0, 1500
    for _ in range(repeats):
        seed_effect = draw.normal(0, 0.2, 3)
        first, second = 0.03 + seed_effect + draw.normal(0, 0.01, 3), seed_effect + draw.normal(0, 0.01, 3)
        found = difference("a", "b", dict(enumerate(first)), dict(enumerate(second)))
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.03 <= found.high
    assert 0.93 < covered / repeats < 0.97


def test_seeds_of_one_variant_alone_are_left_out() -> None:
    found = difference("a", "b", {0: 0.5, 1: 0.6, 7: 0.9}, {0: 0.4, 1: 0.4, 3: 0.1})
    assert found.seeds == (0, 1)
    assert found.values == pytest.approx((0.1, 0.2))


def test_the_same_function_differs_by_exactly_0() -> None:
    by_seed = {seed: 0.1 * seed + 0.3 for seed in range(5)}
    found = difference("a", "b", by_seed, dict(by_seed))
    assert found.values == (0.0,) * 5
    assert (found.mean, found.low, found.high, found.p) == (0.0, None, None, 1.0)
    assert found.equal


def test_a_spread_that_cannot_be_known_gives_no_interval() -> None:
    one = difference("a", "b", {0: 0.5}, {0: 0.4})
    constant = difference("a", "b", {0: 0.6, 1: 0.7}, {0: 0.5, 1: 0.6})
    none = difference("a", "b", {0: 0.5}, {1: 0.5})
    for found, reason in ((one, "single seed"), (constant, "the same in every seed"), (none, "no seed")):
        assert (found.low, found.high, found.p) == (None, None, None)
        assert reason in found.reason
    assert one.mean == pytest.approx(0.1)
    assert none.mean is None
    assert not constant.equal


def test_holm_agrees_with_p_adjust_of_r() -> None:
    assert holm([0.05, 0.01, 0.03, 0.02, 0.04]) == pytest.approx([0.09, 0.05, 0.09, 0.08, 0.09])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_counts_tests_without_a_p() -> None:
    assert holm([0.01, None, 0.04]) == [pytest.approx(0.03), None, pytest.approx(0.08)]


def test_a_mean_over_tasks_takes_only_seeds_that_have_them_all() -> None:
    table = pd.concat(
        [
            scores({"full": [0.5, 0.6, 0.7]}, ("tremolo",)),
            scores({"full": [0.3, 0.2]}, ("clicks",)),
            pd.DataFrame([row("full", 2, "clicks", None)]),
        ]
    )
    found = Scores(table).mean("full", MODULATION, "linear")
    assert found == pytest.approx({0: 0.4, 1: 0.4})
    assert Scores(table).mean("full", (), "linear") == {}


def test_less_of_an_error_rate_is_better() -> None:
    table = scores({"full": [0.2, 0.3], "plain": [0.4, 0.4]}, ("esc50",), metric="segment_1s_er")
    found = Scores(table).difference("full", "plain", ("esc50",), "linear")
    assert found.values == pytest.approx((0.2, 0.1))


def test_protocols_are_kept_apart() -> None:
    table = pd.concat([scores({"full": [0.5]}, REAL), scores({"full": [0.9]}, REAL, protocol="knn")])
    assert Scores(table).mean("full", REAL, "knn") == {0: 0.9}
    assert Scores(table).mean("full", REAL, "linear") == {0: 0.5}


def test_rows_that_cannot_be_compared_are_refused() -> None:
    twice = pd.DataFrame([row("full", 0, "esc50", 0.5), row("full", 0, "esc50", 0.6)])
    with pytest.raises(DataError, match="two results of full, seed 0, on esc50"):
        Scores(twice)
    other = pd.DataFrame([row("full", 0, "esc50", 0.5), row("plain", 0, "esc50", 0.6, partial="100 of 2000")])
    with pytest.raises(DataError, match=r"different data of esc50 by linear \(all clips and 100 of 2000 clips\)"):
        Scores(other)


def test_stability_joins_as_the_mean_over_real_shifts() -> None:
    rows = [
        (variant, 0, "tremolo", kind, amount, quantity, value)
        for variant, far in (("full", 0.2), ("plain", 0.4))
        for kind, amount, quantity, value in (
            ("shift", 0.0, "scene", 0.0),
            ("shift", 40.0, "scene", far),
            ("shift", 80.0, "scene", 3 * far),
            ("stretch", 2.0, "scene", 9.0),
            ("shift", 40.0, "accuracy", 0.9),
        )
    ]
    table = pd.DataFrame(rows, columns=["variant", "seed", "task", "kind", "amount", "quantity", "value"])
    found = with_stability(scores({"full": [0.5]}, ("tremolo",)), table)
    assert found.cells() == [("tremolo", "linear"), ("shifted tremolo: scene", "stability")]
    pair = found.difference("full", "plain", ("shifted tremolo: scene",), "stability")
    assert pair.mean == pytest.approx(0.4)  # 0.4 against 0.8: nearer is better
