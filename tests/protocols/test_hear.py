"""HEAR's downstream training: its network against torch.nn, its rules, and what `as_published` takes back."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from protocols.problems import exclusive, folds, four_classes, judged_by, linear_classes, several, silent, tags
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from aape_bench.clip_table import Rotation
from aape_bench.errors import DataError, UsageError
from aape_bench.problem import Problem
from aape_bench.protocols import hear, numerics, perceptron
from aape_bench.protocols.hear import Settings, fit
from aape_bench.protocols.perceptron import Perceptron
from aape_bench.settings import make_config

SMALL = Settings(hidden_width="16", max_epochs=9, grid_points=3)


def stream(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network_of(hidden: list[int], number: int = 0, dropout: float = 0.0, **settings: Any) -> Perceptron:
    """10 inputs, 4 outputs."""
    how = {"initialisation": "xavier_uniform", "learning_rate": 0.01, **settings}
    return Perceptron(
        10, hidden, 4, dropout=dropout, initial=stream(number), masks=np.random.default_rng(number), **how
    )


class Masks(torch.nn.Module):
    """Dropout that leaves out the units that a network would, drawing from a copy of its stream."""

    def __init__(self, share: float, masks: np.random.Generator) -> None:
        super().__init__()
        self.share, self.masks = share, masks

    def forward(self, units: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return units
        draws = perceptron._drawn(units.shape[1], len(units), self.masks).T.int() + 2**15
        return units * (draws >= round(self.share * 2**16)) / (1 - self.share)


def built_with_modules(network: Perceptron, dropout: float, masks: np.random.Generator) -> torch.nn.Sequential:
    """The same layers as modules of torch.nn, with the network's weights. Offsets ahead of batch norm are not trained.

    (Their gradient is rounding errors around zero, of which Adam makes full steps.)
    """
    modules: list[torch.nn.Module] = []
    for layer in network.hidden:
        units, inputs = layer.weight.shape
        linear = torch.nn.Linear(inputs, units)
        linear.weight.data, linear.bias.data = layer.weight.clone(), -layer.mean
        linear.bias.requires_grad_(False)
        modules += [linear, torch.nn.BatchNorm1d(units), Masks(dropout, masks) if dropout else torch.nn.Dropout(0.0)]
        modules.append(torch.nn.ReLU())
    modules.append(torch.nn.Linear(network.weight.shape[1], network.weight.shape[0]))
    modules[-1].weight.data, modules[-1].bias.data = network.weight.clone(), network.offset.clone()
    return torch.nn.Sequential(*modules)


@pytest.mark.parametrize("exclusive_labels", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.25])
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_networks_side_by_side_train_as_modules_do_alone(depth: int, dropout: float, exclusive_labels: bool) -> None:
    widths, rates = [16, 5, 32], [0.01, 0.001, 0.03]
    networks = [
        network_of([width] * depth, n, dropout, learning_rate=rate)
        for n, (width, rate) in enumerate(zip(widths, rates, strict=True))
    ]
    alone = [built_with_modules(network, dropout, np.random.default_rng(n)) for n, network in enumerate(networks)]
    optimisers = [torch.optim.Adam(one.parameters(), lr=rate) for one, rate in zip(alone, rates, strict=True)]
    draws = stream(7)
    x, y = torch.randn(32, 10, generator=draws), torch.randint(4, (32,), generator=draws)
    labels = y if exclusive_labels else torch.rand(32, 4, generator=draws) < 0.3
    for _ in range(8):
        with torch.no_grad():
            perceptron.train(networks, x, lambda logits: hear._gradient(logits, labels, exclusive_labels))
        for modules, optimiser in zip(alone, optimisers, strict=True):
            optimiser.zero_grad()
            if exclusive_labels:
                loss = torch.nn.functional.cross_entropy(modules(x), labels)
            else:
                loss = torch.nn.functional.binary_cross_entropy_with_logits(modules(x), labels.float())
            loss.backward()
            optimiser.step()
    for network, modules in zip(networks, alone, strict=True):
        modules.eval()
        assert network.logits(x[:5]).numpy() == pytest.approx(modules(x[:5]).detach().numpy(), abs=2e-4)


def test_gradients_are_those_of_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adam hardly tells a gradient from a multiple of it."""
    network = network_of([16, 5], dropout=0.25)
    modules = built_with_modules(network, 0.25, np.random.default_rng(0))
    x, y = torch.randn(32, 10, generator=stream(1)), torch.randint(4, (32,), generator=stream(2))
    found: list[torch.Tensor] = []
    monkeypatch.setattr(network, "learn", found.extend)
    with torch.no_grad():
        perceptron.train([network], x, lambda logits: hear._gradient(logits, y, True))
    torch.nn.functional.cross_entropy(modules(x), y).backward()
    expected = [p for module in reversed(modules) for p in module.parameters() if p.requires_grad]
    # in the order of `parameters`: behind the output layer each batch norm comes ahead of its weights here
    expected = [*expected[:2], expected[4], *expected[2:4], expected[7], *expected[5:7]]
    for ours, parameter in zip(found, expected, strict=True):
        assert ours.numpy() == pytest.approx(parameter.grad.numpy(), abs=1e-6)


