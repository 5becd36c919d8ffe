"""Figures that others published, to stand beside ours and never among them."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

TEXT_COLUMNS = ("model", "variant", "task", "protocol", "metric", "source", "note")


def published(tasks: str | Iterable[str] | None = None) -> pd.DataFrame:
    """Published results, one row per figure and source; of the named tasks only, where any are named.

    model, variant: the family, spelled alike in every source, and which of its checkpoints ("": not said).
    task:     our name; `as2m`, `spcv1`, `surge` and `voxforge` are tasks that we do not have.
    protocol: `evar` where the source's figures come from EVAR; `linear` for any other linear evaluation
              (never our own, the note says whose); `finetune`; `unstated`.
    metric, value, ci95: "accuracy" or "mAP", the score and the half-width printed after its ± sign, both
              as fractions in [0, 1]; `ci95` is NaN where none is printed.
    source:   paper and table, with repository@commit where the figure was read there.
    note:     what a reader must know before comparing: quoted by whom, epochs picked on the test data,
              sources in conflict.
    Sources that disagree both have their row. A task without published figures gives no rows.
    """
    import pandas as pd

    columns = {**dict.fromkeys(TEXT_COLUMNS, "str"), "value": "float64", "ci95": "float64"}
    with resources.files("aape_bench.data").joinpath("published.csv").open(encoding="utf-8") as file:
        table = pd.read_csv(file, dtype=columns, keep_default_na=False, na_values={"ci95": [""]})
    if tasks is None:
        return table
    wanted = {tasks} if isinstance(tasks, str) else set(tasks)
    return table[table["task"].isin(wanted)].reset_index(drop=True)
