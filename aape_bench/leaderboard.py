"""The leaderboard: a view of the records, one row per (model label, task, protocol, data fingerprint).

Seeds of one label are averaged in its row. Rows on partial data or with random weights, or whose pre-training
saw the task, stand below the clean ones and have no rank; published numbers are never ranked with ours.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aape_bench import metrics
from aape_bench.errors import StorageError
from aape_bench.records import Record, predictions_of, read_all
from aape_bench.storage import write_text

if TYPE_CHECKING:
    import pandas as pd

#: Overlaps of pre-training and test audio that keep a row from being ranked.
KNOWN_OVERLAPS = ("train", "test", "same-generator")

COLUMNS = [
    "model", "task", "protocol", "metric", "score", "ci_low", "ci_high", "n_test", "folds", "partial", "weights",
    "pretrain_overlap", "seeds", "parameters", "dimension", "seconds", "date", "record",
    "rank", "seed_sd", "chance", "data", "device", "source",
]  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """What one row stands on. seeds: seed -> (path relative to the results folder, record), in order of seeds."""

    seeds: Mapping[int, tuple[str, Record]]

    @property
    def first(self) -> Record:
        """Of the lowest seed."""
        return self.records[0]

    @property
    def records(self) -> list[Record]:
        return [record for _, record in self.seeds.values()]

    @property
    def marks(self) -> tuple[str, ...]:
        """Why the row may not be ranked with clean ones; empty where it may."""
        return marks_of(self.first.task["partial"], self.first.model["weights"], self.first.pretrain_overlap)


def entries(results_dir: Path) -> tuple[list[Entry], list[str]]:
    """What every row stands on, by task, protocol, data and label; and what was left out.

    A row stands on the newest record of its label and on those of other seeds that differ from it in nothing else.
    """
    found, remarks = read_all(results_dir)
    cells: dict[tuple[str, ...], list[tuple[str, Record]]] = defaultdict(list)
    for path, record in found:
        cell = (record.task["name"], record.protocol["label"], record.task["fingerprint"], record.model["label"])
        cells[cell].append((path, record))
    every = []
    for records in cells.values():
        records.sort(key=lambda entry: (entry[1].date, entry[1].key), reverse=True)
        newest = records[0][1]
        by_seed: dict[int, tuple[str, Record]] = {}
        for path, record in records:
            if record.lineage == newest.lineage:
                by_seed.setdefault(record.seed, (path, record))
        every.append(Entry(dict(sorted(by_seed.items()))))
        if older := len(records) - len(by_seed):
            remarks.append(
                f"{newest.model['label']} on {newest.task['name']}: {older} older record(s) of other code, settings or "
                "device are left out."
            )
    return every, remarks


def leaderboard(results_dir: Path) -> tuple[pd.DataFrame, list[str]]:
    """All rows in COLUMNS, clean rows first within a task and protocol, by falling score; and what was left out."""
    every, remarks = entries(results_dir)
    return board_of(results_dir, every, remarks), remarks


def board_of(results_dir: Path, every: Sequence[Entry], remarks: list[str]) -> pd.DataFrame:
    """The rows of these entries; what could not be computed is added to the remarks."""
    import pandas as pd

    rows = [_row(results_dir, entry, remarks) for entry in every]
    board = pd.DataFrame(rows, columns=COLUMNS)
    board["_unranked"] = ~is_clean(board)
    board["score"] = board["score"].astype(float)
    # the better, the higher: error rates turned round
    sign = [-1.0 if metrics.lower_is_better(name) else 1.0 for name in board["metric"]]
    # means over folds of equal scores may differ in their last digit
    board["_merit"] = (board["score"] * sign).round(12)
    # a task's metric may change, and older records stay
    alike = ["task", "protocol", "data", "metric"]
    order = [*alike, "_unranked", "_merit", "model"]
    board = board.sort_values(order, ascending=[*[True] * 5, False, True], ignore_index=True)
    ranked = board[~board["_unranked"]].groupby(alike)
    ranks = ranked["_merit"].rank(ascending=False, method="min")
    board["rank"] = ranks.reindex(board.index).astype("Int64")
    return board[COLUMNS]


def marks_of(partial: str, weights: str, overlap: str) -> tuple[str, ...]:
    """Why a row may not be ranked with clean ones, by its three columns: not whole data, no training, known overlap."""
    found = {"partial": partial != "", "random": weights == "random", "overlap": overlap in KNOWN_OVERLAPS}
    return tuple(mark for mark, there in found.items() if there)


def is_clean(board: pd.DataFrame) -> pd.Series[bool]:
    """Rows that may be ranked: whole data, no random weights, no known overlap with the pre-training audio."""
    import pandas as pd

    columns = (board[name] for name in ("partial", "weights", "pretrain_overlap"))
    return pd.Series([not marks_of(*cells) for cells in zip(*columns, strict=True)], board.index, dtype=bool)


def wide(board: pd.DataFrame) -> pd.DataFrame:
    """One row per model and weights, one column per task, protocol and metric; partial data in columns of its own."""
    cells = board.copy()
    cells["column"] = [
        f"{task}/{protocol}/{metric}" + (f" (partial: {partial})" if partial else "")
        for task, protocol, metric, partial in zip(
            cells["task"], cells["protocol"], cells["metric"], cells["partial"], strict=True
        )
    ]
    # two data fingerprints of one task may not share a column
    several = cells.groupby("column")["data"].transform("nunique") > 1
    cells.loc[several, "column"] += " data " + cells.loc[several, "data"]
    table = cells.pivot(index=["model", "weights"], columns="column", values="score")
    table.columns.name = None
    return table.reset_index()


def with_published(board: pd.DataFrame) -> pd.DataFrame:
    """The board followed by what others published on its tasks: `source` says where, and they have no rank."""
    import pandas as pd

    from aape_bench.published import published

    theirs = published(sorted(set(board["task"])))
    rows = pd.DataFrame(
        {
            "model": theirs["model"] + theirs["variant"].map(lambda text: f" ({text})" if text else ""),
            "task": theirs["task"],
            "protocol": theirs["protocol"],
            "metric": theirs["metric"],
            "score": theirs["value"],
            "ci_low": theirs["value"] - theirs["ci95"],
            "ci_high": theirs["value"] + theirs["ci95"],
            "partial": "",
            "weights": "published",
            "pretrain_overlap": "",
            "source": theirs["source"],
        },
        columns=COLUMNS,
    ).sort_values(["task", "protocol", "score"], ascending=[True, True, False])
    return pd.concat([board.astype(object), rows.astype(object)], ignore_index=True)


def write_leaderboard(results_dir: Path, board: pd.DataFrame) -> tuple[Path, Path]:
    """Write `leaderboard.csv` and, of our own rows, `leaderboard_wide.csv` under the results folder."""
    paths = results_dir / "leaderboard.csv", results_dir / "leaderboard_wide.csv"
    for path, table in zip(paths, (board, wide(board[board["source"] == "ours"])), strict=True):
        text = table.to_csv(index=False, lineterminator="\n")
        # a finished results folder may be read-only
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)
    return paths


def _row(results_dir: Path, entry: Entry, remarks: list[str]) -> dict[str, Any]:
    path, first = next(iter(entry.seeds.values()))
    records = entry.records
    scores = [record.scores["score"] for record in records]
    defined = None not in scores
    try:
        low, high = _interval(results_dir, records)
    except StorageError as error:
        low, high = None, None
        remarks.append(str(error))
    return {
        "model": first.model["label"],
        "task": first.task["name"],
        "protocol": first.protocol["label"],
        "metric": first.task["metric"],
        "score": float(np.mean(scores)) if defined else None,
        "ci_low": low,
        "ci_high": high,
        "n_test": first.scores["test_clips"],
        "folds": len(first.scores["folds"]),
        "partial": first.task["partial"],
        "weights": first.model["weights"],
        "pretrain_overlap": first.pretrain_overlap,
        "seeds": len(records),
        "parameters": first.model["parameters"],
        "dimension": first.model["dimension"],
        "seconds": round(_seconds(records), 3),
        "date": max(record.date for record in records),
        "record": path,
        "rank": None,
        "seed_sd": _seed_sd(records) if defined else None,
        "chance": first.scores["chance"],
        "data": first.task["fingerprint"][:8],
        "device": first.treatment["device"],
        "source": "ours",
    }


def _seconds(records: list[Record]) -> float:
    """Embedding and fitting; embeddings that several seeds share count once."""
    embedding = {record.model["identity"]: record.stages.get("embed", {}).get("seconds", 0.0) for record in records}
    return float(sum(embedding.values()) + sum(record.stages["fit"]["seconds"] for record in records))


def _interval(results_dir: Path, records: list[Record]) -> tuple[float | None, float | None]:
    """The record's own interval; over seeds, that of their mean on the same resamples of clips."""
    first = records[0]
    if len(records) > 1 and first.task["metric"] not in metrics.METRICS:
        return None, None
    if len(records) == 1:
        own = first.scores["interval"]
        return (own["low"], own["high"]) if own else (None, None)
    predicted = [predictions_of(results_dir, record) for record in records]
    if any(one.ids != predicted[0].ids for one in predicted):
        return None, None  # seeds that skipped different broken clips have no common resamples
    draws = metrics.draws(first.task["metric"], predicted, first.task["name"], first.seed)
    if draws is None:
        return None, None
    bounds = metrics.bounds_of_draws(first.task["metric"], draws, predicted[0])
    return bounds.low, bounds.high


def _seed_sd(records: list[Record]) -> float | None:
    """Spread over seeds: of the models' weights, or of one record's classifiers where its protocol trains several."""
    scores = [record.scores["score"] for record in records]
    if len(records) == 1:
        scores = records[0].scores["repeats"]
    elif len({record.model["identity"] for record in records}) == 1:
        return None  # one embedding and no seed of the protocol's own: equality says nothing
    if len(scores) < 2 or None in scores:
        return None
    return float(np.std(scores, ddof=1))
