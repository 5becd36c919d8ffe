"""Dasheng's encoder: log-mel in dB, patches of 4 frames and all 64 bins, pre-norm blocks. (Imports torch.)"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from aape_bench.checkpoint import load_tensors
from aape_bench.errors import CheckpointError
from aape_bench.models.aape.backbone import Block
from aape_bench.models.aape.layouts import BLOCK_NAMES
from aape_bench.models.dasheng import DashengConfig
from aape_bench.models.decibels import MelDecibels
from aape_bench.models.windows import WindowEncoder
from aape_bench.published_weights import renamed
from aape_bench.randomness import torch_stream

_MELS, _PATCH = 64, DashengConfig.patch_frames

#: Published names -> ours.
_NAMES = (
    (r"init_bn\.1\.", "norm_in."),
    (r"patch_embed\.proj\.", "patch."),
    *BLOCK_NAMES,
)
#: Of the front end of torchaudio, which has no weights: must be ours.
_FRONT_END = {"front_end.0.spectrogram.window": "taper", "front_end.0.mel_scale.fb": "filters"}


class DashengEncoder(WindowEncoder):
    """Scenes are the mean over a clip's tokens, 40 ms apart; timestamps the tokens.

    Clips of more than `clip_frames` are encoded window by window, the last one filled up with zeros, as the authors'
    code does it; shorter ones are not filled up.
    """

    centre_ms = 15.0
    fills_up = True

    def __init__(self, config: DashengConfig, seed: int) -> None:
        width = config.width
        super().__init__(config, width)
        self.front_end = MelDecibels(_MELS, fft=512, low_hz=0, high_hz=8000, top_db=120, least=(_PATCH - 1) * 160)
        self.norm_in = nn.BatchNorm1d(_MELS)
        self.patch = nn.Conv2d(1, width, (_MELS, _PATCH), (_MELS, _PATCH), device="meta").to_empty(device="cpu")
        nn.init.xavier_uniform_(self.patch.weight.view(width, -1), generator=torch_stream(seed, "conv_token"))
        assert self.patch.bias is not None
        nn.init.zeros_(self.patch.bias)
        self.time_pos_embed = nn.Parameter(torch.empty(1, width, 1, self.window))
        self.freq_pos_embed = nn.Parameter(torch.empty(1, width, 1, 1))
        for name in ("time_pos_embed", "freq_pos_embed"):
            nn.init.normal_(getattr(self, name), std=0.02, generator=torch_stream(seed, name))
        block = partial(Block, width, config.heads, 4.0, "pre", 1e-6)
        self.blocks = nn.ModuleList(block(torch_stream(seed, "block", at)) for at in range(config.blocks))
        self.norm = nn.LayerNorm(width, 1e-6)

    def spectrogram(self, audio: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The normalised log-mel (n, T, 64), 0 past a clip's end, and each clip's frames (n,), 10 ms apart."""
        decibels, frames = self.front_end(audio, lengths)
        norm = self.norm_in
        with torch.autocast(audio.device.type, enabled=False):
            # the statistics are fixed: those of a batch would make a clip depend on its neighbours
            values = nn.functional.batch_norm(
                decibels.transpose(1, 2), norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, 1e-5
            ).transpose(1, 2)
        past_end = torch.arange(values.shape[1], device=values.device) >= frames[:, None]
        return values.masked_fill(past_end[..., None], 0.0), frames

    def encode(self, log_mel: Tensor, seen: Tensor | None, drop_path: Tensor | None) -> Tensor:
        """As `WindowEncoder`."""
        tokens = self.patch(log_mel.transpose(1, 2)[:, None])
        tokens = tokens + self.time_pos_embed[..., : tokens.shape[-1]] + self.freq_pos_embed
        tokens = tokens.flatten(2).transpose(1, 2)
        for at, block in enumerate(self.blocks):
            tokens, _ = block(tokens, seen, None if drop_path is None else drop_path[:, at])
        return self.norm(tokens)  # type: ignore[no-any-return]


def load_published(encoder: DashengEncoder, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Put the authors' weights into the encoder. Raises CheckpointError saying what does not fit."""
    named = {}
    for full, tensor in tensors.items():
        name = full.removeprefix("encoder.")
        if name.startswith("decoder.") or full.startswith("decoder."):
            continue
        if name in _FRONT_END:
            ours = getattr(encoder.front_end, _FRONT_END[name])
            if tensor.shape != ours.shape or not torch.allclose(tensor.float(), ours, atol=1e-3):
                raise CheckpointError(
                    f"The checkpoint {path} was trained with another front end than Dasheng's published one ({full}), "
                    "so its embeddings would mean nothing here."
                )
            continue
        named[renamed(name, _NAMES) or name] = tensor
    load_tensors(encoder, named, path)
