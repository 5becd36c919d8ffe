"""The commands `records merge`, `records verify` and `records export`: results of several people."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from aape_bench import console
from aape_bench.cli_results import ResultsDir, results_folder
from aape_bench.errors import UsageError, raise_all

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Records of several people: merge them, check that they follow from their predictions, export them.",
)


@app.command(epilog="Examples:\n\n  aape-bench records verify results\n\n  aape-bench records verify theirs ours")
def verify(
    folder: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Results folders.", show_default=False)],
) -> None:
    """Check every record: form, seal, key, files and hashes; its scores are computed again from its predictions.

    A line for each problem; the exit status is 1 where there is one. A seal catches damage and edits by hand; it is no
    signature.
    """
    from aape_bench.exchange.files import record_files
    from aape_bench.exchange.verify import verify as verify_folder

    for one in folder:
        record_files(one)
    sound = wrong = 0
    for one in folder:
        for finding in verify_folder(one):
            for problem in finding.problems:
                typer.echo(_line(f"{one / finding.path}: {problem}"))
            console.print_remarks([_line(f"{one / finding.path}: {remark}.") for remark in finding.remarks])
            if finding.path.startswith("records/"):
                sound, wrong = sound + (not finding.problems), wrong + bool(finding.problems)
    typer.echo(f"{sound} of {sound + wrong} records are sound.")
    if wrong:
        raise typer.Exit(1)


@app.command(epilog="Example:\n\n  aape-bench records merge mine theirs --out both")
def merge(
    folder: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Results folders.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="The folder to write to; what it has stays.", show_default=False)],
    keep_earlier: Annotated[
        bool, typer.Option("--keep-earlier", help="Where results of one key differ, take the earlier.")
    ] = False,
) -> None:
    """Join results folders: every record once, with its predictions.

    A result that two folders have is taken once. Records that are damaged are named and left out.
    """
    from aape_bench.exchange.merge import merge as merge_folders

    done = merge_folders(folder, out, keep_earlier)
    console.print_remarks(list(map(_line, done.remarks)))
    typer.echo(
        f"{done.written} records written to {out}, {done.there} there already; {done.twice} stood in several folders."
    )
    raise_all(done.failures)


@app.command(
    epilog="Examples:\n\n  aape-bench records export --csv results.csv\n\n"
    "  aape-bench records export --parquet results.parquet --results-dir both"
)
def export(
    csv: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--csv", help="Write this CSV file.", show_default=False),
    ] = None,
    parquet: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--parquet", help="Write this Parquet file (needs pyarrow).", show_default=False),
    ] = None,
    results_dir: ResultsDir = None,
) -> None:
    """Write all records as one flat table, a row each."""
    from aape_bench.exchange.export import table, write_csv, write_parquet
    from aape_bench.records import read_all

    if csv is None and parquet is None:
        raise UsageError("Say where to: --csv FILE, --parquet FILE, or both.")
    found, unreadable = read_all(results_folder(results_dir))
    frame = table(found)
    if parquet is not None:
        write_parquet(parquet, frame)
    if csv is not None:
        write_csv(csv, frame)
    console.print_remarks(unreadable)
    typer.echo(f"Wrote {len(frame)} records to {' and '.join(str(path) for path in (parquet, csv) if path)}.")


def _line(text: str) -> str:
    """On one line, without what only controls a terminal: file names and labels are other people's."""
    return " ".join("".join(mark if mark.isprintable() else " " for mark in text).split())
