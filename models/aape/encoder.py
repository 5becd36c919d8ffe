"""AaPE as an `Encoder`: log-mel front end, stem, backbone, read-out. (Imports torch.)

Clips longer than `clip_frames` are encoded in windows of that length on the patch grid, the last one moved
back to end with the clip; a moment seen by two windows is the mean of both, so each moment counts once.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from aape_bench.encoder import SpectrogramEncoder
from aape_bench.features import HOP_MS, LogMel
from aape_bench.models.aape.backbone import Backbone
from aape_bench.models.aape.config import VitConfig
from aape_bench.models.aape.stem import build_stem


class AapeEncoder(SpectrogramEncoder):
    """AaPE, one of its controls, or with a `VitConfig` the plain ViT.

    config is resolved; every module draws its weights from its own stream of the seed, so variants share the
    weights of the modules that they share.
    """

    def __init__(self, config: VitConfig, seed: int) -> None:
        super().__init__()
        self.config = config
        self.front_end = LogMel(config.n_mels)
        self.stem = build_stem(config, seed)
        self.backbone = Backbone(config, seed)
        self.sample_rate = self.front_end.sample_rate
        per_moment = config.dim * (config.rows if config.pooling == "freqcat" else 1)
        self.timestamp_embedding_size = per_moment
        self.scene_embedding_size = 2 * config.dim if config.pooling == "cls+mean" else per_moment
        self.quiet = config.norm_mean  # exactly 0 once normalised
        self.drop_path_blocks = config.depth

    def layer_groups(self) -> list[list[str]]:
        """The parameters of each transformer block."""
        blocks = enumerate(self.backbone.blocks)
        return [[f"backbone.blocks.{at}.{name}" for name, _ in block.named_parameters()] for at, block in blocks]

    def stem_parameters(self) -> list[str]:
        """Stem, CLS and, where it stands before the blocks (post-norm), the LayerNorm."""
        later = ("backbone.blocks.", "backbone.norm.") if self.backbone.pre_norm else ("backbone.blocks.",)
        return [name for name, _ in self.named_parameters() if not name.startswith(later)]

    def spectrogram(self, audio: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The log-mel (n, T, mels), not normalised, 0 past a clip's end, and each clip's frames (n,)."""
        log_mel, frames = self.front_end(audio, lengths)
        return log_mel, frames

    def scene_embeddings_of(self, spectrogram: Tensor, frames: Tensor) -> Tensor:
        """One vector per clip, pooled as `pooling` says; CLS of a long clip is averaged by its windows' duration.

        Returns (n, scene_embedding_size) float32.
        """
        moments, cls, steps = self._moments(spectrogram, frames)
        mean = moments.sum(dim=1) / steps[:, None]
        if self.config.pooling == "cls":
            return cls
        return torch.cat([cls, mean], dim=1) if self.config.pooling == "cls+mean" else mean

    def timestamp_embeddings(self, audio: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One vector every `timestamp_hop_ms`: the passes encode the clip less its first 0, 1, .. hops, interleaved.

        Each is the mean over the rows of the patches at one moment, or with `freqcat` the rows side by side.
        Returns (n, t, timestamp_embedding_size) float32, 0 past a clip's end, and times (n, t) in ms, the middle
        of what a patch's frames span: 87.5 ms first. A clip too short to contain that has one moment, at its
        middle.
        """
        log_mel, frames = self.front_end(audio, lengths)
        patch = self.config.patch_frames
        hop = self.config.timestamp_hop_ms // HOP_MS
        passes = [self._moments(log_mel[:, shift:], frames - shift)[0] for shift in range(0, patch, hop)]
        moments = nn.utils.rnn.pad_sequence([p.transpose(0, 1) for p in passes], batch_first=True)
        moments = moments.permute(2, 1, 0, 3).flatten(1, 2)

        if lengths is None:
            lengths = torch.full_like(frames, audio.shape[1])
        lengths = lengths.to(frames.device)
        hop_samples = hop * self.front_end.hop_length
        first = ((patch - 1) * self.front_end.hop_length + self.front_end.frame_length) // 2
        count = torch.clamp((lengths - first).div(hop_samples, rounding_mode="floor") + 1, min=1)
        # Where a patch is hardly longer than a hop, a moment may lie inside the clip though no frame starts there.
        count = count.minimum((frames + hop - 1).div(hop, rounding_mode="floor"))
        index = torch.arange(int(count.max()), device=frames.device)
        centre = torch.where(lengths < first, lengths / 2, float(first))[:, None] + hop_samples * index
        real = index < count[:, None]
        times = (1000.0 * centre / self.sample_rate).masked_fill(~real, float("nan"))
        return moments[:, : len(index)] * real[..., None], times

    def encode(
        self, log_mel: Tensor, real: Tensor | None = None, drop_path: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """One window through stem and backbone.

        log_mel: (n, 1, T, mels), normalised, T a multiple of the patch and at most `clip_frames`.
        real: (n, T / patch) bool, False beyond a clip's end, or None where all steps are real.
        drop_path: (n, blocks, 2), as `Backbone` takes it, or None.
        Returns patch tokens (n, T / patch, rows, width), without meaning where not real, and CLS (n, width).
        """
        by_row = None if real is None else real[..., None].expand(-1, -1, self.config.rows)
        tokens = self.stem(log_mel, by_row)
        steps, rows = tokens.shape[1:3]
        tokens = tokens + self.backbone.positions(steps, rows)
        tokens = self.backbone(tokens.flatten(1, 2), None if by_row is None else by_row.flatten(1), drop_path)
        return tokens[:, 1:].unflatten(1, (steps, rows)), tokens[:, 0]

    def patch_tokens(self, log_mel: Tensor) -> Tensor:
        """What the stem alone makes of a log-mel: tokens without positions, before the backbone.

        log_mel: (n, frames, mels) as the front end gives it. Returns (n, frames / patch, rows, width), a last
        incomplete patch filled up with zeros.
        """
        tokens: Tensor = self.stem(self.normalised(log_mel)[:, None])
        return tokens

    def normalised(self, log_mel: Tensor) -> Tensor:
        """Pad a log-mel (n, T, mels) with zeros to whole patches, at least one, and normalise it."""
        patch = self.config.patch_frames
        missing = -log_mel.shape[1] % patch if log_mel.shape[1] else patch
        log_mel = nn.functional.pad(log_mel, (0, 0, 0, missing))
        return (log_mel - self.config.norm_mean) / (2 * self.config.norm_std)

    def _moments(self, log_mel: Tensor, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Whole clips, window by window.

        log_mel: (n, T, mels), 0 past a clip's end. frames: (n,), its real frames.
        Returns one vector per time step (n, steps, size), 0 past a clip's end; CLS (n, width); each clip's steps.
        """
        patch, window = self.config.patch_frames, self.config.clip_frames // self.config.patch_frames
        steps = (frames + patch - 1).div(patch, rounding_mode="floor").clamp(min=1)
        longest = int(steps.max())
        patches = self.normalised(log_mel)[:, : longest * patch].reshape(len(frames), longest, patch, -1)
        total = patches.new_zeros(len(patches), longest, self.timestamp_embedding_size)
        times_seen = patches.new_zeros(len(patches), longest)
        drop_path = self.drop_path if self.training else None
        parts = []
        for first in range(0, longest, window):
            clips = torch.nonzero(steps > first)
            start = torch.clamp(torch.full_like(steps, first).minimum(steps - window), min=0)[clips]
            span = min(window, int(steps[clips].max()))
            where = (clips, start + torch.arange(span, device=steps.device))
            real = where[1] < steps[clips]
            # What is dropped is the same in every window of a clip.
            encode = self.encode if drop_path is None else partial(self.encode, drop_path=drop_path[clips[:, 0]])
            tokens, cls = encode(patches[where].flatten(1, 2)[:, None], None if bool(real.all()) else real)
            by_moment = tokens.flatten(2) if self.config.pooling == "freqcat" else tokens.mean(dim=2)
            by_moment = by_moment.float() * real[..., None]
            total = total.index_put(where, by_moment, accumulate=True)
            times_seen = times_seen.index_put(where, real.float(), accumulate=True)
            parts.append((where, real, cls.float()))

        cls_mean = total.new_zeros(len(patches), self.config.dim)
        for where, real, cls in parts:
            duration = (real / times_seen[where].clamp(min=1)).sum(dim=1, keepdim=True)
            weight = duration / steps[where[0]]
            cls_mean = cls_mean.index_add(0, where[0][:, 0], weight * cls)
        return total / times_seen.clamp(min=1)[..., None], cls_mean, steps
