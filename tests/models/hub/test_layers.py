"""Several layers of a hub model on the same audio: one pass of the encoder, and every layer's own embeddings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hear_folders import make_folder
from hub_models import noise, save, transformers
from toys import Cli, contents, run

from aape_bench import cache
from aape_bench.models.hub.layers import Layers
from aape_bench.records import read_all
from aape_bench.selection import select_model

LAYERS = ("last", "0", "1", "mean", "all")
pytestmark = pytest.mark.filterwarnings("ignore:At least one mel filter")


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Filled with, of every pass of a wav2vec 2.0, whether all its layers are read."""
    made: list[bool] = []
    forward = transformers.Wav2Vec2Model.forward

    def counted(self: Any, *inputs: Any, **more: Any) -> Any:
        made.append(bool(more["output_hidden_states"]))
        return forward(self, *inputs, **more)

    monkeypatch.setattr(transformers.Wav2Vec2Model, "forward", counted)
    return made


def of_layers(folder: Path, *layers: str) -> str:
    return ",".join(f"hf:{folder}{{layer={layer}}}" for layer in layers)


@pytest.mark.parametrize("kind", ["wav2vec2", "wavlm", "audio-spectrogram-transformer", "whisper"])
def test_layers_side_by_side_are_those_apart_to_the_bit(kind: str, tmp_path: Path) -> None:
    folder = save(kind, tmp_path / kind)
    first, *others = [select_model(f"hf:{folder}", {"layer": layer}, "default", 0) for layer in LAYERS]
    assert len({choice.reads_from for choice in (first, *others)}) == 1
    together, others_sizes = first.build_beside(others)
    sizes = [16, *map(int, filter(None, others_sizes))]
    assert sizes == [16, 16, 16, 16, 48]
    audio, lengths = noise(3, 20000), torch.tensor([20000, 9731, 16000])
    audio = audio * (torch.arange(20000) < lengths[:, None])
    with torch.inference_mode():
        scenes = together.scene_embeddings(audio, lengths).split(sizes, dim=1)
        frames, times = together.timestamp_embeddings(audio, lengths)
        for choice, scene, moments in zip((first, *others), scenes, frames.split(sizes, dim=2), strict=True):
            alone = choice.build()
            assert torch.equal(scene, alone.scene_embeddings(audio, lengths)), choice.label
            own, own_times = alone.timestamp_embeddings(audio, lengths)
            assert torch.equal(moments, own), choice.label
            assert torch.equal(times.nan_to_num(-1), own_times.nan_to_num(-1))


def test_what_is_no_other_layer_of_the_same_is_no_pass_of_it(tiny: Path, tmp_path: Path) -> None:
    plain = select_model(f"hf:{tiny}", {}, "default", 0)
    drawn = [select_model(f"hf:{tiny}", {}, "random", seed) for seed in (0, 1)]
    other = select_model(f"hf:{save('hubert', tmp_path / 'hubert')}", {}, "default", 0)
    assert len({choice.reads_from for choice in (plain, *drawn, other)}) == 4
    assert select_model("logmel", {}, "default", 0).reads_from is None
    clap = f"hf:{save('clap', tmp_path / 'clap')}"
    first, second = (select_model(clap, {"layer": layer}, "default", 0) for layer in ("last", "1"))
    together, sizes = first.build_beside([second])
    assert sizes == [None]
    assert together.scene_embedding_size == first.build().scene_embedding_size


