"""Commands that look at results: plot, show, compare."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import numpy as np
import typer

from aape_bench import console
from aape_bench.errors import BenchError, StorageError, UsageError, raise_all

if TYPE_CHECKING:
    from aape_bench.records import Record

ResultsDir = Annotated[
    Optional[Path],  # noqa: UP045  (Typer on Python 3.11 reads Optional)
    typer.Option("--results-dir", help="Where records are (default: ./results).", show_default=False),
]
Published = Annotated[bool, typer.Option("--published", help="Add numbers published by others, marked as such.")]
TaskOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--task", "-t", help="Of this task only.", show_default=False),
]
ProtocolOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--protocol", "-p", help="Of this protocol only.", show_default=False),
]

SHOW_EXAMPLES = (
    "Examples:\n\n  aape-bench show logmel --task esc50\n\n"
    "  aape-bench show results/records/esc50/linear/logmel-0123456789abcdef.json --out confusion"
)
COMPARE_EXAMPLES = (
    "Examples:\n\n  aape-bench compare aape logmel\n\n  aape-bench compare aape vit --task esc50 --metric mAP"
)


def plot(
    results_dir: ResultsDir = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--out", help="Folder for the plots (default: plots/ in the results).", show_default=False),
    ] = None,
    published: Published = False,
) -> None:
    """Draw scores, heat maps, radars, cost, learning curves and reliability, as PNG and SVG."""
    from aape_bench import registry
    from aape_bench.leaderboard import leaderboard as board_of
    from aape_bench.published import published as published_numbers
    from aape_bench.report.gallery import plot_everything

    folder = results_folder(results_dir)
    board, remarks = board_of(folder)
    console.print_remarks(remarks)
    tasks = sorted(set(board["task"]))
    installed = set(registry.task_names())
    domains: dict[str, str] = {name: registry.task(name).domain if name in installed else "other" for name in tasks}
    numbers = published_numbers(tasks) if published else None
    for path in plot_everything(folder, board, domains, out or folder / "plots", numbers):
        typer.echo(f"Wrote {path}")


def show(
    result: Annotated[str, typer.Argument(help="A record file, or a model's label.")],
    task: TaskOption = None,
    protocol: ProtocolOption = None,
    results_dir: ResultsDir = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--out", help="Write the confusion matrix here, as CSV, PNG and SVG.", show_default=False),
    ] = None,
) -> None:
    """Say all about one result: every metric with its interval, folds, classes, choices."""
    from aape_bench.records import predictions_of

    for folder, record in _find(result, results_dir, task, protocol):
        _print_result(record)
        if out is not None:
            from aape_bench.report.confusion import write_confusion

            for path in write_confusion(out, record, predictions_of(folder, record)):
                typer.echo(f"Wrote {path}")


def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="A record file, or a model's label.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Another.")],
    task: TaskOption = None,
    protocol: ProtocolOption = None,
    metric: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--metric", help="Instead of the task's own.", show_default=False),
    ] = None,
    results_dir: ResultsDir = None,
) -> None:
    """Is A better than B? The difference on the same clips, its interval, and p by paired bootstrap and McNemar."""
    from aape_bench.compare import compare as compare_predictions
    from aape_bench.records import predictions_of

    first_found = _find(first, results_dir, task, protocol)
    second_found = _find(second, results_dir, task, protocol)
    pairs = _pairs(first_found, second_found)
    if not pairs:
        raise UsageError(
            f'"{first}" and "{second}" have no task in common that both were run on with one protocol and seed. Name '
            "records, or run both on the same task."
        )
    rows, remarks = [], []
    failures: list[BenchError] = []
    alone = {one.seed for _, one in first_found} ^ {one.seed for _, one in second_found}
    if alone and len(first_found) + len(second_found) > 2:
        seeds = ", ".join(map(str, sorted(alone)))
        remarks.append(f"seeds {seeds} are of one of the two only and are left out; run both on the same seeds.")
    for (folder, one), (other_folder, other) in pairs:
        try:
            found = compare_predictions(
                predictions_of(folder, one),
                predictions_of(other_folder, other),
                metric or one.task["metric"],
                one.task["name"],
                min(one.seed, other.seed),  # one seed for both orders: B against A is A against B turned round
            )
        except StorageError as error:
            failures.append(error)
            continue
        mcnemar = found.mcnemar
        apart = "" if mcnemar is None else f"{mcnemar.p:.4f} ({mcnemar.only_first} : {mcnemar.only_second})"
        protocols = dict.fromkeys([one.protocol["label"], other.protocol["label"]])
        most = max(found.first_clips, found.second_clips)
        rows.append(
            (one.task["name"], " : ".join(protocols), found.metric, str(one.seed),
             console.number_text(found.first), console.number_text(found.second),
             "undefined" if found.difference is None else f"{found.difference:+.3f}",
             console.interval_text(found.low, found.high, signed=True),
             "" if found.p is None else f"{found.p:.4f}", apart,
             str(found.clips) if found.clips == most else f"{found.clips} of {most}")
        )  # fmt: skip
        if one.task["fingerprint"] != other.task["fingerprint"]:
            remarks.append(f"{one.task['name']}: the two results are of different data; their common clips count.")
        if found.reason:
            remarks.append(f"{one.task['name']}: {found.reason}.")
    typer.echo(f"A: {pairs[0][0][1].model['label']}   B: {pairs[0][1][1].model['label']}")
    heads = ("task", "protocol", "metric", "seed", "A", "B", "A - B", "95 % interval", "p (bootstrap)",
             "p (McNemar; only A : only B right)", "clips")  # fmt: skip
    if rows:
        console.print_table(heads, rows)
    console.print_remarks(remarks)
    raise_all(failures)
    if len(rows) > 1:
        typer.echo("The p values are of single comparisons; of several, some fall below 0.05 by chance.")


def results_folder(results_dir: Path | None) -> Path:
    """The results folder, which must hold records."""
    from aape_bench import environment

    folder = results_dir or environment.default_folder("results")
    if not any((folder / "records").glob("*/*/*.json")):
        raise UsageError(
            f"There are no results in {folder}. Make some with aape-bench run, or name their folder with --results-dir."
        )
    return folder


def show_board(
    folder: Path, asked: set[tuple[str, str, str]] | None, published: bool = False, quiet: bool = False
) -> None:
    """Print the leaderboard (its rows of the asked model, task and protocol) and write it whole to its files."""
    from aape_bench.leaderboard import leaderboard, with_published, write_leaderboard

    board, remarks = leaderboard(folder)
    if published:
        board = with_published(board)
    files = write_leaderboard(folder, board)  # before anything is printed: the reader of a pipe may leave early
    if not quiet:
        cells = zip(board["model"], board["task"], board["protocol"], strict=True)
        console.print_board(board if asked is None else board[[cell in asked for cell in cells]])
    console.print_remarks(remarks)
    typer.echo(f"Wrote {files[0]} and {files[1]}.")


Found = tuple[Path, "Record"]


def _find(text: str, results_dir: Path | None, task: str | None, protocol: str | None) -> list[Found]:
    """The record of that file, or the newest of that model's label on every task, protocol and seed, as asked.

    A label may be named without its weights (`aape` for `aape@1a2b3c4d`) where there is no other of that name.
    """
    from aape_bench.records import read_all, read_record

    if (path := Path(text)).suffix == ".json" and path.is_file():
        above = path.absolute().parents
        return [(above[min(3, len(above) - 1)], read_record(path))]
    folder = results_folder(results_dir)
    found, unreadable = read_all(folder)
    console.print_remarks(unreadable)
    every = [record for _, record in found]
    labelled = [record for record in every if record.model["label"] == text]
    labels = {record.model["label"] for record in every}
    if not labelled:
        of_that_name = sorted(label for label in labels if label.rpartition("@")[0] == text)
        if len(of_that_name) > 1:
            raise UsageError(f'Several models are called "{text}" in {folder}: {", ".join(of_that_name)}. Name one.')
        labelled = [record for record in every if record.model["label"] in of_that_name]
    if not labelled:
        from aape_bench.settings import suggestion

        raise UsageError(f'There is no result of a model "{text}" in {folder}.{suggestion(text, labels)}')
    newest: dict[tuple[Any, ...], Record] = {}
    for record in sorted(labelled, key=lambda one: one.date):
        if task in (None, record.task["name"]) and protocol in (None, record.protocol["label"]):
            key = (record.task["name"], record.protocol["label"], record.task["fingerprint"], record.seed)
            newest[key] = record
    if not newest:
        asked = " and ".join(filter(None, [task and f'the task "{task}"', protocol and f'the protocol "{protocol}"']))
        raise UsageError(f'There is no result of "{text}" of {asked} in {folder}.')
    return [(folder, newest[key]) for key in sorted(newest, key=str)]


def _pairs(first: Sequence[Found], second: Sequence[Found]) -> list[tuple[Found, Found]]:
    if len(first) == len(second) == 1 and first[0][1].task["name"] == second[0][1].task["name"]:
        return [(first[0], second[0])]  # two records that were named may differ in protocol and seed

    def key(found: Found, data: bool) -> tuple[Any, ...]:
        record = found[1]
        about = (record.task["name"], record.protocol["label"], record.seed, record.task["kind"])
        return (*about, record.task["fingerprint"]) if data else about

    def newest(every: Sequence[Found]) -> dict[tuple[Any, ...], Found]:
        return {key(found, False): found for found in sorted(every, key=lambda one: one[1].date)}

    others = {key(found, True): found for found in second}
    pairs = [(found, others[key(found, True)]) for found in first if key(found, True) in others]
    # results on different data are compared on the clips in common, where there is nothing better
    done = {key(found, False) for found, _ in pairs}
    theirs = newest(second)
    rest = [(found, theirs[about]) for about, found in newest(first).items() if about in theirs and about not in done]
    return pairs + rest


def _print_result(record: Record) -> None:
    scores = record.scores
    console.print_facts(
        f"{record.model['label']} on {record.task['name']} by {record.protocol['label']}",
        seed=str(record.seed),
        weights=record.model["weights"],
        clips=f"{record.task['clips']} evaluated, {scores['test_clips']} tested"
        + (f", in {scores['groups']} groups" if scores["groups"] else "")
        + (f"; partial: {record.task['partial']}" if record.task["partial"] else ""),
        skipped=", ".join(f"{one['clip']} ({one['reason']})" for one in record.task["skipped"]),
        chosen="; ".join(f"{one['fold']}: {one['chosen']}" for one in record.protocol["choices"] if "chosen" in one),
        repeats=_repeats_text(scores["repeats"]),
        remarks=" ".join(record.protocol["remarks"]),
        date=record.date[:19],
        predictions=record.predictions,
    )
    rows = []
    for name, one in scores["metrics"].items():
        low, high = (one["interval"] or {}).get("low"), (one["interval"] or {}).get("high")
        counted = "" if one["classes"] is None else f"{one['classes']} classes"
        note = "; ".join(filter(None, [counted, one["reason"]]))
        rows.append((name, console.number_text(one["score"]), console.interval_text(low, high), note))
    rows += [(name, console.number_text(value), "", "") for name, value in scores["figures"].items()]
    console.print_table(("metric", "score", "95 % interval", "note"), rows)
    if len(scores["folds"]) > 1:
        folds = [(str(f["fold"]), console.number_text(f["score"]), str(f["clips"])) for f in scores["folds"]]
        console.print_table(("fold", record.task["metric"], "clips"), folds)
    per_class = [{k: v for k, v in row.items() if v is not None} for row in scores["per_class"]]
    if per_class:
        heads = max(per_class, key=len)
        cells = [[_cell(row.get(head, "")) for head in heads] for row in per_class]
        console.print_table([head.replace("_", " ") for head in heads], cells)


def _repeats_text(scores: Sequence[float | None]) -> str:
    """What a protocol's own seeds scored, with the t interval of their mean."""
    known = [score for score in scores if score is not None]
    if len(known) < 2 or len(known) < len(scores):
        return ""
    from scipy.stats import t

    half = t.ppf(0.975, len(known) - 1) * np.std(known, ddof=1) / np.sqrt(len(known))
    each = ", ".join(f"{score:.3f}" for score in known)
    return f"{each}; mean {np.mean(known):.3f} ± {half:.3f} (95 % over the protocol's own seeds)"


def _cell(value: Any) -> str:
    return console.number_text(value) if isinstance(value, float) else str(value)
