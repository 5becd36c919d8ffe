"""`aape-bench run` on disks that fail and files that were damaged: nothing is lost, nothing wrong is believed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from toys import Cli, contents, run


def test_results_that_cannot_be_written_stop_the_run_before_it_computes(
    cli: Cli, small_esc50: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    status, _, err = run(cli, small_esc50, "--results-dir", tmp_path / "file" / "results")
    assert status == 2
    assert "--results-dir" in err
    assert not list((tmp_path / "cache").rglob("*.npy"))


def test_a_disk_that_fills_up_loses_nothing(
    cli: Cli, small_esc50: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ENOSPC at the n-th fsync, for every n: a plain message, no rest, and the next run is as if nothing was."""
    import errno

    run(cli, small_esc50, "--results-dir", tmp_path / "undisturbed")
    whole = {n: c for n, c in contents(tmp_path / "undisturbed").items() if n.startswith("predictions")}
    shutil.rmtree(tmp_path / "cache")
    fsync = os.fsync
    for n in range(100):
        left = n

        def failing(descriptor: int) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", failing)
        status, _, err = run(cli, small_esc50)
        assert not list(tmp_path.rglob("*.tmp"))
        if n > 0 and status == 0:
            break
        if n > 0:
            assert status == 2
            assert "disk is full" in err
        monkeypatch.setattr(os, "fsync", fsync)
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        shutil.rmtree(tmp_path / "results", ignore_errors=True)
    assert n > 5
    assert {k: c for k, c in contents(tmp_path / "results").items() if k.startswith("predictions")} == whole


@pytest.mark.parametrize("damage", ["values", "columns"])
def test_damaged_embeddings_are_computed_again(cli: Cli, small_esc50: Path, tmp_path: Path, damage: str) -> None:
    run(cli, small_esc50)
    before = contents(tmp_path / "results")
    (shard,) = (tmp_path / "cache").rglob("*.npy")
    rows_there = np.load(shard)
    np.save(shard, rows_there[::-1] if damage == "values" else rows_there[:, :9])
    for record in (tmp_path / "results" / "records").rglob("*.json"):
        record.unlink()
    status, _, err = run(cli, small_esc50)
    assert status == 0, err
    assert "1 cached part(s) were damaged and are computed again" in err
    after = contents(tmp_path / "results")
    assert {n: c for n, c in after.items() if "predictions" in n} == {
        n: c for n, c in before.items() if "predictions" in n
    }


@pytest.mark.parametrize("file", ["entry.json", "00000.json", "complete.json"])
@pytest.mark.parametrize("content", ["", "[]", "{}", "null", '{"batch_size": 0}'])
def test_a_damaged_cache_says_which_folder_to_delete(
    cli: Cli, small_esc50: Path, tmp_path: Path, file: str, content: str
) -> None:
    run(cli, small_esc50)
    shutil.rmtree(tmp_path / "results")
    (path,) = (tmp_path / "cache").rglob(file)
    path.write_text(content)
    if file == "entry.json":
        next((tmp_path / "cache").rglob("*.npy")).unlink()
    status, _, err = run(cli, small_esc50)
    assert status == 2
    assert f"Delete the folder {path.parent}" in err
    shutil.rmtree(path.parent)
    assert run(cli, small_esc50)[0] == 0


def test_an_edited_record_or_damaged_predictions_are_no_result(cli: Cli, small_esc50: Path, tmp_path: Path) -> None:
    run(cli, small_esc50)
    (record,) = (tmp_path / "results").rglob("*.json")
    score = json.loads(record.read_text())["scores"]["score"]
    record.write_text(record.read_text().replace(f'"score": {score}', '"score": 0.99'))
    status, _, err = cli("leaderboard")
    assert status == 0
    assert "is not as it was written" in err
    assert "1 result computed" in run(cli, small_esc50)[1]
    (predictions,) = (tmp_path / "results").rglob("*.csv.gz")
    whole = predictions.read_bytes()
    predictions.write_bytes(whole[:50])
    assert "1 result computed" in run(cli, small_esc50)[1]
    assert predictions.read_bytes() == whole


def test_a_path_that_cannot_be_looked_at_is_named(cli: Cli, small_esc50: Path) -> None:
    status, out, err = run(cli, small_esc50, "--results-dir", "x" * 300)
    assert status == 2
    assert "File name too long" in err
    assert "Traceback" not in out + err


def test_a_finished_run_shows_results_that_are_read_only(
    cli: Cli, small_esc50: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(cli, small_esc50)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "fsync", refuse)
    status, out, _ = run(cli, small_esc50)
    assert status == 0
    assert "1 already there" in out
