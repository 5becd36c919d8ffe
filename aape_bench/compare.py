"""Two results on the same test clips: is one better, and by how much?

The difference is taken on every bootstrap resample (see `aape_bench.resampling`), so what both results share, hard
clips for instance, cancels. compare(a, b) is compare(b, a) with its signs turned, to the bit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aape_bench.errors import UsageError
from aape_bench.metrics import check_metric, draws, score
from aape_bench.predictions import Predictions, subset
from aape_bench.resampling import DRAWS, EQUAL, LEVEL, SINGLE_UNIT, WIDE, quantile


@dataclass(frozen=True)
class McNemar:
    """McNemar's exact test on clips: of those that one alone has right, is either's share other than half?

    only_first, only_second: clips that the one has right and the other wrong. p: two-sided, binomial. It takes clips
    as independent: where they come in groups (speakers, sources), it is too sure.
    """

    only_first: int
    only_second: int
    p: float


@dataclass(frozen=True)
class Comparison:
    """`first` minus `second` by one metric, on the test clips that both have; None where undefined.

    clips: in common; first_clips, second_clips: of each. groups: among the common clips, None where the task has
    none. first, second: their scores on the common clips. low, high: the central 95 % of the bootstrap of the
    difference. p: two-sided, twice the smaller share of resamples on which the difference is not above, or not
    below, zero, one added to count and draws (Davison and Hinkley, Bootstrap Methods, 1997, section 4.2).
    reason: why something is None.
    """

    metric: str
    clips: int
    first_clips: int
    second_clips: int
    groups: int | None
    first: float | None
    second: float | None
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    mcnemar: McNemar | None
    reason: str | None


def compare(first: Predictions, second: Predictions, metric: str, task: str, seed: int) -> Comparison:
    """Compare two predictions of one task.

    Raises UsageError where they share no test clip, or disagree on a shared clip's label, fold or group.
    """
    check_metric(task, metric, first.kind)
    a, b = common_clips([first, second])
    scores = score(metric, a), score(metric, b)
    difference = scores[0] - scores[1] if np.isfinite(scores).all() else None
    low, high, p = None, None, None
    reasons = [] if difference is not None else [f"{metric} is infinite or undefined on these clips"]
    drawn = draws(metric, a, task, seed), draws(metric, b, task, seed)
    if drawn[0] is None or drawn[1] is None:
        reasons.append(SINGLE_UNIT)
    elif difference is not None:
        found = spread(drawn[0], drawn[1])
        low, high, p = found.low, found.high, found.p
        reasons += [found.reason] if found.reason else []
    groups = {group for group in a.groups if group is not None}
    finite = [float(value) if np.isfinite(value) else None for value in scores]
    return Comparison(
        metric=metric,
        clips=len(a.ids),
        first_clips=len(first.ids),
        second_clips=len(second.ids),
        groups=len(groups) or None,
        first=finite[0],
        second=finite[1],
        difference=difference,
        low=low,
        high=high,
        p=p,
        mcnemar=_mcnemar(a, b),
        reason="; ".join(reasons) or None,
    )


@dataclass(frozen=True)
class Spread:
    """What the bootstrap says of a difference: see `Comparison`. error: its standard deviation over the resamples."""

    low: float | None
    high: float | None
    p: float | None
    error: float | None
    reason: str | None


def spread(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> Spread:
    """Of `first` minus `second`, scores on the same resamples (DRAWS,) each."""
    with np.errstate(invalid="ignore"):
        apart = first - second
    if (apart == apart[0]).all():
        return Spread(None, None, None, None, EQUAL)
    low, high = _bound(apart), _minus(_bound(-apart))
    error = float(apart.std(ddof=1)) if np.isfinite(apart).all() else None
    return Spread(low, high, _p_value(apart), error, WIDE if low is None or high is None else None)


def common_clips(several: Sequence[Predictions]) -> list[Predictions]:
    """Predictions of one task on the clips that all have, in the same order whichever comes first.

    Raises UsageError where there is no such clip, or two disagree on a clip's label, fold or group.
    """
    first = several[0]
    for other in several[1:]:
        if first.kind != other.kind:
            raise UsageError(
                f"The first result is of a {first.kind} task, the second of a {other.kind} task, so they cannot be "
                "compared. Choose two results of the same task."
            )
    if any(list(other.ids) != list(first.ids) for other in several[1:]):
        several = _on_shared(several)
    for other in several[1:]:
        _check_same(several[0], other)
    return list(several)


def _on_shared(several: Sequence[Predictions]) -> list[Predictions]:
    rows = [{name: row for row, name in enumerate(of.ids)} for of in several]
    shared = [name for name in several[0].ids if all(name in of for of in rows[1:])]
    if not shared:
        raise UsageError(
            "The two results have no test clip in common, so they cannot be compared. Choose two results of the "
            "same task."
        )
    among = set(shared)
    if any(shared != [name for name in of.ids if name in among] for of in several[1:]):
        shared.sort()
    return [subset(of, np.array([row[name] for name in shared])) for of, row in zip(several, rows, strict=True)]


def _check_same(a: Predictions, b: Predictions) -> None:
    for what, values in {
        "label": (a.truth, b.truth),
        "fold": (a.folds.tolist(), b.folds.tolist()),
        "group": (a.groups, b.groups),
    }.items():
        for name, one, other in zip(a.ids, *values, strict=True):
            if one != other:
                raise UsageError(
                    f'The two results disagree on the {what} of the test clip {name}: "{one}" and "{other}". They '
                    "were made on different data or splits and cannot be compared; run one of them again."
                )


def _bound(apart: npt.NDArray[np.float64]) -> float | None:
    return quantile(apart, (1 - LEVEL) / 2, -np.inf)


def _minus(value: float | None) -> float | None:
    return None if value is None else 0.0 - value


def _p_value(apart: npt.NDArray[np.float64]) -> float:
    # an undefined difference speaks for neither side
    not_above, not_below = (~(apart > 0)).sum(), (~(apart < 0)).sum()
    return float(min(1.0, 2 * (min(not_above, not_below) + 1) / (DRAWS + 1)))


def _mcnemar(a: Predictions, b: Predictions) -> McNemar | None:
    """None but for multiclass tasks with one classifier each: several see the same clips, which is no new evidence."""
    if a.kind != "multiclass" or a.repeats > 1 or b.repeats > 1:
        return None
    from scipy.stats import binomtest

    right = [[said == true for said, true in zip(of.decided[0], of.truth, strict=True)] for of in (a, b)]
    outcomes = Counter(zip(*right, strict=True))
    only_first, only_second = outcomes[True, False], outcomes[False, True]
    discordant = only_first + only_second
    return McNemar(only_first, only_second, float(binomtest(only_first, discordant).pvalue) if discordant else 1.0)