def test_dropout_leaves_out_its_share_in_training_only() -> None:
    x = torch.randn(8, 10, generator=stream(0))
    plain, dropping = network_of([4096]), network_of([4096], dropout=0.3)
    whole = perceptron._Step.forwards([plain], 0, [x.T]).after
    for _ in range(2):
        some = perceptron._Step.forwards([dropping], 0, [x.T]).after
        left_out = (some == 0) & (whole > 0)
        assert float(left_out.sum() / (whole > 0).sum()) == pytest.approx(0.3, abs=0.02)
        assert torch.where(left_out, 0, whole / 0.7).numpy() == pytest.approx(some.numpy(), rel=1e-4)
    again = perceptron._Step.forwards([dropping], 0, [x.T]).after
    assert ((again == 0) != (some == 0)).any()
    assert (dropping.logits(x) == dropping.logits(x)).all()


@pytest.mark.parametrize("library", ["onednn", "plain"])
def test_products_of_any_layout(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numerics, "_SMALL", 0)
    if library == "plain":
        monkeypatch.setattr(numerics, "_onednn", lambda: None)
    for rows, inner, columns in ((7, 33, 20), (20, 5, 6), (1, 9, 4), (6, 1, 3), (3, 8, 1)):
        a, b = torch.randn(rows, inner, generator=stream(0)), torch.randn(inner, columns, generator=stream(1))
        expected = (a.double() @ b.double()).numpy()
        for left in (a, a.T.contiguous().T, torch.cat([a, a], dim=1)[:, :inner]):
            for right in (b, b.T.contiguous().T, torch.cat([b, b], dim=1)[:, columns:]):
                assert numerics.product(left, right).numpy() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("how", ["xavier_uniform", "xavier_normal"])
def test_initial_weights_have_xaviers_deviation(how: hear.Initialisation) -> None:
    network = Perceptron(
        300,
        [500, 400],
        200,
        dropout=0.1,
        initialisation=how,
        learning_rate=1,
        initial=stream(0),
        masks=np.random.default_rng(1),
    )
    first, second = (layer.weight for layer in network.hidden)
    assert float(first.std()) == pytest.approx((2 / 800) ** 0.5, rel=0.01)
    assert float(second.std()) == pytest.approx((2 * 2 / 900) ** 0.5, rel=0.01)
    assert float(network.weight.std()) == pytest.approx((2 * 2 / 600) ** 0.5, rel=0.01)
    assert (float(first.abs().max()) < (6 / 800) ** 0.5) == (how == "xavier_uniform")


def test_without_hidden_layers_it_comes_near_logistic_regression() -> None:
    x, y = linear_classes()
    (rotation, *_) = folds(len(y))
    problem = exclusive(x, y, [rotation])
    settings = Settings(hidden_layers="0", learning_rates="1e-2", max_epochs=200, normalise="feature")
    (result,) = fit(problem, settings, 0, silent)
    scaler = StandardScaler().fit(x[rotation.train].astype(float))
    model = LogisticRegression().fit(scaler.transform(x[rotation.train].astype(float)), y[rotation.train])
    expected = model.score(scaler.transform(x[rotation.test].astype(float)), y[rotation.test])
    assert problem.quality(rotation.test, result.test[0]) == pytest.approx(expected, abs=0.03)


