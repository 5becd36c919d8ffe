"""The streamed solver against scikit-learn, numerical derivatives and itself in other pieces."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from protocols.problems import exclusive, folds, four_classes, linear_classes, several, silent, tags
from scipy.optimize import check_grad
from sklearn.linear_model import LogisticRegression

from aape_bench.errors import UsageError
from aape_bench.protocols import linear, streamed
from aape_bench.protocols.common import Scaler, fit_scaler, one_thread
from aape_bench.protocols.linear import Settings, fit, fit_probe
from aape_bench.protocols.logistic import Lesson, Solution, too_large
from aape_bench.protocols.streamed import Streamed, centred

EXACT = 1e-8


def lesson(kind: str, embeddings: np.ndarray | None = None) -> Lesson:
    """Two thirds of a small problem's rows."""
    x, y = tags() if kind == "several" else four_classes(apart=2.0)
    target = {"several": y, "two": y[:, None] > 1 if y.ndim == 1 else y, "exclusive": y}[kind]
    x = x if embeddings is None else embeddings
    rows = np.flatnonzero(np.arange(len(x)) % 3 > 0)
    return Lesson(x, rows, centred(fit_scaler(x, rows)), target[rows])


def standardised(of: Lesson) -> np.ndarray:
    return (of.embeddings[of.rows].astype(float) - of.scaler.mean) / of.scaler.scale


def objective(of: Lesson, weights: np.ndarray, offsets: np.ndarray, c: float) -> float:
    logits = standardised(of) @ weights + offsets
    if of.exclusive:
        losses = np.logaddexp.reduce(logits, axis=1) - logits[np.arange(len(logits)), of.target]
    else:
        losses = np.logaddexp(0, np.where(of.target, -logits, logits))
    return float(c * losses.sum() + np.square(weights).sum() / 2)


def solve(of: Lesson, c: float, threads: int = 1) -> Solution:
    with one_thread(use_torch=True):
        return Streamed(of, EXACT, 10_000, "cpu", threads).fit(c, None)


def test_a_feature_that_hardly_leaves_zero_spoils_nothing() -> None:
    x, _ = four_classes(apart=2.0)
    faint = np.where(np.arange(len(x)) % 2, 1e-42, 0.0).astype(np.float32)[:, None]  # its deviation has no inverse
    without, with_it = (solve(lesson("exclusive", some), 1.0) for some in (x, np.hstack([x, faint])))
    assert with_it.converged
    np.testing.assert_allclose(with_it.weights[:-1], without.weights, atol=1e-5)


@pytest.mark.parametrize("kind", ["exclusive", "two", "several"])
@pytest.mark.parametrize("c", [1e-4, 1e-2, 1.0, 1e3])
def test_the_optimum_is_scikit_learns(kind: str, c: float) -> None:
    of = lesson(kind)
    ours = solve(of, c)
    targets = [of.target] if of.exclusive else list(of.target.T)
    models = [LogisticRegression(C=c, tol=EXACT, max_iter=10_000).fit(standardised(of), one) for one in targets]
    weights = np.vstack([model.coef_ for model in models]).T
    best = objective(of, weights, np.concatenate([model.intercept_ for model in models]), c)
    assert ours.converged
    assert objective(of, ours.weights, ours.offsets, c) == pytest.approx(best, rel=1e-5 if c <= 1 else 1e-4)
    assert ours.weights == pytest.approx(weights, rel=1e-2, abs=1e-2 * np.abs(weights).max())


@pytest.mark.parametrize("kind", ["exclusive", "two", "several"])
def test_the_gradient_is_that_of_the_value(kind: str) -> None:
    of = lesson(kind)
    solver = Streamed(of, EXACT, 1, "cpu", 1)
    shape = of.embeddings.shape[1] + 1, of.outputs
    at = np.random.default_rng(0).standard_normal(shape)

    def value(flat: np.ndarray) -> float:
        parameters = flat.reshape(shape)
        return objective(of, parameters[:-1], parameters[-1], 0.3) / (0.3 * len(of.rows))

    with one_thread(use_torch=True):
        assert solver._value_and_gradient(at, 0.3)[0] == pytest.approx(value(at.ravel()), rel=1e-6)
        found = check_grad(value, lambda flat: solver._value_and_gradient(flat.reshape(shape), 0.3)[1], at.ravel())
    assert found < 1e-5


def test_embeddings_far_from_zero_and_of_any_scale_have_the_same_optimum() -> None:
    x, _ = four_classes(apart=2.0)
    rng = np.random.default_rng(0)
    scale = 10.0 ** rng.integers(-6, 7, x.shape[1])
    moved = (x.astype(float) * scale + 300 * scale).astype(np.float32)
    of = lesson("exclusive", moved)
    ours = solve(of, 1.0)
    model = LogisticRegression(tol=EXACT, max_iter=10_000).fit(standardised(of), of.target)
    best = objective(of, model.coef_.T, model.intercept_, 1.0)
    assert objective(of, ours.weights, ours.offsets, 1.0) == pytest.approx(best, rel=1e-5)


