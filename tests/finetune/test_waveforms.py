"""Training clips as waveforms: the same bytes in any order, cut where asked, read once where memory allows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from toys import FOLDS, table

from aape_bench.clips import ClipReader
from aape_bench.errors import BrokenAudio
from aape_bench.finetune.waveforms import Draw, Waveforms


@pytest.fixture
def reader(tmp_path: Path) -> ClipReader:
    """12 clips of 0.5 s and longer, a row of growing numbers each."""
    clips = table().assign(start=float("nan"), end=float("nan"))
    (tmp_path / "audio").mkdir()
    for row, path in enumerate(clips["path"]):
        samples = (1 + np.arange(8000 + 500 * row)) / 20000
        soundfile.write(tmp_path / path, samples, 16000, subtype="FLOAT")
    return ClipReader(FOLDS, tmp_path, clips, None, 16000, full_length=False)


def heads(rows: list[int]) -> Draw:
    return Draw(rows, [0.0] * len(rows))


def test_clips_are_the_reader_s_whatever_came_before(reader: ClipReader) -> None:
    waveforms = Waveforms(reader)
    for rows in ([3, 0, 3], [0, 11], [5]):
        ((audio, lengths),) = waveforms.batches([heads(rows)])
        assert lengths.tolist() == [8000 + 500 * row for row in rows]
        for place, row in enumerate(rows):
            assert np.array_equal(audio[place, : lengths[place]], reader.read(row))
            assert not audio[place, lengths[place] :].any()


def test_longer_clips_are_cut_where_drawn(reader: ClipReader) -> None:
    draws = [Draw([8, 8, 0], [0.0, 0.999999, 0.5])]
    ((audio, lengths),) = Waveforms(reader).batches(draws, seconds=0.6)
    assert lengths.tolist() == [9600, 9600, 8000]
    whole = reader.read(8)
    assert np.array_equal(audio[0], whole[:9600])
    assert np.array_equal(audio[1], whole[-9600:])
    assert np.array_equal(audio[2, :8000], reader.read(0))


@pytest.mark.parametrize(("memory", "times"), [(1 << 30, 1), (0, 3)])
def test_what_fits_into_memory_is_read_once(
    reader: ClipReader, monkeypatch: pytest.MonkeyPatch, memory: int, times: int
) -> None:
    read: list[int] = []
    whole = reader.read

    def counted(row: int) -> np.ndarray:
        read.append(row)
        return whole(row)

    monkeypatch.setattr(reader, "read", counted)
    waveforms = Waveforms(reader, memory)
    for _ in range(3):
        list(waveforms.batches([heads([1, 2])]))
    assert sorted(read) == [1] * times + [2] * times


def test_memory_is_a_limit(reader: ClipReader) -> None:
    waveforms = Waveforms(reader, memory=2 * 8000 * 4 + 500 * 4)
    for row in range(12):
        list(waveforms.batches([heads([row])]))
    assert sorted(waveforms._kept) == [0, 1]


def test_batches_that_are_left_do_not_hang(reader: ClipReader) -> None:
    batches = Waveforms(reader).batches(heads([row % 12]) for row in range(10**9))
    next(batches)
    batches.close()


def test_a_broken_clip_is_named(reader: ClipReader) -> None:
    (reader.root / "audio" / "c4.wav").write_bytes(b"")
    with pytest.raises(BrokenAudio, match=r"c4\.wav"):
        list(Waveforms(reader).batches([heads([4])]))
