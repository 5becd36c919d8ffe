"""The linear protocol against a separate, plain scikit-learn script."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import make_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from aape_bench.clip_table import Rotation
from aape_bench.errors import UsageError
from aape_bench.protocols.linear import LOWEST, Settings, fit_predict


def five_folds(n: int) -> list[Rotation]:
    fold = np.arange(n) % 5
    return [
        Rotation(
            str(k),
            np.flatnonzero((fold != k) & (fold != (k + 1) % 5)),
            np.flatnonzero(fold == (k + 1) % 5),
            np.flatnonzero(fold == k),
        )
        for k in range(5)
    ]


def labels(names: Iterable[str]) -> pd.DataFrame:
    return pd.DataFrame({"label": list(names)})


@pytest.fixture(scope="module")
def problem() -> tuple[np.ndarray, np.ndarray]:
    x, y = make_classification(300, 40, n_informative=8, n_classes=4, class_sep=0.7, flip_y=0.1, random_state=0)
    return x.astype(np.float32), np.array([f"class {label}" for label in y])


def plain_script(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """What a careful user would write by hand."""
    predicted = np.empty_like(y)
    fold = np.arange(len(y)) % 5
    for k in range(5):
        train, validation, test = (fold != k) & (fold != (k + 1) % 5), fold == (k + 1) % 5, fold == k
        scaler = StandardScaler().fit(x[train].astype(float))
        best_c, best = 0.0, -1.0
        for c in np.logspace(-4, 3, 8):
            model = LogisticRegression(C=c, max_iter=10000).fit(scaler.transform(x[train].astype(float)), y[train])
            score = model.score(scaler.transform(x[validation].astype(float)), y[validation])
            if score > best:
                best_c, best = c, score
        scaler = StandardScaler().fit(x[~test].astype(float))
        model = LogisticRegression(C=best_c, max_iter=10000).fit(scaler.transform(x[~test].astype(float)), y[~test])
        predicted[test] = model.predict(scaler.transform(x[test].astype(float)))
    return predicted


def test_predictions_equal_a_plain_script(problem: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = problem
    rounds = []
    outcome = fit_predict(x, labels(y), five_folds(len(y)), Settings(), 0, rounds.append)
    assert list(outcome.predicted) == list(plain_script(x, y))
    assert list(outcome.test) == list(range(len(y)))
    assert rounds == [1] * 5
    by_score = np.array(outcome.classes)[outcome.scores.argmax(axis=1)]
    assert (by_score == outcome.predicted).mean() > 0.999
    assert all(len(choice["tried"]) == 8 and choice["refit_converged"] for choice in outcome.choices)


def test_every_fit_is_solved_to_the_fourth_decimal_of_the_objective(problem: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = problem
    x = StandardScaler().fit_transform(x.astype(float))

    def objective(model: LogisticRegression, c: float) -> float:
        log_p = model.predict_log_proba(x)[np.arange(len(y)), np.searchsorted(model.classes_, y)]
        return float(-log_p.mean() + (model.coef_**2).sum() / (2 * c * len(y)))

    for c in 10.0 ** np.arange(-4, 4):
        ours = LogisticRegression(C=c, tol=Settings().tolerance, max_iter=Settings().max_iterations).fit(x, y)
        exact = LogisticRegression(C=c, tol=1e-10, max_iter=100_000, solver="newton-cg").fit(x, y)
        assert objective(ours, c) == pytest.approx(objective(exact, c), abs=5e-5)


def test_test_labels_change_nothing_but_the_score(problem: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = problem
    rotation = five_folds(len(y))[0]
    before = fit_predict(x, labels(y), [rotation], Settings(), 0, lambda _: None)
    shuffled = y.copy()
    shuffled[rotation.test] = np.random.default_rng(0).permutation(y[rotation.test])
    after = fit_predict(x, labels(shuffled), [rotation], Settings(), 0, lambda _: None)
    assert before.choices == after.choices
    assert (before.scores == after.scores).all()


def test_ties_go_to_the_smaller_strength() -> None:
    x = np.repeat([[-1.0], [1.0]], 30, axis=0).astype(np.float32)  # separable: every strength is right
    y = ["a"] * 30 + ["b"] * 30
    outcome = fit_predict(x, labels(y), five_folds(60), Settings(), 0, lambda _: None)
    assert {choice["chosen"]["C"] for choice in outcome.choices} == {1e-4}


def test_a_class_absent_from_training_has_the_lowest_score(problem: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = problem
    rotation = five_folds(len(y))[0]
    names = y.astype(object)
    names[rotation.test[0]] = "zebra"
    outcome = fit_predict(x, labels(names), [rotation], Settings(), 0, lambda _: None)
    assert (outcome.scores[:, outcome.classes.index("zebra")] == LOWEST).all()
    assert "zebra" not in outcome.predicted


def test_an_unconverged_fit_is_recorded_not_hidden(problem: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = problem
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        outcome = fit_predict(x, labels(y), five_folds(len(y))[:1], Settings(max_iterations=2), 0, lambda _: None)
    assert not all(point["converged"] for point in outcome.choices[0]["tried"])


@pytest.mark.parametrize("bad", [{"c_min": 3, "c_max": 2}, {"c_max": 99}, {"tolerance": 0.0}, {"max_iterations": 0}])
def test_impossible_settings_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Settings(**bad)  # type: ignore[arg-type]
