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
from aape_bench.settings import EXECUTION, INFERENCE

Preset = Literal["tiny", "small", "base"]
Window = Literal["bilateral", "gaussian", "one_sided"]

_PRESETS = {
    "tiny": {"width": 192, "blocks": 12, "heads": 3, "lambda_width": 32, "lambda_layers": 1},
    "small": {"width": 384, "blocks": 12, "heads": 6, "lambda_width": 64, "lambda_layers": 2},
    "base": {"width": 768, "blocks": 12, "heads": 12, "lambda_width": 64, "lambda_layers": 2},
}

#: Lowest and highest value of every number: beyond, memory explodes or float32 overflows.
_LIMITS: dict[str, tuple[float, float]] = {
    "width": (4, 4096),
    "blocks": (1, 96),
    "heads": (1, 4096),
    "mlp_ratio": (0.01, 64),
    "norm_eps": (1e-12, 1),
    "init_std": (1e-6, 10),
    "position_base": (1, 1e9),
    "n_mels": (1, 512),
    "patch_frames": (1, 256),
    "patch_mels": (1, 512),
    "clip_frames": (1, 65536),
    "norm_mean": (-100, 100),
    "norm_std": (1e-3, 1e3),
    "kernel_frames": (2, 1024),
    "modes": (1, 256),
    "beta_min": (1e-4, math.pi),
    "beta_max": (1e-4, math.pi),
    "alpha_min": (1e-4, 10),
    "alpha_max": (1e-4, 10),
    "alpha_init": (0.001, 0.999),
    "lambda_width": (2, 512),
    "lambda_layers": (1, 24),
    "lambda_heads": (1, 512),
    "lambda_mlp_ratio": (0.01, 64),
    "lambda_head_std": (0, 10),
    "fusion_rms": (1e-6, 100),
    "input_rms": (1e-3, 1e3),
    "energy_eps": (1e-12, 1),
    "patch_mlp_features": (1, 256),
    "lowpass_taps": (3, 4097),
    "lowpass_hz": (0.01, 49.99),
    "stem_chunk": (1, 1e9),
}
_MOST_PARAMETERS = 1e9
_MOST_TOKENS = 8192  # of one window
_MOST_KERNEL_VALUES = 16384  # modes times kernel_frames

_KERNEL = ("window", "phase", "scale", "kernel_frames")
_RANGES = ("beta_min", "beta_max", "alpha_min", "alpha_max", "alpha_init")
_LAMBDA = ("lambda_width", "lambda_layers", "lambda_heads", "lambda_mlp_ratio", "lambda_head_std")
_FUSION = ("modes", "fusion_init", "fusion_rms", "input_rms")

