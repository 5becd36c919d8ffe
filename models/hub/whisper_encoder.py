"""Whisper's encoder (Radford et al., ICML 2023): log-mel of 30 s, two convolutions, a transformer. (Imports torch.)

Whisper has no mask: a shorter clip is followed by silence, and only its own moments, 20 ms apart, are pooled.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aape_bench.errors import ModelError
from aape_bench.hub import HubConfig, HubSource
from aape_bench.models.hub.loading import load_extractor, load_model
from aape_bench.models.hub.windowed import WindowedEncoder

#: The decoder is left out; dropped layers of its own training would draw from a global generator.
_CHANGES = {"apply_spec_augment": False, "encoder_layerdrop": 0.0}


class WhisperTower(WindowedEncoder):
    """The encoder alone; its positions are fixed sines, in no training a parameter that moves."""

    filters: Tensor
    taper: Tensor

    def __init__(self, source: HubSource, config: HubConfig, seed: int | None) -> None:
        tower: Any = load_model(source, "WhisperModel", "encoder", _CHANGES, seed)
        about = tower.config
        super().__init__(source, config, tower, tower.layers, ("layer_norm.",), about.d_model)
        extractor = load_extractor(source, "WhisperFeatureExtractor")
        self.mel_hop, self.n_fft, self.window = extractor.hop_length, extractor.n_fft, extractor.n_samples
        self.hop, self.first, self.moments = 2 * self.mel_hop, 0, int(about.max_source_positions)
        if self.window != self.moments * self.hop or extractor.feature_size != about.num_mel_bins:
            raise ModelError(
                f"The hub model {source.name} takes {self.moments * self.hop} samples and {about.num_mel_bins} mel "
                f"bins, but its front end makes {self.window} and {extractor.feature_size}. Correct "
                "preprocessor_config.json."
            )
        filters = torch.from_numpy(extractor.mel_filters).float()
        self.register_buffer("filters", filters.T.contiguous(), persistent=False)
        self.register_buffer("taper", torch.hann_window(self.n_fft), persistent=False)

    def encode(self, audio: Tensor, lengths: Tensor) -> Tensor:  # noqa: ARG002
        """As `WindowedEncoder`."""
        return self.hidden(lambda: {"input_features": self.features(audio)})

    def features(self, audio: Tensor) -> Tensor:
        """(m, mels, frames) of windows with their silence, as transformers' WhisperFeatureExtractor makes it.

        Decimal logarithm, cut off 8 below the window's loudest value, then (x + 4) / 4.
        """
        with torch.autocast(audio.device.type, enabled=False):
            spectrum = torch.stft(audio.float(), self.n_fft, self.mel_hop, window=self.taper, return_complex=True)
            power = spectrum[..., :-1].abs().square()
            log_mel = (self.filters @ power).clamp(min=1e-10).log10()
            log_mel = log_mel.maximum(log_mel.amax(dim=(1, 2), keepdim=True) - 8.0)
            return (log_mel + 4.0) / 4.0
