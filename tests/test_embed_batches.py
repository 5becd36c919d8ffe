"""How clips are put into batches: like lengths together, nothing padded where an encoder may not see it, and smaller
batches where memory does not do; and the same numbers whatever the batches."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from hear_folders import make_folder
from torch import Tensor
from toys import FOLDS, Cli, Moments, rows

from aape_bench import cache, runner
from aape_bench.addresses import entry_of, key_of
from aape_bench.cache import EmbeddingEntry, Treatment
from aape_bench.clips import ClipReader
from aape_bench.embed import embed
from aape_bench.errors import ModelError
from aape_bench.frozen import automatic_batch_size, embed_shards
from aape_bench.planning import Options, choose_protocols, plan
from aape_bench.progress import Silent
from aape_bench.selection import select_models, select_tasks

LENGTHS = [900, 16000, 500, 900, 7000, 16000, 900, 500, 16000, 7000, 900, 16000, 500]


class Seen(Moments):
    """Notes the shape of every batch and how much of it is padding."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, int]] = []
        self.padding = 0

    def scene_embeddings(self, audio: Tensor, lengths: Tensor | None = None) -> Tensor:
        self.shapes.append((len(audio), audio.shape[1]))
        self.padding += 0 if lengths is None else int((audio.shape[1] - lengths).sum())
        return super().scene_embeddings(audio, lengths)


class Whole(Seen):
    takes_lengths = False


class Small(Seen):
    """As a device whose memory ends at 2 clips that are not very short."""

    def scene_embeddings(self, audio: Tensor, lengths: Tensor | None = None) -> Tensor:
        if len(audio) > 2 and audio.shape[1] > 900:
            raise torch.OutOfMemoryError
        return super().scene_embeddings(audio, lengths)


@pytest.fixture
def clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, pd.DataFrame]:
    """13 clips of 4 lengths; shards of 9 and 4."""
    monkeypatch.setattr(cache, "SHARD_CLIPS", 9)
    rng = np.random.default_rng(0)
    for row, length in enumerate(LENGTHS):
        soundfile.write(tmp_path / f"{row}.wav", 0.1 * rng.standard_normal(length), 16000, subtype="FLOAT")
    table = pd.DataFrame({"id": range(13), "path": [f"{row}.wav" for row in range(13)], "start": np.nan, "end": np.nan})
    return tmp_path, table


def embedded(
    encoder: Moments, clips: tuple[Path, pd.DataFrame], folder: Path, size: int, seconds: float | None = None
) -> np.ndarray:
    entry = EmbeddingEntry(folder, "encoder", "data", Treatment(16000, "plain", "code"), 13)
    reader = ClipReader(replace(FOLDS, clip_seconds=seconds), *clips, None, 16000, not encoder.takes_lengths)
    embed(encoder, reader, entry, size, "cpu", False, lambda _: None)
    return entry.read()


def test_clips_of_like_lengths_share_a_batch(clips: tuple[Path, pd.DataFrame], tmp_path: Path) -> None:
    encoder = Seen()
    found = embedded(encoder, clips, tmp_path / "cache", 3)
    # of a shard, 3 of one length as soon as they are there, then by falling length; never across shards
    assert encoder.shapes == [(3, 900), (3, 16000), (3, 7000), (3, 16000), (1, 500)]
    assert encoder.padding == (7000 - 500) * 2 + (16000 - 7000) + (16000 - 900)
    assert found[:, 2].tolist() == LENGTHS


def test_an_encoder_without_lengths_gets_equal_clips_together(clips: tuple[Path, pd.DataFrame], tmp_path: Path) -> None:
    encoder = Whole()
    found = embedded(encoder, clips, tmp_path / "cache", 3)
    assert sorted(encoder.shapes, reverse=True) == sorted(
        [(3, 900), (3, 16000), (1, 7000), (2, 500), (1, 16000), (1, 7000), (1, 900), (1, 500)], reverse=True
    )
    assert (found[:, 2] == LENGTHS).all()
    alone = embedded(Whole(), clips, tmp_path / "alone", 1)
    assert np.abs(found - alone).max() < 1e-6


