"""The resonators against direct sums and integrals in float64."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.signal
import torch

from aape_bench.models.aape import AapeConfig
from aape_bench.models.aape.sblu import Sblu, kernels, respond, without_mean
from aape_bench.randomness import torch_stream
from aape_bench.settings import make_config

WINDOWS = ("bilateral", "gaussian", "one_sided")
VARIANTS = [
    (window, phase, scale)
    for window in WINDOWS
    for phase in ("quadrature", "even")
    for scale in ("unit", "zoh")
    if (window, phase) != ("one_sided", "even")
]


def centre(frames: int, window: str) -> float:
    return frames - 1.0 if window == "one_sided" else (frames - 1) / 2


def half_power(window, one_sided: bool = False) -> float:
    """Frequency at which the transform of window(t), t >= 0, is 3 dB below its value at 0, by bisection."""
    t = np.linspace(0, 50, 50001)

    def magnitude(omega: float) -> float:
        cos = scipy.integrate.simpson(window(t) * np.cos(omega * t), x=t)
        sin = scipy.integrate.simpson(window(t) * np.sin(omega * t), x=t)
        return math.hypot(cos, sin) if one_sided else abs(2 * cos)

    return scipy.optimize.brentq(lambda omega: magnitude(omega) / magnitude(0.0) - math.sqrt(0.5), 0.1, 3.0)


@functools.cache
def reference_window(window: str, alpha: float):
    """The window of the bilateral one's bandwidth, from numerical transforms and root finding alone."""
    bandwidth = alpha * half_power(lambda t: np.exp(-t))
    if window == "bilateral":
        return lambda t: np.exp(-alpha * np.abs(t))
    if window == "one_sided":
        gamma = bandwidth / half_power(lambda t: np.exp(-t), one_sided=True)
        return lambda t: np.exp(-gamma * np.abs(t))
    scale = bandwidth / half_power(lambda t: np.exp(-t * t / 2))
    return lambda t: np.exp(-((scale * t) ** 2) / 2)


def reference_kernel(window: str, phase: str, scale: str, frames: int, alpha: float, beta: float) -> np.ndarray:
    """h[k] sample by sample, complex128; for `zoh` the integral over each frame by quadrature."""
    envelope = reference_window(window, alpha)
    rotation = (lambda t: np.exp(1j * beta * t)) if phase == "quadrature" else (lambda t: np.exp(-1j * beta * abs(t)))
    lags = np.arange(frames) - centre(frames, window)
    if scale == "unit":
        kernel = np.array([envelope(t) * rotation(t) for t in lags])
        return kernel / np.sqrt((np.abs(kernel) ** 2).sum())
    kernel = np.zeros(frames, dtype=complex)
    for k, lag in enumerate(lags):
        for start, end in (
            (lag - 0.5, min(lag + 0.5, max(lag, 0))),
            (min(lag + 0.5, max(lag, 0)), lag + 0.5),
        ):
            if window == "one_sided" and start >= 0:
                continue
            value = (
                (lambda t, lag=lag: envelope(lag) * rotation(t))
                if window == "gaussian"
                else (lambda t: envelope(t) * rotation(t))
            )
            kernel[k] += scipy.integrate.quad(value, start, end, complex_func=True)[0]
    return kernel


def complex_kernel(*settings, frames: int, alpha: float, beta: float) -> np.ndarray:
    window, phase, scale = settings
    values = (torch.tensor(v, dtype=torch.float64) for v in (alpha, beta))
    real, imaginary = kernels(*values, frames, window, phase, scale).numpy()
    return real + 1j * imaginary


@pytest.mark.parametrize(("window", "phase", "scale"), VARIANTS)
@pytest.mark.parametrize("frames", [9, 16, 33])
def test_kernels_equal_independent_integrals(window: str, phase: str, scale: str, frames: int) -> None:
    for alpha, beta in ((0.1, math.pi / 16), (0.35, 1.3), (1.0, math.pi)):
        expected = reference_kernel(window, phase, scale, frames, alpha, beta)
        actual = complex_kernel(window, phase, scale, frames=frames, alpha=alpha, beta=beta)
        np.testing.assert_allclose(actual, expected, atol=1e-8)


