"""The log's file, its line for people and its TensorBoard."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest
from pretrain_runs import settings, write_audio

from aape_bench.errors import StorageError
from aape_bench.fitting.table import Table
from aape_bench.models.aape.pretrain import log
from aape_bench.models.aape.pretrain.engine import train
from aape_bench.models.aape.pretrain.log import LiveProgress, Window
from aape_bench.models.aape.pretrain.sources import open_source


def test_a_table_is_cut_at_the_step_and_at_half_a_line(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("step,loss\n1,0.5\n2,0.25\n10,1\n20,3\n3,")
    Table(path, ["step", "loss", "more"], 10)
    assert path.read_text() == "step,loss,more\n1,0.5\n2,0.25\n10,1\n"
    table = Table(path, ["step", "loss"], 2)
    table.write({"step": 3, "loss": 1 / 3, "unknown": 5})
    table.write({"step": 4, "loss": None})
    assert path.read_text() == "step,loss\n1,0.5\n2,0.25\n3,0.33333333\n4,\n"
    assert Table(path, ["step"], 0).path.read_text() == "step\n"


def test_bytes_that_are_no_text_do_not_stop_a_table(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(b"step,loss\n1,0.5\n2,\xff\n\xff\xfe\n3,0.25\n4,\xff")
    Table(path, ["step", "loss"], 3)
    assert path.read_text() == "step,loss\n1,0.5\n2,\ufffd\n3,0.25\n"


def test_a_full_disk_is_a_storage_error(tmp_path: Path) -> None:
    table = Table(tmp_path / "log.csv", ["step"], 0)
    table.path = Path("/dev/full")
    with pytest.raises(StorageError, match="The disk is full"):
        table.write({"step": 1})


def test_a_window_goes_on_from_its_state() -> None:
    whole, first = Window(), Window()
    for value in (0.1, 0.2):
        whole.add({"loss": value})
        first.add({"loss": value})
    second = Window(first.state())
    for value in (0.3, 0.7):
        whole.add({"loss": value})
        second.add({"loss": value})
    assert second.means() == whole.means()
    assert whole.means()["loss"] == pytest.approx(0.325)


ROW = {
    **{"step": 7, "loss": 12.5, "masked": 9.0, "utterance": 3.0, "contrastive": 1.0, "learning_rate": 5e-4},
    **{"gradient_norm": 2.0, "clips_per_second": 20.0, "waiting": 0.25},
}


def test_without_a_terminal_lines_are_few(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(log.time, "perf_counter", lambda: clock[0])
    with LiveProgress().training(0, 4) as show:
        for step, clock[0] in enumerate((100.0, 110.0, 131.0, 132.0), 1):
            show(step, None)
            show(step, ROW)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["step 1 of 4", "step 3 of 4", "step 4 of 4"]
    assert lines[0].endswith("loss 12.500, masked 9.000, utterance 3.000, contrastive 1.000, lr 5.0e-04, "
                             "gradient 2.00, 20.0 clips/s, 25 % waiting")  # fmt: skip


def test_a_terminal_gets_a_bar_with_the_last_row() -> None:
    import io

    from rich.console import Console

    progress, screen = LiveProgress(), io.StringIO()
    progress.console = Console(file=screen, force_terminal=True, width=200)
    with progress.training(2, 4) as show:
        show(3, None)
        show(3, ROW)
    assert "3/4" in screen.getvalue()
    assert "loss 12.500" in screen.getvalue()


def test_tensorboard_gets_the_rows_and_histograms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[Any, ...]] = []

    class SummaryWriter:
        def __init__(self, folder: str, purge_step: int) -> None:
            written.append(("open", Path(folder).name, purge_step))

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, step))
            assert isinstance(value, int | float)

        def add_histogram(self, name: str, values: Any, step: int) -> None:
            written.append((name, step, tuple(values.shape)))

        def close(self) -> None:
            written.append(("close",))

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setattr("aape_bench.models.aape.pretrain.engine.require_tensorboard", lambda: None)
    monkeypatch.setattr(log, "require_tensorboard", lambda: None)
    source = open_source([str(write_audio(tmp_path / "audio"))])
    train(*settings(steps=3), source, tmp_path / "out", 0, tensorboard=True)
    assert written[0] == ("open", "tensorboard", 1)
    assert written[-1] == ("close",)
    assert {("loss", 3), ("beta_saturation", 3), ("clips_per_second", 3)} <= set(written)
    assert not {("step", 3), ("warnings", 3), ("loss_scale", 3)} & set(written)
    # four clips of 4 x 8 patches, 16 modes
    assert ("alpha/subband_0", 3, (16, 16)) in written
    assert ("beta/subband_7", 3, (16, 16)) in written
