"""ATST-Clip and ATST-Frame with state dicts of their published names: the same function, and what is refused.

The state dicts are generated: no published file was at hand.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from plain_vit import Draws, Plain, block_weights, linear_weights, noise, norm_weights
from safetensors.torch import save_file
from torch import Tensor

from aape_bench.errors import CheckpointError
from aape_bench.models.atst.encoder import AtstEncoder
from aape_bench.selection import select_model

WIDTH, HEADS, BLOCKS = 32, 2, 3
SMALL = {"width": WIDTH, "heads": HEADS, "blocks": BLOCKS, "layers": 2, "clip_frames": 80}
#: Model -> the name of its last LayerNorm, whether it has CLS, default window in frames.
KINDS = {"atst_clip": ("norm", True, 600), "atst_frame": ("norm_frame", False, 1000)}


def published(kind: str) -> dict[str, Tensor]:
    """The teacher's encoder with the published names and shapes, less wide."""
    normal, (norm, has_cls, _) = Draws(9), KINDS[kind]
    return {
        "mask_embed": normal(1, 1, WIDTH),
        **({"cls_token": normal(1, 1, WIDTH)} if has_cls else {}),
        "pos_embed": normal(1, 251, WIDTH),
        **linear_weights(normal, "patch_embed.patch_embed", WIDTH, 256),
        **{name: one for name, one in block_weights(normal, BLOCKS, WIDTH).items() if "qkv.bias" not in name},
        **norm_weights(normal, norm, WIDTH),
    }


