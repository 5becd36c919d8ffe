"""BEATs' encoder: Kaldi's log-mel, patches, a convolution over their sequence, blocks. (Imports torch.)"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from aape_bench.features import FRAME_MS, HOP_MS, LogMel
from aape_bench.models.aape.backbone import linear
from aape_bench.models.beats import CONV_GROUPS, BeatsConfig
from aape_bench.models.beats.block import BUCKETS, Block, distance_buckets
from aape_bench.models.windows import WindowEncoder
from aape_bench.randomness import torch_stream

_BANDS, _PATCH, _ROWS = 128, BeatsConfig.patch_frames, 8
_PATCH_WIDTH = 512
_CONV = 128
_EPS = 1e-5
#: Of samples as 16-bit integers, which the front end is given.
_FULL_SCALE = 2**15
_MEAN, _STD = 15.41663, 6.55582


class BeatsEncoder(WindowEncoder):
    """Scenes are the mean over a clip's tokens; timestamps the mean over those of a moment.

    A clip shorter than a patch is followed by the mean of all log-mels, 0 once normalised. Drawn weights are of our own
    initialisation.
    """

    centre_ms = ((_PATCH - 1) * HOP_MS + FRAME_MS) / 2

    def __init__(self, config: BeatsConfig, seed: int) -> None:
        width = config.width
        super().__init__(config, width)
        self.hop_frames = config.timestamp_hop_ms // HOP_MS
        self.front_end = LogMel(_BANDS)
        self.front_end.window.pow_(0.85)  # Kaldi's default window, "povey", is Hanning's to this power
        stem = torch_stream(seed, "conv_token")
        self.patch = linear(_PATCH * _PATCH, _PATCH_WIDTH, stem, bias=False)
        self.patch_norm = nn.LayerNorm(_PATCH_WIDTH, _EPS)
        self.patch_projection = linear(_PATCH_WIDTH, width, stem)
        self.conv = nn.Conv1d(width, width, _CONV, groups=CONV_GROUPS, device="meta").to_empty(device="cpu")
        deviation = math.sqrt(4 / (_CONV * width))
        nn.init.normal_(self.conv.weight, std=deviation, generator=torch_stream(seed, "conv"))
        assert self.conv.bias is not None
        nn.init.zeros_(self.conv.bias)
        self.norm_in = nn.LayerNorm(width, _EPS)
        self.distance_bias = nn.Parameter(torch.empty(BUCKETS, config.heads))
        nn.init.normal_(self.distance_bias, std=0.02, generator=torch_stream(seed, "distance_bias"))
        alpha = (2 * config.blocks) ** 0.25
        self.blocks = nn.ModuleList(
            Block(width, config.heads, alpha, torch_stream(seed, "block", at)) for at in range(config.blocks)
        )

    def spectrogram(self, audio: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The normalised log-mel (n, T, 128), 0 past a clip's end, and each clip's frames (n,), 10 ms apart."""
        log_mel, frames = self.front_end(audio * _FULL_SCALE, lengths)
        past_end = torch.arange(log_mel.shape[1], device=log_mel.device) >= frames[:, None]
        return ((log_mel - _MEAN) / (2 * _STD)).masked_fill(past_end[..., None], 0.0), frames

    def encode(self, log_mel: Tensor, seen: Tensor | None, drop_path: Tensor | None) -> Tensor:
        """As `WindowEncoder`."""
        patches = log_mel.reshape(len(log_mel), -1, _PATCH, _ROWS, _PATCH).permute(0, 1, 3, 2, 4)
        tokens = self.patch_projection(self.patch_norm(self.patch(patches.flatten(3).flatten(1, 2))))
        if seen is not None:
            seen = seen.repeat_interleave(_ROWS, dim=1)
            tokens = tokens.masked_fill(~seen[..., None], 0.0)
        around = nn.functional.pad(tokens.transpose(1, 2), (_CONV // 2, _CONV - 1 - _CONV // 2))
        tokens = self.norm_in(tokens + nn.functional.gelu(self.conv(around)).transpose(1, 2))
        bias = self.distance_bias[distance_buckets(tokens.shape[1], tokens.device)].permute(2, 0, 1)
        for at, block in enumerate(self.blocks):
            tokens = block(tokens, bias, seen, None if drop_path is None else drop_path[:, at])
        moments: Tensor = tokens.reshape(len(tokens), -1, _ROWS, tokens.shape[2]).mean(dim=2)
        return moments
