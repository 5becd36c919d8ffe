"""Dasheng with state dicts of its published names: the same function, and what every encoder must do.

The state dicts are generated: no published file was at hand.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from plain_vit import Draws, Plain, block_weights, noise, norm_weights
from torch import Tensor
from torch.nn import functional as F

from aape_bench.errors import CheckpointError, UsageError
from aape_bench.models.dasheng import plugin
from aape_bench.models.dasheng.encoder import DashengEncoder
from aape_bench.models.decibels import htk_filters
from aape_bench.selection import select_model

WIDTH, HEADS, BLOCKS, FRAMES = 32, 2, 2, 40
SMALL = {"width": WIDTH, "heads": HEADS, "blocks": BLOCKS, "clip_frames": FRAMES}


def published() -> dict[str, Tensor]:
    """A state dict with the published names and shapes, less wide."""
    normal = Draws(5)
    return {
        "time_pos_embed": normal(1, WIDTH, 1, FRAMES // 4),
        "freq_pos_embed": normal(1, WIDTH, 1, 1),
        "front_end.0.spectrogram.window": torch.hann_window(512),
        "front_end.0.mel_scale.fb": htk_filters(64, 512, 0, 8000),
        "init_bn.1.weight": 1 + normal(64),
        "init_bn.1.bias": normal(64),
        "init_bn.1.running_mean": 10 * normal(64) - 20,
        "init_bn.1.running_var": 200 + normal(64),
        "init_bn.1.num_batches_tracked": torch.tensor(7),
        "patch_embed.proj.weight": normal(WIDTH, 1, 64, 4) / 3,
        "patch_embed.proj.bias": normal(WIDTH),
        **norm_weights(normal, "norm", WIDTH),
        **block_weights(normal, BLOCKS, WIDTH),
    }


def expected_window(weights: dict[str, Tensor], log_mel: Tensor) -> Tensor:
    """(frames, 64), normalised -> (tokens, WIDTH), a rest of frames left out."""

    plain = Plain(weights, HEADS)
    patches = log_mel[: len(log_mel) // 4 * 4].reshape(-1, 4, 64).transpose(1, 2).flatten(1)
    tokens = patches @ weights["patch_embed.proj.weight"].flatten(1).T + weights["patch_embed.proj.bias"]
    tokens = tokens + weights["time_pos_embed"][0, :, 0, : len(tokens)].T + weights["freq_pos_embed"].flatten()
    for block in range(BLOCKS):
        tokens = plain.pre_norm_block(tokens, f"blocks.{block}")
    return plain.normed(tokens, "norm")


def expected(weights: dict[str, Tensor], log_mel: Tensor) -> Tensor:
    """All tokens of a clip: windows of FRAMES, of several the last filled up with zeros and its tokens left out."""
    if len(log_mel) <= FRAMES:
        return expected_window(weights, log_mel)
    windows = torch.split(log_mel, FRAMES)
    rest = len(windows[-1]) // 4
    filled = [F.pad(window, (0, 0, 0, FRAMES - len(window))) for window in windows]
    tokens = [expected_window(weights, window) for window in filled]
    return torch.cat([*tokens[:-1], tokens[-1][:rest]])


@pytest.fixture
def encoder(tmp_path: Path) -> DashengEncoder:
    torch.save({"model": published(), "config": {"embed_dim": WIDTH, "patch_size": [64, 4]}}, tmp_path / "base.pt")
    built = select_model("dasheng", SMALL, str(tmp_path / "base.pt"), 0).build()
    assert isinstance(built, DashengEncoder)
    return built


def test_the_front_end_is_torchaudios_as_transformers_has_it(encoder: DashengEncoder) -> None:
    audio_utils = pytest.importorskip("transformers.audio_utils", reason="transformers is not installed (extra hf)")
    bank = audio_utils.mel_filter_bank(257, 64, 0.0, 8000.0, 16000, norm=None, mel_scale="htk")
    assert torch.allclose(htk_filters(64, 512, 0, 8000), torch.from_numpy(bank).float(), atol=1e-4)
    clip = 20 * noise(1, 9731)[0]
    clip[4000:] *= 1e-9  # the floor of 1e-10 is more than 120 dB below the rest
    hann = audio_utils.window_function(512, "hann")
    decibels = audio_utils.spectrogram(
        clip.numpy(), hann, 512, 160, power=2.0, mel_filters=bank, log_mel="dB", db_range=120.0
    )
    weights = published()
    theirs = (torch.from_numpy(decibels).T - weights["init_bn.1.running_mean"]) / (
        weights["init_bn.1.running_var"] + 1e-5
    ).sqrt() * weights["init_bn.1.weight"] + weights["init_bn.1.bias"]
    with torch.inference_mode():
        ours, frames = encoder.spectrogram(clip[None])
    assert frames.tolist() == [theirs.shape[0]] == [61]
    assert torch.allclose(ours[0], theirs.float(), atol=1e-3)
    assert decibels.min() > -99  # not the floor


@pytest.mark.parametrize("seconds", [0.031, 0.2, 0.393, 0.4, 0.45, 0.8, 1.337])
def test_weights_of_published_names_are_the_published_function(encoder: DashengEncoder, seconds: float) -> None:
    audio = noise(1, round(16000 * seconds))
    with torch.inference_mode():
        spectrogram, _ = encoder.spectrogram(audio)
        tokens, times = encoder.timestamp_embeddings(audio)
        theirs = expected(published(), spectrogram[0])
        scene = encoder.scene_embeddings(audio)
    assert len(theirs) == (1 + audio.shape[1] // 160) // 4
    assert torch.allclose(tokens[0], theirs, atol=1e-5)
    assert torch.allclose(scene[0], theirs.mean(dim=0), atol=1e-5)
    assert torch.allclose(times[0], 15.0 + 40.0 * torch.arange(len(theirs)), atol=1e-3)
    assert times.max() <= 1000 * seconds
    assert theirs.std() > 0.1


def test_moments_of_clips_of_all_lengths(encoder: DashengEncoder) -> None:
    lengths = torch.tensor([24000, 5000, 777, 400, 100, 6399])
    with torch.inference_mode():
        _, times = encoder.timestamp_embeddings(noise(6, 24000), lengths)
    assert times.isfinite().sum(dim=1).tolist() == [37, 8, 1, 1, 1, 10]
    assert times[4, 0] == pytest.approx(1000 * 100 / 16000 / 2)


def test_training_keeps_the_statistics(encoder: DashengEncoder) -> None:
    before = encoder.norm_in.running_mean.clone()  # type: ignore[union-attr]
    encoder.train().scene_embeddings(noise(2, 8000)).square().sum().backward()
    assert torch.equal(before, encoder.norm_in.running_mean)  # type: ignore[arg-type]
    assert not torch.equal(encoder.norm_in.weight.grad, torch.zeros(64))  # type: ignore[arg-type]


def test_random_weights_and_what_is_refused(tmp_path: Path) -> None:
    one, two = (select_model("dasheng", SMALL, "random", seed).build() for seed in (0, 1))
    with torch.inference_mode():
        assert not torch.equal(one.scene_embeddings(noise(1, 8000)), two.scene_embeddings(noise(1, 8000)))
    with pytest.raises(UsageError, match=r"zenodo\.org/records/11511780"):
        select_model("dasheng", {}, "default", 0)
    with pytest.raises(UsageError, match="heads=5 does not divide width=32"):
        select_model("dasheng", {**SMALL, "heads": 5}, "random", 0)
    default = select_model("dasheng", {}, "random", 0).settings
    assert (default["width"], default["blocks"], default["heads"], default["clip_frames"]) == (768, 12, 12, 1008)

    def refused(match: str, weights: dict[str, Tensor], **settings: int) -> None:
        torch.save({"model": weights}, tmp_path / "w.pt")
        with pytest.raises(CheckpointError, match=match):
            select_model("dasheng", {**SMALL, **settings}, str(tmp_path / "w.pt"), 0).build()

    refused("trained with another front end", {**published(), "front_end.0.mel_scale.fb": torch.rand(257, 64)})
    refused(r"time_pos_embed is \[1, 32, 1, 10\] there and \[1, 32, 1, 252\]", published(), clip_frames=1008)
    refused("it has no blocks.2", published(), blocks=3)
    refused("the model has no cls_token", {**published(), "cls_token": torch.ones(1, 1, WIDTH)})
    assert "zenodo" in plugin.published.get if plugin.published else False
