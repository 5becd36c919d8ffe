"""From log-mel to tokens: the conv token of a ViT, plus what AaPE or one of its controls adds to it.

Up to K = 16 a token depends on its own patch only. Then a masked-training student stems a clip once and
gathers each view's tokens. Longer kernels and the `lowpass` stem reach into neighbouring patches: they take
`visible` and treat everything else as absent, once per mask.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from aape_bench.errors import UsageError
from aape_bench.models.aape.backbone import linear
from aape_bench.models.aape.config import AapeConfig, VitConfig
from aape_bench.models.aape.lambda_encoder import LambdaEncoder, StaticLambda, initial_modes
from aape_bench.models.aape.sblu import Sblu, without_mean
from aape_bench.randomness import torch_stream

FRAMES_PER_SECOND = 100


class Stem(nn.Module):
    """Log-mel to patch tokens, without positions."""

    def __init__(self, config: VitConfig, seed: int) -> None:
        super().__init__()
        self.patch_frames = config.patch_frames
        self.patch_mels = config.patch_mels
        patch = (config.patch_frames, config.patch_mels)
        self.conv_token = nn.Conv2d(1, config.dim, patch, patch, device="meta").to_empty(device="cpu")
        weight = self.conv_token.weight
        nn.init.xavier_uniform_(weight.view(config.dim, -1), generator=torch_stream(seed, "conv_token"))
        assert self.conv_token.bias is not None
        nn.init.zeros_(self.conv_token.bias)

    def forward(self, log_mel: Tensor, visible: Tensor | None = None) -> Tensor:
        """Tokens of all patches.

        log_mel: (n, 1, T, mels), normalised, T a multiple of the patch.
        visible: (n, T / patch, rows) bool, False where a patch counts as absent: beyond a clip's end, or
        masked; its own token is then without meaning. None where all are visible.
        Returns (n, T / patch, rows, width).
        """
        del visible  # A conv token sees nothing but its own patch.
        return self.conv_token(log_mel).permute(0, 2, 3, 1)  # type: ignore[no-any-return]


class LowpassStem(Stem):
    """The conv token of a log-mel that is low-pass filtered in time: the naive remedy against aliasing.

    A Hamming-windowed sinc of `lowpass_taps` frames, -6 dB at `lowpass_hz`; absent frames are left out and
    the remaining taps rescaled. Its reach beyond the patch leaks in masked training unless masked frames
    are absent.
    """

    taps: Tensor

    def __init__(self, config: AapeConfig, seed: int) -> None:
        super().__init__(config, seed)
        self.register_buffer("taps", lowpass_taps(config.lowpass_taps, config.lowpass_hz), persistent=False)

    def forward(self, log_mel: Tensor, visible: Tensor | None = None) -> Tensor:
        """As `Stem`."""
        with torch.autocast(log_mel.device.type, enabled=False):
            present = _per_frame(log_mel, visible, self.patch_frames, self.patch_mels)
            per_mel = present.repeat_interleave(self.patch_mels, dim=2)
            filtered = self._filter(log_mel[:, 0].float() * per_mel)
            weight = self._filter(present).repeat_interleave(self.patch_mels, dim=2)
            log_mel = torch.where(per_mel > 0, filtered / weight.masked_fill(per_mel == 0, 1.0), 0.0)[:, None]
        return super().forward(log_mel)

    def _filter(self, signals: Tensor) -> Tensor:
        """(n, frames, signals), zero beyond the ends."""
        lines = signals.transpose(1, 2).flatten(0, 1)[:, None]
        filtered = nn.functional.conv1d(lines, self.taps[None, None], padding=len(self.taps) // 2)
        return filtered.reshape(len(signals), -1, signals.shape[1]).transpose(1, 2)


class AddingStem(Stem):
    """Conv token plus a linear fusion of features measured in the patch."""

    def __init__(self, config: AapeConfig, seed: int) -> None:
        super().__init__(config, seed)
        self.rows = config.rows
        self.chunk = config.stem_chunk
        self.recompute = config.stem_recompute
        self.unit = _UNITS[config.stem](config, seed)
        self.fusion = Fusion(config, seed)

    def forward(self, log_mel: Tensor, visible: Tensor | None = None) -> Tensor:
        """As `Stem`. Works on `stem_chunk` patches at a time."""
        tokens = super().forward(log_mel)
        n, steps = tokens.shape[:2]
        before, after = self.unit.reach
        frames = log_mel[:, 0]
        present = None
        if before + after > 0:
            present = _per_frame(log_mel, visible, self.patch_frames, self.patch_mels)
            frames = frames * present.repeat_interleave(self.patch_mels, dim=2)
            frames = nn.functional.pad(frames, (0, 0, before, after))
            present = nn.functional.pad(present, (0, 0, before, after))
        # Views: frames are copied into overlapping windows only chunk by chunk.
        length = before + self.patch_frames + after
        windows = frames.unfold(1, length, self.patch_frames)
        presence = None if present is None else present.unfold(1, length, self.patch_frames)
        additions = []
        every_step = torch.arange(n * steps, device=log_mel.device)
        for index in torch.split(every_step, max(1, self.chunk // self.rows)):
            clip, step = index // steps, index % steps
            patches = windows[clip, step].reshape(-1, self.rows, self.patch_mels, length).transpose(2, 3)
            inside = None if presence is None else presence[clip, step]
            if self.recompute and torch.is_grad_enabled():
                added = checkpoint(self._addition, patches, inside, use_reentrant=False, preserve_rng_state=False)
            else:
                added = self._addition(patches, inside)
            additions.append(added)
        return tokens + torch.cat(additions).reshape(tokens.shape)

    def _addition(self, patches: Tensor, inside: Tensor | None) -> Tensor:
        return self.fusion(self.unit(patches, inside))  # type: ignore[no-any-return]


class Fusion(nn.Module):
    """A patch's features, each kind on its own scale (O), then W, which starts relative to the conv token.

    The kinds are unlike in size: after one LayerNorm over all, most of the addition would be a constant. The
    scales are known without data; on real audio most features then vary by about 1
    around a mean of about 0 (that of `patch_mlp` is not 0):

        Re y, Im y; `patch_mlp`   over their RMS in the patch, `energy_eps` added to the mean square
        log energy                less the middle of [log energy_eps, log input_rms^2], over its length / sqrt 12
        log alpha, log beta       less their initial values, over the length of their log range / sqrt 12

    (length / sqrt 12 is the deviation of a uniform draw from a range.) A learned gain and bias per feature
    follow, as in a LayerNorm.

    With zero-mean weights the conv token's RMS is sqrt(2 / (fan in + width)) sqrt(fan in) times the input's
    (Xavier), and W's output RMS is its own deviation times the root of the features' sum of squares. Re, Im,
    energy and `patch_mlp` count as 1 in that sum, log alpha and log beta as 0: they start within about 0.1 of
    their centre (`lambda_head_std`). So `fusion_rms` holds for what varies with the input. `lambda_only` has
    nothing else to count and starts far below `fusion_rms`: a larger W would not make alpha and beta vary more.
    """

    centre: Tensor
    spread: Tensor

    def __init__(self, config: AapeConfig, seed: int) -> None:
        super().__init__()
        features = config.features_per_mode * config.modes
        centre, spread = _fixed_scales(config)
        self.by_rms = features - len(centre)
        self.eps = config.energy_eps
        self.register_buffer("centre", centre, persistent=False)
        self.register_buffer("spread", spread, persistent=False)
        self.gain = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))
        generator = torch_stream(seed, "fusion")
        self.weight = linear(features, config.dim, generator, bias=False)
        fan_in = config.patch_frames * config.patch_mels
        conv_rms = config.input_rms * math.sqrt(2 * fan_in / (fan_in + config.dim))
        scale = config.fusion_rms * conv_rms if config.fusion_init == "scaled" else 0.0
        counted = features if self.by_rms in (0, features) else self.by_rms + config.modes
        nn.init.normal_(self.weight.weight, std=scale / math.sqrt(counted), generator=generator)

    def forward(self, features: Tensor) -> Tensor:
        """(..., features) -> (..., width)."""
        with torch.autocast(features.device.type, enabled=False):
            free, fixed = torch.split(features.float(), [self.by_rms, len(self.centre)], dim=-1)
            power = free.square().sum(dim=-1, keepdim=True) / max(1, self.by_rms)
            scaled = torch.cat([free * torch.rsqrt(self.eps + power), (fixed - self.centre) / self.spread], dim=-1)
            scaled = scaled * self.gain + self.bias
        return self.weight(scaled)  # type: ignore[no-any-return]


def _fixed_scales(config: AapeConfig) -> tuple[Tensor, Tensor]:
    """Centre and spread of the features of fixed scale, which stand last: log energy, log alpha, log beta."""
    centres, spreads = [torch.empty(0)], [torch.empty(0)]
    if config.measures_energy:
        floor, top = math.log(config.energy_eps), 2 * math.log(config.input_rms)
        centres.append(torch.full((config.modes,), (floor + top) / 2))
        spreads.append(torch.full((config.modes,), (top - floor) / math.sqrt(12)))
    if config.measures_energy or config.stem == "lambda_only":
        centres += [values.log() for values in initial_modes(config)]
        for lowest, highest in ((config.alpha_min, config.alpha_max), (config.beta_min, config.beta_max)):
            spreads.append(torch.full((config.modes,), math.log(highest / lowest) / math.sqrt(12)))
    return torch.cat(centres), torch.cat(spreads)


class SbluUnit(nn.Module):
    """Features of the resonators; alpha and beta from the Lambda Encoder or, for `static`, from a table."""

    def __init__(self, config: AapeConfig, seed: int) -> None:
        super().__init__()
        self.patch_frames = config.patch_frames
        self.modes = StaticLambda(config) if config.stem == "static" else LambdaEncoder(config, seed)
        self.sblu = Sblu(config, seed)
        #: Frames before and after the patch that its features depend on.
        self.reach = (0, 0)
        if config.kernel_frames > config.patch_frames:
            self.reach = (self.sblu.before, self.sblu.after)

    def forward(self, patches: Tensor, inside: Tensor | None = None) -> Tensor:
        """(patches, rows, frames, mels), `inside` (patches, rows, frames) -> (patches, rows, features)."""
        before = self.reach[0]
        alpha, beta = self.modes(patches[:, :, before : before + self.patch_frames])
        if inside is not None:
            inside = inside.to(patches.dtype)
        return self.sblu.features(without_mean(patches.float(), inside), alpha, beta)


class LambdaUnit(nn.Module):
    """Control: log alpha and log beta themselves, without any kernel."""

    reach = (0, 0)

    def __init__(self, config: AapeConfig, seed: int) -> None:
        super().__init__()
        self.modes = LambdaEncoder(config, seed)

    def forward(self, patches: Tensor, inside: Tensor | None = None) -> Tensor:
        """(patches, rows, frames, mels) -> (patches, rows, 2 modes)."""
        del inside
        return torch.cat([values.log() for values in self.modes(patches)], dim=-1)


class PatchMlpUnit(nn.Module):
    """Control: an MLP on each frame, then one on the whole patch, in place of Lambda Encoder and SBLU.

    Its width is solved for so that parameters equal theirs (within 2 %). Most of them work once per frame, as
    the Lambda Encoder's do, so FLOPs are alike too: the matrix products of what is added to the conv token are
    0.42 (tiny), 3.15 (small) and 3.21 (base) MFLOP per patch, against 0.45, 3.25 and 3.31 for `sblu`.
    """

    reach = (0, 0)

    def __init__(self, config: AapeConfig, seed: int) -> None:
        super().__init__()
        generator = torch_stream(seed, "patch_mlp")
        per_frame, hidden = config.patch_mlp_features, config.lambda_dim
        flat, features = config.patch_frames * per_frame, config.features_per_mode * config.modes
        replaced = sum(p.numel() for p in SbluUnit(config, seed).parameters())
        # width^2 + slope width + rest = replaced
        slope = config.patch_mels + 2 + per_frame
        rest = per_frame + (flat + 1) * hidden + (hidden + 1) * features
        width = round((-slope + math.sqrt(max(0, slope**2 + 4 * (replaced - rest)))) / 2)
        if width < 1:
            raise UsageError(
                f"stem=patch_mlp cannot have as few parameters ({replaced}) as the Lambda Encoder and SBLU "
                "that it replaces: make lambda_width larger or patch_mlp_features smaller."
            )
        self.frame_mlp = nn.Sequential(
            linear(config.patch_mels, width, generator),
            nn.GELU(),
            linear(width, width, generator),
            nn.GELU(),
            linear(width, per_frame, generator),
        )
        self.patch_mlp = nn.Sequential(linear(flat, hidden, generator), nn.GELU(), linear(hidden, features, generator))

    def forward(self, patches: Tensor, inside: Tensor | None = None) -> Tensor:
        """(patches, rows, frames, mels) -> (patches, rows, features)."""
        del inside
        return self.patch_mlp(self.frame_mlp(patches).flatten(2))  # type: ignore[no-any-return]


_UNITS: dict[str, Callable[[AapeConfig, int], SbluUnit | LambdaUnit | PatchMlpUnit]] = {
    "sblu": SbluUnit,
    "static": SbluUnit,
    "lambda_only": LambdaUnit,
    "patch_mlp": PatchMlpUnit,
}


def build_stem(config: VitConfig, seed: int) -> Stem:
    """The stem a resolved config asks for; a config without a `stem` has the plain one."""
    if not isinstance(config, AapeConfig) or config.stem == "plain":
        return Stem(config, seed)
    return LowpassStem(config, seed) if config.stem == "lowpass" else AddingStem(config, seed)


def lowpass_taps(taps: int, cut_off_hz: float) -> Tensor:
    """Hamming-windowed sinc of gain 1 at 0 Hz for signals of 100 frames per second, (taps,) float32."""
    lag = torch.arange(taps, dtype=torch.float64) - (taps - 1) / 2
    filter_ = torch.sinc(2 * cut_off_hz / FRAMES_PER_SECOND * lag)
    filter_ = filter_ * torch.hamming_window(taps, periodic=False, dtype=torch.float64)
    return (filter_ / filter_.sum()).float()


def _per_frame(log_mel: Tensor, visible: Tensor | None, patch_frames: int, patch_mels: int) -> Tensor:
    """(n, T, rows) float32, 1 where a frame of a row may be seen."""
    n, _, frames, mels = log_mel.shape
    if visible is None:
        return torch.ones(n, frames, mels // patch_mels, device=log_mel.device)
    return visible.float().repeat_interleave(patch_frames, dim=1)
