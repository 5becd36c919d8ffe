"""k nearest neighbours against brute force and scikit-learn."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from protocols.problems import exclusive, folds, four_classes, several, silent, tags
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import normalize

from aape_bench.clip_table import Rotation
from aape_bench.errors import UsageError
from aape_bench.protocols import knn
from aape_bench.protocols.knn import Settings, fit, nearest
from aape_bench.settings import make_config


def brute_force(x: np.ndarray, queries: np.ndarray, gallery: np.ndarray, k: int) -> np.ndarray:
    """Rows by falling cosine similarity, equals in the gallery's order; one query at a time."""
    found = []
    for query in queries:
        distance = []
        for row in gallery:
            a, b = x[query].astype(float), x[row].astype(float)
            norm = np.sqrt((a @ a) * (b @ b))
            distance.append(-round(float(a @ b / norm), 10) if norm else 0.0)
        found.append([gallery[i] for i in sorted(range(len(gallery)), key=lambda i: (distance[i], i))[:k]])
    return np.array(found)


@pytest.mark.parametrize("block", [7, 8192])
def test_neighbours_equal_brute_force(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    x, _ = four_classes()
    x[[5, 77, 123, 200]] = x[40]  # equals, in several blocks
    x[[9, 10, 250]] = 0  # silence
    monkeypatch.setattr(knn, "GALLERY", block)
    monkeypatch.setattr(knn, "QUERIES", block)
    queries, gallery = np.arange(0, 100, 5), np.setdiff1d(np.arange(300), np.arange(0, 100, 5))
    for k, threads in ((1, 1), (5, 3), (20, 1), (len(gallery), 3)):
        found = nearest(x, queries, gallery, k, threads)
        assert (found.rows == brute_force(x, queries, gallery, k)).all()
        assert (np.diff(found.similarity, axis=1) <= 0).all()


def test_the_number_of_threads_changes_no_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = tags()
    problem = several(x, y, folds(len(y))[:2])
    monkeypatch.setattr(knn, "QUERIES", 9)
    one = fit(problem, Settings(), 0, silent)
    monkeypatch.setattr(knn, "threads_allowed", lambda: 3)
    for a, b in zip(one, fit(problem, Settings(), 0, silent), strict=True):
        assert a.test.tobytes() == b.test.tobytes()
        assert a.choice == b.choice
        assert all(a.values[name].tobytes() == b.values[name].tobytes() for name in a.values)


def test_wide_rows_are_looked_up_in_smaller_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    x, _ = four_classes()
    blocks: list[int] = []
    unit = knn._unit
    monkeypatch.setattr(knn, "_unit", lambda rows: blocks.append(len(rows)) or unit(rows))
    monkeypatch.setattr(knn, "NUMBERS", 40 * 50)
    nearest(x, np.arange(10), np.arange(10, 130), 5)
    assert blocks == [10, 50, 50, 20]


def test_decisions_equal_scikit_learns_where_no_vote_is_tied() -> None:
    x, y = four_classes()
    problem = exclusive(x, y, folds(len(y)))
    for result, rotation in zip(fit(problem, Settings(k="1"), 0, silent), problem.rotations, strict=True):
        both = np.concatenate([rotation.train, rotation.validation])
        model = KNeighborsClassifier(1).fit(normalize(x[both]), y[both])
        assert (result.test[0].argmax(axis=1) == model.predict(normalize(x[rotation.test]))).all()
    for result, rotation in zip(fit(problem, Settings(k="20"), 0, silent), problem.rotations, strict=True):
        both = np.concatenate([rotation.train, rotation.validation])
        model = KNeighborsClassifier(20).fit(normalize(x[both]), y[both])
        shares = model.predict_proba(normalize(x[rotation.test]))
        assert result.test[0] == pytest.approx(shares, abs=1 / 20)
        clear = np.sort(shares, axis=1)[:, -1] > np.sort(shares, axis=1)[:, -2]
        assert (result.test[0].argmax(axis=1) == shares.argmax(axis=1))[clear].all()


def test_shares_of_several_labels_equal_scikit_learns() -> None:
    x, y = tags()
    problem = several(x, y, folds(len(y))[:1])
    (result,) = fit(problem, Settings(k="5"), 0, silent)
    rotation = problem.rotations[0]
    both = np.concatenate([rotation.train, rotation.validation])
    model = KNeighborsClassifier(5).fit(normalize(x[both]), y[both].astype(int))
    expected = np.stack([p[:, 1] for p in model.predict_proba(normalize(x[rotation.test]))], axis=1)
    assert result.test[0] == pytest.approx(expected)


def one_query(angles: list[float], labels: list[int], k: int) -> np.ndarray:
    """Scores of a clip at angle 0 among training clips at the given angles."""
    points = np.radians([*angles, 90.0, 0.0])
    x = np.stack([np.cos(points), np.sin(points)], axis=1)
    n = len(angles)
    rotation = Rotation("0", np.arange(n), np.array([n]), np.array([n + 1]))
    (result,) = fit(exclusive(x, np.array([*labels, 0, 0]), [rotation], classes=3), Settings(k=str(k)), 0, silent)
    return np.asarray(result.test[0, 0])


def test_tied_votes_go_to_the_higher_summed_similarity() -> None:
    assert one_query([1, 40, 10, 20], [1, 1, 2, 2], k=4).argmax() == 2  # class 1 has the nearest, 2 the nearer two
    assert one_query([1, 21, 10, 20], [1, 1, 2, 2], k=4).argmax() == 1
    assert one_query([1, 40, 30, 35], [1, 2, 2, 1], k=4).argmax() == 1
    assert one_query([10, 10], [2, 1], k=2).argmax() == 2  # all equal: the one that comes first
    assert one_query([30, 40, 1], [1, 1, 2], k=3).argmax() == 1  # more votes win over any similarity


def test_k_is_chosen_on_validation_and_ties_go_to_the_smaller() -> None:
    x, y = four_classes()
    problem = exclusive(x, y, folds(len(y)))
    for result, rotation in zip(fit(problem, Settings(), 0, silent), problem.rotations, strict=True):
        tried = {point["k"]: point["validation"] for point in result.choice["tried"]}
        assert list(tried) == [1, 5, 10, 20]
        assert result.choice["chosen"]["k"] == min(k for k in tried if tried[k] == max(tried.values()))
        right = result.validation[0].argmax(axis=1) == y[rotation.validation]
        assert right.mean() == max(tried.values())
    apart = np.repeat([[1.0, 0.0], [0.0, 1.0]], 50, axis=0)
    fits = fit(exclusive(apart, np.repeat([0, 1], 50), folds(100)), Settings(), 0, silent)
    assert {result.choice["chosen"]["k"] for result in fits} == {1}


def test_k_is_capped_by_the_training_rows() -> None:
    x, y = four_classes()
    rotation = Rotation("0", np.arange(7), np.arange(7, 20), np.arange(20, 30))
    (result,) = fit(exclusive(x, y, [rotation]), Settings(), 0, silent)
    assert [point["k"] for point in result.choice["tried"]] == [1, 5, 7]


def test_scale_does_not_matter_and_silence_is_no_nan() -> None:
    x, y = four_classes()
    x[::50] = 0
    scale = np.float32(10.0) ** np.random.default_rng(0).integers(-15, 15, (len(x), 1)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one = fit(exclusive(x, y, folds(len(y))), Settings(), 0, silent)
        other = fit(exclusive(x * scale, y, folds(len(y))), Settings(), 0, silent)
    for a, b in zip(one, other, strict=True):
        assert np.isfinite(a.test).all()
        assert (a.test.argmax(axis=2) == b.test.argmax(axis=2)).mean() > 0.98


def test_retrieval_figures_by_hand() -> None:
    angles = np.radians([1, 2, 3, 4, 50, 60, 70.0, 0.0, 0.5, 80.0])
    x = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    y = np.array([0, 1, 0, 1, 1, 1, 1, 0, 2, 1])
    rotation = Rotation("0", np.arange(6), np.array([6]), np.array([7, 8, 9]))
    (result,) = fit(exclusive(x, y, [rotation]), Settings(), 0, silent)
    # query 7 (class 0) meets 0 1 0 1 ...: relevant at ranks 1 and 3 of two; 8: nothing of its class; 9: 1 1 1 1 0 1 0
    assert result.values["R@1"] == pytest.approx([1, np.nan, 1], nan_ok=True)
    assert result.values["mAP@10"] == pytest.approx([(1 + 2 / 3) / 2, np.nan, (1 + 1 + 1 + 1 + 5 / 6) / 5], nan_ok=True)


def test_average_precision_at_ten_counts_at_most_ten_relevant_rows() -> None:
    x = np.ones((30, 2))
    y = np.repeat([True], 30)[:, None] & np.array([[True, False]])
    rotation = Rotation("0", np.arange(25), np.array([25]), np.arange(26, 30))
    (result,) = fit(several(x, y, [rotation]), Settings(), 0, silent)
    assert (result.values["mAP@10"] == 1).all()
    y[26] = False  # to a query without a label nothing is relevant
    (result,) = fit(several(x, y, [rotation]), Settings(), 0, silent)
    assert result.values["mAP@10"] == pytest.approx([np.nan, 1, 1, 1], nan_ok=True)


@pytest.mark.parametrize("bad", ["", "0", "1,,5", "five", "5,5", "2000", "1.5"])
def test_impossible_k_is_refused(bad: str) -> None:
    with pytest.raises(UsageError, match="k"):
        Settings(k=bad)


def test_k_has_one_spelling() -> None:
    assert make_config(Settings, {"k": " 10, 1"}, "knn") == Settings(k="1,10")
