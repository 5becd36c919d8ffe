"""Small models of every architecture of the hub, with random weights, saved as transformers saves them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="transformers is not installed (extra hf)")


_SPEECH = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "conv_dim": (8,) * 7,
    "num_conv_pos_embedding_groups": 2,
    "num_conv_pos_embeddings": 16,
    "layerdrop": 0.1,
}
_LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}


def _speech(kind: str, **settings: Any) -> Callable[[], Any]:
    def make() -> Any:
        config = getattr(transformers, f"{kind}Config")(**{**_SPEECH, **settings})
        return getattr(transformers, f"{kind}Model")(config)

    return make


def _ast() -> Any:
    config = transformers.ASTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, max_length=128
    )
    return transformers.ASTForAudioClassification(config)


def _whisper() -> Any:
    config = transformers.WhisperConfig(
        d_model=16, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=24, decoder_ffn_dim=24, max_source_positions=50, num_mel_bins=80, vocab_size=40,
        pad_token_id=1, bos_token_id=1, eos_token_id=1, decoder_start_token_id=1, max_target_positions=8,
    )  # fmt: skip
    return transformers.WhisperForConditionalGeneration(config)


def _clap(fusion: bool) -> Callable[[], Any]:
    def make() -> Any:
        audio = {
            "spec_size": 64, "num_mel_bins": 16, "patch_embeds_hidden_size": 8, "depths": [1, 2, 1],
            "num_attention_heads": [1, 2, 2], "hidden_size": 32, "window_size": 2, "enable_fusion": fusion,
            "fusion_num_hidden_layers": 1, "aff_block_r": 2,
        }  # fmt: skip
        text = {
            "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8,
            "vocab_size": 20,
        }  # fmt: skip
        config = transformers.ClapConfig(audio_config=audio, text_config=text, projection_dim=8)
        return transformers.ClapModel(config)

    return make


def _extractor(kind: str, **settings: Any) -> Callable[[], Any]:
    return lambda: getattr(transformers, f"{kind}FeatureExtractor")(**settings)


_WAVE = _extractor("Wav2Vec2", do_normalize=True, return_attention_mask=True)
_CLAP = {"feature_size": 16, "max_length_s": 2, "hop_length": 960, "sampling_rate": 48000}

MODELS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "wav2vec2": (_speech("Wav2Vec2"), _extractor("Wav2Vec2", do_normalize=True)),
    "wav2vec2-large": (_speech("Wav2Vec2", **_LARGE), _WAVE),
    "hubert": (_speech("Hubert"), _extractor("Wav2Vec2", do_normalize=False)),
    "hubert-large": (_speech("Hubert", **_LARGE), _WAVE),
    "wavlm": (_speech("WavLM", num_buckets=16, feat_extract_norm="layer"), _WAVE),
    "data2vec-audio": (
        _speech("Data2VecAudio", feat_extract_norm="layer", num_conv_pos_embeddings=3, conv_pos_kernel_size=5),
        _WAVE,
    ),
    "audio-spectrogram-transformer": (_ast, _extractor("AST", max_length=128)),
    "whisper": (_whisper, _extractor("Whisper", chunk_length=1)),
    "clap": (_clap(fusion=False), _extractor("Clap", truncation="rand_trunc", **_CLAP)),
    "clap-fused": (_clap(fusion=True), _extractor("Clap", truncation="fusion", **_CLAP)),
}


def save(kind: str, folder: Path) -> Path:
    """A model of that kind, of moderate weights, with its front end."""
    model, extractor = MODELS[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(len(kind))
        made = model()
        for parameter in made.parameters():  # larger than transformers draws them, so that differences show
            if parameter.ndim > 1 and parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.15)
        for name, buffer in made.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_()
    made.save_pretrained(folder)
    extractor().save_pretrained(folder)
    return folder


def noise(n: int, samples: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(n, samples, generator=torch.Generator().manual_seed(seed))