#: The settings of AapeConfig that a stem reads, besides those of VitConfig. (`patch_mlp` counts parameters.)
_READS: dict[str, set[str]] = {
    "sblu": {*_KERNEL, *_RANGES, *_LAMBDA, *_FUSION, "fusion_features", "energy_eps"},
    "static": {*_KERNEL, *_RANGES, *_FUSION, "fusion_features", "energy_eps"},
    "lambda_only": {*_RANGES, *_LAMBDA, *_FUSION},
    "patch_mlp": {
        *("lambda_width", "lambda_layers", "lambda_mlp_ratio"),
        *_FUSION,
        *("fusion_features", "energy_eps", "patch_mlp_features"),
    },
    "lowpass": {"lowpass_taps", "lowpass_hz"},
    "plain": set(),
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
        for name, (lowest, highest) in _LIMITS.items():
            value = getattr(self, name, lowest)
            _require(lowest <= value <= highest, f"{name} must lie between {lowest:g} and {highest:g}, not {value}.")
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
            f"timestamp_hop_ms must be one of {', '.join(map(str, hops))} with patch_frames={self.patch_frames}, not "
            f"{self.timestamp_hop_ms}.",
        )
        _require(
            self.mlp_ratio * self.dim >= 1,
            f"mlp_ratio={self.mlp_ratio} leaves the MLP of width={self.width} without a hidden unit.",
        )
        parameters = self.dim * (self.depth * (4 + 2 * self.mlp_ratio) * self.dim + self.patch_frames * self.patch_mels)
        _require(
            parameters <= _MOST_PARAMETERS,
            f"width, blocks, mlp_ratio and the patch make about {parameters / 1e6:.0f} million parameters, more than "
            f"the {_MOST_PARAMETERS / 1e6:.0f} million that are allowed. Make width or blocks smaller.",
        )
        tokens = self.clip_frames // self.patch_frames * self.rows
        _require(
            tokens <= _MOST_TOKENS,
            f"clip_frames={self.clip_frames} makes {tokens} tokens of one window, more than the {_MOST_TOKENS} that "
            "are allowed. Make clip_frames smaller or the patches larger.",
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
    fusion_rms:     (O) initial RMS of the addition, as far as it varies with the input, over that of the conv
                    token; less for "lambda_only", whose features hardly vary at first, and for input louder than
                    `input_rms`: 0.065 on ESC-50, whose normalised clips have an RMS near 0.75.
    input_rms:      (O) RMS of the normalised input for which `fusion_rms` holds: 1/2, by its normalisation. Its
                    square is also the top of the range by which the log energy is scaled.
    energy_eps:     (O) epsilon under the logarithm of a mode's energy and beside the power that scales Re y, Im y.
    patch_mlp_features: (O) features per frame in the first half of "patch_mlp"; its width is solved for.
    lowpass_taps, lowpass_hz: (O) length and cut-off (-6 dB) of the "lowpass" stem's FIR filter; 3.125 Hz is
                    half the patch rate.
    stem_chunk:     (O) patches whose kernels are in memory at once; changes memory, not results.
    stem_recompute: (O) compute the stem again in backward instead of keeping its activations.

    A setting that the chosen stem does not read is refused unless it has its default.
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
    stem_chunk: int = field(default=512, metadata=EXECUTION)
    stem_recompute: bool = field(default=False, metadata=EXECUTION)

    def check(self) -> None:
        super().check()
        self._check_effect()
        _require(
            self.lambda_dim % 2 == 0 and (self.stem == "patch_mlp" or self.lambda_dim % self.lambda_heads == 0),
            f"lambda_width must be even and a multiple of lambda_heads={self.lambda_heads}, not {self.lambda_width}.",
        )
        _require(
            self.lambda_mlp_ratio * self.lambda_dim >= 1,
            f"lambda_mlp_ratio={self.lambda_mlp_ratio} leaves the Lambda Encoder's MLP without a hidden unit.",
        )
        for low, high in (("beta_min", "beta_max"), ("alpha_min", "alpha_max")):
            _require(
                getattr(self, high) >= 1.01 * getattr(self, low),
                f"{low}={getattr(self, low)} must be below {high}={getattr(self, high)}, by at least 1 %.",
            )
        _require(
            not self.measures_energy or 2 * self.energy_eps <= self.input_rms**2,
            f"energy_eps={self.energy_eps} must be at most half of input_rms={self.input_rms} squared.",
        )
        _require(
            self.modes * self.kernel_frames <= _MOST_KERNEL_VALUES,
            f"modes={self.modes} times kernel_frames={self.kernel_frames} must be at most {_MOST_KERNEL_VALUES}.",
        )
        _require(
            not (self.window == "one_sided" and self.phase == "even"),
            'phase cannot be "even" with window=one_sided: a kernel ending at its centre has no even form.',
        )
        _require(
            self.stem != "lowpass" or (self.lowpass_taps % 2 == 1 and self.lowpass_taps > 2 * self.patch_frames),
            f"lowpass_taps must be odd and above {2 * self.patch_frames}, not {self.lowpass_taps}.",
        )

    def _read(self) -> set[str]:
        """The settings of the stem that decide what it computes."""
        read = set(_READS[self.stem])
        if self.fusion_init == "zero":
            read.discard("fusion_rms")
            if not self.measures_energy:
                read.discard("input_rms")  # otherwise it also scales the log energy
        return read

    def _check_effect(self) -> None:
        """Refuse what would make another label of the same encoder."""
        shared, read, preset = {f.name for f in dataclasses.fields(VitConfig)}, self._read(), _PRESETS[self.preset]
        for setting in dataclasses.fields(self):
            name, value = setting.name, getattr(self, setting.name)
            if name == "stem" or name in shared | read or setting.metadata.get("execution"):
                continue
            unread_by = "fusion_init=zero" if name in _READS[self.stem] else f"stem={self.stem}"
            _require(
                value == (preset[name] if setting.default is None else setting.default),
                f"{name}={value} has no effect with {unread_by}. Leave it out.",
            )

    @property
    def lambda_dim(self) -> int:
        """Width of the Lambda Encoder of a resolved config."""
        return _filled(self.lambda_width, "lambda_width")

    @property
    def lambda_depth(self) -> int:
        """Layers of the Lambda Encoder of a resolved config."""
        return _filled(self.lambda_layers, "lambda_layers")

    @property
    def measures_energy(self) -> bool:
        """Whether the log energy, and with it log alpha and log beta beside Re y and Im y, is a feature."""
        return self.stem in ("sblu", "static") and self.fusion_features == "full"

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
