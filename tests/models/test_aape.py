"""The AaPE encoder and the `vit` baseline as a user of the Encoder contract sees them."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from aape_bench.errors import UsageError
from aape_bench.models import aape, vit
from aape_bench.models.aape.backbone import grid_positions
from aape_bench.models.aape.encoder import AapeEncoder
from aape_bench.plugin import EncoderPlugin
from aape_bench.randomness import torch_stream
from aape_bench.settings import label_of, make_config

STEMS = ["sblu", "plain", "static", "lambda_only", "patch_mlp", "lowpass"]
VARIANTS: list[dict[str, Any]] = [
    *({"stem": stem} for stem in STEMS),
    *({"window": w, "scale": s} for w in ("gaussian", "one_sided") for s in ("unit", "zoh")),
    {"phase": "even"},
    {"phase": "even", "window": "gaussian"},
    {"scale": "zoh"},
    {"phase": "even", "scale": "zoh"},
    {"fusion_features": "reim"},
    {"stem": "static", "window": "gaussian"},
    {"kernel_frames": 9},
    {"kernel_frames": 33},
]


def encoder(plugin: EncoderPlugin = aape.plugin, seed: int = 0, **settings: Any) -> AapeEncoder:
    settings = {"blocks": 2, **settings}
    built = plugin.build(make_config(plugin.config, settings, plugin.name), seed)
    assert isinstance(built, AapeEncoder)
    return built.eval()


def noise(clips: int, seconds: float, seed: int = 0) -> Tensor:
    """Noise whose level moves, so that clips and their moments differ."""
    samples = round(16000 * seconds)
    draws = torch_stream(seed, "test")
    rate = 1 + 20 * torch.rand(clips, 1, generator=draws)
    envelope = 1.1 + torch.sin(2 * math.pi * rate * torch.arange(samples) / 16000)
    return 0.1 * envelope * torch.randn(clips, samples, generator=draws)


@pytest.fixture(scope="module")
def clips(real_data: Path) -> list[Tensor]:
    """Real audio of uneven lengths, from one frame to just over one 10.24 s window."""
    paths = sorted((real_data / "esc50" / "audio").glob("*.wav"))[:6]
    audio = [torch.from_numpy(soundfile.read(path, dtype="float32")[0]) for path in paths]
    long = torch.cat([audio[0], audio[1], audio[2]])[: int(12.3 * 16000)]
    return [audio[0][:37003], long, audio[1][:400], audio[2][:18111], audio[3]]


def padded(clips: list[Tensor]) -> tuple[Tensor, Tensor]:
    return torch.nn.utils.rnn.pad_sequence(clips, batch_first=True), torch.tensor([len(c) for c in clips])


def test_every_variant_is_another_function_with_the_same_shared_weights() -> None:
    audio = noise(2, 1.0)
    reference = encoder(stem="plain").state_dict()
    embeddings: list[Tensor] = []
    for settings in VARIANTS:
        variant = encoder(**settings)
        weights = variant.state_dict()
        assert all(torch.equal(weights[name], reference[name]) for name in reference)
        with torch.inference_mode():
            embedding = variant.scene_embeddings(audio)
        assert embedding.shape == (2, variant.scene_embedding_size)
        assert torch.isfinite(embedding).all()
        for other in embeddings:
            assert (embedding - other).abs().max() > 1e-5
        embeddings.append(embedding)


def test_vit_is_the_plain_stem() -> None:
    audio = noise(2, 1.0)
    plain, baseline = encoder(stem="plain"), encoder(vit.plugin)
    with torch.inference_mode():
        assert torch.equal(plain.scene_embeddings(audio), baseline.scene_embeddings(audio))


def test_weights_come_from_the_seed_alone() -> None:
    before = torch.get_rng_state()
    for stem in STEMS:
        first, again, other = (encoder(stem=stem, seed=seed).state_dict() for seed in (1, 1, 2))
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert not torch.equal(first["stem.conv_token.weight"], other["stem.conv_token.weight"])
        assert not torch.equal(first["backbone.blocks.0.qkv.weight"], first["backbone.blocks.1.qkv.weight"])
        assert all(torch.isfinite(value).all() for value in first.values())
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("stem", STEMS)
def test_state_dict_holds_weights_only(stem: str) -> None:
    model = encoder(stem=stem)
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}


PADDING_VARIANTS: list[dict[str, Any]] = [
    {},
    {"pooling": "cls+mean"},
    {"pooling": "cls", "norm": "post"},
    {"pooling": "freqcat", "window": "one_sided", "timestamp_hop_ms": 160},
    {"kernel_frames": 33},
    {"kernel_frames": 129, "window": "one_sided"},
    {"stem": "lowpass"},
    {"clip_frames": 64, "pooling": "cls+mean"},
]


@pytest.mark.parametrize("settings", PADDING_VARIANTS, ids=str)
def test_a_clip_alone_equals_it_padded_in_any_batch(settings: dict[str, Any], clips: list[Tensor]) -> None:
    model = encoder(**settings)
    with torch.inference_mode():
        together = model.scene_embeddings(*padded(clips))
        backwards = model.scene_embeddings(*padded(clips[::-1])).flip(0)
        alone = torch.cat([model.scene_embeddings(clip[None]) for clip in clips])
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
        torch.testing.assert_close(together, backwards, atol=1e-5, rtol=0)
        moments, times = model.timestamp_embeddings(*padded(clips))
        for clip, row, row_times in zip(clips, moments, times, strict=True):
            expected, expected_times = model.timestamp_embeddings(clip[None])
            count = expected_times.shape[1]
            assert torch.equal(row_times[:count], expected_times[0])
            assert row_times[count:].isnan().all()
            torch.testing.assert_close(row[:count], expected[0], atol=1e-5, rtol=0)


def test_one_window_of_equal_clips_is_the_plain_forward() -> None:
    audio = noise(3, 1.7)
    log_mels = encoder().normalised(encoder().front_end(audio)[0])[:, None]
    assert log_mels.shape == (3, 1, 176, 128)
    expected = {
        "mean": lambda tokens, _: tokens.mean(dim=(1, 2)),
        "cls": lambda _, cls: cls,
        "cls+mean": lambda tokens, cls: torch.cat([cls, tokens.mean(dim=(1, 2))], dim=1),
        "freqcat": lambda tokens, _: tokens.flatten(2).mean(dim=1),
    }
    for pooling, pool in expected.items():
        model = encoder(pooling=pooling)
        with torch.inference_mode():
            tokens = model.stem(log_mels) + model.backbone.positions(11, 8)
            states = model.backbone(tokens.flatten(1, 2))
            scene = pool(states[:, 1:].unflatten(1, (11, 8)), states[:, 0])
            assert scene.shape == (3, model.scene_embedding_size)
            torch.testing.assert_close(model.scene_embeddings(audio), scene, atol=1e-6, rtol=0)


def test_windows_of_long_clips_count_each_moment_once() -> None:
    """Against a loop over windows: 5.6 s is 35 patches long, windows of 16 patches start at 0, 16 and 19."""
    model = encoder(clip_frames=256, pooling="cls+mean")
    audio = noise(1, 5.6)
    patches = model.normalised(model.front_end(audio)[0]).unflatten(1, (-1, 16))
    assert patches.shape[1] == 35
    seen: list[list[Tensor]] = [[] for _ in range(35)]
    cls_of: list[list[Tensor]] = [[] for _ in range(35)]
    with torch.inference_mode():
        for start in (0, 16, 19):
            tokens, cls = model.encode(patches[:, start : start + 16].flatten(1, 2)[:, None])
            for step in range(16):
                seen[start + step].append(tokens[0, step].mean(dim=0))
                cls_of[start + step].append(cls[0])
        mean = torch.stack([torch.stack(values).mean(dim=0) for values in seen]).mean(dim=0)
        cls_mean = torch.stack([torch.stack(values).mean(dim=0) for values in cls_of]).mean(dim=0)
        expected = torch.cat([cls_mean, mean])
        torch.testing.assert_close(model.scene_embeddings(audio)[0], expected, atol=1e-6, rtol=0)


def test_three_minutes_take_one_window_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model = encoder(blocks=1)
    lengths = []
    encode = model.encode

    def recorded(log_mel: Tensor, real: Tensor | None = None) -> tuple[Tensor, Tensor]:
        lengths.append(log_mel.shape[2])
        return encode(log_mel, real)

    monkeypatch.setattr(model, "encode", recorded)
    with torch.inference_mode():
        assert torch.isfinite(model.scene_embeddings(noise(1, 180.0))).all()
    assert lengths == [1024] * 18


@pytest.mark.parametrize("hop", [10, 40, 160])
def test_timestamps_are_those_of_the_shifted_clip(hop: int) -> None:
    audio = noise(1, 1.003)
    model, coarse = encoder(timestamp_hop_ms=hop), encoder(timestamp_hop_ms=160)
    with torch.inference_mode():
        moments, times = model.timestamp_embeddings(audio)
        assert moments.shape == (1, times.shape[1], model.timestamp_embedding_size)
        np.testing.assert_allclose(times[0], np.arange(87.5, 1003.1, hop))
        for index in range(160 // hop):
            shifted, _ = coarse.timestamp_embeddings(audio[:, index * hop * 16 :])
            same = moments[:, index :: 160 // hop]
            torch.testing.assert_close(same, shifted[:, : same.shape[1]], atol=1e-5, rtol=0)


def test_a_moment_is_where_the_sound_is() -> None:
    """A click in silence changes the moments around its time most."""
    audio = 1e-3 * noise(1, 2.0)
    click = audio.clone()
    click[0, 16000:16400] += 0.5
    model = encoder()
    with torch.inference_mode():
        quiet, times = model.timestamp_embeddings(audio)
        loud, _ = model.timestamp_embeddings(click)
    strongest = times[0, (loud - quiet).square().sum(dim=2)[0].argmax()]
    assert abs(float(strongest) - 1012.5) <= 90


@pytest.mark.parametrize("samples", [400, 1000, 1399, 1400, 5000])
def test_times_lie_inside_the_clip(samples: int) -> None:
    with torch.inference_mode():
        moments, times = encoder().timestamp_embeddings(noise(1, samples / 16000))
    assert moments.shape[1] == times.shape[1] >= 1
    assert torch.isfinite(moments).all()
    assert times.min() > 0
    assert times.max() <= samples / 16


def test_backbone_runs_on_any_gathered_tokens() -> None:
    """Attending to a subset is the same as masking out all others."""
    for norm in ("pre", "post"):
        backbone = encoder(norm=norm).backbone
        tokens = torch.randn(2, 20, 192, generator=torch_stream(0, "test"))
        visible = torch.tensor([0, 3, 4, 11, 19])
        real = torch.zeros(2, 20, dtype=torch.bool)
        real[:, visible] = True
        with torch.inference_mode():
            gathered = backbone(tokens[:, visible])
            masked = backbone(tokens, real)[:, torch.cat([torch.tensor([0]), visible + 1])]
        torch.testing.assert_close(gathered, masked, atol=1e-5, rtol=0)


def test_positions_tell_cells_apart_and_do_not_depend_on_the_grid() -> None:
    small, large = grid_positions(4, 8, 192, 10000.0), grid_positions(64, 8, 192, 10000.0)
    assert torch.equal(small, large[:4])
    distances = torch.cdist(large.flatten(0, 1), large.flatten(0, 1)) + 10 * torch.eye(512)
    assert distances.min() > 0.1
    angle = 5 * 10000.0 ** (-2 / 48)
    assert large[5, 3, 2] == pytest.approx(math.sin(angle), abs=1e-5)
    assert large[5, 3, 48 + 2] == pytest.approx(math.cos(angle), abs=1e-5)


@pytest.mark.parametrize(("preset", "millions"), [("tiny", 5.4), ("small", 21.5), ("base", 85.4)])
def test_presets(preset: str, millions: float) -> None:
    config = make_config(aape.AapeConfig, {"preset": preset}, "aape")
    assert (config.width, config.blocks, config.heads) == {
        "tiny": (192, 12, 3),
        "small": (384, 12, 6),
        "base": (768, 12, 12),
    }[preset]
    model = encoder(preset=preset, blocks=12)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(1e6 * millions, rel=0.02)


def test_settings_as_text_make_a_label() -> None:
    config = make_config(aape.AapeConfig, {"window": "gaussian", "preset": "small"}, "aape")
    assert config.window == "gaussian"
    assert label_of("aape", config) == "aape[preset=small,window=gaussian]"


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"width": 190}, "width"),
        ({"heads": 5}, "heads"),
        ({"timestamp_hop_ms": 30}, "timestamp_hop_ms"),
        ({"clip_frames": 1000}, "clip_frames"),
        ({"n_mels": 120}, "patch_mels"),
        ({"beta_max": 4}, "beta_max"),
        ({"alpha_min": 2}, "alpha_min"),
        ({"kernel_frames": 0}, "kernel_frames"),
        ({"window": "one_sided", "phase": "even"}, "phase"),
        ({"stem": "lowpass", "lowpass_taps": 31}, "lowpass_taps must be odd"),
        ({"lambda_width": 30}, "lambda_width"),
        ({"stem_chunk": 0}, "stem_chunk"),
        ({"window": "hann"}, "window"),
        ({"width": 4096, "heads": 16, "blocks": 96}, "million parameters"),
        ({"clip_frames": 32768}, "tokens of one window"),
        ({"modes": 256, "kernel_frames": 256}, "modes"),
        ({"energy_eps": 0.5}, "energy_eps"),
        ({"stem": "plain", "window": "gaussian", "modes": 4}, "window=gaussian has no effect with stem=plain"),
        ({"stem": "static", "lambda_width": 64}, "lambda_width=64 has no effect with stem=static"),
        ({"stem": "lambda_only", "fusion_features": "reim"}, "fusion_features=reim has no effect"),
        ({"fusion_init": "zero", "fusion_rms": 0.2}, "fusion_rms=0.2 has no effect with fusion_init=zero"),
    ],
)
def test_settings_that_cannot_work_are_named(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        make_config(aape.AapeConfig, settings, "aape")


@pytest.mark.parametrize("value", [0, -1, 1, 3, 1e-9, 0.999, 512, 5000, 10**9, 1e30])
def test_extreme_numbers_work_or_are_refused_at_once(value: float) -> None:
    audio = noise(1, 1.0)
    for stem in STEMS:
        for setting in dataclasses.fields(aape.AapeConfig):
            whole = str(setting.type).startswith("int")
            if not (whole or str(setting.type).startswith("float")) or (whole and value != int(value)):
                continue
            settings = {"blocks": 1, "stem": stem, setting.name: int(value) if whole else value}
            try:
                model, refusal = encoder(**settings), ""
            except UsageError as error:
                refusal = str(error)
            assert not refusal or setting.name in refusal
            if refusal:
                continue
            with torch.inference_mode():
                assert torch.isfinite(model.scene_embeddings(audio)).all(), settings
                assert torch.isfinite(model.timestamp_embeddings(audio)[0]).all(), settings


@pytest.mark.parametrize(
    "settings",
    [
        {"patch_frames": 256, "patch_mels": 128},
        {"patch_frames": 1, "patch_mels": 128, "timestamp_hop_ms": 10},
        {"patch_frames": 2, "timestamp_hop_ms": 10, "clip_frames": 16},
        {"clip_frames": 16},
        {"n_mels": 16},
        {"n_mels": 512},
        {"kernel_frames": 2},
        {"kernel_frames": 1024},
        {"modes": 1},
        {"alpha_min": 9, "alpha_max": 10, "window": "gaussian"},
        {"alpha_min": 9, "alpha_max": 10, "window": "gaussian", "kernel_frames": 1024},
        {"alpha_min": 1e-4, "alpha_max": 2e-4, "beta_min": 1e-4, "beta_max": 2e-4, "scale": "zoh"},
        {"norm_std": 1e-3, "norm_mean": 100, "norm_eps": 1e-12},
        {"stem": "lowpass", "lowpass_taps": 4097, "lowpass_hz": 49.9},
        {"stem": "lowpass", "patch_frames": 64, "lowpass_taps": 129},
        {"patch_frames": 64},
    ],
    ids=str,
)
def test_unusual_settings_work(settings: dict[str, Any]) -> None:
    audio = noise(2, 1.0)
    for seconds in (0.025, 0.1, 1.0):
        model = encoder(**{"blocks": 1, **settings})
        with torch.inference_mode():
            assert torch.isfinite(model.scene_embeddings(audio[:, : int(16000 * seconds)])).all()
            moments, times = model.timestamp_embeddings(audio[:, : int(16000 * seconds)])
        assert torch.isfinite(moments).all()
        assert moments.shape[1] == times.shape[1]
        assert times.max() <= 1000 * seconds


def aape_bench_imports(module: str) -> set[str]:
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    found = set()
    for node in ast.walk(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("aape_bench"):
            found.add(str(node.module))
    return found


@pytest.mark.parametrize("plugin", [aape.plugin, vit.plugin], ids=lambda plugin: plugin.name)
def test_sources_are_all_that_decides_an_embedding(plugin: EncoderPlugin) -> None:
    """Everything that the encoder's modules import, but for contracts and the plugins that only describe."""
    contracts = {f"aape_bench.{name}" for name in ("encoder", "errors", "plugin", "settings", "hear_out")}
    found, left = set(), {"aape_bench.models.aape.encoder", "aape_bench.models.aape.config"}
    while left:
        module = left.pop()
        found.add(module)
        left |= aape_bench_imports(module) - found - contracts
    assert found <= {*plugin.sources, plugin.build.__module__}


def test_importing_the_plugins_imports_no_torch() -> None:
    code = "import sys, aape_bench.models.aape, aape_bench.models.vit; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-P", "-c", code], check=False).returncode == 0


def test_trains_under_autocast() -> None:
    model = encoder(blocks=1).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        embedding = model.scene_embeddings(noise(2, 0.7), torch.tensor([11200, 5000]))
    assert embedding.dtype == torch.float32
    embedding.square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for n, p in model.named_parameters())
