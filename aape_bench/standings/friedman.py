"""Do models' ranks differ over tasks: Friedman's test and the critical difference of mean ranks.

Here the tasks are the sample (Demšar, Statistical comparisons of classifiers over multiple data sets, JMLR 7, 2006): it
says how models would fare on other tasks of the kind, if these were drawn from them at random.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aape_bench.resampling import LEVEL
from aape_bench.standings.differences import letters

Array = npt.NDArray[np.float64]

#: Up to so many tasks Friedman's test is rough (Demšar 2006, section 3.2.2).
FEW_TASKS = 10


@dataclass(frozen=True)
class Friedman:
    """Do mean ranks differ over tasks, and by how much must two (Demšar, JMLR 7, 2006, section 3.2.2)?

    chi2, p: Friedman's test; p_f: Iman and Davenport's, which is less timid. critical: Nemenyi's critical difference of
    mean ranks at 5 %. cliques: models within it, in order of mean rank, two or more each: the bars of the diagram.
    """

    chi2: float
    p: float
    p_f: float
    critical: float
    cliques: list[tuple[str, ...]]


def friedman_of(models: Sequence[str], ranks: Array) -> tuple[Friedman | None, list[str]]:
    """Friedman's test with Nemenyi's critical difference, and what limits it. ranks: (tasks, models), 1 the best."""
    tasks, count = ranks.shape
    if count < 3 or tasks < 2:
        return None, [f"no test of ranks over tasks: {count} models on {tasks} task(s) are too few (Demšar 2006)"]
    from scipy.stats import chi2, f, studentized_range

    mean = ranks.mean(axis=0)
    # equal ranks within a task lower the spread that chance alone makes, as in scipy.stats.friedmanchisquare
    spread = ((ranks - (count + 1) / 2) ** 2).sum() / (count - 1)
    if spread == 0:
        return None, ["no test of ranks over tasks: all models are equal on every task"]
    statistic = float(tasks**2 * ((mean - (count + 1) / 2) ** 2).sum() / spread)
    most = tasks * (count - 1)
    against = (tasks - 1) * statistic / (most - statistic) if statistic < most else np.inf
    quantile = float(studentized_range.ppf(LEVEL, count, np.inf)) / np.sqrt(2)
    critical = float(quantile * np.sqrt(count * (count + 1) / (6 * tasks)))
    said = []
    if tasks <= FEW_TASKS:
        said.append(f"{tasks} tasks are few for a test of ranks over tasks, which wants more than ten (Demšar 2006)")
    if critical >= count - 1:
        said.append(
            f"with {tasks} tasks no two of {count} models could be told apart by mean ranks: the critical difference "
            f"{critical:.2f} is more than ranks can differ"
        )
    return Friedman(
        chi2=statistic,
        p=float(chi2.sf(statistic, count - 1)),
        p_f=float(f.sf(against, count - 1, (count - 1) * (tasks - 1))),
        critical=critical,
        cliques=_cliques(models, mean, critical),
    ), said


def _cliques(models: Sequence[str], mean: Array, critical: float) -> list[tuple[str, ...]]:
    order = sorted(range(len(models)), key=lambda at: (mean[at], models[at]))
    apart = {
        (models[one], models[other])
        for number, one in enumerate(order)
        for other in order[number + 1 :]
        if mean[other] - mean[one] > critical
    }
    groups = letters([models[at] for at in order], apart)
    shared: dict[str, list[str]] = defaultdict(list)
    for at in order:
        for letter in groups[models[at]]:
            shared[letter].append(models[at])
    return [tuple(clique) for _, clique in sorted(shared.items()) if len(clique) > 1]
