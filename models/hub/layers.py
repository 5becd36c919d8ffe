"""Several layers of one hub model, read in one pass. (Imports torch.)"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from aape_bench.encoder import Encoder
from aape_bench.errors import UsageError
from aape_bench.models.hub.encoder import HubEncoder

_T = TypeVar("_T")


class Layers(Encoder):
    """Embeddings are those of every layer side by side, to the bit: pooling is each layer's own.

    sizes: of each layer's embedding, None where the model has no such layer; that is left out.
    """

    def __init__(self, encoder: HubEncoder, layers: Sequence[int | str]) -> None:
        super().__init__()
        self.encoder = encoder
        self.sample_rate, self.takes_lengths = encoder.sample_rate, encoder.takes_lengths
        self.random_weights = encoder.random_weights
        self.layers: list[int | str] = []
        self.sizes: list[int | None] = []
        for layer in layers:
            try:
                encoder.read_layer(layer)
            except UsageError:
                self.sizes.append(None)
            else:
                self.layers.append(layer)
                self.sizes.append(encoder.scene_embedding_size)
        self.scene_embedding_size = self.timestamp_embedding_size = sum(size or 0 for size in self.sizes)

    def scene_embeddings(self, audio: Tensor, lengths: Tensor | None = None) -> Tensor:
        """As `Encoder`."""
        return torch.cat(list(self._each(lambda: self.encoder.scene_embeddings(audio, lengths))), dim=1)

    def timestamp_embeddings(self, audio: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As `Encoder`."""
        parts = list(self._each(lambda: self.encoder.timestamp_embeddings(audio, lengths)))
        return torch.cat([embeddings for embeddings, _ in parts], dim=2), parts[0][1]

    def _each(self, embed: Callable[[], _T]) -> Iterator[_T]:
        with self.encoder.one_pass() as read:
            for layer in self.layers:
                read(layer)
                yield embed()
