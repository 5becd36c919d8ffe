"""Records of several people: what is merged, what `records verify` catches, what an export holds."""

from __future__ import annotations

import csv
import gzip
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from record_factory import Model, small, write_record, write_records
from toys import Cli, contents

from aape_bench import registry
from aape_bench.exchange import files
from aape_bench.exchange.merge import merge
from aape_bench.exchange.shape import misfits
from aape_bench.exchange.verify import ROUNDING, close, verify, verify_record
from aape_bench.identity import digest, file_digest
from aape_bench.predictions import read, write
from aape_bench.records import predictions_of, read_record

ESC50, AS20K = small("esc50", 40, 4), small("as20k", 30, 4)
MINE, THEIRS = Model("mine", 1.5), Model("theirs", 0.5)


@pytest.fixture(scope="module")
def _results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    write_records(folder, [MINE, THEIRS], [ESC50, AS20K])
    return folder


@pytest.fixture
def results(_results: Path, tmp_path: Path) -> Path:
    """Two models on a multiclass and a multilabel task."""
    return Path(shutil.copytree(_results, tmp_path / "results"))


def record_of(folder: Path, model: str = "mine", task: str = "esc50") -> Path:
    (path,) = (folder / "records" / task).glob(f"*/{model}-*.json")
    return path


def edit(path: Path, change: Callable[[dict[str, Any]], Any], seal: bool = False) -> None:
    """Change a record's contents; `seal`: by someone who knows how seals are made."""
    value = json.loads(path.read_text())
    change(value)
    if seal:
        del value["seal"]
        value["seal"] = digest(value)
    path.write_text(json.dumps(value))


def change_predictions(folder: Path, change: Callable[[list[str]], list[str]], task: str = "esc50") -> None:
    """Change the lines of a record's predictions, hash and seal along with them."""
    path = record_of(folder, task=task)
    file = folder / json.loads(path.read_text())["predictions"]
    lines = gzip.decompress(file.read_bytes()).decode().splitlines(keepends=True)
    file.write_bytes(gzip.compress("".join(change(lines)).encode()))
    edit(path, lambda value: value.update(predictions_sha256=file_digest(file)), seal=True)


def problems(folder: Path) -> list[str]:
    return [problem for finding in verify(folder) for problem in finding.problems]


def test_sound_records_are_sound(cli: Cli, results: Path) -> None:
    status, out, err = cli("records", "verify", results)
    assert (status, out, err) == (0, "4 of 4 records are sound.\n", "")


@pytest.mark.parametrize("sealed", [False, True])
def test_a_tampered_score_is_caught(cli: Cli, results: Path, sealed: bool) -> None:
    path = record_of(results)
    edit(path, lambda value: value["scores"].update(score=0.99), seal=sealed)
    status, out, _ = cli("records", "verify", results)
    assert status == 1
    assert "Its predictions do not give its scores: scores.score is 0.99, not 0." in out
    assert ("Its seal" in out or "its seal is of other contents" in out) == (not sealed)
    assert "3 of 4 records are sound." in out
    assert all(line.startswith(str(path)) for line in out.splitlines()[:-1])


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value["scores"]["interval"].update(low=0.1),
        lambda value: value["scores"]["folds"][0].update(clips=3),
        lambda value: value["scores"]["metrics"]["mAP"].update(score=0.5),
        lambda value: value["scores"]["per_class"][1].update(clips=0),
        lambda value: value["scores"].update(test_clips=2000),
        lambda value: value["scores"].update(chance=0.0),
    ],
)
def test_whatever_follows_from_predictions_is_computed_again(results: Path, change: Callable[..., Any]) -> None:
    edit(record_of(results), change, seal=True)
    (problem,) = problems(results)
    assert "Its predictions do not give its scores" in problem


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value["model"].update(label="other"),
        lambda value: value["model"].update(parameters=1),
        lambda value: value["protocol"]["choices"].clear(),
        lambda value: value.update(pretrain_overlap="none so far"),
        lambda value: value.update(date="2030-01-01T00:00:00+00:00"),
    ],
)
def test_an_edit_by_hand_breaks_the_seal(results: Path, change: Callable[..., Any]) -> None:
    edit(record_of(results), change)
    assert any("edited or damaged" in problem for problem in problems(results))


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value["model"].update(identity="0" * 64),
        lambda value: value["protocol"]["settings"].update(c_max=9),
        lambda value: value["treatment"].update(device="cuda"),
        lambda value: value["task"]["deciding"].update(official=[40, 4, [1, 2, 3]]),
    ],
)
def test_what_decides_a_result_cannot_be_changed_under_its_key(results: Path, change: Callable[..., Any]) -> None:
    edit(record_of(results), change, seal=True)
    (problem,) = problems(results)
    assert "Its key is not that" in problem