def test_long_clips_of_any_length_come_in_smaller_batches(
    clips: tuple[Path, pd.DataFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aape_bench.clips._ROOM", 40000)
    encoder = Seen()
    embedded(encoder, clips, tmp_path / "cache", 8)
    assert max(n * length for n, length in encoder.shapes) <= 40000
    assert max(n for n, _ in encoder.shapes) > 3
    # a task's own length is never cut below the batch that was asked for
    fixed = Whole()
    embedded(fixed, clips, tmp_path / "fixed", 8, seconds=1.0)
    assert fixed.shapes == [(8, 16000), (1, 16000), (4, 16000)]


def test_batches_are_halved_until_memory_does(clips: tuple[Path, pd.DataFrame], tmp_path: Path) -> None:
    entry = EmbeddingEntry(tmp_path / "c", "encoder", "data", Treatment(16000, "plain", "code"), 13)
    reader = ClipReader(FOLDS, *clips, None, 16000, False)
    size, automatic = entry.begin(7, automatic=True)
    counted: list[int] = []
    encoder = Small()
    embed(encoder, reader, entry, size, "cpu", False, counted.append, shrink=entry.shrink)
    assert automatic
    assert sum(counted) == 13
    # 7 were too many; then 3 short ones did, and 3 long ones did not: their shard is begun again
    assert encoder.shapes == [(3, 900)] + [(1, length) for length in LENGTHS]
    # whoever goes on begins with what did
    assert entry.begin(7, automatic=True) == (1, True)
    assert entry.complete()["stage"]["batch_size"] == 1
    alone = embedded(Seen(), clips, tmp_path / "alone", 1, seconds=1.0)
    assert np.array_equal(entry.read(), alone)


def test_a_size_that_was_named_is_kept(clips: tuple[Path, pd.DataFrame], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"encoder was given batches of up to 4 clips.*smaller --batch-size"):
        embedded(Small(), clips, tmp_path / "c", 4)


def test_a_batch_of_one_is_the_last_resort(clips: tuple[Path, pd.DataFrame], tmp_path: Path) -> None:
    class Never(Seen):
        def scene_embeddings(self, audio: Tensor, lengths: Tensor | None = None) -> Tensor:
            raise torch.OutOfMemoryError(f"{len(audio)} {lengths}")

    entry = EmbeddingEntry(tmp_path / "c", "encoder", "data", Treatment(16000, "plain", "code"), 13)
    entry.begin(8, automatic=True)
    with pytest.raises(ModelError, match="larger device"):
        embed(
            Never(), ClipReader(FOLDS, *clips, None, 16000, False), entry, 8, "cpu", False, lambda _: None,
            shrink=entry.shrink,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("device", "seconds", "size"), [("cpu", 5.0, 16), ("cpu", 0.1, 128), ("cpu", 300.0, 1), ("cuda", None, 128)]
)
def test_the_first_size_goes_by_device_and_length(device: str, seconds: float | None, size: int) -> None:
    assert automatic_batch_size(device, seconds) == size


TINY = "vit{blocks=1;width=16;heads=1;weights=random}"


def test_precision_is_part_of_every_name(cli: Cli, tmp_path: Path) -> None:
    task = f"hear:{make_folder(tmp_path / 'toy', clips=3)}"
    asked = ("run", "--model", TINY, "--task", task, "--protocol", "knn")
    assert cli(*asked)[0] == 0
    status, _, err = cli(*asked, "--precision", "bf16", "--batch-size", "5")
    assert status == 0, err
    plain, other = sorted(rows(tmp_path / "results"), key=lambda row: len(row["model"]))
    assert other["model"] == f"{plain['model']}@bf16"
    records = [json.loads((tmp_path / "results" / row["record"]).read_text()) for row in (plain, other)]
    assert [record["treatment"]["precision"] for record in records] == ["float32", "bf16"]
    assert [record["stages"]["embed"]["batch_size"] for record in records] == [128, 5]
    assert all(0 < record["stages"]["embed"]["busy"] <= 1 for record in records)
    shards = [np.load(path) for path in sorted((tmp_path / "cache").rglob("*.npy"))]
    assert [shard.dtype for shard in shards] == [np.float32] * 2
    assert 1e-5 < np.abs(shards[0] - shards[1]).max() < 0.2


def test_shards_may_be_embedded_apart(small_esc50: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "SHARD_CLIPS", 20)
    shards = {}
    for name, pieces in (("at once", [None]), ("apart", [[2], [0, 2], [1]])):
        options = Options(small_esc50, tmp_path / name, tmp_path / f"{name} results", allow_partial=True)
        models = select_models(["logmel"], {}, "default", [0])
        (job,), _ = plan(models, select_tasks(["esc50"]), choose_protocols(["knn"], {}), options)
        entry = entry_of(job.model, job.data, job.protocol, job.data.fingerprints(), options)
        for piece in pieces:
            assert entry.summary() is None
            embed_shards(job, options, Silent(), piece)
        assert entry.missing() == []
        (path,) = runner.run([job], options).paths
        stage = json.loads(path.read_text())["stages"]["embed"]
        assert 0 < stage["busy"] <= 1
        shards[name] = [file.read_bytes() for file in sorted(tmp_path.rglob(f"{name}/**/*.npy"))]
    assert len(shards["apart"]) == 3
    assert shards["apart"] == shards["at once"]


def test_training_keeps_a_precision_of_its_own(small_esc50: Path, tmp_path: Path) -> None:
    plain = Options(small_esc50, tmp_path / "cache", tmp_path / "results", allow_partial=True)
    models = select_models([TINY], {}, "default", [0])
    keys = []
    for options in (plain, replace(plain, precision="bf16")):
        (job,), _ = plan(models, select_tasks(["esc50"]), choose_protocols(["finetune"], {}), options)
        keys.append((job.model.label, key_of(job.model, job.data, job.protocol, job.data.fingerprints(), options)))
    assert keys[0] == keys[1]


def test_tasks_that_share_audio_embed_it_once(cli: Cli, tmp_path: Path) -> None:
    first = make_folder(tmp_path / "first", clips=3)
    other = tmp_path / "other"
    shutil.copytree(first, other)
    told = json.loads((other / "task_metadata.json").read_text())
    (other / "task_metadata.json").write_text(json.dumps({**told, "task_name": "another"}))
    assert cli("run", "--model", "logmel", "--task", f"hear:{first}", "--protocol", "knn")[0] == 0
    (complete,) = (tmp_path / "cache").rglob("complete.json")
    before = complete.stat().st_mtime_ns
    for split in other.glob("*.json"):
        if split.name != "task_metadata.json":  # every label is another one
            labels = json.loads(split.read_text())
            turned = dict(zip(labels, [*list(labels.values())[1:], *list(labels.values())[:1]], strict=True))
            split.write_text(json.dumps(turned))
    status, out, err = cli("run", "--model", "logmel", "--task", f"hear:{other}", "--protocol", "knn", "--dry-run")
    assert "fit, embeddings are cached" in " ".join(out.split()) or "read new files" in " ".join(out.split())
    status, out, err = cli("run", "--model", "logmel", "--task", f"hear:{other}", "--protocol", "knn")
    assert (status, "1 result computed" in out) == (0, True), err
    assert [one.stat().st_mtime_ns for one in (tmp_path / "cache").rglob("complete.json")] == [before]
