"""Batches: a function of source, seed and step; every clip once an epoch; broken clips replaced, counted and named."""

from __future__ import annotations

import copy
import csv
import itertools
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from audio_files import babble, broken_files, write

from aape_bench.audio import read_clip
from aape_bench.errors import BrokenAudio, DataError, UsageError
from aape_bench.models.aape.pretrain.config import PretrainConfig
from aape_bench.models.aape.pretrain.crops import Crop
from aape_bench.models.aape.pretrain.data import Batch, BrokenFiles, Loader
from aape_bench.models.aape.pretrain.sources import Modulated, Source, open_source
from aape_bench.overlap import TrainingAudio


def config(batch: int = 4, seconds: float = 0.5, workers: int = 2) -> PretrainConfig:
    return PretrainConfig(preset="smoke", batch=batch, clip_seconds=seconds, workers=workers).resolved()


def take(loader: Loader, count: int, first: int = 0) -> list[Batch]:
    with closing(loader.batches(first)) as batches:
        return list(itertools.islice(batches, count))


def equal(one: Batch, other: Batch) -> bool:
    names = ("audio", "lengths", "source", "clip", "again")
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in names)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten files: nine of 1 s, one of 0.2 s."""
    root = tmp_path_factory.mktemp("audio")
    for number in range(10):
        audio = babble(0.2 if number == 3 else 1.0, 16000, seed=number)
        write(root / f"{number % 2}" / f"{number}.wav", audio, 16000)
    return root


@pytest.fixture
def source(folder: Path) -> Source:
    return open_source([str(folder)])


def test_a_batch_is_padded_crops_of_16_khz(source: Source) -> None:
    batches = take(Loader(source, config(batch=5), 0), 2)
    for batch in batches:
        assert batch.audio.shape == (5, 8000)
        assert batch.audio.dtype == torch.float32
        assert all(t.dtype == torch.int64 and t.shape == (5,) for t in (batch.lengths, batch.source, batch.clip))
        for audio, length, clip in zip(batch.audio, batch.lengths.tolist(), batch.clip.tolist(), strict=True):
            short = source.name(clip).endswith("3.wav")
            assert length == (3200 if short else 8000)
            assert not audio[length:].any()
            # the crop is somewhere in the file
            whole = read_clip(Path(source.name(clip)), 16000, None)
            windows = np.lib.stride_tricks.sliding_window_view(whole, 400)
            assert np.abs(windows - audio[1000:1400].numpy()).max(axis=1).min() < 1e-6
            assert audio.abs().max() > 0.05


def test_every_clip_comes_once_an_epoch_and_the_next_epoch_fills_the_last_batch(source: Source) -> None:
    clips = torch.cat([batch.clip for batch in take(Loader(source, config(batch=4), 0), 10)]).tolist()
    epochs = [clips[first : first + 10] for first in range(0, 40, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 4


def test_crops_differ_from_epoch_to_epoch_and_from_seed_to_seed(source: Source) -> None:
    def crops(seed: int, step: int) -> dict[int, bytes]:
        (batch,) = take(Loader(source, config(batch=10), seed), 1, step)
        return {clip: audio.numpy().tobytes() for clip, audio in zip(batch.clip.tolist(), batch.audio, strict=True)}

    short = next(clip for clip in range(10) if source.name(clip).endswith("3.wav"))  # it has one place only
    first, second, other = crops(0, 0), crops(0, 1), crops(1, 0)
    for different in (second, other):
        assert [clip for clip in range(10) if first[clip] == different[clip]] == [short]
    assert first == crops(0, 0)


def test_more_clips_than_a_batch_has_room_for_come_again_with_other_crops(folder: Path) -> None:
    source = open_source([str(folder / "0" / "0.wav")])
    (batch,) = take(Loader(source, config(batch=6), 0), 1)
    assert batch.clip.tolist() == batch.source.tolist() == [0] * 6
    assert len({audio.numpy().tobytes() for audio in batch.audio}) == 6


def test_crops_of_one_clip_in_one_step_are_told_apart_on_every_rank(source: Source) -> None:
    """Batches of more clips than there are, of an epoch's end and the next one's beginning, and of neither."""
    for size in (3, len(source), 2 * len(source) + 2):
        settings = config(batch=size)
        for step, batch in enumerate(take(Loader(source, settings, 0), 5)):
            crops = set(zip(batch.clip.tolist(), batch.again.tolist(), strict=True))
            assert len(crops) == size
            first_epoch = (step * size) // len(source)
            own_turn = [(step * size + row) // len(source) == first_epoch for row in range(size)]
            assert (batch.again == 0).tolist() == own_turn
        if size % 2 == 0:
            shares = [take(Loader(source, settings, 0, rank, 2), 5)[4].again for rank in range(2)]
            assert torch.equal(torch.cat(shares), batch.again)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_batch_hangs_on_its_step_alone(source: Source, workers: int) -> None:
    unbroken = take(Loader(source, config(), 7), 9)
    for first in (0, 1, 5):
        resumed = take(Loader(source, config(workers=workers), 7), 3, first)
        assert all(equal(a, b) for a, b in zip(unbroken[first:], resumed, strict=False))


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_the_batch_of_one_process(source: Source, world: int) -> None:
    whole = take(Loader(source, config(batch=8), 1), 3)
    shares = [take(Loader(source, config(batch=8), 1, rank, world), 3) for rank in range(world)]
    for step, batch in enumerate(whole):
        assert torch.equal(torch.cat([share[step].audio for share in shares]), batch.audio)
        assert torch.equal(torch.cat([share[step].clip for share in shares]), batch.clip)


def test_a_batch_that_cannot_be_shared_evenly_is_refused(source: Source) -> None:
    with pytest.raises(UsageError, match="batch=8 cannot be shared evenly by 3"):
        Loader(source, config(batch=8), 0, 0, 3)


def test_broken_files_are_replaced_counted_and_named(folder: Path, tmp_path: Path) -> None:
    said = broken_files(tmp_path / "broken")
    source = open_source([str(folder), str(tmp_path / "broken")])
    lines: list[str] = []
    loader = Loader(source, config(batch=8), 0, broken=BrokenFiles(tmp_path / "broken.csv", lines.append))
    batches = take(loader, 6)  # two epochs
    assert all(batch.audio.abs().amax(1).min() > 0 for batch in batches)
    assert all(int(batch.clip.max()) < 10 for batch in batches)
    counts = [batch.broken for batch in batches]
    assert counts == sorted(counts)
    assert counts[-1] == len(said) == 14
    with (tmp_path / "broken.csv").open(newline="") as handle:
        head, *rows = list(csv.reader(handle))
    assert head == ["file", "reason"]
    assert sorted(Path(name).name for name, _ in rows) == sorted(said)
    assert all(said[Path(name).name] in reason for name, reason in rows)
    assert len(lines) == 6
    assert "Left out:" in lines[0]
    assert "broken.csv" in lines[5]
    # every epoch has as many crops as clips: broken ones are stood in for by others, in other crops
    (epoch,) = take(Loader(source, config(batch=24), 0), 1)
    assert max(Counter(epoch.clip.tolist()).values()) > 1
    long = [audio.numpy().tobytes() for audio, length in zip(epoch.audio, epoch.lengths, strict=True) if length == 8000]
    assert len(set(long)) == len(long)


def test_stand_ins_hang_on_the_step_alone(folder: Path, tmp_path: Path) -> None:
    broken_files(tmp_path)
    source = open_source([str(folder), str(tmp_path)])
    unbroken = take(Loader(source, config(batch=6), 3), 6)
    resumed = take(Loader(source, config(batch=6, workers=1), 3), 2, 4)
    assert all(equal(a, b) for a, b in zip(unbroken[4:], resumed, strict=True))
    ranks = [take(Loader(source, config(batch=6), 3, rank, 2), 6) for rank in (0, 1)]
    assert all(torch.equal(torch.cat([a.audio, b.audio]), c.audio) for a, b, c in zip(*ranks, unbroken, strict=True))


def test_a_file_broken_in_one_place_is_used_elsewhere(tmp_path: Path) -> None:
    audio = babble(4.0, 16000)[:, 0]
    audio[:16000] = np.nan
    write(tmp_path / "half.wav", audio, 16000, subtype="FLOAT")
    write(tmp_path / "whole.wav", babble(4.0, 16000), 16000)
    batches = take(Loader(open_source([str(tmp_path)]), config(batch=2), 0), 12)
    clips = torch.cat([batch.clip for batch in batches]).tolist()
    assert 12 < clips.count(1) < 24
    assert batches[-1].broken == 1
    assert all(torch.isfinite(batch.audio).all() for batch in batches)


def test_audio_of_which_nothing_can_be_used_is_a_data_error(tmp_path: Path) -> None:
    said = broken_files(tmp_path)
    with pytest.raises(DataError, match="No clip of the audio can be used") as refusal:
        take(Loader(open_source([str(tmp_path)]), config(), 0), 1)
    assert any(what in str(refusal.value) for what in said.values())


class Broken(Source):
    """Many clips, none of which can be read; counts the tries."""

    tries = 0

    def __init__(self, clips: int) -> None:
        self.origins = self.files = np.arange(clips)
        self.digest = ""

    def name(self, clip: int) -> str:
        return f"clip {clip}"

    def read(self, clip: int, seconds: float, draw: np.random.Generator, identify: bool = False) -> Crop:  # noqa: ARG002
        self.tries += 1
        raise BrokenAudio(self.name(clip), "is gone")


def test_a_large_source_that_went_away_is_not_tried_to_its_end() -> None:
    source = Broken(1_000_000)
    with pytest.raises(DataError, match=r"300 clips in a row cannot be used: clip .* is gone"):
        take(Loader(source, config(batch=1, workers=0), 0), 1)
    assert source.tries == 300


def test_broken_csv_goes_on_where_a_run_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "broken.csv"
    first = BrokenFiles(path)
    first.note('a "quoted", name.wav', "is empty")
    first.note("b.wav", "is empty")
    path.write_bytes(path.read_bytes()[:-4])  # killed in the middle of the last line
    second = BrokenFiles(path)
    assert len(second) == 1
    for name in ('a "quoted", name.wav', "b.wav", "c.wav", "c.wav"):
        second.note(name, "is truncated")
    assert len(second) == 3
    with path.open(newline="") as handle:
        rows = [row for row in csv.reader(handle) if row]
    assert rows[0] == ["file", "reason"]
    assert [row[0] for row in rows].count('a "quoted", name.wav') == 1
    assert rows[-2:] == [["b.wav", "is truncated"], ["c.wav", "is truncated"]]


@pytest.mark.parametrize("name", ["a\rb.wav", "a\r\nb.wav", "\udcff.wav", "\ud800\r.wav"])
def test_odd_names_are_counted_once_by_a_resumed_run(tmp_path: Path, name: str) -> None:
    for _ in range(2):
        broken = BrokenFiles(tmp_path / "broken.csv")
        broken.note(name, "is empty")
        broken.note("plain.wav", "is empty")
        assert len(broken) == 2
    assert (tmp_path / "broken.csv").read_bytes().count(b"is empty") == 2


def test_a_broken_csv_of_another_writer_is_continued(tmp_path: Path) -> None:
    (tmp_path / "broken.csv").write_bytes(b"file,reason\na.wav,is empty\nb\rc.wav,is empty\n")
    broken = BrokenFiles(tmp_path / "broken.csv")
    broken.note("a.wav", "is empty")
    assert len(broken) == 1


class Slow(Modulated):
    """Clips of silence that take long to read."""

    def read(self, clip: int, seconds: float, draw: np.random.Generator, identify: bool = False) -> Crop:  # noqa: ARG002
        time.sleep(0.02)
        return Crop(np.full(8000, 0.1, np.float32))


def test_waiting_is_measured_and_decoding_goes_on_meanwhile() -> None:
    loader = Loader(Slow(100), config(batch=4, workers=2), 0)
    with closing(loader.batches(0)) as batches:
        next(batches)
        assert 0.01 < loader.waited < 1.0  # 4 clips by 2 threads
        before = loader.waited
        time.sleep(0.3)
        for _ in range(2):
            next(batches)
        assert loader.waited - before < 0.03
        for _ in range(4):
            next(batches)
        assert loader.waited - before > 0.06


def test_no_thread_outlives_its_batches(source: Source) -> None:
    import threading

    before = threading.active_count()
    batches = Loader(source, config(workers=3), 0).batches(0)
    next(batches)
    assert threading.active_count() > before
    batches.close()
    assert threading.active_count() == before


def test_hashes_are_those_of_the_batches_given_out(source: Source) -> None:
    """Not of what was decoded ahead: a resumed run must write the same card."""
    unbroken = Loader(source, config(batch=2), 0)
    with closing(unbroken.batches(0)) as batches:
        counts = [len(unbroken.trained.hashes)]
        for step in range(7):
            next(batches)
            counts.append(len(unbroken.trained.hashes))
            if step == 2:
                state = copy.deepcopy(unbroken.state())
    assert counts == [0, 4, 8, 12, 16, 20, 20, 20]  # two of every file
    resumed = Loader(source, config(batch=2), 0)
    resumed.restore(state)
    assert len(resumed.trained.hashes) == 12
    take(resumed, 4, 3)
    assert resumed.trained.card() == unbroken.trained.card()


def test_a_file_is_hashed_once_a_run(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    read = source.read

    def counted(clip: int, seconds: float, draw: np.random.Generator, identify: bool = False) -> Crop:
        asked.append(identify)
        return read(clip, seconds, draw, identify)

    monkeypatch.setattr(source, "read", counted)
    first = Loader(source, config(batch=10, workers=0), 0)
    take(first, 2)
    resumed = Loader(source, config(batch=10, workers=0), 0)
    resumed.restore(first.state())
    take(resumed, 1, 2)
    assert asked == [True] * 10 + [False] * 20


def test_hashes_of_ranks_come_together(source: Source) -> None:
    alone = Loader(source, config(batch=4), 0)
    take(alone, 2)
    ranks = [Loader(source, config(batch=4), 0, rank, 2) for rank in (0, 1)]
    for loader in ranks:
        take(loader, 2)
    assert len(ranks[0].trained.hashes) < len(alone.trained.hashes)
    ranks[0].restore(ranks[1].state())
    assert ranks[0].trained.card() == alone.trained.card()


def test_state_loads_without_unpickling(source: Source, tmp_path: Path) -> None:
    loader = Loader(source, config(), 0)
    take(loader, 2)
    torch.save(loader.state(), tmp_path / "state.pt")
    other = Loader(source, config(), 0)
    other.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    assert np.array_equal(other.trained.hashes, loader.trained.hashes)


def test_what_initial_weights_were_trained_on_outlives_a_resume(source: Source) -> None:
    loader = Loader(source, config(), 0)
    loader.trained.merge(TrainingAudio(["some.generator"], complete=False))
    other = Loader(source, config(), 0)
    other.restore(loader.state())
    assert (other.trained.generators, other.trained.complete) == (("some.generator",), False)


def test_real_sets_of_several_formats_make_whole_batches(real_data: Path, tmp_path: Path) -> None:
    """ESC-50's dogs as they are, some as FLAC and MP3, and long music: nothing is left out, nothing is silent."""
    for number, path in enumerate(sorted((real_data / "esc50" / "audio").glob("*.wav"))[:12]):
        audio, rate = soundfile.read(path, dtype="float32")
        write(tmp_path / f"{number}{('.flac', '.mp3')[number % 2]}", audio, rate)
    folders = [str(real_data / name) for name in ("esc50", "gtzan", "spcv2")]
    source = open_source([*folders, str(tmp_path)])
    assert len(source) == 100 + 60 + 200 + 12
    loader = Loader(source, config(batch=62, seconds=2.56), 0)
    batches = take(loader, 6)
    assert torch.cat([batch.clip for batch in batches]).unique().numel() == 372
    assert len(loader.broken) == 0
    assert loader.unsought == 0
    lengths = torch.cat([batch.lengths for batch in batches])
    assert (lengths == 40960).sum() > 150  # music and sounds are longer, spoken words shorter
    assert (lengths < 20000).sum() > 150
    assert all(batch.audio.abs().amax() <= 1.5 for batch in batches)
