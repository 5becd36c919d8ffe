"""Accuracy against rate: of tasks whose classes are rates, how well each is told, from the predictions of a run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aape_bench.predictions import Predictions
from aape_bench.records import predictions_of, read_record

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("task", "variant", "seed", "rate", "accuracy")
_HERTZ = re.compile(r"(\d+(?:\.\d+)?) Hz")


def rates(results_dir: Path, scores: pd.DataFrame, protocol: str) -> pd.DataFrame:
    """One row per (task, variant, seed, rate in Hz): the accuracy on clips of that rate.

    Tasks whose classes are no rates have no rows.

    scores: the table of an ablation; its column `record` names files relative to `results_dir`. protocol: the label of
    the one that is read. Raises StorageError where a record or its predictions cannot be read.
    """
    import pandas as pd

    rows: list[tuple[Any, ...]] = []
    unlike: set[str] = set()
    for row in scores[scores["protocol"] == protocol].to_dict("records"):
        if row["task"] in unlike:
            continue
        record = read_record(results_dir / row["record"])
        by_rate = accuracy_by_rate(predictions_of(results_dir, record)) if record.task["kind"] == "multiclass" else {}
        if not by_rate:
            unlike.add(row["task"])
        rows += [(row["task"], row["variant"], row["seed"], *point) for point in by_rate.items()]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def accuracy_by_rate(predictions: Predictions) -> dict[float, float]:
    """Rate in Hz -> share of its clips that are told right, mean over repeats; empty where a class is no rate."""
    names = [_HERTZ.fullmatch(str(label)) for label in predictions.classes]
    if not names or None in names:
        return {}
    right: dict[str, list[bool]] = {}
    for decided in predictions.decided:
        for said, true in zip(decided, predictions.truth, strict=True):
            right.setdefault(true, []).append(said == true)
    by_rate = {float(name.removesuffix(" Hz")): sum(found) / len(found) for name, found in right.items()}
    return dict(sorted(by_rate.items()))
