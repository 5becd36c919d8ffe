"""ATST's encoder: log-mel in dB, patches of 4 frames and all 64 bands, with or without CLS. (Imports torch.)"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from aape_bench.checkpoint import load_tensors
from aape_bench.errors import CheckpointError
from aape_bench.models.aape.backbone import Block, linear
from aape_bench.models.aape.layouts import BLOCK_NAMES
from aape_bench.models.atst import AtstConfig
from aape_bench.models.decibels import MelDecibels
from aape_bench.models.windows import WindowEncoder
from aape_bench.published_weights import renamed
from aape_bench.randomness import torch_stream

_BANDS, _PATCH = 64, AtstConfig.patch_frames
#: Lowest and highest decibels of AudioSet, which become -1 and 1.
_LOWEST, _HIGHEST = -79.6482, 50.6842
_POSITIONS = AtstConfig.most_frames // _PATCH

#: What encoders are called in what the authors' trainings wrote: Lightning's, and DINO's of ATST-Clip's base model.
_PREFIXES = ("model.teacher.encoder.", "module.backbone.", "backbone.")
#: Published names -> ours.
_NAMES = (
    (r"patch_embed\.patch_embed\.", "patch."),
    (r"norm_frame\.", "norm."),
    *BLOCK_NAMES,
)


class AtstEncoder(WindowEncoder):
    """Scenes are, of each of the last `layers` blocks, CLS (where there is one), then the mean token; all normalised.

    Timestamps are the tokens, 40 ms apart. Drawn weights are of our own initialisation.
    """

    centre_ms = 15.0

    def __init__(self, config: AtstConfig, seed: int) -> None:
        width = config.width
        size = config.layers * width
        super().__init__(config, size, 2 * size if config.has_cls else size)
        self.layers = config.layers
        self.front_end = MelDecibels(_BANDS, fft=1024, low_hz=60, high_hz=7800, top_db=80, least=(_PATCH - 1) * 160)
        self.patch = linear(_BANDS * _PATCH, width, torch_stream(seed, "conv_token"))
        self.positions = nn.Parameter(torch.empty(_POSITIONS, width))
        nn.init.normal_(self.positions, std=0.02, generator=torch_stream(seed, "positions"))
        self.cls = nn.Parameter(torch.empty(width)) if config.has_cls else None
        if self.cls is not None:
            nn.init.normal_(self.cls, std=0.02, generator=torch_stream(seed, "cls"))
        block = partial(Block, width, config.heads, 4.0, "pre", 1e-6)
        blocks = [block(torch_stream(seed, "block", at)) for at in range(config.blocks)]
        for one in blocks:
            one.qkv.register_parameter("bias", None)
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(width, 1e-6)

    def spectrogram(self, audio: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The log-mel scaled to [-1, 1], (n, T, 64), 0 past a clip's end, and each clip's frames (n,), 10 ms apart."""
        decibels, frames = self.front_end(audio, lengths)
        past_end = torch.arange(decibels.shape[1], device=decibels.device) >= frames[:, None]
        scaled = (decibels - _LOWEST) / (_HIGHEST - _LOWEST) * 2 - 1
        return scaled.masked_fill(past_end[..., None], 0.0), frames

    def encode(self, log_mel: Tensor, seen: Tensor | None, drop_path: Tensor | None) -> Tensor:
        """As `WindowEncoder`."""
        patches = log_mel.reshape(len(log_mel), -1, _PATCH, _BANDS)
        patches = patches.transpose(2, 3).flatten(2)  # a patch's bands, of each its frames
        tokens = self.patch(patches) + self.positions[: patches.shape[1]]
        first = 0
        if self.cls is not None:
            tokens = torch.cat([self.cls.to(tokens.dtype).expand(len(tokens), 1, -1), tokens], dim=1)
            seen = None if seen is None else nn.functional.pad(seen, (1, 0), value=True)
            first = 1
        outputs = []
        for at, block in enumerate(self.blocks):
            tokens, _ = block(tokens, seen, None if drop_path is None else drop_path[:, at])
            if len(self.blocks) - at <= self.layers:
                outputs.append(self.norm(tokens))
        found = torch.cat(outputs, dim=2)
        moments = found[:, first:]
        return torch.cat([found[:, :first].expand_as(moments), moments], dim=2) if first else moments


def load_published(encoder: AtstEncoder, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Put the authors' weights into the encoder: of a training, the teacher's.

    Raises CheckpointError saying what does not fit.
    """
    theirs = _encoder_of(tensors)
    if ("cls_token" in theirs) != (encoder.cls is not None) and "pos_embed" in theirs:
        kind, other = ("ATST-Clip", "atst_clip") if "cls_token" in theirs else ("ATST-Frame", "atst_frame")
        raise CheckpointError(f"The checkpoint {path} is of {kind}. Use it with --model {other}.")
    named = {}
    for full, tensor in theirs.items():
        named[renamed(full, _NAMES) or full] = tensor
    named.pop("mask_embed", None)
    positions = named.pop("pos_embed", None)
    if positions is not None:  # the first is of CLS; ATST-Frame has it too, and never reads it
        named["positions"] = positions.flatten(0, -2)[1:] if positions.ndim > 1 else positions
        if "cls_token" in named:
            cls = named.pop("cls_token")
            fits = positions.ndim == cls.ndim == 3 and positions.shape[2] == cls.shape[2] and positions.shape[1] > 0
            named["cls"] = (cls + positions[:, :1] if fits else cls).flatten()
    load_tensors(encoder, named, path)


def _encoder_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    for prefix in _PREFIXES:
        found = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        if found:
            return found
    return dict(tensors)
