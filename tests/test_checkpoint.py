"""Checkpoints: what is written comes back, everything else is refused without being opened."""

from __future__ import annotations

import pickle
import struct
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from aape_bench import registry
from aape_bench.checkpoint import load_checkpoint, read_header, save_checkpoint
from aape_bench.errors import CheckpointError
from aape_bench.identity import file_digest
from aape_bench.selection import choose_plugin, select_model, weights_of


def saved(path: Path, seed: int = 5, **settings: str) -> Path:
    choice = select_model("vit", {"blocks": "2", **settings}, "random", seed)
    save_checkpoint(path, choice.build(), "vit", choice.settings, {"steps": 3})
    return path


def test_weights_config_and_card_come_back(tmp_path: Path) -> None:
    file = saved(tmp_path / "a.safetensors")
    header = read_header(file)
    assert header.model == "vit"
    assert header.card == {"steps": 3}
    choice = select_model("vit", {}, str(file), seed=0)
    assert choice.settings["blocks"] == 2
    assert choice.weights.startswith("file:")
    assert choice.label == f"vit[blocks=2]@{choice.weights[5:]}"
    audio = torch.randn(2, 16000, generator=torch.Generator().manual_seed(0)) / 10
    trained = select_model("vit", {"blocks": "2"}, "random", 5).build()
    assert torch.equal(choice.build().scene_embeddings(audio), trained.scene_embeddings(audio))


def test_other_weights_are_another_identity(tmp_path: Path) -> None:
    one = select_model("vit", {}, str(saved(tmp_path / "a.safetensors", seed=5)), 0)
    two = select_model("vit", {}, str(saved(tmp_path / "b.safetensors", seed=6)), 0)
    assert one.identity != two.identity
    # the weights decide, not the seed they would have been drawn from
    assert one.identity == select_model("vit", {}, str(tmp_path / "a.safetensors"), 9).identity


def test_inference_settings_may_differ_architecture_may_not(tmp_path: Path) -> None:
    file = saved(tmp_path / "a.safetensors")
    assert select_model("vit", {"pooling": "cls"}, str(file), 0).settings["pooling"] == "cls"
    with pytest.raises(CheckpointError, match="trained with blocks=2, which --set blocks=3 contradicts"):
        select_model("vit", {"blocks": "3"}, str(file), 0)


def test_weights_that_come_with_an_encoder_are_its_default(tmp_path: Path) -> None:
    file = saved(tmp_path / "a.safetensors")
    plugin = replace(registry.model("vit"), default_weights=lambda: str(file))
    shipped, named, random = (choose_plugin(plugin, {}, text, 0) for text in ("default", str(file), "random"))
    assert shipped.weights == f"shipped:{file_digest(file)[:8]}"
    assert shipped.label == f"vit@{file_digest(file)[:8]}"
    assert shipped.identity == named.identity
    assert (random.weights, random.label) == ("random", "vit@random")
    pooled = choose_plugin(plugin, {"pooling": "cls"}, "default", 0)
    assert pooled.label == f"vit[pooling=cls]@{file_digest(file)[:8]}"
    assert choose_plugin(plugin, {"blocks": "2"}, "default", 0).label == shipped.label
    assert "a.safetensors" in weights_of(plugin)


def test_default_weights_never_give_way_to_random_ones_unsaid(tmp_path: Path) -> None:
    file = saved(tmp_path / "a.safetensors")
    plugin = replace(registry.model("vit"), default_weights=lambda: str(file))
    with pytest.raises(CheckpointError, match=r"trained with blocks=2, not 3\. .* vit\{blocks=3;weights=random\}"):
        choose_plugin(plugin, {"blocks": "3"}, "default", 0)
    assert choose_plugin(plugin, {"blocks": "3"}, "random", 0).weights == "random"
    gone = replace(plugin, default_weights=lambda: str(tmp_path / "gone.safetensors"))
    with pytest.raises(CheckpointError, match=r"no checkpoint .*gone\.safetensors"):
        choose_plugin(gone, {}, "default", 0)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match='of the model "vit", not "aape"'):
        select_model("aape", {}, str(saved(tmp_path / "a.safetensors")), 0)


