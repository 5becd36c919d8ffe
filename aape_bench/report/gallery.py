"""Every picture of a results folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from aape_bench.errors import StorageError
from aape_bench.records import Record, predictions_of, read_record
from aape_bench.report.curves import MOST, plot_learning, plot_reliability
from aape_bench.report.overviews import plot_overviews
from aape_bench.report.plots import plot_scores

if TYPE_CHECKING:
    import pandas as pd

    from aape_bench.predictions import Predictions


def plot_everything(
    results_dir: Path, board: pd.DataFrame, domains: dict[str, str], out: Path, published: pd.DataFrame | None
) -> Iterator[Path]:
    """Draw what there is to draw of these rows, the leaderboard's; yields each path as it is written.

    domains: of the board's tasks. Raises StorageError.
    """
    yield from plot_scores(board, out, published)
    yield from plot_overviews(board, domains, out, published)
    records = [read_record(results_dir / path) for path in board["record"]]
    yield from plot_learning(records, out)
    yield from plot_reliability(list(_predicted(results_dir, board, records)), out)


def _predicted(results_dir: Path, board: pd.DataFrame, records: list[Record]) -> Iterator[tuple[Record, Predictions]]:
    """The best rows of each task and protocol, with their predictions where these are whole; one more than is drawn."""
    places = board.groupby(["task", "protocol", "data"], sort=False).cumcount()
    for place, record in zip(places, records, strict=True):
        if place <= MOST and record.task["kind"] == "multiclass":
            try:
                yield record, predictions_of(results_dir, record)
            except StorageError:
                continue  # `records verify` says what is wrong with it
