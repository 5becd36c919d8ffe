"""Settings of the AaPE encoder and of its plain `vit` baseline. (Imports no torch.)

Sources: Yamamoto & Okusa, "AaPE: Aliasing-aware Patch Embedding for Self-Supervised Audio Representation
Learning", arXiv 2512.03637. There is no public implementation, so every field says whose choice it is:

    (P)  stated by the paper's abstracts
    (S)  stated by summaries of it
    (O)  our own choice, the sources being silent
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from aape_bench.errors import UsageError
from aape_bench.settings import INFERENCE

Preset = Literal["tiny", "small", "base"]
Window = Literal["bilateral", "gaussian", "one_sided"]

_PRESETS = {
    "tiny": {"width": 192, "blocks": 12, "heads": 3, "lambda_width": 32, "lambda_layers": 1},
    "small": {"width": 384, "blocks": 12, "heads": 6, "lambda_width": 64, "lambda_layers": 2},
    "base": {"width": 768, "blocks": 12, "heads": 12, "lambda_width": 64, "lambda_layers": 2},
}

_Resolved = TypeVar("_Resolved", bound="VitConfig")


@dataclass(frozen=True)
class VitConfig:
    """Front end, backbone and read-out; with the plain patch embedding this is the `vit` baseline.

    preset:         (O) tiny, small or base: fills in every field whose default is None. Base is the paper's.
    width, blocks, heads: of the transformer; base: 768, 12, 12 (S: ViT-B), the smaller two (O).
    mlp_ratio:      hidden width of a block's MLP over `width` (S: ViT-B).
    norm:           (O) "pre": normalise each branch's input; "post": its sum with the residual, as EAT.
    norm_eps:       (O) epsilon of every LayerNorm.
    init_std:       (O) standard deviation of the CLS token's and the row embedding's initial weights.
    position_base:  (O) longest wavelength of the fixed sin-cos positions is 2 pi times this.
    n_mels:         (O) mel bins, as EAT.
    patch_frames, patch_mels: 16 x 16 patches, stride 16 (P).
    clip_frames:    (O) frames of one window, 10.24 s; longer clips are encoded window by window.
    norm_mean, norm_std: (O) AudioSet statistics, as EAT: the input is (log-mel - mean) / (2 std).
    pooling:        (O) scene embedding: "mean" of the patch tokens, "cls" token, "cls+mean" side by side, or
                    "freqcat", the mel rows of a time step side by side, then averaged (as M2D).
    timestamp_hop_ms: (O) spacing of timestamp embeddings; finer than a patch by interleaving shifted passes.
    """

    preset: Preset = "tiny"
    width: int | None = None
    blocks: int | None = None
    heads: int | None = None
    mlp_ratio: float = 4.0
    norm: Literal["pre", "post"] = "pre"
    norm_eps: float = 1e-6
    init_std: float = 0.02
    position_base: float = 10000.0
    n_mels: int = 128
    patch_frames: int = 16
    patch_mels: int = 16
    clip_frames: int = 1024
    norm_mean: float = -4.268
    norm_std: float = 4.569
    pooling: Literal["mean", "cls", "cls+mean", "freqcat"] = field(default="mean", metadata=INFERENCE)
    timestamp_hop_ms: int = field(default=40, metadata=INFERENCE)

    def resolved(self: _Resolved) -> _Resolved:
        """The same config with the preset filled in and checked. Raises UsageError naming the setting."""
        unset: dict[str, Any] = {
            name: value
            for name, value in _PRESETS[self.preset].items()
            if hasattr(self, name) and getattr(self, name) is None
        }
        config = dataclasses.replace(self, **unset)
        config.check()
        return config

    def check(self) -> None:
        """Raise UsageError, naming the setting, where the values cannot work together."""
        for name in ("width", "blocks", "heads", "n_mels", "patch_frames", "patch_mels", "clip_frames"):
            _require(getattr(self, name) >= 1, f"{name} must be at least 1, not {getattr(self, name)}.")
        for name in ("mlp_ratio", "norm_eps", "init_std", "norm_std"):
            _require(getattr(self, name) > 0, f"{name} must be above 0, not {getattr(self, name)}.")
        _require(self.position_base > 1, f"position_base must be above 1, not {self.position_base}.")
        _require(self.dim % 4 == 0, f"width must be a multiple of 4 for 2-D positions, not {self.width}.")
        _require(self.dim % self.n_heads == 0, f"heads={self.heads} does not divide width={self.width}.")
        _require(
            self.n_mels % self.patch_mels == 0,
            f"patch_mels={self.patch_mels} does not divide n_mels={self.n_mels}.",
        )
        _require(
            self.clip_frames % self.patch_frames == 0,
            f"clip_frames={self.clip_frames} is no multiple of patch_frames={self.patch_frames}.",
        )
        hops = [10 * frames for frames in range(1, self.patch_frames + 1) if self.patch_frames % frames == 0]
        _require(
            self.timestamp_hop_ms in hops,
            f"timestamp_hop_ms must be one of {', '.join(map(str, hops))}, not {self.timestamp_hop_ms}.",
        )

    @property
    def dim(self) -> int:
        """Token width D of a resolved config."""
        return _filled(self.width, "width")

    @property
    def depth(self) -> int:
        """Transformer blocks of a resolved config."""
        return _filled(self.blocks, "blocks")

    @property
    def n_heads(self) -> int:
        """Attention heads of a resolved config."""
        return _filled(self.heads, "heads")

    @property
    def rows(self) -> int:
        """Patch rows R, the subbands: mel bins over bins per patch."""
        return self.n_mels // self.patch_mels


@dataclass(frozen=True)
class AapeConfig(VitConfig):
    """`VitConfig` with the stem of AaPE or one of its controls.

    stem:           "sblu", the paper's; controls (O): "plain" conv token alone; "static", Lambda learned but
                    the same for every input; "lambda_only", Lambda's values without any kernel; "patch_mlp",
                    an MLP on the patch with the parameters and FLOPs of "sblu"; "lowpass", an anti-alias
                    filter before the stride (leaks across patches).
    window:         "bilateral" exponential (P), "gaussian", "one_sided" (causal); equal -3 dB bandwidths (O).
    phase:          (O) "quadrature", j beta (k - c), after the abstract; "even", j beta |k - c|, as a summary
                    prints it: blind to the odd part of the signal.
    scale:          (O) "unit" L2 norm of every kernel; "zoh", the factor 2 Lambda^-1 sinh(Lambda / 2) (S).
    kernel_frames:  (O) K. Up to `patch_frames` a token depends on its own patch only; longer kernels reach
                    into the row's neighbours (leakage in masked training unless masked frames are zeroed).
    modes:          (S) N, resonators per patch.
    beta_min, beta_max: (P, S) modulation frequency in rad/frame: the band that folds at stride 16.
    alpha_min, alpha_max: (O) decay per frame; below 0.1 a 16-frame window hardly changes.
    alpha_init:     (O) initial alpha, as a share of its range on the log scale.
    lambda_width, lambda_layers: (O) of the Lambda Encoder; 32, 1 for tiny, else 64, 2.
    lambda_heads, lambda_mlp_ratio: (O) of the same.
    lambda_head_std: (O) standard deviation of the initial weights from the input to alpha and beta.
    fusion_features: (O) "full": Re y, Im y, log energy, log alpha, log beta per mode; "reim": the first two.
    fusion_init:    (O) "scaled" to `fusion_rms`; "zero" only to warm-start from a plain checkpoint, since no
                    gradient then reaches alpha and beta.
    fusion_rms:     (O) initial RMS of the addition over that of the conv token.
    input_rms:      (O) RMS of the normalised input for which `fusion_rms` holds: 1/2, by its normalisation.
    energy_eps:     (O) epsilon under the logarithm of a mode's energy.
    patch_mlp_features: (O) features per frame in the first half of "patch_mlp"; its width is solved for.
    lowpass_taps, lowpass_hz: (O) length and cut-off (-6 dB) of the "lowpass" stem's FIR filter; 3.125 Hz is
                    half the patch rate.
    stem_chunk:     (O) patches whose kernels are in memory at once; changes memory, not results.
    stem_recompute: (O) compute the stem again in backward instead of keeping its activations.
    """

    stem: Literal["sblu", "plain", "static", "lambda_only", "patch_mlp", "lowpass"] = "sblu"
    window: Window = "bilateral"
    phase: Literal["quadrature", "even"] = "quadrature"
    scale: Literal["unit", "zoh"] = "unit"
    kernel_frames: int = 16
    modes: int = 16
    beta_min: float = math.pi / 16
    beta_max: float = math.pi
    alpha_min: float = 0.1
    alpha_max: float = 1.0
    alpha_init: float = 0.5
    lambda_width: int | None = None
    lambda_layers: int | None = None
    lambda_heads: int = 4
    lambda_mlp_ratio: float = 4.0
    lambda_head_std: float = 0.02
    fusion_features: Literal["full", "reim"] = "full"
    fusion_init: Literal["scaled", "zero"] = "scaled"
    fusion_rms: float = 0.1
    input_rms: float = 0.5
    energy_eps: float = 1e-5
    patch_mlp_features: int = 4
    lowpass_taps: int = 65
    lowpass_hz: float = 3.125
    stem_chunk: int = field(default=4096, metadata=INFERENCE)
    stem_recompute: bool = field(default=False, metadata=INFERENCE)

    def check(self) -> None:
        super().check()
        counts = ("kernel_frames", "modes", "lambda_width", "lambda_layers", "lambda_heads")
        for name in (*counts, "patch_mlp_features", "stem_chunk"):
            _require(getattr(self, name) >= 1, f"{name} must be at least 1, not {getattr(self, name)}.")
        for name in ("lambda_mlp_ratio", "fusion_rms", "input_rms", "energy_eps"):
            _require(getattr(self, name) > 0, f"{name} must be above 0, not {getattr(self, name)}.")
        _require(self.lambda_head_std >= 0, f"lambda_head_std must not be negative, not {self.lambda_head_std}.")
        _require(
            self.lambda_dim % self.lambda_heads == 0 and self.lambda_dim % 2 == 0,
            f"lambda_width must be even and a multiple of lambda_heads={self.lambda_heads}, not {self.lambda_width}.",
        )
        _require(
            0 < self.beta_min < self.beta_max <= math.pi,
            "beta_min and beta_max must satisfy 0 < beta_min < beta_max <= pi.",
        )
        _require(
            0 < self.alpha_min < self.alpha_max,
            "alpha_min and alpha_max must satisfy 0 < alpha_min < alpha_max.",
        )
        _require(0 < self.alpha_init < 1, f"alpha_init must lie between 0 and 1, not {self.alpha_init}.")
        _require(
            not (self.window == "one_sided" and self.phase == "even"),
            'phase cannot be "even" with window=one_sided: a kernel ending at its centre has no even form.',
        )
        _require(
            self.lowpass_taps % 2 == 1 and self.lowpass_taps > 2 * self.patch_frames,
            f"lowpass_taps must be odd and above {2 * self.patch_frames}, not {self.lowpass_taps}.",
        )
        _require(0 < self.lowpass_hz < 50, f"lowpass_hz must lie between 0 and 50 Hz, not {self.lowpass_hz}.")

    @property
    def lambda_dim(self) -> int:
        """Width of the Lambda Encoder of a resolved config."""
        return _filled(self.lambda_width, "lambda_width")

    @property
    def lambda_depth(self) -> int:
        """Layers of the Lambda Encoder of a resolved config."""
        return _filled(self.lambda_layers, "lambda_layers")

    @property
    def features_per_mode(self) -> int:
        """Values per mode that the fusion sees."""
        if self.stem == "lambda_only":
            return 2
        return 5 if self.fusion_features == "full" else 2


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise UsageError(message)


def _filled(value: int | None, name: str) -> int:
    if value is None:
        raise UsageError(f"{name} is not filled in: call resolved() on the config first.")
    return value
