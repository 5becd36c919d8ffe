"""A validation part for tasks that have none: a tenth of the training clips, the same for every model and seed.

Groups stay whole, and classes keep their shares as well as that allows: classes are served from the rarest on, each
from the clips not placed yet (iterative stratification: Sechidis et al., On the Stratification of Multi-Label Data,
ECML PKDD 2011, here for two parts and whole groups).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from aape_bench.randomness import stream_seed

SHARE = 0.1

Rows = npt.NDArray[np.int64]


def hold_out(
    task: str,
    ids: Sequence[str],
    classes: Sequence[tuple[str, ...]],
    groups: Sequence[str | None],
    train: Rows,
    share: float = SHARE,
) -> tuple[Rows, Rows]:
    """Split `train` (row positions) into what is trained on and what validates; drawn from the task's name alone.

    ids, classes, groups: of every row of the clip table. share: of the training clips that validates. Every class of
    which two groups (or clips) are there gets at least one clip in both parts where whole groups allow it. One clip or
    group alone stays in training.
    """
    units: dict[str, list[int]] = defaultdict(list)
    for row in train.tolist():
        units[f"clip {ids[row]}" if groups[row] is None else f"group {groups[row]}"].append(row)
    contents = [Counter(name for row in rows for name in classes[row]) for rows in units.values()]
    sizes = [len(rows) for rows in units.values()]
    # by a draw of each unit's own: a clip that is missing changes the places of no others
    draws = [stream_seed(0, "hold out", task, name) for name in units]
    order = sorted(range(len(sizes)), key=draws.__getitem__)
    held: set[int] = set()
    totals: Counter[str] = sum(contents, Counter())
    holders: dict[str, list[int]] = defaultdict(list)
    for unit in order:
        for name in contents[unit]:
            holders[name].append(unit)
    wanted = {name: max(1.0, share * count) for name, count in totals.items()}
    for name in sorted(totals, key=lambda one: (totals[one], one)):
        have = sum(contents[unit][name] for unit in holders[name] if unit in held)
        for unit in holders[name]:
            if have >= wanted[name]:
                break
            # a unit too large for what is wanted waits for a smaller one, unless nothing was found
            overshoots = have > 0 and have + contents[unit][name] > 1.5 * wanted[name]
            if unit in held or overshoots or _takes_the_last(unit, contents, holders, held):
                continue
            held.add(unit)
            have += contents[unit][name]
    clips = sum(sizes[unit] for unit in held)
    for unit in order:  # clips of no class, and what rounding left
        if clips + sizes[unit] > max(1.0, share * len(train)) or len(held) + 1 >= len(sizes):
            continue
        if unit not in held and not _takes_the_last(unit, contents, holders, held):
            held.add(unit)
            clips += sizes[unit]
    rows = list(units.values())
    valid = np.array(sorted(row for unit in held for row in rows[unit]), dtype=np.int64)
    return np.setdiff1d(train, valid), valid


def _takes_the_last(unit: int, contents: list[Counter[str]], holders: dict[str, list[int]], held: set[int]) -> bool:
    """Whether training would be left without one of the unit's classes."""
    return any(all(other == unit or other in held for other in holders[name]) for name in contents[unit])
