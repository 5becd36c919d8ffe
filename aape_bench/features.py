"""The shared front end: batched log-mel spectrograms equal to Kaldi's. (Imports torch.)

Settings as EAT and AST: 25 ms frames every 10 ms, Hanning window, pre-emphasis 0.97, 20 Hz to 8 kHz, power
spectrum, no dither, no energy. Normalisation is the encoder's.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from aape_bench.errors import DataError, UsageError

#: Kaldi's floor under the mel energies before the logarithm: the float32 machine epsilon.
ENERGY_FLOOR = float(np.finfo(np.float32).eps)

FRAME_MS = 25
HOP_MS = 10
PREEMPHASIS = 0.97

# Frames whose spectra are in memory at once, whatever the batch. On a CPU their arrays stay in its cache and are small
# enough for the allocator to keep: of 2048, every step would ask the system for its pages anew, twice the time.
_FRAMES_AT_ONCE = {"cpu": 256, "cuda": 2048}


def mel_filter_bank(
    n_mels: int, sample_rate: int = 16000, n_fft: int = 512, low_hz: float = 20.0, high_hz: float = 8000.0
) -> Tensor:
    """Kaldi's triangular filters, triangles on the scale mel(f) = 1127 ln(1 + f / 700).

    Returns (n_fft // 2 + 1, n_mels) float32: weights of the power spectrum's bins, Nyquist's all 0 as in
    Kaldi. Filters narrower than the bin spacing may be empty: number 3 of 128 is, at the defaults. Raises
    UsageError where there are no filters or more than `n_fft`, or the band is empty or reaches past Nyquist.
    """
    if not 1 <= n_mels <= n_fft or not 0 <= low_hz < high_hz <= sample_rate / 2:
        raise UsageError(
            f"A mel filter bank needs 1 to {n_fft} filters and 0 <= low < high <= {sample_rate / 2:g} Hz, not "
            f"{n_mels} filters from {low_hz:g} to {high_hz:g} Hz at a sample rate of {sample_rate} Hz."
        )
    edges = np.linspace(_mel(low_hz), _mel(high_hz), n_mels + 2)
    bins = _mel(np.arange(n_fft // 2) * sample_rate / n_fft)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    weights = np.zeros((n_fft // 2 + 1, n_mels), dtype=np.float32)
    weights[:-1] = np.maximum(0.0, np.minimum(rising, falling))
    return torch.from_numpy(weights)


class LogMel(torch.nn.Module):
    """Log-mel spectrogram as Kaldi's fbank with snip_edges.

    A clip's frames depend on its own real samples only; frames lie fully inside them.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, n_mels: int = 128, sample_rate: int = 16000) -> None:
        super().__init__()
        self.n_mels = n_mels
        self.sample_rate = sample_rate
        self.frame_length = sample_rate * FRAME_MS // 1000
        self.hop_length = sample_rate * HOP_MS // 1000
        self.n_fft = 1 << (self.frame_length - 1).bit_length()
        window = torch.hann_window(self.frame_length, periodic=False, dtype=torch.float64)
        self.register_buffer("window", window.float(), persistent=False)
        self.register_buffer("filters", mel_filter_bank(n_mels, sample_rate, self.n_fft), persistent=False)

    def forward(self, audio: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Log-mel energies, in float32 whatever the autocast type.

        audio: (n, samples) in [-1, 1]. lengths: (n,) samples that are real, or None where all are.
        Returns the log-mel (n, T, n_mels), exactly 0 past a clip's end, and each clip's frames (n,) int64:
        1 + (length - 400) // 160 at 16 kHz. Raises DataError where a clip is shorter than one frame.
        """
        with torch.autocast(audio.device.type, enabled=False):
            audio = audio.float()
            if lengths is None:
                lengths = torch.full((audio.shape[0],), audio.shape[1], device=audio.device)
            lengths = lengths.to(audio.device, torch.int64)
            frames = self.frames_in(lengths)
            padded = bool((lengths < audio.shape[1]).any())
            # As Kaldi's users do; beyond rounding it changes nothing, since every frame's own mean goes too.
            mean = _until(audio, lengths, padded).sum(dim=1, keepdim=True) / lengths[:, None]
            windows = (audio - mean).unfold(1, self.frame_length, self.hop_length)
            step = max(1, _FRAMES_AT_ONCE.get(audio.device.type, 2048) // max(1, audio.shape[0]))
            log_mel = torch.cat([self._log_mel(part) for part in torch.split(windows, step, dim=1)], dim=1)
            return _until(log_mel, frames, padded), frames

    def frames_in(self, lengths: Tensor) -> Tensor:
        """Whole frames in clips of `lengths` samples. Raises DataError where there is none."""
        if lengths.numel() and int(lengths.min()) < self.frame_length:
            raise DataError(
                f"A clip of {int(lengths.min())} samples is shorter than one frame of the log-mel front end "
                f"({self.frame_length} samples, {FRAME_MS} ms). Leave it out, or pad it beforehand."
            )
        return 1 + (lengths - self.frame_length) // self.hop_length

    def _log_mel(self, windows: Tensor) -> Tensor:
        windows = windows - windows.mean(dim=-1, keepdim=True)
        # Kaldi's pre-emphasis takes a frame's first sample as its own predecessor.
        previous = torch.cat([windows[..., :1], windows[..., :-1]], dim=-1)
        spectrum = torch.fft.rfft((windows - PREEMPHASIS * previous) * self.window, n=self.n_fft)
        power = spectrum.real.square() + spectrum.imag.square()
        return torch.matmul(power, self.filters).clamp(min=ENERGY_FLOOR).log()


def _until(values: Tensor, ends: Tensor, padded: bool) -> Tensor:
    """Values (n, t, ...), 0 past each clip's end, where any is padded."""
    if not padded:
        return values
    past = torch.arange(values.shape[1], device=values.device) >= ends[:, None]
    return values.masked_fill(past.reshape(*past.shape, *[1] * (values.ndim - 2)), 0.0)


def _mel(frequency: np.ndarray | float) -> np.ndarray:
    return np.asarray(1127.0 * np.log1p(np.asarray(frequency, dtype=np.float64) / 700.0))
