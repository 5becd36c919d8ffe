"""Hub models against transformers called directly: features, hidden states, pooling; and what every encoder must do."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_models import MODELS, noise, save, transformers
from torch import Tensor

from aape_bench.encoder import Encoder
from aape_bench.errors import DataError, UsageError
from aape_bench.selection import select_model

Folders = Callable[[str], Path]
WAVEFORMS = ("wav2vec2", "wav2vec2-large", "hubert", "hubert-large", "wavlm", "data2vec-audio")
CLASSES = {
    "wav2vec2": "Wav2Vec2", "wav2vec2-large": "Wav2Vec2", "hubert": "Hubert", "hubert-large": "Hubert",
    "wavlm": "WavLM", "data2vec-audio": "Data2VecAudio",
}  # fmt: skip
# the mel filters that AST, Kaldi and EAT leave empty
pytestmark = pytest.mark.filterwarnings("ignore:At least one mel filter")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    made: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = save(kind, tmp_path_factory.mktemp("hub") / kind)
        return made[kind]

    return folder


def built(folder: Path, **settings: Any) -> Any:
    return select_model(f"hf:{folder}", settings, "default", 0).build()


def theirs(kind: str, folder: Path) -> tuple[Any, Any]:
    """Feature extractor and model as transformers' documentation loads them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    name = CLASSES.get(kind, {"whisper": "Whisper", "audio-spectrogram-transformer": "AST"}.get(kind, "Clap"))
    return extractor, getattr(transformers, f"{name}Model").from_pretrained(folder).eval()


@pytest.mark.parametrize("layer", ["last", "0", "1", "2", "mean", "all"])
@pytest.mark.parametrize("kind", WAVEFORMS)
def test_waveform_models_equal_transformers(folders: Folders, kind: str, layer: str) -> None:
    extractor, model = theirs(kind, folders(kind))
    encoder, lengths = built(folders(kind), layer=layer), [16000, 9731]
    audio = 0.3 + noise(2, 16000) * torch.tensor([[1.0], [20.0]])  # an offset, and two levels
    audio[1, lengths[1] :] = 0
    with torch.inference_mode():
        scenes = encoder.scene_embeddings(audio, torch.tensor(lengths))
        frames, times = encoder.timestamp_embeddings(audio, torch.tensor(lengths))
        for row, length in enumerate(lengths):
            inputs = extractor(audio[row, :length].numpy(), sampling_rate=16000, return_tensors="pt")
            assert torch.allclose(encoder.features(audio[row : row + 1, :length]), inputs.input_values, atol=1e-5)
            output = model(inputs.input_values, output_hidden_states=True)
            states = output.hidden_states
            expected = {"last": output.last_hidden_state, "mean": sum(states) / 3, "all": torch.cat(states, 2)}
            hidden = (expected[layer] if layer in expected else states[int(layer)])[0]
            assert torch.allclose(frames[row, : len(hidden)], hidden, atol=1e-5)
            assert torch.allclose(scenes[row], hidden.mean(dim=0), atol=1e-5)
            real = times[row][times[row].isfinite()]
            assert len(real) == len(hidden)
            assert torch.allclose(real, 12.5 + 20.0 * torch.arange(len(hidden)))
    assert scenes.shape[1] == encoder.scene_embedding_size == 16 * (3 if layer == "all" else 1)


