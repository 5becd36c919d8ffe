"""The leaderboard as a view of records: who is ranked, who stands apart, what counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from aape_bench import identity, records
from aape_bench.leaderboard import COLUMNS, leaderboard, wide, with_published, write_leaderboard


def add(folder: Path, label: str, score: float, **changes: Any) -> None:
    """Write one record, complete but for its predictions (which only several seeds need)."""
    key = f"{abs(hash((label, score, str(changes)))):016x}"[:16]
    task = {"name": "esc50", "kind": "multiclass", "metric": "accuracy", "fingerprint": "f" * 64, "partial": "",
            "clips": 2000, "expected": 2000, "skipped": [], "repeated": 0}  # fmt: skip
    model = {"label": label, "weights": "file:0", "parameters": 5, "dimension": 3, "identity": key, "settings": {},
             "checkpoint": None}  # fmt: skip
    fold = {"fold": "1", "score": score, "clips": 400, "classes": None}
    interval = changes.get("interval", {"low": score - 0.1, "high": score + 0.1})
    stage = {"peak_memory_mb": 1.0, "threads": 1, "versions": {}}
    record = records.Record(
        schema=records.SCHEMA,
        key=key,
        date=changes.get("date", "2026-01-01T00:00:00+00:00"),
        seed=changes.get("seed", 0),
        lineage=identity.digest(changes.get("lineage", "one")),
        model={**model, "weights": changes.get("weights", "file:0")},
        task={
            **task,
            "partial": changes.get("partial", ""),
            "fingerprint": changes.get("data", "f" * 64),
            "metric": changes.get("metric", "accuracy"),
        },
        treatment={
            "sample_rate": 16000,
            "audio": "",
            "code": "c" * 64,
            "role": "scene",
            "precision": "float32",
            "device": "cpu",
        },
        protocol={
            "label": changes.get("protocol", "linear"),
            "name": "linear",
            "code": "c" * 64,
            "settings": {},
            "choices": [],
            "remarks": [],
        },
        scores={
            "score": score,
            "interval": interval and {**interval, "level": 0.95, "method": "none"},
            "reason": None,
            "classes": None,
            "repeats": changes.get("repeats", [score]),
            "folds": [fold] * 5,
            "test_clips": 2000,
            "groups": None,
            "chance": 0.02,
            "metrics": {},
            "per_class": [],
            "figures": {},
        },
        stages={"embed": {**stage, "seconds": 1.5}, "fit": {**stage, "seconds": 0.25}},
        pretrain_overlap=changes.get("overlap", "unknown"),
        predictions="not/there",
        predictions_sha256="0" * 64,
    )
    records.write_record(folder, record)


def board_of(folder: Path) -> pd.DataFrame:
    board, remarks = leaderboard(folder)
    assert remarks == []
    return board


def test_the_columns_that_were_promised_come_first() -> None:
    promised = (
        "model,task,protocol,metric,score,ci_low,ci_high,n_test,folds,partial,weights,pretrain_overlap,seeds,"
        "parameters,dimension,seconds,date,record"
    )
    assert ",".join(COLUMNS).startswith(promised)


def test_only_clean_rows_are_ranked(tmp_path: Path) -> None:
    add(tmp_path, "best", 0.9)
    add(tmp_path, "same", 0.9)
    add(tmp_path, "worst", 0.5)
    add(tmp_path, "partial", 0.99, partial="100 of 2000")
    add(tmp_path, "random", 0.98, weights="random")
    add(tmp_path, "seen", 0.97, overlap="test")
    board = board_of(tmp_path)
    assert list(board["model"]) == ["best", "same", "worst", "partial", "random", "seen"]
    assert list(board["rank"].astype(object).where(board["rank"].notna(), None)) == [1, 1, 3, None, None, None]
    assert board["seconds"].iloc[0] == 1.75


def test_equal_scores_share_a_rank_whatever_their_last_digit(tmp_path: Path) -> None:
    add(tmp_path, "one", 0.67)
    add(tmp_path, "other", 0.6699999999999999)
    add(tmp_path, "third", 0.5)
    assert list(board_of(tmp_path)["rank"]) == [1, 1, 3]


def test_rows_part_by_label_protocol_and_data(tmp_path: Path) -> None:
    add(tmp_path, "m", 0.5)
    add(tmp_path, "m", 0.6, protocol="linear[c_max=2]")
    add(tmp_path, "m", 0.7, data="e" * 64)
    board = board_of(tmp_path)
    assert len(board) == 3
    columns = set(wide(board).columns) - {"model", "weights"}
    assert columns == {
        "esc50/linear/accuracy data ffffffff",
        "esc50/linear/accuracy data eeeeeeee",
        "esc50/linear[c_max=2]/accuracy",
    }


def test_scores_by_different_metrics_are_not_ranked_together(tmp_path: Path) -> None:
    add(tmp_path, "older", 0.5)
    add(tmp_path, "newer", 0.9, metric="mAP")
    add(tmp_path, "of another version", 0.9, metric="new")
    assert board_of(tmp_path)["rank"].tolist() == [1, 1, 1]


def test_only_records_of_one_lineage_share_a_row(tmp_path: Path) -> None:
    """After a change of code, or on another device, old seeds may not be averaged with new ones."""
    add(tmp_path, "m", 0.9, date="2026-01-01T00:00:00+00:00", seed=0, lineage="old")
    add(tmp_path, "m", 0.8, date="2026-01-01T00:00:00+00:00", seed=1, lineage="old")
    add(tmp_path, "m", 0.5, date="2026-01-02T00:00:00+00:00", seed=0, lineage="new")
    board, remarks = leaderboard(tmp_path)
    assert list(board["score"]) == [0.5]
    assert list(board["seeds"]) == [1]
    assert len(remarks) == 1
    assert "2 older record(s)" in remarks[0]


def test_a_record_that_cannot_be_read_is_named_and_the_others_stand(tmp_path: Path) -> None:
    add(tmp_path, "m", 0.5)
    add(tmp_path, "other", 0.6)
    first, second = sorted(tmp_path.rglob("*.json"))
    second.write_text(second.read_text().replace(f'"schema": {records.SCHEMA}', '"schema": 99'))
    board, remarks = leaderboard(tmp_path)
    assert len(board) == 1
    assert second.name in remarks[0]
    assert "schema 99" in remarks[0]
    first.write_text("{")
    board, remarks = leaderboard(tmp_path)
    assert len(board) == 0
    assert len(remarks) == 2


def test_a_record_of_wrong_types_is_named_whatever_its_seal(tmp_path: Path) -> None:
    add(tmp_path, "m", 0.5)
    add(tmp_path, "other", 0.6)
    path = min(tmp_path.rglob("*.json"))
    value = json.loads(path.read_text())
    del value["seal"]
    value["stages"]["fit"] = None
    path.write_text(json.dumps({**value, "seal": identity.digest(value)}))
    board, remarks = leaderboard(tmp_path)
    assert len(board) == 1
    assert "stages.fit is not an object" in remarks[0]


def test_an_undefined_interval_stays_empty(tmp_path: Path) -> None:
    add(tmp_path, "m", 0.5, interval=None)
    files = write_leaderboard(tmp_path, board_of(tmp_path))
    assert "esc50,linear,accuracy,0.5,,,2000" in files[0].read_text()


def test_a_protocols_own_seeds_show_as_spread(tmp_path: Path) -> None:
    add(tmp_path, "m", 0.5, repeats=[0.4, 0.5, 0.6])
    add(tmp_path, "other", 0.5)
    board = board_of(tmp_path).set_index("model")
    assert board["seed_sd"]["m"] == pytest.approx(0.1)
    assert pd.isna(board["seed_sd"]["other"])


def test_published_rows_stand_below_and_apart(tmp_path: Path) -> None:
    add(tmp_path, "m", 0.5)
    board = with_published(board_of(tmp_path))
    assert list(board.columns) == COLUMNS
    theirs = board[board["weights"] == "published"]
    assert len(theirs) > 50
    assert set(theirs["task"]) == {"esc50"}
    assert theirs["rank"].isna().all()
    assert theirs["source"].str.len().min() > 5
    assert theirs["score"].between(0.2, 1.0).all()
    write_leaderboard(tmp_path, board)
    assert "EAT" not in (tmp_path / "leaderboard_wide.csv").read_text()


def test_seeds_without_their_predictions_have_a_score_and_no_interval(tmp_path: Path) -> None:
    add(tmp_path, "m", 0.5, seed=0)
    add(tmp_path, "m", 0.7, seed=1)
    board, remarks = leaderboard(tmp_path)
    assert board["score"][0] == pytest.approx(0.6)
    assert board["ci_low"].isna().all()
    assert "are missing or not as they were written" in remarks[0]


@pytest.mark.parametrize("label", ["../../etc/passwd", "a" * 300, "a/b:c", "m[window=gaussian]@1a2b"])
def test_labels_make_harmless_file_names(label: str) -> None:
    path, _ = records.record_paths("esc50", "linear", label, "0" * 16)
    assert path.parts[:3] == ("records", "esc50", "linear")
    assert len(path.parts) == 4
    assert len(path.name) < 150
