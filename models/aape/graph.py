"""AaPE and `vit` as a graph for ONNX: what `encoder` computes of clips of one length. (Imports torch.)"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aape_bench.errors import ModelError
from aape_bench.exporting.graphs import Graph, LogMelGraph, size
from aape_bench.features import HOP_MS
from aape_bench.models.aape.encoder import AapeEncoder
from aape_bench.models.aape.stem import AddingStem, LowpassStem


def graph(encoder: AapeEncoder) -> Graph:
    """The graph of an encoder. Raises ModelError where its stem reaches beyond the patch."""
    stem = encoder.stem
    if isinstance(stem, LowpassStem) or (isinstance(stem, AddingStem) and max(stem.unit.reach) > 0):
        raise ModelError(
            "A stem that sees beyond its patch (stem=lowpass, or kernel_frames above patch_frames) has no ONNX form. "
            "Export it as safetensors or as a HEAR package."
        )
    return AapeGraph(encoder)


class AapeGraph(Graph):
    """The encoder's own stem, backbone and settings; windows of a long clip side by side instead of one by one."""

    def __init__(self, encoder: AapeEncoder) -> None:
        super().__init__()
        self.config = encoder.config
        self.front_end = LogMelGraph(encoder.front_end)
        self.stem, self.backbone = encoder.stem, encoder.backbone
        front = encoder.front_end
        self.rate, self.hop, self.frame = front.sample_rate, front.hop_length, front.frame_length
        self.shortest = self.frame
        window = self.config.clip_frames * self.hop + self.frame
        self.tried = (self.frame, 5 * self.frame + 77, window - 1, window, 2 * window + 12345)

    def scene(self, audio: Tensor) -> Tensor:
        """As the encoder's, pooled as `pooling` says."""
        moments, cls = self._moments(self._patches(self.front_end(audio), 0))
        if self.config.pooling == "cls":
            return cls
        mean = moments.mean(dim=1)
        return torch.cat([cls, mean], dim=1) if self.config.pooling == "cls+mean" else mean

    def timestamps(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """As the encoder's: passes over the clip less its first 0, 1, .. hops, interleaved."""
        log_mel = self.front_end(audio)
        hop = self.config.timestamp_hop_ms // HOP_MS
        shifts = range(0, self.config.patch_frames, hop)
        passes = [self._moments(self._patches(log_mel, shift))[0] for shift in shifts]
        steps = size(passes[0], 1)
        # a pass that begins later may have one step less
        passes = [nn.functional.pad(moments, (0, 0, 0, 1))[:, :steps] for moments in passes]
        moments = torch.stack(passes, dim=2).flatten(1, 2)

        samples, hop_samples = size(audio, 1), hop * self.hop
        first = ((self.config.patch_frames - 1) * self.hop + self.frame) // 2
        inside = ((samples - first).div(hop_samples, rounding_mode="floor") + 1).clamp(min=1)
        count = inside.minimum((size(log_mel, 1) + hop - 1).div(hop, rounding_mode="floor"))
        # twice the time, in whole samples
        middle = torch.where(samples < first, samples, 2 * first)
        times = (middle + 2 * hop_samples * torch.arange(count)) * (500 / self.rate)
        return moments[:, :count], times[None].expand(size(audio, 0), -1)

    def _patches(self, log_mel: Tensor, shift: int) -> Tensor:
        """What is left after the first `shift` frames, in patches, at least one: (n, steps, patch_frames, mels)."""
        patch = self.config.patch_frames
        steps = (size(log_mel, 1) - shift + patch - 1).div(patch, rounding_mode="floor").clamp(min=1)
        padded = nn.functional.pad(log_mel, (0, 0, 0, 2 * patch))[:, shift : shift + steps * patch]
        normalised = (padded - self.config.norm_mean) / (2 * self.config.norm_std)
        return normalised.reshape(size(log_mel, 0), steps, patch, self.config.n_mels)

    def _moments(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """As the encoder's: one vector per time step (n, steps, size), and CLS (n, width)."""
        n, steps = size(patches, 0), size(patches, 1)
        window = self.config.clip_frames // self.config.patch_frames
        span = steps.clamp(max=window)
        windows = (steps + window - 1).div(window, rounding_mode="floor")
        start = (window * torch.arange(windows)).minimum(steps - span)
        index = start[:, None] + torch.arange(span)
        chosen = patches[:, index.flatten()].reshape(-1, span * self.config.patch_frames, self.config.n_mels)
        tokens, cls = self._encode(chosen)
        by_moment = tokens.flatten(2) if self.config.pooling == "freqcat" else tokens.mean(dim=2)
        # a moment seen by two windows is the mean of both
        seen = (index.flatten() == torch.arange(steps)[:, None]).float()
        share = seen / seen.sum(dim=1, keepdim=True)
        moments = torch.matmul(share, by_moment.reshape(n, windows * span, -1))
        weight = share.sum(dim=0).reshape(windows, span).sum(dim=1) / steps
        return moments, (cls.reshape(n, windows, -1) * weight[:, None]).sum(dim=1)

    def _encode(self, log_mel: Tensor) -> tuple[Tensor, Tensor]:
        """Windows (w, frames, mels), whole patches -> tokens (w, span, rows, width) and CLS (w, width)."""
        patch, rows, width = self.config.patch_frames, self.config.rows, self.config.dim
        tokens = self.stem.conv_token(log_mel[:, None]).permute(0, 2, 3, 1)
        if isinstance(self.stem, AddingStem):
            by_row = log_mel.reshape(-1, patch, rows, self.config.patch_mels).transpose(1, 2)
            tokens = tokens + self.stem.fusion(self.stem.unit(by_row)).reshape(tokens.shape)
        tokens = tokens + self.backbone.positions(tokens.shape[1], rows)
        encoded = self.backbone(tokens.flatten(1, 2))
        return encoded[:, 1:].reshape(size(log_mel, 0), -1, rows, width), encoded[:, 0]
