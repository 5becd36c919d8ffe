"""BEATs with state dicts of its published names: the same function, in parts also as kaldi and WavLM compute them.

The state dicts are generated: no published file was at hand.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import kaldi_native_fbank as knf
import numpy as np
import pytest
import torch
from plain_vit import Draws, Plain, linear_weights, noise, norm_weights
from torch import Tensor
from torch.nn import functional as F

from aape_bench.errors import CheckpointError
from aape_bench.features import mel_filter_bank
from aape_bench.models.beats.block import distance_buckets
from aape_bench.models.beats.encoder import BeatsEncoder
from aape_bench.selection import select_model

WIDTH, HEADS, BLOCKS, FRAMES = 32, 2, 2, 320
SMALL = {"width": WIDTH, "heads": HEADS, "blocks": BLOCKS, "clip_frames": FRAMES}
#: As the published files state them (those of dropout and the like left out).
CFG = {
    "encoder_layers": 12, "activation_fn": "gelu", "layer_norm_first": False, "deep_norm": True, "conv_pos": 128,
    "conv_pos_groups": 16, "relative_position_embedding": True, "num_buckets": 320, "max_distance": 800,
    "gru_rel_pos": True, "input_patch_size": 16, "embed_dim": 512, "finetuned_model": False,
}  # fmt: skip


def published() -> dict[str, Tensor]:
    """A state dict with the published names and shapes, less wide."""
    normal = Draws(7)
    weights = {
        "patch_embedding.weight": normal(512, 1, 16, 16) / 5,
        **norm_weights(normal, "layer_norm", 512),
        **linear_weights(normal, "post_extract_proj", WIDTH, 512),
        "encoder.pos_conv.0.bias": normal(WIDTH),
        "encoder.pos_conv.0.weight_g": 1 + normal(1, 1, 128),
        "encoder.pos_conv.0.weight_v": normal(WIDTH, WIDTH // 16, 128),
        **norm_weights(normal, "encoder.layer_norm", WIDTH),
    }
    bias = 3 * normal(320, HEADS)
    for name in (f"encoder.layers.{block}" for block in range(BLOCKS)):
        attention = f"{name}.self_attn"
        for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
            weights |= linear_weights(normal, f"{attention}.{part}", WIDTH, WIDTH)
        weights |= linear_weights(normal, f"{attention}.grep_linear", 8, WIDTH // HEADS)
        weights |= {f"{attention}.grep_a": 1 + normal(1, HEADS, 1, 1)}
        weights |= {f"{attention}.relative_attention_bias.weight": bias}
        weights |= linear_weights(normal, f"{name}.fc1", 4 * WIDTH, WIDTH)
        weights |= linear_weights(normal, f"{name}.fc2", WIDTH, 4 * WIDTH)
        for part in ("self_attn_layer_norm", "final_layer_norm"):
            weights |= norm_weights(normal, f"{name}.{part}", WIDTH)
    return weights


def buckets(tokens: int) -> np.ndarray:
    """Of the key j as seen from the query i, one by one."""
    found = np.empty((tokens, tokens), dtype=np.int64)
    for query in range(tokens):
        for key in range(tokens):
            distance = abs(key - query)
            if distance >= 80:
                share = math.log(distance / 80) / math.log(800 / 80)
                distance = min(80 + math.floor(share * 80), 159)
            found[query, key] = distance + (160 if key > query else 0)
    return found


def expected(weights: dict[str, Tensor], log_mel: Tensor) -> Tensor:
    """All tokens of one clip shorter than a window, (frames, 128) normalised -> (8 x patches, WIDTH)."""
    plain = Plain(weights, HEADS, eps=1e-5)
    patches = F.conv2d(log_mel[None, None], weights["patch_embedding.weight"], stride=16)
    tokens = plain.normed(patches[0].flatten(1).T, "layer_norm")
    tokens = plain.linear(tokens, "post_extract_proj")

    direction = weights["encoder.pos_conv.0.weight_v"]
    kernel = torch.stack(
        [
            weights["encoder.pos_conv.0.weight_g"][0, 0, place]
            * direction[..., place]
            / direction[..., place].square().sum().sqrt()
            for place in range(128)
        ],
        dim=2,
    )
    around = F.conv1d(tokens.T[None], kernel, weights["encoder.pos_conv.0.bias"], padding=64, groups=16)
    tokens = plain.normed(tokens + F.gelu(around[0, :, :-1]).T, "encoder.layer_norm")

    bucket = torch.from_numpy(buckets(len(tokens)))
    alpha = (2 * BLOCKS) ** (1 / 4)
    for name in (f"encoder.layers.{block}" for block in range(BLOCKS)):
        attention = f"{name}.self_attn"
        query, key, value = (plain.linear(tokens, f"{attention}.{part}_proj") for part in "qkv")
        gates = []
        for head, part in enumerate(query.unflatten(1, (HEADS, -1)).unbind(dim=1)):
            projected = plain.linear(part, f"{attention}.grep_linear")
            open_, weigh = projected[:, :4].sum(dim=1).sigmoid(), projected[:, 4:].sum(dim=1).sigmoid()
            gates.append(open_ * (weigh * weights[f"{attention}.grep_a"][0, head, 0, 0] - 1) + 2)
        bias = weights[f"{attention}.relative_attention_bias.weight"][bucket].permute(2, 0, 1)
        attended = plain.attention(query, key, value, torch.stack(gates)[..., None] * bias)
        tokens = alpha * tokens + plain.linear(attended, f"{attention}.out_proj")
        tokens = plain.normed(tokens, f"{name}.self_attn_layer_norm")
        tokens = plain.normed(alpha * tokens + plain.feed(tokens, name), f"{name}.final_layer_norm")
    return tokens


def written(path: Path, weights: dict[str, Tensor], **cfg: Any) -> Path:
    torch.save({"cfg": {**CFG, **cfg}, "model": weights}, path)
    return path


@pytest.fixture
def encoder(tmp_path: Path) -> BeatsEncoder:
    built = select_model("beats", SMALL, str(written(tmp_path / "BEATs_iter3.pt", published())), 0).build()
    assert isinstance(built, BeatsEncoder)
    return built


def test_the_front_end_is_kaldis_of_16_bit_samples(encoder: BeatsEncoder) -> None:
    clip = (noise(1, 16000)[0] * 2**15).round()
    options = knf.FbankOptions()
    # of 128 bands one is empty, which this port of Kaldi refuses
    options.frame_opts.samp_freq, options.frame_opts.dither, options.mel_opts.num_bins = 16000, 0, 64
    encoder.front_end.filters = mel_filter_bank(64)
    assert options.frame_opts.window_type == "povey"
    kaldi = knf.OnlineFbank(options)
    kaldi.accept_waveform(16000, clip.tolist())
    kaldi.input_finished()
    theirs = np.stack([kaldi.get_frame(at) for at in range(kaldi.num_frames_ready)])
    with torch.inference_mode():
        ours, frames = encoder.spectrogram(clip[None] / 2**15)
    assert frames.tolist() == [len(theirs)] == [98]
    assert np.abs(ours[0].numpy() * 2 * 6.55582 + 15.41663 - theirs).max() < 2e-3


@pytest.mark.parametrize("seconds", [0.215, 0.3, 3.215])
def test_weights_of_published_names_are_the_published_function(encoder: BeatsEncoder, seconds: float) -> None:
    audio = noise(1, round(16000 * seconds))
    with torch.inference_mode():
        spectrogram, _ = encoder.spectrogram(audio)
        moments, times = encoder.timestamp_embeddings(audio)
        scene = encoder.scene_embeddings(audio)
        theirs = expected(published(), spectrogram[0])
        later = expected(published(), spectrogram[0, 4:])
    assert torch.allclose(moments[0, ::4], theirs.reshape(-1, 8, WIDTH).mean(dim=1), atol=1e-4)
    assert torch.allclose(moments[0, 1::4], later.reshape(-1, 8, WIDTH).mean(dim=1), atol=1e-4)
    assert torch.allclose(scene[0], theirs.mean(dim=0), atol=1e-4)
    assert torch.allclose(times[0], 87.5 + 40.0 * torch.arange((spectrogram.shape[1] - 16) // 4 + 1))
    assert theirs.std() > 0.1


def test_a_clip_shorter_than_a_patch_ends_in_the_mean_of_all(encoder: BeatsEncoder) -> None:
    with torch.inference_mode():
        spectrogram, frames = encoder.spectrogram(noise(1, 1000))
        theirs = expected(published(), F.pad(spectrogram[0], (0, 0, 0, 16 - int(frames))))
        assert torch.allclose(encoder.scene_embeddings(noise(1, 1000))[0], theirs.mean(dim=0), atol=1e-4)
        assert encoder.timestamp_embeddings(noise(1, 1000))[1].tolist() == [[31.25]]


@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")
def test_distances_and_attention_are_wavlms_where_its_gate_reads_the_query(encoder: BeatsEncoder) -> None:
    """WavLM's gate reads what comes in: the same where the query is what comes in."""
    wavlm = pytest.importorskip("transformers.models.wavlm.modeling_wavlm", reason="transformers is not installed")
    attention = wavlm.WavLMAttention(WIDTH, HEADS, num_buckets=320, max_distance=800)
    places = torch.arange(1200)
    assert torch.equal(distance_buckets(1200), attention._relative_positions_bucket(places - places[:, None]))
    block: Any = encoder.blocks[0]
    block.query.weight.data, block.query.bias.data = torch.eye(WIDTH), torch.zeros(WIDTH)
    pairs = {"q_proj": block.query, "k_proj": block.key, "v_proj": block.value, "out_proj": block.projection}
    for name, layer in {**pairs, "gru_rel_pos_linear": block.gate}.items():
        getattr(attention, name).load_state_dict(layer.state_dict())
    attention.rel_attn_embed.weight.data = encoder.distance_bias.data
    attention.gru_rel_pos_const.data = block.gate_scale.data.view(1, -1, 1, 1)
    tokens, seen = 2 * noise(2, 200 * WIDTH).view(2, 200, WIDTH), torch.arange(200) < torch.tensor([[200], [90]])
    with torch.inference_mode():
        bias = encoder.distance_bias[distance_buckets(200)].permute(2, 0, 1)
        theirs = attention.eval()(tokens, seen.long())[0]
        assert torch.allclose(block.attend(tokens, bias, seen), theirs, atol=1e-5)


