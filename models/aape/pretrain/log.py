"""What a training run tells: `log.csv` always, a live line in the terminal, TensorBoard on demand.

A row is the mean over the steps since the last one, except where COLUMNS says otherwise. Rows after the step that a
run resumes from are cut off first, so that an interrupted log has the rows of an unbroken one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from aape_bench.console import SECONDS_BETWEEN_LINES, RichProgress
from aape_bench.errors import UsageError
from aape_bench.fitting.table import Row
from aape_bench.progress import Progress, Silent

LOG = "log.csv"
#: Distributions of alpha and beta, at every checkpoint.
MODES = "modes.csv"
#: Audio that could not be used, and why, one file per process.
BROKEN = "broken{}.csv"
#: Its columns. Those of TIMING say how it ran; all others are equal however often the run was cut and resumed.
COLUMNS = {
    "step": "steps done",
    "loss": "weighted sum of the three",
    "masked": "masked-token loss",
    "utterance": "utterance loss",
    "contrastive": "multi-mask contrastive loss",
    "learning_rate": "of the last step",
    "momentum": "of the teacher's average, in the last step",
    "gradient_norm": "of all parameters, before clipping; 0 for a step that 16-mixed precision leaves out",
    "lambda_gradient_norm": "of the layer that alpha and beta come from, before clipping",
    "contrastive_ratio": "gradient norm at CLS of the weighted contrastive loss over that of the utterance loss",
    "contrastive_similarity": "mean cosine of two views of a clip, after the projection",
    "target_token_variance": "of the targets over the tokens of a clip; towards 0 they collapse",
    "target_clip_variance": "of the targets over clips, at equal positions; near 0 they tell positions, not sounds",
    "target_raw_share": "of the power that targets are made from, what varies over tokens; near 0 they collapse",
    "prediction_variance": "of the predictions over the masked tokens of a view",
    "cls_clip_variance": "of the student's CLS over clips",
    "alpha_saturation": "share of alpha within 2 % of an end of its range, at the last step",
    "beta_saturation": "likewise beta",
    "loss_scale": "of 16-mixed precision, at the last step; empty otherwise",
    "warnings": "what is unhealthy, see `diagnostics`",
    "broken": "clips so far that could not be used, in the first process; broken.csv names them",
    "clips_per_second": "over all processes",
    "waiting": "share of the time spent waiting for audio, in the first process",
    "memory_mb": "peak of the first process: on the GPU, or resident on a CPU",
    "seconds": "of training, all resumed pieces together",
}
#: Columns that differ from one run to the next.
TIMING = ("broken", "clips_per_second", "waiting", "memory_mb", "seconds")


class Window:
    """Sums since the last row, to be saved with the state so that a resumed run logs the same means."""

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        sums: Mapping[str, float] = state["sums"] if state else {}
        self.sums = {name: float(total) for name, total in sums.items()}
        self.steps = int(state["steps"]) if state else 0

    def add(self, values: Mapping[str, float]) -> None:
        """Count one step."""
        self.steps += 1
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def means(self) -> dict[str, float]:
        """Means of what was added."""
        return {name: total / self.steps for name, total in self.sums.items()}

    def state(self) -> dict[str, Any]:
        """What continues it."""
        return {"sums": dict(self.sums), "steps": self.steps}


class TensorBoard:
    """The same rows as scalars, and alpha and beta as histograms, in `out/tensorboard`."""

    def __init__(self, out: Path, step: int) -> None:
        """Raises UsageError where TensorBoard is not installed."""
        require_tensorboard()
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(out / "tensorboard"), purge_step=step + 1)  # type: ignore[no-untyped-call]

    def write(self, row: Row) -> None:
        """Add the numbers of one row."""
        for name, value in row.items():
            if name != "step" and isinstance(value, int | float):
                self.writer.add_scalar(name, value, row["step"])  # type: ignore[no-untyped-call]

    def histogram(self, name: str, values: Any, step: int) -> None:
        """Add the distribution of an array."""
        self.writer.add_histogram(name, values, step)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Write what is still in memory."""
        self.writer.close()  # type: ignore[no-untyped-call]


def require_tensorboard() -> None:
    """Raise UsageError with the line that installs it where TensorBoard is missing; nothing is imported."""
    from importlib.util import find_spec

    if find_spec("tensorboard") is None:
        raise UsageError(
            'TensorBoard is not installed. Install it with pip install "aape-bench[tensorboard]", or leave out '
            "--log tensorboard: log.csv has the same numbers."
        )


Show = Callable[[int, Row | None], None]


class Monitor(Progress, Protocol):
    """`Progress` that can also show a training run."""

    def training(self, done: int, total: int) -> AbstractContextManager[Show]:
        """Show a run of `total` steps, `done` already; the context takes each step and, now and then, its row."""
        ...


def _pass_over(step: int, row: Row | None) -> None:
    del step, row


class Unwatched(Silent):
    """Shows nothing."""

    @contextmanager
    def training(self, done: int, total: int) -> Iterator[Show]:  # noqa: ARG002
        """Pass over the run."""
        yield _pass_over


class LiveProgress(RichProgress):
    """A bar with the last row beneath it; plain lines where standard error is no terminal."""

    @contextmanager
    def training(self, done: int, total: int) -> Iterator[Show]:
        """Show the run until the block ends."""
        if not self.console.is_terminal:
            yield self._lines(total)
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("pre-training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[row]}", markup=False),
        )
        with Progress(*columns, console=self.console) as bars:
            bar = bars.add_task("", total=total, completed=done, row="")

            def show(step: int, row: Row | None) -> None:
                bars.update(bar, completed=step)
                if row is not None:
                    bars.update(bar, row=summary(row))

            yield show

    def _lines(self, total: int) -> Show:
        said = 0.0

        def show(step: int, row: Row | None) -> None:
            nonlocal said
            now = time.perf_counter()
            if row is not None and (now - said > SECONDS_BETWEEN_LINES or step == total):
                said = now
                self.say(f"step {step} of {total}: {summary(row)}")

        return show


def summary(row: Row) -> str:
    """A row in one line for people."""
    wanted = {"loss": "loss", "masked": "masked", "utterance": "utterance", "contrastive": "contrastive"}
    parts = [f"{name} {row[column]:.3f}" for column, name in wanted.items()]
    parts.append(f"lr {row['learning_rate']:.1e}, gradient {row['gradient_norm']:.2f}")
    parts.append(f"{row['clips_per_second']:.1f} clips/s, {100 * float(row['waiting'] or 0):.0f} % waiting")
    return ", ".join(parts)
