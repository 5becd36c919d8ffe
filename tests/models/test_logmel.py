"""`logmel` against Kaldi's frames and the encoder contract."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from kaldi_native_fbank import FbankOptions, OnlineFbank

from aape_bench.encoder import Encoder
from aape_bench.errors import UsageError
from aape_bench.models.logmel import plugin
from aape_bench.randomness import torch_stream
from aape_bench.settings import make_config


def logmel(**settings: int) -> Encoder:
    return plugin.build(make_config(plugin.config, settings, "logmel"), 0)


def noise(*shape: int) -> torch.Tensor:
    return 0.1 * torch.randn(*shape, generator=torch_stream(0, "noise", *shape))


def test_description_imports_without_torch() -> None:
    code = "import sys, aape_bench.models.logmel; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-P", "-c", code], check=True)


def test_scene_is_mean_and_deviation_of_kaldis_frames(real_data: Path) -> None:
    audio, _ = soundfile.read(sorted((real_data / "esc50" / "audio").glob("*.wav"))[0], dtype="float32")
    options = FbankOptions()
    options.frame_opts.dither = 0
    options.frame_opts.window_type = "hanning"
    options.mel_opts.num_bins = 64
    options.mel_opts.high_freq = 8000
    fbank = OnlineFbank(options)
    fbank.accept_waveform(16000, (audio - audio.mean()).tolist())
    fbank.input_finished()
    frames = np.stack([fbank.get_frame(i) for i in range(fbank.num_frames_ready)])
    expected = np.concatenate([frames.mean(axis=0), frames.std(axis=0)])
    scene = logmel(n_mels=64).scene_embeddings(torch.from_numpy(audio)[None])
    np.testing.assert_allclose(scene[0].numpy(), expected, atol=1e-3)


def test_sizes_follow_the_setting() -> None:
    for settings, n_mels in (({}, 128), ({"n_mels": 40}, 40)):
        encoder = logmel(**settings)
        scene = encoder.scene_embeddings(noise(2, 8000))
        moments, _ = encoder.timestamp_embeddings(noise(2, 8000))
        assert scene.shape == (2, 2 * n_mels) == (2, encoder.scene_embedding_size)
        assert moments.shape == (2, 48, n_mels) == (2, 48, encoder.timestamp_embedding_size)
    for n_mels in (0, -1, 513, 10**9):
        with pytest.raises(UsageError, match="1 to 512 filters"):
            logmel(n_mels=n_mels)


def test_padded_clip_equals_the_clip_alone() -> None:
    encoder = logmel()
    audio = noise(2, 80000)
    lengths = torch.tensor([80000, 17000])
    scenes = encoder.scene_embeddings(audio, lengths)
    moments, times = encoder.timestamp_embeddings(audio, lengths)
    for clip, length in enumerate(lengths.tolist()):
        alone = audio[clip : clip + 1, :length]
        torch.testing.assert_close(scenes[clip], encoder.scene_embeddings(alone)[0], rtol=0, atol=1e-5)
        own_moments, own_times = encoder.timestamp_embeddings(alone)
        count = own_times.shape[1]
        torch.testing.assert_close(moments[clip, :count], own_moments[0], rtol=0, atol=1e-5)
        assert torch.equal(times[clip, :count], own_times[0])
        assert torch.all(torch.isnan(times[clip, count:]))


def test_times_are_the_centres_of_the_frames() -> None:
    _, times = logmel().timestamp_embeddings(noise(1, 16000))
    np.testing.assert_allclose(times[0].numpy(), 12.5 + 10.0 * np.arange(98), rtol=0, atol=1e-4)


@pytest.mark.parametrize("samples", [400, 4000, 16001, 48123, 79999, 80000, 160000, 333333])
def test_a_bin_that_never_changes_is_exactly_constant(samples: int) -> None:
    """Bin 3 of 128 stays at the floor; one ulp more would be a feature after a probe's standardisation."""
    encoder = logmel()
    audio = torch.nn.functional.pad(noise(1, samples), (0, 777 + samples % 5000))
    alone = encoder.scene_embeddings(audio[:, :samples])
    together = encoder.scene_embeddings(audio.expand(2, -1), torch.tensor([samples, audio.shape[1]]))
    frame = encoder.timestamp_embeddings(audio[:, :samples])[0][0, 0, 3]
    for scene in (alone[0], together[0], together[1]):
        assert scene[3] == frame
        assert scene[128 + 3] == 0
    silence = encoder.scene_embeddings(torch.zeros(1, samples))
    assert torch.all(silence[:, :128] == frame)
    assert torch.all(silence[:, 128:] == 0)


def test_one_frame_has_no_deviation() -> None:
    scene = logmel().scene_embeddings(noise(1, 400))
    assert torch.all(torch.isfinite(scene))
    assert torch.all(scene[0, 128:] == 0)


def test_silence_is_finite() -> None:
    assert torch.all(torch.isfinite(logmel().scene_embeddings(torch.zeros(1, 16000))))
