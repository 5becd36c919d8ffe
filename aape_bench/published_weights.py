"""Encoders whose weights their authors published, and the user has downloaded: read safely, put under our names.

Importing this file does not import torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aape_bench.checkpoint import read_header, why_not_unpickled
from aape_bench.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

#: Where files of training programs keep the state dict, and what they were told.
_HELD_BY = ("model", "state_dict", "teacher")
_SETTINGS = ("cfg", "hyper_parameters")
#: What such files hold besides, of no use here: settings of a parser, logged numbers of NumPy's types.
_OF_NO_USE = ("argparse.Namespace", "numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")


@dataclass(frozen=True)
class PublishedWeights:
    """Weights that cannot come with the package.

    get:  where they are, for a message. load: `(encoder, tensors, path) -> None` puts the file's tensors, by their
          published names, into the encoder; raises CheckpointError where they do not fit. trained_with: settings that
          no shape tells, by the file's own names: where the file states them, they must be these.
    """

    get: str
    load: Callable[[Any, Mapping[str, Tensor], Path], None]
    trained_with: Mapping[str, Any] = field(default_factory=dict)


def is_published_file(path: Path) -> bool:
    """Whether a file is something else than a checkpoint written by this package."""

    try:
        return read_header(path).model == ""
    except CheckpointError:
        return path.is_file()  # what else is wrong with it is said when it is read


class _OfNoUse:
    """Stands for a thing in a pickle that is not restored."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


def read_published(path: Path, trained_with: Mapping[str, Any] | None = None) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of a pickled state dict, alone or in what a training wrote.

    No code is run. Raises CheckpointError where the file is damaged, holds anything that only code could restore, or
    states a setting otherwise than `trained_with`.
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
        with torch.serialization.safe_globals([(_OfNoUse, name) for name in _OF_NO_USE]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle may fail anywhere
        raise CheckpointError(_not_read(path, error)) from None
    _check_settings(content, trained_with or {}, path)
    for name in _HELD_BY:
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
    named = content.items() if isinstance(content, dict) else ()
    tensors = {str(name): value for name, value in named if isinstance(value, torch.Tensor)}
    if not tensors:
        raise CheckpointError(f"The checkpoint {path} holds no weights by name. Name the file that was published.")
    return tensors


def renamed(name: str, names: Iterable[tuple[str, str]]) -> str | None:
    """A weight's name with the first of the patterns that it begins with replaced by ours; None where it has none."""
    for pattern, ours in names:
        if re.match(pattern, name):
            return re.sub("^" + pattern, ours, name)
    return None


def _check_settings(content: Any, wanted: Mapping[str, Any], path: Path) -> None:
    for held in _SETTINGS:
        stated = content.get(held) if isinstance(content, dict) else None
        for name, value in wanted.items():
            theirs = stated.get(name) if isinstance(stated, dict) else None
            if isinstance(theirs, bool | int | float | str) and theirs != value:
                raise CheckpointError(
                    f"The checkpoint {path} was trained with {name}={theirs}; this encoder computes {name}={value}, "
                    "as the published weights that are known here have it. Name one of those."
                )


def _not_read(path: Path, error: Exception) -> str:
    what = why_not_unpickled(error)
    return (
        f"The checkpoint {path} cannot be read without running code that it names, or is damaged ({what}); nothing was "
        'loaded. If you trust its source, convert it once, in the environment that it was made for: python -c "import '
        "torch, safetensors.torch as s; m = torch.load('FILE', map_location='cpu', weights_only=False); "
        "m = next((m[k] for k in ('model', 'state_dict', 'teacher') if k in m), m); "
        "s.save_file({k: v.clone() for k, v in m.items() if isinstance(v, torch.Tensor)}, 'weights.safetensors')\""
    )
