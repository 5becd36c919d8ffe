"""Content hashes: a touched file keeps its name, a changed one gets another."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from toys import FOLDS, table

from aape_bench import contents
from aape_bench.contents import ContentMemory, fingerprints
from aape_bench.identity import digest, file_digest

NAMES = ["a.wav", "b with space.wav", "-c.wav"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in NAMES:
        (tmp_path / name).write_bytes(name.encode() * 100)
    return tmp_path


def stats(folder: Path) -> list[tuple[int, int, int]]:
    return [(s.st_size, s.st_mtime_ns, s.st_ino) for s in ((folder / name).stat() for name in NAMES)]


def test_hashes_are_read_once_and_remembered(folder: Path, tmp_path: Path) -> None:
    seen: list[int] = []
    first = ContentMemory(tmp_path / "cache", folder).hashes(NAMES, stats(folder), seen.append)
    assert first == [file_digest(folder / name) for name in NAMES]
    assert sum(seen) == 3
    again = ContentMemory(tmp_path / "cache", folder)
    assert again.known(NAMES, stats(folder)) == first
    again.hashes(NAMES, stats(folder), lambda _: pytest.fail("nothing is unread"))


def test_touched_is_read_again_and_equal_changed_is_not(folder: Path, tmp_path: Path) -> None:
    memory = ContentMemory(tmp_path / "cache", folder)
    first = memory.hashes(NAMES, stats(folder))
    os.utime(folder / NAMES[0], ns=(1, 1))
    (folder / NAMES[1]).write_bytes(b"other")
    assert memory.known(NAMES, stats(folder)) == [None, None, first[2]]
    second = memory.hashes(NAMES, stats(folder))
    assert second[0] == first[0]
    assert second[1] != first[1]


def test_a_line_cut_short_by_a_crash_is_passed_over(folder: Path, tmp_path: Path) -> None:
    memory = ContentMemory(tmp_path / "cache", folder)
    first = memory.hashes(NAMES, stats(folder))
    content = memory.file.read_bytes()
    memory.file.write_bytes(content[:-5])
    cut = ContentMemory(tmp_path / "cache", folder)
    assert cut.known(NAMES, stats(folder)) == [*first[:2], None]
    assert cut.hashes(NAMES, stats(folder)) == first
    assert ContentMemory(tmp_path / "cache", folder).known(NAMES, stats(folder)) == first


def test_of_several_lines_the_last_holds(folder: Path, tmp_path: Path) -> None:
    memory = ContentMemory(tmp_path / "cache", folder)
    first = memory.hashes(NAMES, stats(folder))
    before = stats(folder)
    (folder / NAMES[1]).write_bytes(b"other")
    second = memory.hashes(NAMES, stats(folder))
    assert memory.known(NAMES, stats(folder)) == second
    assert memory.known(NAMES, before) == [first[0], None, first[2]]
    assert memory.known([NAMES[2], NAMES[2]], [before[2], before[2]]) == [first[2], first[2]]


@pytest.mark.parametrize("hashes", [None, [str(row) for row in range(12)]])
def test_fingerprints_taken_piece_by_piece(hashes: list[str] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal to one digest of everything at once, whatever the size of the pieces."""
    frame = table().assign(start=float("nan"), end=2.5)
    frame.loc[3, "label"] = 'a "quoted", ä'
    rows = [[None if cell != cell else cell for cell in row] for row in frame.astype(object).values.tolist()]
    spans = [[row[0], row[1], None, 2.5] for row in rows]
    about = {"task": FOLDS.name, "seconds": FOLDS.clip_seconds, "spans": spans, "files": hashes or [], "code": None}
    named = digest(about)
    data = digest({"audio": named, "rows": rows, "kind": FOLDS.kind, "splits": FOLDS.split_scheme})
    for size in (1, 5, 12, 100):
        monkeypatch.setattr(contents, "_BLOCK", size)
        prints = fingerprints(FOLDS, frame, hashes)
        assert prints.data == data
        assert (prints.audio == named) == (hashes is None)


@pytest.mark.parametrize(
    ("column", "value", "audio"),
    [
        ("label", "z", False),
        ("fold", "9", False),
        ("group", "z", False),
        ("path", "audio/z.wav", False),
        ("start", 1.0, True),
    ],
)
def test_fingerprints_cover_every_column(column: str, value: object, audio: bool) -> None:
    """A corrected label makes other data of the same audio: it is judged again, not embedded again."""
    frame = table().assign(start=float("nan"), end=float("nan"))
    other = frame.copy()
    other.loc[4, column] = value
    hashes = [str(row) for row in range(12)]
    known = fingerprints(FOLDS, frame, hashes)
    assert known == fingerprints(FOLDS, frame.copy(), list(hashes))
    changed = fingerprints(FOLDS, other, hashes)
    assert changed.data != known.data
    assert (changed.audio != known.audio) == audio
    bytes_changed = fingerprints(FOLDS, frame, [*hashes[:11], "x"])
    assert bytes_changed.audio != known.audio
    assert bytes_changed.data != known.data
