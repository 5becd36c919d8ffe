"""Does a record follow from its predictions, and is it as it was written?

Nothing here takes a record's word: files are found where its contents say that they are, hashes are taken, and scores,
intervals, folds and classes are computed again from the predictions. A seal or hash catches damage and edits by hand;
it is no signature, and who makes up predictions can make up all the rest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aape_bench import records
from aape_bench.errors import BenchError, StorageError
from aape_bench.exchange import files
from aape_bench.exchange.shape import misfits
from aape_bench.identity import digest, file_digest
from aape_bench.metrics import METRICS
from aape_bench.predictions import Predictions
from aape_bench.predictions import read as read_predictions
from aape_bench.task import Task

#: Scores that differ by less were summed in another order: versions of libraries do that.
ROUNDING = 1e-9
_SHOWN = 3


@dataclass
class Finding:
    """What one record came to. path: relative to the results folder. problems: each a sentence; none: it is sound.

    remarks: what could not be checked, or differs only in the last digits.
    """

    path: str
    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def verify(folder: Path) -> Iterator[Finding]:
    """Every record of a results folder, then every file of predictions that no record names.

    Raises UsageError where the folder has no records.
    """
    paths = files.record_files(folder)
    named = set()
    for path in paths:
        finding, record = verify_record(folder, path)
        if record is not None:
            named.add(record["predictions"])
        yield finding
    for file in sorted((folder / "predictions").glob("*/*/[!.]*")):
        relative = file.relative_to(folder).as_posix()
        if relative not in named:
            yield Finding(relative, [], ["no record names these predictions"])


def verify_record(folder: Path, path: str) -> tuple[Finding, dict[str, Any] | None]:
    """One record; and its contents, where they have the form of a record."""
    finding = Finding(path)
    try:
        record = contents(folder, path)
    except StorageError as error:
        return Finding(path, [str(error)]), None
    try:
        finding.problems += unlike_written(record, path)
        deciding = _deciding(record, finding)
        predictions = predictions_of(folder, record)
        finding.problems += _disagreements(record, predictions) or _score_problems(
            record, deciding, predictions, finding.remarks
        )
    except BenchError as error:
        finding.problems.append(str(error))
    except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
        finding.problems.append(f"It cannot be checked to the end ({type(error).__name__}: {error}).")
    return finding, record


def contents(folder: Path, path: str) -> dict[str, Any]:
    """A record's contents. Raises StorageError where they have not the form of a record of this schema."""
    value = files.read_json(files.inside(folder, path, files.MOST_RECORD))
    if not isinstance(value, dict):
        raise StorageError("It is no record.")
    if value.get("schema") != records.SCHEMA:
        raise StorageError(f"It has schema {value.get('schema')!r}; this version reads {records.SCHEMA}.")
    if wrong := list(misfits(value)):
        more = f", and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise StorageError(f"It is no record: {'; '.join(wrong[:_SHOWN])}{more}.")
    return value


def unlike_written(record: dict[str, Any], path: str) -> list[str]:
    """Whether seal and paths are those of these contents."""
    problems = []
    rest = {name: value for name, value in record.items() if name != "seal"}
    if "seal" not in record:
        problems.append("It has no seal, so edits would not show.")
    elif record["seal"] != digest(rest):
        problems.append("It was edited or damaged: its seal is of other contents.")
    label = record["model"]["label"]
    expected = records.record_paths(record["task"]["name"], record["protocol"]["label"], label, record["key"])
    if path != expected[0].as_posix():
        problems.append(f"Its contents belong into {expected[0].as_posix()}.")
    if record["predictions"] != expected[1].as_posix():
        problems.append(f'It names the predictions "{record["predictions"]}", not its own, {expected[1].as_posix()}.')
    return problems


def predictions_of(folder: Path, record: dict[str, Any]) -> Predictions:
    """The record's predictions. Raises StorageError where they are missing, other ones, or not safe to read."""
    path = files.inside(folder, record["predictions"], files.MOST_PREDICTIONS)
    if file_digest(path) != record["predictions_sha256"]:
        raise StorageError(f"The predictions {record['predictions']} are not those that it was written with.")
    files.check_unpacked(path)
    return read_predictions(path)


def _deciding(record: dict[str, Any], finding: Finding) -> dict[str, Any]:
    """What of the task decides, by which the key comes out as it is; empty where that is not known."""
    task, protocol = record["task"], record["protocol"]
    known = task.get("deciding")
    installed = _installed(task["name"])
    deciding = known if known is not None or installed is None else records.part_of_key(installed)
    if deciding is None:
        finding.remarks.append("its key was not checked: it does not say what of the task is part of it")
        return {}
    description = {name: protocol[name] for name in ("name", "code", "settings")}
    identity, data = record["model"]["identity"], task["fingerprint"]
    key = records.result_key(identity, data, deciding, record["treatment"], description, record["seed"])
    if key == record["key"]:
        return dict(deciding)
    if known is None:
        finding.remarks.append("its key was not checked: it is of another version of the task, or of other contents")
    else:
        finding.problems.append("Its key is not that of the model, data, treatment, protocol and seed that it names.")
    return {}


