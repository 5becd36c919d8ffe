"""The command line: parse, call, print. What is heavy is imported by the command that needs it."""

from __future__ import annotations

import contextlib
import errno
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Optional

import typer

import aape_bench
from aape_bench import (
    cli_ablate,
    cli_data,
    cli_export,
    cli_records,
    cli_report,
    cli_results,
    cli_stability,
    cli_standings,
    cli_validate,
    console,
    process,
)
from aape_bench.cli_commands import Commands
from aape_bench.cli_options import (
    Address,
    Assignments,
    AutoBatchSize,
    CacheDir,
    DataDir,
    Device,
    ExecutorText,
    Models,
    Precision,
    SkipBroken,
    Tasks,
    Weights,
    complete_models,
    complete_tasks,
    continued,
)
from aape_bench.cli_results import ResultsDir, results_folder, show_board
from aape_bench.errors import BenchError, Several, UsageError, raise_all
from aape_bench.fitting.fabric import rank
from aape_bench.training import Interrupted

if TYPE_CHECKING:
    from aape_bench.planning import Job, Options
    from aape_bench.task import Task

app = typer.Typer(
    name="aape-bench",
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Evaluate audio encoders: right splits, intervals, one record per result.\n\n"
    "[bold]aape-bench run --model aape,vit,logmel --task tremolo[/bold] needs no data and takes a few minutes.",
)

app.command(name="leaderboard", epilog=cli_standings.LEADERBOARD_EXAMPLES)(cli_standings.leaderboard)
app.command(name="rank", epilog=cli_standings.EXAMPLES)(cli_standings.rank)
app.command(name="plot", epilog="Example:\n\n  aape-bench plot --published")(cli_results.plot)
app.command(name="report", epilog=cli_report.EXAMPLES)(cli_report.report)
app.command(name="show", epilog=cli_results.SHOW_EXAMPLES)(cli_results.show)
app.command(name="compare", epilog=cli_results.COMPARE_EXAMPLES)(cli_results.compare)
app.command(name="stability", epilog=cli_stability.EXAMPLES)(cli_stability.stability)
app.command(name="validate", epilog=cli_validate.EXAMPLES)(cli_validate.validate)
app.command(name="ablate", epilog=cli_ablate.EXAMPLES)(cli_ablate.ablate)
app.command(name="export", epilog=cli_export.EXAMPLES)(cli_export.export)
app.add_typer(cli_data.app, name="data")
app.add_typer(cli_records.app, name="records")


