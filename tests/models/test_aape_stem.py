"""What the stem of AaPE and its controls add to a token, and what they must not see."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import scipy.signal
import soundfile
import torch
from torch.utils.flop_counter import FlopCounterMode

import aape_bench.models.aape.sblu as sblu_module
from aape_bench.errors import UsageError
from aape_bench.features import LogMel
from aape_bench.models.aape import AapeConfig
from aape_bench.models.aape.config import VitConfig
from aape_bench.models.aape.stem import AddingStem, Stem, build_stem, lowpass_taps
from aape_bench.randomness import torch_stream
from aape_bench.settings import deciding, label_of, make_config

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


#: Another value for every setting of the stem.
OTHER: dict[str, Any] = {
    "window": "gaussian",
    "phase": "even",
    "scale": "zoh",
    "kernel_frames": 9,
    "modes": 4,
    "beta_min": 0.3,
    "beta_max": 3.0,
    "alpha_min": 0.2,
    "alpha_max": 0.9,
    "alpha_init": 0.4,
    "lambda_width": 64,
    "lambda_layers": 2,
    "lambda_heads": 2,
    "lambda_mlp_ratio": 2.0,
    "lambda_head_std": 0.1,
    "fusion_features": "reim",
    "fusion_init": "zero",
    "fusion_rms": 0.2,
    "input_rms": 0.7,
    "energy_eps": 1e-4,
    "patch_mlp_features": 8,
    "lowpass_taps": 97,
    "lowpass_hz": 5.0,
}


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


def refused_or_made(**settings: Any) -> AapeConfig | str:
    try:
        return make_config(AapeConfig, settings, "aape")
    except UsageError as error:
        return str(error)


@pytest.mark.parametrize("base", [{}, {"fusion_init": "zero"}, {"fusion_features": "reim"}], ids=str)
@pytest.mark.parametrize("name", ["sblu", "static", "lambda_only", "patch_mlp", "lowpass", "plain"])
def test_a_setting_changes_the_stem_or_is_refused(name: str, base: dict[str, Any]) -> None:
    """Otherwise one encoder would stand on the leaderboard under two names."""
    stem_fields = {f.name for f in dataclasses.fields(AapeConfig)} - {f.name for f in dataclasses.fields(VitConfig)}
    assert set(OTHER) == stem_fields - {"stem", "stem_chunk", "stem_recompute"}
    config = refused_or_made(stem=name, **base)
    if isinstance(config, str):
        assert config.endswith(f"has no effect with stem={name}. Leave it out.")
        return

    def gradient_and_tokens(config: AapeConfig) -> tuple[torch.Tensor, ...]:
        # With fusion_init=zero the tokens are the plain stem's, but training goes elsewhere.
        module = build_stem(config, 0)
        tokens = module(log_mels())
        tokens.square().sum().backward()
        return (tokens.detach(), *(p.grad for p in module.parameters() if p.grad is not None))

    reference = gradient_and_tokens(config)
    for setting, value in OTHER.items():
        if setting in base:
            continue
        other = refused_or_made(**{"stem": name, **base, setting: value})
        if isinstance(other, str):
            reasons = (f"stem={name}", "fusion_init=zero")
            assert other in [f"{setting}={value} has no effect with {reason}. Leave it out." for reason in reasons]
            # As the default it is welcome: a checkpoint's config names every setting.
            default = getattr(config, setting)
            assert make_config(AapeConfig, {"stem": name, **base, setting: default}, "aape") == config
            changed = build_stem(dataclasses.replace(config, **{setting: value}), 0)
            assert torch.equal(changed(log_mels()), reference[0])
        else:
            found = gradient_and_tokens(other)
            assert [f.shape for f in found] != [r.shape for r in reference] or any(
                not torch.equal(f, r) for f, r in zip(found, reference, strict=True)
            ), setting


@pytest.mark.parametrize("preset", ["tiny", "small", "base"])
def test_a_resolved_config_is_its_own_text(preset: str) -> None:
    for name in ("sblu", "static", "lambda_only", "patch_mlp", "lowpass", "plain"):
        config = make_config(AapeConfig, {"stem": name, "preset": preset}, "aape")
        assert make_config(AapeConfig, dataclasses.asdict(config), "aape") == config
        as_text = {key: str(value) for key, value in dataclasses.asdict(config).items()}
        assert make_config(AapeConfig, as_text, "aape") == config


def test_what_only_costs_is_in_no_label() -> None:
    config, other = (make_config(AapeConfig, s, "aape") for s in ({}, {"stem_chunk": 16, "stem_recompute": True}))
    assert label_of("aape", other) == "aape"
    assert deciding(other) == deciding(config)


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


@pytest.fixture(scope="module", params=["real", "noise"])
def inputs(request: pytest.FixtureRequest) -> tuple[str, torch.Tensor]:
    """Normalised log-mels (20, 1, 496, 128) of ESC-50 clips, or of white noise from -60 to -20 dB."""
    if request.param == "real":
        folder = request.getfixturevalue("real_data") / "esc50" / "audio"
        paths = sorted(folder.glob("*.wav"))[::5]
        audio = torch.stack([torch.from_numpy(soundfile.read(p, dtype="float32", frames=79760)[0]) for p in paths])
    else:
        audio = torch.randn(20, 79760, generator=torch_stream(0, "test")) * torch.logspace(-3, -1, 20)[:, None]
    config = make_config(AapeConfig, {}, "aape")
    log_mel, _ = LogMel()(audio)
    return request.param, (log_mel[:, None, :496] - config.norm_mean) / (2 * config.norm_std)


def additions(x: torch.Tensor, **settings: Any) -> tuple[float, float]:
    """RMS of the addition, and of it less its mean over clips and time steps, over the conv token's."""
    with torch.inference_mode():
        token = stem(stem="plain")(x)
        addition = stem(**settings)(x) - token
        varying = addition - addition.mean(dim=(0, 1))
        size = token.square().mean().sqrt()
        return float(addition.square().mean().sqrt() / size), float(varying.square().mean().sqrt() / size)


