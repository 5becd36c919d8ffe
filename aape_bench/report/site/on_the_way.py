"""What a record says of the way to its score: curves of what was tried on validation, and accuracy by rate."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aape_bench.records import Record


@dataclass(frozen=True)
class Curve:
    """Values over steps, of one fold or seed. points: (x, y) in order."""

    name: str
    points: tuple[tuple[float, float], ...]


def curves(record: Record) -> list[Curve]:
    """What the protocol saw on validation: scores by update of fine-tuning, or by strength, neighbours, ..."""
    found = []
    for choice in record.protocol["choices"]:
        name = f"fold {choice.get('fold', '?')}"
        varied = curve_axis(record)
        steps = objects(choice.get("curve" if varied == "update" else "tried"))
        points: list[tuple[Any, Any]] = []
        if varied:
            points = [(one.get(varied), one.get("validation")) for one in steps]
        numbers = [(float(x), float(y)) for x, y in points if _is_number(x) and _is_number(y)]
        if len(numbers) > 1:
            found.append(Curve(name, tuple(numbers)))
    return found


def curve_axis(record: Record) -> str:
    """What `curves` run over: "update" of a fine-tuning, else the one setting that was tried; "" without any."""
    for choice in record.protocol["choices"]:
        if isinstance(choice.get("curve"), list):
            return "update"
        for one in objects(choice.get("tried")):
            return next((name for name in ("C", "k") if name in one), "")
    return ""


def rates(records: Sequence[Record]) -> list[tuple[float, float, int]]:
    """(rate in Hz, accuracy, clips) by class, of tasks whose classes are rates; rising. Empty for others.

    The mean over records (seeds); classes without test clips are left out.
    """
    found: dict[float, list[tuple[float, int]]] = {}
    for one in (of_class for record in records for of_class in record.scores["per_class"]):
        hertz = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) Hz", str(one["name"]))
        if hertz is None:
            return []
        if one["clips"] and _is_number(one["accuracy"]):
            found.setdefault(float(hertz[1]), []).append((float(one["accuracy"]), int(one["clips"])))
    return [
        (rate, sum(share for share, _ in of) / len(of), min(clips for _, clips in of))
        for rate, of in sorted(found.items())
    ]


def objects(value: object) -> list[dict[str, Any]]:
    """Those of a list of JSON, whatever it is."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
