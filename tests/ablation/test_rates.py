"""Accuracy against rate, from records and predictions on disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from ablation_scores import row
from predicted import multiclass
from record_factory import Model, small, write_result_of

from aape_bench.ablation.rates import accuracy_by_rate, rates
from aape_bench.errors import StorageError
from aape_bench.predictions import Predictions

RATES = ["1.5 Hz", "2 Hz", "10 Hz", "2 Hz"]


def evaluated(folder: Path, variant: str, seed: int, task: str, predictions: Predictions) -> dict[str, object]:
    """Write a record with its predictions; returns its row of the scores."""
    clips = replace(small("gtzan", len(predictions.ids), len(predictions.classes)), name=task)
    path = write_result_of(folder, Model(variant, seed=seed), clips, predictions)
    return row(variant, seed, task, 0.5, record=path.relative_to(folder).as_posix())


def test_every_run_on_a_task_of_rates_has_its_points(tmp_path: Path) -> None:
    right, wrong = (
        multiclass(RATES, [RATES]),
        multiclass(RATES, [["2 Hz", "2 Hz", "2 Hz", "1.5 Hz"]], classes=RATES[:3]),
    )
    pets = multiclass(["cat", "dog"], [["cat", "dog"]])
    table = pd.DataFrame(
        [
            evaluated(tmp_path, "full", 0, "tremolo", right),
            evaluated(tmp_path, "plain", 1, "tremolo", wrong),
            evaluated(tmp_path, "full", 0, "pets", pets),
            row("full", 0, "tremolo", 0.5, protocol="knn", record="not read.json"),
        ]
    )
    found = rates(tmp_path, table, "linear")
    assert set(found["task"]) == {"tremolo"}
    by_run = {
        key: dict(zip(own["rate"], own["accuracy"], strict=True)) for key, own in found.groupby(["variant", "seed"])
    }
    assert by_run == {
        ("full", 0): {1.5: 1.0, 2.0: 1.0, 10.0: 1.0},
        ("plain", 1): {1.5: 0.0, 2.0: 0.5, 10.0: 0.0},
    }


def test_no_task_of_rates_gives_no_points(tmp_path: Path) -> None:
    table = pd.DataFrame([evaluated(tmp_path, "full", 0, "pets", multiclass(["cat", "dog"], [["cat", "dog"]]))])
    assert list(rates(tmp_path, table, "linear").columns) == ["task", "variant", "seed", "rate", "accuracy"]
    assert rates(tmp_path, table, "linear").empty


def test_damaged_predictions_are_refused(tmp_path: Path) -> None:
    table = pd.DataFrame([evaluated(tmp_path, "full", 0, "tremolo", multiclass(RATES, [RATES]))])
    (file,) = (tmp_path / "predictions").rglob("*.csv.gz")
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(StorageError, match=r"csv\.gz"):
        rates(tmp_path, table, "linear")


def test_repeats_count_alike_and_rates_are_in_order() -> None:
    told = multiclass(["10 Hz", "2 Hz"], [["10 Hz", "2 Hz"], ["10 Hz", "10 Hz"]])
    assert list(accuracy_by_rate(told).items()) == [(2.0, 0.5), (10.0, 1.0)]
    assert accuracy_by_rate(multiclass(["2 Hz", "dog"], [["2 Hz", "dog"]])) == {}
