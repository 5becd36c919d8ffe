"""Overlap of a task with what a checkpoint was trained on: found by bytes and by sound, said as it is."""

from __future__ import annotations

import itertools
import json
import shutil
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from audio_files import babble, write
from toys import FOLDS, PARTS

from aape_bench.checkpoint import read_header, save_checkpoint
from aape_bench.errors import CheckpointError
from aape_bench.identity import file_digest
from aape_bench.overlap import (
    FIELD,
    MOST_HASHES,
    Overlap,
    SoundMemory,
    TrainingAudio,
    hash_of_bytes,
    hash_of_sha256,
    hash_of_sound,
    overlap_of,
)
from aape_bench.registry import task as registered
from aape_bench.task import Task


def sound_of(path: Path) -> int | None:
    with soundfile.SoundFile(path) as sound:
        return hash_of_sound(sound)


def checkpoint(path: Path, audio: TrainingAudio | None) -> Path:
    card = {"steps": 3} if audio is None else {"steps": 3, FIELD: audio.card()}
    save_checkpoint(path, torch.nn.Linear(2, 2), "aape", {}, card)
    return path


def trained_on(*files: Path, complete: bool = True) -> TrainingAudio:
    audio = TrainingAudio(complete=complete)
    for file in files:
        with file.open("rb") as handle:
            audio.add([hash_of_bytes(handle)])
        if (sound := sound_of(file)) is not None:
            audio.add([sound])
    return audio


@pytest.fixture
def clips(tmp_path: Path) -> list[Path]:
    """Six clips of a task, 3 s of 22 kHz stereo each."""
    return [write(tmp_path / "task" / f"{n}.wav", babble(3.0, 22050, 2, seed=n), 22050) for n in range(6)]


def look(tmp_path: Path, clips: list[Path], path: Path | None, task: Task = FOLDS) -> Overlap:
    parts = (["train", "valid", "test"] * 2)[: len(clips)]
    table = pd.DataFrame({"path": [clip.name for clip in clips], "fold": "1", "split": parts})
    hashes = [file_digest(clip) for clip in clips]
    card = {} if path is None else read_header(path).card
    return overlap_of("file:x", card, None, task, clips[0].parent, table, hashes, tmp_path / "cache")


def test_the_same_bytes_are_found(tmp_path: Path, clips: list[Path]) -> None:
    shutil.copy(clips[2], tmp_path / "other name.wav")
    path = checkpoint(tmp_path / "c.safetensors", trained_on(tmp_path / "other name.wav"))
    assert look(tmp_path, clips, path) == Overlap("test", 1)
    assert look(tmp_path, [clips[0], clips[1]], path) == Overlap("none")


@pytest.mark.parametrize("kind", ["flac", "aiff", "w64", "wav24", "tagged", "longer", "padded", "cut", "mono"])
def test_the_same_sound_in_another_file_is_found(tmp_path: Path, clips: list[Path], kind: str) -> None:
    clip = write(clips[1], babble(3.0, 22050, seed=9), 22050)
    audio, rate = soundfile.read(clip, dtype="float32", always_2d=True)
    ending, subtype = {"flac": ("flac", None), "aiff": ("aiff", None), "w64": ("w64", None)}.get(kind, ("wav", None))
    if kind == "wav24":
        subtype = "PCM_24"
    if kind == "longer":
        audio = np.concatenate([audio, babble(2.0, rate)])
    if kind == "padded":
        audio = np.concatenate([np.zeros((777, 1), np.float32), audio])
    if kind == "cut":
        audio = audio[: round(2.5 * rate)]
    if kind == "mono":  # twice the same channel
        audio = np.repeat(audio, 2, axis=1)
    other = write(tmp_path / "train" / f"a.{ending}", audio, rate, subtype=subtype)
    if kind == "tagged":
        with soundfile.SoundFile(other, "r+") as sound:
            sound.title = "Another title"
    assert file_digest(other) != file_digest(clip)
    path = checkpoint(tmp_path / "c.safetensors", trained_on(other))
    assert look(tmp_path, clips, path) == Overlap("test", 1)


