"""What the stem of AaPE and its controls add to a token, and what they must not see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.signal
import soundfile
import torch
from torch.utils.flop_counter import FlopCounterMode

import aape_bench.models.aape.sblu as sblu_module
from aape_bench.features import LogMel
from aape_bench.models.aape import AapeConfig
from aape_bench.models.aape.stem import AddingStem, Stem, build_stem, lowpass_taps
from aape_bench.randomness import torch_stream
from aape_bench.settings import make_config

WITHIN_PATCH = [
    {"stem": "sblu"},
    {"stem": "sblu", "window": "gaussian"},
    {"stem": "sblu", "window": "one_sided"},
    {"stem": "sblu", "phase": "even"},
    {"stem": "sblu", "scale": "zoh"},
    {"stem": "sblu", "fusion_features": "reim"},
    {"stem": "sblu", "kernel_frames": 9},
    {"stem": "plain"},
    {"stem": "static"},
    {"stem": "lambda_only"},
    {"stem": "patch_mlp"},
]
ACROSS_PATCHES = [
    {"stem": "sblu", "kernel_frames": 33},
    {"stem": "sblu", "kernel_frames": 33, "window": "one_sided"},
    {"stem": "static", "kernel_frames": 129},
    {"stem": "lowpass"},
]


def stem(seed: int = 0, **settings: Any) -> Stem:
    return build_stem(make_config(AapeConfig, settings, "aape"), seed)


def log_mels(clips: int = 2, steps: int = 5) -> torch.Tensor:
    return 0.5 * torch.randn(clips, 1, 16 * steps, 128, generator=torch_stream(0, "test"))


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("settings", WITHIN_PATCH, ids=str)
def test_a_token_depends_on_its_own_patch_only(settings: dict[str, Any]) -> None:
    x = log_mels()
    changed = x.clone()
    changed[1, 0, 32:48, 48:64] += torch.randn(16, 16, generator=torch_stream(1, "test"))
    module = stem(**settings)
    difference = (module(changed) - module(x)).abs().amax(dim=-1)
    assert difference[1, 2, 3] > 1e-3
    difference[1, 2, 3] = 0
    assert difference.max() == 0


@pytest.mark.parametrize("settings", WITHIN_PATCH + ACROSS_PATCHES, ids=str)
def test_no_visible_token_sees_masked_content(settings: dict[str, Any]) -> None:
    x = log_mels()
    visible = torch.rand(2, 5, 8, generator=torch_stream(2, "test")) < 0.5
    masked_frames = ~visible.repeat_interleave(16, 1).repeat_interleave(16, 2)[:, None]
    noise = torch.randn(x.shape, generator=torch_stream(1, "test"))
    changed = torch.where(masked_frames, noise, x)
    module = stem(**settings)
    assert torch.equal(module(changed, visible)[visible], module(x, visible)[visible])


@pytest.mark.parametrize("settings", ACROSS_PATCHES, ids=str)
def test_long_kernels_reach_into_the_neighbours_of_their_row(settings: dict[str, Any]) -> None:
    x = log_mels()
    changed = x.clone()
    changed[1, 0, 32:48, 48:64] += torch.randn(16, 16, generator=torch_stream(1, "test"))
    module = stem(**settings)
    difference = (module(changed) - module(x)).abs().amax(dim=-1)
    assert difference[1, 3, 3] > 1e-4
    assert difference[0].max() == 0
    assert difference[1][:, torch.arange(8) != 3].max() == 0


@pytest.mark.parametrize("window", ["bilateral", "one_sided"])
def test_long_kernels_use_the_rows_frames(window: str) -> None:
    """The features of an inner patch at K = 33 against a direct sum over the row in float64."""
    module = stem(stem="static", kernel_frames=33, window=window, modes=2, fusion_features="reim")
    assert isinstance(module, AddingStem)
    x = log_mels(clips=1, steps=8)
    features = []
    module.fusion.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    module(x)
    before = 32 if window == "one_sided" else 16
    step, row = 4, 3
    first = 16 * step - before
    reach = x[0, 0, first : first + 48, 16 * row : 16 * row + 16].double().numpy()
    reach -= reach.mean(axis=0)
    alpha, beta = (values.double()[0, row] for values in module.unit.modes(x))
    kernel = sblu_module.kernels(alpha, beta, 33, window).detach().numpy()  # type: ignore[arg-type]
    read_out = module.unit.sblu.read_out
    mixing = module.unit.sblu.mixing.detach().double().numpy()[row]
    expected = [
        sum(kernel[mode, part, k] * (reach[read_out + k] @ mixing[mode]) for k in range(33))
        for part in (0, 1)
        for mode in (0, 1)
    ]
    np.testing.assert_allclose(features[0][step, row].detach().numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(
    "settings", [{"stem": "sblu"}, {"stem": "sblu", "kernel_frames": 33}, {"stem": "patch_mlp"}], ids=str
)
def test_chunks_change_nothing(settings: dict[str, Any]) -> None:
    x = log_mels(3)
    whole, in_chunks = (stem(stem_chunk=chunk, **settings)(x) for chunk in (10**6, 16))
    torch.testing.assert_close(whole, in_chunks, atol=1e-6, rtol=0)


def test_kernels_are_never_all_in_memory_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def recorded(*arguments: Any) -> torch.Tensor:
        result = kernels(*arguments)
        sizes.append(result.numel())
        return result

    kernels = sblu_module.kernels
    monkeypatch.setattr(sblu_module, "kernels", recorded)
    with torch.inference_mode():
        stem(stem_chunk=64, kernel_frames=129)(log_mels(4, steps=16))
    assert sum(sizes) == 4 * 16 * 8 * 16 * 2 * 129
    assert max(sizes) <= 64 * 16 * 2 * 129


def test_recomputing_gives_the_same_gradients_from_less_memory() -> None:
    def gradients_and_memory(**settings: Any) -> tuple[list[torch.Tensor], int]:
        module = stem(stem_chunk=64, **settings)
        held = 0

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal held
            held += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = module(log_mels()).square().mean()
        forward_only = held
        loss.backward()
        return [p.grad for p in module.parameters() if p.grad is not None], forward_only

    kept, memory_kept = gradients_and_memory()
    again, memory_again = gradients_and_memory(stem_recompute=True)
    assert len(kept) == len(again) == len(list(stem().parameters()))
    for first, second in zip(kept, again, strict=True):
        assert torch.equal(first, second)
    assert memory_again < memory_kept / 5


@pytest.mark.parametrize("settings", [s for s in WITHIN_PATCH if s["stem"] == "sblu"], ids=str)
def test_gradients_reach_alpha_and_beta_at_the_start(settings: dict[str, Any]) -> None:
    module = stem(**settings)
    assert isinstance(module, AddingStem)
    module(log_mels()).square().sum().backward()
    gradient = module.unit.modes.head.weight.grad
    alpha_rows, beta_rows = gradient.abs().amax(dim=1).split(16)
    assert alpha_rows.min() > 0
    assert beta_rows.min() > 0
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in module.parameters())


@pytest.mark.parametrize("settings", [s for s in WITHIN_PATCH if s["stem"] != "plain"], ids=str)
def test_zero_fusion_is_the_plain_stem(settings: dict[str, Any]) -> None:
    x = log_mels()
    assert torch.equal(stem(fusion_init="zero", **settings)(x), stem(stem="plain")(x))
    assert not torch.equal(stem(**settings)(x), stem(stem="plain")(x))


def test_alpha_and_beta_start_in_their_ranges_and_depend_on_the_input() -> None:
    module = stem()
    assert isinstance(module, AddingStem)
    patches = torch.randn(50, 8, 16, 16, generator=torch_stream(0, "test"))
    alpha, beta = module.unit.modes(patches)
    assert alpha.min() >= 0.1
    assert alpha.max() <= 1
    assert beta.min() >= np.pi / 16
    assert beta.max() <= np.pi
    assert beta.std(dim=0).min() > 1e-4
    assert alpha.std(dim=0).min() > 1e-4
    torch.nn.init.zeros_(module.unit.modes.head.weight)
    interior = np.geomspace(np.pi / 16, np.pi, 33)[1::2]
    np.testing.assert_allclose(module.unit.modes(patches)[1][0, 0].tolist(), interior, rtol=1e-5)


@pytest.mark.parametrize("preset", ["tiny", "small", "base"])
def test_patch_mlp_matches_the_sblu_stem(preset: str) -> None:
    """Parameters within 2 %; FLOPs of what is added to the conv token (matrix products) within 10 %."""
    plain, sblu, mlp = (stem(preset=preset, stem=name) for name in ("plain", "sblu", "patch_mlp"))
    extra = parameters(sblu) - parameters(plain)
    assert abs(parameters(mlp) - parameters(plain) - extra) <= 0.02 * extra

    def flops(module: Stem) -> int:
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            module(log_mels(1))
        return counter.get_total_flops()

    assert 0.9 < (flops(mlp) - flops(plain)) / (flops(sblu) - flops(plain)) < 1.1


def test_addition_is_a_tenth_of_the_conv_token_on_real_audio(real_data: Path) -> None:
    config = make_config(AapeConfig, {}, "aape")
    for path in sorted((real_data / "esc50" / "audio").glob("*.wav"))[:4]:
        audio, _ = soundfile.read(path, dtype="float32", frames=32000)
        log_mel, _ = LogMel()(torch.from_numpy(audio)[None])
        x = (log_mel[:, None, :192] - config.norm_mean) / (2 * config.norm_std)
        token, both = stem(stem="plain")(x), stem()(x)
        assert 0.03 < (both - token).square().mean().sqrt() / token.square().mean().sqrt() < 0.3


def test_lowpass_passes_below_and_stops_above_its_cut_off() -> None:
    """Half amplitude at 3.125 Hz and 30 dB down from the patch rate on, by scipy's frequency response."""
    taps = lowpass_taps(65, 3.125)
    frequencies = np.array([0.0, 3.125, *np.arange(6.25, 50, 0.25)])
    response = np.abs(scipy.signal.freqz(taps.numpy(), worN=frequencies, fs=100.0)[1])
    assert response[0] == pytest.approx(1.0, abs=1e-6)
    assert response[1] == pytest.approx(0.5, abs=0.03)
    assert response[2:].max() < 10 ** (-30 / 20)


def test_lowpass_leaves_a_constant_alone_up_to_the_edges() -> None:
    constant = torch.full((1, 1, 80, 128), 0.7)
    visible = torch.ones(1, 5, 8, dtype=torch.bool)
    visible[:, 3:] = False
    plain, filtered = stem(stem="plain")(constant), stem(stem="lowpass")(constant, visible)
    torch.testing.assert_close(filtered[:, :3], plain[:, :3], atol=1e-5, rtol=0)