@pytest.mark.parametrize("kind", ["multiclass", "event"])
def test_a_run_of_layers_takes_one_pass_and_leaves_what_runs_apart_leave(
    cli: Cli, tiny: Path, tmp_path: Path, passes: list[bool], monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    monkeypatch.setattr(cache, "SHARD_CLIPS", 8)
    task = f"hear:{make_folder(tmp_path / 'toy', kind, clips=4, seconds=(1.0, 0.7))}"
    asked = ("run", "--task", task, "--protocol", "linear", "--batch-size", "4")
    found = {}
    for name, several in (("apart", [of_layers(tiny, layer) for layer in ("0", "1", "last")]), ("together", None)):
        folders = ("--cache-dir", str(tmp_path / name), "--results-dir", str(tmp_path / f"{name}-results"))
        passes.clear()
        for models in several or [of_layers(tiny, "0", "1", "last")]:
            status, _, err = cli(*asked, "--model", models, *folders)
            assert status == 0, err
        count = len(passes)
        embeddings = {path: data for path, data in contents(tmp_path / name).items() if path.endswith(".npy")}
        found[name] = (embeddings, contents(tmp_path / f"{name}-results" / "predictions"), count)
    assert found["apart"][:2] == found["together"][:2]
    assert found["apart"][2] == 3 * found["together"][2]
    records = [record for _, record in read_all(tmp_path / "together-results")[0]]
    assert {record.model["dimension"] for record in records} == {16}
    assert len({record.stages["embed"]["seconds"] for record in records}) == 1  # a third each


@pytest.mark.parametrize("executor", ["local", "local:2"])
def test_a_layer_that_does_not_exist_keeps_no_other_from_the_pass(
    cli: Cli, small_esc50: Path, tiny: Path, tmp_path: Path, passes: list[bool], executor: str
) -> None:
    line = ("--executor", executor, "--protocol", "knn")
    alone = ("--cache-dir", tmp_path / "alone", "--results-dir", tmp_path / "alone")
    assert run(cli, small_esc50, "--protocol", "knn", *alone, model=of_layers(tiny, "0"))[0] == 0
    count = len(passes)
    passes.clear()
    status, _, err = run(cli, small_esc50, *line, model=of_layers(tiny, "99", "0", "98", "last"))
    assert status == 2
    assert err.count("layer=99 does not exist") == err.count("layer=98 does not exist") == 1
    assert "one by one" not in err
    assert len(passes) == (count if executor == "local" else 0)  # else in other processes
    found = {json.dumps(record.model["settings"]["layer"]) for _, record in read_all(tmp_path / "results")[0]}
    assert found == {"0", '"last"'}
    begun = [path.parent for path in (tmp_path / "cache").rglob("entry.json")]
    assert len(begun) == len([folder for folder in begun if any(folder.glob("*.npy"))]) == 2


def test_what_memory_does_not_do_for_together_is_done_one_by_one_with_its_own_batches(
    cli: Cli, small_esc50: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Layers, "scene_embeddings", full)
    status, _, err = run(cli, small_esc50, "--protocol", "knn", model=of_layers(tiny, "0", "1"))
    assert status == 0, err
    assert err.count("its layers are embedded one by one") == 1
    records = [record for _, record in read_all(tmp_path / "results")[0]]
    assert {record.stages["embed"]["batch_size"] for record in records} == {16}  # of 5 s clips


def test_few_layers_of_moments_are_in_memory_at_once(cli: Cli, tiny: Path, tmp_path: Path, passes: list[bool]) -> None:
    task = f"hear:{make_folder(tmp_path / 'toy', 'event', clips=3, seconds=(1.0,))}"
    line = ("run", "--task", task, "--protocol", "linear")
    assert cli(*line, "--model", of_layers(tiny, "0", "1", "2", "last"))[0] == 0
    count = len(passes)
    passes.clear()
    both = ("--cache-dir", str(tmp_path / "other"), "--results-dir", str(tmp_path / "other"))
    assert cli(*line, *both, "--model", of_layers(tiny, "0", "1", "2", "last", "mean"))[0] == 0
    assert len(passes) == 2 * count


def test_what_was_begun_with_other_batches_goes_on_alone(
    cli: Cli, small_esc50: Path, tiny: Path, tmp_path: Path, passes: list[bool]
) -> None:
    def passes_of(size: int, *layers: str) -> int:
        passes.clear()
        for rest in [*(tmp_path / "cache").rglob("*.npy"), *(tmp_path / "results").rglob("*.json")]:
            rest.unlink()
        line = ("--batch-size", size, "--protocol", "knn")
        status, _, err = run(cli, small_esc50, *line, model=of_layers(tiny, *layers))
        assert status == 0, err
        assert ("continuing with batches of 7" in err) == (len(layers) > 1)
        return len(passes)

    assert passes_of(7, "1") + passes_of(9, "0") == passes_of(9, "0", "1")