def test_the_grid_is_hears_and_eight_of_its_points_are_drawn() -> None:
    grid = Settings().grid()
    assert len(grid) == 16
    assert {point.hidden_layers for point in grid} == {1, 2}
    assert {point.hidden_width for point in grid} == {1024}
    assert {point.learning_rate for point in grid} == {3.2e-3, 1e-3, 3.2e-4, 1e-4}
    x, y = four_classes()
    settings = dataclasses.replace(SMALL, grid_points=8, max_epochs=3)
    problem = exclusive(x, y, folds(len(y))[:2])
    drawn = [
        [{key: point[key] for key in ("hidden_layers", "learning_rate", "initialisation")} for point in tried]
        for seed in (0, 0, 1)
        for tried in [result.choice["tried"] for result in fit(problem, settings, seed, silent)]
    ]
    assert len(drawn[0]) == 8
    assert drawn[0] == drawn[1] == drawn[2] == drawn[3]  # every rotation, every run
    assert drawn[4] != drawn[0]


def test_training_ends_after_checks_without_a_better_score() -> None:
    x, y = four_classes()
    problem = judged_by(exclusive(x, y, folds(len(y))[:1]), [0.2, 0.5, 0.5, 0.4, 0.5, *[0.9] * 50])
    settings = dataclasses.replace(SMALL, max_epochs=90, patience=3, grid_points=1)
    (result,) = fit(problem, settings, 0, silent)
    (story,) = result.choice["tried"]
    assert (story["validation"], story["epoch"], story["epochs"]) == (0.5, 6, 15)  # an equal score is not better
    assert story["stopped_early"]


def test_an_undefined_score_is_worse_than_any_other() -> None:
    x, y = four_classes()
    problem = judged_by(exclusive(x, y, folds(len(y))[:1]), [float("nan"), 0.3, float("nan")])
    (result,) = fit(problem, dataclasses.replace(SMALL, grid_points=1), 0, silent)
    assert (result.choice["tried"][0]["validation"], result.choice["tried"][0]["epoch"]) == (0.3, 6)


def test_the_best_point_of_each_rotation_is_chosen_first_among_equals() -> None:
    x, y = four_classes()
    problem = exclusive(x, y, folds(len(y))[:2])
    settings = dataclasses.replace(SMALL, hidden_layers="1", max_epochs=3, validate_every=3)
    fits = fit(judged_by(problem, [0.1, 0.7, 0.7, 0.8, 0.2, 0.3]), settings, 0, silent)
    for result, best in zip(fits, (1, 0), strict=True):
        chosen = result.choice["chosen"]
        assert chosen == {key: result.choice["tried"][best][key] for key in chosen}


def test_as_published_compares_the_grid_in_the_first_rotation_only() -> None:
    x, y = four_classes()
    problem = exclusive(x, y, folds(len(y))[:3])
    mended = fit(problem, SMALL, 0, silent)
    published = fit(problem, dataclasses.replace(SMALL, as_published=True), 0, silent)
    assert [len(result.choice["tried"]) for result in mended] == [3, 3, 3]
    assert [len(result.choice["tried"]) for result in published] == [3, 1, 1]
    assert len({str(result.choice["chosen"]) for result in published}) == 1
    assert [bool(result.remarks) for result in published] == [False, True, True]
    assert not any(result.remarks for result in mended)


