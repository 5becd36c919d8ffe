"""Encoders of log-mel windows (BEATs, ATST, Dasheng): what of `WindowEncoder` is theirs in common."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from plain_vit import noise

from aape_bench.errors import UsageError
from aape_bench.models.windows import WindowEncoder
from aape_bench.selection import select_model

BLOCKS = 2
SMALL = {"width": 32, "heads": 2, "blocks": BLOCKS}
#: Model -> settings; windows of 0.4 s or 0.64 s, so that clips have several.
KINDS = {
    "beats": {**SMALL, "clip_frames": 64, "timestamp_hop_ms": 80},
    "atst_clip": {**SMALL, "clip_frames": 40, "layers": 2},
    "atst_frame": {**SMALL, "clip_frames": 40, "layers": 1},
    "dasheng": {**SMALL, "clip_frames": 40},
}


@pytest.fixture(params=KINDS)
def encoder(request: pytest.FixtureRequest) -> WindowEncoder:
    built = select_model(request.param, KINDS[request.param], "random", 0).build()
    assert isinstance(built, WindowEncoder)
    draws = torch.Generator().manual_seed(1)
    for parameter in built.parameters():  # drawn ones are small, and some are 0 or 1
        parameter.data += torch.randn(parameter.shape, generator=draws) / 10
    return built


def test_a_clip_depends_on_nothing_but_itself(encoder: WindowEncoder) -> None:
    lengths = torch.tensor([24000, 5000, 777, 400, 14111, 10241])
    audio = noise(6, 24000)
    with torch.inference_mode():
        batch = encoder.scene_embeddings(audio, lengths)
        alone = torch.cat([encoder.scene_embeddings(audio[r : r + 1, :n]) for r, n in enumerate(lengths)])
        tokens, times = encoder.timestamp_embeddings(audio, lengths)
        for row, length in enumerate(lengths.tolist()):
            one, at = encoder.timestamp_embeddings(audio[row : row + 1, :length])
            count = at.shape[1]
            assert (tokens[row, :count] - one[0]).abs().max() < 1e-5
            assert torch.equal(times[row, :count], at[0])
            assert times[row, count:].isnan().all()
            assert not tokens[row, count:].any()
            assert 0 < at.max() <= 1000 * length / 16000
    assert (batch - alone).abs().max() < 1e-5
    assert batch.std(dim=0).max() > 0.01


def test_scenes_are_the_mean_over_all_moments_of_all_windows(encoder: WindowEncoder) -> None:
    with torch.inference_mode():
        scene = encoder.scene_embeddings(noise(1, 24000))
        tokens, times = encoder.timestamp_embeddings(noise(1, 24000))
    size = encoder.timestamp_embedding_size
    assert torch.allclose(
        scene[:, -size:], tokens[:, :: encoder.patch_frames // encoder.hop_frames].mean(dim=1), atol=1e-5
    )
    assert times.diff().sub(10 * encoder.hop_frames).abs().max() < 1e-3


def test_training_reaches_all_weights_and_drops_paths(encoder: WindowEncoder) -> None:
    audio = noise(2, 8000)
    encoder.train()
    encoder.drop_path = torch.ones(2, BLOCKS, 2)
    whole = encoder.scene_embeddings(audio)
    moments, _ = encoder.timestamp_embeddings(audio)
    (whole.pow(3).sum() + moments.pow(3).sum()).backward()
    named = dict(encoder.named_parameters())
    assert [name for name, one in named.items() if one.grad is None or not one.grad.abs().max() > 0] == []
    groups = encoder.layer_groups()
    grouped = {name for group in groups for name in group} | set(encoder.stem_parameters())
    assert len(groups) == BLOCKS
    assert set(named) - grouped == ({"norm.weight", "norm.bias"} & set(named))
    encoder.drop_path = torch.zeros(2, BLOCKS, 2)
    assert not torch.allclose(encoder.scene_embeddings(audio), whole, atol=1e-3)
    encoder.drop_path = torch.ones(2, BLOCKS, 2)
    assert torch.allclose(encoder.scene_embeddings(audio), encoder.eval().scene_embeddings(audio), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_of_ours_reloads_equal(kind: str, tmp_path: Path) -> None:
    choice = select_model(kind, KINDS[kind], "random", 0)
    encoder = choice.build()
    choice.save(encoder, tmp_path / "kept.safetensors", {})
    again = select_model(kind, {}, str(tmp_path / "kept.safetensors"), 1)
    assert again.settings == choice.settings
    with torch.inference_mode():
        assert torch.equal(again.build().scene_embeddings(noise(1, 8000)), encoder.scene_embeddings(noise(1, 8000)))


@pytest.mark.parametrize("kind", KINDS)
def test_settings_that_cannot_be(kind: str) -> None:
    def refused(match: str, **settings: int) -> None:
        with pytest.raises(UsageError, match=match):
            select_model(kind, {**KINDS[kind], **settings}, "random", 0)

    refused("heads=5 does not divide width=32", heads=5)
    refused(r"clip_frames must be a multiple of \d+ up to \d+, not 65", clip_frames=65)
    refused("clip_frames must be a multiple", clip_frames=65536)
    refused("make more than two thousand million weights", width=65536, blocks=96)
    if kind == "beats":
        refused("width must be a multiple of 16, not 24", width=24)
    if kind.startswith("atst"):
        refused("layers must lie between 1 and blocks=2, not 3", layers=3)
        refused("layers must lie between 1 and blocks=2, not 0", layers=0)
