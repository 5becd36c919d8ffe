"""Transformers on windows of a log-mel: a long clip is encoded window by window. (Imports torch.)

Windows follow each other; each is encoded by itself, so that memory is bounded and no position is beyond those that
a model has learnt. A clip's last frames, too few for a patch, are left out.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from aape_bench.encoder import SpectrogramEncoder
from aape_bench.features import HOP_MS
from aape_bench.models.sizes import TransformerSizes


class WindowEncoder(SpectrogramEncoder):
    """Scenes are the mean over a clip's moments; a moment is what `encode` makes of a patch's frames.

    Timestamps are `hop_frames` apart, at first a patch's; finer ones are of passes that begin later, interleaved. A
    subclass has its transformer in `blocks` and may have a last LayerNorm `norm`; all else comes before the blocks.
    centre_ms: of the first patch. fills_up: of several windows the last one is filled up with zeros, which are seen.
    """

    sample_rate = 16000
    quiet = 0.0  # the spectrogram is normalised
    centre_ms: float
    fills_up = False
    blocks: nn.ModuleList

    def __init__(self, config: TransformerSizes, moment_size: int, scene_size: int | None = None) -> None:
        super().__init__()
        self.timestamp_embedding_size = moment_size
        self.scene_embedding_size = moment_size if scene_size is None else scene_size
        self.drop_path_blocks = config.blocks
        self.patch_frames = self.hop_frames = config.patch_frames
        self.window = config.clip_frames // config.patch_frames

    def encode(self, log_mel: Tensor, seen: Tensor | None, drop_path: Tensor | None) -> Tensor:
        """One window.

        log_mel: (n, t patches, bins) normalised. seen: (n, t) bool, False where nothing may attend to a patch, or None
        where all are seen. drop_path: (n, blocks, 2) or None.
        Returns (n, t, scene_embedding_size), without meaning where not seen; a moment is the last
        timestamp_embedding_size values of each, and what stands before them is the window's as a whole.
        """
        raise NotImplementedError

    def layer_groups(self) -> list[list[str]]:
        """The parameters of each block."""
        return [[f"blocks.{at}.{name}" for name, _ in one.named_parameters()] for at, one in enumerate(self.blocks)]

    def stem_parameters(self) -> list[str]:
        """What comes before the blocks."""
        return [name for name, _ in self.named_parameters() if not name.startswith(("blocks.", "norm."))]

    def scene_embeddings_of(self, spectrogram: Tensor, frames: Tensor) -> Tensor:
        """Mean over the moments of each clip: (n, scene_embedding_size) float32."""
        counts = self._counts(frames)
        total = torch.zeros(len(frames), self.scene_embedding_size, device=spectrogram.device)
        for rows, moments in self._windows(spectrogram, counts, frames):
            total = total.index_add(0, rows, moments.sum(dim=1))  # those past the end are 0
        return total / counts[:, None]

    def timestamp_embeddings(self, audio: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One vector per patch that lies in the clip, one beginning every `hop_frames`.

        Returns (n, t, timestamp_embedding_size), 0 past a clip's end, and the middle of what its frames span in ms
        (n, t). A clip that ends before twice the first one has it at its own middle.
        """
        spectrogram, frames = self.spectrogram(audio, lengths)
        patch, hop = self.patch_frames, self.hop_frames
        passes = [self._moments(spectrogram[:, shift:], frames - shift) for shift in range(0, patch, hop)]
        moments = nn.utils.rnn.pad_sequence([one.transpose(0, 1) for one in passes], batch_first=True)
        moments = moments.permute(2, 1, 0, 3).flatten(1, 2)

        counts = (frames - patch).clamp(min=0) // hop + 1
        if lengths is None:
            lengths = torch.full_like(counts, audio.shape[1])
        index = torch.arange(int(counts.max()), device=counts.device)
        times = self.centre_ms + HOP_MS * hop * index
        middle = lengths.to(counts.device)[:, None] * (1000 / self.sample_rate) / 2
        times = torch.where(index > 0, times, times.minimum(middle))
        real = index < counts[:, None]
        return moments[:, : len(index)] * real[..., None], times.masked_fill(~real, torch.nan)

    def _moments(self, spectrogram: Tensor, frames: Tensor) -> Tensor:
        """Of all patches side by side: (n, t, timestamp_embedding_size) float32."""
        parts = []
        for rows, moments in self._windows(spectrogram, self._counts(frames), frames):
            moments = moments[..., -self.timestamp_embedding_size :]
            parts.append(moments.new_zeros(len(frames), *moments.shape[1:]).index_copy(0, rows, moments))
        return torch.cat(parts, dim=1)

    def _counts(self, frames: Tensor) -> Tensor:
        """Patches in clips of so many frames, at least one."""
        return (frames // self.patch_frames).clamp(min=1)

    def _windows(self, spectrogram: Tensor, counts: Tensor, frames: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Of each window the clips that reach into it, and their moments (m, t, size) float32, 0 past a clip's end."""
        several = frames > self.window * self.patch_frames
        drop_path = self.drop_path if self.training else None
        for first in range(0, int(counts.max()), self.window):
            rows = torch.nonzero(counts > first)[:, 0]
            filled = several[rows] if self.fills_up else torch.zeros_like(rows, dtype=torch.bool)
            span = self.window if bool(filled.any()) else min(self.window, int(counts[rows].max()) - first)
            piece = spectrogram[rows, first * self.patch_frames : (first + span) * self.patch_frames]
            piece = nn.functional.pad(piece, (0, 0, 0, span * self.patch_frames - piece.shape[1]))
            own = torch.arange(span, device=rows.device) < (counts[rows] - first)[:, None]
            seen = own | filled[:, None]
            moments = self.encode(
                piece, None if bool(seen.all()) else seen, None if drop_path is None else drop_path[rows]
            )
            last = min(span, int(counts[rows].max()) - first)
            yield rows, (moments.float() * own[..., None])[:, :last]
