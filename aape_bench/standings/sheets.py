"""Ranks, pairs and means as tables to read (`Sheet`) and as plain rows for CSV."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from aape_bench.console import interval_text, number_text
from aape_bench.standings.differences import Pair
from aape_bench.standings.overall import Overall
from aape_bench.standings.paper import HEADINGS
from aape_bench.standings.tables import Marks, Table
from aape_bench.standings.texts import Block, Cell, Sheet

# More lists of names than these are not read.
_CLIQUES = 3

Rows = tuple[list[str], list[list[object]]]


def places(tables: Sequence[Table]) -> list[Sheet]:
    """One per table: every model with its ranks, and how many clips would tell it from the next."""
    heads = ["model", "rank", "may be", "group", "score", "95 % interval", "seeds", "clips to tell from the next"]
    made = []
    for table in tables:
        needed = {(pair.ahead, pair.behind): pair for pair in table.pairs}
        following = [needed[one.place.model, other.place.model] for one, other in pairwise(table.rows)]
        rows = [
            [row.place.model, str(row.place.place), f"{row.place.best} to {row.place.worst}", row.place.group,
             number_text(row.score), interval_text(row.low, row.high), str(row.seeds), _needed(pair)]
            for row, pair in zip(table.rows, [*following, None], strict=False)
        ]  # fmt: skip
        made.append(_sheet(_title(table, tables), heads, rows))
    return made


def pairs(tables: Sequence[Table]) -> list[Sheet]:
    """One per table: every pair, the better first."""
    heads = [
        "ahead",
        "behind",
        "difference",
        "95 % interval",
        "p",
        "p (Holm)",
        "apart",
        "clips needed",
        "groups needed",
    ]
    made = []
    for table in tables:
        rows = [
            [pair.ahead, pair.behind, _signed(pair.difference), interval_text(pair.low, pair.high, signed=True),
             _p(pair.p), _p(pair.p_holm), "yes" if pair.distinct else "no", _needed(pair),
             _count(pair.units) if table.sample.grouped else ""]
            for pair in table.pairs
        ]  # fmt: skip
        made.append(_sheet(_title(table, tables), heads, rows))
    return made


def means(overalls: Sequence[Overall]) -> list[Sheet]:
    """One per protocol and class: mean ranks, normalised means, and what Friedman's test says of ranks over tasks."""
    heads = ["model", "rank", "may be", "group", "normalised mean", "95 % interval", "mean rank", "95 % interval"]
    made = []
    for one in overalls:
        rows = [
            [row.place.model, str(row.place.place), f"{row.place.best} to {row.place.worst}", row.place.group,
             "" if row.normalised is None else f"{row.normalised:.1f}", _interval(row.low, row.high, 1),
             f"{row.mean_rank:.2f}", _interval(row.rank_low, row.rank_high, 2)]
            for row in one.rows
        ]  # fmt: skip
        title = f"Mean over {len(one.tasks)} task{'s' * (len(one.tasks) != 1)} by {one.protocol}{_of_class(one.marks)}"
        notes = [f"Tasks: {', '.join(one.tasks)}."] if one.tasks else []
        if one.friedman is not None:
            notes.append(
                f"Ranks over tasks: Friedman's test p = {_p(one.friedman.p)} (Iman and Davenport's F: "
                f"{_p(one.friedman.p_f)}); two mean ranks differ from {one.friedman.critical:.2f} on (Nemenyi, 5 %)."
            )
            if len(one.friedman.cliques) <= _CLIQUES:
                notes += [f"Not apart by that: {', '.join(clique)}." for clique in one.friedman.cliques]
        notes += [f"{remark[0].upper()}{remark[1:]}." for remark in one.remarks]
        made.append(_sheet(title, heads, rows, notes))
    return made


def places_rows(tables: Sequence[Table]) -> Rows:
    """Every model of every table, with all digits."""
    heads = ["task", "protocol", "metric", "data", "class", "model", "rank", "best", "worst", "group", "score", "low",
             "high", "seeds", "clips", "groups"]  # fmt: skip
    return heads, [
        [*_about(table), row.place.model, row.place.place, row.place.best, row.place.worst, row.place.group, row.score,
         row.low, row.high, row.seeds, table.sample.clips, table.sample.units if table.sample.grouped else None]
        for table in tables
        for row in table.rows
    ]  # fmt: skip


def pairs_rows(tables: Sequence[Table]) -> Rows:
    """Every pair of every table, with all digits."""
    heads = ["task", "protocol", "metric", "data", "class", "ahead", "behind", "difference", "low", "high", "p",
             "standard_error", "p_holm", "apart", "clips_needed", "groups_needed", "reason"]  # fmt: skip
    return heads, [
        [*_about(table), pair.ahead, pair.behind, pair.difference, pair.low, pair.high, pair.p, pair.error, pair.p_holm,
         int(pair.distinct), pair.clips, pair.units if table.sample.grouped else None, pair.reason]
        for table in tables
        for pair in table.pairs
    ]  # fmt: skip


def means_rows(overalls: Sequence[Overall]) -> Rows:
    """Every model's means, with all digits."""
    heads = ["protocol", "class", "model", "rank", "best", "worst", "group", "normalised", "low", "high", "mean_rank",
             "rank_low", "rank_high", "tasks", "critical_difference"]  # fmt: skip
    return heads, [
        [one.protocol, ", ".join(one.marks), row.place.model, row.place.place, row.place.best, row.place.worst,
         row.place.group, row.normalised, row.low, row.high, row.mean_rank, row.rank_low, row.rank_high,
         " ".join(one.tasks), one.friedman.critical if one.friedman else None]
        for one in overalls
        for row in one.rows
    ]  # fmt: skip


def _sheet(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str] = ()) -> Sheet:
    return Sheet(title, heads, [Block("", [[Cell(text) for text in row] for row in rows])], notes)


def _about(table: Table) -> list[object]:
    return [table.task, table.protocol, table.metric, table.data, ", ".join(table.marks)]


def _title(table: Table, among: Sequence[Table]) -> str:
    """As it is headed; with the data's fingerprint where another would have the same title."""
    alike = [one for one in among if (one.title, one.marks) == (table.title, table.marks)]
    sample = table.sample
    size = f"{sample.clips} test clips" + (f" in {sample.units} groups" if sample.grouped else "")
    part = f", partial: {table.partial}" if table.partial else ""
    data = f", data {table.data}" if len(alike) > 1 else ""
    return f"{table.title}{_of_class(table.marks)}: {size}{part}{data}"


def _of_class(marks: Marks) -> str:
    return f" ({', '.join(HEADINGS[mark] for mark in marks)})" if marks else ""


def _needed(pair: Pair | None) -> str:
    return "" if pair is None else _count(pair.clips)


def _count(number: int | None) -> str:
    """Three digits: it is an estimate."""
    if number is None:
        return "unknown"
    return f"{round(number, 3 - len(str(number))):,}" if number > 999 else str(number)


def _signed(value: float | None) -> str:
    return "undefined" if value is None else f"{value:+.3f}"


def _p(value: float | None) -> str:
    if value is None:
        return "undefined"
    return f"{value:.4f}" if value >= 0.0001 else "< 0.0001"


def _interval(low: float | None, high: float | None, digits: int) -> str:
    if low is None or high is None:
        return "undefined"
    return f"{low:.{digits}f} - {high:.{digits}f}"
