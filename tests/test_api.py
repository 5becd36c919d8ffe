"""`aape_bench.run`: the command line's results from Python."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from toys import Cli, contents, rows, run

import aape_bench
from aape_bench.errors import BenchError, DataError, UsageError
from aape_bench.records import Record

SMALL = {"width": 16, "blocks": 1, "heads": 1}


def test_importing_the_package_is_light() -> None:
    code = (
        "import sys, aape_bench; assert not {'torch', 'pandas', 'numpy', 'sklearn'} & set(sys.modules);"
        "assert callable(aape_bench.run); assert 'torch' not in sys.modules;"
        "assert not hasattr(aape_bench, 'no_such_thing')"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True)


def test_a_run_returns_records_and_a_frame(small_esc50: Path, tmp_path: Path) -> None:
    folders = {"data_dir": small_esc50, "cache_dir": tmp_path / "cache", "results_dir": str(tmp_path / "out")}
    results = aape_bench.run("logmel", "esc50", ["linear", "knn"], allow_partial=True, **folders)
    assert isinstance(results, aape_bench.Results)
    assert [type(record) for record in results.records] == [Record, Record]
    assert (results.computed, len(results)) == (2, 2)
    frame = results.frame
    assert frame["protocol"].tolist() == ["linear", "knn"]
    for record, row in zip(results.records, frame.itertuples(), strict=True):
        assert row.score == record.scores["score"]
        assert row.ci_low == record.scores["interval"]["low"] <= row.score <= row.ci_high
        assert row.partial == record.task["partial"] == "45 of 2000"
        predictions = results.predictions(record)
        assert len(predictions.ids) == row.n_test == 45
    again = aape_bench.run(["logmel"], "esc50", "linear,knn", allow_partial=True, **folders)
    assert again.computed == 0
    assert again.records == results.records
    with pytest.raises(UsageError, match="2 records, not one"):
        _ = again.record


def test_it_is_the_command_lines_result(cli: Cli, small_esc50: Path, tmp_path: Path) -> None:
    status, _, err = run(cli, small_esc50, "--results-dir", tmp_path / "cli")
    assert status == 0, err
    results = aape_bench.run("logmel", "esc50", data_dir=small_esc50, results_dir=tmp_path / "api", allow_partial=True)
    (row,) = rows(tmp_path / "cli")
    assert float(row["score"]) == results.frame["score"].item()
    assert results.record.key in row["record"]
    ours, theirs = (contents(tmp_path / name / "predictions") for name in ("api", "cli"))
    assert ours == theirs


def test_settings_weights_and_seeds(small_esc50: Path) -> None:
    results = aape_bench.run(
        "vit", "esc50", "knn", settings=SMALL, weights="random", seed=[0, 3], data_dir=small_esc50,
        allow_partial=True,
    )  # fmt: skip
    assert results.frame["seed"].tolist() == [0, 3]
    assert results.frame["weights"].tolist() == ["random", "random"]
    assert results.records[0].model["settings"]["width"] == 16
    assert results.records[0].model["identity"] != results.records[1].model["identity"]


def test_a_notebook_shows_a_table(small_esc50: Path) -> None:
    results = aape_bench.run("logmel", "esc50", data_dir=small_esc50, allow_partial=True)
    html = results._repr_html_()
    assert html.startswith("<table")
    score = f"{results.record.scores['score']:.3f}"
    for text in ("logmel", "esc50", score, "45 of 2000", "1 computed, 0 already there."):
        assert text in html
        assert text in repr(results)
    assert "seed" not in html  # all are 0


def test_a_label_is_no_html(small_esc50: Path) -> None:
    results = aape_bench.run("logmel", "esc50", data_dir=small_esc50, allow_partial=True)
    results.record.model["label"] = "<script>"
    assert "<script>" not in results._repr_html_()


def test_undefined_scores_are_said() -> None:
    from dataclasses import fields

    values = {field.name: None for field in fields(Record)}
    values |= {"model": {"label": "m", "weights": "none"}, "protocol": {"label": "p"}, "seed": 1}
    values |= {"task": {"name": "t", "metric": "mAP", "partial": ""}}
    values |= {"scores": {"score": None, "interval": None, "test_clips": 0, "chance": None}}
    results = aape_bench.Results([Record(**values)], Path(), 0)  # type: ignore[arg-type]
    assert np.isnan(results.frame["score"].item())
    assert "undefined" in repr(results)
    assert "1" in results._table()["seed"].astype(str).item()
    assert repr(aape_bench.Results([], Path(), 0)) == "0 computed, 0 already there."


def test_what_cannot_be_is_a_bench_error(small_esc50: Path) -> None:
    with pytest.raises(UsageError, match=r'no model "logmell".*Did you mean "logmel"'):
        aape_bench.run("logmell", "esc50")
    with pytest.raises(UsageError, match='no task "esc5"'):
        aape_bench.run("logmel", "esc5")
    with pytest.raises(UsageError, match="seed takes a whole number"):
        aape_bench.run("logmel", "esc50", seed=-1)
    with pytest.raises(UsageError, match="batch size must be a whole number from 1"):
        aape_bench.run("logmel", "esc50", batch_size=0)
    with pytest.raises(UsageError, match='no precision "fp8"'):
        aape_bench.run("logmel", "esc50", precision="fp8")
    with pytest.raises(UsageError, match='no setting "colour"'):
        aape_bench.run("logmel", "esc50", settings={"colour": 3})
    with pytest.raises(DataError):
        aape_bench.run("logmel", "esc50", data_dir=small_esc50)  # partial, without leave


def test_a_failure_raises_and_keeps_what_was_finished(small_esc50: Path, tmp_path: Path) -> None:
    both = ["esc50", "us8k"]
    with pytest.raises(BenchError, match=r"us8k|UrbanSound8K"):
        aape_bench.run("logmel", both, data_dir=small_esc50, results_dir=tmp_path / "out", allow_partial=True)
    kept = aape_bench.run("logmel", "esc50", data_dir=small_esc50, results_dir=tmp_path / "out", allow_partial=True)
    assert kept.computed == 0


def test_progress_goes_to_standard_error(small_esc50: Path, capsys: pytest.CaptureFixture[str]) -> None:
    aape_bench.run("logmel", "esc50", data_dir=small_esc50, allow_partial=True)
    silent = capsys.readouterr()
    assert silent.out == silent.err == ""
    aape_bench.run("logmel", "esc50", "knn", data_dir=small_esc50, allow_partial=True, progress=True)
    told = capsys.readouterr()
    assert told.out == ""
    assert "knn" in told.err


@pytest.mark.parametrize(
    "given",
    [
        {"model": None},
        {"model": 5},
        {"model": b"logmel"},
        {"task": [None]},
        {"protocol": 1.0},
        {"settings": [("a", 1)]},
        {"settings": {5: 1}},
        {"weights": None},
        {"seed": 1.0},
        {"seed": None},
        {"batch_size": "many"},
        {"batch_size": True},
        {"executor": 4},
        {"address": 6379},
        {"address": "127.0.0.1:6379"},
        {"data_dir": ""},
        {"data_dir": "~nobody-of-that-name/data"},
        {"data_dir": "nul\0byte"},
        {"trust_remote_code": "no"},
        {"allow_partial": "no"},
        {"progress": 2},
        {"seed": np.array(1.0)},
        {"task": np.array(5)},
    ],
    ids=str,
)
def test_arguments_of_other_types_are_refused_in_a_sentence(given: dict[str, object], tmp_path: Path) -> None:
    usual: dict[str, object] = {"model": "logmel", "task": "esc50", "results_dir": tmp_path / "r"}
    with pytest.raises(UsageError, match=r"not "):
        aape_bench.run(**{**usual, **given})  # type: ignore[arg-type]
    assert not (tmp_path / "r").exists()


def test_an_unknown_home_folder_is_said(tmp_path: Path) -> None:
    for given in ({"model": "~nobody-of-that-name/a.py:make"}, {"model": "hf:~nobody-of-that-name/a"},
                  {"task": "hear:~nobody-of-that-name/a"}, {"weights": "~nobody-of-that-name/a"}):  # fmt: skip
        with pytest.raises(UsageError, match="names a home folder that is not known"):
            aape_bench.run(**{"model": "vit", "task": "esc50", "results_dir": tmp_path / "r", **given})


def test_nothing_is_no_file_and_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--weights names no file"):
        aape_bench.run("vit", "esc50", weights="")
    for task in ("hear:", "hear:@16000"):
        with pytest.raises(UsageError, match=f'"{task}" names no folder'):
            aape_bench.run("logmel", task)
    with pytest.raises(BenchError, match="cannot be read"):
        aape_bench.run("vit", "esc50", weights=tmp_path / ("x" * 300))


def test_numbers_of_numpy_and_paths_are_taken(small_esc50: Path, tmp_path: Path) -> None:
    folders = {"data_dir": small_esc50, "cache_dir": tmp_path / "cache", "results_dir": tmp_path / "out"}
    given = {"protocol_settings": {"k": [1, 5]}, "batch_size": np.int64(8), "allow_partial": True}
    results = aape_bench.run(["logmel"], "esc50", "knn", seed=np.arange(2), references=np.False_, **given, **folders)  # type: ignore[arg-type]
    assert [record.seed for record in results.records] == [0, 1]
