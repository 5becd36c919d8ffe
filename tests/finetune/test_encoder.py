"""What encoders offer to fine-tuning: the front end apart, parameters by depth, drop path."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from aape_bench.encoder import Encoder, SpectrogramEncoder
from aape_bench.features import LogMel
from aape_bench.finetune.augment import clip_streams, drop_path
from aape_bench.models import aape, vit
from aape_bench.models.aape.backbone import Block
from aape_bench.models.aape.encoder import AapeEncoder
from aape_bench.plugin import EncoderPlugin
from aape_bench.randomness import torch_stream
from aape_bench.settings import make_config

PLUGINS = pytest.mark.parametrize("plugin", [aape.plugin, vit.plugin], ids=lambda plugin: plugin.name)
NORMS = pytest.mark.parametrize("norm", ["pre", "post"])


def encoder(plugin: EncoderPlugin = vit.plugin, **settings: Any) -> AapeEncoder:
    settings = {"blocks": 3, "width": 32, "heads": 2, "clip_frames": 64, **settings}
    built = plugin.build(make_config(plugin.config, settings, plugin.name), 0)
    assert isinstance(built, AapeEncoder)
    return built


def clips() -> tuple[Tensor, Tensor]:
    """Clips of 1.5, 0.3, 0.03 and 0.7 s; windows are 0.64 s long."""
    audio = 0.1 * torch.randn(4, 24000, generator=torch_stream(0, "test"))
    lengths = torch.tensor([24000, 4800, 481, 11200])
    return audio * (torch.arange(24000) < lengths[:, None]), lengths


def dropped(n: int, blocks: int, rate: float = 0.6, update: int = 0) -> Tensor:
    return drop_path(clip_streams(0, "drop path", update, range(n)), rate, blocks)


@PLUGINS
@pytest.mark.parametrize("pooling", ["mean", "cls", "cls+mean", "freqcat"])
def test_the_spectrogram_route_is_the_scene_embedding_to_the_bit(plugin: EncoderPlugin, pooling: str) -> None:
    model = encoder(plugin, pooling=pooling)
    assert isinstance(model, SpectrogramEncoder)
    audio, lengths = clips()
    with torch.inference_mode():
        for given in (lengths, None):
            by_hand, frames = LogMel(128)(audio, given)
            assert torch.equal(model.scene_embeddings(audio, given), model.scene_embeddings_of(by_hand, frames))
        spectrogram, frames = model.spectrogram(audio, lengths)
    assert torch.equal(spectrogram, LogMel(128)(audio, lengths)[0])
    assert frames.tolist() == [148, 28, 1, 68]
    assert all((spectrogram[row, count:] == 0).all() for row, count in enumerate(frames))


def test_quiet_is_zero_once_normalised() -> None:
    for mean in (-4.268, 1.1, 0.0):
        model = encoder(norm_mean=mean)
        assert (model.normalised(torch.full((1, 16, 128), model.quiet)) == 0).all()


@PLUGINS
@NORMS
def test_parameters_by_depth(plugin: EncoderPlugin, norm: str) -> None:
    model = encoder(plugin, norm=norm)
    groups, stem = model.layer_groups(), model.stem_parameters()
    listed = [*stem, *(name for group in groups for name in group)]
    after = {"backbone.norm.weight", "backbone.norm.bias"} if norm == "pre" else set()
    assert len(listed) == len(set(listed))
    assert {name for name, _ in model.named_parameters()} == {*listed, *after}
    assert len(groups) == model.drop_path_blocks == 3
    for index, group in enumerate(groups):
        assert all(name.startswith(f"backbone.blocks.{index}.") for name in group)
    assert {"backbone.cls", "stem.conv_token.weight"} <= set(stem)


def test_an_encoder_need_not_offer_anything() -> None:
    plain = Encoder()
    assert plain.layer_groups() is None
    assert plain.stem_parameters() == []
    assert plain.drop_path is None
    assert plain.drop_path_blocks == 0


@NORMS
def test_without_drop_path_blocks_are_the_plain_transformer_to_the_bit(norm: str) -> None:
    backbone = encoder(norm=norm).train().backbone
    tokens = torch.randn(2, 5, 32, generator=torch_stream(0, "tokens"))
    with torch.no_grad():
        x = torch.cat([backbone.cls.expand(2, 1, -1), tokens], dim=1)
        if norm == "post":
            x = backbone.norm(x)
        for block in backbone.blocks:
            assert isinstance(block, Block)
            if norm == "pre":
                x = x + block._attend(block.norm1(x), None)
                x = x + block.mlp(block.norm2(x))
            else:
                x = block.norm1(x + block._attend(x, None))
                x = block.norm2(x + block.mlp(x))
        assert torch.equal(backbone(tokens), backbone.norm(x) if norm == "pre" else x)
        assert torch.equal(backbone(tokens, None, torch.ones(2, 3, 2)), backbone(tokens))


@PLUGINS
@NORMS
def test_drop_path_is_for_training_alone(plugin: EncoderPlugin, norm: str) -> None:
    model, (audio, lengths) = encoder(plugin, norm=norm), clips()
    with torch.no_grad():
        evaluating = model.eval().scene_embeddings(audio, lengths)
        assert torch.equal(model.train().scene_embeddings(audio, lengths), evaluating)
        model.drop_path = dropped(4, 3)
        assert torch.equal(model.eval().scene_embeddings(audio, lengths), evaluating)
        changed = model.train().scene_embeddings(audio, lengths)
        assert ((changed - evaluating).abs().amax(dim=1) > 1e-3).any()
        model.drop_path = None
        assert torch.equal(model.train().scene_embeddings(audio, lengths), evaluating)
    assert not any("drop_path" in name for name in model.state_dict())


@NORMS
def test_factors_belong_to_a_clip_in_all_of_its_windows(norm: str) -> None:
    """A clip alone with its own factors is the clip in the batch; without any branch nothing but the stem is left."""
    model, (audio, lengths) = encoder(norm=norm, pooling="cls+mean").train(), clips()
    factors = dropped(4, 3, update=1)
    factors[3] = 0
    with torch.no_grad():
        model.drop_path = factors
        together = model.scene_embeddings(audio, lengths)
        for row, length in enumerate(lengths.tolist()):
            model.drop_path = factors[row : row + 1]
            alone = model.scene_embeddings(audio[row : row + 1, :length])
            torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=0)
        cls = model.backbone.norm(model.backbone.cls)
        for _ in range(0 if norm == "pre" else 2 * 3):
            cls = torch.nn.functional.layer_norm(cls, (32,), eps=1e-6)
        torch.testing.assert_close(together[3, :32], cls, atol=1e-5, rtol=0)


@NORMS
def test_a_branch_is_kept_whole_or_left_out_and_its_mean_stays(norm: str) -> None:
    draws, rate = 4000, 0.25
    block = Block(8, 2, 4.0, norm, 1e-6, torch_stream(0, "block"))
    tokens = torch.randn(1, 3, 8, generator=torch_stream(0, "tokens")).expand(draws, -1, -1)
    factors = dropped(draws, 2, rate)[:, 1].clone()
    factors[:, 0] = 1  # the MLP's branch alone, whose output is added last
    with torch.no_grad():
        whole, added = block(tokens)
        if norm == "post":
            block.norm2 = torch.nn.Identity()
            whole, added = block(tokens)
        left, added_left = block(tokens, None, factors)
    torch.testing.assert_close(added_left, added)
    kept = factors[:, 1] > 0
    without = whole - added
    torch.testing.assert_close(left[~kept], without[~kept], atol=1e-5, rtol=0)
    torch.testing.assert_close(left[kept], (without + added / (1 - rate))[kept], atol=1e-5, rtol=0)
    error = math.sqrt(rate / (1 - rate) / draws) * float(added.abs().max())
    torch.testing.assert_close(left.mean(dim=0), whole[0], atol=4 * error, rtol=0)


def test_a_branch_left_out_gets_no_gradient() -> None:
    model, (audio, lengths) = encoder().train(), clips()
    factors = torch.ones(4, 3, 2)
    factors[:, 1, 0] = 0
    model.drop_path = factors
    model.scene_embeddings(audio, lengths).square().sum().backward()  # type: ignore[no-untyped-call]
    first, second = model.backbone.blocks[0], model.backbone.blocks[1]
    assert isinstance(first, Block)
    assert isinstance(second, Block)
    assert (second.qkv.weight.grad == 0).all()  # type: ignore[union-attr]
    assert (first.qkv.weight.grad != 0).any()  # type: ignore[union-attr]
    assert (second.norm2.weight.grad != 0).any()  # type: ignore[union-attr]