@pytest.mark.parametrize("change", ["quieter", "resampled", "later", "other"])
def test_what_is_not_the_same_sound_is_not_found(tmp_path: Path, clips: list[Path], change: str) -> None:
    audio, rate = soundfile.read(clips[1], dtype="float32", always_2d=True)
    changed = {"quieter": audio / 2, "resampled": audio[::2], "later": audio[1:], "other": audio + 1e-3}[change]
    other = write(tmp_path / "train" / "a.wav", changed, rate // 2 if change == "resampled" else rate)
    assert look(tmp_path, clips, checkpoint(tmp_path / "c.safetensors", trained_on(other))) == Overlap("none")


def test_training_parts_count_less_than_test_parts(tmp_path: Path, clips: list[Path]) -> None:
    only_train = checkpoint(tmp_path / "a.safetensors", trained_on(clips[0], clips[4]))
    with_test = checkpoint(tmp_path / "b.safetensors", trained_on(clips[0], clips[2]))
    assert look(tmp_path, clips, only_train, PARTS) == Overlap("train", 2)
    assert look(tmp_path, clips, with_test, PARTS) == Overlap("test", 2)
    # in official folds every clip is tested once
    assert look(tmp_path, clips, only_train, FOLDS) == Overlap("test", 2)


def test_what_a_checkpoint_does_not_tell_is_unknown(tmp_path: Path, clips: list[Path]) -> None:
    silent = checkpoint(tmp_path / "a.safetensors", None)
    part = checkpoint(tmp_path / "b.safetensors", trained_on(clips[0], complete=False))
    assert look(tmp_path, clips, silent) == look(tmp_path, clips, None) == Overlap("unknown")
    assert look(tmp_path, clips, part) == Overlap("test", 1)
    assert look(tmp_path, clips[1:], part) == Overlap("unknown")


@pytest.mark.parametrize("weights", ["none", "random"])
def test_weights_that_saw_no_audio_overlap_with_nothing(tmp_path: Path, weights: str) -> None:
    table = pd.DataFrame({"path": ["a.wav"]})
    assert overlap_of(weights, {}, None, FOLDS, tmp_path, table, ["0" * 64], tmp_path) == Overlap("none")


def test_generated_tasks_share_their_generator(tmp_path: Path, clips: list[Path]) -> None:
    real = checkpoint(tmp_path / "a.safetensors", trained_on(clips[0]))
    generated = checkpoint(tmp_path / "b.safetensors", TrainingAudio(["aape_bench.tasks.modulation.generated"]))
    part = checkpoint(tmp_path / "c.safetensors", TrainingAudio(complete=False))
    for name in ("tremolo", "alias", "clicks", "vibrato", "chirp", "pitch"):
        task = registered(name)
        table = task.read(tmp_path)
        cards = [read_header(one).card for one in (real, generated, part)]
        found = [overlap_of("file:x", card, None, task, Path(), table, None, tmp_path) for card in cards]
        assert found == [Overlap("none"), Overlap("same-generator", len(table)), Overlap("unknown")]
    # and audio from files is not that of a generator
    assert look(tmp_path, clips, generated) == Overlap("none")


def test_sounds_are_decoded_once(tmp_path: Path, clips: list[Path]) -> None:
    memory = SoundMemory(tmp_path / "cache")
    contents = [file_digest(clip) for clip in clips]
    seen: list[int] = []
    first = memory.hashes(contents, clips, seen.append)
    assert first == [sound_of(clip) for clip in clips]
    assert sum(seen) == 6
    assert len(set(first)) == 6
    for clip in clips:
        clip.unlink()
    text = memory.file.read_bytes()
    assert SoundMemory(tmp_path / "cache").hashes(contents, clips) == first
    memory.file.write_bytes(text[:-4])  # killed while writing the last line
    assert SoundMemory(tmp_path / "cache").hashes(contents, clips) == [*first[:-1], None]


def test_files_without_a_sound_have_no_hash_of_one(tmp_path: Path) -> None:
    silent = write(tmp_path / "silent.wav", np.zeros(16000 * 20, np.float32), 16000)
    late = write(tmp_path / "late.wav", np.concatenate([np.zeros(16000 * 13), np.ones(99)]).astype("f"), 16000)
    click = write(tmp_path / "click.wav", np.eye(1, 16000, 15999, dtype=np.float32)[0], 16000)
    (tmp_path / "text.wav").write_text("no audio")
    assert [sound_of(path) for path in (silent, late, click)] == [None] * 3
    memory = SoundMemory(tmp_path / "cache")
    assert memory.hashes(["0", "1"], [tmp_path / "text.wav", tmp_path / "gone.wav"]) == [None, None]
    # two silent files are not each other's copies
    assert look(tmp_path, [silent], checkpoint(tmp_path / "c.safetensors", trained_on(late))) == Overlap("none")


def test_a_card_holds_every_hash_and_nothing_else_of_the_files() -> None:
    draw = np.random.default_rng(0)
    hashes = draw.integers(0, 2**64, 5000, np.uint64, endpoint=False)
    audio = TrainingAudio(["b", "a", "b"])
    for first in range(0, 5000, 100):
        audio.add(hashes[first : first + 200].tolist())
    found = TrainingAudio.from_card(json.loads(json.dumps({FIELD: audio.card()})))
    assert found is not None
    assert np.array_equal(found.hashes, np.unique(hashes))
    assert (found.generators, found.complete) == (("a", "b"), True)
    assert len(json.dumps(audio.card())) < 5000 * 10
    empty = TrainingAudio.from_card({FIELD: TrainingAudio().card()})
    assert empty is not None
    assert len(empty.hashes) == 0
    for edge in ([0], [2**64 - 1], [0, 1, 2**64 - 1]):
        audio = TrainingAudio()
        audio.add(edge)
        assert TrainingAudio.from_card({FIELD: audio.card()}).hashes.tolist() == edge  # type: ignore[union-attr]


def test_merging_is_union() -> None:
    one, other = TrainingAudio(["a"]), TrainingAudio(["b"], complete=False)
    one.add([5, 3])
    other.add([3, 9])
    one.merge(other)
    assert one.hashes.tolist() == [3, 5, 9]
    assert (one.generators, one.complete) == (("a", "b"), False)


def test_of_too_many_files_a_part_is_listed_and_said_to_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aape_bench.overlap.MOST_HASHES", 3)
    audio = TrainingAudio()
    audio.add([9, 1, 5, 7])
    found = TrainingAudio.from_card({FIELD: audio.card()})
    assert found is not None
    assert found.hashes.tolist() == [1, 5, 7]
    assert not found.complete


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2}, {"hashes": "!"}, {"hashes": "AAAA"}, {"count": 4}, {"count": 2}, {"count": -1}, {"count": "x"},
        {"count": float("inf")}, {"count": MOST_HASHES + 1}, {"generators": 5}, {"hashes": None},
    ],
)  # fmt: skip
def test_a_damaged_list_is_refused(tmp_path: Path, clips: list[Path], change: dict[str, object]) -> None:
    audio = TrainingAudio()
    audio.add([1, 2, 3])
    save_checkpoint(tmp_path / "c.safetensors", torch.nn.Linear(1, 1), "aape", {}, {FIELD: {**audio.card(), **change}})
    with pytest.raises(CheckpointError, match="list of training audio is damaged"):
        look(tmp_path, clips, tmp_path / "c.safetensors")
    for field in ([], "x", 5):
        with pytest.raises(CheckpointError):
            TrainingAudio.from_card({FIELD: field})


