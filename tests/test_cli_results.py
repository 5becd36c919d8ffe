"""show and compare: what they print, and what they refuse."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from toys import Cli, rows, run

from aape_bench.checkpoint import save_checkpoint
from aape_bench.identity import file_digest
from aape_bench.selection import select_model


@pytest.fixture
def two_models(cli: Cli, small_esc50: Path, tmp_path: Path) -> Path:
    """Results of logmel and patch_mean on the small ESC-50, by linear and knn."""
    status, _, err = cli(
        "run", "--model", "logmel,patch_mean", "--task", "esc50", "--protocol", "linear,knn", "--data-dir", small_esc50,
        "--cache-dir", tmp_path / "cache", "--results-dir", tmp_path / "results", "--allow-partial",
    )  # fmt: skip
    assert status == 0, err
    return tmp_path / "results"


def test_show_says_every_metric_fold_and_class(cli: Cli, two_models: Path, tmp_path: Path) -> None:
    status, out, _ = cli("show", "logmel", "--protocol", "knn", "--results-dir", two_models, "--out", tmp_path / "c")
    assert status == 0
    for word in ("macro_accuracy", "mAP", "aucroc", "R@1", "mAP@10", "siren", "partial: 45 of 2000", "'k':"):
        assert word in out, word
    assert "by linear" not in out
    with (tmp_path / "c" / "confusion-esc50-knn-logmel.csv").open(newline="") as handle:
        head, *lines = list(csv.reader(handle))
    counts = np.array([line[1:] for line in lines], dtype=int)
    assert head[1:] == [line[0] for line in lines] == ["dog", "rain", "siren"]
    assert (counts.sum(axis=1) == 15).all()
    (row,) = [r for r in rows(two_models) if (r["model"], r["protocol"]) == ("logmel", "knn")]
    assert float(row["score"]) == pytest.approx(np.trace(counts) / 45)
    assert (tmp_path / "c" / "confusion-esc50-knn-logmel.png").read_bytes().startswith(b"\x89PNG")


def test_compare_says_the_difference_of_the_scores(cli: Cli, two_models: Path) -> None:
    status, out, _ = cli("compare", "logmel", "patch_mean", "--results-dir", two_models)
    assert status == 0
    assert out.startswith("A: logmel   B: patch_mean")
    assert out.count("esc50") == 2
    assert "single comparisons" in out
    by = {(r["model"], r["protocol"]): float(r["score"]) for r in rows(two_models)}
    for protocol in ("linear", "knn"):
        (line,) = [line for line in out.splitlines() if f" {protocol} " in line]
        assert f"{by['logmel', protocol] - by['patch_mean', protocol]:+.3f}" in line
    back = cli("compare", "patch_mean", "logmel", "--results-dir", two_models, "--protocol", "linear")[1]
    assert f"{by['patch_mean', 'linear'] - by['logmel', 'linear']:+.3f}" in back


def test_two_records_are_compared_by_their_files(cli: Cli, two_models: Path) -> None:
    paths = {(r["model"], r["protocol"]): two_models / r["record"] for r in rows(two_models)}
    status, out, _ = cli("compare", paths["logmel", "linear"], paths["logmel", "knn"], "--metric", "macro_accuracy")
    assert status == 0
    assert "linear : knn" in out


def test_equal_data_is_compared_first(cli: Cli, two_models: Path, small_esc50: Path, tmp_path: Path) -> None:
    """Newer results on fewer clips do not push those on the same clips aside."""
    by = {(r["model"], r["protocol"]): float(r["score"]) for r in rows(two_models)}
    for file in sorted((small_esc50 / "esc50" / "audio").iterdir())[::4]:
        file.unlink()
    line = ("--task", "esc50", "--data-dir", small_esc50, "--cache-dir", tmp_path / "cache", "--allow-partial")
    for model in ("logmel", "patch_mean"):
        assert cli("run", "--model", model, *line, "--results-dir", two_models)[0] == 0
    for first, second in (("logmel", "patch_mean"), ("patch_mean", "logmel")):
        out = cli("compare", first, second, "--protocol", "linear", "--results-dir", two_models)[1]
        lines = [line for line in out.splitlines() if line.startswith("esc50")]
        assert len(lines) == 2  # one for each version of the data
        assert any(f"{by[first, 'linear'] - by[second, 'linear']:+.3f}" in line for line in lines)
        assert "of different data" not in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("show", "logmle"), 'Did you mean "logmel"?'),
        (("show", "logmel", "--task", "gtzan"), 'no result of "logmel" of the task "gtzan"'),
        (("compare", "logmel", "aape"), 'no result of a model "aape"'),
        (("compare", "logmel", "patch_mean", "--metric", "event_onset_50ms_fms"), "event_onset_50ms_fms"),
    ],
)
def test_what_is_not_there_is_said(cli: Cli, two_models: Path, arguments: tuple[str, ...], says: str) -> None:
    status, _, err = cli(*arguments, "--results-dir", two_models)
    assert status == 2
    assert says in err
    assert len(err.strip().splitlines()) == 1


def test_weights_may_be_left_out_of_a_name(cli: Cli, small_esc50: Path, tmp_path: Path) -> None:
    line = ("--task", "esc50", "--data-dir", small_esc50, "--allow-partial", "--results-dir", tmp_path / "r")
    files = [tmp_path / f"{seed}.safetensors" for seed in (1, 2)]
    for seed, file in enumerate(files):
        choice = select_model("vit", {"blocks": "1"}, "random", seed)
        save_checkpoint(file, choice.build(), "vit", choice.settings, {})
    for name in files:
        assert cli("run", "--model", "vit", "--weights", name, *line)[0] == 0
        if name == files[0]:
            out = cli("show", "vit[blocks=1]", "--results-dir", tmp_path / "r")[1]
            assert f"vit[blocks=1]@{file_digest(name)[:8]}" in out
    status, _, err = cli("show", "vit[blocks=1]", "--results-dir", tmp_path / "r")
    assert status == 2
    assert 'Several models are called "vit[blocks=1]"' in err
    assert all(file_digest(name)[:8] in err for name in files)


def test_a_changed_prediction_is_refused(cli: Cli, two_models: Path) -> None:
    (file,) = (two_models / "predictions" / "esc50" / "linear").glob("logmel-*")
    file.write_bytes(file.read_bytes()[:-9])
    status, _, err = cli("compare", "logmel", "patch_mean", "--results-dir", two_models, "--protocol", "linear")
    assert status == 2
    assert "not as they were written" in err


def test_protocols_are_listed_with_their_settings(cli: Cli) -> None:
    out = cli("protocols")[1]
    assert all(name in out for name in ("linear", "knn", "evar", "hear"))
    out = cli("protocols", "evar")[1]
    assert "learning_rate" in out
    assert "patience" in out


def test_reference_rows_stand_in_every_table_of_the_suite(cli: Cli) -> None:
    out = cli("run", "--model", "logmel", "--task", "alias", "--dry-run")[1]
    assert "patch_conv" in out
    assert "patch_mean" in out
    assert "patch_conv" not in cli("run", "--model", "logmel", "--task", "alias", "--dry-run", "--no-references")[1]


def test_as_published_is_for_the_protocol_hear_alone(cli: Cli, small_esc50: Path) -> None:
    status, _, err = run(cli, small_esc50, "--as-published")
    assert status == 2
    assert "as_published" in err


def test_a_record_elsewhere_is_shown_and_a_damaged_one_is_said(cli: Cli, two_models: Path, tmp_path: Path) -> None:
    (row,) = [r for r in rows(two_models) if (r["model"], r["protocol"]) == ("logmel", "knn")]
    alone = tmp_path / Path(row["record"]).name
    alone.write_bytes((two_models / row["record"]).read_bytes())
    status, out, _ = cli("show", alone)
    assert status == 0
    assert "R@1" in out
    (two_models / row["record"]).write_text("{}")
    _, _, err = cli("show", "logmel", "--results-dir", two_models)
    assert "Note:" in err
    assert Path(row["record"]).name in err


def test_one_damaged_prediction_does_not_hide_the_others(cli: Cli, two_models: Path) -> None:
    (file,) = (two_models / "predictions" / "esc50" / "linear").glob("logmel-*")
    file.write_bytes(b"x")
    status, out, err = cli("compare", "logmel", "patch_mean", "--results-dir", two_models)
    assert status == 2
    assert " knn " in out
    assert "not as they were written" in err
