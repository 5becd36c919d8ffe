"""Every check on one model, and hearvalidator's verdict beside them. (Imports torch.)"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aape_bench.errors import BenchError
from aape_bench.validation.answers import Outcome, Verdict
from aape_bench.validation.checks import CHECKS, Check
from aape_bench.validation.peer import hearvalidator_verdicts
from aape_bench.validation.subject import Subject


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    check: str
    verdict: Verdict
    reason: str


@dataclass(frozen=True)
class Report:
    """What was found out about a model."""

    label: str
    rows: tuple[Row, ...]

    @property
    def failed(self) -> bool:
        return bool(self.count("fail"))

    def count(self, verdict: Verdict) -> int:
        return sum(row.verdict == verdict for row in self.rows)

    def verdict(self, check: str) -> Verdict:
        """That of a check by its name."""
        return next(row.verdict for row in self.rows if row.check == check)


#: Checks that `validate` makes of one model.
COUNT = len(CHECKS) + 2


def validate(subject: Subject, advance: Callable[[int], None] = lambda _: None, peer: bool = True) -> Report:
    """Make every check; `advance(1)` is called after each. peer: ask hearvalidator, too."""
    if subject.failure:
        return Report(subject.label, (Row("loading", "fail", subject.failure),))
    rows = [Row("loading", "pass", f"a {type(subject.model).__name__}")]
    advance(1)
    good = set[str]()
    for check in CHECKS:
        outcome = _look(check, subject, good)
        if outcome.verdict in ("pass", "warn"):
            good.add(check.name)
        rows.append(Row(check.name, outcome.verdict, outcome.reason))
        advance(1)
    if peer:
        (outcome,) = hearvalidator_verdicts([subject])
        rows.append(Row("hearvalidator", outcome.verdict, outcome.reason))
    advance(1)
    return Report(subject.label, tuple(rows))


def _look(check: Check, subject: Subject, good: set[str]) -> Outcome:
    if lacking := [name for name in check.needs if name not in good]:
        return Outcome("skip", f'not judged without "{lacking[0]}"')
    try:
        return check.look(subject)
    except BenchError as error:
        return Outcome("fail", str(error))
    except (Exception, SystemExit) as error:  # a model may fail in any way
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}, line {last.lineno}"
        return Outcome("fail", f"{type(error).__name__}: {' '.join(str(error).split())[:300]} ({where})")
