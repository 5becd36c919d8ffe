"""The log-mel front end against kaldi-native-fbank and Kaldi's formulas, on real audio."""

from __future__ import annotations

import math
from pathlib import Path

import kaldi_native_fbank
import numpy as np
import pytest
import soundfile
import torch

from aape_bench.errors import DataError, UsageError
from aape_bench.features import ENERGY_FLOOR, LogMel, mel_filter_bank
from aape_bench.randomness import torch_stream


def kaldi_log_mel(audio: np.ndarray, n_mels: int) -> np.ndarray:
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.samp_freq = 16000
    options.frame_opts.dither = 0
    options.frame_opts.window_type = "hanning"
    options.mel_opts.num_bins = n_mels
    options.mel_opts.low_freq = 20
    options.mel_opts.high_freq = 8000
    options.use_energy = False
    fbank = kaldi_native_fbank.OnlineFbank(options)
    fbank.accept_waveform(16000, (audio - audio.mean()).tolist())
    fbank.input_finished()
    return np.stack([fbank.get_frame(i) for i in range(fbank.num_frames_ready)])


def noise(*shape: int) -> torch.Tensor:
    return 0.1 * torch.randn(*shape, generator=torch_stream(0, "noise", *shape))


def test_real_audio_equals_kaldi(real_data: Path) -> None:
    differences = []
    for path in sorted((real_data / "esc50" / "audio").glob("*.wav"))[:20]:
        audio, sample_rate = soundfile.read(path, dtype="float32")
        assert sample_rate == 16000
        expected = np.maximum(kaldi_log_mel(audio, 64), math.log(ENERGY_FLOOR))
        log_mel, frames = LogMel(64)(torch.from_numpy(audio)[None])
        assert int(frames[0]) == len(expected)
        differences.append(np.abs(log_mel[0].numpy() - expected))
    everything = np.concatenate(differences)
    assert np.percentile(everything, 99.9) < 1e-3
    assert everything.max() < 1e-2


def test_filter_bank_is_kaldis_formula() -> None:
    def mel(frequency: float) -> float:
        return 1127.0 * math.log(1.0 + frequency / 700.0)

    step = (mel(8000.0) - mel(20.0)) / 129
    expected = np.zeros((257, 128))
    for i in range(128):
        left, centre, right = (mel(20.0) + (i + k) * step for k in range(3))
        for k in range(256):
            here = mel(16000.0 / 512 * k)
            if left < here < right:
                slope = (here - left) / (centre - left) if here <= centre else (right - here) / (right - centre)
                expected[k, i] = slope
    bank = mel_filter_bank(128)
    assert bank.dtype == torch.float32
    np.testing.assert_allclose(bank.numpy(), expected, rtol=0, atol=1e-6)


def test_only_the_filter_known_to_be_empty_is_empty() -> None:
    assert torch.nonzero(mel_filter_bank(128).sum(dim=0) == 0).flatten().tolist() == [3]
    log_mel, _ = LogMel()(noise(1, 8000))
    assert torch.all(log_mel[..., 3] == np.float32(math.log(ENERGY_FLOOR)))


@pytest.mark.parametrize(("n_mels", "high_hz"), [(0, 8000.0), (64, 8001.0), (64, 10.0)])
def test_impossible_filter_bank_is_refused(n_mels: int, high_hz: float) -> None:
    with pytest.raises(UsageError, match="mel filter bank"):
        mel_filter_bank(n_mels, high_hz=high_hz)


@pytest.mark.parametrize(("samples", "expected"), [(160000, 998), (400, 1), (559, 1), (560, 2)])
def test_frames_as_snip_edges(samples: int, expected: int) -> None:
    log_mel, frames = LogMel()(noise(2, samples))
    assert log_mel.shape == (2, expected, 128)
    assert frames.dtype == torch.int64
    assert frames.tolist() == [expected, expected]


def test_clip_does_not_depend_on_its_batch_or_on_what_pads_it() -> None:
    # 12 s beside 3 clips: more frames than are computed at once.
    lengths = torch.tensor([192000, 400, 30001, 80000])
    audio = noise(4, 192000) + 0.05
    front_end = LogMel()
    together, frames = front_end(audio, lengths)
    for clip, length in enumerate(lengths.tolist()):
        alone, count = front_end(audio[clip : clip + 1, :length])
        assert int(frames[clip]) == int(count[0]) == 1 + (length - 400) // 160
        torch.testing.assert_close(together[clip, : int(count[0])], alone[0], rtol=0, atol=1e-5)
        assert torch.all(together[clip, int(count[0]) :] == 0)


def test_float32_whatever_the_autocast() -> None:
    audio = noise(1, 8000)
    expected, _ = LogMel()(audio)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        log_mel, _ = LogMel()(audio)
    assert log_mel.dtype == torch.float32
    assert torch.equal(log_mel, expected)


@pytest.mark.parametrize("lengths", [None, torch.tensor([800, 399])])
def test_clip_shorter_than_a_frame_is_refused(lengths: torch.Tensor | None) -> None:
    audio = noise(2, 399 if lengths is None else 800)
    with pytest.raises(DataError, match="399 samples is shorter than one frame"):
        LogMel()(audio, lengths)
