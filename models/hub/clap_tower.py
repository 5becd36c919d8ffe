"""CLAP's audio tower (Wu et al., ICASSP 2023): HTS-AT, a Swin transformer, on 10 s of log-mel. (Imports torch.)

A clip shorter than 10 s is repeated as often as it fits, then followed by silence, as CLAP does it; scenes are the
mean over what sounds of the clip. transformers marks one clip of a batch of the "fusion" kind at random as a long one:
here windows are never longer than 10 s, and none is. The tower's output is taken before CLAP's projection to text.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aape_bench.errors import ModelError, UsageError
from aape_bench.hub import HubConfig, HubSource
from aape_bench.models.hub.loading import load_extractor, load_model
from aape_bench.models.hub.windowed import WindowedEncoder


class ClapTower(WindowedEncoder):
    """Moments are the mean over frequency of the last stage's map: 32 of 10 s in the published models."""

    filters: Tensor
    taper: Tensor

    def __init__(self, source: HubSource, config: HubConfig, seed: int | None) -> None:
        _refuse_other(source.name, config.layer)  # before the weights are loaded
        tower: Any = load_model(source, "ClapModel", "audio_model", {}, seed)
        about, stages = tower.config, tower.audio_encoder.layers
        width = about.patch_embeds_hidden_size * 2 ** (len(stages) - 1)
        super().__init__(source, config, tower, stages, ("audio_encoder.norm.",), width)
        extractor = load_extractor(source, "ClapFeatureExtractor")
        self.fusion = extractor.truncation == "fusion"
        self.padding = str(extractor.padding)
        if self.fusion != bool(about.enable_fusion) or extractor.feature_size != about.num_mel_bins:
            raise ModelError(
                f"The hub model {source.name} takes {about.num_mel_bins} mel bins with enable_fusion="
                f"{about.enable_fusion}, but its front end makes {extractor.feature_size} with truncation="
                f"{extractor.truncation}. Correct preprocessor_config.json."
            )
        self.mel_hop, self.n_fft = extractor.hop_length, extractor.fft_window_size
        self.window = int(extractor.nb_max_samples)
        stride = about.patch_stride if isinstance(about.patch_stride, int) else about.patch_stride[1]
        frames = about.spec_size * (about.spec_size // about.num_mel_bins)
        self.moments = frames // stride // 2 ** (len(stages) - 1)
        self.hop = self.window // self.moments
        self.first = self.hop // 2
        filters = extractor.mel_filters if self.fusion else extractor.mel_filters_slaney
        self.register_buffer("filters", torch.from_numpy(filters).double().T.contiguous(), persistent=False)
        self.register_buffer("taper", torch.hann_window(self.n_fft, dtype=torch.float64), persistent=False)

    def heard(self, lengths: Tensor) -> Tensor:
        """As `WindowedEncoder`: all its repetitions."""
        if self.padding == "repeat":
            return torch.full_like(lengths, self.window)
        return lengths * (self.window // lengths) if self.padding == "repeatpad" else lengths

    def read_layer(self, layer: int | str) -> None:
        """As `HubEncoder`."""
        _refuse_other(self.name, layer)
        super().read_layer(layer)

    def encode(self, audio: Tensor, lengths: Tensor) -> Tensor:
        """As `WindowedEncoder`."""
        is_longer = torch.zeros(len(audio), 1, dtype=torch.bool, device=audio.device)
        hidden = self.hidden(lambda: {"input_features": self.features(audio, lengths), "is_longer": is_longer})
        return hidden.mean(dim=2).transpose(1, 2)

    def features(self, audio: Tensor, lengths: Tensor) -> Tensor:
        """(m, 1 or 4, frames, mels) in dB, as transformers' ClapFeatureExtractor makes it of clips up to 10 s.

        Four times the same where the model fuses views of long clips.
        """
        place = torch.arange(self.window, device=audio.device).expand(len(audio), -1)
        repeated = audio.gather(1, place % lengths[:, None]).masked_fill(place >= self.heard(lengths)[:, None], 0.0)
        with torch.autocast(audio.device.type, enabled=False):
            # float64: dB of a quiet bin beside a loud one is rounding noise otherwise
            spectrum = torch.stft(repeated.double(), self.n_fft, self.mel_hop, window=self.taper, return_complex=True)
            power = spectrum.real.square() + spectrum.imag.square()
            decibels = 10 * (self.filters @ power).clamp(min=1e-10).log10()
        views = decibels.float().transpose(1, 2)[:, None]
        return views.expand(-1, 4, -1, -1) if self.fusion else views


def _refuse_other(name: str, layer: int | str) -> None:
    if layer != "last":
        raise UsageError(
            f"The hub model {name} has stages of different widths and grids, so only layer=last fits it, not {layer}."
        )