def test_fine_tuned_files_and_what_is_refused(encoder: BeatsEncoder, tmp_path: Path) -> None:
    file, weights = tmp_path / "w.pt", published()
    classifier = {"predictor.weight": torch.ones(527, WIDTH), "predictor.bias": torch.ones(527)}
    tuned = select_model("beats", SMALL, str(written(file, {**weights, **classifier}, finetuned_model=True)), 0).build()
    with torch.inference_mode():
        assert torch.equal(tuned.scene_embeddings(noise(1, 8000)), encoder.scene_embeddings(noise(1, 8000)))
    default = select_model("beats", {}, "random", 0).settings
    assert (default["width"], default["blocks"], default["heads"], default["clip_frames"]) == (768, 12, 12, 1024)

    def refused(match: str, weights: dict[str, Tensor], settings: dict[str, int] | None = None, **cfg: Any) -> None:
        with pytest.raises(CheckpointError, match=match):
            select_model("beats", {**SMALL, **(settings or {})}, str(written(file, weights, **cfg)), 0).build()

    refused("max_distance=1280; this encoder computes max_distance=800", weights, max_distance=1280)
    refused("deep_norm=False; this encoder computes deep_norm=True", weights, deep_norm=False)
    own = {**weights, "encoder.layers.1.self_attn.relative_attention_bias.weight": torch.ones(320, HEADS)}
    refused("has biases of distances of its own for each block", own)
    refused("it has no blocks.2", weights, {"blocks": 3})
    refused(r"it has no conv\.weight", {k: v for k, v in weights.items() if "weight_g" not in k})
    refused("the model has no quantize.weight", {**weights, "quantize.weight": torch.ones(3)})  # a tokenizer
    refused(r"distance_bias is \[320, 2\] there and \[320, 4\]", weights, {"heads": 4})
    refused(
        "NaN or infinite values, in conv.weight", {**weights, "encoder.pos_conv.0.weight_v": torch.zeros(32, 2, 128)}
    )
