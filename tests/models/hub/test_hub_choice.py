"""`--model hf:REPO` and `hf:FOLDER`: what is pinned and recorded, what is refused, what is never run."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from pathlib import Path

import pytest
import torch
from hub_models import noise, save, transformers
from safetensors.torch import load_file, save_file
from toys import Cli, rows, run

from aape_bench import hub
from aape_bench.errors import BenchError, ModelError, UsageError
from aape_bench.records import read_all
from aape_bench.selection import select_model, select_models

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The hub's cache on a machine without a connection: an empty folder."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_a_run_records_the_revision_and_is_done_once(cli: Cli, small_esc50: Path, tiny: Path, tmp_path: Path) -> None:
    for settings in ("", "{layer=1}"):
        status, _, err = run(cli, small_esc50, "--batch-size", 45, model=f"hf:{tiny}{settings}")
        assert status == 0, err
    assert "0 results computed" in run(cli, small_esc50, model=f"hf:{tiny}")[1]
    found = {record.model["label"]: record.model for _, record in read_all(tmp_path / "results")[0]}
    revision = next(iter(found.values()))["settings"]["revision"]
    short = revision.removeprefix("sha256:")[:8]
    assert set(found) == {f"hf:tiny@{short}", f"hf:tiny[layer=1]@{short}"}
    model = found[f"hf:tiny[layer=1]@{short}"]
    assert model["weights"] == f"hub:{short}"
    assert (model["settings"]["layer"], model["settings"]["type"]) == (1, "wav2vec2")
    assert str(tmp_path) not in json.dumps(model)
    row = next(one for one in rows(tmp_path / "results") if one["model"] == f"hf:tiny@{short}")
    assert row["pretrain_overlap"] == "unknown"


def test_what_decides_embeddings_is_in_the_identity(tiny: Path, tmp_path: Path) -> None:
    first = select_model(f"hf:{tiny}", {}, "default", 0)
    again = select_model(*first.words)
    assert again.identity == first.identity
    assert select_model(f"hf:{tiny}", {}, "default", 7).identity == first.identity
    assert select_model(f"hf:{tiny}", {"layer": "mean"}, "default", 0).identity != first.identity
    assert select_model(f"hf:{shutil.copytree(tiny, tmp_path / 'other')}", {}, "default", 0).identity == first.identity
    (tiny / "README.md").write_text("nothing that is read")
    assert select_model(f"hf:{tiny}", {}, "default", 0).identity == first.identity
    weights = load_file(tiny / "model.safetensors")
    weights["encoder.layer_norm.bias"] = weights["encoder.layer_norm.bias"] + 1
    save_file(weights, tiny / "model.safetensors", metadata={"format": "pt"})
    changed = select_model(f"hf:{tiny}", {}, "default", 0)
    assert (changed.identity != first.identity, changed.label != first.label) == (True, True)
    front_end = json.loads((tiny / "preprocessor_config.json").read_text())
    (tiny / "preprocessor_config.json").write_text(json.dumps({**front_end, "do_normalize": False}))
    assert select_model(f"hf:{tiny}", {}, "default", 0).identity not in (first.identity, changed.identity)


def test_random_weights_of_an_architecture(tiny: Path) -> None:
    zero, again, one = (select_model(f"hf:{tiny}", {}, "random", seed) for seed in (0, 0, 1))
    stored, audio = select_model(f"hf:{tiny}", {}, "default", 0), noise(1, 8000)
    assert (zero.label, zero.weights, zero.draws_from_seed) == ("hf:tiny@random", "random", True)
    assert zero.identity == again.identity
    assert zero.lineage == one.lineage != stored.lineage
    state = torch.random.get_rng_state()
    with torch.inference_mode():
        scenes = [choice.build().scene_embeddings(audio) for choice in (zero, again, one, stored)]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(scenes[0], scenes[1])
    assert not torch.allclose(scenes[0], scenes[2], atol=1e-3)
    assert not torch.allclose(scenes[0], scenes[3], atol=1e-3)


def test_a_repository_is_pinned_to_its_commit(offline: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = offline / "models--someone--tiny"
    shutil.copytree(tiny, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    monkeypatch.chdir(offline)
    (choice,) = select_models(["hf:someone/tiny"], {}, "default", [0])
    assert (choice.label, choice.weights) == (f"hf:someone/tiny@{COMMIT[:8]}", f"hub:{COMMIT[:8]}")
    assert choice.settings["revision"] == COMMIT
    assert choice.words[0] == f"hf:someone/tiny@{COMMIT}"
    assert select_model(*choice.words).identity == choice.identity
    assert choice.build().scene_embedding_size == 16
    with pytest.raises(ModelError, match=r"@v2 is not on this machine .* hf download someone/tiny --revision v2"):
        select_models(["hf:someone/tiny@v2"], {}, "default", [0])


@pytest.mark.parametrize(
    ("place", "matches"),
    [
        ("facebook/wav2vec2-base", r"is not on this machine .* hf download facebook/wav2vec2-base, .* HF_HOME"),
        ("a/b/c", r'"a/b/c" is no name of a hub repository'),
        ("./absent", r"There is no folder .*absent\. Name one"),
    ],
)
def test_what_is_not_there_is_one_paragraph(
    cli: Cli, offline: Path, small_esc50: Path, place: str, matches: str
) -> None:
    status, _, err = run(cli, small_esc50, model=f"hf:{place}")
    assert status == 2
    assert "Traceback" not in err
    (line,) = err.strip().splitlines()
    assert re.search(matches, line), line
    assert not offline.exists()


def test_what_names_no_model_is_refused(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny)
    for text in ("hf:", "hf:@", "hf:@main", "hf:someone/tiny@"):
        with pytest.raises(UsageError, match=rf'"{text}" names no model'):
            select_models([text], {}, "default", [0])
        with pytest.raises(UsageError, match="names no model"):
            select_model(text, {}, "default", 0)
    monkeypatch.chdir(tiny.parent)
    for text in ("hf:tiny@main", "hf:./tiny@main", f"hf:{tiny}@main"):
        with pytest.raises(UsageError, match=r"a folder has none\. Name it alone, hf:\S*tiny, "):
            select_models([text], {}, "default", [0])
    shutil.copytree(tiny, tiny.with_name("tiny@main"))  # a name of a folder like another
    (choice,) = select_models(["hf:tiny@main"], {}, "default", [0])
    assert choice.label.startswith("hf:tiny@main@")


def refused(folder: Path, match: str, kind: type[BenchError] = ModelError, weights: str = "default") -> None:
    with pytest.raises(kind, match=match):
        select_model(f"hf:{folder}", {}, weights, 0).build()


def test_folders_that_cannot_be_run(tiny: Path, tmp_path: Path) -> None:
    def changed(name: str, **settings: object) -> Path:
        shutil.rmtree(tmp_path / "changed", ignore_errors=True)
        folder = Path(shutil.copytree(tiny, tmp_path / "changed"))
        old = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**old, **settings}))
        return folder

    known = "audio-spectrogram-transformer, clap, data2vec-audio, hubert, wav2vec2, wavlm, whisper"
    refused(changed("config.json", model_type="bert"), f'architecture "bert".* run: {known}', UsageError)
    refused(changed("preprocessor_config.json", sampling_rate=None), "does not say its sample rate")
    other = changed("preprocessor_config.json", feature_extractor_type="SeamlessM4TFeatureExtractor")
    refused(other, "has the front end SeamlessM4TFeatureExtractor, not Wav2Vec2FeatureExtractor")
    refused(changed("config.json", hidden_size="wide"), "transformers .* cannot load the hub model changed")
    refused(changed("config.json", num_hidden_layers=3), "do not fit its config.json: encoder.layers.2.* is missing")
    refused(changed("config.json", intermediate_size=25), "is missing or of another shape")
    refused(tiny, "so --weights FILE does not fit", UsageError, weights="w.pt")
    for name, match in {
        "model.safetensors": "has no weights that can be read here",
        "config.json": "has no config.json",
        "preprocessor_config.json": "has no preprocessor_config.json",
    }.items():
        folder = changed("config.json")
        (folder / name).unlink()
        refused(folder, match)
    folder = changed("config.json")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-9])
    refused(folder, "transformers .* cannot load")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../tiny/model.safetensors"}}))
    refused(folder, "names ../tiny/model.safetensors, which is not there")
    (folder / "config.json").write_text("[" * 100_000)
    refused(folder, "cannot be read")


def rewritten(folder: Path, name: str, **settings: object) -> Path:
    (folder / name).write_text(json.dumps({**json.loads((folder / name).read_text()), **settings}))
    return folder


def test_what_building_raises_is_one_paragraph(tiny: Path, tmp_path: Path) -> None:
    refused(
        rewritten(tiny, "config.json", conv_stride=[0, 2, 2, 2, 2, 2, 2]),
        r"The hub model tiny cannot be built: config\.json .* conv_stride=\[0, ",
    )
    ast = save("audio-spectrogram-transformer", tmp_path / "ast")
    refused(
        rewritten(ast, "preprocessor_config.json", mean="x"), r"The hub model ast cannot be built as .*: ValueError"
    )


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("config.json", {"num_hidden_layers": 10**9}),
        ("config.json", {"hidden_size": 10**9}),
        ("config.json", {"audio_config": {"depths": [1, 10**9]}}),
        ("preprocessor_config.json", {"feature_size": 10**9}),
    ],
)
def test_absurd_sizes_are_refused_before_anything_is_built(tiny: Path, name: str, setting: dict[str, object]) -> None:
    with pytest.raises(ModelError, match=rf"The hub model tiny cannot be built: {re.escape(name)} .*=1000000000"):
        select_model(f"hf:{rewritten(tiny, name, **setting)}", {}, "random", 0)


def test_a_pipe_is_not_waited_for(tiny: Path) -> None:
    for name in ("config.json", "preprocessor_config.json"):
        stored = (tiny / name).read_bytes()
        (tiny / name).unlink()
        os.mkfifo(tiny / name)
        refused(tiny, rf"{re.escape(name)} is no regular file")
        (tiny / name).unlink()
        (tiny / name).write_bytes(stored)


def test_without_transformers_it_says_what_to_install(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "find_spec", lambda _: None)
    refused(tiny, "need transformers, which is not installed", UsageError)


def test_pickled_weights_are_read_where_there_are_no_others_and_run_no_code(tiny: Path, tmp_path: Path) -> None:
    audio = noise(1, 8000)
    with torch.inference_mode():
        expected = select_model(f"hf:{tiny}", {}, "default", 0).build().scene_embeddings(audio)
    torch.save(load_file(tiny / "model.safetensors"), tiny / "pytorch_model.bin")
    (tiny / "model.safetensors").unlink()
    with torch.inference_mode():
        assert torch.equal(select_model(f"hf:{tiny}", {}, "default", 0).build().scene_embeddings(audio), expected)

    class Touch:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (tmp_path / "ran",)

    for write in (lambda: torch.save({"a": Touch()}, tiny / "pytorch_model.bin"),
                  lambda: (tiny / "pytorch_model.bin").write_bytes(pickle.dumps(Touch()))):  # fmt: skip
        write()
        refused(tiny, r"cannot load the hub model tiny from \S+: it (names|is damaged)(?!.*weights_only)")
        assert not (tmp_path / "ran").exists()


CODE = """
import pathlib, torch, transformers
pathlib.Path(__file__).with_name("ran").touch()

