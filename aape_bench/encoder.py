"""The Encoder contract: audio in, one vector per clip or one per moment out. (Imports torch.)

A clip's embedding may depend on nothing but the clip: not on its batch, its order, its padding or an
earlier call. A clip alone equals the same clip padded beside a longer one, to 1e-5.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Encoder(torch.nn.Module):
    """Base of every encoder; the two methods are HEAR's two functions with lengths added."""

    sample_rate: int
    scene_embedding_size: int
    timestamp_embedding_size: int
    #: False: the encoder cannot be told where padding begins and gets every clip at the task's full length.
    takes_lengths: bool = True
    #: True: its weights are drawn from a seed, not trained.
    random_weights: bool = False

    @property
    def parameter_count(self) -> int | None:
        """Number of parameters, None where it cannot be known (a model of another framework)."""
        return sum(parameter.numel() for parameter in self.parameters())

    def scene_embeddings(self, audio: Tensor, lengths: Tensor | None = None) -> Tensor:
        """One vector per clip.

        audio: (n, samples) float32 in [-1, 1] at `sample_rate`, zero-padded at the end.
        lengths: (n,) samples that are real, or None where all are.
        Returns (n, scene_embedding_size) float32.
        """
        raise NotImplementedError

    def timestamp_embeddings(self, audio: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One vector per moment.

        Arguments as `scene_embeddings`. Returns (n, t, timestamp_embedding_size) and the centre of each
        moment in milliseconds, (n, t), regular and inside the clip. With `lengths`, moments whose centre
        lies past a clip's end are padding and have a time of NaN.
        """
        raise NotImplementedError