def test_zoh_is_the_printed_factor() -> None:
    alpha, beta = 0.4, 1.1
    rate = alpha + 1j * beta
    even = complex_kernel("bilateral", "even", "zoh", frames=16, alpha=alpha, beta=beta)
    lags = np.abs(np.arange(16) - 7.5)
    np.testing.assert_allclose(even, 2 / rate * np.sinh(rate / 2) * np.exp(-rate * lags), atol=1e-12)
    odd = complex_kernel("bilateral", "even", "zoh", frames=9, alpha=alpha, beta=beta)
    np.testing.assert_allclose(odd[4], 2 * (1 - np.exp(-rate / 2)) / rate, atol=1e-12)


@pytest.mark.parametrize(("window", "phase", "scale"), VARIANTS)
@pytest.mark.parametrize("frames", [8, 9, 16, 33, 129])
def test_response_equals_the_direct_sum(window: str, phase: str, scale: str, frames: int) -> None:
    settings = {"window": window, "phase": phase, "scale": scale, "kernel_frames": frames, "modes": 3}
    sblu = Sblu(make_config(AapeConfig, {**settings, "n_mels": 32}, "aape"), seed=3)
    draws = torch_stream(3, "test")
    context = 16 if frames <= 16 else 16 + frames - 1
    signal = torch.randn(2, 2, context, 16, generator=draws)
    alpha = 0.1 + 0.9 * torch.rand(2, 2, 3, generator=draws)
    beta = 0.2 + 2.9 * torch.rand(2, 2, 3, generator=draws)
    actual = sblu(signal, alpha, beta)
    assert actual.shape == (2, 2, 3, 2, 16)

    mixing = sblu.mixing.detach().double().numpy()
    before = math.floor(centre(frames, window))
    first = 0 if frames <= 16 else before  # where the patch lies in the signal
    for patch, row, mode in np.ndindex(2, 2, 3):
        kernel = complex_kernel(
            window,
            phase,
            scale,
            frames=frames,
            alpha=float(alpha[patch, row, mode]),
            beta=float(beta[patch, row, mode]),
        )
        mixed = signal[patch, row].double().numpy() @ mixing[row, mode]
        for n in range(16):
            inside = [(k, first + n + k - before) for k in range(frames)]
            expected = sum(kernel[k] * mixed[m] for k, m in inside if 0 <= m < context)
            real, imaginary = actual[patch, row, mode, :, n].tolist()
            assert abs(complex(real, imaginary) - expected) < 2e-5


