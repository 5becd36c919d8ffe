"""`aape-bench run` on bad data and options: one plain paragraph, exit 2, nothing half-written."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from toys import Cli, rows, run, spoil_meta

from aape_bench.checkpoint import save_checkpoint


def test_a_partial_copy_needs_leave(cli: Cli, small_esc50: Path, tmp_path: Path) -> None:
    status, _, err = run(cli, small_esc50, partial=False)
    assert status == 2
    assert "45 of 2000 clips are there" in err
    assert "--allow-partial" in err
    assert not (tmp_path / "results").exists()


def test_the_right_count_of_the_wrong_classes_is_no_whole_data_set(
    cli: Cli, small_esc50: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from aape_bench import registry, selection

    known = registry.task
    monkeypatch.setattr(selection.registry, "task", lambda name: replace(known(name), clips=45))
    status, _, err = run(cli, small_esc50, partial=False)
    assert status == 2
    assert "They are of 3 classes, not 50" in err
    status, *_ = run(cli, small_esc50)
    assert status == 0
    (row,) = rows(tmp_path / "results")
    assert row["partial"] == "3 of 50 classes"
    assert row["rank"] == ""


def _spoil_wav(data: Path, content: bytes) -> None:
    sorted((data / "esc50" / "audio").iterdir())[20].write_bytes(content)


def _spoil_samples(data: Path, samples: np.ndarray) -> None:
    soundfile.write(sorted((data / "esc50" / "audio").iterdir())[20], samples, 16000, subtype="FLOAT")


def _first_name(data: Path) -> str:
    return (data / "esc50" / "meta" / "esc50.csv").read_text().splitlines()[1].split(",")[0]


def _truncate(data: Path) -> None:
    wav = sorted((data / "esc50" / "audio").iterdir())[20]
    wav.write_bytes(wav.read_bytes()[:3000])


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no data directory": (shutil.rmtree, "does not exist"),
    "no task folder": (lambda data: shutil.move(data / "esc50", data / "other"), "no folder esc50 or"),
    "no metadata": (lambda data: (data / "esc50/meta/esc50.csv").unlink(), "esc50.csv is missing"),
    "empty metadata": (lambda data: (data / "esc50/meta/esc50.csv").write_text(""), "not a readable CSV"),
    "no audio": (lambda data: shutil.rmtree(data / "esc50" / "audio"), "none of the 45 clips"),
    "empty WAV": (lambda data: _spoil_wav(data, b""), "is empty"),
    "truncated WAV": (_truncate, "is truncated"),
    "text named .wav": (lambda data: _spoil_wav(data, b"hello " * 1000), "is not audio"),
    "NaN samples": (lambda data: _spoil_samples(data, np.full(4000, np.nan)), "NaN or infinite"),
    "0.01 s": (lambda data: _spoil_samples(data, np.ones(160) / 9), "too short"),
    "label missing": (lambda data: spoil_meta(data, 4, 3, ""), "has no label"),
    "fold missing": (lambda data: spoil_meta(data, 4, 1, ""), "has no fold"),
    "clip in two folds": (lambda data: spoil_meta(data, 40, 0, _first_name(data)), "is listed in folds 1 and 5"),
    "source in two folds": (lambda data: spoil_meta(data, 40, 5, "1065"), "stands in folds 1 and 5"),
    "path leaves": (lambda data: spoil_meta(data, 4, 0, "../../../../etc/passwd"), "leaves the data folder"),
    "one fold": (
        lambda data: [p.unlink() for p in (data / "esc50/audio").iterdir() if p.name[0] != "1"], "need 3",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_data_is_refused_in_plain_words(cli: Cli, small_esc50: Path, tmp_path: Path, case: str) -> None:
    spoil, says = BAD[case]
    spoil(small_esc50)
    status, out, err = run(cli, small_esc50)
    assert status == 2
    assert says in err
    assert "Traceback" not in out + err
    assert not list((tmp_path / "results").rglob("*.json")) + list((tmp_path / "results").rglob("*.csv*"))
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model", "aap"], 'Did you mean "aape"?'),
        (["--task", "esc51"], 'Did you mean "esc50"?'),
        (["--protocol", "liner"], 'Did you mean "linear"?'),
        (["--set", "window=triangle", "--model", "aape"], 'window cannot be "triangle"'),
        (["--set", "widnow=gaussian", "--model", "aape"], 'Did you mean "window"?'),
        (["--protocol-set", "c_max=99"], "must lie in"),
        (["--seed", "one"], "--seed takes whole numbers"),
        (["--seed", "-1"], "--seed takes whole numbers"),
        (["--device", "tpu"], 'no device "tpu"'),
        (["--weights", "none.safetensors", "--model", "vit"], "none.safetensors. Correct --weights"),
        (["--model", "hear:no.such.module"], "is not installed here"),
        (["--model", ","], "No model is named"),
        (["--task", ""], "No task is named"),
        (["--protocol", ""], "No protocol is named"),
    ],
)
def test_bad_options_are_refused_with_a_suggestion(
    cli: Cli, small_esc50: Path, tmp_path: Path, arguments: list[str], says: str
) -> None:
    line = ["--model", "logmel", "--task", "esc50"]
    for option in ("--model", "--task"):
        if option in arguments:
            del line[line.index(option) : line.index(option) + 2]
    status, out, err = cli("run", *line, *arguments, "--data-dir", small_esc50, "--allow-partial")
    assert status == 2
    assert says in err
    assert "Traceback" not in out + err
    assert not (tmp_path / "results").exists()


def test_what_a_file_says_moves_no_terminal(cli: Cli, small_esc50: Path, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "w.safetensors", torch.nn.Linear(1, 1), "\x1b[2Jvit", {}, {})
    status, _, err = run(cli, small_esc50, "--weights", tmp_path / "w.safetensors", model="vit")
    assert (status, "\x1b" in err) == (2, False)
    assert 'is of the model "[2Jvit"' in err


def test_a_pickle_is_never_opened(cli: Cli, small_esc50: Path, tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes(pickle.dumps({"w": 1}))
    status, _, err = run(cli, small_esc50, "--weights", tmp_path / "weights.pt", model="vit")
    assert status == 2
    assert "weights.pt is a pickle" in err


def test_pipes_and_devices_are_no_clips(cli: Cli, small_esc50: Path, tmp_path: Path) -> None:
    """Nothing waits for ever on a file that is none."""
    clips = sorted((small_esc50 / "esc50" / "audio").iterdir())
    for clip in clips[:3]:
        clip.unlink()
    os.mkfifo(clips[0])
    clips[1].symlink_to("/dev/zero")
    clips[2].mkdir()
    status, *_ = run(cli, small_esc50)
    assert status == 0
    (row,) = rows(tmp_path / "results")
    assert row["partial"] == "42 of 2000"
    os.mkfifo(tmp_path / "weights")
    status, _, err = run(cli, small_esc50, "--weights", tmp_path / "weights", model="vit")
    assert status == 2
    assert "no regular file" in err
    meta = small_esc50 / "esc50" / "meta" / "esc50.csv"
    meta.unlink()
    os.mkfifo(meta)
    status, _, err = run(cli, small_esc50)
    assert status == 2
    assert "no regular file" in err
