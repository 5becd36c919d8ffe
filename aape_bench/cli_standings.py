"""The command `rank`: who is ahead of whom, and how sure one may be; and the leaderboard's tables for papers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from aape_bench import console
from aape_bench.cli_results import Published, ResultsDir, results_folder, show_board
from aape_bench.errors import UsageError

if TYPE_CHECKING:
    from aape_bench.standings.tables import Chosen
    from aape_bench.standings.texts import Sheet


class Format(StrEnum):
    """How tables are written."""

    TABLE = "table"
    CSV = "csv"
    MARKDOWN = "markdown"
    LATEX = "latex"


class What(StrEnum):
    """Which tables."""

    PLACES = "places"
    PAIRS = "pairs"
    MEANS = "means"
    ALL = "all"


FormatOption = Annotated[Format, typer.Option("--format", help="A table here, or text for a paper or a program.")]
Tasks = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--task", "-t", help="Of these tasks only; repeat, or commas.", show_default=False),
]
Protocols = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--protocol", "-p", help="Of these protocols only; repeat, or commas.", show_default=False),
]
Models = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--model", "-m", help="Labels of these models only; repeat, or commas.", show_default=False),
]

EXAMPLES = (
    "Examples:\n\n  aape-bench rank\n\n  aape-bench rank --task esc50 --protocol linear --show pairs\n\n"
    "  aape-bench rank --show means --format latex"
)
LEADERBOARD_EXAMPLES = (
    "Examples:\n\n  aape-bench leaderboard --published\n\n"
    "  aape-bench leaderboard --format latex --protocol linear > table.tex"
)
#: What every table of ranks and means has to be read with.
HOW_TO_READ = (
    "Ranks hold for all models of a table at once, at 95 %: a model is ahead of another where the paired bootstrap "
    "over test clips (or groups) tells them apart, after Holm for all pairs. Models that share a letter cannot be told "
    "apart."
)
HOW_TO_READ_MEANS = (
    "Means over tasks: the normalised mean is of 100 (score - chance) / (1 - chance). Intervals resample test clips "
    "within tasks, not the tasks."
)


def rank(
    results_dir: ResultsDir = None,
    task: Tasks = None,
    protocol: Protocols = None,
    model: Models = None,
    show: Annotated[
        What, typer.Option("--show", help="Places in each table, every pair, means over tasks.")
    ] = What.ALL,
    format_: FormatOption = Format.TABLE,
) -> None:
    """Rank the models of each table with what is certain of it; means over tasks; how many clips a pair would need.

    Rows on partial data, with random weights or with known overlap stand in tables of their own.
    """
    from aape_bench.standings import sheets
    from aape_bench.standings.overall import overall
    from aape_bench.standings.tables import tables_of
    from aape_bench.standings.texts import comma_separated

    if format_ is Format.CSV and show is What.ALL:
        raise UsageError("--format csv writes one kind of table. Name it with --show places, pairs or means.")
    tables, remarks = tables_of(results_folder(results_dir), _chosen(task, protocol, model))
    means = overall(tables) if show in (What.MEANS, What.ALL) else []
    if format_ is Format.CSV:
        rows = {What.PLACES: sheets.places_rows, What.PAIRS: sheets.pairs_rows}
        typer.echo(comma_separated(*(sheets.means_rows(means) if show is What.MEANS else rows[show](tables))), nl=False)
    else:
        made = sheets.places(tables) if show in (What.PLACES, What.ALL) else []
        made += sheets.pairs(tables) if show is What.PAIRS else []
        print_sheets(made + sheets.means(means), format_)
    console.print_remarks(remarks)
    if show is What.MEANS and not means:
        console.print_remarks(["no two models of one class have two tasks, so there are no means."])
    console.print_remarks([HOW_TO_READ, *([HOW_TO_READ_MEANS] if means else [])])


def _chosen(tasks: list[str] | None, protocols: list[str] | None, models: list[str] | None) -> Chosen:
    from aape_bench.standings.tables import Chosen

    return Chosen(*(_names(texts or []) for texts in (tasks, protocols, models)))


def _names(texts: Sequence[str]) -> list[str]:
    """Names, split at commas outside brackets: those within are of a label."""
    return [name.strip() for text in texts for name in re.split(r",(?![^\[]*\])", text)]


def print_sheets(made: Sequence[Sheet], format_: Format) -> None:
    """Tables as they are asked for: to read here, or as Markdown or LaTeX."""
    from aape_bench.standings.texts import latex, markdown

    for number, sheet in enumerate(made):
        if number:
            typer.echo()
        if format_ is not Format.TABLE:
            typer.echo((latex if format_ is Format.LATEX else markdown)(sheet), nl=False)
            continue
        typer.echo(sheet.title)
        for block in sheet.blocks:
            console.print_table(sheet.heads, [[cell.text for cell in row] for row in block.rows])
        for note in sheet.notes:
            typer.echo(f"  {note}")


def leaderboard(
    results_dir: ResultsDir = None,
    published: Published = False,
    task: Tasks = None,
    protocol: Protocols = None,
    model: Models = None,
    format_: FormatOption = Format.TABLE,
    intervals: Annotated[
        bool, typer.Option("--intervals/--no-intervals", help="With the 95 % intervals (markdown, latex).")
    ] = True,
) -> None:
    """Print the leaderboard and write leaderboard.csv and leaderboard_wide.csv.

    Of some rows, or as CSV, Markdown or LaTeX, it is printed only. In the last two it is a table per protocol; scores
    that none is distinguishably better than are bold.
    """
    folder = results_folder(results_dir)
    if format_ is Format.TABLE and not (task or protocol or model):
        show_board(folder, None, published)
        return
    from aape_bench.leaderboard import leaderboard as board_of
    from aape_bench.leaderboard import with_published
    from aape_bench.standings.paper import sheets, standing_columns
    from aape_bench.standings.tables import tables_of

    chosen = _chosen(task, protocol, model)
    tables, remarks = tables_of(folder, chosen)
    board, found = board_of(folder)
    for column, names in (("task", chosen.tasks), ("protocol", chosen.protocols), ("model", chosen.models)):
        board = board[board[column].isin(list(names))] if names else board
    board = with_published(board) if published else board
    if format_ is Format.TABLE:
        console.print_board(board)
    elif format_ is Format.CSV:
        typer.echo(standing_columns(board, tables).to_csv(index=False, lineterminator="\n"), nl=False)
    else:
        print_sheets(sheets(board, tables, intervals), format_)
    console.print_remarks(list(dict.fromkeys([*remarks, *found])))
