"""Encoders whose weights their authors published, and the user has downloaded: read safely, put under our names.

Importing this file does not import torch.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aape_bench.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

#: Where files of training programs keep the state dict.
_HELD_BY = ("model", "state_dict")


@dataclass(frozen=True)
class PublishedWeights:
    """Weights that cannot come with the package.

    get:  where they are, for a message. load: `(encoder, tensors, path) -> None` puts the file's tensors, by their
          published names, into the encoder; raises CheckpointError where they do not fit.
    """

    get: str
    load: Callable[[Any, Mapping[str, Tensor], Path], None]


def is_published_file(path: Path) -> bool:
    """Whether a file is something else than a checkpoint written by this package."""
    from aape_bench.checkpoint import read_header

    try:
        return read_header(path).model == ""
    except CheckpointError:
        return path.is_file()  # what else is wrong with it is said when it is read


def read_published(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of a pickled state dict, alone or in what a training wrote.

    No code is run. Raises CheckpointError where the file is damaged or holds anything that only code could restore.
    """
    import torch

    with path.open("rb") as handle:
        start = handle.read(9)
    if start[8:] == b"{":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return dict(load_file(path))
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"The checkpoint {path} is damaged ({error}). Copy the file again.") from None
    try:
        # a Namespace of settings holds whatever names and values it is given, and does nothing with them
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle may fail anywhere
        raise CheckpointError(_not_read(path, error)) from None
    for name in _HELD_BY:
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
    named = content.items() if isinstance(content, dict) else ()
    tensors = {str(name): value for name, value in named if isinstance(value, torch.Tensor)}
    if not tensors:
        raise CheckpointError(f"The checkpoint {path} holds no weights by name. Name the file that was published.")
    return tensors


def _not_read(path: Path, error: Exception) -> str:
    what = str(error).strip().partition("\n")[0]
    return (
        f"The checkpoint {path} cannot be read without running code that it names, or is damaged ({what}); nothing was "
        'loaded. If you trust its source, convert it once, in the environment that it was made for: python -c "import '
        "torch, safetensors.torch as s; m = torch.load('FILE', map_location='cpu', weights_only=False)['model']; "
        "s.save_file({k: v.clone() for k, v in m.items() if isinstance(v, torch.Tensor)}, 'weights.safetensors')\""
    )
