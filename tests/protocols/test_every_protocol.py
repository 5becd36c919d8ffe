"""What every protocol keeps: determinism, no look at test labels, odd training rows."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from protocols.problems import (
    QUICK,
    exclusive,
    folds,
    four_classes,
    several,
    silent,
    tags,
    with_embeddings,
    with_labels,
)

from aape_bench.clip_table import Rotation
from aape_bench.problem import Fit, Problem
from aape_bench.protocols import PROTOCOLS, protocol, trains_encoder
from aape_bench.protocols.common import LOWEST, scaled
from aape_bench.settings import make_config


# what trains the encoder itself is asked the same in tests/finetune
@pytest.fixture(params=sorted(name for name in PROTOCOLS if not trains_encoder(name)))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["exclusive", "several"])
def problem(request: pytest.FixtureRequest) -> Problem:
    x, y = four_classes(apart=2.0) if request.param == "exclusive" else tags()
    make = exclusive if request.param == "exclusive" else several
    return make(x, y, folds(len(y))[:2])


def run(name: str, problem: Problem, seed: int = 0, **settings: object) -> list[Fit]:
    module = protocol(name)
    return module.fit(problem, make_config(module.Settings, {**QUICK[name], **settings}, name), seed, silent)


def equal(one: list[Fit], other: list[Fit]) -> bool:
    return all(
        a.test.tobytes() == b.test.tobytes() and a.validation.tobytes() == b.validation.tobytes()
        for a, b in zip(one, other, strict=True)
    )


def test_the_same_inputs_give_the_same_bytes(name: str, problem: Problem) -> None:
    before = run(name, problem)
    threads, state = torch.get_num_threads(), np.random.get_state()[1].copy()  # type: ignore[union-attr]  # noqa: NPY002
    torch.manual_seed(99)
    expected = torch.rand(3, generator=torch.Generator().manual_seed(99))
    torch.set_num_threads(2)
    try:
        again = run(name, problem)
        assert torch.get_num_threads() == 2
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == 2
    finally:
        torch.set_num_threads(threads)
    assert equal(before, again)
    assert [fit.choice for fit in before] == [fit.choice for fit in again]
    assert (torch.rand(3) == expected).all(), "the global generator was drawn from"
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002
    json.dumps([fit.choice for fit in before], allow_nan=False)


def test_scores_have_the_contracts_form(name: str, problem: Problem) -> None:
    for fit, rotation in zip(run(name, problem), problem.rotations, strict=True):
        repeats = 3 if name == "evar" else 1
        assert fit.test.shape == (repeats, len(rotation.test), len(problem.classes))
        assert fit.validation.shape == (repeats, len(rotation.validation), len(problem.classes))
        assert fit.test.dtype == fit.validation.dtype == np.float32
        assert np.isfinite(fit.test).all()
        if not problem.exclusive:
            assert fit.test.min() >= 0
            assert fit.test.max() <= 1
        for values in fit.values.values():
            assert values.shape == (len(rotation.test),)


def test_every_protocol_learns(name: str, problem: Problem) -> None:
    settings = {"max_epochs": 60} if name == "hear" else {"epochs": 60} if name == "evar" else {}
    (fit, *_) = run(name, problem, **settings)
    quality = np.mean([problem.quality(problem.rotations[0].test, scores) for scores in fit.test])
    positives = 0.25 if problem.exclusive else problem.labels.mean()
    assert quality > 2 * positives


def test_test_labels_change_nothing(name: str, problem: Problem) -> None:
    rotation = problem.rotations[0]
    one = dataclasses.replace(problem, rotations=[rotation])
    labels = problem.labels.copy()
    labels[rotation.test] = labels[rotation.test][::-1]
    before, after = run(name, one), run(name, with_labels(one, labels))
    assert equal(before, after)
    assert before[0].choice == after[0].choice


def test_quality_is_asked_of_validation_rows_only(name: str, problem: Problem) -> None:
    rotation = problem.rotations[0]
    asked: list[np.ndarray] = []

    def quality(rows: np.ndarray, scores: np.ndarray) -> float:
        asked.append(rows)
        return problem.quality(rows, scores)

    run(name, dataclasses.replace(problem, rotations=[rotation], quality=quality))
    assert asked
    assert all((rows == rotation.validation).all() for rows in asked)


def test_test_embeddings_change_test_scores_only(name: str, problem: Problem) -> None:
    one = dataclasses.replace(problem, rotations=problem.rotations[:1])
    embeddings = one.embeddings.copy()
    embeddings[one.rotations[0].test[:20]] *= -1
    (before,), (after,) = run(name, one), run(name, with_embeddings(one, embeddings))
    assert before.choice == after.choice
    assert (before.validation == after.validation).all()
    assert (before.test[:, :20] != after.test[:, :20]).any()
    assert np.allclose(before.test[:, 20:], after.test[:, 20:], atol=1e-5)


def test_a_class_absent_from_training_has_the_lowest_score(name: str) -> None:
    x, y = four_classes()
    rotation = folds(len(y))[0]
    y[rotation.test[:3]] = 4
    (fit,) = run(name, exclusive(x, y, [rotation], classes=6))
    assert (fit.test[:, :, 4:] == LOWEST).all()
    assert (fit.test[:, :, :4] > LOWEST).all()


def test_one_validation_row_constant_features_and_silence_do_no_harm(name: str, problem: Problem) -> None:
    rotation = problem.rotations[0]
    x = problem.embeddings.copy()
    x[:, :2] = 7.3
    x[rotation.train[0]] = x[rotation.validation[0]] = x[rotation.test[0]] = 0
    one = Rotation("0", rotation.train, rotation.validation[:1], rotation.test)
    (fit,) = run(name, dataclasses.replace(problem, embeddings=x, rotations=[one]))
    assert np.isfinite(fit.test).all()
    assert np.isfinite(fit.validation).all()
    everything = with_embeddings(problem, np.full_like(x, 0.1))
    assert all(np.isfinite(fit.test).all() for fit in run(name, everything))


def test_rows_without_any_label_are_no_obstacle(name: str) -> None:
    x, y = tags()
    y[np.arange(len(y)) % 10 > 1] = False
    (fit,) = run(name, several(x, y, folds(len(y))[:1]))
    assert np.isfinite(fit.test).all()
    (fit,) = run(name, several(x, np.zeros_like(y), folds(len(y))[:1]))
    assert {point["validation"] for point in fit.choice["tried"]} == {None}
    assert np.isfinite(fit.test).all()


def test_a_rotation_does_not_hang_on_the_others(name: str, problem: Problem) -> None:
    both = run(name, problem)
    second = run(name, dataclasses.replace(problem, rotations=problem.rotations[1:]))
    assert equal(both[1:], second)


def test_scaling_in_pieces_equals_scaling_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.preprocessing import StandardScaler

    from aape_bench.protocols import common

    x, _ = four_classes()
    rows = np.arange(0, 300, 2)
    monkeypatch.setattr(common, "CHUNK", 7)
    ours = scaled(x, rows, common.fit_scaler(x, rows))
    assert ours == pytest.approx(StandardScaler().fit_transform(x[rows].astype(float)), abs=1e-5)


def test_planning_with_any_protocol_imports_nothing_heavy() -> None:
    code = (
        "import sys, aape_bench.protocols as p\n"
        "for name in p.PROTOCOLS: p.protocol(name).Settings()\n"
        "print([m for m in ('torch', 'sklearn', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
