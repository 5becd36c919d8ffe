"""What a training resumes from: tensors, numbers, text, lists and dictionaries of them. (Imports torch on use.)

Nothing is ever unpickled: states load with `weights_only=True`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aape_bench.storage import atomic_write


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write it, whole or not at all. Raises StorageError."""
    import torch

    with atomic_write(path) as handle:
        try:
            torch.save(dict(state), handle)
        except RuntimeError as error:
            # torch's archive only counts the bytes that are missing; what the disk said is behind that
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def read_state(path: Path) -> dict[str, Any]:
    """The state, on the CPU. Raises whatever a damaged archive leads to, or OSError."""
    import torch

    return dict(torch.load(path, map_location="cpu", weights_only=True))
