"""Clip tables: what is refused, and who trains, validates and tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import pandas as pd
import pytest
from toys import FOLDS, PARTS, table

from aape_bench import clip_table
from aape_bench.errors import DataError
from aape_bench.metadata import read_csv


def changed(column: str, row: int, value: object) -> pd.DataFrame:
    frame = table()
    frame.loc[row, column] = value
    return frame


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        (changed("label", 3, None), r"row 4 .*c3.* has no label"),
        (changed("label", 3, "  "), r"row 4 .*c3.* has no label"),
        (changed("fold", 5, np.nan), r"row 6 .*c5.* has no fold"),
        (changed("id", 5, "c3"), r"c3 is listed in folds 2 and 4"),
        (changed("path", 2, "../secret.wav"), r"leaves the data folder"),
        (changed("path", 2, "/etc/passwd"), r"leaves the data folder"),
        (changed("path", 2, "audio/..\\..\\x.wav"), r"leaves the data folder"),
        (changed("path", 2, "C:/x.wav"), r"leaves the data folder"),
        (changed("group", 2, "g1"), r"group .g1. stands in folds 2 and 3"),
    ],
)  # fmt: skip
def test_broken_metadata_is_refused(frame: pd.DataFrame, says: str) -> None:
    with pytest.raises(DataError, match=says):
        clip_table.check(FOLDS, frame)


def test_a_name_with_two_dots_is_no_escape() -> None:
    assert clip_table.check(FOLDS, changed("path", 2, "audio/a..b.wav"))["path"][2] == "audio/a..b.wav"


@pytest.mark.parametrize(
    "path", ["a", "a b/c.wav", "a//b.wav", "./a.wav", "a/./b", "a/.", "a/", "..a/b..", ".hidden/x", "a/...", "a\nb/c"]
)
def test_paths_stand_in_their_plainest_form(path: str) -> None:
    """As pathlib has it, whether or not the path is passed over as plain."""
    assert clip_table.check(FOLDS, changed("path", 2, path))["path"][2] == str(PurePosixPath(path))


@pytest.mark.parametrize("path", ["..", "a/..", "a/../b", "//a/b", "a/b\\c", "a\0b", "a:b", "c:x/y"])
def test_paths_that_may_leave_the_data_folder(path: str) -> None:
    plain = clip_table._PLAIN.fullmatch(path)
    leaves = ".." in PurePosixPath(path).parts or path.startswith("/") or PureWindowsPath(path).drive
    assert plain is None
    if leaves or "\\" in path or "\0" in path:
        with pytest.raises(DataError, match="leaves the data folder"):
            clip_table.check(FOLDS, changed("path", 2, path))


def test_unknown_part_is_refused() -> None:
    frame = table().rename(columns={"fold": "split"}).assign(split="train", group=None)
    frame.loc[3, "split"] = "dev"
    with pytest.raises(DataError, match='unknown part "dev"'):
        clip_table.check(PARTS, frame)


def test_folds_rotate_cyclically_in_numeric_order() -> None:
    frame = clip_table.check(FOLDS, table())
    rounds = clip_table.rotations(FOLDS, frame)
    assert [r.name for r in rounds] == ["2", "3", "4", "10"]
    fold = frame["fold"].to_numpy()
    for rotation, validation in zip(rounds, ["3", "4", "10", "2"], strict=True):
        assert set(fold[rotation.test]) == {rotation.name}
        assert set(fold[rotation.validation]) == {validation}
        together = np.concatenate([rotation.train, rotation.validation, rotation.test])
        assert sorted(together) == list(range(12))
    assert sorted(np.concatenate([r.test for r in rounds])) == list(range(12))


def in_parts() -> pd.DataFrame:
    return table().rename(columns={"fold": "split"}).assign(split=["train"] * 8 + ["valid"] * 2 + ["test"] * 2)


def test_official_parts_are_one_round_and_none_may_be_empty() -> None:
    frame = in_parts()
    (rotation,) = clip_table.rotations(PARTS, frame)
    assert list(rotation.validation) == [8, 9]
    for part in ("train", "test"):
        with pytest.raises(DataError, match=f"no clip is present in the part {part}"):
            clip_table.rotations(PARTS, frame[frame["split"] != part].reset_index(drop=True))
    # where the data set has a validation part, its absence is no reason to make one up
    official = replace(PARTS, part_clips=(8, 2, 2))
    with pytest.raises(DataError, match="no clip is present in the part valid"):
        clip_table.rotations(official, frame[frame["split"] != "valid"].reset_index(drop=True))


def test_without_a_validation_part_training_clips_stand_in() -> None:
    frame = in_parts()
    frame = frame[frame["split"] != "valid"].reset_index(drop=True)
    (rotation,) = clip_table.rotations(PARTS, frame)
    assert len(rotation.validation) >= 1
    assert sorted([*rotation.train, *rotation.validation]) == list(range(8))
    assert set(frame["label"].iloc[rotation.train]) == {"a", "b"}
    assert list(rotation.test) == [8, 9]


def test_what_is_lacking_is_said() -> None:
    frame = clip_table.check(PARTS, in_parts())
    assert clip_table.partial(PARTS, frame) == ""
    assert clip_table.partial(PARTS, frame[:7]) == "7 of 12"
    assert clip_table.partial(replace(PARTS, classes=3), frame) == "2 of 3 classes"
    assert clip_table.partial(replace(PARTS, part_clips=(7, 3, 2)), frame) == "8 of 7 train"


def test_labels_of_several_classes_and_events() -> None:
    several = replace(PARTS, kind="multilabel")
    frame = in_parts().assign(label=[("a", "b"), (), ("b",)] * 4)
    checked = clip_table.check(several, frame)
    assert clip_table.class_names(several, checked) == ["a", "b"]
    assert clip_table.class_sets(several, checked)[:2] == [("a", "b"), ()]
    frame["label"] = frame["label"].map(lambda names: (*names, *names[:1]))
    with pytest.raises(DataError, match="c0 has a label twice"):
        clip_table.check(several, frame)

    events = replace(PARTS, kind="event")
    frame["label"] = [(("dog", 0.5, 1.0), ("cat", 0.7, 0.9)), ()] * 6
    checked = clip_table.check(events, frame)
    assert clip_table.class_names(events, checked) == ["cat", "dog"]
    for start, end in ((1.0, 0.5), (-1.0, 0.5), (0.0, float("nan"))):
        frame["label"] = [(("dog", start, end),)] * 12
        with pytest.raises(DataError, match="c0 ends before its start"):
            clip_table.check(events, frame)


def test_two_folds_are_too_few() -> None:
    with pytest.raises(DataError, match="need 3"):
        clip_table.rotations(FOLDS, table()[lambda t: t["fold"].isin(["2", "3"])].reset_index(drop=True))


def test_absent_files_need_leave(tmp_path: Path) -> None:
    (tmp_path / "audio").mkdir()
    frame = clip_table.check(FOLDS, table())
    with pytest.raises(DataError, match="none of the 12 clips"):
        clip_table.select_present(FOLDS, tmp_path, frame, allow_partial=True)
    for row in range(6):
        (tmp_path / f"audio/c{row}.wav").write_bytes(b"x" * (row + 1))
    with pytest.raises(DataError, match=r"6 of 12 clips are there.*first audio/c6\.wav.*--allow-partial"):
        clip_table.select_present(FOLDS, tmp_path, frame, allow_partial=False)
    present = clip_table.select_present(FOLDS, tmp_path, frame, allow_partial=True)
    assert list(present.table["id"]) == [f"c{row}" for row in range(6)]
    assert [stat[0] for stat in present.stats] == [1, 2, 3, 4, 5, 6]
    found = (tmp_path / present.table["path"][2]).stat()
    assert present.stats[2] == present.stats[2:3][0] == (found.st_size, found.st_mtime_ns, found.st_ino)
    assert len(present.missing) == 6


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "is missing"),
        (b"", "not a readable CSV"),
        (b"filename,fold\n", "has no column category"),
        (b"filename,fold,category\n", "lists no clips"),
        (b'filename,fold,category\n"a,1,dog\n', "not a readable CSV"),
        (b"filename,fold,category\n\xff\xfe,1,dog\n", "not UTF-8"),
    ],
)
def test_unreadable_csv_is_named(tmp_path: Path, content: bytes | None, says: str) -> None:
    file = tmp_path / "meta.csv"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DataError, match=f"meta.csv.*{says}"):
        read_csv(file, ["filename", "fold", "category"])
