"""The leaderboard as panels: which rows stand together, in which order, and what is said beside them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from aape_bench.metrics import lower_is_better

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["clean", "partial", "random", "overlap", "published"]

BEST_PUBLISHED = 10
PICKED_ON_TEST = "best epoch picked on the test data"  # the words of the notes in published.csv


@dataclass(frozen=True)
class Row:
    """One model's point; `remark` says in small print why it is not ranked or how it was chosen."""

    label: str
    remark: str
    kind: Kind
    score: float | None
    low: float | None
    high: float | None

    @property
    def figures(self) -> str:
        """Score and interval as text."""
        if self.score is None:
            return "undefined"
        if self.low is None or self.high is None:
            return f"{self.score:.3f}" + ("" if self.kind == "published" else "  interval undefined")
        if self.kind == "published":
            half = self.high - self.score
            return f"{self.score:.3f} ± {half:.{4 if 0 < round(half, 4) < 0.001 else 3}f}"
        return f"{self.score:.3f}  [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Block:
    """Rows that may be compared with each other, best first; the heading is empty for the ranked ones."""

    heading: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Panel:
    """One task under one protocol, metric and version of the data."""

    task: str
    title: str
    axis: str
    blocks: tuple[Block, ...]
    chance: tuple[float, ...]

    @property
    def rows(self) -> list[Row]:
        return [row for block in self.blocks for row in block.rows]


def make_panels(board: pd.DataFrame, published: pd.DataFrame | None) -> Iterator[Panel]:
    """One panel per (task, protocol, metric, data); tasks in the board's order, each one's together."""
    if board.empty:
        return
    keys = ["task", "protocol", "metric"]
    order = {task: place for place, task in enumerate(dict.fromkeys(board["task"]))}
    by_key = board.groupby(keys, sort=False, dropna=False)
    for key, same in sorted(by_key, key=lambda item: order[item[0][0]]):
        task, protocol, metric = map(str, key)
        by_data = same.groupby("data", sort=False, dropna=False)
        for data, rows in by_data:
            name = " · ".join([task, protocol, metric] + ([f"data {data}"] if len(by_data) > 1 else []))
            quoted = _published_rows(published, task, protocol, metric)
            yield _panel(task, name, metric, rows, quoted)


def without_published(panel: Panel) -> Panel:
    """The panel with our own rows only."""
    return replace(panel, blocks=tuple(b for b in panel.blocks if b.rows[0].kind != "published"))


def _panel(task: str, name: str, metric: str, board: pd.DataFrame, quoted: list[Row]) -> Panel:
    records = board.to_dict("records")
    rows = [_row(record) for record in records]
    sign = -1 if lower_is_better(metric) else 1
    clean = [row for row in rows if row.kind == "clean"]
    apart = [row for row in rows if row.kind != "clean"]
    blocks = [
        Block("", _best_first(clean, sign)),
        Block("not ranked", _best_first(apart, sign)),
        Block("published by others, not measured here", _best_first(quoted, sign)),
    ]
    chances = {number for record in records if (number := _number(record["chance"])) is not None}
    return Panel(
        task,
        " — ".join(filter(None, [name, _caution(records)])),
        _axis_label(metric, records),
        tuple(block for block in blocks if block.rows),
        tuple(sorted(chances)),
    )


def kind_of(record: dict[Any, Any]) -> Kind:
    """What of a leaderboard row decides its mark."""
    return next(iter(_remarks(record)), "clean")


def _remarks(record: dict[Any, Any]) -> dict[Kind, str]:
    remarks: dict[Kind, str] = {}
    if _is_random(record):
        remarks["random"] = "random weights"
    if partial := _text(record["partial"]):
        remarks["partial"] = f"partial data: {partial}"
    if (overlap := _text(record["pretrain_overlap"])) in ("train", "test", "same-generator"):
        remarks["overlap"] = f"pre-training overlap: {overlap}"
    return remarks


def _row(record: dict[Any, Any]) -> Row:
    remarks = _remarks(record)
    return Row(
        label=str(record["model"]),
        remark=" · ".join(remarks.values()),
        kind=next(iter(remarks), "clean"),
        score=_number(record["score"]),
        low=_number(record["ci_low"]),
        high=_number(record["ci_high"]),
    )


def _published_rows(published: pd.DataFrame | None, task: str, protocol: str, metric: str) -> list[Row]:
    if published is None:
        return []
    fine_tuned = published["protocol"] == "finetune"
    alike = (fine_tuned == protocol.startswith("finetune")) | (published["protocol"] == "unstated")
    table = published[(published["task"] == task) & (published["metric"] == metric) & alike]
    # Several tables quote one figure; two different figures for one model both stay.
    table = table.sort_values(["value", "ci95"], ascending=False, kind="stable")
    table = table.drop_duplicates(["model", "variant", "protocol", "value"]).head(BEST_PUBLISHED)
    records = table.to_dict("records")
    names = [_published_name(record) for record in records]
    rows = []
    for name, record in zip(names, records, strict=True):
        value, half = float(record["value"]), _number(record["ci95"])
        low, high = (None, None) if half is None else (value - half, value + half)
        label = name if names.count(name) == 1 else f"{name}, {record['source'].partition(' (')[0]}"
        remark = PICKED_ON_TEST if PICKED_ON_TEST in record["note"] else ""
        rows.append(Row(label, remark, "published", value, low, high))
    return rows


def _published_name(record: dict[Any, Any]) -> str:
    protocol = "protocol unstated" if record["protocol"] == "unstated" else record["protocol"]
    return f"{record['model']} {record['variant']}".strip() + f" · {protocol}"


def _caution(records: list[dict[Any, Any]]) -> str:
    cautions = []
    partial = list(dict.fromkeys(filter(None, (_text(record["partial"]) for record in records))))
    if partial:
        cautions.append(f"partial data: {', '.join(partial)} clips")
    if random := sum(map(_is_random, records)):
        every = random == len(records)
        cautions.append("random weights" if every else f"random weights in {random} of {len(records)} rows")
    return "; ".join(cautions)


def _axis_label(metric: str, records: list[dict[Any, Any]]) -> str:
    tests = {_number(record["n_test"]) for record in records}
    clips = tests.pop() if len(tests) == 1 else None
    better = " (lower is better)" if lower_is_better(metric) else ""
    return f"{metric}{better} and its 95 % interval" + (f", {clips:.0f} test clips" if clips else "")


def _best_first(rows: Iterable[Row], sign: int) -> tuple[Row, ...]:
    return tuple(sorted(rows, key=lambda r: (r.score is None, -sign * (r.score or 0.0), r.label)))


def _is_random(record: dict[Any, Any]) -> bool:
    return _text(record["weights"]) == "random"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
