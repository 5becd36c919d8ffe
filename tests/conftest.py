"""Audio for the tests: generated, or real from outside the project."""

from __future__ import annotations

import os
import runpy
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

# `python -m pytest` puts the checkout on the path, whose bare folders would hide the installed package
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parents[1]]

# a shell's background jobs ignore Ctrl-C, and so would what the tests send it to
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

REAL = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def real_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the eight small real data sets beside the project unpacked, or a skip that says why.

    With AAPE_BENCH_REQUIRE_REAL_DATA set (CI) its absence is a failure.
    """
    if not (REAL / "unpack.py").is_file():
        message = "the small real data sets (../shared/data) are not beside this checkout"
        if os.environ.get("AAPE_BENCH_REQUIRE_REAL_DATA"):
            pytest.fail(message)
        pytest.skip(message)
    folder = tmp_path_factory.mktemp("real")
    module = runpy.run_path(str(REAL / "unpack.py"))
    for task in module["TASKS"]:
        module["build_as20k"](folder) if task == "as20k" else module["unpack"](task, folder)
    assert len(list((folder / "esc50" / "audio").iterdir())) == 100
    return folder


@pytest.fixture(scope="session")
def _generated_esc50(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set in ESC-50's layout: 5 folds x 3 classes x 3 tones with noise, 0.3 s each, 16 kHz."""
    from toys import write_meta

    folder = tmp_path_factory.mktemp("generated")
    (folder / "esc50" / "audio").mkdir(parents=True)
    (folder / "esc50" / "meta").mkdir()
    rng = np.random.default_rng(0)
    time = np.arange(4800) / 16000
    rows = []
    for fold in range(1, 6):
        for target, (category, pitch) in enumerate((("dog", 300.0), ("rain", 900.0), ("siren", 2500.0))):
            for take in "ABC":
                name = f"{fold}-{fold}{target}{ord(take)}-{take}-{target}.wav"
                tone = np.sin(2 * np.pi * pitch * time + rng.uniform(0, 6)) + rng.standard_normal(time.size)
                soundfile.write(folder / "esc50" / "audio" / name, 0.1 * tone, 16000, subtype="PCM_16")
                rows.append((name, fold, target, category, "False", f"{fold}{target}{ord(take)}", take))
    write_meta(folder / "esc50", rows)
    return folder


@pytest.fixture
def small_esc50(_generated_esc50: Path, tmp_path: Path) -> Path:
    """A data directory of one's own with esc50/ in it: 45 clips, 3 classes; may be changed by the test."""
    return Path(shutil.copytree(_generated_esc50, tmp_path / "data"))


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's own folders."""
    for kind in ("DATA", "CACHE", "RESULTS"):
        monkeypatch.setenv(f"AAPE_BENCH_{kind}_DIR", str(tmp_path / kind.lower()))


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run `aape-bench ARGUMENTS` in this process: exit status, standard output, standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        from aape_bench.cli import main

        monkeypatch.setattr(sys, "argv", ["aape-bench", *map(str, arguments)])
        interrupt = signal.getsignal(signal.SIGINT)
        try:
            main()
            status = 0
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        finally:
            signal.signal(signal.SIGINT, interrupt)  # pytest's own
        out = capsys.readouterr()
        return status, out.out, out.err

    return call
