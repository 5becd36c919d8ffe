"""Scores against scikit-learn and by hand; what comes by chance, class by class, and as validation's judge."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
from predicted import multiclass, right_and_wrong, scored

from aape_bench import metrics
from aape_bench.errors import DataError, UsageError
from aape_bench.predictions import Predictions, subset
from aape_bench.ranking import Ranking


def positive(predictions: Predictions) -> np.ndarray:
    labels = [(label,) if isinstance(label, str) else label for label in predictions.truth]
    return np.array([[name in label for name in predictions.classes] for label in labels])


@pytest.mark.parametrize("levels", [1, 12, 10_000])
def test_rankings_equal_scikit_learn_with_sample_weights(levels: int) -> None:
    from sklearn.metrics import average_precision_score, roc_auc_score

    predictions = scored(levels=levels)
    truth, scores = positive(predictions), predictions.scores[0]
    weights = np.random.default_rng(9).poisson(1, (len(truth), 25)).astype(np.float32)
    precision, auroc = Ranking(truth, scores)(weights)
    for draw, weight in enumerate(weights.T):
        for at in range(truth.shape[1]):
            expected = average_precision_score(truth[:, at], scores[:, at], sample_weight=weight)
            assert precision[at, draw] == pytest.approx(expected, abs=1e-12)
            expected = roc_auc_score(truth[:, at], scores[:, at], sample_weight=weight)
            assert auroc[at, draw] == pytest.approx(expected, abs=1e-12)


def test_classes_of_many_and_of_few_positives_side_by_side_equal_scikit_learn() -> None:
    from sklearn.metrics import average_precision_score, roc_auc_score

    rng = np.random.default_rng(3)
    share = np.array([0.9, 0.01, 0.02, 0.5, *[0.005] * 30, 0.3, 0.0, 1.0])
    truth = rng.random((700, len(share))) < share
    scores = (np.round(rng.standard_normal(truth.shape), 1) + truth).astype(np.float32)
    ranking = Ranking(truth, scores)
    figures = ranking(np.ones((700, 1), np.float32))
    expected = [
        [of(truth[:, at], scores[:, at]) for at in ranking.counted] for of in (average_precision_score, roc_auc_score)
    ]
    np.testing.assert_allclose(figures[:, :, 0], expected, atol=1e-12)
    assert {0, 1, 3, 34} <= set(ranking.counted.tolist())
    assert not {35, 36} & set(ranking.counted.tolist())


def test_a_ranking_by_hand() -> None:
    # scores 3, 2, 2, 1, 0; positives at 3 and, tied with a negative, at 2
    truth = np.array([[1], [1], [0], [0], [0]], bool)
    scores = np.array([[3], [2], [2], [1], [0]], np.float32)
    precision, auroc = Ranking(truth, scores)(np.array([[1, 1], [1, 2], [1, 1], [1, 0], [1, 1]], np.float32))
    assert precision[0] == pytest.approx([(1 + 2 / 3) / 2, (1 + 2 * 3 / 4) / 3])
    assert auroc[0] == pytest.approx([(3 + 2.5) / 6, (2 + 2 * 1.5) / 6])


@pytest.mark.parametrize("exclusive", [False, True])
def test_scores_are_those_of_hear_eval_kit_within_folds(exclusive: bool) -> None:
    from scipy.stats import norm
    from sklearn.metrics import average_precision_score, roc_auc_score

    predictions = scored(repeats=2, exclusive=exclusive)
    expected: dict[str, list[float]] = {"mAP": [], "aucroc": [], "d_prime": []}
    for scores in predictions.scores:
        for fold in ("1", "2"):
            inside = predictions.folds == fold
            truth = positive(predictions)[inside]
            auroc = roc_auc_score(truth, scores[inside], average=None)
            expected["mAP"].append(average_precision_score(truth, scores[inside], average="macro"))
            expected["aucroc"].append(auroc.mean())
            expected["d_prime"].append((norm.ppf(auroc) * np.sqrt(2)).mean())
    measured = metrics.measure_all(list(expected), predictions, "toy", 0)
    for name, values in expected.items():
        assert measured[name].score == pytest.approx(np.mean(values), abs=1e-12)
        assert measured[name].classes == 5
        assert measured[name].repeats == pytest.approx([np.mean(values[:2]), np.mean(values[2:])], abs=1e-12)
        assert [fold["score"] for fold in measured[name].folds] == pytest.approx(
            [np.mean(values[0::2]), np.mean(values[1::2])], abs=1e-12
        )
        assert measured[name] == metrics.measure(name, predictions, "toy", 0)


def test_macro_accuracy_is_scikit_learns_balanced_accuracy() -> None:
    from sklearn.metrics import balanced_accuracy_score

    predictions = scored(exclusive=True)
    one = subset(predictions, np.flatnonzero(predictions.folds == "1"))
    expected = balanced_accuracy_score(one.truth, one.decided[0])
    measured = metrics.measure("macro_accuracy", one, "toy", 0)
    assert measured.score == pytest.approx(expected, abs=1e-12)
    assert measured.classes == 5


def test_classes_without_both_positives_and_negatives_are_left_out() -> None:
    predictions = scored()
    rows = np.flatnonzero(positive(predictions)[:, 0] & ~positive(predictions)[:, 1])
    some = subset(predictions, rows)  # every clip is of class c0, none of c1
    from sklearn.metrics import average_precision_score

    measured = metrics.measure("mAP", some, "toy", 0)
    assert measured.classes == 3
    expected = []
    for fold in ("1", "2"):
        inside = some.folds == fold
        expected += [average_precision_score(positive(some)[inside, 2:], some.scores[0][inside, 2:])]
    assert measured.score == pytest.approx(np.mean(expected))
    nothing = dataclasses.replace(some, truth=[("c0",)] * len(rows))
    measured = metrics.measure("mAP", nothing, "toy", 0)
    assert (measured.score, measured.low, measured.high, measured.classes) == (None, None, None, 0)
    assert "hold nothing that the metric counts" in measured.reason


def test_an_infinite_d_prime_is_null_with_a_reason() -> None:
    predictions = scored()
    predictions.scores[0, :, 2] = positive(predictions)[:, 2]  # one class told without fault
    measured = metrics.measure_all(["d_prime", "aucroc"], predictions, "toy", 0)
    assert measured["d_prime"].score is None
    assert measured["d_prime"].high is None
    assert "d' is infinite" in measured["d_prime"].reason
    assert measured["aucroc"].score < 1
    assert measured["aucroc"].reason is None
    json.dumps(dataclasses.asdict(measured["d_prime"]), allow_nan=False)
    predictions.scores[0, :, 1] = -1.0 * positive(predictions)[:, 1]  # and one told wrong without fault
    measured = metrics.measure_all(["d_prime"], predictions, "toy", 0)
    assert (measured["d_prime"].score, measured["d_prime"].low, measured["d_prime"].high) == (None, None, None)


def test_rare_infinite_draws_leave_the_interval_finite_and_many_do_not() -> None:
    draws = np.arange(1000.0)
    draws[-20:] = np.inf
    assert metrics.interval(draws) == pytest.approx((24.975, 974.025))
    draws[-30:] = np.inf
    assert metrics.interval(draws) == (pytest.approx(24.975), None)
    draws[:20] = np.nan  # might have been anything, on either side
    assert metrics.interval(draws)[0] == pytest.approx(24.975, abs=20)
    draws[:30] = np.nan
    assert metrics.interval(draws) == (None, None)


def test_accuracy_by_hand() -> None:
    folds = np.repeat(["1", "2", "10"], [30, 60, 10])
    measured = metrics.measure("accuracy", right_and_wrong(folds == "10", folds), "toy", 0)
    assert measured.score == pytest.approx(1 / 3)  # folds weigh the same whatever their size
    assert [(fold["fold"], fold["score"], fold["clips"]) for fold in measured.folds] == [
        ("1", 0, 30),
        ("2", 0, 60),
        ("10", 1, 10),
    ]
    assert measured.classes is None
    repeats = multiclass(["a", "b", "b", "b"], [["a", "b", "a", "a"], ["a", "b", "b", "b"]])
    assert metrics.measure("top1_acc", repeats, "toy", 0).repeats == [0.5, 1]
    assert metrics.measure("top1_acc", repeats, "toy", 0).score == 0.75
    assert metrics.measure("macro_accuracy", repeats, "toy", 0).repeats == pytest.approx([(1 + 1 / 3) / 2, 1])


def test_chroma_accuracy_forgives_octaves() -> None:
    pitches = multiclass(["60", "61", "62"], [["72", "61", "61"]])
    assert metrics.score("pitch_acc", pitches) == pytest.approx(1 / 3)
    assert metrics.score("chroma_acc", pitches) == pytest.approx(2 / 3)
    with pytest.raises(UsageError, match='MIDI pitches; "dog" is none'):
        metrics.score("chroma_acc", multiclass(["dog"], [["60"]]))


def test_events_are_summed_before_they_are_scored() -> None:
    truth = [(("a", 0.0, 1.0), ("b", 2.0, 3.0)), (("a", 1.0, 2.0), ("a", 5.0, 6.0)), ()] * 4
    found = [(("a", 0.1, 1.0),), (("a", 1.15, 2.0), ("b", 0.0, 1.0)), ()] * 4
    predictions = Predictions(
        "event", [str(at) for at in range(12)], np.array(["test"] * 12), [None] * 12, truth, ["a", "b"], None, [found]
    )
    measured = metrics.measure_all(metrics.DEFAULTS["event"], predictions, "toy", 0)
    assert measured["event_onset_200ms_fms"].score == pytest.approx(2 * 8 / (16 + 12))
    assert measured["event_onset_50ms_fms"].score == 0
    assert 0 <= measured["event_onset_200ms_fms"].low < measured["event_onset_200ms_fms"].high
    assert not metrics.METRICS["segment_1s_er"].higher_is_better
    assert [(row.name, row.clips, row.onset_f) for row in metrics.per_class(predictions)] == [
        ("a", 8, pytest.approx(0.8)),
        ("b", 4, 0),
    ]
    nothing = dataclasses.replace(predictions, truth=[()] * 12, decided=[[()] * 12])
    measured = metrics.measure("event_onset_200ms_fms", nothing, "toy", 0)
    assert measured.score is None
    assert measured.reason


def test_values_are_averaged_within_folds() -> None:
    folds = np.repeat(["1", "2"], [10, 30])
    predictions = right_and_wrong(folds == "1", folds)
    hits = dataclasses.replace(predictions, values={"R@1": (folds == "1").astype(float)})
    assert metrics.measure_value("R@1", hits, "toy", 0) == metrics.measure("accuracy", predictions, "toy", 0)
    holes = np.where(np.arange(40) % 2, np.nan, np.arange(40))
    measured = metrics.measure_value("x", dataclasses.replace(predictions, values={"x": holes}), "toy", 0)
    assert measured.score == pytest.approx((4 + 24) / 2)
    assert measured.low < measured.score < measured.high


def test_chance() -> None:
    predictions = multiclass(["60", "60", "61", "72"], [["60"] * 4])
    assert metrics.chance("accuracy", predictions) == 0.5
    assert metrics.chance("chroma_acc", predictions) == 0.75
    assert metrics.chance("macro_accuracy", predictions) == pytest.approx(1 / 3)
    assert metrics.chance("mAP", predictions) == pytest.approx(1 / 3)
    assert (metrics.chance("aucroc", predictions), metrics.chance("d_prime", predictions)) == (0.5, 0)
    assert metrics.chance("segment_1s_er", predictions) is None


def test_confusion_and_figures_by_class() -> None:
    from sklearn.metrics import average_precision_score, confusion_matrix, roc_auc_score

    predictions = scored(exclusive=True)
    one = subset(predictions, np.flatnonzero(predictions.folds == "1"))
    classes, table = metrics.confusion(one)
    assert (table == confusion_matrix(one.truth, one.decided[0], labels=classes)).all()
    rows = metrics.per_class(one)
    assert [row.clips for row in rows] == table.sum(axis=1).tolist()
    assert [row.accuracy for row in rows] == pytest.approx(np.diag(table) / table.sum(axis=1))
    expected = average_precision_score(positive(one), one.scores[0], average=None)
    assert [row.average_precision for row in rows] == pytest.approx(expected)
    assert [row.auroc for row in rows] == pytest.approx(roc_auc_score(positive(one), one.scores[0], average=None))
    absent = dataclasses.replace(one, classes=[*one.classes, "z"], scores=np.pad(one.scores, ((0, 0), (0, 0), (0, 1))))
    last = metrics.per_class(absent)[-1]
    assert (last.clips, last.accuracy, last.average_precision, last.auroc) == (0, None, None, None)
    assert metrics.confusion(scored(exclusive=True, repeats=3))[1].sum() == 3 * 120


@pytest.mark.parametrize("metric", ["accuracy", "mAP", "d_prime"])
def test_quality_for_choices_is_the_score(metric: str) -> None:
    predictions = subset(scored(exclusive=True), np.arange(0, 120, 3))
    labels = np.array([predictions.classes.index(name) for name in predictions.truth])
    scores = predictions.scores[0]
    expected = metrics.measure(metric, predictions, "toy", 0).score
    assert metrics.quality(metric, labels, scores, predictions.classes) == pytest.approx(expected)
    if metric != "accuracy":
        several = metrics.quality(metric, positive(predictions), scores, predictions.classes)
        assert several == pytest.approx(expected)
        assert metrics.quality(metric, positive(predictions)[:, :0], scores[:, :0], []) == float("-inf")


def test_scores_that_are_no_numbers_are_refused() -> None:
    predictions = scored()
    predictions.scores[0, 3, 2] = np.nan
    with pytest.raises(DataError, match="no numbers"):
        metrics.measure("mAP", predictions, "toy", 0)
    unknown = dataclasses.replace(scored(), classes=["c0", "c1", "c2", "c3", "x"])
    with pytest.raises(DataError, match='no scores of the class "c4"'):
        metrics.measure("mAP", unknown, "toy", 0)


@pytest.mark.parametrize(("metric", "kind"), [("accuracy", "multilabel"), ("f1", "event"), ("mAP", "event")])
def test_a_metric_that_cannot_be_computed_is_refused(metric: str, kind: str) -> None:
    with pytest.raises(UsageError, match=f'"{metric}" on {kind} labels'):
        metrics.check_metric("toy", metric, kind)


def test_every_default_metric_fits_its_kind() -> None:
    for kind, names in metrics.DEFAULTS.items():
        for name in names:
            metrics.check_metric("toy", name, kind)


def test_checking_a_metric_imports_nothing_heavy() -> None:
    code = "import sys, aape_bench.metrics, aape_bench.compare; print({'torch', 'sklearn', 'scipy'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def test_top1_of_several_labels_is_against_the_first_as_in_hear_eval_kit() -> None:
    scores = np.array([[0.9, 0.2, 0.1], [0.1, 0.8, 0.3], [0.6, 0.5, 0.4], [0.1, 0.2, 0.3]], np.float32)
    one = Predictions(
        kind="multilabel",
        ids=list("wxyz"),
        folds=np.array(["test"] * 4),
        groups=[None] * 4,
        truth=[("a", "c"), ("a", "b"), (), ("c",)],
        classes=["a", "b", "c"],
        scores=scores[np.newaxis],
        decided=[],
    )
    # right, wrong (b is named, a is the first), right (no class counts as the first), right
    assert metrics.score("top1_acc", one) == pytest.approx(0.75)
    assert metrics.chance("top1_acc", one) == pytest.approx(0.75)
    metrics.check_metric("toy", "top1_acc", "multilabel")


def test_all_clips_right_is_no_certainty() -> None:
    from scipy.stats import binomtest

    sure = right_and_wrong([True] * 20)
    found = metrics.measure("accuracy", sure, "toy", 0)
    expected = binomtest(20, 20).proportion_ci(0.95, method="exact")
    assert (found.low, found.high) == pytest.approx((expected.low, 1.0))
    assert "Clopper-Pearson" in str(found.method)
    none = metrics.measure("accuracy", right_and_wrong([False] * 20), "toy", 0)
    assert (none.low, none.high) == pytest.approx((0.0, 1 - expected.low))
    # whole groups are what is counted
    grouped = metrics.measure("accuracy", dataclasses.replace(sure, groups=[f"g{i // 4}" for i in range(20)]), "toy", 0)
    assert grouped.low == pytest.approx(binomtest(5, 5).proportion_ci(0.95, method="exact").low)
    draws = metrics.draws("accuracy", sure, "toy", 0)
    assert draws is not None
    assert metrics.bounds_of_draws("accuracy", draws, sure).low == found.low


def test_a_perfect_ranking_has_no_interval() -> None:
    names = ["a", "b"] * 10
    perfect = multiclass(names, [names])
    found = metrics.measure("aucroc", perfect, "toy", 0)
    assert found.score == 1
    assert found.low is None
    assert "same score" in str(found.reason)
