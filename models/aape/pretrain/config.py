"""Settings of AaPE's pre-training, and what each preset wants of the encoder. (Imports no torch.)

Sources: Yamamoto & Okusa, arXiv 2512.03637 (v1, v2); where they give no number, `paper` takes that of EAT (Chen
et al., arXiv 2401.03497) and the smaller presets our own. Every field says whose choice it is:

    (P)  stated by the paper's abstracts
    (S)  stated by summaries of it
    (O)  our own choice, the sources being silent
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal

from aape_bench.errors import UsageError
from aape_bench.models.aape.config import VitConfig
from aape_bench.settings import EXECUTION

Preset = Literal["smoke", "laptop", "node", "paper"]

#: Default of a field that the preset fills in: None until `resolved()`, of the annotated type after it.
FROM_PRESET: Any = None

_PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {
        **{"clip_seconds": 1.28, "masks": 2, "batch": 8, "steps": 20, "ema_start": 0.9, "ema_end": 0.99},
        **{"utterance_weight": 1.0, "contrastive_weight": 0.5, "predictor_heads": 2, "precision": "32-true"},
        **{"workers": 1, "checkpoint_every": 10, "log_every": 1},
        "learning_rate": 5e-4,
    },
    "laptop": {
        **{"clip_seconds": 2.56, "masks": 2, "batch": 32, "steps": 1000, "ema_start": 0.99, "ema_end": 0.999},
        **{"utterance_weight": 1.0, "contrastive_weight": 0.5, "predictor_heads": 3, "precision": "32-true"},
        **{"workers": 1, "checkpoint_every": 100, "log_every": 10},
        "learning_rate": 1e-3,
    },
    "node": {
        **{"clip_seconds": 10.24, "masks": 8, "batch": 96, "steps": 50000, "ema_start": 0.999, "ema_end": 0.9999},
        **{"utterance_weight": 1.0, "contrastive_weight": 0.5, "predictor_heads": 3, "precision": "bf16-mixed"},
        **{"workers": 8, "checkpoint_every": 1000, "log_every": 20},
        "learning_rate": 5e-4,
    },
    "paper": {
        **{"clip_seconds": 10.24, "masks": 16, "batch": 48, "steps": 400000, "ema_start": 0.9998, "ema_end": 0.99999},
        **{"utterance_weight": 192.0, "contrastive_weight": 192.0, "predictor_heads": 6, "precision": "bf16-mixed"},
        **{"workers": 12, "checkpoint_every": 5000, "log_every": 50},
        "learning_rate": 5e-4,
    },
}

#: Depth and width of each preset's predictors.
_PREDICTORS: dict[str, dict[str, tuple[int, int]]] = {
    "smoke": {"cross_attention": (1, 32), "conv": (2, 64)},
    "laptop": {"cross_attention": (2, 96), "conv": (6, 192)},
    "node": {"cross_attention": (4, 192), "conv": (6, 384)},
    "paper": {"cross_attention": (4, 384), "conv": (6, 768)},
}

_ENCODERS: dict[str, dict[str, Any]] = {
    "smoke": {"preset": "tiny", "width": 64, "blocks": 2, "heads": 2},
    "laptop": {"preset": "tiny", "blocks": 4},
    "node": {"preset": "small"},
    "paper": {"preset": "base"},
}

#: Lowest and highest value of every number.
_LIMITS: dict[str, tuple[float, float]] = {
    "clip_seconds": (0.05, 600),
    "masks": (1, 256),
    "keep": (0.001, 0.999),
    "mask_block": (1, 1024),
    "mask_excess": (0, 1),
    "mask_fewest": (1, 1024),
    "batch": (1, 1e6),
    "accumulate": (1, 1e4),
    "steps": (1, 1e8),
    "learning_rate": (0, 10),
    "beta1": (0, 0.99999),
    "beta2": (0, 0.9999999),
    "weight_decay": (0, 10),
    "clip_norm": (1e-6, 1e9),
    "warmup": (0, 0.99),
    "ema_start": (0, 1),
    "ema_end": (0, 1),
    "ema_share": (0, 1),
    "masked_weight": (0, 1e6),
    "utterance_weight": (0, 1e6),
    "contrastive_weight": (0, 1e6),
    "temperature": (0.001, 100),
    "projection_width": (2, 16384),
    "projection_hidden": (1, 65536),
    "predictor_depth": (1, 96),
    "predictor_width": (4, 8192),
    "predictor_heads": (1, 1024),
    "predictor_mlp_ratio": (0.01, 64),
    "predictor_kernel": (1, 31),
    "predictor_groups": (1, 8192),
    "mask_token_std": (0, 10),
    "target_blocks": (1, 96),
    "target_eps": (1e-12, 1),
    "workers": (0, 1024),
    "checkpoint_every": (1, 1e8),
    "log_every": (1, 1e8),
    "keep_checkpoints": (1, 1e6),
}

# The front end's, as aape_bench.features has them (which imports torch; a test compares).
_SAMPLE_RATE, _FRAME, _HOP = 16000, 400, 160


@dataclass(frozen=True)
class PretrainConfig:
    """Masked teacher-student pre-training: data, masks, losses, predictor, optimiser, teacher, running.

    preset:         (O) smoke (seconds on a CPU), laptop (minutes to hours on a CPU), node (a node of GPUs, encoder
                    "small") or paper (encoder "base"): fills in every field whose default is None.
    clip_seconds:   (O) length of the random crops. 10.24 s, the encoder's window, for node and paper: AudioSet's
                    10 s clips are padded to it, as in EAT.
    masks:          views per clip and step (P: several); 16 (S: as EAT); 2 to 8 where computing binds (O).
    keep:           (S) share of the patches that the student sees: 102 of 512.
    mask_block:     (O) side b of the kept blocks, in patches; None: the largest that leaves at least `mask_fewest`
                    blocks: 5 on the 64 x 8 grid of 10.24 s, 2 on the 16 x 8 grid of 2.56 s.
    mask_excess:    (O) blocks are drawn as if to keep this share more, since they overlap and leave the grid; as EAT.
    mask_fewest:    (O) see mask_block: with a single block a view could relate nothing across time.
    batch:          (O) clips per step, over all ranks and accumulated parts.
    accumulate:     (O) parts that a rank computes its clips of a step in; the contrastive loss compares within one.
    steps:          (O) optimiser steps.
    learning_rate:  (O) peak, as EAT; for laptop higher, chosen with its batch on clips of seeds other than the tasks'.
    beta1, beta2, weight_decay: (O) of AdamW, as EAT; no decay on vectors or on the table of a "static" stem.
    clip_norm:      (O) largest norm of the gradient, as EAT.
    warmup:         (O) share of the steps in which the learning rate rises; a half cosine to 0 follows.
    ema_start, ema_end: (O) the teacher's momentum, rising linearly; as EAT for paper, faster for shorter budgets.
    ema_share:      (O) share of the steps in which it rises.
    masked_weight:  (O) of the masked-token loss (P).
    utterance_weight: (O) of the utterance loss (P): 1, for paper 192, what EAT's sum over views amounts to.
    contrastive_weight: (O) of the multi-mask contrastive loss (P); 0 leaves it out. To make its gradient at CLS 0.1
                    to 1 times the utterance loss's (`contrastive_ratio` in the log): half its weight for small
                    encoders, all of it for paper, since the ratio falls with the width.
    temperature:    (O) tau of the contrastive loss.
    projection_width, projection_hidden: (O) output and hidden width of its two-layer projection of CLS.
    predictor:      "cross_attention" (P: v2), or "conv", grouped convolutions over the grid (S: v1, as EAT).
    predictor_depth, predictor_width: (O) its layers (conv: 6, as EAT) and their width.
    predictor_heads, predictor_mlp_ratio: (O) of "cross_attention".
    predictor_kernel, predictor_groups: (O) of "conv", as EAT.
    mask_token_std: (O) standard deviation of the mask token's initial weights.
    target_blocks:  (O) the targets average this many last blocks of the teacher; None: all, as EAT.
    target_eps:     (O) epsilon of the targets' instance norm and layer norm.
    precision:      (O) of the forward pass; weights, losses and the teacher's average stay in float32.
    compile:        (O) torch.compile for blocks and predictor.
    workers:        (O) threads that decode ahead.
    checkpoint_every, log_every: (O) in steps.
    keep_checkpoints: (O) how many of the latest checkpoints stay.
    """

    preset: Preset = "laptop"
    clip_seconds: float = FROM_PRESET
    masks: int = FROM_PRESET
    keep: float = 0.2
    mask_block: int | None = None
    mask_excess: float = 0.07
    mask_fewest: int = 4
    batch: int = FROM_PRESET
    accumulate: int = 1
    steps: int = FROM_PRESET
    learning_rate: float = FROM_PRESET
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.05
    clip_norm: float = 4.0
    warmup: float = 0.13
    ema_start: float = FROM_PRESET
    ema_end: float = FROM_PRESET
    ema_share: float = 0.25
    masked_weight: float = 1.0
    utterance_weight: float = FROM_PRESET
    contrastive_weight: float = FROM_PRESET
    temperature: float = 0.2
    projection_width: int = 256
    projection_hidden: int = 256
    predictor: Literal["cross_attention", "conv"] = "cross_attention"
    predictor_depth: int = FROM_PRESET
    predictor_width: int = FROM_PRESET
    predictor_heads: int = FROM_PRESET
    predictor_mlp_ratio: float = 4.0
    predictor_kernel: int = 3
    predictor_groups: int = 16
    mask_token_std: float = 0.02
    target_blocks: int | None = None
    target_eps: float = 1e-5
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = FROM_PRESET
    compile: bool = False
    workers: int = field(default=FROM_PRESET, metadata=EXECUTION)
    checkpoint_every: int = field(default=FROM_PRESET, metadata=EXECUTION)
    log_every: int = field(default=FROM_PRESET, metadata=EXECUTION)
    keep_checkpoints: int = field(default=3, metadata=EXECUTION)

    def resolved(self) -> PretrainConfig:
        """The same config with the preset filled in and checked. Raises UsageError naming the setting."""
        depth, width = _PREDICTORS[self.preset][self.predictor]
        preset = {**_PRESETS[self.preset], "predictor_depth": depth, "predictor_width": width}
        unset = {name: value for name, value in preset.items() if getattr(self, name) is None}
        config = dataclasses.replace(self, **unset)
        config.check()
        return config

    def check(self) -> None:
        """Raise UsageError, naming the setting, where the values cannot work together."""
        for name, (lowest, highest) in _LIMITS.items():
            value = getattr(self, name)
            if value is None and name in ("mask_block", "target_blocks"):
                continue
            _require(lowest <= value <= highest, f"{name} must lie between {lowest:g} and {highest:g}, not {value}.")
        _require(
            self.batch % self.accumulate == 0,
            f"accumulate={self.accumulate} does not divide batch={self.batch}.",
        )
        _require(
            self.ema_start <= self.ema_end,
            f"ema_start={self.ema_start} must not be above ema_end={self.ema_end}.",
        )
        _require(
            max(self.masked_weight, self.utterance_weight, self.contrastive_weight) > 0,
            "masked_weight, utterance_weight and contrastive_weight are all 0: there is nothing to learn.",
        )
        _require(
            self.contrastive_weight == 0 or self.masks > 1,
            "masks=1 leaves the contrastive loss without a positive: set contrastive_weight=0, or more masks.",
        )
        _require(
            self.predictor_width % 4 == 0,
            f"predictor_width must be a multiple of 4 for 2-D positions, not {self.predictor_width}.",
        )
        divisor = "predictor_heads" if self.predictor == "cross_attention" else "predictor_groups"
        _require(
            self.predictor_width % getattr(self, divisor) == 0,
            f"{divisor}={getattr(self, divisor)} does not divide predictor_width={self.predictor_width}.",
        )
        _require(
            self.predictor_mlp_ratio * self.predictor_width >= 1,
            f"predictor_mlp_ratio={self.predictor_mlp_ratio} leaves the predictor's MLP without a hidden unit.",
        )
        _require(self.predictor_kernel % 2 == 1, f"predictor_kernel must be odd, not {self.predictor_kernel}.")

    def check_encoder(self, encoder: VitConfig) -> None:
        """Raise UsageError, naming the setting, where an encoder of a resolved config cannot be trained so."""
        frames = crop_frames(self.clip_seconds, encoder.patch_frames)
        _require(
            frames == encoder.clip_frames,
            f"Crops of clip_seconds={self.clip_seconds:g} fill {frames} frames, but the encoder's windows are "
            f"clip_frames={encoder.clip_frames} long: train with what it will be used with. Set clip_seconds, or "
            f"model.clip_frames={frames}.",
        )
        steps, rows = encoder.clip_frames // encoder.patch_frames, encoder.rows
        kept = round(self.keep * steps * rows)
        _require(
            0 < kept < steps * rows,
            f"keep={self.keep} keeps {kept} of the {steps * rows} patches of a crop: some must be kept, some masked.",
        )
        _require(
            self.mask_block is None or self.mask_block <= min(steps, rows),
            f"mask_block={self.mask_block} is larger than the grid of {steps} x {rows} patches.",
        )
        _require(
            self.target_blocks is None or self.target_blocks <= encoder.depth,
            f"target_blocks={self.target_blocks} is more than the encoder's {encoder.depth} blocks.",
        )


def encoder_settings(preset: str, clip_seconds: float | None = None) -> dict[str, Any]:
    """The settings of AapeConfig that a preset wants, for crops of its own or another length.

    smoke: width 64, 2 blocks; laptop: width 192, 4 blocks; node: "small"; paper: "base". Raises UsageError
    where there is no such preset.
    """
    if preset not in _ENCODERS:
        raise UsageError(f'There is no pre-training preset "{preset}". There are: {", ".join(_ENCODERS)}.')
    seconds = _PRESETS[preset]["clip_seconds"] if clip_seconds is None else clip_seconds
    return {**_ENCODERS[preset], "clip_frames": crop_frames(seconds, VitConfig.patch_frames)}


def crop_frames(clip_seconds: float, patch_frames: int) -> int:
    """Log-mel frames of a crop, filled up to whole patches: 1024 for 10.24 s (of which 1022 are whole)."""
    frames = 1 + max(0, round(clip_seconds * _SAMPLE_RATE) - _FRAME) // _HOP
    return math.ceil(frames / patch_frames) * patch_frames


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise UsageError(message)
