"""The fit of one rotation on disk, where an unfinished result keeps it until its record is written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aape_bench.problem import Fit
from aape_bench.storage import atomic_write

_VALUES = "values."


def write_fit(path: Path, fit: Fit, about: Mapping[str, Any]) -> None:
    """Write a fit with whatever else of its making is plain JSON. Raises StorageError."""
    text = json.dumps({**about, "choice": fit.choice, "remarks": fit.remarks})
    values: dict[str, Any] = {_VALUES + name: array for name, array in fit.values.items()}
    with atomic_write(path) as handle:
        np.savez_compressed(handle, test=fit.test, validation=fit.validation, about=np.array(text), **values)


def read_fit(path: Path) -> tuple[Fit, dict[str, Any]] | None:
    """The fit to the last bit, and what was said of its making; None where it is not there, or damaged and deleted."""
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as archive:
            about = json.loads(str(archive["about"]))
            values = {name.removeprefix(_VALUES): archive[name] for name in archive if name.startswith(_VALUES)}
            fit = Fit(archive["test"], archive["validation"], about.pop("choice"), list(about.pop("remarks")), values)
            return fit, dict(about)
    except Exception:  # of a machine that crashed, and zip files fail in many ways: the rotation is fitted again
        path.unlink(missing_ok=True)
        return None