def first_batches(problem: Problem, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """The training batches of two epochs."""
    seen: list[np.ndarray] = []

    def watch(networks: Sequence[Perceptron], rows: torch.Tensor, gradient: Any) -> None:
        seen.append(rows.numpy().copy())
        perceptron.train(networks, rows, gradient)

    monkeypatch.setattr(hear, "train", watch)
    fit(problem, dataclasses.replace(settings, max_epochs=2, validate_every=1, grid_points=1), 0, silent)
    monkeypatch.undo()
    return seen


def test_as_published_neither_shuffles_nor_normalises(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = four_classes()
    x = 100 + 50 * x
    problem = exclusive(x, y, folds(len(y))[:1])
    train = x[problem.rotations[0].train]
    settings = dataclasses.replace(SMALL, batch_size=100)
    published = first_batches(problem, dataclasses.replace(settings, as_published=True), monkeypatch)
    assert (np.concatenate(published) == np.concatenate([train, train])).all()
    mended = first_batches(problem, settings, monkeypatch)
    first, second = np.concatenate(mended[:2]), np.concatenate(mended[2:])
    assert (first != second).any()
    assert (np.sort(first, axis=0) == np.sort(second, axis=0)).all()
    assert first.mean(axis=0) == pytest.approx(0, abs=1e-3)
    assert np.square(first).mean() == pytest.approx(1, rel=1e-3)
    deviations = train.std(axis=0)
    assert first.std(axis=0) / first.std() == pytest.approx(deviations / np.sqrt(np.mean(deviations**2)), rel=1e-3)
    alone = np.concatenate(first_batches(problem, dataclasses.replace(settings, normalise="feature"), monkeypatch)[:2])
    assert alone.std(axis=0) == pytest.approx(1, rel=1e-3)


def test_offset_and_scale_of_the_embeddings_decide_nothing() -> None:
    x, y = four_classes()
    settings = dataclasses.replace(SMALL, hidden_width="32")
    (one,) = fit(exclusive(x, y, folds(len(y))[:1]), settings, 0, silent)
    (other,) = fit(exclusive(16 * x, y, folds(len(y))[:1]), settings, 0, silent)
    assert other.test == pytest.approx(one.test, abs=1e-3)


def test_a_last_batch_of_one_row_is_no_obstacle() -> None:
    x, y = four_classes()
    rotation = Rotation("0", np.arange(101), np.arange(101, 150), np.arange(150, 200))
    (result,) = fit(exclusive(x, y, [rotation]), dataclasses.replace(SMALL, batch_size=50), 0, silent)
    assert np.isfinite(result.test).all()
    with pytest.raises(DataError, match="single training row"):
        fit(exclusive(x, y, [Rotation("0", np.arange(1), np.arange(1, 9), np.arange(9, 20))]), SMALL, 0, silent)


@pytest.mark.parametrize("widths", ["16", "5,24,16"])
def test_a_points_result_does_not_hang_on_the_others(widths: str) -> None:
    x, y = tags()
    problem = several(x, y, folds(len(y))[:1])
    settings = dataclasses.replace(SMALL, hidden_width=widths, grid_points=5)
    (five,) = fit(problem, settings, 0, silent)
    chosen = five.choice["chosen"]
    alone = dataclasses.replace(
        settings,
        hidden_layers=str(chosen["hidden_layers"]),
        hidden_width=str(chosen["hidden_width"]),
        learning_rates=str(chosen["learning_rate"]),
        initialisations=chosen["initialisation"],
    )
    assert fit(problem, alone, 0, silent)[0].test.tobytes() == five.test.tobytes()


def test_the_same_bytes_from_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = four_classes()
    problem = exclusive(x, y, folds(len(y))[:2])
    monkeypatch.setattr(hear, "threads_allowed", lambda: 1)
    one = fit(problem, SMALL, 0, silent)
    monkeypatch.setattr(hear, "threads_allowed", lambda: 3)
    monkeypatch.setattr(hear, "_TOGETHER", 1)
    several_threads = fit(problem, SMALL, 0, silent)
    assert [(a.test.tobytes(), a.choice) for a in one] == [(b.test.tobytes(), b.choice) for b in several_threads]


def test_points_stand_together_by_depth_up_to_a_size() -> None:
    points = [hear.Point(depth, width, 0.1, "xavier_normal") for depth in (2, 1) for width in (300, 1024, 600, 400)]
    groups = hear._groups(points, 128)
    assert [[(one.hidden_layers, one.hidden_width) for one in group] for group in groups] == [
        [(1, 300)], [(1, 1024)], [(1, 600), (1, 400)], [(2, 300)], [(2, 1024)], [(2, 600), (2, 400)],
    ]  # fmt: skip


def test_settings_are_recorded_as_they_work() -> None:
    config = make_config(Settings, {"as_published": "true", "learning_rates": "0.001, 1e-4"}, "hear")
    assert config.normalise == "none"
    assert config.learning_rates == "0.001,0.0001"


@pytest.mark.parametrize(
    "bad",
    [
        {"hidden_layers": "9"},
        {"hidden_width": "0"},
        {"learning_rates": "0"},
        {"learning_rates": "nan"},
        {"initialisations": "zeros"},
        {"dropout": 1.0},
        {"batch_size": 1},
        {"grid_points": 0},
        {"patience": 0},
        {"max_epochs": 2},
    ],
)
def test_impossible_settings_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=next(iter(bad))):
        Settings(**bad)  # type: ignore[arg-type]
