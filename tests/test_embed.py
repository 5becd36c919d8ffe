"""Embedding and its cache: the same numbers in any batch, order or number of interruptions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from torch import Tensor
from toys import FOLDS, Moments

from aape_bench import cache
from aape_bench.cache import EmbeddingEntry, Treatment
from aape_bench.clips import ClipReader
from aape_bench.embed import embed
from aape_bench.errors import BrokenAudio, ModelError
from aape_bench.registry import task
from aape_bench.selection import select_model


@pytest.fixture
def clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, pd.DataFrame]:
    """23 clips of different lengths; shards of 5, so that there are several."""
    monkeypatch.setattr(cache, "SHARD_CLIPS", 5)
    rng = np.random.default_rng(0)
    for row in range(23):
        soundfile.write(tmp_path / f"{row}.wav", 0.1 * rng.standard_normal(800 + 700 * row), 16000, subtype="FLOAT")
    rows = range(23)
    table = pd.DataFrame({"id": rows, "path": [f"{r}.wav" for r in rows], "start": np.nan, "end": np.nan})
    return tmp_path, table


def reader(clips: tuple[Path, pd.DataFrame], full_length: bool = False) -> ClipReader:
    return ClipReader(FOLDS, clips[0], clips[1], None, 16000, full_length)


def entry(folder: Path, clips: int = 23) -> EmbeddingEntry:
    return EmbeddingEntry(folder, "encoder", "data", Treatment(16000, "plain", "code"), clips)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*.npy"))}


def test_embeddings_stand_in_clip_table_order(clips: tuple[Path, pd.DataFrame], tmp_path: Path) -> None:
    there, counted = entry(tmp_path / "cache"), []
    embed(Moments(), reader(clips), there, 2, "cpu", False, counted.append)
    read = there.read()
    assert sum(counted) == 23
    assert there.missing() == []
    for row in range(23):
        samples = soundfile.read(clips[0] / f"{row}.wav", dtype="float32")[0][:16000]
        assert np.allclose(read[row], [samples.mean(), np.square(samples).mean(), len(samples)], atol=1e-6)


def test_a_batch_holds_each_clips_samples_then_zeros(clips: tuple[Path, pd.DataFrame]) -> None:
    there = reader(clips)
    batches = list(there.batches(there.decoded([0, 5, 9, 3]), 3, equal=False))
    assert [batch.rows for batch in batches] == [[9, 5, 3], [0]]
    for batch in batches:
        assert batch.audio.shape[1] == batch.lengths.max()
        for row, audio, length in zip(batch.rows, batch.audio, batch.lengths, strict=True):
            samples = soundfile.read(clips[0] / f"{row}.wav", dtype="float32")[0]
            assert np.array_equal(audio[:length], samples)
            assert not audio[length:].any()


@pytest.mark.parametrize("broken_after", [0, 3, 7, 12, 22])
def test_an_interrupted_run_continues_to_the_same_bytes(
    clips: tuple[Path, pd.DataFrame], tmp_path: Path, broken_after: int
) -> None:
    whole, cut = entry(tmp_path / "whole"), entry(tmp_path / "cut")
    embed(Moments(), reader(clips), whole, 2, "cpu", False, lambda _: None)

    done = 0

    def stop(n: int) -> None:
        nonlocal done
        done += n
        if done > broken_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed(Moments(), reader(clips), cut, 2, "cpu", False, stop)
    before = files(tmp_path / "cut")
    rest: list[int] = []
    embed(Moments(), reader(clips), cut, 2, "cpu", False, rest.append)
    assert files(tmp_path / "cut") == files(tmp_path / "whole")
    assert sum(rest) == 23 - 5 * len(before)


def test_a_damaged_shard_is_computed_again(clips: tuple[Path, pd.DataFrame], tmp_path: Path) -> None:
    there = entry(tmp_path / "cache")
    embed(Moments(), reader(clips), there, 4, "cpu", False, lambda _: None)
    before = files(tmp_path / "cache")
    shard = there.folder / "00002.npy"
    shard.write_bytes(shard.read_bytes()[:-7])
    assert there.missing() == [2]
    embed(Moments(), reader(clips), there, 4, "cpu", False, lambda _: None)
    assert files(tmp_path / "cache") == before


def test_a_run_that_continues_keeps_the_batch_size_that_was_begun(tmp_path: Path) -> None:
    assert entry(tmp_path).begin(7) == (7, False)
    assert entry(tmp_path).begin(32, automatic=True) == (7, False)


def test_encoders_without_lengths_get_every_clip_at_full_length(
    clips: tuple[Path, pd.DataFrame], tmp_path: Path
) -> None:
    class NoLengths(Moments):
        takes_lengths = False

        def scene_embeddings(self, audio: Tensor, lengths: Tensor | None = None) -> Tensor:
            assert lengths is None
            return super().scene_embeddings(audio)

    there = entry(tmp_path / "cache")
    embed(NoLengths(), reader(clips, full_length=True), there, 4, "cpu", False, lambda _: None)
    assert set(there.read()[:, 2]) == {16000.0}


def test_a_broken_clip_stops_the_run_or_is_named(clips: tuple[Path, pd.DataFrame], tmp_path: Path) -> None:
    (clips[0] / "11.wav").write_bytes(b"")
    with pytest.raises(BrokenAudio, match=r"11\.wav is empty"):
        embed(Moments(), reader(clips), entry(tmp_path / "a"), 4, "cpu", False, lambda _: None)
    there = entry(tmp_path / "b")
    embed(Moments(), reader(clips), there, 4, "cpu", True, lambda _: None)
    assert there.broken() == {11: "is empty"}
    assert list(np.flatnonzero(np.isnan(there.read()).any(axis=1))) == [11]


@pytest.mark.parametrize(
    ("value", "says"),
    [(float("nan"), r"that a model made of the clip .*\.wav has NaN or infinite"), (None, "^a model .* shape")],
)
def test_an_encoder_that_breaks_its_contract_is_named(
    clips: tuple[Path, pd.DataFrame], tmp_path: Path, value: float | None, says: str
) -> None:
    class Bad(Moments):
        def scene_embeddings(self, audio: Tensor, lengths: Tensor | None = None) -> Tensor:
            good = super().scene_embeddings(audio, lengths)
            return good[:, :2] if value is None else torch.where(good[:, 2:] > 4000, value, good)

    with pytest.raises(ModelError, match=says):
        embed(Bad(), reader(clips), entry(tmp_path / "a"), 4, "cpu", False, lambda _: None, model="a model")


@pytest.mark.slow
@pytest.mark.parametrize("model", ["aape", "vit", "logmel"])
def test_batch_size_and_order_change_nothing(model: str, real_data: Path, tmp_path: Path) -> None:
    """Real clips in batches of 1, 7 and 32 and in another order, within 1e-5."""
    esc50 = task("esc50")
    table = esc50.read(real_data / "esc50").iloc[:40].assign(start=np.nan, end=np.nan)
    encoder = select_model(model, {}, "default", 0).build()

    def embeddings(frame: pd.DataFrame, batch_size: int) -> np.ndarray:
        there = entry(tmp_path / f"{batch_size}-{frame['id'].iloc[0]}", len(frame))
        clips = ClipReader(esc50, real_data / "esc50", frame, None, encoder.sample_rate, False)
        embed(encoder, clips, there, batch_size, "cpu", False, lambda _: None)
        return there.read()

    one = embeddings(table, 1)
    order = np.random.default_rng(0).permutation(len(table))
    assert np.abs(embeddings(table, 7) - one).max() < 1e-5
    assert np.abs(embeddings(table, 32) - one).max() < 1e-5
    assert np.abs(embeddings(table.iloc[order].reset_index(drop=True), 32) - one[order]).max() < 1e-5
