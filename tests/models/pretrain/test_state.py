"""The folder of a training: whose it is, what of others in it stays, and writes that fail."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

import pytest
import torch

from aape_bench.errors import StorageError, UsageError
from aape_bench.models.aape.pretrain.state import Folder

RUN: dict[str, Any] = {"seed": 0, "audio": "a", "init": None}


def claim(out: Path, run: dict[str, Any] = RUN) -> None:
    """What a training does before its first step."""
    folder = Folder(out)
    folder.check(run, resume=True)
    with folder.claimed(run, {"about": 1}):
        pass


def test_a_state_that_the_disk_does_not_take_is_a_storage_error(tmp_path: Path) -> None:
    folder, before = Folder(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        with pytest.raises(StorageError, match=r"state-2\.pt could not be written: the limit on file size is reached"):
            folder.write_state(2, {"model": {"weight": torch.zeros(200_000)}})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["log.csv", "modes.csv", "broken.csv", "broken-3.csv"])
def test_a_folder_with_a_file_of_the_same_name_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(UsageError, match=f"holds {name}, but no config.json"):
        claim(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_only_drafts_of_its_own_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".notes.tmp").write_text("mine")
    (tmp_path / ".folder.tmp").mkdir()
    (tmp_path / ".0123456789abcdef.tmp").write_text("half")
    (tmp_path / ".fedcba9876543210.tmp").mkdir()
    claim(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {".notes.tmp", ".folder.tmp", ".fedcba9876543210.tmp", "config.json"}


def test_settings_without_a_checkpoint_bind_no_one(tmp_path: Path) -> None:
    """A training that failed before its first step may be tried again otherwise."""
    claim(tmp_path, {**RUN, "init": "bad"})
    (tmp_path / "broken.csv").write_text("file,reason\nof other audio,is broken\n")
    claim(tmp_path)
    about = json.loads((tmp_path / "config.json").read_text())
    assert about == {"format": 1, "run": RUN, "about": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    (tmp_path / "teacher-2.safetensors").write_bytes(b"")
    with pytest.raises(UsageError, match="another training: seed is 0 there, not 1"):
        claim(tmp_path, {**RUN, "seed": 1})
    assert json.loads((tmp_path / "config.json").read_text()) == about


def test_settings_of_another_program_stay(tmp_path: Path) -> None:
    text = '{"run": {"seed": 0, "name": "x"}}'
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UsageError, match="another training: audio is missing there"):
        claim(tmp_path)
    assert (tmp_path / "config.json").read_text() == text


def test_one_process_at_a_time_also_before_the_first_checkpoint(tmp_path: Path) -> None:
    claim(tmp_path, {**RUN, "seed": 1})
    folder = Folder(tmp_path)
    with folder.claimed(RUN, {}):  # replaces the settings, and with them the file that is locked
        for run in (RUN, {**RUN, "seed": 2}):
            with pytest.raises(UsageError, match="Another process is training in"):
                claim(tmp_path, run)
    assert json.loads((tmp_path / "config.json").read_text())["run"] == RUN


@pytest.mark.parametrize("text", ["[" * 200_000, "{", '{"run": 1}', "{}"])
def test_settings_that_are_none_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UsageError, match=r"config\.json cannot be read as the settings of a training"):
        claim(tmp_path)


def test_a_file_is_no_folder_to_train_in(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    for out in (tmp_path / "out", tmp_path / "out" / "deeper"):
        with pytest.raises(UsageError, match=r"out is a file, where --out wants a folder"):
            claim(out)