def test_threads_change_no_byte_and_pieces_next_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    of = lesson("exclusive")
    whole = solve(of, 1.0)
    monkeypatch.setattr(streamed, "PIECE", 44 * 7)
    assert len(Streamed(of, EXACT, 1, "cpu", 1)._pieces) == 29
    one, three = solve(of, 1.0), solve(of, 1.0, threads=3)
    assert one.weights.tobytes() == three.weights.tobytes()
    assert one.offsets.tobytes() == three.offsets.tobytes()
    assert one.weights == pytest.approx(whole.weights, abs=1e-4)


def test_a_fit_begins_where_it_is_told_to() -> None:
    of = lesson("several")
    solved = solve(of, 1.0)
    with one_thread(use_torch=True):
        short = Streamed(of, 1e-5, 3, "cpu", 1)
        assert not short.fit(1.0, None).converged
        assert short.fit(1.0, solved).converged


def test_rows_of_a_view_and_of_a_file_are_the_same_rows(tmp_path: Path) -> None:
    of = lesson("exclusive")
    expected = solve(of, 0.1)
    wide = np.hstack([np.zeros((len(of.embeddings), 1), np.float32), of.embeddings])
    np.save(tmp_path / "x.npy", of.embeddings)
    for embeddings in (wide[:, 1:], np.load(tmp_path / "x.npy", mmap_mode="r")):
        again = solve(Lesson(embeddings, of.rows, of.scaler, of.target), 0.1)
        assert again.weights.tobytes() == expected.weights.tobytes()


def test_embeddings_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40_001, 128), dtype=np.float32)[1:]
    y = rng.integers(0, 4, len(x))
    monkeypatch.setattr(streamed, "PIECE", 2**17)
    monkeypatch.setattr("aape_bench.protocols.common.NUMBERS", 2**17)
    problem = exclusive(x, y, folds(len(x))[:1])
    torch.zeros(1)
    settings = Settings(solver="streamed", c_max=-4, max_iterations=2)
    fit(exclusive(x[:100], y[:100], folds(100)[:1]), settings, 0, silent)  # what is imported stays
    tracemalloc.start()
    fit(problem, settings, 0, silent)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < x.nbytes / 3


@pytest.mark.parametrize("kind", ["exclusive", "several"])
def test_both_solvers_give_the_protocol_the_same_scores(kind: str) -> None:
    x, y = linear_classes() if kind == "exclusive" else tags()
    problem = (exclusive if kind == "exclusive" else several)(x, y, folds(len(y))[:2])
    how = {"c_max": 1, "tolerance": EXACT}
    for ours, theirs in zip(
        fit(problem, Settings(solver="streamed", **how), 0, silent),  # type: ignore[arg-type]
        fit(problem, Settings(solver="scikit-learn", **how), 0, silent),  # type: ignore[arg-type]
        strict=True,
    ):
        assert ours.test == pytest.approx(theirs.test, abs=1e-3)
        assert ours.choice.pop("solver") == "streamed"
        assert theirs.choice.pop("solver") == "scikit-learn"
        assert ours.choice == theirs.choice


def test_a_streamed_probe_scores_by_the_scaler_that_it_was_fitted_with() -> None:
    x, y = four_classes(apart=2.0)
    x = (x > 0) + np.float32(2**23)  # where float32 has whole numbers only, also for a mean
    problem = exclusive(x, y, folds(len(y))[:1])
    scores = [
        fit_probe(problem, problem.rotations[0], Settings(solver=solver, tolerance=EXACT)).scores(x)  # type: ignore[arg-type]
        for solver in ("streamed", "scikit-learn")
    ]
    assert scores[0] == pytest.approx(scores[1], abs=1e-2)


def test_shape_alone_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not too_large(2000, 768, 50)  # ESC-50
    assert not too_large(8732, 3840, 10)  # UrbanSound8K
    assert too_large(20_000, 768, 1251)  # a seventh of VoxCeleb1
    assert too_large(300_000, 3840, 11)  # NSynth
    assert too_large(300_000, 3840, 1)
    x, y = four_classes()
    problem = exclusive(x, y, folds(len(y))[:1])
    assert fit(problem, Settings(), 0, silent)[0].choice["solver"] == "scikit-learn"
    monkeypatch.setattr("aape_bench.protocols.logistic.LARGEST_PRODUCT", 240 * 40 * 4 - 1)
    assert fit(problem, Settings(), 0, silent)[0].choice["solver"] == "streamed"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_said() -> None:
    x, y = four_classes()
    with pytest.raises(UsageError, match="CUDA"):
        fit(exclusive(x, y, folds(len(y))[:1]), Settings(device="cuda"), 0, silent)


def test_a_wide_problem_has_one_streamed_rotation_at_a_time() -> None:
    x, y = four_classes()
    problem = exclusive(x, y, folds(len(y)))
    assert linear._rotations_at_once(problem, Settings(solver="streamed"), 8) == 1


def test_the_centre_is_a_number_of_float32() -> None:
    mean = centred(Scaler(np.array([1 / 3]), np.ones(1))).mean
    assert mean == np.float32(1 / 3)
    assert mean.dtype == np.float64
