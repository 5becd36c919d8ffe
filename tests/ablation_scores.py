"""Tables of scores as an ablation gathers them, with effects that are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from aape_bench.ablation.plan import Plan, PlannedTask
from aape_bench.training import Question, Variant

MODULATION = ("tremolo", "clicks")
REAL = ("esc50", "gtzan")
STEM = Question("stem", "The stem helps", "full", ("plain", "wide"))
WINDOW = Question("window", "The window matters", "full", ("gaussian",), same_as=(("full33", "gaussian33"),))
LOSS = Question("loss", "The loss matters", "full", ("plain",), endpoint="real")


def plan(
    variants: Sequence[str] = ("full", "plain", "wide", "gaussian"),
    questions: Sequence[Question] = (STEM,),
    tasks: Mapping[str, str] | None = None,
) -> Plan:
    """A plan of these variants, the first being the reference; tasks: name -> domain."""
    tasks = tasks or {**dict.fromkeys(MODULATION, "modulation"), **dict.fromkeys(REAL, "sound")}
    return Plan(
        model="toy",
        preset="tiny",
        device="cpu",
        reference=variants[0],
        variants=tuple(Variant(name, {}, f"the {name} one") for name in variants),
        questions=tuple(questions),
        tasks=tuple(PlannedTask(name, name, domain, 10, 10) for name, domain in tasks.items()),
        endpoints={
            "modulation": [name for name, domain in tasks.items() if domain == "modulation"],
            "real": [name for name, domain in tasks.items() if domain != "modulation"],
        },
        protocols=("linear",),
        stability=None,
        audio=("generated:toy",),
        audio_digest="0",
        asked={},
        steps=10,
        seconds_per_step={},
        learning_rate=0.001,
    )


def row(variant: str, seed: int, task: str, score: float | None, **changed: Any) -> dict[str, Any]:
    """One row of scores.csv."""
    given = score is not None
    return {
        "variant": variant, "seed": seed, "task": task, "domain": "modulation" if task in MODULATION else "real",
        "protocol": "linear", "metric": "accuracy", "score": score, "ci_low": score - 0.02 if given else None,
        "ci_high": score + 0.02 if given else None, "partial": "", "overlap": "none", "sha256": "0", "record": "r.json",
    } | changed  # fmt: skip


def scores(
    levels: Mapping[str, Sequence[float]], tasks: Sequence[str] = (*MODULATION, *REAL), **changed: Any
) -> pd.DataFrame:
    """The same scores on every task; levels: variant -> score by seed, from seed 0 on."""
    return pd.DataFrame(
        row(variant, seed, task, score, **changed)
        for variant, by_seed in levels.items()
        for seed, score in enumerate(by_seed)
        for task in tasks
    )
