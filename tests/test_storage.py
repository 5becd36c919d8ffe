"""Files are whole or absent; disks that are full or read-only are said in plain words."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from aape_bench.errors import StorageError
from aape_bench.storage import atomic_write, check_writable, write_json, write_text


def test_a_write_that_fails_leaves_the_old_file_and_no_rest(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    write_text(file, "old")

    def write_half() -> None:
        with atomic_write(file) as handle:
            handle.write(b"new")
            raise ValueError("halfway")

    with pytest.raises(ValueError, match="halfway"):
        write_half()
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_invalid_json_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"score": float("nan")})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "says"),
    [(errno.ENOSPC, "disk is full"), (errno.EROFS, "could not be written"), (errno.EACCES, "could not be written")],
)
def test_errors_of_the_disk_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, says: str) -> None:
    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError, match=says) as refusal:
        write_text(tmp_path / "a.txt", "x")
    assert "a.txt" in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


def test_checking_a_folder_leaves_nothing_behind(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "deep", "--results-dir")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"--results-dir"):
        check_writable(tmp_path / "file" / "below", "--results-dir")


def test_a_real_file_size_limit_is_a_plain_message(tmp_path: Path) -> None:
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "from pathlib import Path\n"
        "from aape_bench.errors import StorageError\n"
        "from aape_bench.storage import write_text\n"
        "try: write_text(Path(sys.argv[1]), 'x' * 100_000)\n"
        "except StorageError as error: print(error)\n"
    )
    out = subprocess.run([sys.executable, "-c", program, tmp_path / "big"], capture_output=True, text=True, check=True)
    assert "limit on file size" in out.stdout
    assert list(tmp_path.iterdir()) == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1000
