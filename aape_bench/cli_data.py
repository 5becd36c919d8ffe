"""The commands `data status`, `data fetch` and `data prepare`: data sets on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from aape_bench import console
from aape_bench.cli_options import DataDir, complete_tasks
from aape_bench.errors import BenchError, UsageError, raise_all

if TYPE_CHECKING:
    from aape_bench.inventory import Holding
    from aape_bench.task import Task

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Data sets: what is there, getting them, decoding them once.",
)


Names = Annotated[
    list[str], typer.Argument(metavar="TASK...", autocompletion=complete_tasks, help="Names of tasks, or 'all'.")
]


@app.command(epilog="Examples:\n\n  aape-bench data status\n\n  aape-bench data status esc50 us8k --data-dir ~/data")
def status(
    task: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(metavar="[TASK...]", autocompletion=complete_tasks, help="Of these tasks (default: all)."),
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Show what of each task's data is there, how much, and how to get the rest."""
    from aape_bench import inventory

    folder = _folder(data_dir)
    typer.echo(f"Data directory: {folder}")
    held = inventory.survey_all(_tasks(task or ["all"]), folder, console.RichProgress())
    heads = ("task", "folder", "clips", "classes", "size", "state", "how to get it")
    console.print_table(heads, [_row(one) for one in held])


@app.command(
    epilog="Examples:\n\n  aape-bench data fetch esc50\n\n  aape-bench data fetch us8k spcv2 --data-dir ~/data"
)
def fetch(
    task: Names,
    data_dir: DataDir = None,
    keep_archives: Annotated[
        bool, typer.Option("--keep-archives", help="Leave the downloaded files in DATA_DIR/.downloads.")
    ] = False,
) -> None:
    """Download and unpack data sets; where a person must act, say what to get and where to put it.

    Stopped at any moment, the same command goes on.
    """
    from aape_bench import fetching

    folder, progress = _folder(data_dir), console.RichProgress()
    _each(task, lambda one: typer.echo(fetching.fetch(one, folder, progress, keep_archives)))


@app.command(
    epilog="Examples:\n\n  aape-bench data prepare us8k --rate 16000\n\n"
    "  aape-bench data prepare gtzan --rate 16000 --rate 32000 --data-dir ~/data\n\n"
    "  aape-bench run --model aape --task us8k --data-dir ~/data@16000"
)
def prepare(
    task: Names,
    rate: Annotated[list[int], typer.Option("--rate", min=1, help="Of the encoders, in Hz; repeat.")],
    form: Annotated[
        str, typer.Option("--format", help="auto (FLAC where the files are FLAC, else WAV), wav or flac.")
    ] = "auto",
    data_dir: DataDir = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--out", help="Data directory of the copy, for one rate (default: DATA_DIR@RATE)."),
    ] = None,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Copy files that cannot be decoded unchanged.")
    ] = False,
) -> None:
    """Decode data sets once, to mono 16-bit files of a rate, as another data directory for run --data-dir.

    It pays for compressed audio and for audio of another rate than the encoder's. Samples equal those of the
    original to half a step of 16 bits; the data fingerprint is another.
    """
    from aape_bench import preparing

    if out is not None and len(set(rate)) > 1:
        raise UsageError("--out holds the copy of one --rate. Leave it out to get a folder for each, DATA_DIR@RATE.")
    folder, progress = _folder(data_dir), console.RichProgress()

    def one(task: Task) -> None:
        for hertz in dict.fromkeys(rate):
            place = out.absolute() if out else folder.with_name(f"{folder.name}@{hertz}")
            copy = preparing.prepare(task, folder, place, hertz, form, skip_broken, progress)
            typer.echo(" ".join(preparing.sentences(task, copy)))
            typer.echo(f"Use it with: --data-dir {place}")

    _each(task, one)


def _folder(data_dir: Path | None) -> Path:
    from aape_bench import environment

    return (data_dir or environment.default_folder("data")).absolute()


def _tasks(names: Sequence[str]) -> list[Task]:
    from aape_bench import registry

    if "all" in names:
        tasks, broken = registry.every_task()
        console.print_broken(broken)
        return tasks
    return [registry.task(name) for name in dict.fromkeys(part for name in names for part in name.split(",") if part)]


def _each(names: Sequence[str], do: Callable[[Task], None]) -> None:
    """Do it for every task; a failure does not stop the others."""
    failures: list[BenchError] = []
    for task in _tasks(names):
        try:
            do(task)
        except BenchError as error:
            failures.append(error)
    raise_all(failures)


def _row(held: Holding) -> tuple[str, ...]:
    from aape_bench.inventory import how_to_get
    from aape_bench.task_data import folders
    from aape_bench.units import human_bytes

    task, found = held.task, held.state in ("complete", "partial")
    why = held.reason.removeprefix(f"{held.clips} of {task.clips}").removeprefix("; ")
    return (
        task.name,
        "generated" if held.state == "generated" else (held.folder.name if held.folder else folders(task)[0]),
        f"{held.clips} of {task.clips}" if held.state != "generated" else str(task.clips),
        f"{held.classes} of {task.classes}" if held.state != "generated" else str(task.classes),
        human_bytes(held.size) if found else "",
        f"{held.state}: {why}" if why else held.state,
        how_to_get(held),
    )