def _complete_protocols(incomplete: str) -> list[str]:
    from aape_bench.protocols import PROTOCOLS

    return continued(incomplete, list(PROTOCOLS))


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
    "  aape-bench run --model aape --weights random --set window=gaussian --task all --seed 0,1,2\n\n"
    "  aape-bench run --model 'aape,aape{preset=small;weights=random},vit' --task esc50 --dry-run\n\n"
    "  aape-bench run --model hear:hearbaseline.vggish --weights vggish.pt --task esc50\n\n"
    "  aape-bench run --model 'hf:facebook/wav2vec2-base{layer=9}' --task esc50\n\n"
    "  aape-bench run --model logmel --task hear:tasks/dcase2016_task2-hear2021-full --protocol hear,knn"
)
def run(
    model: Models,
    task: Tasks,
    protocol: Annotated[
        list[str],
        typer.Option(
            "--protocol", "-p", autocompletion=_complete_protocols, help="How embeddings are judged; repeat, or commas."
        ),
    ] = ["linear"],  # noqa: B006
    set_: Assignments = None,
    protocol_set: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--protocol-set", help="key=value, for every protocol named; repeat.", show_default=False),
    ] = None,
    as_published: Annotated[
        bool,
        typer.Option("--as-published", help="Protocols hear, finetune: as published figures were made, faults too."),
    ] = False,
    weights: Weights = "default",
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Hub models: run Python code that comes with the weights.")
    ] = False,
    seed: Annotated[str, typer.Option("--seed", help="A whole number, or several at commas: one result each.")] = "0",
    data_dir: DataDir = None,
    cache_dir: CacheDir = None,
    results_dir: ResultsDir = None,
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Evaluate on the clips that are there; the result is marked.")
    ] = False,
    skip_broken: SkipBroken = False,
    updates: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--updates", help="Protocol finetune: updates a fold.", show_default=False),
    ] = None,
    budget: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option("--budget", help="Protocol finetune: minutes a fold, as updates by timing.", show_default=False),
    ] = None,
    executor: ExecutorText = "local",
    address: Address = None,
    device: Device = "auto",
    devices: Annotated[
        int, typer.Option("--devices", min=1, help="Protocol finetune: processes a training, a GPU each.")
    ] = 1,
    precision: Precision = "float32",
    batch_size: AutoBatchSize = "auto",
    references: Annotated[
        bool,
        typer.Option("--references/--no-references", help="Run the reference encoders that a task asks for, too."),
    ] = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be done (and time a few updates of finetune).")
    ] = False,
) -> None:
    """Evaluate models on tasks; what is there already is not computed again."""
    from aape_bench import environment, planning, runner, selection
    from aape_bench.executor import parse_executor
    from aape_bench.fitting.together import follow, together
    from aape_bench.settings import split_assignments

    process.wait_briefly()
    workers = parse_executor(executor, address)
    team = together(devices, device)
    if team is not None and workers.spreads:
        raise UsageError(f"--devices and --executor {executor} both use the processors. Leave one of them out.")
    if team is not None and rank() > 0:
        from aape_bench.apart import do

        raise typer.Exit(0 if dry_run else follow(do, team))
    options = planning.Options(
        # absolute: a foreign module may change the working directory
        data_dir=(data_dir or environment.default_folder("data")).absolute(),
        cache_dir=(cache_dir or environment.default_folder("cache")).absolute(),
        results_dir=(results_dir or environment.default_folder("results")).absolute(),
        allow_partial=allow_partial,
        skip_broken=skip_broken,
        device=environment.resolve_device(device),
        batch_size=environment.resolve_batch_size(batch_size),
        precision=environment.resolve_precision(precision),
        references=references,
    )
    given = split_assignments(";".join(set_ or []))
    models = selection.select_models(model, given, weights, _seeds(seed), trust_remote_code)
    tasks = selection.select_tasks(task)
    settings = split_assignments(";".join(protocol_set or []))
    if as_published:
        settings["as_published"] = "true"
    training = {name: str(value) for name, value in (("updates", updates), ("budget", budget)) if value is not None}
    chosen = planning.choose_protocols(selection.split_names(protocol), settings, training)
    jobs, failures = planning.plan(models, tasks, chosen, options)
    console.print_notices(jobs)
    if dry_run:
        console.print_plan(jobs)
        raise_all([*failures, *_print_forecasts(jobs, options)])
        return
    if team is not None:
        team.begin()
    asked = {(job.model.label, job.data.task.name, job.protocol.label) for job in jobs}
    try:
        finished = runner.run(jobs, options, console.RichProgress(), team or workers)
    except BenchError:
        # what was finished before the failure counts; a second failure may not hide the first
        with contextlib.suppress(BenchError):
            show_board(results_folder(options.results_dir), asked, quiet=True)
        raise
    if team is not None:
        team.end()
    if (options.results_dir / "records").is_dir():
        show_board(options.results_dir, asked)
    there = len(finished.paths) - finished.computed
    typer.echo(f"{_count(finished.computed, 'result')} computed, {there} already there.")
    raise_all([*failures, *finished.failures])


def _print_forecasts(jobs: Sequence[Job], options: Options) -> list[BenchError]:
    """What each training would be and take; those on files that are not read yet cannot be timed. Failures."""
    from aape_bench.finetune.forecast import facts, forecast
    from aape_bench.tuned import work_of

    progress, failures = console.RichProgress(), []
    for job in jobs:
        if job.protocol.trains_encoder and job.action == "train":
            try:
                found = forecast(work_of(job, options, progress)[0], progress)
            except BenchError as error:
                failures.append(error)
                continue
            time = f"about {console.duration(found.fold_seconds)} a fold"
            if found.folds > 1:
                time += f", {console.duration(found.folds * found.fold_seconds)} one after the other"
            console.print_facts(f"{job.name}, {job.protocol.label}", **facts(found), time=time)
    return failures


@app.command(name="models", epilog="Examples:\n\n  aape-bench models\n\n  aape-bench models aape")
def list_models(
    name: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(autocompletion=complete_models, help="Say all about this one.", show_default=False),
    ] = None,
) -> None:
    """List the encoders that are installed, or the settings of one."""
    from aape_bench import registry
    from aape_bench.selection import weights_of
    from aape_bench.settings import describe

    if name is not None:
        plugin = registry.model(name)
        facts = {"licence": plugin.licence, "citation": plugin.citation, "homepage": plugin.homepage}
        console.print_facts(plugin.title, **facts, weights=weights_of(plugin))
        console.print_table(("setting (--set)", "default", "values"), describe(plugin.config))
        return
    plugins, broken = registry.every_model()
    absent = [p for p in plugins if p.package is not None and not p.package.usable]
    rows = [(p.name, p.title + (" (not installed)" if p in absent else ""), f"{p.sample_rate} Hz") for p in plugins]
    console.print_table(("model", "what it is", "rate"), rows)
    console.print_broken(broken)
    typer.echo(
        "Settings of one: aape-bench models NAME. Any HEAR module runs too: --model hear:package.module; and a "
        "function that makes an encoder: --model my_file.py:function"
    )


