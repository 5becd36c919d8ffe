"""A small task, its clip table and an encoder whose result is easily said; shared by the tests."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from aape_bench.encoder import Encoder
from aape_bench.task import Task

Cli = Callable[..., tuple[int, str, str]]

FOLDS = Task(
    name="toy", title="", domain="sound", kind="multiclass", metric="accuracy", split_scheme="folds",
    clips=12, classes=2, clip_seconds=1.0, read=lambda _: pd.DataFrame(), folders=("toy",),
)  # fmt: skip
PARTS = replace(FOLDS, split_scheme="parts")


def table() -> pd.DataFrame:
    """12 clips, 2 classes, folds 2, 3, 4 and 10, every clip a group."""
    rows = range(12)
    return pd.DataFrame(
        {
            "id": [f"c{row}" for row in rows],
            "path": [f"audio/c{row}.wav" for row in rows],
            "label": ["ab"[row % 2] for row in rows],
            "fold": [str(1 + row % 4) if row % 4 else "10" for row in rows],
            "group": [f"g{row}" for row in rows],
        }
    )


class Moments(Encoder):
    """Mean, mean square and length of a clip's real samples."""

    sample_rate, scene_embedding_size, timestamp_embedding_size = 16000, 3, 3

    def scene_embeddings(self, audio: Tensor, lengths: Tensor | None = None) -> Tensor:
        n = torch.full((len(audio),), audio.shape[1]) if lengths is None else lengths
        return torch.stack([audio.sum(1) / n, audio.square().sum(1) / n, n.float()], dim=1)


def write_meta(root: Path, rows: list[tuple[object, ...]]) -> None:
    """Write `meta/esc50.csv` with ESC-50's own columns."""
    with (root / "meta" / "esc50.csv").open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(("filename", "fold", "target", "category", "esc10", "src_file", "take"))
        writer.writerows(rows)


def run(cli: Cli, data: Path, *more: object, model: str = "logmel", partial: bool = True) -> tuple[int, str, str]:
    """Run the model on esc50: exit status, standard output, standard error."""
    arguments = ["run", "--model", model, "--task", "esc50", "--data-dir", data, *more]
    return cli(*arguments, *(["--allow-partial"] if partial else []))


def rows(results: Path) -> list[dict[str, str]]:
    """The rows of leaderboard.csv."""
    with (results / "leaderboard.csv").open(newline="") as handle:
        return list(csv.DictReader(handle))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by relative path."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def spoil_meta(data: Path, row: int, column: int, value: str) -> None:
    """Change one cell of `meta/esc50.csv`."""
    with (data / "esc50" / "meta" / "esc50.csv").open(newline="") as handle:
        _, *table = list(csv.reader(handle))
    table[row][column] = value
    write_meta(data / "esc50", [tuple(line) for line in table])
