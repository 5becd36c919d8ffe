"""Checkpoints: safetensors with the model's name, resolved config and card in the header.

The header is read without torch, so planning knows a checkpoint's config. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aape_bench.errors import CheckpointError
from aape_bench.storage import atomic_write

if TYPE_CHECKING:
    import torch

FORMAT = 1
_KEY = "aape_bench"
#: The card's field that says that weights were drawn from a seed and not trained.
RANDOM_WEIGHTS = "random_weights"
_LARGEST_HEADER = 100_000_000  # safetensors' own limit
#: How files begin that `torch.save` wrote.
_PICKLES = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


@dataclass(frozen=True)
class CheckpointHeader:
    """What a checkpoint says of itself.

    model: plugin name, or "" for a safetensors file written by something else.
    config: resolved settings by name. card: free description (data, steps, scores, overlap hashes).
    """

    model: str
    config: Mapping[str, Any]
    card: Mapping[str, Any]


def save_checkpoint(
    path: Path, module: torch.nn.Module, model: str, config: Mapping[str, Any], card: Mapping[str, Any]
) -> None:
    """Write a module's weights with its name, config and card, atomically."""
    from safetensors.torch import save

    about = json.dumps({"format": FORMAT, "model": model, "config": dict(config), "card": dict(card)}, sort_keys=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    with atomic_write(path) as handle:
        handle.write(save(tensors, metadata={_KEY: about}))


def is_pickle(path: Path) -> bool:
    """Whether a file begins as those that `torch.save` writes."""
    try:
        with path.open("rb") as handle:
            return handle.read(2) in _PICKLES
    except OSError:
        return False


def why_not_unpickled(error: Exception) -> str:
    """What is wrong with a pickle that torch refused to read, less torch's advice to read it without care."""
    text = str(error)
    if found := re.search(r"GLOBAL (\S+)", text):
        return f"it names {found[1]}, which only code could restore"
    if "TorchScript" in text:
        return "it is a TorchScript program"
    if "weights_only" in text or not text:
        return "it is damaged, or holds no weights"
    first = text.strip().splitlines()[0].partition(". ")[0]
    return first if " " in first else f"it is damaged, {type(error).__name__}: {first}"


def read_header(path: Path) -> CheckpointHeader:
    """The header of a safetensors file. Raises CheckpointError where the file is missing or something else."""
    try:
        if path.exists() and not path.is_file():
            raise CheckpointError(f"The checkpoint {path} is no regular file. Correct --weights.")
        with path.open("rb") as handle:
            start = handle.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 2 <= length <= _LARGEST_HEADER or (text := handle.read(length))[:1] != b"{":
                raise CheckpointError(_not_safetensors(path, start))
        header = json.loads(text)
        about = json.loads(header.pop("__metadata__", {}).get(_KEY, "{}"))
        if about.get("format", FORMAT) != FORMAT:
            raise CheckpointError(
                f"The checkpoint {path} has format {about['format']}, this version reads {FORMAT}. Use the version "
                "that wrote it."
            )
        return CheckpointHeader(
            model=str(about.get("model", "")),
            config=dict(about.get("config", {})),
            card=dict(about.get("card", {})),
        )
    except FileNotFoundError:
        raise CheckpointError(f"There is no checkpoint {path}. Correct --weights.") from None
    except OSError as error:
        raise CheckpointError(f"The checkpoint {path} cannot be read ({error.strerror or error}).") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CheckpointError(
            f"The header of the checkpoint {path} is damaged or was not written by a safetensors writer. "
            "Copy the file again."
        ) from None


def load_checkpoint(module: torch.nn.Module, path: Path) -> None:
    """Load weights into a module of exactly the same names and shapes, or raise CheckpointError saying what differs."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    read_header(path)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"The checkpoint {path} is damaged ({error}). Copy the file again.") from None
    load_tensors(module, tensors, path)


def load_tensors(module: torch.nn.Module, tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """As `load_checkpoint`, of tensors that were read from the file and have the module's names."""
    own = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    theirs = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if own != theirs:
        raise CheckpointError(
            f"The checkpoint {path} does not fit the model: {_first_difference(own, theirs)}. Name the settings it "
            "was trained with (--set), or another checkpoint."
        )
    for name, tensor in tensors.items():
        wanted = module.state_dict()[name]
        whole = not (tensor.is_floating_point() or tensor.is_complex())
        if not (is_common_float(tensor) if wanted.is_floating_point() else whole):
            raise CheckpointError(
                f"The checkpoint {path} does not fit the model: {name} is of type {tensor.dtype}. Convert it to "
                f"{wanted.dtype}."
            )
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise CheckpointError(
                f"The checkpoint {path} holds NaN or infinite values, in {name}: the training that wrote it had "
                "failed. Use an earlier checkpoint."
            )
    module.load_state_dict(dict(tensors))


def is_common_float(tensor: torch.Tensor) -> bool:
    """Whether a tensor is of 16 to 64 bits of floating point; torch can hardly compute with the others."""
    return str(tensor.dtype) in ("torch.float64", "torch.float32", "torch.float16", "torch.bfloat16")


def _first_difference(own: Mapping[str, tuple[int, ...]], theirs: Mapping[str, tuple[int, ...]]) -> str:
    for name, shape in own.items():
        if name not in theirs:
            return f"it has no {name} {list(shape)}"
        if theirs[name] != shape:
            return f"{name} is {list(theirs[name])} there and {list(shape)} in the model"
    extra = next(name for name in theirs if name not in own)
    return f"the model has no {extra} {list(theirs[extra])}"


def _not_safetensors(path: Path, start: bytes) -> str:
    pickled = start[:2] in _PICKLES
    what = "a pickle (a .pt or .pth file), which could run code when opened" if pickled else "no safetensors file"
    return (
        f"The checkpoint {path} is {what}. Nothing was loaded from it: convert the weights to safetensors with the "
        "code that wrote them."
    )