class OwnConfig(transformers.PretrainedConfig):
    model_type = "own"
    def __init__(self, width=4, **settings):
        super().__init__(**settings)
        self.width = width

class OwnModel(transformers.PreTrainedModel):
    config_class = OwnConfig
    def __init__(self, config):
        super().__init__(config)
        self.layer = torch.nn.Linear(400, config.width)
        self.post_init()
    def forward(self, input_values, output_hidden_states=False, return_dict=True):
        hidden = self.layer(input_values.unfold(1, 400, 320))
        return transformers.modeling_outputs.BaseModelOutput(last_hidden_state=hidden)
"""


def test_remote_code_runs_by_permission_alone(
    cli: Cli, small_esc50: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "own_model.py").write_text(CODE)
    auto = {"AutoConfig": "own_model.OwnConfig", "AutoModel": "own_model.OwnModel"}
    (folder / "config.json").write_text(json.dumps({"model_type": "own", "width": 4, "auto_map": auto}))
    transformers.Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(folder)
    weight = noise(4, 400)
    save_file({"layer.weight": weight, "layer.bias": torch.zeros(4)}, folder / "model.safetensors", {"format": "pt"})

    status, _, err = run(cli, small_esc50, model=f"hf:{folder}")
    assert status == 2
    assert "brings code of its own, which was not run" in err
    assert not list(tmp_path.rglob("ran"))
    status, _, err = run(cli, small_esc50, "--trust-remote-code", model=f"logmel,hf:{folder}")
    assert status == 0, err
    assert list((tmp_path / "modules").rglob("ran"))

    choice = select_model(f"hf:{folder}", {"trust_remote_code": "true"}, "default", 0)
    encoder, audio = choice.build(), noise(2, 16000)
    random = [select_model(f"hf:{folder}", {"trust_remote_code": "true"}, "random", seed).build() for seed in (0, 1)]
    assert not torch.equal(*(one.scene_embeddings(audio) for one in random))
    with torch.inference_mode():
        scenes = encoder.scene_embeddings(audio, torch.tensor([16000, 4000]))
        frames, times = encoder.timestamp_embeddings(audio, torch.tensor([16000, 4000]))
    expected = audio[1:, :4000].unfold(1, 400, 320) @ weight.T
    assert torch.allclose(scenes[1], expected[0].mean(dim=0), atol=1e-5)
    assert torch.allclose(frames[1, :12], expected[0], atol=1e-5)
    assert times[1].isfinite().sum() == expected.shape[1]
    (folder / "own_model.py").write_text(CODE + "\nx = 1\n")
    assert select_model(f"hf:{folder}", {"trust_remote_code": "true"}, "default", 0).identity != choice.identity
    save_file({"layer.weight": weight}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"layer\.bias is missing"):
        choice.build()
    auto["AutoModel"] = "someone/else--own_model.OwnModel"
    (folder / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": auto}))
    with pytest.raises(ModelError, match="runs code of another repository"):
        select_model(f"hf:{folder}", {"trust_remote_code": "true"}, "default", 0)
    with pytest.raises(UsageError, match="brings code of its own, which was not run"):
        select_model(f"hf:{folder}", {}, "default", 0)
