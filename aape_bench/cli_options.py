"""Options that several commands have, declared once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Optional

import typer


def complete_models(incomplete: str) -> list[str]:
    """Names of models that go on from what is typed."""
    from aape_bench import registry

    return continued(incomplete, registry.model_names())


def complete_tasks(incomplete: str) -> list[str]:
    """Names of tasks that go on from what is typed."""
    from aape_bench import registry

    return continued(incomplete, registry.task_names())


def continued(incomplete: str, names: Sequence[str]) -> list[str]:
    """Names that go on from what follows the last comma."""
    before, comma, last = incomplete.rpartition(",")
    return [before + comma + name for name in names if name.startswith(last)]


_SEVERAL = "glob or 'all'; repeat, or commas (a \\ before , ; { or } makes it part of a name)."

Models = Annotated[
    list[str],
    typer.Option(
        "--model",
        "-m",
        autocompletion=complete_models,
        help=f"NAME, NAME{{key=value;...}}, hear:MODULE, hf:REPO, FILE.py:FUNCTION, {_SEVERAL}",
    ),
]
Tasks = Annotated[
    list[str],
    typer.Option("--task", "-t", autocompletion=complete_tasks, help=f"NAME, hear:DIR\\[@RATE], {_SEVERAL}"),
]
Assignments = Annotated[
    Optional[list[str]],  # noqa: UP045  (Typer on Python 3.11 reads Optional)
    typer.Option("--set", help="key=value, for every model named; repeat.", show_default=False),
]
Weights = Annotated[
    str, typer.Option("--weights", help="A checkpoint FILE, 'random' (drawn from --seed) or 'default'.")
]
DataDir = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--data-dir", help="Folder that holds the data sets' folders.", show_default=False),
]
CacheDir = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--cache-dir", help="Where embeddings are kept.", show_default=False),
]
SkipBroken = Annotated[
    bool, typer.Option("--skip-broken", help="Leave out clips that cannot be decoded; they are recorded.")
]
AutoBatchSize = Annotated[
    str,
    typer.Option("--batch-size", help="Clips given to the encoder at once, or auto: fewer where memory does not do."),
]
Precision = Annotated[
    str, typer.Option("--precision", help="float32 or bf16, of frozen encoders (finetune has its own setting).")
]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Clips given to the encoder at once.")]
ExecutorText = Annotated[
    str, typer.Option("--executor", help="local; local:N: N processes, one thread each; or ray: many machines.")
]
Address = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--address",
        help="Of a Ray cluster, HOST:PORT, that --executor ray joins. Default: Ray on this machine alone.",
        show_default=False,
    ),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