def test_what_varies_in_the_addition_is_near_a_tenth_of_the_conv_token(inputs: tuple[str, torch.Tensor]) -> None:
    """The input's RMS is 0.71 on these clips and 0.49 on this noise, where `fusion_rms` counts on 0.5."""
    kind, x = inputs
    low, high = {"real": (0.06, 0.075), "noise": (0.075, 0.11)}[kind]
    for settings in WITHIN_PATCH + ACROSS_PATCHES:
        if settings["stem"] in ("sblu", "static", "patch_mlp"):
            total, varying = additions(x, **settings)
            assert low < varying < high, settings
            assert varying > 0.8 * total, settings


def test_compared_stems_start_alike(inputs: tuple[str, torch.Tensor]) -> None:
    _, x = inputs
    compared: list[dict[str, Any]] = [{"stem": "static"}, {"stem": "patch_mlp"}, {"fusion_features": "reim"}]
    _, sblu = additions(x, stem="sblu")
    for settings in compared:
        assert additions(x, **settings)[1] == pytest.approx(sblu, rel=0.25), settings


def test_lambda_alone_starts_small(inputs: tuple[str, torch.Tensor]) -> None:
    """alpha and beta hardly move at the start, and the fusion does not blow up what they do."""
    total, varying = additions(inputs[1], stem="lambda_only")
    assert 0.002 < varying <= total < 0.012


def test_a_single_mode_adds_as_much_as_many(inputs: tuple[str, torch.Tensor]) -> None:
    for settings in ({}, {"fusion_features": "reim"}, {"window": "one_sided"}):
        _, many = additions(inputs[1], **settings)
        total, varying = additions(inputs[1], modes=1, **settings)
        assert varying == pytest.approx(many, rel=0.2)
        assert varying > 0.8 * total


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
