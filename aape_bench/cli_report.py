"""The command that makes a site of results: report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from aape_bench import console
from aape_bench.cli_results import ResultsDir, results_folder

EXAMPLES = (
    "Examples:\n\n  aape-bench report --out site\n\n  aape-bench report --out site --data-dir data --no-published"
)


def report(
    out: Annotated[Path, typer.Option("--out", help="Folder for the site: a new one, or one of an earlier report.")],
    results_dir: ResultsDir = None,
    published: Annotated[
        bool, typer.Option("--published/--no-published", help="With numbers published by others, marked as such.")
    ] = True,
    clips: Annotated[
        bool,
        typer.Option(
            "--clips/--no-clips", help="With sound and picture of the hardest clips, where the data are here."
        ),
    ] = True,
    data_dir: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--data-dir", help="Where the data sets are.", show_default=False),
    ] = None,
    cache_dir: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--cache-dir", help="Where what is known of their files is kept.", show_default=False),
    ] = None,
) -> None:
    """Make a static site of all results: it opens from disk and needs no network."""
    from aape_bench import environment
    from aape_bench.report.site import Audio, build

    audio = None
    if clips:
        audio = Audio(
            (data_dir or environment.default_folder("data")).absolute(),
            (cache_dir or environment.default_folder("cache")).absolute(),
        )
    elif data_dir is not None:
        typer.echo("--data-dir is of no use with --no-clips.", err=True)
    first = build(results_folder(results_dir), out, console.RichProgress(), published, audio)
    typer.echo(f"Wrote {first}. Open it in a browser.")