@pytest.mark.parametrize("kind", ["wav2vec2-large", "hubert-large", "wavlm"])
def test_models_that_know_masks_give_the_same_with_them(folders: Folders, kind: str) -> None:
    extractor, model = theirs(kind, folders(kind))
    encoder, audio, lengths = built(folders(kind)), noise(2, 16000), [16000, 9731]
    clips = [audio[row, :length].numpy() for row, length in enumerate(lengths)]
    inputs = extractor(clips, sampling_rate=16000, padding=True, return_tensors="pt")
    with torch.inference_mode():
        hidden = model(inputs.input_values, attention_mask=inputs.attention_mask).last_hidden_state
        scenes = encoder.scene_embeddings(audio, torch.tensor(lengths))
    assert torch.allclose(scenes[1], hidden[1, : (9731 - 400) // 320 + 1].mean(dim=0), atol=1e-5)


@pytest.mark.parametrize("layer", ["last", "1", "mean"])
def test_ast_equals_transformers(folders: Folders, layer: str) -> None:
    kind = "audio-spectrogram-transformer"
    extractor, model = theirs(kind, folders(kind))
    encoder, lengths = built(folders(kind), layer=layer), [16000, 9731]
    audio = 0.1 + noise(2, 16000)
    with torch.inference_mode():
        scenes = encoder.scene_embeddings(audio, torch.tensor(lengths))
        frames, times = encoder.timestamp_embeddings(audio, torch.tensor(lengths))
        for row, length in enumerate(lengths):
            inputs = extractor(audio[row, :length].numpy(), sampling_rate=16000, return_tensors="pt").input_values
            ours = encoder.features(audio[row : row + 1, :length], torch.tensor([length]))
            # in float32 a bin near Kaldi's floor differs a little; 0.01 is 0.09 in the logarithm
            assert (ours - inputs).abs().max() < 0.01
            assert (ours - inputs).abs().mean() < 1e-5
            output = model(inputs, output_hidden_states=True)
            states = output.hidden_states
            hidden = {"last": output.last_hidden_state, "1": states[1], "mean": sum(states) / 3}[layer]
            # 12 rows of patches, then 12 time steps of 100 ms; the centre of the last real one is inside the clip
            by_step = hidden[0, 2:].reshape(12, 12, 16).mean(dim=0)
            steps = math.ceil((length - 1400) / 1600)
            assert torch.allclose(frames[row, :steps], by_step[:steps], atol=1e-3)
            assert torch.allclose(scenes[row], by_step[:steps].mean(dim=0), atol=1e-3)
            assert torch.allclose(times[row, :steps], 87.5 + 100.0 * torch.arange(steps))


@pytest.mark.parametrize("layer", ["last", "0", "2", "all"])
def test_whispers_encoder_equals_transformers(folders: Folders, layer: str) -> None:
    extractor, model = theirs("whisper", folders("whisper"))
    encoder, lengths = built(folders("whisper"), layer=layer), [16000, 9731]
    audio = noise(2, 16000)
    with torch.inference_mode():
        scenes = encoder.scene_embeddings(audio, torch.tensor(lengths))
        _, times = encoder.timestamp_embeddings(audio, torch.tensor(lengths))
        clips = [audio[row, :length].numpy() for row, length in enumerate(lengths)]
        inputs = extractor(clips, sampling_rate=16000, return_tensors="pt").input_features
        silent = audio.masked_fill(torch.arange(16000) >= torch.tensor(lengths)[:, None], 0.0)
        assert torch.allclose(encoder.features(silent), inputs, atol=1e-5)
        output = model.encoder(inputs, output_hidden_states=True)
    states = output.hidden_states
    hidden = {"last": output.last_hidden_state, "all": torch.cat(states, 2)}
    chosen = hidden[layer] if layer in hidden else states[int(layer)]
    assert torch.allclose(scenes[0], chosen[0].mean(dim=0), atol=1e-5)
    assert torch.allclose(scenes[1], chosen[1, : math.ceil(9731 / 320)].mean(dim=0), atol=1e-5)
    assert times[1].isfinite().sum() == math.ceil(9731 / 320)
    assert times[0, 3] == 60.0


@pytest.mark.parametrize("kind", ["clap", "clap-fused"])
def test_claps_audio_tower_equals_transformers(folders: Folders, kind: str) -> None:
    extractor, model = theirs(kind, folders(kind))
    encoder, lengths = built(folders(kind)), [96000, 30000, 64000]  # 2 s; three times and silence; once and silence
    audio = noise(3, 96000)
    with torch.inference_mode():
        scenes = encoder.scene_embeddings(audio, torch.tensor(lengths))
        frames, times = encoder.timestamp_embeddings(audio, torch.tensor(lengths))
        clips = [audio[row, :length].numpy() for row, length in enumerate(lengths)]
        inputs = extractor(clips, sampling_rate=48000, return_tensors="pt").input_features
        assert torch.allclose(encoder.features(audio, torch.tensor(lengths)), inputs, atol=1e-3)
        output = model.audio_model(inputs, is_longer=torch.zeros(3, 1, dtype=torch.bool))
    assert torch.allclose(scenes[0], output.pooler_output[0], atol=1e-4)
    steps = output.last_hidden_state.mean(dim=2).transpose(1, 2)  # 16 moments of 125 ms
    assert torch.allclose(scenes[1], steps[1, : round(90000 / 6000)].mean(dim=0), atol=1e-4)
    assert torch.allclose(scenes[2], steps[2, : round(64000 / 6000)].mean(dim=0), atol=1e-4)
    assert torch.allclose(frames[2, :11], steps[2, :11], atol=1e-4)
    assert times.isfinite().sum(dim=1).tolist() == [16, 5, 11]
    assert torch.allclose(times[0], 62.5 + 125.0 * torch.arange(16))


@pytest.mark.parametrize("kind", MODELS)
def test_a_clip_depends_on_nothing_but_itself(folders: Folders, kind: str) -> None:
    encoder = built(folders(kind))
    rate = encoder.sample_rate
    lengths = torch.tensor([3 * rate + 17, rate // 2, 777 * rate // 16000, 3 * rate + 17])
    audio = noise(4, int(lengths.max()))
    with torch.inference_mode():
        batch, again = (encoder.scene_embeddings(audio, lengths) for _ in range(2))
        alone = torch.cat([encoder.scene_embeddings(audio[r : r + 1, :n]) for r, n in enumerate(lengths)])
        order = torch.tensor([2, 0, 3, 1])
        shuffled = encoder.scene_embeddings(audio[order], lengths[order])
        _, times = encoder.timestamp_embeddings(audio, lengths)
    assert torch.equal(batch, again)
    assert (batch - alone).abs().max() < 1e-5
    assert (batch[order] - shuffled).abs().max() < 1e-5
    assert batch.std() > 0.1  # weights large enough for that to mean something
    assert (batch[0] - batch[3]).abs().max() > 1e-3
    real = times[0][times[0].isfinite()]
    assert real.max() < 1000 * lengths[0] / rate
    assert real.max() > 1000 * lengths[0] / rate - 260
    assert torch.allclose(real.diff(), real.diff()[:1], atol=1e-2)
    assert times[2].isfinite().any()


@pytest.mark.parametrize("kind", ["whisper", "audio-spectrogram-transformer", "clap"])
def test_long_clips_are_windows_one_after_the_other(folders: Folders, kind: str) -> None:
    encoder = built(folders(kind))
    span = encoder.moments * encoder.hop
    audio = noise(1, 2 * span + encoder.hop)
    with torch.inference_mode():
        whole, _ = encoder.timestamp_embeddings(audio)
        scene = encoder.scene_embeddings(audio)
        second, _ = encoder.timestamp_embeddings(audio[:, span : span + encoder.window])
    assert whole.shape[1] == 2 * encoder.moments + 1
    assert torch.allclose(whole[0, encoder.moments : 2 * encoder.moments], second[0, : encoder.moments], atol=1e-4)
    if kind != "clap":  # whose last, short window is repeated
        assert torch.allclose(scene[0], whole[0].mean(dim=0), atol=1e-5)


@pytest.mark.parametrize("kind", MODELS)
def test_gradients_reach_the_groups_of_parameters(folders: Folders, kind: str) -> None:
    encoder: Encoder = built(folders(kind)).train()
    audio, lengths = noise(2, encoder.sample_rate), torch.tensor([encoder.sample_rate, encoder.sample_rate // 2])
    torch.manual_seed(0)
    encoder.scene_embeddings(audio, lengths).square().sum().backward()
    named = dict(encoder.named_parameters())
    groups, stem = encoder.layer_groups(), encoder.stem_parameters()
    assert groups is not None
    assert len(groups) == (3 if "clap" in kind else 2)
    grouped = [name for group in groups for name in group]
    behind = set(named) - set(grouped) - set(stem)
    assert len(grouped) == len(set(grouped))
    assert set(grouped) | set(stem) <= set(named)
    assert all("norm" in name for name in behind)
    assert bool(behind) == (kind not in ("wav2vec2", "hubert", "wavlm", "data2vec-audio"))
    for group in [*groups, stem]:
        assert any(named[name].grad is not None and named[name].grad.abs().max() > 0 for name in group)


def test_training_draws_nothing_from_a_global_generator(folders: Folders) -> None:
    """Their own training masks frames and drops layers; of that only dropout is left, which the trainer seeds."""
    encoder = built(folders("wav2vec2"))
    for module in encoder.train().modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "dropout") and isinstance(module.dropout, float):
            module.dropout = 0.0
    audio = noise(2, 16000)
    first: Tensor = encoder.scene_embeddings(audio)
    assert all(torch.equal(first, encoder.scene_embeddings(audio)) for _ in range(8))


def test_layers_that_do_not_exist_and_clips_too_short_are_refused(folders: Folders) -> None:
    with pytest.raises(UsageError, match=r"has hidden states 0 .* to 2 .* layer=3 does not exist"):
        built(folders("wavlm"), layer="3")
    with pytest.raises(UsageError, match="only layer=last fits it, not 1"):
        built(folders("clap"), layer="1")
    with pytest.raises(UsageError, match='layer cannot be "first"'):
        built(folders("wavlm"), layer="first")
    with pytest.raises(DataError, match="A clip of 399 samples is shorter than one frame"):
        built(folders("wavlm")).scene_embeddings(noise(1, 500), torch.tensor([399]))
