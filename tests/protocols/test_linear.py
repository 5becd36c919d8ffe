"""The linear protocol against separate, plain scikit-learn scripts."""

from __future__ import annotations

import json
import os
import signal
import threading
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
from protocols.problems import exclusive, folds, four_classes, judged_by, several, silent, tags, with_labels
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.preprocessing import StandardScaler

from aape_bench.clip_table import Rotation
from aape_bench.errors import UsageError
from aape_bench.protocols import linear
from aape_bench.protocols.common import LOWEST, fit_scaler, side_by_side
from aape_bench.protocols.linear import Settings, fit, fit_probe
from aape_bench.protocols.logistic import Lesson, Whole, hearing_of_convergence

#: So near to the optimum that it does not matter where the solver begins.
EXACT = 1e-8


def plain_script(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """What a careful user would write by hand."""
    predicted = np.empty_like(y)
    fold = np.arange(len(y)) % 5
    for k in range(5):
        train, validation, test = (fold != k) & (fold != (k + 1) % 5), fold == (k + 1) % 5, fold == k
        scaler = StandardScaler().fit(x[train].astype(float))
        best_c, best = 0.0, -1.0
        for c in np.logspace(-4, 3, 8):
            model = LogisticRegression(C=c, max_iter=10000, tol=EXACT).fit(
                scaler.transform(x[train].astype(float)), y[train]
            )
            score = model.score(scaler.transform(x[validation].astype(float)), y[validation])
            if score > best:
                best_c, best = c, score
        scaler = StandardScaler().fit(x[~test].astype(float))
        model = LogisticRegression(C=best_c, max_iter=10000, tol=EXACT)
        model.fit(scaler.transform(x[~test].astype(float)), y[~test])
        predicted[test] = model.predict(scaler.transform(x[test].astype(float)))
    return predicted


def test_predictions_equal_a_plain_script() -> None:
    x, y = four_classes()
    rounds: list[int] = []
    problem = exclusive(x, y, folds(len(y)))
    fits = fit(problem, Settings(tolerance=EXACT, path="whole"), 0, rounds.append)
    expected = plain_script(x, y)
    for result, rotation in zip(fits, problem.rotations, strict=True):
        assert result.test.shape == (1, 60, 4)
        assert (result.test[0].argmax(axis=1) == expected[rotation.test]).all()
        assert np.exp(result.test[0].astype(float)).sum(axis=1) == pytest.approx(1, abs=1e-5)
        assert len(result.choice["tried"]) == 8
        assert result.choice["refit_converged"]
        chosen = max(point["validation"] for point in result.choice["tried"])
        assert (result.validation[0].argmax(axis=1) == y[rotation.validation]).mean() == chosen
    assert rounds == [1] * 5
    json.dumps([result.choice for result in fits], allow_nan=False)


def test_several_labels_equal_scikit_learns_one_versus_rest() -> None:
    x, y = tags()
    rotation = folds(len(y))[0]
    problem = several(x, y, [rotation])

    def script(c: float, learn: np.ndarray, score: np.ndarray) -> np.ndarray:
        scaler = StandardScaler().fit(x[learn].astype(float))
        model = OneVsRestClassifier(LogisticRegression(C=c, max_iter=10000, tol=EXACT))
        model.fit(scaler.transform(x[learn].astype(float)), y[learn].astype(int))
        return np.asarray(model.predict_proba(scaler.transform(x[score].astype(float))))

    qualities = {}
    for c in (0.01, 0.1, 1.0, 10.0):
        scores = script(c, rotation.train, rotation.validation).astype(np.float32)
        qualities[c] = average_precision_score(y[rotation.validation], scores)
    chosen = max(qualities, key=lambda c: qualities[c])
    (result,) = fit(problem, Settings(c_min=-2, c_max=1, tolerance=EXACT), 0, silent)
    assert {point["C"]: point["validation"] for point in result.choice["tried"]} == pytest.approx(qualities)
    assert result.choice["chosen"] == {"C": chosen}
    assert result.validation[0] == pytest.approx(script(chosen, rotation.train, rotation.validation), abs=1e-6)
    both = np.sort(np.concatenate([rotation.train, rotation.validation]))
    assert result.test[0] == pytest.approx(script(chosen, both, rotation.test), abs=1e-6)


@pytest.mark.parametrize("solver", ["scikit-learn", "streamed"])
def test_log_probabilities_of_two_classes_equal_scikit_learns(solver: Literal["scikit-learn", "streamed"]) -> None:
    x, y = four_classes(apart=2.0)
    rotation = folds(len(y))[0]
    problem = exclusive(x, np.where(y > 1, 3, 1), [rotation])
    (result,) = fit(problem, Settings(c_min=-1, c_max=-1, tolerance=EXACT, solver=solver), 0, silent)
    both = np.concatenate([rotation.train, rotation.validation])
    scaler = StandardScaler().fit(x[both].astype(float))
    model = LogisticRegression(C=0.1, tol=EXACT).fit(scaler.transform(x[both].astype(float)), y[both] > 1)
    expected = model.predict_log_proba(scaler.transform(x[rotation.test].astype(float)))
    assert result.test[0][:, [1, 3]] == pytest.approx(expected, abs=1e-4)
    assert (result.test[0][:, [0, 2]] == LOWEST).all()


@pytest.mark.parametrize("solver", ["scikit-learn", "streamed"])
def test_a_class_of_validation_alone_is_learned_in_the_refit(solver: Literal["scikit-learn", "streamed"]) -> None:
    x, y = four_classes()
    rotation = folds(len(y))[0]
    y[rotation.validation[:5]] = 4
    (result,) = fit(exclusive(x, y, [rotation]), Settings(solver=solver), 0, silent)
    assert (result.validation[0][:, 4] == LOWEST).all()
    assert (result.test[0][:, 4] > LOWEST).all()


def test_a_probe_scores_further_embeddings_as_the_protocol_scores_test_rows() -> None:
    x, y = four_classes()
    problem = exclusive(x, y, folds(len(y))[:1])
    probe = fit_probe(problem, problem.rotations[0], Settings())
    (result,) = fit(problem, Settings(), 0, silent)
    assert (probe.scores(x[problem.rotations[0].test]) == result.test[0]).all()


def test_every_fit_of_the_path_is_solved_to_the_fourth_decimal_of_the_objective() -> None:
    x, y = four_classes()
    rows = np.arange(len(y))
    scaled = StandardScaler().fit_transform(x.astype(float))
    fitter, found = Whole(Lesson(x, rows, fit_scaler(x, rows), y), Settings().tolerance, 10000), None

    def objective(weights: np.ndarray, offsets: np.ndarray, c: float) -> float:
        logits = scaled @ weights + offsets
        losses = np.log(np.exp(logits).sum(axis=1)) - logits[rows, y]
        return float(losses.mean() + (weights**2).sum() / (2 * c * len(y)))

    with hearing_of_convergence():
        for c in 10.0 ** np.arange(-4, 4):
            found = fitter.fit(c, found)
            exact = LogisticRegression(C=c, tol=1e-10, max_iter=100_000, solver="newton-cg").fit(scaled, y)
            best = objective(exact.coef_.T, exact.intercept_, c)
            assert objective(found.weights, found.offsets, c) == pytest.approx(best, abs=5e-5)


def test_a_fit_begins_where_it_is_told_to() -> None:
    x, y = four_classes()
    rows = np.arange(len(y))
    fitter = Whole(Lesson(x, rows, fit_scaler(x, rows), y), EXACT, 10000)
    with hearing_of_convergence():
        solved = fitter.fit(1.0, None)
        assert fitter.fit(1.0, solved).weights == pytest.approx(solved.weights, abs=1e-9)
        steps = Whole(fitter.lesson, EXACT, 3)
        assert not steps.fit(1.0, None).converged
        assert steps.fit(1.0, solved).converged


@pytest.mark.parametrize(
    ("qualities", "tried", "chosen"),
    [
        ([0.5, 0.7, 0.6, 0.6, 0.9, 0.9, 0.9, 0.9], 4, 1e-3),
        ([0.5, 0.7, 0.6, 0.65, 0.6, 0.65, 0.7, 0.9], 8, 1e3),  # once is not for good
        ([0.5, 0.7, 0.65, 0.65, 0.65, 0.65, 0.65, 0.9], 8, 1e3),  # and 3 of 60 rows may be chance
        ([0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5], 8, 1e-4),
        ([np.nan] * 8, 8, 1e-4),
    ],
)
def test_the_path_is_cut_where_validation_falls_for_good(qualities: list[float], tried: int, chosen: float) -> None:
    x, y = four_classes()
    problem = judged_by(exclusive(x, y, folds(len(y))[:1]), qualities)
    (result,) = fit(problem, Settings(), 0, silent)
    grid = (10.0 ** np.arange(-4, 4)).tolist()
    assert [point["C"] for point in result.choice["tried"]] == grid[:tried]
    assert result.choice["chosen"] == {"C": chosen}
    if tried < 8:
        assert result.choice["untried"]["C"] == grid[tried:]
        assert "below" in result.choice["untried"]["why"]
    else:
        assert "untried" not in result.choice


def test_the_whole_path_is_tried_where_asked_for() -> None:
    x, y = four_classes()
    problem = judged_by(exclusive(x, y, folds(len(y))[:1]), [0.5, 0.7, 0.6, 0.6, 0.6, 0.9, 0.8, 0.8])
    (result,) = fit(problem, Settings(path="whole"), 0, silent)
    assert result.choice["chosen"] == {"C": 10.0}


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Lets the protocol have so many threads, however small the problem is."""

    def allow(number: int) -> None:
        monkeypatch.setattr(linear, "_SMALL", 0)
        monkeypatch.setattr(linear, "threads_allowed", lambda: number)

    return allow


@pytest.mark.parametrize("kind", ["exclusive", "several"])
def test_the_number_of_threads_changes_no_byte(threads: Callable[[int], None], kind: str) -> None:
    x, y = four_classes() if kind == "exclusive" else tags()
    problem = (exclusive if kind == "exclusive" else several)(x, y, folds(len(y)))
    used: set[int] = set()

    def quality(rows: np.ndarray, scores: np.ndarray) -> float:
        used.add(threading.get_ident())
        return problem.quality(rows, scores)

    settings = Settings(c_min=-2, c_max=0)
    one = fit(problem, settings, 0, silent)
    threads(3)
    advanced: list[tuple[int, int]] = []
    several_threads = fit(
        replace(problem, quality=quality), settings, 0, lambda n: advanced.append((n, threading.get_ident()))
    )
    assert threading.get_ident() not in used
    assert advanced == [(1, threading.get_ident())] * 5
    for a, b in zip(one, several_threads, strict=True):
        assert a.test.tobytes() == b.test.tobytes()
        assert a.validation.tobytes() == b.validation.tobytes()
        assert a.choice == b.choice


def test_each_thread_hears_of_its_own_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = four_classes()
    rows = np.arange(len(y))
    lesson = Lesson(x, rows, fit_scaler(x, rows), y)
    plain_fit, both = LogisticRegression.fit, threading.Barrier(2)

    def fit_and_wait(*arguments: object) -> object:
        fitted = plain_fit(*arguments)
        both.wait(60)  # until the other has warned, or could have
        return fitted

    monkeypatch.setattr(LogisticRegression, "fit", fit_and_wait)
    fitters = [Whole(lesson, 1e-4, iterations) for iterations in (1, 10000)]
    with hearing_of_convergence():
        found = [one.converged for one in side_by_side(lambda fitter: fitter.fit(1.0, None), fitters, 2)]
    assert found == [False, True]


def test_an_error_in_a_thread_is_raised(threads: Callable[[int], None]) -> None:
    x, y = four_classes()
    problem = exclusive(x, y, folds(len(y)))

    def quality(*_: np.ndarray) -> float:
        raise ZeroDivisionError

    threads(2)
    with pytest.raises(ZeroDivisionError):
        fit(replace(problem, quality=quality), Settings(), 0, silent)


def test_an_interrupt_does_not_wait_for_the_threads(threads: Callable[[int], None]) -> None:
    x, y = four_classes()
    problem, ended = exclusive(x, y, folds(len(y))), threading.Event()

    once = threading.Lock()

    def quality(*_: np.ndarray) -> float:
        if once.acquire(blocking=False):
            os.kill(os.getpid(), signal.SIGINT)
        ended.wait(10)
        return 0.0

    threads(2)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            fit(replace(problem, quality=quality), Settings(), 0, silent)
        assert not ended.is_set()
    finally:
        ended.set()
        signal.signal(signal.SIGINT, before)


def test_ties_go_to_the_smaller_strength() -> None:
    x = np.repeat([[-1.0], [1.0]], 30, axis=0)  # separable: every strength is right
    fits = fit(exclusive(x, np.repeat([0, 1], 30), folds(60)), Settings(), 0, silent)
    assert {result.choice["chosen"]["C"] for result in fits} == {1e-4}


def test_classes_that_training_has_all_or_none_of_get_that_share() -> None:
    x, y = tags()
    y[:, 1], y[:, 2] = False, True
    problem = several(x, y, folds(len(y))[:1])
    (result,) = fit(problem, Settings(), 0, silent)
    assert (result.test[0, :, 1] == 0).all()
    assert (result.test[0, :, 2] == 1).all()
    nothing = with_labels(problem, np.zeros_like(y))
    assert (fit(nothing, Settings(), 0, silent)[0].test == 0).all()


def test_one_class_alone_is_certain() -> None:
    x, y = four_classes()
    problem = exclusive(x, np.full(len(y), 2), folds(len(y))[:1], classes=4)
    (result,) = fit(problem, Settings(), 0, silent)
    assert (result.test[0] == [LOWEST, LOWEST, 0, LOWEST]).all()


def test_an_unconverged_fit_is_recorded_not_hidden() -> None:
    x, y = four_classes()
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        (result,) = fit(exclusive(x, y, folds(len(y))[:1]), Settings(max_iterations=2), 0, silent)
    assert not all(point["converged"] for point in result.choice["tried"])
    assert "did not converge" in result.remarks[0]


def test_one_undefined_quality_is_no_choice() -> None:
    x, y = tags()
    rotation = folds(len(y))[0]
    empty = np.flatnonzero(~y[rotation.validation].any(axis=1))[:1]
    one = Rotation("0", rotation.train, rotation.validation[empty], rotation.test)
    (result,) = fit(several(x, y, [one]), Settings(), 0, silent)
    assert {point["validation"] for point in result.choice["tried"]} == {None}
    assert result.choice["chosen"] == {"C": 1e-4}


@pytest.mark.parametrize(
    "bad",
    [
        {"c_min": 3, "c_max": 2},
        {"c_max": 99},
        {"tolerance": 0.0},
        {"max_iterations": 0},
        {"solver": "scikit-learn", "device": "cuda"},
    ],
)
def test_impossible_settings_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        Settings(**bad)  # type: ignore[arg-type]