def test_bytes_are_named_as_the_data_fingerprint_names_them(clips: list[Path]) -> None:
    with clips[0].open("rb") as handle:
        handle.read(100)
        assert hash_of_bytes(handle) == hash_of_sha256(file_digest(clips[0]))


def test_training_on_real_clips_is_found_in_their_task_and_in_no_other(real_data: Path, tmp_path: Path) -> None:
    """Pre-train on FLAC copies of ESC-50's first fold and on spoken words as they are, then look at four tasks."""
    from aape_bench.models.aape.pretrain.config import PretrainConfig
    from aape_bench.models.aape.pretrain.data import Loader
    from aape_bench.models.aape.pretrain.sources import open_source

    fold = sorted((real_data / "esc50" / "audio").glob("1-*.wav"))
    for path in fold:
        audio, rate = soundfile.read(path, dtype="float32")
        write(tmp_path / "train" / f"{path.stem}.flac", audio, rate)
    words = sorted((real_data / "spcv2" / "yes").glob("*.wav"))
    (tmp_path / "list.csv").write_text("path\n" + "".join(f"{path}\n" for path in words))
    source = open_source([str(tmp_path / "train"), str(tmp_path / "list.csv")])
    loader = Loader(source, PretrainConfig(preset="smoke", batch=len(source)).resolved(), 0)
    with closing(loader.batches(0)) as batches:
        next(itertools.islice(batches, 1))
    path = checkpoint(tmp_path / "c.safetensors", loader.trained)
    for name, clips in (("esc50", len(fold)), ("spcv2", len(words)), ("gtzan", 0), ("us8k", 0)):
        task = registered(name)
        root = real_data / name
        table = task.read(root)
        table = table[[(root / file).is_file() for file in table["path"]]]
        hashes = [file_digest(root / file) for file in table["path"]]
        card = read_header(path).card
        found = overlap_of("file:x", card, None, task, root, table, hashes, tmp_path / "cache")
        assert found.clips == clips
        assert found.value == ("test" if clips else "none")


def test_hashes_are_found_as_numpy_finds_them() -> None:
    draw = np.random.default_rng(1)
    for size in (0, 1, 2, 500):
        audio = TrainingAudio()
        added = draw.integers(0, 700, size, np.uint64)
        audio.add(added.tolist())
        asked = draw.integers(0, 700, 300, np.uint64)
        assert np.array_equal(audio.has(asked), np.isin(asked, added))
        assert np.array_equal(audio.hashes, np.unique(added))
