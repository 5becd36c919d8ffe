"""What a record looks like: the type of every entry (their meanings: `aape_bench.records.Record`)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, get_args

from aape_bench.task import Kind


@dataclass(frozen=True)
class Leaf:
    """A plain value. name: as in "is not ..."."""

    name: str
    fits: Callable[[Any], bool]


@dataclass(frozen=True)
class Maybe:
    """null, or that."""

    of: Any


@dataclass(frozen=True)
class Each:
    """An object whose values are all that."""

    of: Any


def _is_date(value: Any) -> bool:
    try:
        return isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False


def _is_hex(digits: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and re.fullmatch(rf"[0-9a-f]{{{digits}}}", value) is not None


TEXT = Leaf("a text", lambda value: isinstance(value, str))
NAME = Leaf("a text that is not empty", lambda value: isinstance(value, str) and value != "")
WHOLE = Leaf("a whole number from 0", lambda value: type(value) is int and value >= 0)
NUMBER = Leaf("a number", lambda value: type(value) in (int, float))
HASH = Leaf("a SHA-256", _is_hex(64))
KEY = Leaf("16 hex digits", _is_hex(16))
DATE = Leaf("a date with its zone", _is_date)
KIND = Leaf("a kind of task", lambda value: value in get_args(Kind))
OBJECT = Leaf("an object", lambda value: isinstance(value, dict))
ANY = Leaf("anything", lambda _: True)

INTERVAL = Maybe({"low": Maybe(NUMBER), "high": Maybe(NUMBER), "level": NUMBER, "method": TEXT})
MEASURED = {"score": Maybe(NUMBER), "interval": INTERVAL, "reason": Maybe(TEXT), "classes": Maybe(WHOLE)}
STAGE = {"seconds": NUMBER, "peak_memory_mb": Maybe(NUMBER), "threads": Maybe(WHOLE), "versions": Each(Maybe(TEXT))}

#: A list of one entry is of any number of such; a name with "?" may be absent. Further entries do no harm.
RECORD: dict[str, Any] = {
    "schema": WHOLE,
    "key": KEY,
    "date": DATE,
    "seed": WHOLE,
    "lineage": HASH,
    "model": {
        "label": NAME,
        "identity": NAME,
        "settings": OBJECT,
        "weights": NAME,
        "checkpoint": Maybe(ANY),
        "parameters": Maybe(WHOLE),
        "dimension": Maybe(WHOLE),
    },
    "task": {
        "name": NAME,
        "kind": KIND,
        "metric": NAME,
        "fingerprint": HASH,
        "clips": WHOLE,
        "expected": WHOLE,
        "partial": TEXT,
        "skipped": [{"clip": TEXT, "reason": TEXT}],
        "repeated": WHOLE,
        "deciding?": OBJECT,
    },
    "treatment": {"sample_rate": WHOLE, "audio": TEXT, "code": HASH, "role": TEXT, "precision": TEXT, "device": TEXT},
    "protocol": {
        "label": NAME,
        "name": NAME,
        "code": HASH,
        "settings": OBJECT,
        "choices": [OBJECT],
        "remarks": [TEXT],
    },
    "scores": {
        **MEASURED,
        "folds": [{"fold": TEXT, "score": Maybe(NUMBER), "clips": WHOLE, "classes": Maybe(WHOLE)}],
        "repeats": [Maybe(NUMBER)],
        "test_clips": WHOLE,
        "groups": Maybe(WHOLE),
        "chance": Maybe(NUMBER),
        "metrics": Each(MEASURED),
        "per_class": [{"name": TEXT, "clips": WHOLE}],
        "figures": Each(Maybe(NUMBER)),
    },
    "stages": {"embed?": STAGE, "fit": STAGE},
    "pretrain_overlap": TEXT,
    "predictions": NAME,
    "predictions_sha256": HASH,
    "seal?": HASH,
}


def misfits(value: Any, shape: Any = RECORD, at: str = "the record") -> Iterator[str]:
    """What does not look as it should, a sentence without its full stop each."""
    if isinstance(shape, Leaf):
        if not shape.fits(value):
            yield f"{at} is not {shape.name}"
    elif isinstance(shape, Maybe):
        if value is not None:
            yield from misfits(value, shape.of, at)
    elif isinstance(shape, list):
        if not isinstance(value, list):
            yield f"{at} is not a list"
            return
        for number, entry in enumerate(value):
            yield from misfits(entry, shape[0], f"{at}[{number}]")
    elif not isinstance(value, dict):
        yield f"{at} is not an object"
    elif isinstance(shape, Each):
        for name, entry in value.items():
            yield from misfits(entry, shape.of, f"{at}.{name}")
    else:
        for name, part in shape.items():
            plain = name.removesuffix("?")
            where = plain if at == "the record" else f"{at}.{plain}"
            if plain in value:
                yield from misfits(value[plain], part, where)
            elif plain == name:
                yield f"{where} is missing"
