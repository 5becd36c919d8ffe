"""EVAR's linear evaluation against a hand-written torch loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from protocols.problems import exclusive, folds, four_classes, judged_by, linear_classes, several, silent, tags
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from aape_bench.clip_table import Rotation
from aape_bench.errors import UsageError
from aape_bench.problem import Problem
from aape_bench.protocols.evar import Settings, fit
from aape_bench.randomness import numpy_stream, torch_stream
from aape_bench.settings import label_of, make_config


def by_hand(problem: Problem, rotation: Rotation, settings: Settings, number: int) -> tuple[np.ndarray, int, int]:
    """Test scores, best epoch and epochs of one seed: torch.nn.Linear, autograd, a plain Adam."""
    scaler = StandardScaler().fit(problem.embeddings[rotation.train].astype(float))

    def rows(which: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(scaler.transform(problem.embeddings[which].astype(float))).float()

    classes = len(problem.classes)
    stream = torch_stream(0, "evar", number, rotation.name, "initial")
    bound = problem.embeddings.shape[1] ** -0.5
    layer = torch.nn.Linear(problem.embeddings.shape[1], classes)
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=stream)
        layer.bias.uniform_(-bound, bound, generator=stream)
    optimiser = torch.optim.Adam(layer.parameters(), lr=settings.learning_rate or 0, weight_decay=settings.weight_decay)
    order = numpy_stream(0, "evar", number, rotation.name, "order")
    x, labels = rows(rotation.train), torch.from_numpy(problem.labels[rotation.train])

    def predict(which: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            logits = layer(rows(which))
            return (logits.log_softmax(1) if problem.exclusive else logits.sigmoid()).numpy()

    best, best_epoch, test = -1.0, 0, np.empty(0)
    for epoch in range(1, settings.epochs + 1):
        shuffled = order.permutation(len(x))
        for start in range(0, len(x), settings.batch_size):
            batch = torch.from_numpy(shuffled[start : start + settings.batch_size])
            logits = layer(x[batch])
            if problem.exclusive:
                loss = torch.nn.functional.cross_entropy(logits, labels[batch]) / classes
            else:
                loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels[batch].float())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        quality = problem.quality(rotation.validation, predict(rotation.validation))
        if quality >= best:
            best, best_epoch, test = quality, epoch, predict(rotation.test)
        elif epoch >= best_epoch + settings.patience:
            break
    return test, best_epoch, epoch


@pytest.mark.parametrize("kind", ["exclusive", "several"])
def test_every_seed_equals_a_hand_written_loop(kind: str) -> None:
    x, y = four_classes() if kind == "exclusive" else tags()
    rotations = folds(len(y))[:2]
    problem = exclusive(x, y, rotations) if kind == "exclusive" else several(x, y, rotations)
    settings = Settings(
        learning_rate=0.003 if kind == "exclusive" else 0.03, weight_decay=0.01, batch_size=50, epochs=40, patience=6
    )
    fits = fit(problem, settings, 0, silent)
    stopped = set()
    for result, rotation in zip(fits, rotations, strict=True):
        for repeat, number in enumerate((42, 43, 44)):
            test, best_epoch, epochs = by_hand(problem, rotation, settings, number)
            story = result.choice["tried"][repeat]
            assert (story["seed"], story["epoch"], story["epochs"]) == (number, best_epoch, epochs)
            assert result.test[repeat] == pytest.approx(test, abs=1e-4)
            assert story["validation"] == problem.quality(rotation.validation, result.validation[repeat])
            stopped.add(story["stopped_early"])
    assert True in stopped


def test_enough_epochs_come_near_logistic_regression() -> None:
    x, y = linear_classes()
    (rotation, *_) = folds(len(y))
    problem = exclusive(x, y, [rotation])
    (result,) = fit(problem, Settings(learning_rate=0.01, epochs=80), 0, silent)
    scaler = StandardScaler().fit(x[rotation.train].astype(float))
    model = LogisticRegression().fit(scaler.transform(x[rotation.train].astype(float)), y[rotation.train])
    expected = model.score(scaler.transform(x[rotation.test].astype(float)), y[rotation.test])
    for scores in result.test:
        assert problem.quality(rotation.test, scores) == pytest.approx(expected, abs=0.03)


def test_an_epoch_as_good_as_the_best_replaces_it() -> None:
    x = np.repeat([[-1.0], [1.0]], 30, axis=0)  # right from the first epochs on
    (result,) = fit(
        exclusive(x, np.repeat([0, 1], 30), folds(60)[:1]), Settings(learning_rate=0.1, epochs=50), 0, silent
    )
    assert {(p["epoch"], p["epochs"], p["stopped_early"]) for p in result.choice["tried"]} == {(50, 50, False)}


def test_training_ends_patience_epochs_after_the_best() -> None:
    x, y = four_classes()
    problem = judged_by(exclusive(x, y, folds(len(y))[:1]), [0.1, 0.5, 0.2, 0.5, *[0.3] * 100])
    (result,) = fit(problem, Settings(seeds="42", patience=5), 0, silent)
    assert result.choice["tried"] == [{"seed": 42, "validation": 0.5, "epoch": 4, "epochs": 9, "stopped_early": True}]


def test_seeds_differ_and_each_is_the_same_alone() -> None:
    x, y = four_classes()
    problem = exclusive(x, y, folds(len(y))[:1])
    (three,) = fit(problem, Settings(epochs=5), 0, silent)
    (alone,) = fit(problem, Settings(epochs=5, seeds="43"), 0, silent)
    assert three.test[1] == pytest.approx(alone.test[0], abs=1e-6)
    assert (three.test[0] != three.test[1]).any()
    (other,) = fit(problem, Settings(epochs=5), 1, silent)
    assert (other.test != three.test).any()


def test_presets_fill_in_the_learning_rate() -> None:
    assert make_config(Settings, {}, "evar").learning_rate == 3e-4
    m2d = make_config(Settings, {"preset": "m2d"}, "evar")
    assert m2d.learning_rate == 3e-5
    assert label_of("evar", m2d) == "evar[preset=m2d]"
    assert make_config(Settings, {"preset": "m2d", "learning_rate": "1e-3"}, "evar").learning_rate == 1e-3


@pytest.mark.parametrize(
    "bad",
    [{"learning_rate": 0.0}, {"weight_decay": -1.0}, {"batch_size": 0}, {"epochs": 0}, {"patience": 0}, {"seeds": "a"}],
)
def test_impossible_settings_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=next(iter(bad))):
        Settings(**bad)  # type: ignore[arg-type]