def _disagreements(record: dict[str, Any], predictions: Predictions) -> list[str]:
    """Where record and predictions say different things of the clips and classes, besides the scores."""
    p, task, scores = predictions, record["task"], record["scores"]
    problems = []
    if p.kind != task["kind"]:
        problems.append(f"Its task is {task['kind']}, its predictions are {p.kind}.")
    if (names := [one["name"] for one in scores["per_class"]]) != list(p.classes):
        if sorted(names) == sorted(p.classes):
            at = next(at for at, (one, other) in enumerate(zip(names, p.classes, strict=True)) if one != other)
            problems.append(
                f'The order of its classes is mixed up: class {at + 1} is "{names[at]}" in the record and '
                f'"{p.classes[at]}" in the predictions.'
            )
        else:
            problems.append("The classes of the record are not those of the predictions.")
    if len(set(p.ids)) < len(p.ids):
        problems.append("A test clip stands in the predictions twice.")
    if (clip := _undecided(p)) is not None:
        row, said, best = clip
        problems.append(
            f'The clip {p.ids[row]} is taken for "{said}", but the highest of its scores is of the class "{best}": the '
            "columns of the classes are mixed up, or scores were edited."
        )
    return problems


def _undecided(p: Predictions) -> tuple[int, str, str] | None:
    """The first clip that is not taken for the class of its highest score: row, what it is taken for, that class."""
    if p.kind != "multiclass" or p.scores is None:
        return None
    for scores, decided in zip(p.scores, p.decided, strict=True):
        best = [p.classes[at] for at in scores.argmax(axis=1)]
        for row, (one, other) in enumerate(zip(decided, best, strict=True)):
            if one != other:
                return row, one, other
    return None


def _score_problems(
    record: dict[str, Any], deciding: dict[str, Any], predictions: Predictions, remarks: list[str]
) -> list[str]:
    from aape_bench.evaluate import scores_of

    stated, about = record["scores"], record["task"]
    names = set(stated["metrics"])
    if unknown := sorted(names - set(METRICS) - set(predictions.values)):
        return [f'It has scores by "{unknown[0]}", which is no metric that is known here.']
    figures = None
    if stated["figures"]:
        installed = _installed(about["name"])
        if installed is not None and records.part_of_key(installed)["figures"] == deciding.get("figures"):
            figures = installed.figures
        else:
            remarks.append("the task's own figures were not checked: they are of another version of the task")
    task = Task(
        name=about["name"], title="", domain="other", kind=about["kind"], metric=about["metric"], split_scheme="parts",
        clips=0, classes=0, clip_seconds=None, read=_nothing, figures=figures,
        metrics=tuple(name for name in stated["metrics"] if name in METRICS),
    )  # fmt: skip
    computed = scores_of(task, record["seed"], predictions)
    if figures is None:
        computed["figures"] = stated["figures"]
    apart = list(differences(stated, computed, "scores"))
    if not apart:
        return []
    if all(one.rounding for one in apart):
        remarks.append(f"{len(apart)} numbers differ in their last digits: other versions of libraries made them")
        return []
    apart = [one for one in apart if not one.rounding]
    more = f", and {len(apart) - _SHOWN} more" if len(apart) > _SHOWN else ""
    return [f"Its predictions do not give its scores: {'; '.join(map(str, apart[:_SHOWN]))}{more}."]


@dataclass(frozen=True)
class Apart:
    """One entry that differs. rounding: only as sums in another order do."""

    at: str
    stated: Any
    computed: Any

    @property
    def rounding(self) -> bool:
        return close(self.stated, self.computed, ROUNDING)

    def __str__(self) -> str:
        return f"{self.at} is {_short(self.stated)}, not {_short(self.computed)}"


def differences(stated: Any, computed: Any, at: str) -> Iterator[Apart]:
    """Every entry in which two JSON values differ."""
    if isinstance(stated, dict) and isinstance(computed, dict):
        for name in dict.fromkeys([*stated, *computed]):
            yield from differences(stated.get(name), computed.get(name), f"{at}.{name}" if at else name)
    elif isinstance(stated, list | tuple) and isinstance(computed, list | tuple) and len(stated) == len(computed):
        for number, (one, other) in enumerate(zip(stated, computed, strict=True)):
            yield from differences(one, other, f"{at}[{number}]")
    elif stated != computed:
        yield Apart(at, stated, computed)


def close(one: Any, other: Any, within: float) -> bool:
    """Whether both are numbers and hardly differ, relative to 1 or to the larger."""
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in (one, other)):
        return False
    try:
        return math.isclose(one, other, rel_tol=within, abs_tol=within)
    except OverflowError:  # a whole number beyond any score
        return False


def _installed(name: str) -> Task | None:
    """The task of that name, where this installation has it."""
    from aape_bench import registry

    if name not in registry.task_names():
        return None
    try:
        return registry.task(name)
    except BenchError:
        return None


def _nothing(folder: Path) -> Any:
    raise AssertionError(f"{folder} is not read: the predictions are there")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
