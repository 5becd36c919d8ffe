"""Resemblyzer's speaker encoder: mel power, windows of 1.6 s, LSTM. (Imports torch.)"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from aape_bench.encoder import Encoder
from aape_bench.models.resemblyzer import ResemblyzerConfig
from aape_bench.randomness import torch_stream

RATE = 16000
FRAME, HOP = 400, 160  # samples: 25 ms every 10 ms
MELS = 40
WINDOW = 160  # frames
WIDTH = 256
LAYERS = 3

_FRAMES_AT_ONCE = 8192
_WINDOWS_AT_ONCE = 128


def slaney_filter_bank(n_mels: int = MELS, sample_rate: int = RATE, n_fft: int = FRAME) -> Tensor:
    """Triangles of equal area on Slaney's mel scale, from 0 Hz to Nyquist: librosa's `filters.mel` by default.

    The scale is linear, 200/3 Hz per mel, up to 1 kHz and logarithmic, 27 mels for a factor of 6.4, from there
    (Slaney, Auditory Toolbox, 1998). Returns (n_fft // 2 + 1, n_mels) float32.
    """
    linear, step = 200.0 / 3, np.log(6.4) / 27
    top = 15 + np.log(sample_rate / 2 / 1000) / step
    mels = np.linspace(0, top, n_mels + 2)
    edges = np.where(mels < 15, mels * linear, 1000 * np.exp((mels - 15) * step))
    bins = np.arange(n_fft // 2 + 1)[:, None] * sample_rate / n_fft
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    triangles = np.maximum(0, np.minimum(rising, falling)) * 2 / (edges[2:] - edges[:-2])
    return torch.from_numpy(triangles.astype(np.float32))


class SpeakerEncoder(Encoder):
    """Scenes: windows of 1.6 s, each the last state of the LSTM, rectified and of unit length; their mean, normalised.

    The last window is filled up with silence if the clip covers three quarters of it, otherwise left out; a clip
    shorter than a window has one. Timestamps: the same of windows that lie closer.
    """

    sample_rate = RATE
    scene_embedding_size = timestamp_embedding_size = WIDTH
    hann: Tensor
    filters: Tensor

    def __init__(self, config: ResemblyzerConfig, seed: int) -> None:
        super().__init__()
        self.config = config
        generator = torch_stream(seed, "resemblyzer")
        # built without storage first: the constructors would draw from the global generator
        self.lstm = nn.LSTM(MELS, WIDTH, LAYERS, batch_first=True, device="meta").to_empty(device="cpu")
        self.linear = nn.Linear(WIDTH, WIDTH, device="meta").to_empty(device="cpu")
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(WIDTH**-0.5), WIDTH**-0.5, generator=generator)
        window = torch.hann_window(FRAME, periodic=True, dtype=torch.float64)
        self.register_buffer("hann", window.float(), persistent=False)
        self.register_buffer("filters", slaney_filter_bank(), persistent=False)

    def layer_groups(self) -> list[list[str]]:
        """The parameters of each LSTM layer; the read-out comes after the last."""
        names = [name for name, _ in self.named_parameters()]
        return [[name for name in names if name.endswith(f"_l{layer}")] for layer in range(LAYERS)]

    def scene_embeddings(self, audio: Tensor, lengths: Tensor | None = None) -> Tensor:
        """As `Encoder`: (n, 256), none negative, of unit length."""
        step = round(RATE / self.config.windows_per_second / HOP)
        windows, clip, _ = self._windows(audio, lengths, step)
        total = windows.new_zeros(len(audio), WIDTH).index_add(0, clip, windows)
        return nn.functional.normalize(total, dim=1)

    def timestamp_embeddings(self, audio: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One vector every `timestamp_hop_ms`, at the middle of its window: 800 ms first.

        Returns (n, t, 256), 0 past a clip's last window, and times (n, t) in ms. A clip shorter than 1.6 s has one
        moment, at its middle.
        """
        windows, clip, start = self._windows(audio, lengths, self.config.timestamp_hop_ms // 10)
        counts = torch.bincount(clip, minlength=len(audio))
        place = torch.arange(len(clip), device=clip.device) - (counts.cumsum(0) - counts)[clip]
        steps = int(counts.max())
        moments = windows.new_zeros(len(audio), steps, WIDTH).index_put((clip, place), windows)
        samples = self._lengths(audio, lengths)[clip]
        centres = torch.minimum(start * HOP + WINDOW * HOP // 2, samples / 2 + start * HOP) * (1000 / RATE)
        times = centres.new_full((len(audio), steps), torch.nan).index_put((clip, place), centres)
        return moments, times

    def mel_power(self, audio: Tensor) -> Tensor:
        """Mel power spectrogram of (n, samples) as librosa's: frames centred at every 160th sample, zeros outside.

        Returns (n, 1 + samples // 160, 40) float32; not logarithmic.
        """
        frames = nn.functional.pad(audio, (FRAME // 2, FRAME // 2)).unfold(1, FRAME, HOP)
        step = max(1, _FRAMES_AT_ONCE // max(1, len(audio)))
        parts = []
        for part in torch.split(frames, step, dim=1):
            spectrum = torch.fft.rfft(part * self.hann)
            parts.append((spectrum.real.square() + spectrum.imag.square()) @ self.filters)
        return torch.cat(parts, dim=1)

    def _lengths(self, audio: Tensor, lengths: Tensor | None) -> Tensor:
        if lengths is None:
            return torch.full((len(audio),), audio.shape[1], device=audio.device)
        return lengths.to(audio.device, torch.int64)

    def _windows(self, audio: Tensor, lengths: Tensor | None, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Every clip's windows, one after the other: embeddings (w, 256), their clip (w,) and first frame (w,)."""
        with torch.autocast(audio.device.type, enabled=False):
            samples = self._lengths(audio, lengths)
            audio = self._raised(audio.float(), samples)
            frames = samples // HOP + 1
            count = (frames - WINDOW + step).clamp(min=0).div(step, rounding_mode="floor") + 1
            # the last one is left out where the clip covers less than three quarters of it
            uncovered = frames - 1 < (count - 1) * step + WINDOW * 3 // 4
            count = count - (uncovered & (count > 1)).long()
            clip = torch.repeat_interleave(torch.arange(len(audio), device=audio.device), count)
            first = (count.cumsum(0) - count)[clip]
            start = step * (torch.arange(len(clip), device=audio.device) - first)
            missing = (int(start.max()) + WINDOW) * HOP - audio.shape[1]
            mel = self.mel_power(nn.functional.pad(audio, (0, max(0, missing))))
        offsets = torch.arange(WINDOW, device=audio.device)
        parts = [
            self._embed(mel[clips[:, None], starts[:, None] + offsets])
            for clips, starts in zip(
                torch.split(clip, _WINDOWS_AT_ONCE), torch.split(start, _WINDOWS_AT_ONCE), strict=True
            )
        ]
        return torch.cat(parts), clip, start

    def _embed(self, mel: Tensor) -> Tensor:
        """(w, 160, 40) -> (w, 256) of unit length."""
        _, (hidden, _) = self.lstm(mel)
        return nn.functional.normalize(self.linear(hidden[-1]).relu().float(), dim=1)

    def _raised(self, audio: Tensor, lengths: Tensor) -> Tensor:
        """Clips with silence past their ends, quiet ones at the loudness asked for."""
        real = torch.arange(audio.shape[1], device=audio.device) < lengths[:, None]
        audio = audio.masked_fill(~real, 0.0)
        if self.config.loudness_dbfs is None:
            return audio
        power = audio.square().sum(dim=1, keepdim=True) / lengths[:, None]
        # silence stays silence, and its gradient a number
        return audio * (10 ** (self.config.loudness_dbfs / 20) / power.clamp(min=1e-20).sqrt()).clamp(min=1.0)
