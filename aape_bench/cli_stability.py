"""The command `stability`: how far embeddings and predictions move when the sound hardly does."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from aape_bench import console
from aape_bench.cli_options import Assignments, BatchSize, CacheDir, DataDir, Device, Models, SkipBroken, Tasks, Weights
from aape_bench.cli_results import ResultsDir
from aape_bench.errors import BenchError, StorageError, UsageError, raise_all

if TYPE_CHECKING:
    from aape_bench.stability import StabilityResult
    from aape_bench.stability.statistics import Curve

EXAMPLES = (
    "Examples:\n\n  aape-bench stability --model aape,vit,logmel --task tremolo --clips 60\n\n"
    "  aape-bench stability --model aape --weights aape.pt --task esc50 --data-dir ~/data --shifts 20:160:20"
)
#: Quantity -> its heading in the terminal.
COLUMNS = {"scene": "scene", "tokens": "tokens", "aligned": "tokens, aligned", "flips": "flips", "accuracy": "accuracy"}
SHIFTS_SHOWN = 5  # of all that were measured; the CSV and the picture have every one


def stability(
    model: Models,
    task: Tasks,
    set_: Assignments = None,
    weights: Weights = "default",
    clips: Annotated[int, typer.Option("--clips", min=2, help="Test clips: a seeded, stratified part of all.")] = 200,
    train_clips: Annotated[
        int, typer.Option("--train-clips", min=2, help="Training and validation clips of the probe, likewise.")
    ] = 2000,
    shifts: Annotated[str, typer.Option("--shifts", help="ms: a list at commas, or FIRST:LAST:STEP.")] = "10:160:10",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of clips, jitter, random weights and bootstrap.")] = 0,
    data_dir: DataDir = None,
    cache_dir: CacheDir = None,
    results_dir: ResultsDir = None,
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Measure on the clips that are there; the result is marked.")
    ] = False,
    skip_broken: SkipBroken = False,
    device: Device = "auto",
    batch_size: BatchSize = 32,
) -> None:
    """Compare clips with themselves shifted, stretched and jittered; what is there already is not computed again.

    Distances of scene embeddings and tokens are relative to those between different clips; flips are test clips to
    which the linear probe, trained on undisturbed clips, gives another class. Two pictures show all models named.
    """
    from aape_bench import environment, planning, selection
    from aape_bench.report.stability import plot_stability
    from aape_bench.settings import split_assignments
    from aape_bench.stability import Settings
    from aape_bench.stability.experiment import ensure
    from aape_bench.storage import safe_name
    from aape_bench.task_data import load_task

    options = planning.Options(
        # absolute: a foreign module may change the working directory
        data_dir=(data_dir or environment.default_folder("data")).absolute(),
        cache_dir=(cache_dir or environment.default_folder("cache")).absolute(),
        results_dir=(results_dir or environment.default_folder("results")).absolute(),
        allow_partial=allow_partial,
        skip_broken=skip_broken,
        device=environment.resolve_device(device),
        batch_size=batch_size,
    )
    settings = Settings(clips=clips, train_clips=train_clips, shifts=parse_shifts(shifts))
    models = selection.select_models(model, split_assignments(";".join(set_ or [])), weights, [seed])
    tasks = selection.select_tasks(task)
    progress = console.RichProgress()
    computed, there, failures = 0, 0, list[BenchError]()
    for one in tasks:
        results = []
        try:
            data = load_task(one, options.data_dir, options.cache_dir, options.allow_partial)
        except BenchError as error:
            failures.append(error)
            continue
        for choice in models:
            try:
                result, new = ensure(choice, data, settings, options, progress)
            except StorageError:
                raise
            except BenchError as error:
                failures.append(error)
                continue
            results.append(result)
            computed, there = computed + new, there + (not new)
        if results:
            folder = options.results_dir / "stability" / safe_name(one.name)
            pictures = plot_stability(results, folder)  # before printing: the reader of a pipe may leave early
            _print(results)
            typer.echo(f"Wrote {', '.join(path.name for path in pictures)} in {folder}.")
    typer.echo(f"{computed} result{'' if computed == 1 else 's'} computed, {there} already there.")
    raise_all(failures)


def parse_shifts(text: str) -> tuple[float, ...]:
    """`"10,20,40"` or `"10:160:10"` -> ms. Raises UsageError."""
    if found := re.fullmatch(r"\s*(\d+):(\d+):(\d+)\s*", text):
        first, last, step = map(int, found.groups())
        if step and first <= last and (last - first) // step < 1000:
            return tuple(float(ms) for ms in range(first, last + 1, step))
    else:
        try:
            return tuple(float(part) for part in text.split(","))
        except ValueError:
            pass
    raise UsageError(
        f'--shifts takes milliseconds at commas, such as 10,20,40, or FIRST:LAST:STEP, such as 10:160:10, not "{text}".'
    )


def _print(results: Sequence[StabilityResult]) -> None:
    task = results[0].task
    notes = [f"{task['name']} is partial: {task['partial']}."] if task["partial"] else []
    for result in results:
        if result.model["weights"] == "random":
            notes.append(f"{result.name} has seeded random weights, not trained ones.")
        notes += [f"{result.name}: {remark}" for remark in result.remarks]
    console.print_remarks(notes)
    columns = [name for name in COLUMNS if any(name in result.curves for result in results)]
    rows = []
    for result in results:
        for at in _shown(result):
            version = "undisturbed" if at == 0 else str(result.versions[at])
            cells = [_cell(result.curves[name], at) if at or name == "accuracy" else "0" for name in columns]
            rows.append((result.name, version, *cells))
    console.print_table(("model", "version", *(COLUMNS[name] for name in columns)), rows)
    counts = results[0].clips
    typer.echo(
        f"{task['name']}: {counts['tested']} of {counts['test_clips']} test clips"
        + (f", probe trained on {counts['trained']} of {counts['training_clips']}" if counts["trained"] else "")
        + ". Euclidean distances over the median between clips; 95 % intervals in brackets."
    )


def _shown(result: StabilityResult) -> list[int]:
    """The undisturbed window, some shifts up to the longest, and everything else."""
    shifts = [at for at, version in enumerate(result.versions) if version.kind == "shift" and at > 0]
    every = max(1, -(-len(shifts) // SHIFTS_SHOWN))
    others = [at for at, version in enumerate(result.versions) if version.kind != "shift"]
    return [0, *sorted(shifts[::-1][::every]), *others]


def _cell(curve: Curve, at: int) -> str:
    value, low, high = (
        None if math.isnan(number) else float(number) for number in (curve.value[at], curve.low[at], curve.high[at])
    )
    bounds = "" if low is None and high is None else f" [{console.interval_text(low, high)}]"
    return console.number_text(value) + bounds
