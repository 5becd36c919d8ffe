"""Beginning with trained weights: the same function as before, from this package's files and from EAT's naming."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pretrain_models import encoder_config, log_mels
from pretrain_runs import same_run, settings, state, write_audio
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from aape_bench.checkpoint import read_header, save_checkpoint
from aape_bench.errors import CheckpointError, UsageError
from aape_bench.models.aape.encoder import AapeEncoder
from aape_bench.models.aape.pretrain import warm_start
from aape_bench.models.aape.pretrain.commands import configs
from aape_bench.models.aape.pretrain.engine import train
from aape_bench.models.aape.pretrain.sources import open_source
from aape_bench.overlap import FIELD

WIDTH, HEADS, BLOCKS, STEPS, ROWS = 32, 2, 2, 8, 8


def axis_positions(places: np.ndarray, width: int) -> np.ndarray:
    """Sines, then cosines, of one axis of the grid, as MAE has them."""
    angles = np.outer(places, 1 / 10000 ** (np.arange(width // 2) / (width // 2)))
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def eat_weights() -> dict[str, Tensor]:
    """A ViT as EAT names it, its positions with the row's half first."""
    draws = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draws) / 5

    step, row = np.divmod(np.arange(STEPS * ROWS), ROWS)
    positions = np.concatenate([axis_positions(row, WIDTH // 2), axis_positions(step, WIDTH // 2)], axis=1)
    image = "modality_encoders.IMAGE."
    weights = {
        f"{image}local_encoder.proj.weight": normal(WIDTH, 1, 16, 16) / 5,
        f"{image}local_encoder.proj.bias": normal(WIDTH),
        f"{image}extra_tokens": normal(1, 1, WIDTH),
        f"{image}fixed_positional_encoder.positions": torch.from_numpy(positions).float()[None],
        f"{image}context_encoder.norm.weight": 1 + normal(WIDTH),
        f"{image}context_encoder.norm.bias": normal(WIDTH),
        f"{image}decoder.proj.weight": normal(WIDTH, 3),
        "_ema": normal(3),
    }
    for block in range(BLOCKS):
        for name, shape in {
            "attn.qkv.weight": (3 * WIDTH, WIDTH),
            "attn.qkv.bias": (3 * WIDTH,),
            "attn.proj.weight": (WIDTH, WIDTH),
            "attn.proj.bias": (WIDTH,),
            "mlp.fc1.weight": (4 * WIDTH, WIDTH),
            "mlp.fc1.bias": (4 * WIDTH,),
            "mlp.fc2.weight": (WIDTH, 4 * WIDTH),
            "mlp.fc2.bias": (WIDTH,),
            "norm1.weight": (WIDTH,),
            "norm1.bias": (WIDTH,),
            "norm2.weight": (WIDTH,),
            "norm2.bias": (WIDTH,),
        }.items():
            weights[f"blocks.{block}.{name}"] = normal(*shape)
    return weights


def eat_forward(weights: dict[str, Tensor], log_mel: Tensor) -> Tensor:
    """Post-norm transformer over patches with positions, and the extra token without: (n, 1 + tokens, WIDTH)."""
    image = "modality_encoders.IMAGE."

    def normed(values: Tensor, name: str) -> Tensor:
        return F.layer_norm(values, (WIDTH,), weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-6)

    def linear(values: Tensor, name: str) -> Tensor:
        return values @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    patches = F.conv2d(
        log_mel, weights[f"{image}local_encoder.proj.weight"], weights[f"{image}local_encoder.proj.bias"], stride=16
    )
    tokens = patches.flatten(2).transpose(1, 2) + weights[f"{image}fixed_positional_encoder.positions"]
    tokens = torch.cat([weights[f"{image}extra_tokens"].expand(len(tokens), 1, -1), tokens], dim=1)
    tokens = normed(tokens, f"{image}context_encoder.norm")
    for block in range(BLOCKS):
        query, key, value = linear(tokens, f"blocks.{block}.attn.qkv").chunk(3, dim=-1)
        query, key, value = (part.unflatten(2, (HEADS, -1)).transpose(1, 2) for part in (query, key, value))
        weight = (query @ key.transpose(2, 3) / (WIDTH / HEADS) ** 0.5).softmax(dim=-1)
        attended = linear((weight @ value).transpose(1, 2).flatten(2), f"blocks.{block}.attn.proj")
        tokens = normed(tokens + attended, f"blocks.{block}.norm1")
        hidden = F.gelu(linear(tokens, f"blocks.{block}.mlp.fc1"))
        tokens = normed(tokens + linear(hidden, f"blocks.{block}.mlp.fc2"), f"blocks.{block}.norm2")
    return tokens


@pytest.mark.parametrize("stem", ["plain", "sblu"])
def test_weights_of_eats_naming_are_the_same_function(tmp_path: Path, stem: str) -> None:
    weights, clips = eat_weights(), log_mels(3)
    save_file(weights, tmp_path / "eat.safetensors")
    fusion = {"fusion_init": "zero"} if stem == "sblu" else {}
    encoder = AapeEncoder(encoder_config(norm="post", stem=stem, **fusion), 7)
    assert not warm_start.load(encoder, tmp_path / "eat.safetensors").complete
    patches, cls = encoder.encode(clips)
    ours = torch.cat([cls[:, None], patches.flatten(1, 2)], dim=1)
    assert torch.allclose(ours.roll(WIDTH // 2, dims=2), eat_forward(weights, clips), atol=1e-5)


def test_eats_weights_without_their_prefix_or_with_our_positions(tmp_path: Path) -> None:
    weights = eat_weights()
    positions = "modality_encoders.IMAGE.fixed_positional_encoder.positions"
    outcomes = []
    for kind in ("eat", "hub"):
        named = weights if kind == "eat" else {hub_name(name): tensor for name, tensor in weights.items()}
        save_file(named, tmp_path / f"{kind}.safetensors")
        encoder = AapeEncoder(encoder_config(norm="post", stem="plain"), 7)
        warm_start.load(encoder, tmp_path / f"{kind}.safetensors")
        outcomes.append(encoder.encode(log_mels(1))[1])
    assert torch.equal(*outcomes)
    weights[positions] = weights[positions].roll(WIDTH // 2, dims=2)
    save_file(weights, tmp_path / "ours.safetensors")
    encoder = AapeEncoder(encoder_config(norm="post", stem="plain"), 7)
    warm_start.load(encoder, tmp_path / "ours.safetensors")
    assert torch.allclose(encoder.encode(log_mels(1))[1], eat_forward(weights, log_mels(1))[:, 0], atol=1e-5)


def hub_name(name: str) -> str:
    short = name.replace("modality_encoders.IMAGE.", "").replace("context_encoder.norm", "pre_norm")
    return f"model.{short}"


def test_other_files_are_refused(tmp_path: Path) -> None:
    file, weights = tmp_path / "eat.safetensors", eat_weights()

    def refused(match: str, changed: dict[str, Tensor], **settings: object) -> None:
        save_file(changed, file)
        with pytest.raises(CheckpointError, match=match):
            warm_start.load(AapeEncoder(encoder_config(stem="plain", **{"norm": "post", **settings}), 0), file)

    refused("is of norm=post, not pre", weights, norm="pre")
    refused("positions that are not", weights, width=48)
    wide = {**weights, "blocks.1.mlp.fc1.bias": torch.zeros(64)}
    refused(r"mlp.0.bias is \[64\] there and \[128\] in the model", wide)
    refused("it has no backbone.blocks.2", weights, blocks=3)
    refused("has no backbone.blocks.1", weights, blocks=1)
    refused("holds lora.weight, which is no weight of a plain ViT", {**weights, "lora.weight": torch.ones(1)})
    name = "modality_encoders.IMAGE.fixed_positional_encoder.positions"
    refused("positions that are not the fixed sines", {**weights, name: torch.ones(1, 64, 32)})
    refused("NaN or infinite", {**weights, "blocks.0.norm1.bias": torch.full((32,), torch.nan)})
    for positions in (torch.tensor(1.0), torch.ones(32), torch.ones(1, 64, 0), torch.ones(0, 32)):
        refused("positions that are not the fixed sines", {**weights, name: positions})
    for short, shape in {"attn.qkv.weight": (96,), "norm1.weight": (), "mlp.fc2.weight": (32,)}.items():
        refused(r"does not fit the model: .* is \[\d*\] there", {**weights, f"blocks.0.{short}": torch.ones(shape)})
    for kind in (torch.int8, torch.complex64, torch.float8_e4m3fn):
        for short in ("attn.qkv.weight", "norm1.bias"):
            odd = weights[f"blocks.0.{short}"].to(kind)
            refused(f"is of type {kind}. Convert it to torch.float32", {**weights, f"blocks.0.{short}": odd})
    file.write_bytes(b"PK\x03\x04")
    with pytest.raises(CheckpointError, match="cannot be read without running code"):
        warm_start.load(AapeEncoder(encoder_config(), 0), file)


class Harmful:
    """What unpickling would run."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('code of a checkpoint was run')",))


def test_the_file_that_eat_publishes_is_read_without_running_anything(tmp_path: Path) -> None:
    """As fairseq writes it: weights under "model", settings beside them."""
    weights, clips = eat_weights(), log_mels(2)
    outcomes = []
    for file in (tmp_path / "eat.pt", tmp_path / "eat.safetensors"):
        if file.suffix == ".pt":
            torch.save({"model": weights, "args": argparse.Namespace(lr=1.0), "cfg": {"steps": 10}}, file)
        else:
            save_file(weights, file)
        assert warm_start.lacks_stem(file)
        encoder = AapeEncoder(encoder_config(norm="post", stem="sblu", fusion_init="zero"), 7)
        assert not warm_start.load(encoder, file).complete
        outcomes.append(encoder.encode(clips)[1])
    assert torch.equal(*outcomes)
    torch.save({"model": weights, "cfg": Harmful()}, tmp_path / "harmful.pt")
    with pytest.raises(CheckpointError, match="nothing was loaded"):
        warm_start.load(encoder, tmp_path / "harmful.pt")


def test_a_plain_checkpoint_of_ours_begins_the_same_and_then_learns(tmp_path: Path) -> None:
    plain, path = AapeEncoder(encoder_config(stem="plain", blocks=1), 3), tmp_path / "plain.safetensors"
    save_checkpoint(path, plain, "aape", dataclasses.asdict(plain.config), {})
    assert warm_start.lacks_stem(path)
    chosen, _ = configs("smoke", ["clip_seconds=0.65", "model.width=32", "model.blocks=1"], None, path)
    assert chosen.fusion_init == "zero"
    encoder = AapeEncoder(encoder_config(blocks=1, fusion_init="zero"), 0)
    warm_start.load(encoder, path)
    assert torch.equal(encoder.encode(log_mels(2))[1], plain.encode(log_mels(2))[1])
    with pytest.raises(CheckpointError, match="was trained with norm=pre, not post"):
        warm_start.load(AapeEncoder(encoder_config(blocks=1, norm="post"), 0), path)

    source = open_source([str(write_audio(tmp_path / "audio"))])
    _, config = settings()
    short = encoder_config(blocks=1, clip_frames=64, fusion_init="zero")
    train(short, config, source, tmp_path / "whole", 0, init=path)
    assert (state(tmp_path / "whole", 6)["model"]["student.stem.fusion.weight.weight"] != 0).any()
    card = read_header(tmp_path / "whole" / "teacher-6.safetensors").card
    assert not card[FIELD]["complete"]
    train(short, config, source, tmp_path / "cut", 0, init=path, minutes=0)
    with pytest.raises(UsageError, match="another training: init is"):
        train(short, config, source, tmp_path / "cut", 0, resume=True)
    train(short, config, source, tmp_path / "cut", 0, resume=True, init=path)
    assert same_run(tmp_path / "whole", tmp_path / "cut")


def test_a_whole_checkpoint_keeps_its_stem_and_its_list_of_audio(tmp_path: Path) -> None:
    source = open_source([str(write_audio(tmp_path / "audio"))])
    first = train(*settings(), source, tmp_path / "first", 0)
    assert not warm_start.lacks_stem(first)
    other = open_source([str(write_audio(tmp_path / "other", 3))])
    second = train(*settings(steps=1), other, tmp_path / "second", 1, init=first)
    cards = [read_header(path).card[FIELD] for path in (first, second)]
    assert [card["count"] for card in cards] == [20, 20]  # the other files are the first three of the same
    assert cards[1]["complete"]
    begun = AapeEncoder(settings()[0], 1)
    warm_start.load(begun, first)
    moved = [
        (state(tmp_path / "second", 1)["model"][f"teacher.{name}"] - weight).abs().max()
        for name, weight in begun.state_dict().items()
    ]
    assert 0 < max(moved) < 1e-3


@pytest.mark.parametrize(
    ("there", "here", "differs"),
    [
        ({"window": "gaussian"}, {}, "window"),
        ({}, {"phase": "even"}, "phase"),
        ({}, {"energy_eps": 1e-4}, "energy_eps"),
        ({}, {"alpha_max": 0.9}, "alpha_max"),
        ({}, {"lambda_heads": 2}, "lambda_heads"),
        ({}, {"input_rms": 0.6}, "input_rms"),
        ({}, {"alpha_init": 0.4}, "alpha_init"),
        ({"stem": "lambda_only"}, {"fusion_features": "reim"}, "stem"),
        ({"stem": "lowpass", "lowpass_hz": 4.0}, {"stem": "lowpass"}, "lowpass_hz"),
        ({}, {"fusion_rms": 0.2, "lambda_head_std": 0.1, "init_std": 0.1, "stem_chunk": 8}, None),
        ({"fusion_features": "reim"}, {"fusion_features": "reim", "input_rms": 0.6, "alpha_init": 0.4}, None),
        ({}, {"preset": "small", "heads": 2, "lambda_width": 32, "lambda_layers": 1}, None),
        ({"stem": "lowpass"}, {"window": "gaussian"}, None),
    ],
)
def test_weights_of_another_function_are_refused(
    tmp_path: Path, there: dict[str, Any], here: dict[str, Any], differs: str | None
) -> None:
    """Of equal shapes all; what decides only how training began may differ, and the function is then the same."""
    trained, path = AapeEncoder(encoder_config(**there), 3), tmp_path / "c.safetensors"
    save_checkpoint(path, trained, "aape", dataclasses.asdict(trained.config), {})
    encoder = AapeEncoder(encoder_config(**here), 0)
    if differs is not None:
        with pytest.raises(CheckpointError, match=f"was trained with {differs}=.* Name it: --set model.{differs}="):
            warm_start.load(encoder, path)
        return
    warm_start.load(encoder, path)
    if trained.config.stem == encoder.config.stem:
        assert torch.equal(encoder.encode(log_mels(1))[1], trained.encode(log_mels(1))[1])
