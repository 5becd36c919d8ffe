"""`aape-bench run` as a user meets it: results, and what is computed again."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from toys import Cli, contents, rows, run, spoil_meta, write_meta


def test_a_run_ends_in_records_predictions_and_a_leaderboard(cli: Cli, small_esc50: Path, tmp_path: Path) -> None:
    status, out, err = run(cli, small_esc50)
    assert status == 0
    assert "1 result computed, 0 already there" in out
    assert "45 of 2000" in out
    assert "esc50 is partial" in err
    (row,) = rows(tmp_path / "results")
    assert row["model"] == "logmel"
    assert row["partial"] == "45 of 2000"
    assert row["weights"] == "none"
    assert row["rank"] == ""
    assert float(row["ci_low"]) <= float(row["score"]) <= float(row["ci_high"])
    record = json.loads((tmp_path / "results" / row["record"]).read_text())
    assert record["scores"]["test_clips"] == 45
    assert len(record["protocol"]["choices"]) == 5
    import pandas as pd

    predictions = pd.read_csv(tmp_path / "results" / record["predictions"])
    by_fold = (predictions["truth"] == predictions["predicted"]).groupby(predictions["fold"]).mean()
    assert by_fold.mean() == pytest.approx(float(row["score"]), abs=1e-12)
    score = predictions[["score:dog", "score:rain", "score:siren"]]
    assert np.allclose(np.exp(score).sum(axis=1), 1, atol=1e-5)


def test_nothing_in_the_results_names_a_place(cli: Cli, small_esc50: Path, tmp_path: Path) -> None:
    run(cli, small_esc50)
    for name, content in contents(tmp_path / "results").items():
        assert str(tmp_path).encode() not in content, name


def test_a_second_run_computes_nothing_and_changes_no_byte(cli: Cli, small_esc50: Path, tmp_path: Path) -> None:
    run(cli, small_esc50)
    before = contents(tmp_path)
    status, out, err = run(cli, small_esc50)
    assert status == 0
    assert "0 results computed, 1 already there" in out
    assert "embedding" not in err
    assert contents(tmp_path) == before


def test_what_changes_decides_what_is_computed_again(cli: Cli, small_esc50: Path) -> None:
    def computed(*more: object, model: str = "logmel") -> tuple[bool, bool]:
        status, _, err = run(cli, small_esc50, *more, model=model)
        assert status == 0, err
        return "embedding" in err, "linear" in err

    assert computed() == (True, True)
    assert computed() == (False, False)
    assert computed("--seed", 1) == (False, True)  # logmel draws nothing: only the bootstrap depends on the seed
    assert computed("--protocol-set", "c_max=2") == (False, True)
    assert computed("--set", "n_mels=64") == (True, True)
    vit = "vit{blocks=1;width=96}"
    assert computed(model=vit) == (True, True)
    assert computed("--seed", 1, model=vit) == (True, True)  # other random weights
    assert computed("--set", "pooling=cls", model=vit) == (True, True)
    assert computed(model=vit) == (False, False)
    wav = next((small_esc50 / "esc50" / "audio").iterdir())
    os.utime(wav, ns=(1, 1))
    assert computed() == (False, False)  # touched, but equal
    samples, rate = soundfile.read(wav)
    soundfile.write(wav, samples / 2, rate)
    assert computed() == (True, True)


def test_a_dry_run_says_what_would_be_done_and_does_nothing(cli: Cli, small_esc50: Path, tmp_path: Path) -> None:
    status, out, _ = run(cli, small_esc50, "--dry-run")
    assert status == 0
    assert "read new files first" in out
    assert not (tmp_path / "results").exists()
    assert not (tmp_path / "cache").exists()
    run(cli, small_esc50)
    assert "the result is there" in run(cli, small_esc50, "--dry-run")[1]
    assert "embeddings are cached" in run(cli, small_esc50, "--dry-run", "--seed", 3)[1]
    assert "embed and fit" in run(cli, small_esc50, "--dry-run", model="vit")[1]


def test_random_weights_are_said_everywhere(cli: Cli, small_esc50: Path, tmp_path: Path) -> None:
    status, out, err = run(cli, small_esc50, model="vit{blocks=1}")
    assert status == 0
    assert "random" in err
    assert "random" in out
    (row,) = rows(tmp_path / "results")
    assert row["weights"] == "random"
    assert row["model"] == "vit[blocks=1]"
    assert json.loads((tmp_path / "results" / row["record"]).read_text())["model"]["weights"] == "random"


def test_seeds_share_a_row(cli: Cli, small_esc50: Path, tmp_path: Path) -> None:
    status, *_ = run(cli, small_esc50, "--seed", "0,1,2", model="vit{blocks=1;width=96}")
    assert status == 0
    (row,) = rows(tmp_path / "results")
    assert row["seeds"] == "3"
    scores = [json.loads(p.read_text())["scores"]["score"] for p in (tmp_path / "results").glob("records/*/*/*.json")]
    assert float(row["score"]) == pytest.approx(np.mean(scores))
    assert float(row["seed_sd"]) == pytest.approx(np.std(scores, ddof=1))
    assert float(row["ci_low"]) <= float(row["score"]) <= float(row["ci_high"])


def test_a_task_without_data_does_not_stop_the_others(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from aape_bench import registry, selection

    known = registry.task

    def short(name: str):  # type: ignore[no-untyped-def]
        task = known(name)
        if task.generator is None:
            return task
        rows = list(range(0, task.clips, 24))
        generator = replace(task.generator, clip=lambda index: task.generator.clip(rows[index]))
        return replace(task, generator=generator, read=lambda root: task.read(root).iloc[rows])

    monkeypatch.setattr(selection.registry, "task", short)
    status, out, err = cli("run", "--model", "logmel", "--task", "tremolo,esc50", "--data-dir", tmp_path)
    assert status == 2
    assert "3 results computed" in out
    assert "no folder esc50" in err


def test_equal_files_on_both_sides_of_a_split_are_said(cli: Cli, small_esc50: Path, tmp_path: Path) -> None:
    first, *_, last = sorted((small_esc50 / "esc50" / "audio").iterdir())
    shutil.copy(first, last)
    status, _, err = run(cli, small_esc50)
    assert status == 0
    assert "2 clips are, byte for byte, on several sides of splits" in err
    (record,) = (tmp_path / "results").rglob("*.json")
    assert json.loads(record.read_text())["task"]["repeated"] == 2


def test_a_single_group_per_fold_has_no_interval(cli: Cli, small_esc50: Path, tmp_path: Path) -> None:
    with (small_esc50 / "esc50" / "meta" / "esc50.csv").open(newline="") as handle:
        _, *table = list(csv.reader(handle))
    write_meta(small_esc50 / "esc50", [(*line[:5], f"source {line[1]}", line[6]) for line in table])
    status, out, _ = run(cli, small_esc50)
    assert status == 0
    assert "undefined" in out
    (row,) = rows(tmp_path / "results")
    assert row["ci_low"] == ""
    record = json.loads((tmp_path / "results" / row["record"]).read_text())
    assert record["scores"]["interval"] is None
    assert "single group" in record["scores"]["reason"]


def test_a_corrected_label_is_judged_again_not_embedded_again(cli: Cli, small_esc50: Path) -> None:
    run(cli, small_esc50)
    spoil_meta(small_esc50, 4, 3, "siren")
    _, _, err = run(cli, small_esc50)
    assert "linear" in err
    assert "embedding" not in err


def test_a_broken_clip_may_be_skipped_and_is_recorded(cli: Cli, small_esc50: Path, tmp_path: Path) -> None:
    wav = sorted((small_esc50 / "esc50" / "audio").iterdir())[7]
    wav.write_bytes(b"")
    status, _, err = run(cli, small_esc50)
    assert status == 2
    assert wav.name in err
    status, *_ = run(cli, small_esc50, "--skip-broken")
    assert status == 0
    (row,) = rows(tmp_path / "results")
    assert row["partial"] == "44 of 2000"
    record = json.loads((tmp_path / "results" / row["record"]).read_text())
    assert record["task"]["skipped"] == [{"clip": wav.name, "reason": "is empty"}]
    # without the option the result that skipped a clip is none
    status, _, err = run(cli, small_esc50)
    assert status == 2
    assert wav.name in err


@pytest.mark.slow
def test_logmel_on_real_clips_equals_a_plain_script(cli: Cli, real_data: Path, tmp_path: Path) -> None:
    """ESC-10's 100 clips: our predictions are those of hand-written scikit-learn on the cached embeddings."""
    import pandas as pd
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    # so near to the optimum that it does not matter where the solver begins
    status, _, err = run(cli, real_data, "--protocol-set", "tolerance=1e-7")
    assert status == 0, err
    (row,) = rows(tmp_path / "results")
    assert float(row["score"]) >= 0.6
    (shard,) = (tmp_path / "cache").rglob("*.npy")
    x = np.load(shard).astype(float)
    meta = pd.read_csv(real_data / "esc50" / "meta" / "esc50.csv")
    y, fold = meta["category"].to_numpy(str), meta["fold"].to_numpy()
    predicted = np.empty_like(y)
    for test in range(1, 6):
        validation = test % 5 + 1
        train = (fold != test) & (fold != validation)
        scaler = StandardScaler().fit(x[train])
        accuracies = []
        for c in 10.0 ** np.arange(-4, 4):
            fit = LogisticRegression(C=c, max_iter=10000, tol=1e-7).fit(scaler.transform(x[train]), y[train])
            accuracies.append(fit.score(scaler.transform(x[fold == validation]), y[fold == validation]))
        c = 10.0 ** (int(np.argmax(accuracies)) - 4)
        scaler = StandardScaler().fit(x[fold != test])
        fit = LogisticRegression(C=c, max_iter=10000, tol=1e-7).fit(scaler.transform(x[fold != test]), y[fold != test])
        predicted[fold == test] = fit.predict(scaler.transform(x[fold == test]))
    record = json.loads((tmp_path / "results" / row["record"]).read_text())
    ours = pd.read_csv(tmp_path / "results" / record["predictions"])
    assert list(ours["predicted"]) == list(predicted)


def test_a_result_on_other_data_can_be_told_from_the_first(cli: Cli, small_esc50: Path) -> None:
    run(cli, small_esc50)
    spoil_meta(small_esc50, 4, 3, "siren")
    _, out, _ = run(cli, small_esc50)
    heads, first, second = out.splitlines()[:3]
    assert "data" in heads
    assert first != second


def test_fits_that_do_not_converge_are_said(cli: Cli, small_esc50: Path, tmp_path: Path) -> None:
    _, _, err = run(cli, small_esc50, "--protocol-set", "max_iterations=1")
    assert "fits did not converge" in err
    (record,) = (tmp_path / "results").rglob("*.json")
    assert "did not converge" in json.loads(record.read_text())["protocol"]["remarks"][0]
