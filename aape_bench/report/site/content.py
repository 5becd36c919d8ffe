"""What the site shows, as plain values: records and leaderboard -> rows, models, tasks. No HTML here."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from aape_bench import registry
from aape_bench.errors import BenchError, UsageError
from aape_bench.leaderboard import Entry, board_of, entries, with_published
from aape_bench.metrics import lower_is_better
from aape_bench.records import Record
from aape_bench.report.site.ablations import Ablation, ablations_of
from aape_bench.report.site.names import model_page, task_page
from aape_bench.standings.differences import Place
from aape_bench.standings.overall import Overall, bounded, overall
from aape_bench.standings.tables import tables_of_entries
from aape_bench.storage import safe_name

if TYPE_CHECKING:
    from aape_bench.plugin import EncoderPlugin
    from aape_bench.task import Task

#: How a row may be read; only "clean" ones are ranked.
State = Literal["clean", "partial", "random", "overlap", "published"]
STATES: Mapping[State, str] = {
    "clean": "whole data, trained or untrained by nature",
    "partial": "partial data",
    "random": "random weights",
    "overlap": "pre-training overlap",
    "published": "published by others",
}
DOMAINS = ("sound", "speech", "music", "modulation", "other")

Number = float | None


@dataclass(frozen=True)
class Row:
    """One row of the leaderboard.

    records: of its seeds, rising; path: of the first. states: all that apply, "clean" alone or the others. caveats: the
    same in words. rank: among clean rows of the same task, protocol and data. place: among the rows of its own class,
    with the ranks that it may have.
    """

    model: str
    task: str
    domain: str
    protocol: str
    metric: str
    data: str
    score: Number
    low: Number
    high: Number
    chance: Number
    rank: int | None
    place: Place | None
    states: tuple[State, ...]
    caveats: tuple[str, ...]
    seeds: int | None
    seed_sd: Number
    tested: int | None
    parameters: int | None
    dimension: int | None
    seconds: Number
    weights: str
    source: str
    records: tuple[Record, ...]
    path: str

    @property
    def record(self) -> Record | None:
        """Of the lowest seed; None of published rows."""
        return self.records[0] if self.records else None

    @property
    def ours(self) -> bool:
        """Measured here, not published by others."""
        return self.source == "ours"

    @property
    def column(self) -> tuple[str, str, str, str]:
        """Rows of equal ones may stand beside each other."""
        return (self.task, self.protocol, self.metric, self.data)


@dataclass(frozen=True)
class ModelPage:
    """One model label. plugin: where its family is installed here. pictures: of its inspection, if there are any."""

    label: str
    page: str
    rows: tuple[Row, ...]
    plugin: EncoderPlugin | None
    record: Record
    pictures: tuple[Path, ...]


@dataclass(frozen=True)
class Column:
    """One protocol, metric and data fingerprint of a task: rows that may be compared, best first, clean ones first."""

    title: str
    protocol: str
    metric: str
    rows: tuple[Row, ...]
    published: tuple[Row, ...]

    @property
    def leader(self) -> Row | None:
        """The best of the clean rows, else of the others that have a score."""
        return next((row for row in self.rows if row.score is not None and row.record is not None), None)


@dataclass(frozen=True)
class TaskPage:
    """One task. description: None where its plugin is not installed here."""

    name: str
    page: str
    domain: str
    description: Task | None
    columns: tuple[Column, ...]


@dataclass(frozen=True)
class Cell:
    """One row in the matrix. heat: 0 at chance or below, 1 at a perfect score. first: it leads the ranked ones."""

    row: Row
    heat: float
    first: bool
    marks: str


@dataclass(frozen=True)
class Heading:
    """A column of the matrix."""

    task: str
    label: str


@dataclass(frozen=True)
class Matrix:
    """Models down, tasks across, under one protocol; None where there is no result."""

    columns: tuple[Heading, ...]
    rows: tuple[tuple[str, tuple[Cell | None, ...]], ...]


@dataclass(frozen=True)
class Content:
    """Everything. overalls: means over tasks, clean rows first. remarks: what could not be read or was left out."""

    rows: tuple[Row, ...]
    models: tuple[ModelPage, ...]
    tasks: tuple[TaskPage, ...]
    ablations: tuple[Ablation, ...]
    overalls: tuple[Overall, ...]
    remarks: tuple[str, ...] = ()

    @property
    def protocols(self) -> list[str]:
        """Of our own rows, those with most rows first."""
        counts = Counter(row.protocol for row in self.rows if row.ours)
        return sorted(counts, key=lambda name: (-counts[name], name))

    @property
    def domains(self) -> list[str]:
        """Of our own rows, in the order of DOMAINS."""
        there = {row.domain for row in self.rows if row.ours}
        return [one for one in DOMAINS if one in there]

    def matrix(self, protocol: str) -> Matrix:
        """Our own rows of a protocol."""
        own = [row for row in self.rows if row.ours and row.protocol == protocol]
        keys = list(dict.fromkeys(row.column for row in own))
        tasks = [task for task, *_ in keys]
        labels = [task if tasks.count(task) == 1 else f"{task} {data}" for task, _, _, data in keys]
        found = {(row.model, row.column): row for row in own}
        rows = []
        for model in sorted({row.model for row in own}):
            cells = (found.get((model, key)) for key in keys)
            rows.append((model, tuple(None if row is None else _cell(row) for row in cells)))
        return Matrix(tuple(map(Heading, tasks, labels)), tuple(rows))


def gather(results_dir: Path, published: bool) -> Content:
    """Read a results folder. Raises BenchError where there is nothing to show."""
    every, remarks = entries(results_dir)
    board = board_of(results_dir, every, remarks)
    if board.empty:
        raise UsageError(f"There are no results in {results_dir} that can be read. " + " ".join(remarks[:3]))
    whole = with_published(board) if published else board
    records, domains = _records(every), _domains(board["task"])
    tables, said = tables_of_entries(results_dir, every)
    remarks += said
    places: dict[tuple[str, ...], Place] = {
        (row.place.model, table.task, table.protocol, table.metric, table.data): row.place
        for table in tables for row in table.rows
    }  # fmt: skip
    rows = tuple(_row(cells, records, domains, places) for cells in whole.to_dict("records"))
    models = tuple(_model(label, rows, results_dir) for label in dict.fromkeys(r.model for r in rows if r.ours))
    tasks = tuple(_task(name, rows) for name in dict.fromkeys(row.task for row in rows if row.ours))
    ablations = tuple(ablations_of(results_dir, remarks))
    # a site is passed on: it says nothing of where it was made
    shown = tuple(remark.replace(f"{results_dir}/", "") for remark in remarks)
    return Content(rows, models, tasks, ablations, tuple(overall(tables)), shown)


def _cell(row: Row) -> Cell:
    heat = 0.0
    chance = row.chance or 0.0
    if row.score is not None and chance < 1 and bounded(row.metric):
        heat = min(1.0, max(0.0, (row.score - chance) / (1 - chance)))
    marks = {"partial": "*", "random": "r", "overlap": "o"}
    return Cell(row, round(heat, 3), row.rank == 1, "".join(marks.get(state, "") for state in row.states))


def _records(every: Iterable[Entry]) -> dict[str, tuple[Record, ...]]:
    """Those of every row of the leaderboard, by the path that it names."""
    return {next(iter(entry.seeds.values()))[0]: tuple(entry.records) for entry in every}


def _domains(tasks: Iterable[str]) -> dict[str, str]:
    return {name: task.domain if (task := _installed_task(name)) else "other" for name in set(tasks)}


def _installed_task(name: str) -> Task | None:
    try:
        return registry.task(name)
    except BenchError:
        return None  # a HEAR folder, or a plugin that is not installed here


def _row(
    cells: Mapping[Any, Any],
    records: Mapping[str, tuple[Record, ...]],
    domains: Mapping[str, str],
    places: Mapping[tuple[str, ...], Place],
) -> Row:
    states: dict[State, str] = {}
    weights, overlap, partial = (_text(cells[name]) for name in ("weights", "pretrain_overlap", "partial"))
    if cells["source"] != "ours":
        states["published"] = f"published: {_text(cells['source'])}"
    if partial:
        states["partial"] = f"partial data: {partial}"
    if weights == "random":
        states["random"] = "random weights"
    if overlap in ("train", "test", "same-generator"):
        states["overlap"] = f"pre-training overlap: {overlap}"
    key = tuple(_text(cells[name]) for name in ("model", "task", "protocol", "metric", "data"))
    return Row(
        model=str(cells["model"]),
        task=str(cells["task"]),
        domain=domains[str(cells["task"])],
        protocol=str(cells["protocol"]),
        metric=str(cells["metric"]),
        data=_text(cells["data"]),
        score=_number(cells["score"]),
        low=_number(cells["ci_low"]),
        high=_number(cells["ci_high"]),
        chance=_number(cells["chance"]),
        rank=_whole(cells["rank"]),
        place=places.get(key),
        states=tuple(states) or ("clean",),
        caveats=tuple(states.values()),
        seeds=_whole(cells["seeds"]),
        seed_sd=_number(cells["seed_sd"]),
        tested=_whole(cells["n_test"]),
        parameters=_whole(cells["parameters"]),
        dimension=_whole(cells["dimension"]),
        seconds=_number(cells["seconds"]),
        weights=weights,
        source=str(cells["source"]),
        records=records.get(_text(cells["record"]), ()),
        path=_text(cells["record"]),
    )


def _model(label: str, rows: Sequence[Row], results_dir: Path) -> ModelPage:
    own = tuple(row for row in rows if row.ours and row.model == label)
    record = next(row.record for row in own if row.record is not None)
    try:
        plugin = registry.model(re.split(r"[\[{@]", label)[0])
    except BenchError:
        plugin = None
    pictures = tuple(sorted((results_dir / "inspect" / safe_name(label)).glob("*.svg")))
    pictures = tuple(path for path in pictures if path.is_file())
    return ModelPage(label, model_page(label), own, plugin, record, pictures)


def _task(name: str, rows: Sequence[Row]) -> TaskPage:
    own = [row for row in rows if row.task == name]
    columns = []
    several = len({row.data for row in own if row.ours}) > 1
    for key in dict.fromkeys(row.column for row in own if row.ours):
        _, protocol, metric, data = key
        ours = [row for row in own if row.ours and row.column == key]
        theirs = [r for r in own if not r.ours and r.metric == metric and _alike(protocol, r.protocol)]
        title = f"{protocol}, {metric}" + (f", data {data}" if several else "")
        theirs.sort(key=lambda row: _merit(row), reverse=True)
        columns.append(Column(title, protocol, metric, tuple(ours), tuple(theirs)))
    columns.sort(key=lambda column: (-len(column.rows), column.title))
    return TaskPage(name, task_page(name), own[0].domain, _installed_task(name), tuple(columns))


def _alike(ours: str, theirs: str) -> bool:
    """Fine-tuning stands beside fine-tuning, frozen evaluation beside frozen."""
    return ours.startswith("finetune") == (theirs == "finetune")


def _merit(row: Row) -> float:
    if row.score is None:
        return -math.inf
    return -row.score if lower_is_better(row.metric) else row.score


def _number(value: Any) -> Number:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _whole(value: Any) -> int | None:
    number = _number(value)
    return None if number is None else int(number)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
