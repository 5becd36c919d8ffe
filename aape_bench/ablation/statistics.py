"""Differences between variants over training seeds, paired. Pure functions of a table of scores.

The training seed is the unit: variants of one seed saw the same data in the same order from the same weights, so what
a seed does to both cancels in their difference, and the spread of that difference over seeds is what another training
would show. A run's own interval over test clips says how noisily it was measured and is never used here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from aape_bench.errors import DataError
from aape_bench.metrics import lower_is_better
from aape_bench.resampling import LEVEL

if TYPE_CHECKING:
    import pandas as pd

#: A smaller gain is none to speak of, on the scale of the scores: a point of accuracy.
SMALLEST_GAIN = 0.01
#: Overlaps of training and test audio that are known; such rows decide nothing alone.
KNOWN_OVERLAPS = ("train", "test", "same-generator")

#: Quantities of a stability result that the tables show, as metrics; of both, less is better.
STABILITY = {"scene": "relative distance", "flips": "share of classes changed"}
#: What stands for the protocol there.
STABILITY_PROTOCOL = "stability"

ONE_SEED = "a single seed has no spread"
NO_SEED = "no seed has both"
SAME = "the difference is the same in every seed, so its spread is not known"
# Differences of equal scores that were rounded on the way spread so much.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Difference:
    """Variant `ahead` minus variant `of`, positive where `ahead` is the better.

    seeds: those that both have. values: the difference in each. low, high: the 95 % t interval of the mean. p: of
    Student's paired t test, two-sided; 1 where every difference is 0. None where undefined, and `reason` says why.
    """

    ahead: str
    of: str
    seeds: tuple[int, ...]
    values: tuple[float, ...]
    mean: float | None
    low: float | None
    high: float | None
    p: float | None
    reason: str

    @property
    def name(self) -> str:
        """As it is written: "full − gaussian"."""
        return f"{self.ahead} − {self.of}"

    @property
    def equal(self) -> bool:
        """Whether at least two seeds give exactly the same scores to both."""
        return len(self.values) > 1 and not any(self.values)


def difference(ahead: str, of: str, first: Mapping[int, float], second: Mapping[int, float]) -> Difference:
    """The paired difference of two variants. first, second: their merit by seed; seeds of one alone are left out."""
    seeds = tuple(sorted(first.keys() & second.keys()))
    values = tuple(first[seed] - second[seed] for seed in seeds)
    mean = float(np.mean(values)) if values else None
    if mean is None or len(values) < 2:
        return Difference(ahead, of, seeds, values, mean, None, None, None, ONE_SEED if values else NO_SEED)
    spread = float(np.std(values, ddof=1))
    if spread < _ROUNDING:
        return Difference(ahead, of, seeds, values, mean, None, None, None if any(values) else 1.0, SAME)
    from scipy.stats import t

    freedom, error = len(values) - 1, spread / np.sqrt(len(values))
    half = float(t.ppf((1 + LEVEL) / 2, freedom)) * error
    p = float(2 * t.sf(abs(mean) / error, freedom))
    return Difference(ahead, of, seeds, values, mean, mean - half, mean + half, p, "")


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Holm's adjusted p-values (Scandinavian Journal of Statistics 6, 1979), in the order given.

    An undefined p counts as 1 in the number of tests and stays undefined.

    >>> [round(p, 4) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    known = [1.0 if value is None else value for value in p]
    adjusted = [1.0] * len(known)
    reached = 0.0
    for rank, at in enumerate(sorted(range(len(known)), key=known.__getitem__)):
        reached = max(reached, min(1.0, known[at] * (len(known) - rank)))
        adjusted[at] = reached
    return [None if value is None else other for value, other in zip(p, adjusted, strict=True)]


def falls(metric: str) -> bool:
    """Whether less of it is better."""
    return lower_is_better(metric) or metric in STABILITY.values()


class Scores:
    """The scores of an ablation by variant, seed, task and protocol.

    table: one row each, with the columns variant, seed, task, protocol, metric, score (None or NaN: undefined),
    ci_low, ci_high, partial, overlap; more do not matter. Raises DataError where a row stands twice, or runs of one
    task were evaluated on different clips.
    """

    def __init__(self, table: pd.DataFrame) -> None:
        self.table = table.reset_index(drop=True)
        if (twice := table.duplicated(["variant", "seed", "task", "protocol"])).any():
            row = table[twice].iloc[0]
            raise DataError(
                f"The ablation has two results of {row['variant']}, seed {row['seed']}, on {row['task']} by "
                f"{row['protocol']}. Move its records folder away and run the same command again."
            )
        for (task, protocol), rows in table.groupby(["task", "protocol"], sort=False):
            if len(clips := rows["partial"].fillna("").unique()) > 1:
                said = " and ".join(f"{part} clips" if part else "all clips" for part in clips)
                raise DataError(
                    f"The variants were evaluated on different data of {task} by {protocol} ({said}), so they cannot "
                    "be compared. Move the ablation's records folder away and run the same command again."
                )

    @cached_property
    def merits(self) -> dict[tuple[str, str, str], dict[int, float]]:
        """(variant, task, protocol) -> seed -> score, of error rates 1 - score, so that more is better everywhere."""
        found: dict[tuple[str, str, str], dict[int, float]] = {}
        columns = ("variant", "task", "protocol", "seed", "metric", "score")
        for variant, task, protocol, seed, metric, score in zip(*(self.table[name] for name in columns), strict=True):
            if score is not None and np.isfinite(score):
                merit = 1.0 - float(score) if falls(metric) else float(score)
                found.setdefault((variant, task, protocol), {})[int(seed)] = merit
        return found

    @property
    def seeds(self) -> list[int]:
        """All training seeds, in order."""
        return sorted({int(seed) for seed in self.table["seed"]})

    def cells(self) -> list[tuple[str, str]]:
        """(task, protocol) in order of appearance."""
        return list(dict.fromkeys(zip(self.table["task"], self.table["protocol"], strict=True)))

    def mean(self, variant: str, tasks: Sequence[str], protocol: str) -> dict[int, float]:
        """Seed -> mean merit over the tasks, of the seeds that have all of them."""
        by_task = [self.merits.get((variant, task, protocol), {}) for task in tasks]
        seeds = set.intersection(*(set(found) for found in by_task)) if by_task else set()
        return {seed: float(np.mean([found[seed] for found in by_task])) for seed in sorted(seeds)}

    def difference(self, ahead: str, of: str, tasks: Sequence[str], protocol: str) -> Difference:
        """Of the mean over the tasks."""
        return difference(ahead, of, self.mean(ahead, tasks, protocol), self.mean(of, tasks, protocol))

    def marked(self, column: str, tasks: Sequence[str], protocol: str) -> dict[str, str]:
        """Task -> what `column` (partial, overlap) says of it in any run, of tasks where it says something."""
        rows = self.table[(self.table["protocol"] == protocol) & self.table["task"].isin(list(tasks))]
        found: dict[str, str] = {}
        for task in tasks:
            texts = [text for text in rows[rows["task"] == task][column] if isinstance(text, str) and text]
            if column == "overlap":
                texts = [text for text in texts if text in KNOWN_OVERLAPS]
            if texts:
                found[task] = texts[0]
        return found


def with_stability(scores: pd.DataFrame, stability: pd.DataFrame | None) -> Scores:
    """The scores, and beside them how far shifted clips move as tasks "shifted ..." of their own.

    stability: columns variant, seed, task, kind, amount, quantity, value. Raises DataError as `Scores` does.
    """
    import pandas as pd

    rows = pd.DataFrame() if stability is None else _stability_scores(stability)
    if rows.empty:
        return Scores(scores)
    return Scores(pd.concat([scores.astype(object), rows.astype(object)], ignore_index=True))


def _stability_scores(stability: pd.DataFrame) -> pd.DataFrame:
    """Rows for `Scores`: each quantity of STABILITY, its mean over all shifts, by variant and seed."""
    import pandas as pd

    shifts = stability[(stability["kind"] == "shift") & (stability["amount"] > 0)]
    by_run: dict[tuple[str, str, str, int], list[float]] = {}
    columns = (shifts[name] for name in ("task", "quantity", "variant", "seed", "value"))
    for task, quantity, variant, seed, value in zip(*columns, strict=True):
        if quantity in STABILITY:
            by_run.setdefault((task, quantity, variant, seed), []).append(value)
    rows = [
        {
            "variant": variant,
            "seed": seed,
            "task": f"shifted {task}: {quantity}",
            "protocol": STABILITY_PROTOCOL,
            "metric": STABILITY[quantity],
            # undefined where one value is, not a mean over fewer shifts
            "score": float(np.mean(values)),
        }
        for (task, quantity, variant, seed), values in by_run.items()
    ]
    return pd.DataFrame(rows).assign(ci_low=np.nan, ci_high=np.nan, partial="", overlap="")
