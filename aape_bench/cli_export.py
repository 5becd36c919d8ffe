"""The command `export`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from aape_bench.cli_options import Assignments, Weights
from aape_bench.errors import UsageError

EXAMPLES = (
    "Examples:\n\n"
    "  aape-bench export --model aape --out exported/aape\n\n"
    "  aape-bench export --model aape --weights runs/laptop/teacher-1000.safetensors --out onnx --format onnx\n\n"
    "  aape-bench export --model resemblyzer --out my_voices --format hear"
)


def export(
    model: Annotated[str, typer.Option("--model", "-m", help="NAME or NAME{key=value;...}.")],
    out: Annotated[Path, typer.Option("--out", help="A new folder; of a HEAR package also its name.")],
    form: Annotated[str, typer.Option("--format", help="safetensors, onnx or hear.")] = "safetensors",
    weights: Weights = "default",
    set_: Assignments = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of random weights.")] = 0,
    timestamps: Annotated[
        bool, typer.Option("--timestamps", help="ONNX: write timestamp embeddings, too, to a file of their own.")
    ] = False,
) -> None:
    """Write an encoder as safetensors, as ONNX, or as a package that is a HEAR module."""
    from typing import get_args

    from aape_bench.exporting.export import Format
    from aape_bench.exporting.export import export as write
    from aape_bench.selection import select_models
    from aape_bench.settings import split_assignments, suggestion

    if form not in get_args(Format):
        raise UsageError(f'There is no format "{form}".{suggestion(form, get_args(Format))}')
    chosen = select_models([model], split_assignments(";".join(set_ or [])), weights, [seed])
    if len(chosen) > 1:
        raise UsageError(f'One model is exported at a time, but "{model}" names {len(chosen)}.')
    if chosen[0].draws_from_seed and weights != "random" and "weights=random" not in model:
        raise UsageError(
            f"{chosen[0].label} has no trained weights here. Name some with --weights FILE, or say --weights random."
        )
    out = Path(os.path.expanduser(out))  # noqa: PTH111 - no shell expands --out=~/NAME; an unknown user's ~ stays
    for sentence in write(chosen[0], out, form, timestamps):  # type: ignore[arg-type]
        typer.echo(sentence)
