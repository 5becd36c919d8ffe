"""The leaderboard as tables for papers: a table per protocol, a row per model, a column per task.

Classes of rows stand in blocks of their own: whole and clean ones first, published figures last. Bold within a block
are the scores that no other is distinguishably better than (see `standings.differences`), which may be several.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aape_bench.leaderboard import marks_of
from aape_bench.standings.tables import Marks, Table
from aape_bench.standings.texts import Block, Cell, Sheet, legend

if TYPE_CHECKING:
    import pandas as pd

#: Class of rows -> the heading of its block.
HEADINGS = {
    "partial": "partial data",
    "random": "random weights",
    "overlap": "overlap of pre-training and test audio",
    "published": "published by others",
}
BOLD = (
    "Bold: no other of its block and column is distinguishably better (paired bootstrap over groups or clips, Holm "
    "over all pairs, 5 %)."
)
INTERVALS = "In brackets: the 95 % interval over test clips."
Place = tuple[str, str, str, str]


def standing_columns(board: pd.DataFrame, tables: Sequence[Table]) -> pd.DataFrame:
    """The board with the columns class ("" if clean), rank_best, rank_worst and group (see `differences.Place`)."""
    places = {
        (row.place.model, table.task, table.protocol, table.data): row.place for table in tables for row in table.rows
    }
    rows = board.to_dict("records")
    found = [places.get(_place(row)) for row in rows]
    columns: dict[str, Any] = {
        "class": [", ".join(_marks(row)) for row in rows],
        "rank_best": [None if place is None else place.best for place in found],
        "rank_worst": [None if place is None else place.worst for place in found],
        "group": ["" if place is None else place.group for place in found],
    }
    return board.assign(**columns)


def sheets(board: pd.DataFrame, tables: Sequence[Table], intervals: bool = True) -> list[Sheet]:
    """One table per protocol of ours. board: as `leaderboard` or `with_published` make it, of the rows to show."""
    rows = board.astype(object).where(board.notna(), None).to_dict("records")
    bold = {
        (row.place.model, table.task, table.protocol, table.data)
        for table in tables
        if len(table.rows) > 1
        for row in table.rows
        if row.place.best == 1
    }
    protocols = dict.fromkeys(row["protocol"] for row in rows if row["source"] == "ours")
    made = []
    for protocol in protocols:
        theirs = [row for row in rows if row["source"] != "ours" and _beside(row["protocol"], protocol)]
        ours = [row for row in rows if row["source"] == "ours" and row["protocol"] == protocol]
        made.append(_sheet(protocol, ours + theirs, bold, intervals))
    return made


def _sheet(protocol: str, rows: Sequence[dict[Any, Any]], bold: set[Place], intervals: bool) -> Sheet:
    columns = _columns(rows)
    blocks: dict[Marks, dict[str, dict[str, Cell]]] = {}
    sources: dict[str, int] = {}
    for row, column in zip(rows, columns, strict=True):
        marks = _marks(row)
        name = row["model"]
        if row["source"] != "ours":
            name += f", {row['protocol']} [{sources.setdefault(row['source'], len(sources) + 1)}]"
        text = "undefined" if row["score"] is None else f"{row['score']:.3f}"
        if intervals and row["score"] is not None and row["ci_low"] is not None and row["ci_high"] is not None:
            text += f" [{row['ci_low']:.3f}, {row['ci_high']:.3f}]"
        blocks.setdefault(marks, {}).setdefault(name, {})[column] = Cell(text, _place(row) in bold)
    heads = sorted(dict.fromkeys(columns))
    ordered = sorted(blocks, key=lambda marks: ("published" in marks, len(marks), marks))
    shown = sorted({mark for of in ordered for mark in of})
    return Sheet(
        title=f"Scores by the protocol {protocol}",
        heads=["model", *heads],
        blocks=[
            Block(
                ", ".join(HEADINGS[mark] for mark in of),
                [
                    [Cell(name, marks=of), *(cells.get(head, Cell("")) for head in heads)]
                    for name, cells in blocks[of].items()
                ],
            )
            for of in ordered
        ],
        notes=[
            *filter(None, (BOLD, INTERVALS if intervals else "", legend(shown))),
            *(f"[{number}] {source}" for source, number in sources.items()),
        ],
    )


def _columns(rows: Sequence[Mapping[Any, Any]]) -> list[str]:
    """The column of each row: two versions of one task's data may not share one."""
    names = [
        f"{row['task']} ({row['metric']}" + (f", {row['partial']} clips)" if row["partial"] else ")") for row in rows
    ]
    versions: dict[str, set[str]] = {}
    for name, row in zip(names, rows, strict=True):
        versions.setdefault(name, set()).update([row["data"]] if row["data"] is not None else [])
    return [
        f"{name} data {row['data']}" if row["data"] is not None and len(versions[name]) > 1 else name
        for name, row in zip(names, rows, strict=True)
    ]


def _marks(row: Mapping[Any, Any]) -> Marks:
    if row["source"] != "ours":
        return ("published",)
    return marks_of(row["partial"], row["weights"], row["pretrain_overlap"])


def _place(row: Mapping[Any, Any]) -> Place:
    return row["model"], row["task"], row["protocol"], row["data"]


def _beside(theirs: str, ours: str) -> bool:
    """Fine-tuning stands beside fine-tuning, frozen evaluation beside frozen."""
    return (theirs == "finetune") == ours.startswith("finetune")
