"""Which of several models can be told apart on the same test clips. Pure functions of bootstrap draws.

Each pair's interval and p are those of `aape_bench.compare`. For the many pairs of a table p is taken anew, as that of
t = difference / error, error being the standard deviation of the difference over the paired resamples, and adjusted
after Holm: the bootstrap's own p cannot be less than 2 in DRAWS + 1, and 190 times that says nothing of 20 models.
"""

from __future__ import annotations

import math
import string
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from aape_bench.ablation.statistics import holm
from aape_bench.compare import spread
from aape_bench.resampling import LEVEL

#: How likely the clips that a pair needs are to tell it apart.
POWER = 0.8
# Means over folds of equal scores may differ in later digits.
DIGITS = 12
# From so many units on, Student's t is as good as normal.
_MANY = 100


@dataclass(frozen=True)
class Sample:
    """What was resampled: test clips in units within folds. grouped: units are groups, not the clips themselves."""

    clips: int
    units: int
    folds: int
    grouped: bool


@dataclass(frozen=True)
class Pair:
    """Two models, `ahead` the one with the better score (by name where they are equal).

    difference: how much better, never negative. low, high, p: as `aape_bench.compare` has them. error: the
    difference's standard error. p_holm: adjusted for all pairs of the table. distinct: whether p_holm <= 0.05.
    units, clips: how many would tell them apart at 5 % (a single comparison) with a probability of 80 %, were the
    difference what it is here, as errors fall with the root of the number of units. None where undefined; `reason`.
    """

    ahead: str
    behind: str
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    error: float | None
    p_holm: float | None
    distinct: bool
    units: int | None
    clips: int | None
    reason: str


@dataclass(frozen=True)
class Place:
    """A model among others. place: by score, equal ones share it. best, worst: the ranks that it may have.

    They hold for all models at once with 95 % confidence: 1 + those distinctly better, and all but those distinctly
    worse (Mogstad, Romano, Shaikh, Wilhelm, Review of Economic Studies 91, 2024). group: letters; models that share
    one cannot be told apart.
    """

    model: str
    place: int
    best: int
    worst: int
    group: str


def pairs_of(
    models: Sequence[str], merits: Sequence[float], draws: npt.NDArray[np.float64] | None, sample: Sample
) -> list[Pair]:
    """All pairs. merits: the higher the better. draws: (models, DRAWS) merits on the same resamples, None: unknown."""
    rounded = _rounded(merits)
    order = sorted(range(len(models)), key=lambda at: (-rounded[at], models[at]))
    pairs, plain = [], []
    for one, other in combinations(order, 2):
        difference = merits[one] - merits[other] if rounded[one] != rounded[other] else 0.0
        found = None if draws is None else spread(draws[one], draws[other])
        error = None if found is None else found.error
        units = _units_needed(difference, error, sample)
        plain.append(_p_of_t(difference, error, sample))
        pairs.append(
            Pair(
                ahead=models[one],
                behind=models[other],
                difference=difference,
                low=found.low if found else None,
                high=found.high if found else None,
                p=found.p if found else None,
                error=error,
                p_holm=None,
                distinct=False,
                units=units,
                clips=None if units is None else math.ceil(units * sample.clips / sample.units),
                reason=(found.reason or "") if found else "a fold has a single group (or clip)",
            )
        )
    return [
        replace(pair, p_holm=p, distinct=p is not None and p <= 1 - LEVEL)
        for pair, p in zip(pairs, holm(plain), strict=True)
    ]


def places_of(models: Sequence[str], merits: Sequence[float], pairs: Collection[Pair]) -> list[Place]:
    """Where each model stands, in order of place."""
    merits = _rounded(merits)
    order = sorted(range(len(models)), key=lambda at: (-merits[at], models[at]))
    distinct = {(pair.ahead, pair.behind) for pair in pairs if pair.distinct}
    groups = letters([models[at] for at in order], distinct)
    return [
        Place(
            model=(name := models[at]),
            place=1 + sum(merit > merits[at] for merit in merits),
            best=1 + sum(behind == name for _, behind in distinct),
            worst=len(models) - sum(ahead == name for ahead, _ in distinct),
            group=groups[name],
        )
        for at in order
    ]


def letters(models: Sequence[str], distinct: Collection[tuple[str, str]]) -> dict[str, str]:
    """Compact letters: two models share one exactly where they are not distinct.

    By insertion and absorption (Piepho, Journal of Computational and Graphical Statistics 13, 2004).

    >>> letters(["x", "y", "z"], {("x", "z")})
    {'x': 'a', 'y': 'ab', 'z': 'b'}
    """
    at = {name: number for number, name in enumerate(models)}
    columns = [frozenset(models)]
    for one, other in sorted(distinct, key=lambda pair: (at[pair[0]], at[pair[1]])):
        split = [
            part
            for column in columns
            for part in ((column - {one}, column - {other}) if {one, other} <= column else (column,))
        ]
        unique = list(dict.fromkeys(split))
        columns = [column for column in unique if not any(column < wider for wider in unique)]
    columns.sort(key=lambda column: sorted(at[name] for name in column))
    return {
        name: "".join(_letter(number) for number, column in enumerate(columns) if name in column) for name in models
    }


def _rounded(merits: Sequence[float]) -> list[float]:
    return np.round(np.asarray(merits, dtype=float), DIGITS).tolist()  # type: ignore[no-any-return]


def _letter(number: int) -> str:
    known = string.ascii_lowercase + string.ascii_uppercase
    return known[number] if number < len(known) else f"({number + 1})"


def _p_of_t(difference: float, error: float | None, sample: Sample) -> float | None:
    freedom = sample.units - sample.folds
    if error is None or error == 0 or freedom < 1:
        return None
    from scipy.special import stdtr

    return float(2 * stdtr(freedom, -difference / error))


def _units_needed(difference: float, error: float | None, sample: Sample) -> int | None:
    if error is None or error == 0 or difference <= 0:
        return None
    normal = NormalDist()
    deviates = normal.inv_cdf((1 + LEVEL) / 2) + normal.inv_cdf(POWER)
    needed = math.ceil(sample.units * (deviates * error / difference) ** 2)
    if needed > _MANY:
        return needed
    from scipy.special import stdtrit

    # few units: their spread is itself uncertain, as Student's t says
    for count in range(max(needed, sample.folds + 1), 2 * _MANY):
        freedom = count - sample.folds
        deviates = float(stdtrit(freedom, (1 + LEVEL) / 2) + stdtrit(freedom, POWER))
        if count >= sample.units * (deviates * error / difference) ** 2:
            return count
    return None
