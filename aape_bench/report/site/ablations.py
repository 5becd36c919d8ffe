"""Ablations of a results folder, as far as a page can show them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aape_bench.report.site.names import page_name
from aape_bench.report.site.on_the_way import objects

#: Columns of the tables of an ablation that its page shows.
_ANSWERS = ("claim", "verdict", "ahead", "of", "endpoint", "tasks", "difference", "low", "high", "seeds", "reason")
_TABLE = ("part", "task", "variant", "mean", "difference", "low", "high", "p_holm", "partial", "overlap")


@dataclass(frozen=True)
class Ablation:
    """One ablation folder. answers: rows of answers.csv; pictures: what was drawn of it."""

    name: str
    page: str
    plan: Mapping[str, Any]
    answers: tuple[Mapping[str, str], ...]
    table: tuple[Mapping[str, str], ...]
    pictures: tuple[Path, ...]


def ablations_of(results_dir: Path, remarks: list[str]) -> Iterable[Ablation]:
    """Those of the folder; what is damaged is left out and said in the remarks."""
    for folder in sorted(path.parent for path in (results_dir / "ablation").glob("*/plan.json")):
        try:
            plan = _plan(folder / "plan.json")
            answers, table = _rows_of(folder / "answers.csv", _ANSWERS), _rows_of(folder / "ablation.csv", _TABLE)
        except (OSError, ValueError, RecursionError) as error:
            remarks.append(f"The ablation {folder} is left out ({type(error).__name__}: {error}).")
            continue
        pictures = tuple(sorted(path for path in folder.glob("*.svg") if path.is_file()))
        name = folder.name
        yield Ablation(name, f"ablations/{page_name(name)}.html", plan, answers, table, pictures)


def _plan(file: Path) -> dict[str, Any]:
    """Raises ValueError where the file has not what a page shows of a plan."""
    plan = json.loads(file.read_text(encoding="utf-8"))
    variants = plan.get("variants") if isinstance(plan, dict) else None
    if (
        not isinstance(variants, list)
        or not plan.keys() >= {"model", "preset", "device", "reference"}
        or any(not {"name", "title"} <= one.keys() for one in objects(variants))
        or not all(isinstance(one, dict) and isinstance(one.get("settings"), dict) for one in variants)
    ):
        raise ValueError("plan.json holds no plan")
    return dict(plan)


def _rows_of(file: Path, columns: Collection[str]) -> tuple[dict[str, str], ...]:
    """The rows of a CSV file as text; none where there is no file. Raises ValueError where it lacks columns."""
    import pandas as pd

    if not file.exists():
        return ()
    table = pd.read_csv(file, dtype=str, keep_default_na=False).fillna("")
    if missing := [name for name in columns if name not in table]:
        raise ValueError(f"{file.name} has no column {missing[0]}")
    return tuple({str(name): text for name, text in row.items()} for row in table.to_dict("records"))
