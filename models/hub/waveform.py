"""wav2vec 2.0, HuBERT, WavLM and data2vec-audio: strided convolutions on the waveform, then a transformer.

Clips of one length are encoded together, others apart, so that a model never sees padding. Masks would not do: in
models of the "group" kind the first normalisation runs over all of a clip's time, padding included, and data2vec's
positional convolutions carry padding back into the clip. (Imports torch and transformers.)
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from aape_bench.errors import DataError, ModelError
from aape_bench.hub import HubConfig, HubSource
from aape_bench.models.hub.encoder import HubEncoder, full_lengths
from aape_bench.models.hub.loading import load_extractor, load_model

_CLASSES = {
    "wav2vec2": "Wav2Vec2Model",
    "hubert": "HubertModel",
    "wavlm": "WavLMModel",
    "data2vec-audio": "Data2VecAudioModel",
}
#: Random masks and dropped layers of their own training would draw from a global generator; what an adapter adds
#: behind the encoder is no part of it.
_CHANGES = {"apply_spec_augment": False, "layerdrop": 0.0, "add_adapter": False}


class WaveformEncoder(HubEncoder):
    """Scenes are the mean over a clip's frames, 20 ms apart; timestamps the frames themselves."""

    def __init__(self, source: HubSource, config: HubConfig, seed: int | None) -> None:
        tower: Any = load_model(source, _CLASSES[source.model_type], "", _CHANGES, seed)
        about = tower.config
        after = ("encoder.layer_norm.",) if getattr(about, "do_stable_layer_norm", False) else ()
        super().__init__(source, config, tower, tower.encoder.layers, after, about.hidden_size)
        self.normalised = bool(load_extractor(source, "Wav2Vec2FeatureExtractor").do_normalize)
        if min(*about.conv_kernel, *about.conv_stride) < 1:
            raise ModelError(
                f"The hub model {source.name} cannot be built: config.json ({source.folder}) says conv_kernel="
                f"{list(about.conv_kernel)} and conv_stride={list(about.conv_stride)}, which must be at least 1. "
                "Download the model again."
            )
        self.frame_length, self.hop_length = 1, 1
        for kernel, stride in zip(about.conv_kernel, about.conv_stride, strict=True):
            self.frame_length += (kernel - 1) * self.hop_length
            self.hop_length *= stride

    def scene_embeddings(self, audio: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Mean over the frames of each clip: (n, scene_embedding_size) float32."""
        moments, frames = self._moments(audio, full_lengths(audio, lengths))
        return moments.sum(dim=1) / frames[:, None]  # frames past the end are 0

    def timestamp_embeddings(self, audio: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One vector per frame, (n, t, timestamp_embedding_size), and the middle of what it spans in ms (n, t)."""
        moments, frames = self._moments(audio, full_lengths(audio, lengths))
        index = torch.arange(moments.shape[1], device=audio.device)
        times = (self.frame_length / 2 + self.hop_length * index) * (1000 / self.sample_rate)
        return moments, times.expand(len(audio), -1).masked_fill(index >= frames[:, None], torch.nan)

    def _moments(self, audio: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Frames (n, t, size) float32, 0 past a clip's end, and each clip's number of them (n,)."""
        if len(lengths) and int(lengths.min()) < self.frame_length:
            raise DataError(
                f"A clip of {int(lengths.min())} samples is shorter than one frame of the encoder "
                f"({self.frame_length} samples). Leave it out, or pad it beforehand."
            )
        frames = 1 + (lengths - self.frame_length) // self.hop_length
        longest = int(frames.max()) if len(frames) else 0
        order, parts = [], []
        for length in torch.unique(lengths).tolist():
            rows = torch.nonzero(lengths == length)[:, 0]
            hidden = self.hidden(partial(self._inputs, audio[rows, :length])).float()
            order.append(rows)
            parts.append(nn.functional.pad(hidden, (0, 0, 0, longest - hidden.shape[1])))
        if not parts:
            return audio.new_zeros(0, 0, self.timestamp_embedding_size), frames
        return torch.cat(parts)[torch.argsort(torch.cat(order))], frames

    def _inputs(self, clips: Tensor) -> dict[str, Tensor]:
        return {"input_values": self.features(clips)}

    def features(self, clips: Tensor) -> Tensor:
        """What the model is given of whole clips (n, samples), as transformers' Wav2Vec2FeatureExtractor makes it."""
        if not self.normalised:
            return clips
        centred = clips - clips.mean(dim=1, keepdim=True)
        return centred * torch.rsqrt(centred.square().mean(dim=1, keepdim=True) + 1e-7)
