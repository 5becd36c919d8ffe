"""What the first process writes down of a run: rows of the log, histograms, warnings. (Imports torch.)"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch

from aape_bench import environment
from aape_bench.fitting.table import Row, Table
from aape_bench.models.aape.config import AapeConfig
from aape_bench.models.aape.pretrain import diagnostics, schedule
from aape_bench.models.aape.pretrain.data import Loader
from aape_bench.models.aape.pretrain.log import COLUMNS, LOG, MODES, Monitor, TensorBoard, Window
from aape_bench.models.aape.pretrain.state import Folder
from aape_bench.models.aape.pretrain.trainer import Trainer

#: Columns of modes.csv: how often alpha and beta of a subband lie in each part of their range, on its log scale.
MODES_COLUMNS = ("step", "quantity", "subband", *(f"part_{number + 1}" for number in range(diagnostics.BINS)))


class Recorder:
    """log.csv, modes.csv, the live line and TensorBoard of one run."""

    def __init__(
        self,
        folder: Folder,
        trainer: Trainer,
        loader: Loader,
        state: Mapping[str, Any] | None,
        progress: Monitor,
        board: TensorBoard | None,
    ) -> None:
        self.trainer, self.loader, self.progress, self.board = trainer, loader, progress, board
        self.step: int = state["step"] if state else 0
        with folder.intact():
            self.window = Window(state["window"] if state else None)
            self.seconds_before = float(state["seconds"]) if state else 0.0
        self.rows = Table(folder.path / LOG, list(COLUMNS), self.step)
        self.modes = Table(folder.path / MODES, MODES_COLUMNS, self.step)
        self.warned: set[str] = set()
        self.started = self.row_started = time.monotonic()
        self.row_waited, self.row_first = loader.waited, self.step
        self._stack = ExitStack()
        total = trainer.config.steps
        if self.step:
            progress.say(f"Going on after step {self.step} of {total}.")
        self.show = self._stack.enter_context(progress.training(self.step, total))

    def add(self, step: int, measured: Mapping[str, float]) -> None:
        """Count a step."""
        self.step = step
        self.window.add(measured)
        self.show(step, None)

    def write_row(self) -> None:
        """The means since the last row, and what is unhealthy. Raises StorageError."""
        row = self._row()
        self.rows.write(row)
        if self.board is not None:
            self.board.write(row)
        self.show(self.step, row)
        self.window, self.row_first = Window(), self.step
        self.row_started, self.row_waited = time.monotonic(), self.loader.waited
        unhealthy = set(diagnostics.unhealthy(row))
        for name in sorted(unhealthy - self.warned):
            self.progress.say(f"Warning, step {self.step}: {diagnostics.WARNINGS[name]}.")
        self.warned = unhealthy

    def _row(self) -> Row:
        config, last = self.trainer.config, self.step - 1
        seconds = max(time.monotonic() - self.row_started, 1e-9)
        row: dict[str, Any] = {
            "step": self.step,
            **self.window.means(),
            "learning_rate": schedule.learning_rate(last, config),
            "momentum": schedule.momentum(last, config),
            "loss_scale": self.trainer.loss_scale,
            "broken": len(self.loader.broken),
            "clips_per_second": (self.step - self.row_first) * config.batch / seconds,
            "waiting": min(1.0, (self.loader.waited - self.row_waited) / seconds),
            "memory_mb": self._memory_mb(),
            "seconds": self._seconds(),
        }
        for quantity, share in self._shares().items():
            row[f"{quantity}_saturation"] = float(diagnostics.saturation(share).mean())
        row["warnings"] = " ".join(diagnostics.unhealthy(row))
        return row

    def write_modes(self) -> None:
        """The distributions of alpha and beta in each subband, on some clips of the last step. Raises StorageError."""
        for quantity, share in self._shares().items():
            for subband, counts in enumerate(diagnostics.counts(share)):
                parts = dict(zip(MODES_COLUMNS[3:], counts, strict=True))
                self.modes.write({"step": self.step, "quantity": quantity, "subband": subband, **parts})
                if self.board is not None:
                    self.board.histogram(f"{quantity}/subband_{subband}", share[:, subband], self.step)

    def _shares(self) -> dict[str, torch.Tensor]:
        """Where alpha and beta lie in their ranges, by name; empty for a stem without them."""
        encoder = self.trainer.pretrainer.student
        assert self.trainer.sample is not None
        found = diagnostics.modes(encoder.stem, self.trainer.sample)
        if found is None or not isinstance(encoder.config, AapeConfig):
            return {}
        ranges = diagnostics.ranges(encoder.config)
        return {name: diagnostics.range_share(values, *ranges[name]) for name, values in found._asdict().items()}

    def _memory_mb(self) -> float | None:
        device = self.trainer.fabric.device
        if device.type == "cuda":
            return torch.cuda.max_memory_allocated(device) / 2**20
        return environment.stage_facts(1)["peak_memory_mb"]  # type: ignore[return-value]

    def _seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.started

    def state(self) -> dict[str, Any]:
        """What continues the log."""
        return {"window": self.window.state(), "seconds": self._seconds()}

    def close(self) -> None:
        """End the live line."""
        self._stack.close()
        if self.board is not None:
            self.board.close()