@app.command(name="tasks", epilog="Examples:\n\n  aape-bench tasks\n\n  aape-bench tasks esc50")
def list_tasks(
    name: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(autocompletion=complete_tasks, help="Say all about this one.", show_default=False),
    ] = None,
) -> None:
    """List the tasks that are installed, or say all about one."""
    from aape_bench import registry
    from aape_bench.task import PARTS
    from aape_bench.task_data import folders

    if name is not None:
        task = registry.task(name)
        console.print_facts(
            task.title,
            domain=task.domain,
            size=f"{task.clips} clips of {_seconds(task)}, {task.classes} classes, in {task.split_scheme}",
            parts=", ".join(f"{part} {n}" for part, n in zip(PARTS, task.part_clips or (), strict=False)),
            metric=f"{task.metric} ({task.kind})",
            data="generated" if task.generator else f"--data-dir DIR, in DIR/{' or DIR/'.join(folders(task))}",
            get=task.by_hand,
            licence=task.licence,
            citation=task.citation,
            homepage=task.homepage,
        )
        return
    tasks, broken = registry.every_task()
    rows = [
        (t.name, t.title, t.domain, str(t.clips), str(t.classes), _seconds(t), t.metric,
         "generated" if t.generator else f"--data-dir DIR, in DIR/{folders(t)[0]}")
        for t in tasks
    ]  # fmt: skip
    console.print_table(("task", "what it is", "domain", "clips", "classes", "length", "metric", "data"), rows)
    console.print_broken(broken)


@app.command(epilog="Examples:\n\n  aape-bench protocols\n\n  aape-bench protocols evar")
def protocols(
    name: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(autocompletion=_complete_protocols, help="Say all about this one.", show_default=False),
    ] = None,
) -> None:
    """List the ways in which embeddings are judged, or the settings of one."""
    import inspect

    from aape_bench.protocols import PROTOCOLS, protocol
    from aape_bench.settings import describe

    if name is not None:
        module = protocol(name)
        typer.echo(inspect.cleandoc(module.__doc__ or ""))
        typer.echo()
        console.print_table(("setting (--protocol-set)", "default", "values"), describe(module.Settings))
        return
    rows = [(one, (protocol(one).__doc__ or "").strip().splitlines()[0].partition(": ")[2]) for one in PROTOCOLS]
    console.print_table(("protocol", "what it does"), rows)
    typer.echo("Settings of one: aape-bench protocols NAME.")


def _seconds(task: Task) -> str:
    return "any length" if task.clip_seconds is None else f"{task.clip_seconds:g} s"


def main() -> None:
    """Entry point of the command `aape-bench`."""
    process.keep_freed_memory()
    for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, and jobs in the background, stay as they were
            signal.signal(number, _stop)
    try:
        app()
    except Several as error:
        _fail([str(one) for one in error.failures])
    except BenchError as error:
        _fail([str(error)])
    except OSError as error:
        if error.filename is None and error.errno not in (errno.ENOSPC, errno.EIO):
            raise
        where = error.filename or "The output"
        _fail([f"{where} cannot be used: {error.strerror}. Check the path and its permissions."])
    except (_Stopped, Interrupted) as stopped:
        typer.echo("aape-bench: stopped. The same command goes on from here.", err=True)
        sys.exit(128 + stopped.number)


class _Stopped(BaseException):
    """A signal asked for the end; no Exception, so that nobody on the way out takes it for a failure."""

    def __init__(self, number: int) -> None:
        self.number = number


def _stop(number: int, _: object) -> None:
    raise _Stopped(number)


def _fail(paragraphs: Sequence[str]) -> None:
    """Each failure as one paragraph, whatever line breaks came with it, and exit 2."""
    for paragraph in paragraphs:
        # what a file says may hold codes that move a terminal
        line = "".join(one for one in " ".join(paragraph.split()) if one.isprintable())
        typer.echo(f"aape-bench: {line[:2000]}", err=True)
    sys.exit(2)


def _seeds(text: str) -> list[int]:
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f'--seed takes whole numbers separated by commas, not "{text}".') from None
    if any(seed < 0 for seed in seeds):
        raise UsageError(f"--seed takes whole numbers from 0, not {min(seeds)}.")
    return list(dict.fromkeys(seeds))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
