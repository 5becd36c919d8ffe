"""Names for content: two things with the same digest may stand for each other."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.util
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from aape_bench.errors import ModelError


def digest(value: Any) -> str:
    """SHA-256 (hex) of a value's canonical JSON; dataclasses count as their fields."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes, read in blocks."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def source_digest(modules: Iterable[str]) -> str:
    """SHA-256 (hex) over the source text of modules, found by name without importing them."""
    return digest({name: _module_digest(name) for name in modules})


# read once: code edited while a run goes on is not the code that runs
@functools.cache
def _module_digest(module: str) -> str:
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise ModelError(
            f'The source of module "{module}" was not found, so results that depend on it cannot be '
            "identified. Correct the `sources` that the plugin declares."
        )
    return file_digest(Path(spec.origin))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"{type(value).__name__} has no canonical form")
