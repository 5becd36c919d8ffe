"""SBLU, the Structured Bilateral Laplace Unit: resonators that measure modulation inside a patch.

    y[n] = sum_k h[k] (B u)[n + k - c],    h[k] = w[k - c] exp(j beta (k - c)),    k = 0 .. K - 1

`u` holds the mel bins of one patch row, `B` one real map per row from mel bins to modes, and (alpha, beta)
are per patch and mode, in 1/frame and rad/frame. Complex values are pairs (real, imaginary) on axis -2.
After Yamamoto & Okusa, arXiv 2512.03637.

For even K the kernel's centre lies between two frames, so y lies at n + 1/2 for n = 0 .. 15, not symmetric in
the patch: at K = 16 it sees 7 frames before n and 8 after, and the log energy changes when a patch is reversed.

Windows w(t) share the -3 dB bandwidth, omega_3 = alpha sqrt(sqrt 2 - 1), of the infinite, continuous-time
bilateral window (transform 2 alpha / (alpha^2 + omega^2)); each is normalised at K frames afterwards:

    bilateral   exp(-alpha |t|)
    gaussian    exp(-t^2 / (2 sigma^2))     sigma = sqrt(ln 2) / omega_3 = 1.294 / alpha
    one_sided   exp(-gamma |t|), t <= 0     gamma = omega_3 = 0.644 alpha

Equal they are for the infinite windows only: cut to K = 16 frames, at alpha = 0.1 (omega_3 = 0.064 rad/frame)
they are 0.195, 0.179 and 0.180 rad/frame wide.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from aape_bench.models.aape.config import AapeConfig, Window
from aape_bench.randomness import torch_stream

# omega_3 / alpha: where the infinite bilateral window's transform has fallen by 3 dB.
_BANDWIDTH = math.sqrt(math.sqrt(2.0) - 1.0)


def kernel_centre(kernel_frames: int, window: Window) -> float:
    """c: the middle of the K frames, between two of them for even K, or the last one for `one_sided`."""
    return float(kernel_frames - 1) if window == "one_sided" else (kernel_frames - 1) / 2


def kernels(
    alpha: Tensor,
    beta: Tensor,
    kernel_frames: int,
    window: Window,
    phase: str = "quadrature",
    scale: str = "unit",
) -> Tensor:
    """Sampled kernels h[k], k = 0 .. K - 1.

    alpha, beta: (...), decay per frame and frequency in rad/frame, both above 0.
    phase: "quadrature", exp(j beta (k - c)), or "even", exp(-j beta |k - c|).
    scale: "unit", L2 norm 1 over the K frames, or "zoh", the kernel's integral over each frame: the factor
    2 Lambda^-1 sinh(Lambda / 2) for Lambda = alpha + j beta (its conjugate where the kernel turns the other
    way), and for odd K 2 (1 - exp(-Lambda / 2)) / Lambda at the centre. A Gaussian counts as constant within
    a frame: its Lambda is j beta.
    Returns (..., 2, K) in the dtype of alpha.
    """
    lag = torch.arange(kernel_frames, dtype=alpha.dtype, device=alpha.device)
    lag = lag - kernel_centre(kernel_frames, window)
    alpha, beta = alpha[..., None], beta[..., None]
    weight = _window(alpha, lag, window)
    angle = beta * lag if phase == "quadrature" else -beta * lag.abs()
    if scale == "unit":
        weight = weight / torch.linalg.vector_norm(weight, dim=-1, keepdim=True)
        return torch.stack([weight * angle.cos(), weight * angle.sin()], dim=-2)
    real, imaginary = _frame_integral(alpha, beta, lag, window, phase)
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([weight * (cos * real - sin * imaginary), weight * (cos * imaginary + sin * real)], dim=-2)


def respond(signal: Tensor, kernel: Tensor) -> Tensor:
    """Correlate every signal with its own kernel.

    signal: (..., n + K - 1). kernel: (..., 2, K), leading dimensions broadcast.
    Returns (..., 2, n): y[n] = sum_k h[k] signal[n + k].
    """
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return _correlate(signal, kernel)
    leading = torch.broadcast_shapes(signal.shape[:-1], kernel.shape[:-2])  # type: ignore[no-untyped-call]
    signal, kernel = signal.expand(*leading, -1), kernel.expand(*leading, -1, -1)
    return _Respond.apply(signal, kernel)  # type: ignore[no-untyped-call, no-any-return]


def without_mean(windows: Tensor, inside: Tensor | None = None) -> Tensor:
    """Subtract each mel bin's mean over the frames (axis -2), which would be most of the kernels' output power.

    windows: (..., frames, mels). inside: (..., frames), 1 where a frame may be seen, 0 where it counts as
    absent and comes out as 0; None where all may.
    """
    if inside is None:
        return windows - windows.mean(dim=-2, keepdim=True)
    inside = inside[..., None]
    mean = (windows * inside).sum(dim=-2, keepdim=True) / inside.sum(dim=-2, keepdim=True).clamp(min=1)
    return (windows - mean) * inside


class Sblu(nn.Module):
    """The resonators of all rows, given each patch's alpha and beta.

    Computes in float32 whatever the autocast type. B starts as normal draws of variance 1 / mels.
    """

    def __init__(self, config: AapeConfig, seed: int) -> None:
        super().__init__()
        self.kernel_frames = config.kernel_frames
        self.window = config.window
        self.phase = config.phase
        self.scale = config.scale
        self.energy_eps = config.energy_eps
        self.full = config.fusion_features == "full"
        self.patch_frames = config.patch_frames
        one_sided = config.window == "one_sided"
        #: Frames before and after a frame n that y[n] depends on.
        self.before = math.floor(kernel_centre(config.kernel_frames, config.window))
        self.after = config.kernel_frames - 1 - self.before
        #: Frame whose y is the token's phase-bearing sample; for K = 16 the kernel there spans the patch.
        self.read_out = config.patch_frames - 1 if one_sided else (config.patch_frames - 1) // 2
        self.mixing = nn.Parameter(torch.empty(config.rows, config.modes, config.patch_mels))
        nn.init.normal_(self.mixing, std=config.patch_mels**-0.5, generator=torch_stream(seed, "sblu"))

    def forward(self, signal: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
        """y at every frame of the patch; for even K at n + 1/2, where the kernel's centre lies.

        signal: (patches, rows, frames, mels), mean removed: the patch's own frames, taken as zero beyond, or
        with the context of `before` and `after` frames around them.
        alpha, beta: (patches, rows, modes), or 1 in place of patches.
        Returns (patches, rows, modes, 2, patch frames) float32.
        """
        with torch.autocast(signal.device.type, enabled=False):
            mixed = torch.einsum("prfm,rnm->prnf", signal.float(), self.mixing.float())
            if signal.shape[2] == self.patch_frames:
                mixed = nn.functional.pad(mixed, (self.before, self.after))
            kernel = kernels(alpha.float(), beta.float(), self.kernel_frames, self.window, self.phase, self.scale)
            return respond(mixed, kernel)

    def features(self, signal: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
        """What the fusion sees of a mode: Re y(c), Im y(c), log energy, log alpha, log beta, or the first two.

        The energy is the mean of |y|^2 over the patch's frames: demodulated, it does not alias at the patch
        rate as a complex sample does. Arguments as `forward`. Returns (patches, rows, 5 or 2 times modes).
        """
        response = self(signal, alpha, beta)
        real, imaginary = response[..., self.read_out].unbind(-1)
        if not self.full:
            return torch.cat([real, imaginary], dim=-1)
        energy = response.square().sum(dim=-2).mean(dim=-1)
        log_energy = torch.log(self.energy_eps + energy)
        log_alpha = alpha.float().log().expand_as(real)
        log_beta = beta.float().log().expand_as(real)
        return torch.cat([real, imaginary, log_energy, log_alpha, log_beta], dim=-1)


class _Respond(torch.autograd.Function):
    """Its gradients are correlations as well, where autograd would add up K slices filled with zeros."""

    @staticmethod
    def forward(context: Any, signal: Tensor, kernel: Tensor) -> Tensor:
        context.save_for_backward(signal, kernel)
        return _correlate(signal, kernel)

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        signal, kernel = context.saved_tensors
        of_signal = of_kernel = None
        if context.needs_input_grad[0]:
            frames = gradient.shape[-1]
            of_signal = torch.zeros(signal.shape, dtype=signal.dtype, device=signal.device)
            for lag in range(kernel.shape[-1]):
                for part in (0, 1):
                    of_signal[..., lag : lag + frames].addcmul_(kernel[..., part, lag, None], gradient[..., part, :])
        if context.needs_input_grad[1]:
            of_kernel = _correlate(signal, gradient)  # sum_n gradient[n] signal[n + k]
        return of_signal, of_kernel


def _correlate(signal: Tensor, kernel: Tensor) -> Tensor:
    frames = signal.shape[-1] - kernel.shape[-1] + 1
    signal = signal[..., None, :]
    response = kernel[..., :1] * signal[..., :frames]
    # One lag at a time: the products of all lags at once would take K times the memory of the response.
    for lag in range(1, kernel.shape[-1]):
        response.addcmul_(kernel[..., lag : lag + 1], signal[..., lag : lag + frames])
    return response


def _window(alpha: Tensor, lag: Tensor, window: Window) -> Tensor:
    if window == "bilateral":
        return torch.exp(-alpha * lag.abs())
    if window == "one_sided":
        return torch.exp(-_BANDWIDTH * alpha * lag.abs())
    sigma = math.sqrt(math.log(2.0)) / (_BANDWIDTH * alpha)
    return torch.exp(-0.5 * (lag / sigma).square())


def _frame_integral(alpha: Tensor, beta: Tensor, lag: Tensor, window: Window, phase: str) -> tuple[Tensor, Tensor]:
    """(real, imaginary) ratio of the kernel's integral over each frame to its value mid-frame."""
    decay = {"bilateral": alpha, "one_sided": _BANDWIDTH * alpha, "gaussian": torch.zeros_like(alpha)}[window]
    norm = decay.square() + beta.square()
    # 2 sinh(Lambda / 2) / Lambda, Lambda = decay + j beta.
    sinh_real, sinh_imaginary = (decay / 2).sinh() * (beta / 2).cos(), (decay / 2).cosh() * (beta / 2).sin()
    real = 2 * (sinh_real * decay + sinh_imaginary * beta) / norm
    imaginary = 2 * (sinh_imaginary * decay - sinh_real * beta) / norm
    # (1 - exp(-Lambda / 2)) / Lambda: from the centre to the end of its frame, on one side.
    half_real = 1 - (-decay / 2).exp() * (beta / 2).cos()
    half_imaginary = (-decay / 2).exp() * (beta / 2).sin()
    centre_real = (half_real * decay + half_imaginary * beta) / norm
    centre_imaginary = (half_imaginary * decay - half_real * beta) / norm
    if window != "one_sided":
        centre_real, centre_imaginary = 2 * centre_real, 2 * centre_imaginary
    if phase == "quadrature":
        # After the centre the kernel decays with the conjugate of Lambda.
        imaginary = -lag.sign() * imaginary
        if window != "one_sided":
            centre_imaginary = torch.zeros_like(centre_imaginary)
    at_centre = lag == 0
    return torch.where(at_centre, centre_real, real), torch.where(at_centre, centre_imaginary, imaginary)
