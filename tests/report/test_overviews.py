"""Pictures over many tasks, learning curves and reliability."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from record_factory import Model, predict, small, write_records

from aape_bench.leaderboard import leaderboard
from aape_bench.published import published
from aape_bench.records import read_all
from aape_bench.report.curves import Reliability, plot_learning, plot_reliability, reliability
from aape_bench.report.overviews import normalised, plot_overviews

DOMAINS = {"esc50": "sound", "cremad": "speech", "gtzan": "music", "tremolo": "modulation"}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    models = [Model("good", 2.5), Model("middling"), Model("a_model_with_a_very_long_label[of=settings,and=more]", 0.5)]
    tasks = [small("esc50", 60, 5), small("cremad", 48), small("tremolo", 60)]
    write_records(folder, models, tasks)
    write_records(folder, [Model("untrained", 0.1, weights="random")], tasks)
    return folder


def words(path: Path) -> list[str]:
    return ["".join(one.itertext()).strip() for one in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")]


def test_every_score_stands_in_the_heat_map_with_its_mark(results: Path, tmp_path: Path) -> None:
    board, _ = leaderboard(results)
    paths = {path.name: path for path in plot_overviews(board, DOMAINS, tmp_path)}
    assert sorted(paths) == [
        f"{name}.{kind}" for name in ("cost-linear", "heatmap-linear", "radar-linear") for kind in ("png", "svg")
    ]
    said = words(paths["heatmap-linear.svg"])
    for row in board.to_dict("records"):
        assert f"{row['score']:.3f}{'r' if row['weights'] == 'random' else ''}" in said
    assert "r random weights" in " ".join(said)
    assert any("…" in text for text in said)


def test_classes_share_no_polygon_and_no_mean(results: Path, tmp_path: Path) -> None:
    board, _ = leaderboard(results)
    plot_overviews(board, DOMAINS, tmp_path)
    radar, cost = (words(tmp_path / f"{name}-linear.svg") for name in ("radar", "cost"))
    assert "linear, mean by domain (complete data)" in radar
    assert "linear, mean by domain (random weights)" in radar
    assert "Cost against score by linear: 3 tasks, complete data" in cost
    assert "untrained" not in cost
    assert cost.count("good") == 2


def test_versions_of_a_tasks_data_share_no_cell(tmp_path: Path) -> None:
    models = [Model("good", 2.5), Model("poor", 0.3)]
    tasks = [small("esc50", 60, 5), small("esc50", 40, 5), small("cremad", 48)]
    write_records(tmp_path, models, tasks)
    board, _ = leaderboard(tmp_path)
    plot_overviews(board, DOMAINS, tmp_path)
    said = words(tmp_path / "heatmap-linear.svg")
    assert {f"{score:.3f}" for score in board["score"]} <= set(said)
    assert sum(text.startswith("esc50, accuracy, ") for text in said) == 2


def test_a_polygon_is_over_tasks_that_all_of_them_have(tmp_path: Path) -> None:
    """A model that was run on an easy task more has no better mean of that domain."""
    models = [Model("more", 1.0), Model("less", 1.0)]
    tasks = [small("esc50", 60, 5), small("cremad", 48), small("gtzan", 40)]
    write_records(tmp_path, models, tasks)
    before = plot_overviews(leaderboard(tmp_path)[0], DOMAINS, tmp_path / "before")
    write_records(tmp_path, [Model("more", 3.0)], [small("us8k", 60)])
    plot_overviews(leaderboard(tmp_path)[0], {**DOMAINS, "us8k": "sound"}, tmp_path / "after")
    (radar,) = [path for path in before if path.name == "radar-linear.svg"]
    assert (tmp_path / "after" / radar.name).read_bytes() == radar.read_bytes()
    write_records(tmp_path, [Model("least", 3.0)], tasks[:1])
    plot_overviews(leaderboard(tmp_path)[0], DOMAINS, tmp_path / "least")
    assert "more" in words(tmp_path / "least" / radar.name)
    assert "least" not in words(tmp_path / "least" / radar.name)


def test_no_picture_of_one_task_or_too_few_domains(results: Path, tmp_path: Path) -> None:
    board, _ = leaderboard(results)
    assert plot_overviews(board[board["task"] == "esc50"], DOMAINS, tmp_path) == []
    drawn = plot_overviews(board, dict.fromkeys(DOMAINS, "sound"), tmp_path)
    assert not [path for path in drawn if path.name.startswith("radar")]


def test_published_figures_stand_beside_ours(results: Path, tmp_path: Path) -> None:
    board, _ = leaderboard(results)
    paths = plot_overviews(board, DOMAINS, tmp_path, published(["esc50", "cremad"]))
    said = words(next(path for path in paths if path.name == "published.svg"))
    assert {"esc50, accuracy", "ours, complete data", "published by others (other code and splits)"} <= set(said)


@pytest.mark.parametrize(
    ("score", "chance", "metric", "value"),
    [(0.6, 0.2, "accuracy", 0.5), (0.1, 0.2, "accuracy", -0.125), (1.0, 0.2, "accuracy", 1.0), (0.3, None, "mAP", 0.3)],
)
def test_a_score_counts_from_chance(score: float, chance: float | None, metric: str, value: float) -> None:
    assert normalised({"score": score, "chance": chance, "metric": metric}) == pytest.approx(value)


def test_what_has_no_perfect_score_has_no_place_between() -> None:
    for metric, score in (("d_prime", 2.5), ("d_prime", 0.5), ("segment_1s_er", 0.5)):
        assert np.isnan(normalised({"score": score, "chance": 0.0, "metric": metric}))


def test_reliability_of_a_classifier_that_knows_what_it_knows() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.2, 1.0, 20000)
    honest = Reliability(confidence, rng.random(20000) < confidence)
    assert honest.error < 0.02
    assert len(honest.confidence) == 10
    boastful = Reliability(confidence, rng.random(20000) < confidence - 0.2)
    assert boastful.error == pytest.approx(0.2, abs=0.02)
    assert len(Reliability(confidence[:25], confidence[:25] > 0).confidence) == 2  # not one bin of three clips


def test_reliability_asks_for_probabilities(tmp_path: Path) -> None:
    scores = predict(Model("m"), small("esc50", 60, 5), "linear")
    assert reliability(scores) is None  # scores of any scale
    assert scores.scores is not None
    logs = scores.scores - np.logaddexp.reduce(scores.scores, axis=2, keepdims=True)
    found = reliability(dataclasses.replace(scores, scores=logs))
    assert found is not None
    assert (found.confidence >= 0.2).all()
    assert plot_reliability([], tmp_path) == []


def test_learning_curves_are_those_of_the_records(results: Path, tmp_path: Path) -> None:
    (_, record), *_ = read_all(results)[0]
    assert plot_learning([record], tmp_path) == []
    curves = [[0.1, 0.5], [0.3, 0.7]]
    choices = [
        {"fold": str(fold), "curve": [{"update": 10 * at, "validation": value} for at, value in enumerate(values)]}
        for fold, values in enumerate(curves)
    ]
    tuned = dataclasses.replace(record, protocol={**record.protocol, "label": "finetune", "choices": choices})
    png, svg = plot_learning([tuned], tmp_path)
    assert png.stat().st_size > 5000
    said = words(svg)
    assert {record.task["name"], "finetune"} <= set(said)
    partial = dataclasses.replace(tuned, task={**tuned.task, "partial": "60 of 2000", "fingerprint": "other"})
    said = words(plot_learning([tuned, partial], tmp_path)[1])
    assert {record.task["name"], f"{record.task['name']} (60 of 2000)"} <= set(said)  # not in one panel
    assert record.model["label"] in " ".join(said) or any("…" in text for text in said)
    assert not any("seed" in text or "first" in text for text in said)

    seeds = [dataclasses.replace(tuned, seed=seed) for seed in range(9)]
    said = words(plot_learning(seeds, tmp_path)[1])
    assert sum("seed 7" in text for text in said) == 1
    assert not any("seed 8" in text for text in said)
    assert any(text.endswith(": the first 8") for text in said)
