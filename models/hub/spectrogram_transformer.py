"""AST (Gong et al., Interspeech 2021): a transformer on overlapping patches of a Kaldi log-mel. (Imports torch.)"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from aape_bench.errors import ModelError
from aape_bench.features import LogMel
from aape_bench.hub import HubConfig, HubSource
from aape_bench.models.hub.loading import load_extractor, load_model
from aape_bench.models.hub.windowed import WindowedEncoder


class AstEncoder(WindowedEncoder):
    """Moments are the mean over the frequency patches of a time step; CLS and distillation token are left out."""

    def __init__(self, source: HubSource, config: HubConfig, seed: int | None) -> None:
        tower: Any = load_model(source, "ASTModel", "", {}, seed)
        about = tower.config
        blocks = tower.layers if hasattr(tower, "layers") else tower.encoder.layer
        super().__init__(source, config, tower, blocks, ("layernorm.",), about.hidden_size)
        extractor = load_extractor(source, "ASTFeatureExtractor")
        same = extractor.max_length == about.max_length and extractor.num_mel_bins == about.num_mel_bins
        if not same or self.sample_rate != 16000:
            raise ModelError(
                f"The hub model {source.name} takes {about.max_length} frames of {about.num_mel_bins} mel bins at "
                f"16000 Hz, but its front end makes {extractor.max_length} of {extractor.num_mel_bins} at "
                f"{self.sample_rate} Hz. Correct preprocessor_config.json."
            )
        self.front_end = LogMel(about.num_mel_bins)
        self.frames = int(about.max_length)
        self.rows = (about.num_mel_bins - about.patch_size) // about.frequency_stride + 1
        self.moments = (self.frames - about.patch_size) // about.time_stride + 1
        self.mean, self.spread = float(extractor.mean), 2 * float(extractor.std)
        if not extractor.do_normalize:
            self.mean, self.spread = 0.0, 1.0
        hop, frame = self.front_end.hop_length, self.front_end.frame_length
        self.hop = about.time_stride * hop
        self.first = ((about.patch_size - 1) * hop + frame) // 2
        self.window = (self.frames - 1) * hop + frame

    def encode(self, audio: Tensor, lengths: Tensor) -> Tensor:
        """As `WindowedEncoder`."""
        hidden = self.hidden(lambda: {"input_values": self.features(audio, lengths)})
        return hidden[:, 2:].reshape(len(hidden), self.rows, self.moments, -1).mean(dim=1)

    def features(self, audio: Tensor, lengths: Tensor) -> Tensor:
        """(m, frames, mels), as transformers' ASTFeatureExtractor makes it of one window."""
        log_mel, _ = self.front_end(audio, lengths)
        log_mel = nn.functional.pad(log_mel, (0, 0, 0, self.frames - log_mel.shape[1]))
        return (log_mel - self.mean) / self.spread  # type: ignore[no-any-return]
