"""Options that several commands have, declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

#: What --model takes.
MODEL_HELP = "NAME, NAME{key=value;...}, hear:MODULE, hf:REPO, FILE.py:FUNCTION, glob or 'all'; repeat, or commas."

DataDir = Annotated[
    Optional[Path],  # noqa: UP045  (Typer on Python 3.11 reads Optional)
    typer.Option("--data-dir", help="Folder that holds the data sets' folders.", show_default=False),
]
CacheDir = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--cache-dir", help="Where embeddings are kept.", show_default=False),
]
ExecutorText = Annotated[
    str, typer.Option("--executor", help="local, or local:N: N trainings side by side, one thread each.")
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
