"""HEAR modules out: the three functions of HEAR 2021 for any encoder plugin.

https://hearbenchmark.com/hear-api.html. A plugin's module ends with
`load_model, get_scene_embeddings, get_timestamp_embeddings = hear_functions(plugin)` and then is a HEAR module.
Importing this file does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from aape_bench.plugin import EncoderPlugin

if TYPE_CHECKING:
    from torch import Tensor

    from aape_bench.encoder import Encoder


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
        from aape_bench.selection import choose_plugin

        weights = model_file_path or "default"
        choice = choose_plugin(plugin, {}, weights if plugin.has_weights else "default", seed=0)
        encoder = choice.build()
        # said to whoever evaluates the module: HEAR has no word for it
        encoder.random_weights = choice.weights == "random"
        return encoder

    return load_model, get_scene_embeddings, get_timestamp_embeddings


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
