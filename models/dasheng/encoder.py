"""Dasheng's encoder: log-mel in dB, patches of 4 frames and all 64 bins, pre-norm blocks. (Imports torch.)"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from aape_bench.checkpoint import load_tensors
from aape_bench.encoder import SpectrogramEncoder
from aape_bench.errors import CheckpointError
from aape_bench.models.aape.backbone import Block
from aape_bench.models.dasheng import DashengConfig
from aape_bench.randomness import torch_stream

_MELS, _FFT, _HOP, _PATCH = 64, 512, 160, 4
_TOP_DB = 120.0
#: Fewer samples make no token: shorter clips are followed by silence.
_LEAST = (_PATCH - 1) * _HOP

#: Published names -> ours.
_NAMES = (
    (r"init_bn\.1\.", "norm_in."),
    (r"patch_embed\.proj\.", "patch."),
    (r"blocks\.(\d+)\.attn\.qkv\.", r"blocks.\1.qkv."),
    (r"blocks\.(\d+)\.attn\.proj\.", r"blocks.\1.projection."),
    (r"blocks\.(\d+)\.mlp\.fc1\.", r"blocks.\1.mlp.0."),
    (r"blocks\.(\d+)\.mlp\.fc2\.", r"blocks.\1.mlp.2."),
)
#: Of the front end of torchaudio, which has no weights: must be ours.
_FRONT_END = {"front_end.0.spectrogram.window": "taper", "front_end.0.mel_scale.fb": "filters"}


class DashengEncoder(SpectrogramEncoder):
    """Scenes are the mean over a clip's tokens, 40 ms apart; timestamps the tokens.

    Clips of more than `clip_frames` are encoded window by window, the last one filled up with zeros, as the authors'
    code does it; shorter ones are not filled up.
    """

    taper: Tensor
    filters: Tensor
    sample_rate = 16000
    quiet = 0.0  # the mean, once normalised

    def __init__(self, config: DashengConfig, seed: int) -> None:
        super().__init__()
        width = config.width
        self.scene_embedding_size = self.timestamp_embedding_size = width
        self.drop_path_blocks = config.blocks
        self.window = config.clip_frames // _PATCH
        self.register_buffer("taper", torch.hann_window(_FFT), persistent=False)
        self.register_buffer("filters", htk_filters(), persistent=False)
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

    def layer_groups(self) -> list[list[str]]:
        """The parameters of each block."""
        return [[f"blocks.{at}.{name}" for name, _ in one.named_parameters()] for at, one in enumerate(self.blocks)]

    def stem_parameters(self) -> list[str]:
        """Input normalisation, patches and positions."""
        return [name for name, _ in self.named_parameters() if not name.startswith(("blocks.", "norm."))]

    def spectrogram(self, audio: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The normalised log-mel (n, T, 64), 0 past a clip's end, and each clip's frames (n,), 10 ms apart.

        The first and last frame see the clip mirrored at its end, so clips of one length are transformed together.
        """
        if lengths is None:
            lengths = torch.full((len(audio),), audio.shape[1], device=audio.device)
        lengths = lengths.to(audio.device, torch.int64)
        real = torch.arange(audio.shape[1], device=audio.device) < lengths[:, None]
        audio = nn.functional.pad(audio.masked_fill(~real, 0.0), (0, max(0, _LEAST - audio.shape[1])))
        lengths = lengths.clamp(min=_LEAST)
        frames = 1 + lengths // _HOP
        order, parts = [], []
        for length in torch.unique(lengths).tolist():
            rows = torch.nonzero(lengths == length)[:, 0]
            decibels = self._decibels(audio[rows, :length])
            parts.append(nn.functional.pad(decibels, (0, 0, 0, int(frames.max()) - decibels.shape[1])))
            order.append(rows)
        return torch.cat(parts)[torch.argsort(torch.cat(order))], frames

    def scene_embeddings_of(self, spectrogram: Tensor, frames: Tensor) -> Tensor:
        """Mean over the tokens of each clip: (n, width) float32."""
        tokens, counts = self._tokens(spectrogram, frames)
        return tokens.sum(dim=1) / counts[:, None]  # tokens past the end are 0

    def timestamp_embeddings(self, audio: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One vector per 40 ms, (n, t, width), and the middle of its four frames' centres in ms (n, t): 15 first."""
        tokens, counts = self._tokens(*self.spectrogram(audio, lengths))
        if lengths is None:
            lengths = torch.full_like(counts, audio.shape[1])
        index = torch.arange(tokens.shape[1], device=tokens.device)
        times = (15.0 + 40.0 * index).minimum(lengths.to(tokens.device)[:, None] * (1000 / self.sample_rate) / 2)
        times = torch.where(index > 0, 15.0 + 40.0 * index, times)
        return tokens, times.masked_fill(index >= counts[:, None], torch.nan)

    def _decibels(self, clips: Tensor) -> Tensor:
        """Whole clips (n, samples) -> (n, frames, 64): power in dB, at most 120 below the loudest, then batch norm."""
        with torch.autocast(clips.device.type, enabled=False):
            spectrum = torch.stft(clips.float(), _FFT, _HOP, window=self.taper, return_complex=True)
            power = spectrum.real.square() + spectrum.imag.square()
            decibels = 10 * (power.transpose(1, 2) @ self.filters).clamp(min=1e-10).log10()
            decibels = decibels.maximum(decibels.amax(dim=(1, 2), keepdim=True) - _TOP_DB)
            norm = self.norm_in
            # the statistics are fixed: those of a batch would make a clip depend on its neighbours
            values = nn.functional.batch_norm(
                decibels.transpose(1, 2), norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, 1e-5
            )
        return values.transpose(1, 2)

    def _tokens(self, spectrogram: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (n, t, width) float32, 0 past a clip's end, and each clip's number of them (n,)."""
        counts = (frames // _PATCH).clamp(min=1)
        long = frames > self.window * _PATCH
        drop_path = self.drop_path if self.training else None
        found = []
        for first in range(0, int(counts.max()), self.window):
            rows = torch.nonzero(counts > first)[:, 0]
            span = self.window if bool(long[rows].any()) else int(counts[rows].max()) - first
            piece = spectrogram[rows, first * _PATCH : (first + span) * _PATCH]
            piece = nn.functional.pad(piece, (0, 0, 0, span * _PATCH - piece.shape[1]))
            own = torch.arange(span, device=rows.device) < (counts[rows] - first)[:, None]
            seen = own | long[rows, None]  # a long clip's last window is filled up with zeros, which are seen
            tokens = self._encode(piece, seen, None if drop_path is None else drop_path[rows])
            tokens = tokens.float() * own[..., None]
            found.append(tokens.new_zeros(len(frames), *tokens.shape[1:]).index_copy(0, rows, tokens))
        return torch.cat(found, dim=1)[:, : int(counts.max())], counts

    def _encode(self, log_mel: Tensor, seen: Tensor, drop_path: Tensor | None) -> Tensor:
        """One window (n, 4 t, 64) with t tokens, of which those `seen` (n, t) may be attended to -> (n, t, width)."""
        tokens = self.patch(log_mel.transpose(1, 2)[:, None])
        tokens = tokens + self.time_pos_embed[..., : tokens.shape[-1]] + self.freq_pos_embed
        tokens = tokens.flatten(2).transpose(1, 2)
        mask = None if bool(seen.all()) else seen
        for at, block in enumerate(self.blocks):
            tokens, _ = block(tokens, mask, None if drop_path is None else drop_path[:, at])
        return self.norm(tokens)  # type: ignore[no-any-return]


def htk_filters() -> Tensor:
    """Triangles linear in Hz between points even on the scale 2595 log10(1 + f / 700), 0 to 8 kHz: (257, 64)."""
    mels = torch.linspace(0, 2595 * torch.log10(torch.tensor(1 + 8000 / 700)).item(), _MELS + 2, dtype=torch.float64)
    edges = 700 * (10 ** (mels / 2595) - 1)
    bins = torch.linspace(0, 8000, _FFT // 2 + 1, dtype=torch.float64)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return rising.minimum(falling).clamp(min=0).float()


def load_published(encoder: DashengEncoder, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Put the authors' weights into the encoder. Raises CheckpointError saying what does not fit."""
    named = {}
    for full, tensor in tensors.items():
        name = full.removeprefix("encoder.")
        if name.startswith("decoder.") or full.startswith("decoder."):
            continue
        if name in _FRONT_END:
            ours = getattr(encoder, _FRONT_END[name])
            if tensor.shape != ours.shape or not torch.allclose(tensor.float(), ours, atol=1e-3):
                raise CheckpointError(
                    f"The checkpoint {path} was trained with another front end than Dasheng's published one ({full}), "
                    "so its embeddings would mean nothing here."
                )
            continue
        for pattern, own in _NAMES:
            if re.match(pattern, name):
                name = re.sub("^" + pattern, own, name)
                break
        named[name] = tensor
    load_tensors(encoder, named, path)
