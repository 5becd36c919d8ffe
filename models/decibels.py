"""The log-mel of torchaudio's `MelSpectrogram` and `AmplitudeToDB`. (Imports torch.)"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_HOP = 160
_RATE = 16000


class MelDecibels(nn.Module):
    """Power in dB in mel bands, every 10 ms, at most `top_db` below a clip's loudest.

    Windows of `fft` samples (Hann) around each frame's centre; the first and last see the clip mirrored at its end.
    A clip of fewer than `least` samples is followed by silence up to there.
    """

    taper: Tensor
    filters: Tensor

    def __init__(self, bands: int, fft: int, low_hz: float, high_hz: float, top_db: float, least: int) -> None:
        super().__init__()
        self.fft, self.top_db = fft, top_db
        self.least = max(least, fft // 2 + 1)  # mirroring needs as many
        self.register_buffer("taper", torch.hann_window(fft), persistent=False)
        self.register_buffer("filters", htk_filters(bands, fft, low_hz, high_hz), persistent=False)

    def forward(self, audio: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Decibels (n, T, bands) float32, 0 past a clip's end, and each clip's frames (n,): 1 + length // 160."""
        if lengths is None:
            lengths = torch.full((len(audio),), audio.shape[1], device=audio.device)
        lengths = lengths.to(audio.device, torch.int64)
        real = torch.arange(audio.shape[1], device=audio.device) < lengths[:, None]
        audio = nn.functional.pad(audio.masked_fill(~real, 0.0), (0, max(0, self.least - audio.shape[1])))
        lengths = lengths.clamp(min=self.least)
        frames = 1 + lengths // _HOP
        order, parts = [], []
        for length in torch.unique(lengths).tolist():  # what is mirrored depends on the length
            rows = torch.nonzero(lengths == length)[:, 0]
            decibels = self._decibels(audio[rows, :length])
            parts.append(nn.functional.pad(decibels, (0, 0, 0, int(frames.max()) - decibels.shape[1])))
            order.append(rows)
        return torch.cat(parts)[torch.argsort(torch.cat(order))], frames

    def _decibels(self, clips: Tensor) -> Tensor:
        with torch.autocast(clips.device.type, enabled=False):
            spectrum = torch.stft(clips.float(), self.fft, _HOP, window=self.taper, return_complex=True)
            power = spectrum.real.square() + spectrum.imag.square()
            decibels = 10 * (power.transpose(1, 2) @ self.filters).clamp(min=1e-10).log10()
            return decibels.maximum(decibels.amax(dim=(1, 2), keepdim=True) - self.top_db)


def htk_filters(bands: int, fft: int, low_hz: float, high_hz: float) -> Tensor:
    """Triangles linear in Hz between points even on the scale 2595 log10(1 + f / 700): (fft / 2 + 1, bands)."""
    low, high = (2595 * torch.tensor(1 + hz / 700, dtype=torch.float64).log10().item() for hz in (low_hz, high_hz))
    edges = 700 * (10 ** (torch.linspace(low, high, bands + 2, dtype=torch.float64) / 2595) - 1)
    bins = torch.linspace(0, _RATE / 2, fft // 2 + 1, dtype=torch.float64)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return rising.minimum(falling).clamp(min=0).float()
