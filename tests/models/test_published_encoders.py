"""EAT, SSLAM and Audio-MAE with state dicts of their published names: the same function, and what is refused.

The state dicts are generated: no published file was at hand.
"""

from __future__ import annotations

import argparse
import importlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from plain_vit import Draws, Plain, block_weights, norm_weights
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from toys import Cli, rows, run

from aape_bench import registry
from aape_bench.encoder import Encoder
from aape_bench.errors import CheckpointError, UsageError
from aape_bench.features import LogMel
from aape_bench.overlap import FIELD
from aape_bench.selection import select_model, select_models

PUBLISHED = [name for name in registry.model_names() if registry.model(name).published is not None]
WIDTH, HEADS, BLOCKS, STEPS, ROWS = 32, 2, 2, 64, 8
SMALL = {"width": WIDTH, "heads": HEADS, "blocks": BLOCKS}
#: Model -> is it post-norm; mean and deviation of its log-mel, as its code has them.
KINDS = {
    "eat": (True, -4.268, 4.569),
    "sslam": (True, -4.268, 4.569),
    "audio_mae": (False, -4.2677393, 4.5689974),
}


def positions(cls: bool) -> Tensor:
    """MAE's fixed sines and cosines of a (time, mel) grid, the mel's half first; with CLS, zeros before them."""
    step, row = np.divmod(np.arange(STEPS * ROWS), ROWS)

    def axis(places: np.ndarray) -> np.ndarray:
        angles = np.outer(places, 1 / 10000 ** (np.arange(WIDTH // 4) / (WIDTH / 4)))
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)

    grid = np.concatenate([axis(row), axis(step)], axis=1)
    return torch.from_numpy(np.concatenate([np.zeros((int(cls), WIDTH)), grid])).float()[None]


def published(kind: str) -> dict[str, Tensor]:
    """A state dict with the names and shapes of that repository's, less wide, with what its pre-training adds."""
    normal = Draws(3)
    weights = block_weights(normal, BLOCKS, WIDTH)
    if kind == "audio_mae":
        return {
            "cls_token": normal(1, 1, WIDTH),
            "pos_embed": positions(cls=True),
            "mask_token": normal(1, 1, 8),
            "decoder_pos_embed": normal(1, 3, 8),
            "patch_embed.proj.weight": normal(WIDTH, 1, 16, 16) / 5,
            "patch_embed.proj.bias": normal(WIDTH),
            **weights,
            **norm_weights(normal, "norm", WIDTH),
            "decoder_embed.weight": normal(8, WIDTH),
            "decoder_blocks.0.attn.qkv.weight": normal(24, 8),
            "decoder_norm.weight": normal(8),
            "decoder_pred.bias": normal(256),
        }
    image = "modality_encoders.IMAGE."
    return {
        f"{image}extra_tokens": normal(1, 1, WIDTH),
        f"{image}local_encoder.proj.weight": normal(WIDTH, 1, 16, 16) / 5,
        f"{image}local_encoder.proj.bias": normal(WIDTH),
        f"{image}fixed_positional_encoder.positions": positions(cls=False),
        **norm_weights(normal, f"{image}context_encoder.norm", WIDTH),
        f"{image}decoder.blocks.0.0.weight": normal(4, 2, 3, 3),
        f"{image}decoder.proj.weight": normal(WIDTH, 4),
        **weights,
    }


def expected(kind: str, weights: dict[str, Tensor], log_mel: Tensor) -> Tensor:
    """CLS and patch tokens, (n, 1 + tokens, WIDTH), as that repository computes them of (n, 1024, 128)."""
    post, mean, std = KINDS[kind]
    weights = {name.removeprefix("modality_encoders.IMAGE."): value for name, value in weights.items()}

    plain = Plain(weights, HEADS)
    image = ((log_mel - mean) / (2 * std))[:, None]
    embed = "local_encoder" if post else "patch_embed"
    patches = F.conv2d(image, weights[f"{embed}.proj.weight"], weights[f"{embed}.proj.bias"], stride=16)
    tokens = patches.flatten(2).transpose(1, 2)
    if post:
        tokens = tokens + weights["fixed_positional_encoder.positions"]
        tokens = torch.cat([weights["extra_tokens"].expand(len(tokens), 1, -1), tokens], dim=1)
        tokens = plain.normed(tokens, "context_encoder.norm")
        for block in range(BLOCKS):
            tokens = plain.post_norm_block(tokens, f"blocks.{block}")
        return tokens
    tokens = tokens + weights["pos_embed"][:, 1:]
    cls = weights["cls_token"] + weights["pos_embed"][:, :1]
    tokens = torch.cat([cls.expand(len(tokens), 1, -1), tokens], dim=1)
    for block in range(BLOCKS):
        tokens = plain.pre_norm_block(tokens, f"blocks.{block}")
    return plain.normed(tokens, "norm")


def fairseq(weights: dict[str, Tensor], path: Path) -> None:
    """As fairseq's trainer writes it: settings and counters beside the state dict, a teacher inside it."""
    model = {**weights, "_ema": {"blocks.0.norm1.bias": torch.ones(WIDTH)}}
    state = {"args": None, "cfg": {"model": {"_name": "data2vec_multi", "depth": BLOCKS}}, "model": model}
    torch.save({**state, "extra_state": {"epoch": 10}, "optimizer_history": [{"num_updates": 7}]}, path)


def mae(weights: dict[str, Tensor], path: Path) -> None:
    """As MAE's trainer writes it: the parser's Namespace beside the state dict."""
    torch.save({"model": weights, "epoch": 32, "args": argparse.Namespace(lr=1e-3, output_dir="x")}, path)


WRITERS: dict[str, Callable[[dict[str, Tensor], Path], None]] = {
    "fairseq.pt": fairseq,
    "mae.pth": mae,
    "bare.pt": lambda weights, path: torch.save(weights, path),
    "weights.safetensors": lambda weights, path: save_file(weights, path),
}


def written(kind: str, path: Path) -> Path:
    WRITERS[path.name](published(kind), path)
    return path


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_published_names_are_the_published_function(tmp_path: Path, kind: str, name: str) -> None:
    file = written(kind, tmp_path / name)
    encoders = {
        pooling: select_model(kind, {**SMALL, "pooling": pooling}, str(file), 0).build() for pooling in ("cls", "mean")
    }
    audio = 0.1 * torch.randn(2, 16000 * 1023 // 100 + 240 + 400, generator=torch.Generator().manual_seed(0))
    audio = audio[:, : 1023 * 160 + 400]  # 1024 frames, nothing padded
    log_mel, _ = LogMel()(audio)
    with torch.inference_mode():
        ours = {pooling: encoder.scene_embeddings(audio) for pooling, encoder in encoders.items()}
        theirs = expected(kind, published(kind), log_mel)
    assert torch.allclose(ours["cls"].roll(WIDTH // 2, dims=1), theirs[:, 0], atol=1e-4)
    assert torch.allclose(ours["mean"].roll(WIDTH // 2, dims=1), theirs[:, 1:].mean(dim=1), atol=1e-4)
    assert theirs.std() > 0.1


def test_a_run_with_published_weights(cli: Cli, small_esc50: Path, tmp_path: Path) -> None:
    file = written("eat", tmp_path / "fairseq.pt")
    small = ";".join(f"{key}={value}" for key, value in SMALL.items())
    status, _, err = run(cli, small_esc50, "--weights", file, model=f"eat{{{small}}}")
    assert status == 0, err
    (row,) = rows(tmp_path / "results")
    assert row["weights"].startswith("file:")
    assert row["pretrain_overlap"] == "unknown"
    assert "0 results computed" in run(cli, small_esc50, "--weights", file, model=f"eat{{{small}}}")[1]
    choice = select_model("eat", SMALL, str(file), 0)
    assert choice.checkpoint is not None
    assert choice.checkpoint["file"] == "fairseq.pt"
    assert select_model(*choice.words).identity == choice.identity
    assert choice.card[FIELD]["complete"] is False

    kept = tmp_path / "kept.safetensors"
    choice.save(choice.build(), kept, choice.card)
    again = select_model("eat", {}, str(kept), 0)
    audio = torch.zeros(1, 16000)
    with torch.inference_mode():
        assert torch.equal(again.build().scene_embeddings(audio), choice.build().scene_embeddings(audio))


@pytest.mark.parametrize("kind", PUBLISHED)
def test_without_a_file_it_says_where_to_get_it(cli: Cli, small_esc50: Path, kind: str) -> None:
    plugin = registry.model(kind)
    status, _, err = run(cli, small_esc50, model=kind)
    assert status == 2
    assert plugin.published is not None
    assert plugin.published.get in err
    assert plugin.citation in err
    assert f"--model {kind} --weights FILE" in err
    module = importlib.import_module(f"aape_bench.models.{kind}")
    with pytest.raises(UsageError, match="needs weights that do not come with aape-bench"):
        module.load_model()
    assert kind not in {choice.words[0] for choice in select_models(["all", "*a*"], {}, "default", [0])}
    status, out, _ = cli("models", kind)
    assert status == 0
    assert plugin.homepage in out


@pytest.mark.parametrize("kind", KINDS)
def test_default_settings_are_the_published_ones(kind: str) -> None:
    config: Any = select_model(kind, {}, "random", 0).settings
    assert (config["width"], config["blocks"], config["heads"], config["clip_frames"]) == (768, 12, 12, 1024)
    post, mean, std = KINDS[kind]
    assert (config["norm"] == "post", config["norm_mean"], config["norm_std"]) == (post, mean, std)


def test_random_weights_differ_by_seed_and_are_hear_modules(tmp_path: Path) -> None:
    one, two = (select_model("eat", SMALL, "random", seed).build() for seed in (0, 1))
    audio = torch.zeros(1, 8000)
    with torch.inference_mode():
        assert not torch.equal(one.scene_embeddings(audio), two.scene_embeddings(audio))
    assert isinstance(one, Encoder)
    module = importlib.import_module("aape_bench.models.eat")
    with pytest.raises(CheckpointError, match=r"theirs are \[1, 512, 32\]"):  # a HEAR module is of the default size
        module.load_model(str(written("eat", tmp_path / "bare.pt")))


def test_other_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"

    def refused(match: str, weights: dict[str, Tensor], kind: str = "eat", **settings: object) -> None:
        save_file(weights, file)
        with pytest.raises(CheckpointError, match=match):
            select_model(kind, {**SMALL, **settings}, str(file), 0).build()

    eat = published("eat")
    refused("is of norm=post, not pre", eat, "audio_mae")
    refused("is of norm=pre, not post", published("audio_mae"))
    refused(
        r"at width 64, .* theirs are \[1, 512, 32\]\. Name the settings it was trained with \(width=", eat, width=64
    )
    refused(r"mlp\.0\.weight is \[128, 32\] there", eat, mlp_ratio=2)
    refused(r"the model has no backbone\.blocks\.1", eat, blocks=1)
    refused(r"it has no backbone\.blocks\.2", eat, blocks=3)
    refused("NaN or infinite", {**eat, "blocks.0.norm1.bias": torch.full((WIDTH,), torch.nan)})
    refused("holds lora.weight, which is no weight of a plain ViT", {**eat, "lora.weight": torch.ones(1)})
    trained = {**published("audio_mae"), "pos_embed": positions(cls=True) + 0.01}
    refused("positions that are not the fixed sines", trained, "audio_mae")
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="is damaged"):
        select_model("eat", SMALL, str(file), 0).build()
    with pytest.raises(CheckpointError, match="There is no checkpoint"):
        select_model("eat", SMALL, str(tmp_path / "absent.pt"), 0)


def test_no_code_in_a_file_is_run(tmp_path: Path) -> None:
    class Touch:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (tmp_path / "ran",)

    file = tmp_path / "weights.pt"
    contents: list[Callable[[], object]] = [
        lambda: torch.save({"model": published("eat"), "cfg": Touch()}, file),
        lambda: file.write_bytes(pickle.dumps(Touch())),
        lambda: torch.save({"model": published("eat"), "args": argparse.Namespace(callback=Touch())}, file),
        lambda: file.write_bytes(b"PK\x03\x04 and nothing else"),
        lambda: file.write_bytes(b"\x80"),
        lambda: file.write_bytes(b""),
    ]
    for write in contents:
        write()
        with pytest.raises(CheckpointError, match=r"cannot be read without running code .* convert it once"):
            select_model("eat", SMALL, str(file), 0).build()
        assert not (tmp_path / "ran").exists()
    for nothing in ([1, 2], {"model": {"a": 1}}, {"model": 3}):
        torch.save(nothing, file)
        with pytest.raises(CheckpointError, match="holds no weights by name"):
            select_model("eat", SMALL, str(file), 0).build()
