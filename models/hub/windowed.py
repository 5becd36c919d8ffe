"""Encoders of a fixed length of input: a clip is cut into windows of that length, the last one padded. (Imports torch.)

The models themselves cut longer clips off (AST, Whisper) or crop them at random (CLAP). Windows follow each other on
the grid of the model's moments; a moment belongs to a clip where its centre lies inside it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aape_bench.models.hub.encoder import HubEncoder, full_lengths


class WindowedEncoder(HubEncoder):
    """Base of encoders that map a window of audio to a fixed number of moments.

    window: samples of one window. moments: of one window. hop: samples between two. first: of the first one's centre.
    The next window begins `moments * hop` samples after the last.
    """

    window: int
    moments: int
    hop: int
    first: int

    def encode(self, audio: Tensor, lengths: Tensor) -> Tensor:
        """Windows (m, window), 0 past their `lengths` (m,) -> (m, moments, timestamp_embedding_size)."""
        raise NotImplementedError

    def heard(self, lengths: Tensor) -> Tensor:
        """How many samples of a window sound of the clip, where `lengths` of them are the clip's own."""
        return lengths

    def scene_embeddings(self, audio: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Mean over the unpadded moments of each window, of these the mean by duration: (n, size) float32."""
        lengths = full_lengths(audio, lengths)
        total = audio.new_zeros(len(audio), self.scene_embedding_size)
        counts = self._count(lengths)
        for rows, hidden, left in self._windows(audio, lengths):
            own = self._count(left).clamp(max=self.moments)
            share = self._real(self.heard(left))[..., None].float()
            mean = (hidden * share).sum(dim=1) / share.sum(dim=1)
            total = total.index_add(0, rows, mean * (own / counts[rows])[:, None])
        return total

    def timestamp_embeddings(self, audio: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One vector per moment, (n, t, size) float32, 0 past a clip's end, and centres in ms (n, t)."""
        lengths = full_lengths(audio, lengths)
        counts = self._count(lengths)
        parts = []
        for rows, hidden, left in self._windows(audio, lengths):
            parts.append(
                hidden.new_zeros(len(audio), *hidden.shape[1:]).index_add(0, rows, hidden * self._real(left)[..., None])
            )
        longest = int(counts.max())
        index = torch.arange(longest, device=audio.device)
        centres = (self.first + self.hop * index).expand(len(audio), -1).to(torch.float64)
        # a clip that ends before the first centre has one moment, at its middle
        centres = torch.where(lengths[:, None] <= self.first, lengths[:, None] / 2, centres)
        times = (centres * (1000 / self.sample_rate)).float().masked_fill(index >= counts[:, None], torch.nan)
        return torch.cat(parts, dim=1)[:, :longest], times

    def _windows(self, audio: Tensor, lengths: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Of each place of windows: the clips that have one there, its moments, and samples of the clip in it."""
        real = torch.arange(audio.shape[1], device=audio.device) < lengths[:, None]
        audio, counts = audio.masked_fill(~real, 0.0), self._count(lengths)
        found = []
        for number in range(-(-int(counts.max()) // self.moments) if len(counts) else 0):
            rows = torch.nonzero(counts > number * self.moments)[:, 0]
            start = number * self.moments * self.hop
            left = (lengths[rows] - start).clamp(max=self.window)
            piece = audio[rows, start : start + self.window]
            piece = nn.functional.pad(piece, (0, self.window - piece.shape[1]))
            found.append((rows, self.encode(piece, left).float(), left))
        return found

    def _count(self, lengths: Tensor) -> Tensor:
        """Moments whose centre lies inside clips of `lengths` samples, at least one."""
        return (lengths - self.first + self.hop - 1).div(self.hop, rounding_mode="floor").clamp(min=1)

    def _real(self, lengths: Tensor) -> Tensor:
        """(m, moments) bool: which moments of a window lie in its first `lengths` samples."""
        return torch.arange(self.moments, device=lengths.device) < self._count(lengths)[:, None]
