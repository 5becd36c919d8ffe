"""Decoding: what a clip is, and which files are refused in plain words."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from aape_bench.audio import read_clip
from aape_bench.errors import BrokenAudio, DataError


def tone(rate: int, seconds: float, pitch: float = 440.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * pitch * np.arange(round(rate * seconds)) / rate)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_bit_depths_decode_to_the_same_samples(tmp_path: Path, subtype: str) -> None:
    soundfile.write(tmp_path / "a.wav", tone(16000, 0.5), 16000, subtype=subtype)
    clip = read_clip(tmp_path / "a.wav", 16000, 5.0)
    assert clip.dtype == np.float32
    assert np.abs(clip - tone(16000, 0.5)).max() < (0.01 if subtype == "PCM_U8" else 1e-4)


def test_channels_are_averaged_and_rate_converted(tmp_path: Path) -> None:
    stereo = np.stack([tone(44100, 1.0), np.zeros(44100)], axis=1)
    soundfile.write(tmp_path / "a.wav", stereo, 44100, subtype="FLOAT")
    clip = read_clip(tmp_path / "a.wav", 16000, 5.0)
    assert clip.shape == (16000,)
    assert np.abs(clip - tone(16000, 1.0) / 2)[200:-200].max() < 1e-3


def test_long_clips_keep_their_head_and_spans_are_cut(tmp_path: Path) -> None:
    samples = np.arange(16000 * 3) / 1e5
    soundfile.write(tmp_path / "a.wav", samples, 16000, subtype="FLOAT")
    assert np.allclose(read_clip(tmp_path / "a.wav", 16000, 2.0), samples[:32000])
    assert np.allclose(read_clip(tmp_path / "a.wav", 16000, 2.0, start=1.0, end=1.5), samples[16000:24000])


def test_a_25_ms_clip_survives_every_rate(tmp_path: Path) -> None:
    for rate in (8000, 11025, 22050, 44100, 48000):
        soundfile.write(tmp_path / "a.wav", tone(rate, 0.0251), rate)
        assert 400 <= len(read_clip(tmp_path / "a.wav", 16000, 5.0)) <= 405


def broken_files(folder: Path) -> dict[str, tuple[Path, str]]:
    """Name -> (file, what its message says)."""
    files = {}

    def path(name: str, says: str) -> Path:
        files[name] = (folder / f"{name}.wav", says)
        return files[name][0]

    path("empty", "is empty").write_bytes(b"")
    path("text", "is not audio").write_text("this is a text file\n" * 50)
    soundfile.write(path("no-samples", "holds no samples"), np.zeros(0), 16000)
    soundfile.write(path("short", "is too short (10.0 ms"), tone(16000, 0.01), 16000)
    soundfile.write(
        path("nan", "NaN or infinite"), np.where(np.arange(8000) == 77, np.nan, 0.1), 16000, subtype="FLOAT"
    )
    soundfile.write(
        path("infinite", "NaN or infinite"), np.where(np.arange(8000) == 7, np.inf, 0), 16000, subtype="FLOAT"
    )
    whole = path("truncated", "is truncated")
    soundfile.write(whole, tone(16000, 1.0), 16000)
    whole.write_bytes(whole.read_bytes()[:20000])
    soundfile.write(path("scaled", "where full scale is 1"), 32768 * tone(16000, 0.5), 16000, subtype="FLOAT")
    path("raw", "").write_bytes(b"x" * 4000)
    files["raw"] = (files["raw"][0].rename(folder / "raw.raw"), "Format not recognised")
    for container in ("AIFF", "AU", "W64", "RF64"):
        cut = path(f"truncated-{container}", "is truncated")
        soundfile.write(cut, tone(16000, 1.0), 16000, format=container, subtype="PCM_16")
        cut.write_bytes(cut.read_bytes()[:20000])
    header = path("header-only", "is")
    header.write_bytes(whole.read_bytes()[:30])
    flac = path("truncated-flac", "is")
    soundfile.write(flac, tone(16000, 1.0), 16000, format="FLAC")
    flac.write_bytes(flac.read_bytes()[: flac.stat().st_size // 2])
    return files


NAMES = ["empty", "text", "no-samples", "short", "nan", "infinite", "truncated", "header-only", "truncated-flac"]
NAMES += ["scaled", "raw", *(f"truncated-{container}" for container in ("AIFF", "AU", "W64", "RF64"))]


@pytest.mark.parametrize("name", NAMES)
def test_broken_files_are_refused_by_name(tmp_path: Path, name: str) -> None:
    file, says = broken_files(tmp_path)[name]
    with pytest.raises(BrokenAudio) as refusal:
        read_clip(file, 16000, 5.0)
    assert str(file) in str(refusal.value)
    assert says in str(refusal.value)
    assert str(file) not in refusal.value.what


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000, 0xFFFFFFFF - 36, 0x80000000, 16001])
def test_a_wav_of_open_length_is_no_truncated_one(tmp_path: Path, size: int) -> None:
    # programs that stream a WAV to a pipe leave some large number as the size of its data; a byte is a slip
    file = tmp_path / "streamed.wav"
    soundfile.write(file, tone(16000, 0.5), 16000)
    content = bytearray(file.read_bytes())
    at = content.index(b"data") + 4
    content[at : at + 4] = struct.pack("<I", size)
    file.write_bytes(bytes(content))
    assert len(read_clip(file, 16000, 5.0)) == 8000


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.wav is missing"):
        read_clip(tmp_path / "gone.wav", 16000, 5.0)


@pytest.mark.parametrize("container", ["WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "FLAC", "OGG", "CAF"])
@pytest.mark.parametrize("samples", [8000, 8001])
def test_whole_files_of_every_container_are_taken(tmp_path: Path, container: str, samples: int) -> None:
    file = tmp_path / "clip.wav"
    soundfile.write(file, tone(16000, 1.0)[:samples], 16000, format=container)
    assert len(read_clip(file, 16000, 5.0)) == samples


def test_a_damaged_w64_header_is_refused_not_followed(tmp_path: Path) -> None:
    file = tmp_path / "a.wav"
    soundfile.write(file, tone(16000, 0.5), 16000, format="W64")
    content = bytearray(file.read_bytes())
    content[56:64] = struct.pack("<Q", 0x7FFFFFFFFFFFFFF0)
    file.write_bytes(bytes(content))
    with pytest.raises(BrokenAudio):
        read_clip(file, 16000, 5.0)


def test_a_crop_is_cut_within_the_clips_own_span(tmp_path: Path) -> None:
    ramp = np.arange(16000, dtype=np.float32) / 16000
    soundfile.write(tmp_path / "ramp.wav", ramp, 16000, subtype="FLOAT")
    for place, first in ((None, 4000), (0.0, 4000), (0.5, 5600), (0.999999, 7200)):
        clip = read_clip(tmp_path / "ramp.wav", 16000, 0.3, start=0.25, end=0.75, place=place)
        assert len(clip) == 4800
        assert clip[0] == pytest.approx(ramp[first], abs=1e-4)
    # a clip that is no longer than the limit has one place only
    assert len(read_clip(tmp_path / "ramp.wav", 16000, 1.0, place=0.7)) == 16000
    assert len(read_clip(tmp_path / "ramp.wav", 16000, None)) == 16000