def test_a_checkpoint_of_another_shape_is_refused(tmp_path: Path) -> None:
    narrow = select_model("vit", {"blocks": "2", "width": "96"}, "random", 0)
    wide = select_model("vit", {"blocks": "2"}, "random", 0)
    save_checkpoint(tmp_path / "a.safetensors", narrow.build(), "vit", wide.settings, {})
    with pytest.raises(CheckpointError, match=r"does not fit the model: .* is \[.*96.*\] there and \[.*192.*\] in"):
        select_model("vit", {}, str(tmp_path / "a.safetensors"), 0).build()
    state = dict(list(wide.build().state_dict().items())[1:])
    missing = torch.nn.Module()
    for name, tensor in state.items():
        missing.register_buffer(name.replace(".", "_"), tensor)
    save_checkpoint(tmp_path / "b.safetensors", missing, "vit", wide.settings, {})
    with pytest.raises(CheckpointError, match="it has no "):
        load_checkpoint(wide.build(), tmp_path / "b.safetensors")


class _Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("never-run"),))


@pytest.mark.parametrize("kind", ["pickle", "torch", "empty", "text", "cut", "huge header", "no json", "missing"])
def test_other_files_are_refused(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "a.safetensors"
    if kind == "pickle":
        file.write_bytes(pickle.dumps(_Payload()))
    elif kind == "torch":
        torch.save({"w": torch.zeros(3)}, file)
    elif kind == "empty":
        file.write_bytes(b"")
    elif kind == "text":
        file.write_text("no weights here " * 20)
    elif kind == "cut":
        whole = saved(file).read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
    elif kind == "huge header":
        file.write_bytes(struct.pack("<Q", 2**60) + b"{}")
    elif kind == "no json":
        file.write_bytes(struct.pack("<Q", 10) + b'{"a": [1,,')
    with pytest.raises(CheckpointError) as refusal:
        select_model("vit", {}, str(file), 0).build()
    assert "a.safetensors" in str(refusal.value)
    assert not (tmp_path / "never-run").exists()


def test_a_checkpoint_with_nan_weights_is_refused(tmp_path: Path) -> None:
    choice = select_model("vit", {"blocks": "1"}, "random", 0)
    encoder = choice.build()
    with torch.no_grad():
        next(encoder.parameters()).fill_(float("nan"))
    save_checkpoint(tmp_path / "a.safetensors", encoder, "vit", choice.settings, {})
    with pytest.raises(CheckpointError, match=r"a\.safetensors holds NaN"):
        select_model("vit", {}, str(tmp_path / "a.safetensors"), 0).build()


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.int8, torch.complex64])
def test_weights_of_an_odd_type_are_refused(tmp_path: Path, kind: torch.dtype) -> None:
    save_file({"weight": torch.ones(2, 2).to(kind), "bias": torch.zeros(2)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=f"weight is of type {kind}. Convert it to torch.float32"):
        load_checkpoint(torch.nn.Linear(2, 2), tmp_path / "a.safetensors")


def test_an_inference_setting_that_the_header_lacks_is_applied(tmp_path: Path) -> None:
    choice = select_model("vit", {"blocks": "1"}, "random", 0)
    older = {key: value for key, value in choice.settings.items() if key != "pooling"}
    save_checkpoint(tmp_path / "a.safetensors", choice.build(), "vit", older, {})
    assert select_model("vit", {"pooling": "cls"}, str(tmp_path / "a.safetensors"), 0).settings["pooling"] == "cls"


def test_a_setting_that_only_the_checkpoints_stem_reads_may_be_repeated(tmp_path: Path) -> None:
    settings = {"stem": "lowpass", "lowpass_taps": "97", "blocks": "1"}
    choice = select_model("aape", settings, "random", 0)
    save_checkpoint(tmp_path / "a.safetensors", choice.build(), "aape", choice.settings, {})
    again = select_model("aape", {"lowpass_taps": "97"}, str(tmp_path / "a.safetensors"), 0)
    assert again.settings["lowpass_taps"] == 97


def test_a_config_of_another_version_is_refused(tmp_path: Path) -> None:
    choice = select_model("vit", {"blocks": "1"}, "random", 0)
    config = {**asdict(choice.config), "spline": 3}  # type: ignore[attr-defined]
    save_checkpoint(tmp_path / "a.safetensors", choice.build(), "vit", config, {})
    with pytest.raises(CheckpointError, match="spline"):
        select_model("vit", {}, str(tmp_path / "a.safetensors"), 0)