def test_missing_predictions_are_caught(cli: Cli, results: Path) -> None:
    next((results / "predictions" / "as20k").rglob("theirs-*")).unlink()
    status, out, _ = cli("records", "verify", results)
    assert status == 1
    assert "is missing" in out
    assert "3 of 4 records are sound." in out


def test_other_predictions_are_caught(results: Path) -> None:
    file = next((results / "predictions" / "esc50").rglob("mine-*"))
    predictions = read(file)
    predictions.scores[0, 0] *= 0.5
    write(file, predictions)
    (problem,) = problems(results)
    assert "not those that it was written with" in problem


def swap_columns(lines: list[str]) -> list[str]:
    """The names of two classes' columns change places; the scores below them do not."""
    head = lines[0].rstrip("\n").split(",")
    head[-1], head[-2] = head[-2], head[-1]
    return [",".join(head) + "\n", *lines[1:]]


def test_a_mixed_up_order_of_classes_is_caught(results: Path) -> None:
    change_predictions(results, swap_columns)
    first, second = problems(results)
    assert 'class 3 is "esc50 02" in the record and "esc50 03" in the predictions' in first
    assert "the columns of the classes are mixed up" in second


def test_so_it_is_where_the_record_follows_the_columns(results: Path) -> None:
    """Multiclass: the highest score is of another class than was decided on. Multilabel: other scores come out."""
    for task in ("esc50", "as20k"):
        change_predictions(results, swap_columns, task)
        path = record_of(results, task=task)
        edit(path, lambda value: value["scores"]["per_class"].insert(2, value["scores"]["per_class"].pop(3)), seal=True)
    multilabel, multiclass = problems(results)
    assert "the columns of the classes are mixed up" in multiclass
    assert "do not give its scores" in multilabel


def test_labels_that_were_changed_are_caught(results: Path) -> None:
    change_predictions(results, lambda lines: [lines[0], lines[1].replace("esc50 0", "esc50 1", 1), *lines[2:]])
    assert problems(results)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not JSON that can be read"),
        ("[" * 100_000, "not JSON that can be read"),
        ('{"schema": 2, "schema": 2}', '"schema" stands there twice'),
        ('{"schema": NaN}', "NaN is no JSON"),
        ('{"schema": 1e999}', "1e999 is too large a number"),
        ("[]", "It is no record"),
        ('{"schema": 1}', "It has schema 1; this version reads 2"),
        ('{"schema": 2, "key": 5, "model": []}', "key is not 16 hex digits"),
    ],
)
def test_what_is_no_record_is_said_and_the_others_are_checked(cli: Cli, results: Path, text: str, says: str) -> None:
    record_of(results).write_text(text)
    status, out, _ = cli("records", "verify", results)
    assert status == 1
    assert says in out
    assert "3 of 4 records are sound." in out


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value["scores"].update(score="0.5"),
        lambda value: value["scores"]["folds"][0].update(clips=True),
        lambda value: value["task"].update(kind="regression"),
        lambda value: value.update(date="yesterday"),
        lambda value: value.update(seed=-1),
        lambda value: value["model"].pop("label"),
        lambda value: value["scores"]["metrics"].update(mAP=None),
    ],
)
def test_wrong_types_are_named(results: Path, change: Callable[..., Any]) -> None:
    path = record_of(results)
    assert list(misfits(json.loads(path.read_text()))) == []
    edit(path, change, seal=True)
    (problem,) = problems(results)
    assert problem.startswith("It is no record: ")


