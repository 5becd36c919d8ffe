"""Band levels as an encoder. (Imports torch.)"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aape_bench.encoder import Encoder
from aape_bench.randomness import torch_stream

FRAME = 400  # samples, 25 ms


class Bands(Encoder):
    """Timestamps: a linear map of each 25 ms frame's band levels; scenes: its mean over a clip's real frames."""

    sample_rate = 16000

    def __init__(self, bands: int, size: int, seed: int) -> None:
        super().__init__()
        self.bands = bands
        self.scene_embedding_size = self.timestamp_embedding_size = size
        # from a stream of the seed's own: the global generator is the caller's
        self.mix = nn.Parameter(torch.randn(bands, size, generator=torch_stream(seed, "example_bands")) / bands**0.5)

    def scene_embeddings(self, audio: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(n, samples) in [-1, 1], (n,) real samples or None -> (n, size)."""
        moments, times = self.timestamp_embeddings(audio, lengths)
        real = ~times.isnan()[..., None]
        return (moments * real).sum(dim=1) / real.sum(dim=1)

    def timestamp_embeddings(self, audio: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As scenes -> (n, t, size), and the frames' centres (n, t) in ms, NaN past a clip's end."""
        if lengths is None:
            lengths = torch.full((len(audio),), audio.shape[1], device=audio.device)
        # a frame counts where its centre lies inside the clip; a very short clip has one
        count = ((lengths + FRAME // 2) // FRAME).clamp(min=1)
        steps = int(count.max())
        padded = nn.functional.pad(audio, (0, max(0, steps * FRAME - audio.shape[1])))[:, : steps * FRAME]
        frames = padded.unflatten(1, (steps, FRAME)) * torch.hann_window(FRAME, device=audio.device)
        power = torch.fft.rfft(frames).abs().square()
        levels = torch.log(nn.functional.adaptive_avg_pool1d(power, self.bands) + 1e-6)
        number = torch.arange(steps, device=audio.device)
        times = (1000 * FRAME / self.sample_rate * (number + 0.5)).expand(len(audio), -1)
        return levels @ self.mix, times.masked_fill(number >= count[:, None], torch.nan)
