"""Means over tasks: of ranks and of normalised scores, and whether ranks differ over tasks at all.

Intervals come from resampling the test clips within each task, independently of the other tasks. The tasks themselves
are not resampled: the intervals say how sure the means over these tasks are, not how models would fare on others. For
that see `friedman`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aape_bench.metrics import METRICS, lower_is_better
from aape_bench.resampling import interval
from aape_bench.standings.differences import DIGITS, Pair, Place, Sample, pairs_of, places_of
from aape_bench.standings.friedman import Friedman, friedman_of
from aape_bench.standings.tables import Marks, Table

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Mean:
    """One model over all tasks. place: by normalised mean (by mean rank where there is none).

    mean_rank: of its ranks within tasks, equal scores sharing theirs. low, high: the central 95 % over resamples of
    clips, made to hold the mean rank: noise draws ranks to the middle. normalised: the mean over tasks of
    100 (score - chance) / (1 - chance), so that chance is 0 and a perfect score 100; chance counts as 0 where it has no
    plain meaning. None where no task's metric has 1 as its best.
    """

    place: Place
    mean_rank: float
    rank_low: float | None
    rank_high: float | None
    normalised: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Overall:
    """Models of one class by one protocol, over the tasks that all of them have.

    tasks: their names; normalised: those of them in the normalised mean. pairs: of normalised means. friedman: None
    where it says nothing; remarks: why, and what else a reader must know.
    """

    protocol: str
    marks: Marks
    tasks: tuple[str, ...]
    normalised: tuple[str, ...]
    rows: list[Mean]
    pairs: list[Pair]
    friedman: Friedman | None
    remarks: list[str]


def overall(tables: Sequence[Table]) -> list[Overall]:
    """One for each protocol and class of rows that has several models and tasks."""
    found: dict[tuple[Marks, str], list[Table]] = defaultdict(list)
    for table in tables:
        if table.rows:
            found[table.marks, table.protocol].append(table)
    return [one for key in found if (one := _overall(*key, found[key])) is not None]


def bounded(metric: str) -> bool:
    """Whether 1 is the metric's best score."""
    known = METRICS.get(metric)
    return known is not None and known.higher_is_better and (known.limits is None or known.limits[1] == 1)


def normalisable(table: Table) -> bool:
    """Whether the table's metric has 1 as its best score, and chance is less."""
    return bounded(table.metric) and (table.chance or 0.0) < 1


def _overall(marks: Marks, protocol: str, tables: Sequence[Table]) -> Overall | None:
    models = sorted({row.place.model for table in tables for row in table.rows})
    if len(models) < 2 or len({table.task for table in tables}) < 2:
        return None
    used, remarks = _of_all(tables, len(models))
    if not used:
        return Overall(protocol, marks, (), (), [], [], None, [*remarks, "no task is left"])
    ordered = [_by_model(table, models) for table in used]
    merits = np.array([of for of, _ in ordered])
    draws = None if any(of is None for _, of in ordered) else np.array([of for _, of in ordered])
    ranks = _ranks(merits)
    rank_draws = None if draws is None else np.array([_ranks(of.T).T for of in draws]).mean(axis=0)
    scaled = [at for at, table in enumerate(used) if normalisable(table)]
    if len(scaled) < len(used):
        names = ", ".join(table.task for at, table in enumerate(used) if at not in scaled)
        remarks.append(f"not in the normalised mean, as their metric has no 1 to reach: {names}")
    chance = np.array([used[at].chance or 0.0 for at in scaled])
    normal = _normalised(merits[scaled], chance) if scaled else None
    normal_draws = _normalised(draws[scaled], chance) if scaled and draws is not None else None
    by = -ranks.mean(axis=0) if normal is None else normal
    pairs = pairs_of(models, by.tolist(), normal_draws, _together([used[at] for at in scaled] or used))
    rows = []
    for place in places_of(models, by.tolist(), pairs):
        at = models.index(place.model)
        mean_rank = float(ranks[:, at].mean())
        rank_low, rank_high = (None, None) if rank_draws is None else interval(rank_draws[at])
        low, high = (None, None) if normal_draws is None else interval(normal_draws[at])
        rows.append(
            Mean(
                place=place,
                mean_rank=mean_rank,
                rank_low=None if rank_low is None else min(rank_low, mean_rank),
                rank_high=None if rank_high is None else max(rank_high, mean_rank),
                normalised=None if normal is None else float(normal[at]),
                low=low,
                high=high,
            )
        )
    friedman, said = friedman_of(models, ranks)
    return Overall(
        protocol=protocol,
        marks=marks,
        tasks=tuple(table.task for table in used),
        normalised=tuple(used[at].task for at in scaled),
        rows=rows,
        pairs=pairs,
        friedman=friedman,
        remarks=remarks + said,
    )


def _of_all(tables: Sequence[Table], models: int) -> tuple[list[Table], list[str]]:
    """A table of each task that has all models, and what was left out."""
    chosen: dict[str, Table] = {}
    having = [table for table in tables if len(table.rows) == models]
    for table in having:
        if table.task not in chosen or table.sample.clips > chosen[table.task].sample.clips:
            chosen[table.task] = table
    remarks = []
    if len(having) > len(chosen):
        remarks.append("of several versions of a task's data, the one with most test clips counts")
    if left := [task for task in dict.fromkeys(table.task for table in tables) if task not in chosen]:
        remarks.append(f"left out, as not every model has them: {', '.join(left)} (choose models with --model)")
    return list(chosen.values()), remarks


def _normalised(scores: Array, chance: Array) -> Array:
    """(tasks, models, ...) -> (models, ...): the mean over tasks, chance at 0 and a perfect score at 100."""
    chance = chance.reshape(-1, *([1] * (scores.ndim - 1)))
    return np.asarray((100 * (scores - chance) / (1 - chance)).mean(axis=0))


def _together(tables: Sequence[Table]) -> Sample:
    samples = [table.sample for table in tables]
    return Sample(
        clips=sum(one.clips for one in samples),
        units=sum(one.units for one in samples),
        folds=sum(one.folds for one in samples),
        grouped=any(one.grouped for one in samples),
    )


def _by_model(table: Table, models: Sequence[str]) -> tuple[Array, Array | None]:
    """Merits (models,) and their draws (models, DRAWS), in the order of `models`."""
    sign = -1.0 if lower_is_better(table.metric) else 1.0
    at = {row.place.model: number for number, row in enumerate(table.rows)}
    order = [at[name] for name in models]
    merits = np.array([sign * table.rows[number].score for number in order])
    return merits, None if table.draws is None else sign * table.draws[order]


def _ranks(merits: Array) -> Array:
    """Ranks along the last axis, 1 the best, equal ones sharing their mean; undefined ones last."""
    from scipy.stats import rankdata

    known = np.round(np.where(np.isnan(merits), -np.inf, merits), DIGITS)
    return np.asarray(rankdata(-known, method="average", axis=-1))
