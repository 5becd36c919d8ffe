"""The command line: parse, call, print. What is heavy is imported by the command that needs it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

import aape_bench
from aape_bench.errors import BenchError, UsageError

if TYPE_CHECKING:
    import pandas as pd

    from aape_bench.runner import Job

app = typer.Typer(
    name="aape-bench",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Evaluate audio encoders: right splits, intervals, one record per result.\n\n"
    "[bold]aape-bench run --model aape,vit,logmel --task tremolo[/bold] needs no data and takes a minute or two.",
)

ResultsDir = Annotated[
    Optional[Path],  # noqa: UP045  (Typer on Python 3.11 reads Optional)
    typer.Option("--results-dir", help="Where records are (default: ./results).", show_default=False),
]
Published = Annotated[bool, typer.Option("--published", help="Add numbers published by others, marked as such.")]


def _version(value: bool) -> None:
    if value:
        typer.echo(f"aape-bench {aape_bench.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


@app.command(
    epilog="Examples:\n\n"
    "  aape-bench run --model logmel --task tremolo\n\n"
    "  aape-bench run --model aape,vit,logmel --task esc50 --data-dir ~/data --allow-partial\n\n"
    "  aape-bench run --model aape --set window=gaussian --task all --seed 0,1,2\n\n"
    "  aape-bench run --model 'aape{window=gaussian;preset=small},vit' --task esc50 --dry-run\n\n"
    "  aape-bench run --model hear:hearbaseline.vggish --weights vggish.pt --task esc50"
)
def run(
    model: Annotated[
        list[str],
        typer.Option("--model", "-m", help="NAME, NAME{key=value;...}, hear:MODULE, glob or 'all'; repeat, or commas."),
    ],
    task: Annotated[list[str], typer.Option("--task", "-t", help="NAME, glob or 'all'; repeat, or commas.")],
    protocol: Annotated[list[str], typer.Option("--protocol", "-p", help="How embeddings are judged.")] = ["linear"],  # noqa: B006
    set_: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--set", help="key=value, for every model named; repeat.", show_default=False),
    ] = None,
    protocol_set: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--protocol-set", help="key=value, for every protocol named; repeat.", show_default=False),
    ] = None,
    weights: Annotated[
        str, typer.Option("--weights", help="A checkpoint FILE, 'random' (drawn from --seed) or 'default'.")
    ] = "default",
    seed: Annotated[str, typer.Option("--seed", help="A whole number, or several at commas: one result each.")] = "0",
    data_dir: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--data-dir", help="Folder that holds the data sets' folders.", show_default=False),
    ] = None,
    cache_dir: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--cache-dir", help="Where embeddings are kept.", show_default=False),
    ] = None,
    results_dir: ResultsDir = None,
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Evaluate on the clips that are there; the result is marked.")
    ] = False,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Leave out clips that cannot be decoded; they are recorded.")
    ] = False,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Clips given to the encoder at once.")] = 32,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and do nothing.")] = False,
) -> None:
    """Evaluate models on tasks; what is there already is not computed again."""
    from aape_bench import environment, runner, selection
    from aape_bench.leaderboard import leaderboard, write_leaderboard
    from aape_bench.progress import RichProgress
    from aape_bench.settings import split_assignments

    models = selection.select_models(model, split_assignments(";".join(set_ or [])), weights, _seeds(seed))
    tasks = selection.select_tasks(task)
    protocols = runner.choose_protocols(
        selection.split_names(protocol), split_assignments(";".join(protocol_set or []))
    )
    options = runner.Options(
        data_dir=data_dir or environment.default_folder("data"),
        cache_dir=cache_dir or environment.default_folder("cache"),
        results_dir=results_dir or environment.default_folder("results"),
        allow_partial=allow_partial,
        skip_broken=skip_broken,
        device=environment.resolve_device(device),
        batch_size=batch_size,
    )
    jobs = runner.plan(models, tasks, protocols, options)
    _print_notices(jobs)
    if dry_run:
        _print_plan(jobs)
        return
    try:
        report = runner.run(jobs, options, RichProgress())
    finally:
        # what was finished before a failure counts
        if (options.results_dir / "records").is_dir():
            board = leaderboard(options.results_dir)
            files = write_leaderboard(options.results_dir, board)
    wanted = {path.relative_to(options.results_dir).as_posix() for path in report.paths}
    asked = {(job.model.label, job.data.task.name, job.protocol.label) for job in jobs}
    cells = zip(board["record"], board["model"], board["task"], board["protocol"], strict=True)
    shown = board[[record in wanted or tuple(cell) in asked for record, *cell in cells]]
    _print_board(shown)
    there = len(report.paths) - report.computed
    typer.echo(f"{_count(report.computed, 'result')} computed, {there} already there. Wrote {files[0]} and {files[1]}.")


@app.command(name="models", epilog="Example:\n\n  aape-bench models")
def list_models() -> None:
    """List the encoders that are installed."""
    from aape_bench import registry

    plugins, broken = registry.every_model()
    rows = [(p.name, p.title, f"{p.sample_rate} Hz", _setting_names(p.config)) for p in plugins]
    _print_table(("model", "what it is", "rate", "settings (--set)"), rows)
    _print_broken(broken)
    typer.echo("Any HEAR module too: --model hear:package.module")


@app.command(name="tasks", epilog="Example:\n\n  aape-bench tasks")
def list_tasks() -> None:
    """List the tasks that are installed."""
    from aape_bench import registry

    tasks, broken = registry.every_task()
    rows = [
        (t.name, t.title, t.domain, str(t.clips), str(t.classes), f"{t.clip_seconds:g} s", t.metric,
         "generated" if t.generator else f"--data-dir DIR, in DIR/{t.folders[0]}")
        for t in tasks
    ]  # fmt: skip
    _print_table(("task", "what it is", "domain", "clips", "classes", "length", "metric", "data"), rows)
    _print_broken(broken)


@app.command(name="leaderboard", epilog="Example:\n\n  aape-bench leaderboard --published")
def show_leaderboard(results_dir: ResultsDir = None, published: Published = False) -> None:
    """Print the leaderboard and write leaderboard.csv and leaderboard_wide.csv."""
    from aape_bench.leaderboard import with_published, write_leaderboard

    folder, board = _board(results_dir)
    files = write_leaderboard(folder, with_published(board) if published else board)
    _print_board(with_published(board) if published else board)
    typer.echo(f"Wrote {files[0]} and {files[1]}.")


@app.command(epilog="Example:\n\n  aape-bench plot --published")
def plot(
    results_dir: ResultsDir = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--out", help="Folder for the plots (default: plots/ in the results).", show_default=False),
    ] = None,
    published: Published = False,
) -> None:
    """Draw the scores with their intervals, one figure per task, as PNG and SVG."""
    from aape_bench.published import published as published_numbers
    from aape_bench.report.plots import plot_scores

    folder, board = _board(results_dir)
    tasks = sorted(set(board["task"]))
    for path in plot_scores(board, out or folder / "plots", published_numbers(tasks) if published else None):
        typer.echo(f"Wrote {path}")


def main() -> None:
    """Entry point of the command `aape-bench`."""
    try:
        app()
    except BenchError as error:
        typer.echo(f"aape-bench: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("aape-bench: stopped. The same command goes on from here.", err=True)
        sys.exit(130)


def _seeds(text: str) -> list[int]:
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f'--seed takes whole numbers separated by commas, not "{text}".') from None
    if any(seed < 0 for seed in seeds):
        raise UsageError(f"--seed takes whole numbers from 0, not {min(seeds)}.")
    return list(dict.fromkeys(seeds))


def _board(results_dir: Path | None) -> tuple[Path, pd.DataFrame]:
    from aape_bench import environment
    from aape_bench.leaderboard import leaderboard

    folder = results_dir or environment.default_folder("results")
    if not (folder / "records").is_dir():
        raise UsageError(
            f"There are no results in {folder}. Make some with aape-bench run, or name their folder with --results-dir."
        )
    return folder, leaderboard(folder)


def _print_notices(jobs: Sequence[Job]) -> None:
    """What a reader must know before she believes a number."""
    if random := sorted({job.model.label for job in jobs if job.model.weights == "random"}):
        typer.echo(f"Note: {', '.join(random)} has no trained weights here and runs with seeded random ones "
                   "(weights: random).", err=True)  # fmt: skip
    for data in {job.data.task.name: job.data for job in jobs}.values():
        if len(data.table) != data.task.clips:
            typer.echo(f"Note: {data.task.name} is partial: {len(data.table)} of {data.task.clips} clips.", err=True)


def _print_plan(jobs: Sequence[Job]) -> None:
    what = {
        "done": "nothing, the result is there",
        "fit": "fit, embeddings are cached",
        "embed": "embed and fit",
        "read files": "read new files first; then only what is missing",
    }
    rows = [
        (job.model.label, str(job.model.seed), job.data.task.name, str(len(job.data.table)), job.protocol.label,
         what[job.action])
        for job in jobs
    ]  # fmt: skip
    _print_table(("model", "seed", "task", "clips", "protocol", "to do"), rows)


def _print_board(board: pd.DataFrame) -> None:
    shown = board.astype(object).where(board.notna(), None)
    rows = [
        (
            _text(row["rank"]), row["model"], row["task"], row["protocol"], row["metric"], f"{row['score']:.3f}",
            "undefined" if row["ci_low"] is None else f"{row['ci_low']:.3f} - {row['ci_high']:.3f}",
            *(_text(row[column]) for column in ("n_test", "partial", "weights", "pretrain_overlap", "seeds")),
        )
        for row in shown.to_dict("records")
    ]  # fmt: skip
    heads = ("rank", "model", "task", "protocol", "metric", "score", "95 % interval", "test clips", "partial",
             "weights", "overlap", "seeds")  # fmt: skip
    _print_table(heads, rows)


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 220  # a file or pipe has no width to fit into
    table = Table(box=None, header_style="bold", pad_edge=False)
    for head in heads:
        table.add_column(head, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)


def _print_broken(broken: Sequence[object]) -> None:
    for plugin in broken:
        typer.echo(f"Skipped: {getattr(plugin, 'reason', plugin)}", err=True)


def _setting_names(config: type) -> str:
    import dataclasses

    return " ".join(field.name for field in dataclasses.fields(config)) or "none"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
