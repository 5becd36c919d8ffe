"""The Encoder contract: audio in, one vector per clip or one per moment out. (Imports torch.)

A clip's embedding may depend on nothing but the clip: not on its batch, its order, its padding or an
earlier call. A clip alone equals the same clip padded beside a longer one, to 1e-5.

Everything else is optional and for fine-tuning: names of parameters by depth, drop path, and a front end that can be
run apart (`SpectrogramEncoder`).
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
    #: Blocks of two residual branches each that drop path may leave out; 0: the encoder has no drop path.
    drop_path_blocks: int = 0
    #: Drop path (stochastic depth: Huang et al., ECCV 2016): a factor for what each branch adds to each clip of the
    #: next batch, (n, drop_path_blocks, 2), 0 where it is left out; None: nothing is. Read in training mode only.
    drop_path: Tensor | None = None

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

    def layer_groups(self) -> list[list[str]] | None:
        """Names of parameters by depth, the input side first, as in `named_parameters`; None: all are one group.

        What comes before the first group is named by `stem_parameters`; what neither names comes after the last.
        """
        return None

    def stem_parameters(self) -> list[str]:
        """Names of the parameters on the input side of the first of `layer_groups`."""
        return []


class SpectrogramEncoder(Encoder):
    """An encoder whose front end can be run apart, so that training can change what the rest of it sees.

    quiet: the value of a spectrogram that stands for nothing heard: SpecAugment writes it, and it fills up the shorter
    of two mixed clips. Best one that the encoder's normalisation turns to 0, its mean. (Silence itself is an outlier
    on a logarithmic scale.)
    """

    quiet: float

    def spectrogram(self, audio: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What the front end makes of clips; arguments as `scene_embeddings`.

        Returns (n, T, bins) float32, 0 past a clip's end, and each clip's real frames (n,) int64.
        """
        raise NotImplementedError

    def scene_embeddings_of(self, spectrogram: Tensor, frames: Tensor) -> Tensor:
        """One vector per clip, (n, scene_embedding_size) float32, of what `spectrogram` returns."""
        raise NotImplementedError

    def scene_embeddings(self, audio: Tensor, lengths: Tensor | None = None) -> Tensor:
        """As `Encoder`."""
        return self.scene_embeddings_of(*self.spectrogram(audio, lengths))