def plain_response(signal: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """What `respond` computes, every product in memory."""
    windows = signal.unfold(-1, kernel.shape[-1], 1)
    return (windows[..., None, :, :] * kernel[..., :, None, :]).sum(dim=-1)


@pytest.mark.parametrize("patches", [1, 3], ids=["shared kernels", "kernels of each patch"])
def test_gradients_of_the_response(patches: int) -> None:
    """By finite differences, and as autograd has them of the plain sum; shared kernels are those of `static`."""
    draws = torch_stream(5, "test")
    signal = torch.randn(3, 2, 12, generator=draws, dtype=torch.float64, requires_grad=True)
    kernel = torch.randn(patches, 2, 2, 5, generator=draws, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(respond, (signal, kernel))
    weights = torch.randn(3, 2, 2, 8, generator=draws)
    single = [one.detach().float().requires_grad_() for one in (signal, kernel)]
    found, expected = (
        [response, *torch.autograd.grad((response * weights).sum(), single)]
        for response in (respond(*single), plain_response(*single))
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    with torch.inference_mode():
        assert torch.equal(respond(*single), found[0])


def test_gradients_of_the_features_in_double_precision() -> None:
    sblu = Sblu(make_config(AapeConfig, {"modes": 2, "n_mels": 16}, "aape"), seed=0)
    draws = torch_stream(6, "test")
    signal = torch.randn(2, 1, 16, 16, generator=draws, dtype=torch.float64)
    alpha = torch.tensor([[[0.15, 0.9]], [[0.5, 0.3]]], requires_grad=True)
    beta = torch.tensor([[[0.4, 2.8]], [[1.3, 2.0]]], requires_grad=True)
    weights = torch.randn(2, 1, 10, generator=draws)
    actual = torch.autograd.grad((sblu.features(signal, alpha, beta) * weights).sum(), (alpha, beta, sblu.mixing))

    mixing = sblu.mixing.detach().double().requires_grad_()
    modes = [one.detach().double().requires_grad_() for one in (alpha, beta)]
    mixed = torch.nn.functional.pad(torch.einsum("prfm,rnm->prnf", signal, mixing), (7, 8))
    response = plain_response(mixed, kernels(*modes, 16, "bilateral"))
    energy = torch.log(1e-5 + response.square().sum(dim=-2).mean(dim=-1))
    features = torch.cat([*response[..., 7].unbind(-1), energy, *(one.log() for one in modes)], dim=-1)
    expected = torch.autograd.grad((features * weights).sum(), (*modes, mixing))
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one.double(), other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("frames", [9, 16, 33])
def test_unit_kernels_have_norm_one(window: str, frames: int) -> None:
    alpha, beta = torch.tensor([0.1, 0.3, 1.0]), torch.tensor([0.2, 1.0, 3.0])
    norms = kernels(alpha, beta, frames, window).square().sum(dim=(-1, -2))  # type: ignore[arg-type]
    torch.testing.assert_close(norms, torch.ones(3))


@pytest.mark.parametrize("frames", [9, 16, 33])
def test_even_phase_is_blind_to_the_odd_part(frames: int) -> None:
    beta = torch.tensor(1.1, dtype=torch.float64)
    odd = torch.sin(beta * (torch.arange(frames) - (frames - 1) / 2))
    for scale in ("unit", "zoh"):
        for window in ("bilateral", "gaussian"):
            even, quadrature = (
                respond(odd, kernels(beta / 3, beta, frames, window, phase, scale))  # type: ignore[arg-type]
                for phase in ("even", "quadrature")
            )
            assert even.abs().max() < 1e-14
            assert quadrature.abs().max() > 0.5


def sinusoid(frames: int, window: str, omega: float) -> tuple[torch.Tensor, torch.Tensor]:
    lags = torch.arange(frames, dtype=torch.float64) - centre(frames, window)
    return torch.cos(omega * lags), torch.sin(omega * lags)


@pytest.mark.parametrize("window", WINDOWS)
def test_response_to_sinusoids_is_the_finite_kernels_transform(window: str) -> None:
    """y(c) of a unit sinusoid across a whole 16-frame patch, against scipy's frequency response."""
    sblu = Sblu(make_config(AapeConfig, {"window": window, "modes": 1, "n_mels": 16}, "aape"), seed=0)
    with torch.no_grad():
        sblu.mixing.fill_(1.0 / 16)
    kernel = complex_kernel(window, "quadrature", "unit", frames=16, alpha=0.3, beta=1.5)
    omegas = np.linspace(0.1, 3.0, 12)
    shift = np.exp(-1j * omegas * centre(16, window))
    # Correlation, so the transform at omega is the filter's at -omega; the phase refers to the centre.
    forward = scipy.signal.freqz(kernel, worN=-omegas)[1] * shift
    backward = scipy.signal.freqz(kernel, worN=omegas)[1] * shift.conj()
    modes = (torch.full((1, 1, 1), 0.3), torch.full((1, 1, 1), 1.5))
    for omega, plus, minus in zip(omegas, forward, backward, strict=True):
        cosine, _ = sinusoid(16, window, omega)
        response = sblu(cosine.float()[None, None, :, None].expand(1, 1, 16, 16), *modes)
        real, imaginary = response[0, 0, 0, :, sblu.read_out].tolist()
        assert abs(complex(real, imaginary) - (plus + minus) / 2) < 1e-5


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("beta", [0.6, 1.5, 2.6])
def test_long_kernels_peak_at_beta(window: str, beta: float) -> None:
    kernel = complex_kernel(window, "quadrature", "unit", frames=129, alpha=0.2, beta=beta)
    omegas = np.linspace(0, math.pi, 3142)
    response = np.abs(scipy.signal.freqz(kernel, worN=omegas)[1])
    assert omegas[response.argmax()] == pytest.approx(beta, abs=2e-3)


@pytest.mark.parametrize(("window", "width"), [("bilateral", 0.195), ("gaussian", 0.179), ("one_sided", 0.180)])
def test_bandwidths_are_equal_before_truncation_only(window: str, width: float) -> None:
    def bandwidth(frames: int) -> float:
        alpha, beta = (torch.tensor(value, dtype=torch.float64) for value in (0.1, 1e-12))
        window_values = kernels(alpha, beta, frames, window)[0].numpy()  # type: ignore[arg-type]

        def fall(omega: float) -> float:
            response = abs(window_values @ np.exp(-1j * omega * np.arange(frames)))
            return float(response / window_values.sum() - math.sqrt(0.5))

        return float(scipy.optimize.brentq(fall, 0.0, 0.25))

    assert bandwidth(1024) == pytest.approx(0.1 * math.sqrt(math.sqrt(2) - 1), rel=1e-3)
    assert bandwidth(16) == pytest.approx(width, abs=6e-4)


def test_a_reversed_patch_has_other_energies_for_even_kernels_only() -> None:
    signal = torch.randn(4, 8, 16, 16, generator=torch_stream(0, "test"))
    alpha, beta = torch.full((1, 8, 16), 0.3), torch.linspace(0.2, 3.1, 16).expand(1, 8, 16)
    for frames in (9, 16):
        sblu = Sblu(make_config(AapeConfig, {"kernel_frames": frames}, "aape"), seed=0)
        forward, backward = (sblu.features(s, alpha, beta)[..., 32:48] for s in (signal, signal.flip(2)))
        difference = float((forward - backward).detach().abs().max())
        assert difference < 1e-4 if frames == 9 else difference > 0.01


def beta_gradient(window: str, frames: int) -> float:
    """|d|y| / d beta| in float64: y the response at the centre to exp(j omega (k - c)) at 10 Hz, beta at 45 Hz,
    alpha 0.2, the kernel scaled to 1 at its centre (not to unit norm)."""
    alpha = torch.tensor(0.2, dtype=torch.float64)
    beta = torch.tensor(2 * math.pi * 0.45, dtype=torch.float64, requires_grad=True)
    norm = math.sqrt(sum(reference_window(window, 0.2)(k - centre(frames, window)) ** 2 for k in range(frames)))
    real, imaginary = norm * kernels(alpha, beta, frames, window)  # type: ignore[arg-type]
    cos, sin = sinusoid(frames, window, 2 * math.pi * 0.1)
    magnitude = torch.hypot((real * cos + imaginary * sin).sum(), (imaginary * cos - real * sin).sum())
    magnitude.backward()
    assert beta.grad is not None
    return abs(float(beta.grad))


def test_the_window_argument() -> None:
    """Far from the signal a two-sided exponential still tells beta where to go, a Gaussian does not; at K = 16
    truncation hides that."""
    assert beta_gradient("bilateral", 129) == pytest.approx(6.3e-2, rel=0.02)
    assert beta_gradient("gaussian", 129) < 2e-10
    assert beta_gradient("bilateral", 16) == pytest.approx(0.44, rel=0.02)
    assert beta_gradient("gaussian", 16) > beta_gradient("bilateral", 16)


def test_mean_is_taken_over_visible_frames_only() -> None:
    windows = torch.randn(1, 1, 20, 16, generator=torch_stream(0, "test")) + 5
    inside = torch.ones(1, 1, 20)
    inside[..., 12:] = 0
    result = without_mean(windows, inside)
    expected = windows[:, :, :12].numpy() - windows[:, :, :12].numpy().mean(axis=2, keepdims=True)
    np.testing.assert_allclose(result[:, :, :12].numpy(), expected, atol=1e-6)
    assert result[:, :, 12:].abs().max() == 0


def test_kernels_stay_float32_under_autocast() -> None:
    sblu = Sblu(make_config(AapeConfig, {}, "aape"), seed=0)
    draws = torch_stream(0, "test")
    signal = torch.randn(2, 8, 16, 16, generator=draws)
    alpha, beta = (0.1 + torch.rand(2, 8, 16, generator=draws) for _ in range(2))
    plain = sblu.features(signal, alpha, beta)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = sblu.features(signal, alpha, beta)
    assert mixed.dtype == torch.float32
    assert torch.equal(plain, mixed)
