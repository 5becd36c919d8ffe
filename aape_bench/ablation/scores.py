"""Records and stability results of trained variants -> the two tables that everything else is made from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aape_bench.ablation.plan import Request
from aape_bench.ablation.work import Outcome
from aape_bench.records import read_record

if TYPE_CHECKING:
    import pandas as pd

SCORES = (
    "variant", "seed", "task", "domain", "protocol", "metric", "score", "ci_low", "ci_high", "partial", "overlap",
    "sha256", "record",
)  # fmt: skip
STABILITY = ("variant", "seed", "task", "kind", "amount", "unit", "quantity", "value", "low", "high")


def score_table(request: Request, outcomes: Sequence[Outcome], folder: Path) -> pd.DataFrame:
    """One row per (variant, seed, task, protocol), with the columns SCORES.

    domain: "modulation" or "real". score, ci_low, ci_high: of the task's main metric, with the interval of clips
    resampled; NaN where undefined. partial: what of the data is lacking, "" where nothing is. overlap: of the
    training's audio with the task's (`overlap.Value`). sha256: of the checkpoint. record: its path below `folder`.
    """
    import pandas as pd

    domains = {task.name: task.domain for task in request.tasks}
    rows = []
    for outcome in outcomes:
        for path in outcome.records:
            record = read_record(path)
            interval = record.scores["interval"] or {"low": None, "high": None}
            rows.append(
                {
                    "variant": outcome.run.variant.name,
                    "seed": outcome.run.seed,
                    "task": record.task["name"],
                    "domain": "modulation" if domains[record.task["name"]] == "modulation" else "real",
                    "protocol": record.protocol["label"],
                    "metric": record.task["metric"],
                    "score": record.scores["score"],
                    "ci_low": interval["low"],
                    "ci_high": interval["high"],
                    "partial": record.task["partial"] or "",
                    "overlap": record.pretrain_overlap,
                    "sha256": record.model["checkpoint"]["sha256"],
                    "record": path.relative_to(folder).as_posix(),
                }
            )
    table = pd.DataFrame(rows, columns=list(SCORES))
    return table.astype({"score": float, "ci_low": float, "ci_high": float})


def stability_table(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """One row per (variant, seed, version of the clips, quantity), with the columns STABILITY; see `stability`."""
    import pandas as pd

    from aape_bench.stability import read_result

    rows = []
    for outcome in outcomes:
        if outcome.stability is None:
            continue
        result = read_result(outcome.stability)
        for quantity, curve in result.curves.items():
            for at, version in enumerate(result.versions):
                about = (outcome.run.variant.name, outcome.run.seed, result.task["name"])
                values = (float(curve.value[at]), float(curve.low[at]), float(curve.high[at]))
                rows.append((*about, version.kind, version.amount, version.unit, quantity, *values))
    return pd.DataFrame(rows, columns=list(STABILITY))
