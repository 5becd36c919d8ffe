"""The published figures: nothing lost, nothing added, nothing that reads like one of ours."""

from __future__ import annotations

import csv
import re
from collections import Counter
from decimal import Decimal
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from aape_bench.published import published

REFERENCE = Path(__file__).parents[2] / "shared" / "reference" / "published_results.csv"


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return published()


def test_every_figure_is_the_references_and_every_reference_figure_is_kept() -> None:
    if not REFERENCE.is_file():
        pytest.skip("the reference table does not lie beside this checkout")
    with REFERENCE.open(newline="", encoding="utf-8") as file:
        expected = Counter(_figure(row, Decimal(1)) for row in csv.DictReader(file))
    with resources.files("aape_bench.data").joinpath("published.csv").open(encoding="utf-8") as file:
        found = Counter(_figure(row, Decimal(100)) for row in csv.DictReader(file))
    assert expected.total() == 417
    assert found == expected


def test_columns_and_types(table: pd.DataFrame) -> None:
    text = ["model", "variant", "task", "protocol", "metric", "source", "note"]
    assert list(table.columns) == [*text[:5], "value", "ci95", *text[5:]]
    assert all(isinstance(cell, str) for column in text for cell in table[column])
    assert table["value"].dtype == np.float64
    assert table["ci95"].dtype == np.float64


def test_values_are_fractions(table: pd.DataFrame) -> None:
    assert table["value"].between(0.05, 1).all()
    stated = table["ci95"].dropna()
    assert 0 < len(stated) < len(table)
    assert stated.between(0, 0.2).all()


def test_rows_are_unique_named_and_attributed(table: pd.DataFrame) -> None:
    assert not table.duplicated(["model", "variant", "task", "protocol", "metric", "source"]).any()
    for column in ("model", "task", "source"):
        assert (table[column].str.strip() != "").all()
    for column in ("model", "variant", "source", "note"):
        assert (table[column] == table[column].str.strip()).all()


def test_protocols_and_metrics_are_ours(table: pd.DataFrame) -> None:
    assert set(table["protocol"]) == {"evar", "linear", "finetune", "unstated"}
    assert set(table["metric"]) == {"accuracy", "mAP"}
    assert set(table.loc[table["metric"] == "mAP", "task"]) == {"as20k", "as2m"}


def test_a_model_is_spelled_in_one_way(table: pd.DataFrame) -> None:
    spellings: dict[str, set[str]] = {}
    for model in table["model"]:
        spellings.setdefault(re.sub(r"[^a-z0-9+]", "", model.lower()), set()).add(model)
    assert all(len(names) == 1 for names in spellings.values())
    assert not table["model"].str.contains(r"quoted|weight|-d\b|\(|_", regex=True).any()


def test_sources_name_no_private_files(table: pd.DataFrame) -> None:
    for text in [*table["source"], *table["note"]]:
        assert not re.search(r"\.(txt|png|csv|md)\b|[0-9a-f]{12,}|^/|\\", text), text


def test_linear_figures_that_are_not_ours_say_whose(table: pd.DataFrame) -> None:
    linear = table[table["protocol"] == "linear"]
    assert (linear["note"] != "").all()
    matpac = table[table["source"].str.startswith("MATPAC")]
    assert len(matpac) == 60
    assert matpac["note"].str.contains("not identical to EVAR").all()


@pytest.mark.parametrize(("model", "by"), [("EAT", "EAT"), ("SSLAM", "SSLAM"), ("M2D", "M2D")])
def test_epochs_picked_on_test_data_are_said(table: pd.DataFrame, model: str, by: str) -> None:
    fine_tuned = table[(table["model"] == model) & (table["protocol"] == "finetune")]
    without_validation = fine_tuned["task"].isin(["esc50", "as20k", "as2m"])
    said = fine_tuned["note"].str.contains(f"best epoch picked on the test data by {by}")
    assert without_validation.any()
    assert (said == without_validation).all()


def test_conflicting_sources_are_both_kept(table: pd.DataFrame) -> None:
    beats = table[(table["model"] == "BEATs") & (table["variant"] == "iter3+") & (table["task"] == "as20k")]
    assert sorted(set(beats["value"])) == [0.389, 0.418]
    assert beats["note"].str.contains("conflict").all()


def test_figures_of_chosen_tasks_only() -> None:
    assert set(published(["us8k", "gtzan"])["task"]) == {"us8k", "gtzan"}
    assert published("nsynth").equals(published(["nsynth"]))
    assert published(["tremolo"]).empty


def _figure(row: dict[str, str], scale: Decimal) -> tuple[str, Decimal, Decimal | None]:
    return row["task"], Decimal(row["value"]) * scale, Decimal(row["ci95"]) * scale if row["ci95"] else None
