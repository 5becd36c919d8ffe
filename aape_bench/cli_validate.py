"""The command `validate`: does a model keep HEAR's API and this harness's contract?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from aape_bench import console
from aape_bench.cli_options import Assignments, Device, Models, Weights

if TYPE_CHECKING:
    from aape_bench.validation import Report

EXAMPLES = (
    "Examples:\n\n  aape-bench validate --model hear:my_package.my_module --weights my.pt\n\n"
    "  aape-bench validate --model my_encoder.py:make\n\n"
    "  aape-bench validate --model aape,vit --set pooling=cls --device cuda"
)
STYLES = {"pass": "green", "warn": "yellow", "fail": "bold red", "skip": "dim"}


def validate(
    model: Models,
    set_: Assignments = None,
    weights: Weights = "default",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of random weights.")] = 0,
    device: Device = "auto",
) -> None:
    """Check a model before it is believed: shapes, times, batches, silence, memory, gradients and more.

    HEAR modules are asked as they are, without the adapter that `run` puts around them. Where hearvalidator is
    installed its verdict stands in the table. Exit status 1 where a check fails; warnings and skipped checks are none.
    """
    from aape_bench import environment, selection
    from aape_bench.settings import split_assignments

    where = environment.resolve_device(device)
    chosen = selection.read_models(model, split_assignments(";".join(set_ or [])), weights)
    from aape_bench.validation import open_subject
    from aape_bench.validation import validate as check
    from aape_bench.validation.run import COUNT

    progress = console.RichProgress()
    reports = []
    for name, settings, file in chosen:
        with progress.stage(f"{name}: validate", COUNT, "checks") as advance:
            reports.append(check(open_subject(name, settings, file, seed, where), advance))
        _print(reports[-1])
    if any(report.failed for report in reports):
        raise typer.Exit(1)


def _print(report: Report) -> None:
    rows = [(row.check, row.verdict, row.reason) for row in report.rows]
    console.print_table(("check", "verdict", "reason"), rows, STYLES)
    counts = [f"{number} {verdict}" for verdict in STYLES if (number := report.count(verdict))]  # type: ignore[arg-type]
    typer.echo(f"{report.label}: {', '.join(counts)}")