@pytest.mark.parametrize("path", ["../../secret.csv.gz", "/etc/passwd", "predictions/../../x", "predictions/esc50/x"])
def test_paths_cannot_lead_elsewhere(results: Path, path: str) -> None:
    (results.parents[0] / "secret.csv.gz").write_bytes(b"x")
    edit(record_of(results), lambda value: value.update(predictions=path), seal=True)
    found = problems(results)
    own = next((results / "predictions" / "esc50").rglob("mine-*"))
    assert predictions_of(results, read_record(record_of(results))).ids == read(own).ids
    assert any("not its own" in problem for problem in found)
    assert not any("secret" in problem and "cannot be unpacked" in problem for problem in found)
    merged = merge([results], results.parent / "out")
    assert len(merged.failures) == 1
    assert not list((results.parent / "out").glob("*/esc50/*/mine-*"))


def test_links_and_large_files_are_not_followed(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = record_of(results)
    aside = results.parent / "elsewhere.json"
    path.rename(aside)
    path.symlink_to(aside)
    (problem,) = problems(results)
    assert "symbolic link" in problem
    path.unlink()
    aside.rename(path)
    monkeypatch.setattr(files, "MOST_UNPACKED", 100)
    assert all("unpacks to more than" in problem for problem in problems(results))
    monkeypatch.setattr(files, "MOST_RECORD", 100)
    assert all("more than the 100 that are read" in problem for problem in problems(results))


def test_a_renamed_record_is_caught(results: Path) -> None:
    path = record_of(results)
    path.rename(path.with_name("better" + path.name))
    assert any("Its contents belong into" in problem for problem in problems(results))


def test_older_records_are_checked_by_the_task_that_is_here(tmp_path: Path) -> None:
    """Before they said what of the task decides, the installed task has to."""
    write_record(tmp_path, MINE, registry.task("gtzan"))
    write_record(tmp_path, THEIRS, small("esc50", 40, 4))
    for task in ("gtzan", "esc50"):
        edit(
            next((tmp_path / "records" / task).rglob("*.json")), lambda value: value["task"].pop("deciding"), seal=True
        )
    found = {finding.path.split("/")[1]: finding for finding in verify(tmp_path)}
    assert not found["gtzan"].problems + found["gtzan"].remarks
    assert not found["esc50"].problems
    assert "its key was not checked" in found["esc50"].remarks[0]


def test_a_folder_without_records_is_refused(cli: Cli, tmp_path: Path) -> None:
    for arguments in (("verify", tmp_path), ("merge", tmp_path, "--out", tmp_path / "out")):
        status, _, err = cli("records", *arguments)
        assert status == 2
        assert "There are no records in" in err
    assert not (tmp_path / "out").exists()


def test_two_folders_merge(cli: Cli, tmp_path: Path) -> None:
    write_records(tmp_path / "a", [MINE], [ESC50, AS20K])
    write_records(tmp_path / "b", [MINE], [ESC50])  # the same result, later and in other seconds
    write_records(tmp_path / "b", [THEIRS], [ESC50])
    line = ("records", "merge", tmp_path / "b", tmp_path / "a", "--out", tmp_path / "out")
    status, out, err = cli(*line)
    assert (status, err) == (0, "")
    assert "3 records written" in out
    assert "1 stood in several folders" in out
    assert record_of(tmp_path / "out").read_bytes() == record_of(tmp_path / "a").read_bytes()  # the earlier
    assert problems(tmp_path / "out") == []
    before = contents(tmp_path / "out")
    assert "0 records written" in cli(*line)[1]
    assert contents(tmp_path / "out") == before


def test_results_of_one_key_that_differ_are_refused_and_nothing_is_written(cli: Cli, tmp_path: Path) -> None:
    write_records(tmp_path / "a", [MINE], [ESC50, AS20K])
    write_records(tmp_path / "b", [Model("mine", 0.2)], [ESC50])  # another skill under the same identity
    line = ("records", "merge", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "out")
    status, _, err = cli(*line)
    assert status == 2
    assert str(record_of(tmp_path / "a")) in err
    assert str(record_of(tmp_path / "b")) in err
    assert "scores.score is" in err
    assert not (tmp_path / "out").exists()
    assert cli(*line, "--keep-earlier")[0] == 0
    assert record_of(tmp_path / "out").read_bytes() == record_of(tmp_path / "a").read_bytes()


def test_digits_of_another_processor_are_no_conflict(tmp_path: Path) -> None:
    write_records(tmp_path / "a", [MINE], [ESC50])
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    path = record_of(tmp_path / "b")
    edit(path, lambda value: value["scores"].update(score=value["scores"]["score"] + 1e-6), seal=True)
    done = merge([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    assert (done.written, done.twice) == (1, 1)
    assert "differs from it in digits only" in done.remarks[0]


@pytest.mark.parametrize("value", ["\ud800" * 200, 10**400, {"a": [[]]}])
def test_foreign_values_stop_neither_merge_nor_verify(results: Path, tmp_path: Path, value: Any) -> None:
    edit(record_of(results), lambda record: record["model"].update(label=value), seal=True)
    assert len(problems(results)) > 0
    assert merge([results], tmp_path / "out").written == 3


def test_a_damaged_record_is_left_out_and_named(cli: Cli, results: Path, tmp_path: Path) -> None:
    edit(record_of(results), lambda value: value["scores"].update(score=0.99))
    next((results / "predictions" / "as20k").rglob("theirs-*")).write_bytes(b"x")
    status, out, err = cli("records", "merge", results, "--out", tmp_path / "out")
    assert status == 2
    assert "2 records written" in out
    assert len(err.strip().splitlines()) == 2
    assert str(record_of(results)) in err
    assert problems(tmp_path / "out") == []


def test_the_export_has_a_row_per_record(cli: Cli, results: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    paths = tmp_path / "flat.csv", tmp_path / "flat.parquet"
    status, out, _ = cli("records", "export", "--csv", paths[0], "--parquet", paths[1], "--results-dir", results)
    assert status == 0
    assert "Wrote 4 records" in out
    with paths[0].open(newline="") as handle:
        rows = {row["path"]: row for row in csv.DictReader(handle)}
    for path in results.rglob("*.json"):
        record, row = json.loads(path.read_text()), rows[path.relative_to(results).as_posix()]
        assert float(row["scores.score"]) == record["scores"]["score"]
        assert row["model.label"] == record["model"]["label"]
        assert json.loads(row["scores.per_class"]) == record["scores"]["per_class"]
        assert json.loads(row["protocol.settings"]) == record["protocol"]["settings"]
    frame = pd.read_parquet(paths[1])
    assert list(frame.columns) == list(rows[frame["path"][0]])
    assert frame["scores.score"].dtype == "float64"
    assert frame["task.clips"].tolist() == [30, 30, 40, 40]


def test_without_pyarrow_parquet_is_refused_in_a_sentence(
    cli: Cli, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    status, _, err = cli("records", "export", "--parquet", tmp_path / "x", "--results-dir", results)
    assert status == 2
    assert "Parquet needs pyarrow" in err
    assert not (tmp_path / "x").exists()
    assert cli("records", "export", "--results-dir", results)[0] == 2


@pytest.mark.parametrize("task", ["as20k", "cremad"])
def test_committed_records_come_out_to_the_last_digit(task: str) -> None:
    folder = Path(__file__).parents[1] / "results" / "reference" / "eight-tasks"
    paths = sorted((folder / "records" / task).rglob("*.json"))
    assert paths
    for path in paths:
        finding, _ = verify_record(folder, path.relative_to(folder).as_posix())
        assert finding.problems == []
        assert not [remark for remark in finding.remarks if "digits" in remark]


def test_numbers_of_numpy_may_differ_by_rounding_too() -> None:
    assert close(0.14048811310808212, np.float64(0.14048811310808215), ROUNDING)
    assert not close(0.14, np.float64(0.15), ROUNDING)
    assert not close(True, 1.0, ROUNDING)