def expected(kind: str, spectrogram: Tensor) -> tuple[Tensor, Tensor]:
    """Of one window (frames, 64), scaled: CLS (or nothing) and tokens of the last two blocks side by side."""
    weights, (norm, has_cls, _) = published(kind), KINDS[kind]
    plain = Plain(weights, HEADS)
    tokens = torch.stack(
        [
            plain.linear(spectrogram[4 * step : 4 * step + 4].T.reshape(-1), "patch_embed.patch_embed")
            + weights["pos_embed"][0, 1 + step]
            for step in range(len(spectrogram) // 4)
        ]
    )
    if has_cls:
        tokens = torch.cat([weights["cls_token"][0] + weights["pos_embed"][:, 0], tokens])
    outputs = []
    for block in range(BLOCKS):
        tokens = plain.pre_norm_block(tokens, f"blocks.{block}")
        outputs.append(plain.normed(tokens, norm))
    found = torch.cat(outputs[-2:], dim=1)
    return (found[0], found[1:]) if has_cls else (found[:0].flatten(), found)


def lightning(weights: dict[str, Tensor], path: Path) -> None:
    """As Lightning writes it: the teacher beside the student, heads, optimizer, logged numbers."""
    both = {
        **{f"model.student.encoder.{name}": value + 1 for name, value in weights.items()},
        **{f"model.teacher.encoder.{name}": value for name, value in weights.items()},
        "model.teacher.projector.0.weight": torch.ones(8, WIDTH),
        "model.student.predictor.1.num_batches_tracked": torch.tensor(3),
    }
    settings = {"arch": "base", "nprompt": 0, "n_mels": 64, "patch_h": 64, "patch_w": 4, "anchor_len": 10.0}
    callbacks = {"ModelCheckpoint{'monitor': None}": {"best_model_score": np.float64(0.5), "seen": np.int64(3)}}
    state = {"epoch": 1, "pytorch-lightning_version": "1.6.4", "callbacks": callbacks, "hyper_parameters": settings}
    torch.save({**state, "optimizer_states": [{"state": {0: {"step": 1}}}], "state_dict": both}, path)


def dino(weights: dict[str, Tensor], path: Path) -> None:
    """As the training before that wrote it."""
    teacher = {f"module.backbone.{name}": value for name, value in weights.items()}
    teacher["module.head.mlp.0.weight"] = torch.ones(8, WIDTH)
    student = {name: value + 1 for name, value in teacher.items()}
    args = argparse.Namespace(arch="ast_base", anchor_len=(6.0, 6.0))
    torch.save({"student": student, "teacher": teacher, "epoch": 199, "args": args, "loss": np.float64(1)}, path)


WRITERS: dict[str, Callable[[dict[str, Tensor], Path], None]] = {
    "lightning.ckpt": lightning,
    "dino.ckpt": dino,
    "bare.pt": lambda weights, path: torch.save(weights, path),
    "weights.safetensors": lambda weights, path: save_file(weights, path),
}


def built(kind: str, weights: dict[str, Tensor], file: Path, **settings: int) -> AtstEncoder:
    WRITERS[file.name](weights, file)
    encoder = select_model(kind, {**SMALL, **settings}, str(file), 0).build()
    assert isinstance(encoder, AtstEncoder)
    return encoder


@pytest.mark.parametrize("kind", KINDS)
def test_the_front_end_is_torchaudios_as_transformers_has_it(kind: str, tmp_path: Path) -> None:
    audio_utils = pytest.importorskip("transformers.audio_utils", reason="transformers is not installed (extra hf)")
    bank = audio_utils.mel_filter_bank(513, 64, 60.0, 7800.0, 16000, norm=None, mel_scale="htk")
    clip = 20 * noise(1, 9731)[0]
    clip[4000:] *= 1e-5
    hann = audio_utils.window_function(1024, "hann")
    decibels = audio_utils.spectrogram(
        clip.numpy(), hann, 1024, 160, power=2.0, mel_filters=bank, log_mel="dB", db_range=80.0
    )
    with torch.inference_mode():
        ours, frames = built(kind, published(kind), tmp_path / "bare.pt").spectrogram(clip[None])
    assert frames.tolist() == [decibels.shape[1]] == [61]
    theirs = (decibels.T + 79.6482) / (50.6842 + 79.6482) * 2 - 1
    assert np.abs(ours[0].numpy() - theirs).max() < 1e-5
    assert np.isclose(decibels.max() - decibels.min(), 80)


@pytest.mark.parametrize("file", WRITERS)
@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_published_names_are_the_published_function(kind: str, file: str, tmp_path: Path) -> None:
    encoder = built(kind, published(kind), tmp_path / file)
    for samples in (400, 1000, 6399, 12799, 12800):  # up to 80 frames, and one more of a patch that is not whole
        audio = noise(1, samples)
        with torch.inference_mode():
            spectrogram, _ = encoder.spectrogram(audio)
            cls, tokens = expected(kind, spectrogram[0])
            moments, times = encoder.timestamp_embeddings(audio)
            scene = encoder.scene_embeddings(audio)
        assert torch.allclose(moments[0], tokens, atol=1e-4)
        assert torch.allclose(scene[0], torch.cat([cls, tokens.mean(dim=0)]), atol=1e-4)
        assert torch.allclose(times[0, 1:], 15.0 + 40.0 * torch.arange(1, len(tokens)))
        assert tokens.std() > 0.1


def test_cls_of_a_long_clip_is_the_windows_by_their_duration(tmp_path: Path) -> None:
    encoder = built("atst_clip", published("atst_clip"), tmp_path / "bare.pt")
    audio = noise(1, 160 * 200)
    with torch.inference_mode():
        spectrogram, _ = encoder.spectrogram(audio)
        cls = [expected("atst_clip", window)[0] for window in torch.split(spectrogram[0, :200], 80)]
        scene = encoder.scene_embeddings(audio)[0]
    assert torch.allclose(scene[: 2 * WIDTH], (80 * cls[0] + 80 * cls[1] + 40 * cls[2]) / 200, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_default_settings_are_the_published_ones(kind: str) -> None:
    config = select_model(kind, {}, "random", 0).settings
    assert (config["width"], config["blocks"], config["heads"], config["layers"]) == (768, 12, 12, 12)
    assert config["clip_frames"] == KINDS[kind][2]
    assert importlib.import_module(f"aape_bench.models.{kind}").plugin.build.__module__ == "aape_bench.models.atst"


def test_other_files_are_refused(tmp_path: Path) -> None:
    clip, frame = published("atst_clip"), published("atst_frame")

    def refused(match: str, kind: str, weights: dict[str, Tensor], file: str = "bare.pt", **settings: int) -> None:
        with pytest.raises(CheckpointError, match=match):
            built(kind, weights, tmp_path / file, **settings)

    refused("is of ATST-Frame. Use it with --model atst_frame", "atst_clip", frame, "lightning.ckpt")
    refused("is of ATST-Clip. Use it with --model atst_clip", "atst_frame", clip, "dino.ckpt")
    refused(r"positions is \[250, 32\] there and \[250, 64\]", "atst_frame", frame, width=64)
    refused(r"positions is \[64, 32\] there", "atst_clip", {**clip, "pos_embed": torch.ones(1, 65, WIDTH)})
    refused(r"positions is \[251\] there", "atst_clip", {**clip, "pos_embed": torch.ones(251)})
    refused(r"cls is \[2\] there", "atst_clip", {**clip, "cls_token": torch.ones(2)})
    refused("it has no blocks.3", "atst_clip", clip, blocks=4)
    refused("it has no positions", "atst_frame", {k: v for k, v in frame.items() if k != "pos_embed"})
    refused(r"the model has no blocks\.0\.qkv\.bias", "atst_clip", {**clip, "blocks.0.attn.qkv.bias": torch.ones(96)})
    torch.save({"state_dict": frame, "hyper_parameters": {"nprompt": 1}}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="trained with nprompt=1; this encoder computes nprompt=0"):
        select_model("atst_frame", SMALL, str(tmp_path / "w.pt"), 0).build()
