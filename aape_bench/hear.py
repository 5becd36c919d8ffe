"""HEAR modules in and out: the API of the HEAR 2021 challenge (https://hearbenchmark.com/hear-api.html).

In: `HearEncoder` makes an Encoder of any module with `load_model`, `get_scene_embeddings` and
`get_timestamp_embeddings`. Out: `hear_functions(plugin)` gives a plugin's own module those three functions.
Importing this file does not import torch.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from aape_bench.errors import ModelError, UsageError
from aape_bench.plugin import EncoderPlugin

if TYPE_CHECKING:
    from torch import Tensor

    from aape_bench.encoder import Encoder

_FUNCTIONS = ("load_model", "get_scene_embeddings", "get_timestamp_embeddings")
_SIZES = ("sample_rate", "scene_embedding_size", "timestamp_embedding_size")


def hear_functions(
    plugin: EncoderPlugin,
) -> tuple[
    Callable[[str], Encoder],
    Callable[[Tensor, Encoder], Tensor],
    Callable[[Tensor, Encoder], tuple[Tensor, Tensor]],
]:
    """`load_model, get_scene_embeddings, get_timestamp_embeddings` of a plugin.

    `load_model("")` is the plugin's default weights, else seeded random ones; any other text is a checkpoint.
    """

    def load_model(model_file_path: str = "") -> Encoder:
        """The encoder, in evaluation mode on the CPU."""
        from aape_bench.selection import select_model

        weights = model_file_path or "default"
        return select_model(plugin.name, {}, weights if plugin.has_weights else "default", seed=0).build()

    def get_scene_embeddings(audio: Tensor, model: Encoder) -> Tensor:
        """(n, samples) -> (n, scene_embedding_size), on the device of the audio."""
        import torch

        with torch.inference_mode():
            return model.to(audio.device).scene_embeddings(audio)

    def get_timestamp_embeddings(audio: Tensor, model: Encoder) -> tuple[Tensor, Tensor]:
        """(n, samples) -> (n, t, timestamp_embedding_size) and centre times in ms (n, t)."""
        import torch

        with torch.inference_mode():
            return model.to(audio.device).timestamp_embeddings(audio)

    return load_model, get_scene_embeddings, get_timestamp_embeddings


def import_hear_module(name: str) -> ModuleType:
    """Import a HEAR module by dotted name. Raises UsageError or ModelError in plain words."""
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise UsageError(
                f'The HEAR module "{name}" is not installed here. Install it with pip, or put its folder on PYTHONPATH.'
            ) from None
        raise ModelError(f'The HEAR module "{name}" needs {error.name}, which is not installed.') from error
    except Exception as error:  # any module may fail in its own way
        raise ModelError(f'The HEAR module "{name}" cannot be imported: {type(error).__name__}: {error}') from error
    if missing := [function for function in _FUNCTIONS if not callable(getattr(module, function, None))]:
        raise ModelError(f'"{name}" is not a HEAR module: it has no function {", ".join(missing)}.')
    return module


def load_hear_encoder(name: str, weights: Path | None) -> Encoder:
    """An Encoder around the HEAR module of that name, loaded with its own or the given weights."""
    import torch

    from aape_bench.encoder import Encoder

    module = import_hear_module(name)
    try:
        model: Any = module.load_model(str(weights)) if weights is not None else module.load_model()
    except Exception as error:
        what = f"with the weights {weights}" if weights else "without weights"
        raise ModelError(
            f'The HEAR module "{name}" could not be loaded {what}: {type(error).__name__}: {error}'
        ) from error
    sizes = {}
    for size in _SIZES:
        value = getattr(model, size, None)
        if not isinstance(value, int) or value <= 0:
            raise ModelError(f'The model of the HEAR module "{name}" has no whole number {size}, as HEAR asks.')
        sizes[size] = value

    class HearEncoder(Encoder):
        takes_lengths = False

        def __init__(self) -> None:
            super().__init__()
            self.model = model
            self.sample_rate = sizes["sample_rate"]
            self.scene_embedding_size = sizes["scene_embedding_size"]
            self.timestamp_embedding_size = sizes["timestamp_embedding_size"]

        def scene_embeddings(self, audio: Tensor, lengths: Tensor | None = None) -> Tensor:  # noqa: ARG002
            return torch.as_tensor(module.get_scene_embeddings(audio, self.model))

        def timestamp_embeddings(
            self,
            audio: Tensor,
            lengths: Tensor | None = None,  # noqa: ARG002
        ) -> tuple[Tensor, Tensor]:
            embeddings, times = module.get_timestamp_embeddings(audio, self.model)
            return torch.as_tensor(embeddings), torch.as_tensor(times)

    return HearEncoder().eval()


def loaded_state_digest(encoder: Encoder) -> str:
    """SHA-256 over an encoder's parameters and buffers as loaded, for models that have no file to hash."""
    import torch

    total = hashlib.sha256()
    for name, tensor in encoder.state_dict().items():
        total.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
