"""`--model file.py:FUNCTION`: a model in a file of one's own, and what is wrong with some."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from toys import Cli, rows, run

from aape_bench.errors import BenchError, ModelError, UsageError
from aape_bench.hear_in import as_loaded
from aape_bench.selection import select_model, select_models

ENCODER = """
import torch
from aape_bench.encoder import Encoder
from loud_helpers.level import level

class Loudness(Encoder):
    sample_rate, scene_embedding_size, timestamp_embedding_size = 16000, 2, 2
    takes_lengths = False
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)
    def scene_embeddings(self, audio, lengths=None):
        return self.layer(torch.stack([level(audio), audio.std(1)], 1))

def make():
    torch.nn.init.eye_(encoder.layer.weight)
    torch.nn.init.zeros_(encoder.layer.bias)
    return encoder

def drawn():
    return Loudness()

def wrong():
    return torch.nn.Linear(2, 2)

def lazy():
    made = Loudness()
    made.layer = torch.nn.LazyLinear(2)
    return made

def empty():
    made = Loudness()
    made.layer = torch.nn.Linear(2, 2, device="meta")
    return made

def unreadable():
    made = Loudness()
    made.layer.register_state_dict_post_hook(lambda *_: 1 / 0)
    return made

class Forgetful(Loudness):
    def __init__(self):
        pass

class Speechless(Exception):
    def __str__(self):
        raise ValueError

def speechless():
    raise Speechless

def raises():
    raise RuntimeError("no such\\nthing")

encoder = Loudness()
number = 3
"""
HEAR = """
import torch

class Model(torch.nn.Module):
    sample_rate, scene_embedding_size, timestamp_embedding_size = 16000, 1, 1

def load_model(path=""):
    model = Model()
    model.register_buffer("gain", torch.tensor(float(open(path).read()) if path else 1.0))
    return model

def get_scene_embeddings(audio, model):
    return model.gain * audio.std(1, keepdim=True)

def get_timestamp_embeddings(audio, model):
    return audio[:, ::1600, None], 100.0 * torch.arange(audio.shape[1] // 1600).expand(len(audio), -1)
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file with a package beside it, and an import path and modules of its own."""
    (tmp_path / "mine" / "loud_helpers").mkdir(parents=True)
    (tmp_path / "mine" / "loud_helpers" / "level.py").write_text(
        "from .deeper import power\ndef level(audio):\n    return power(audio) ** 0.5\n"
    )
    (tmp_path / "mine" / "loud_helpers" / "deeper.py").write_text("def power(audio):\n    return (audio**2).mean(1)\n")
    (tmp_path / "mine" / "loud.py").write_text(ENCODER)
    (tmp_path / "mine" / "unused.py").write_text("1 / 0\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path / "mine" / "loud.py"
    forget()


def forget() -> None:
    """Read and import everything as a new process does."""
    from aape_bench import identity

    identity._code_digest.cache_clear()
    for name in [name for name in sys.modules if name.startswith(("loud_helpers", "aape_bench_model_"))]:
        del sys.modules[name]


def identity_of(file: Path, function: str = "make", seed: int = 0) -> str:
    forget()
    return select_model(f"{file}:{function}", {}, "default", seed).identity


def test_an_encoder_in_a_file_runs(
    cli: Cli, small_esc50: Path, tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    status, _, err = run(cli, small_esc50, model="loud.py:make")
    assert status == 0, err
    (row,) = rows(tmp_path / "results")
    assert (row["model"], row["weights"], row["parameters"]) == ("loud.py:make", "module", "6")
    assert "0 results computed" in run(cli, small_esc50, model=str(file) + ":make")[1]


def test_weights_drawn_from_the_seed_are_random_weights(file: Path) -> None:
    one, again, two = (select_models([f"{file}:drawn"], {}, "default", [seed])[0] for seed in (0, 0, 1))
    assert one.weights == "random"
    assert one.identity == again.identity != two.identity
    assert one.lineage == two.lineage


def test_a_hear_module_is_a_file_with_its_load_model(cli: Cli, small_esc50: Path, tmp_path: Path) -> None:
    (tmp_path / "hear_file.py").write_text(HEAR)
    (tmp_path / "gain").write_text("2.0")
    status, _, err = run(
        cli,
        small_esc50,
        model="{0}:load_model,{0}:load_model{{weights={1}}}".format(tmp_path / "hear_file.py", tmp_path / "gain"),
    )
    assert status == 0, err
    assert {row["weights"][:5] for row in rows(tmp_path / "results")} == {"modul", "file:"}


def test_the_weights_of_an_encoder_are_safetensors(file: Path, tmp_path: Path) -> None:
    import torch

    from aape_bench.checkpoint import save_checkpoint

    trained = select_model(f"{file}:make", {}, "default", 0).build_anew()
    torch.nn.init.ones_(trained.get_parameter("layer.bias"))
    save_checkpoint(tmp_path / "weights.safetensors", trained, "", {}, {})
    choice = select_model(f"{file}:make", {}, str(tmp_path / "weights.safetensors"), 0)
    assert torch.equal(choice.build().get_parameter("layer.bias"), torch.ones(2))
    assert choice.weights.startswith("file:")
    assert choice.label == f"loud.py:make@{choice.weights[5:]}"


def test_what_may_be_trained_is_shared_with_no_one(file: Path) -> None:
    choice = select_model(f"{file}:make", {}, "default", 0)
    assert choice.build_anew() is not choice.build()


def test_changed_code_is_another_model(file: Path) -> None:
    before = identity_of(file)
    assert identity_of(file) == before
    (file.parent / "unused.py").write_text("2 / 0\n")
    file.write_text("# a comment\n" + file.read_text())
    assert identity_of(file) == before
    (file.parent / "loud_helpers" / "deeper.py").write_text("def power(audio):\n    return (audio**4).mean(1)\n")
    changed = identity_of(file)
    assert changed != before
    file.write_text(file.read_text().replace("audio.std(1)", "audio.var(1)"))
    assert identity_of(file) not in (before, changed)


def test_the_code_of_this_package_that_it_uses_counts(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from aape_bench import identity

    before, honest, other = identity_of(file), identity._code_digest, identity.module_file("aape_bench.encoder")
    monkeypatch.setattr(identity, "_code_digest", lambda one: "changed" if one == other else honest(one))
    monkeypatch.setattr(f"{__name__}.forget", lambda: None)
    assert identity_of(file) != before


def test_two_files_with_helpers_of_one_name_are_not_mixed(file: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(file.parent, tmp_path / "other")
    with pytest.raises(UsageError, match=r'imports "loud_helpers.level", which here is .*mine'):
        select_models([f"{file}:make", f"{tmp_path / 'other' / 'loud.py'}:drawn"], {}, "default", [0])
    (tmp_path / "hear_file.py").write_text(HEAR)
    shutil.copy(tmp_path / "hear_file.py", tmp_path / "other" / "hear_file.py")
    with pytest.raises(UsageError, match=r"Two models are called hear_file.py:load_model"):
        select_models([f"{tmp_path / at / 'hear_file.py'}:load_model" for at in (".", "other")], {}, "default", [0])


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("absent.py:make", UsageError, "There is no file"),
        ("loud.py", UsageError, "names no function"),
        ("loud.py:", UsageError, r"Name it \S*loud.py:FUNCTION"),
        ("loud.py:nothing", UsageError, 'has no function "nothing"'),
        ("loud.py:number", UsageError, 'has no function "number"'),
        ("loud.py:wrong", ModelError, "returns a Linear, not an aape_bench.encoder.Encoder"),
        ("loud.py:raises", ModelError, r"failed in raises\(\): RuntimeError: no such.thing \(loud.py, line \d+\)"),
        ("loud.py:lazy", ModelError, "The parameter layer.weight of the model file .* has no values: .* a lazy layer"),
        ("loud.py:empty", ModelError, 'has no values: .* the device "meta"'),
        ("loud.py:unreadable", ModelError, r"failed in its state_dict\(\): ZeroDivisionError"),
        ("loud.py:Forgetful", ModelError, r"failed in Forgetful\(\): AttributeError: 'Forgetful' object has no"),
        ("loud.py:speechless", ModelError, r"failed in speechless\(\): Speechless \(loud.py"),
        ("unused.py:make", ModelError, r"failed in its own code: ZeroDivisionError.*\(unused.py, line 1\)"),
        ("loud.py:make{blocks=2}", UsageError, 'has no settings, but "blocks" is set'),
        ("loud.py:make{weights=random}", UsageError, "loads its own weights"),
        ("loud.py:make{weights=gone.pt}", BenchError, "There is no checkpoint"),
    ],
)
def test_what_cannot_be_used_is_one_paragraph(
    cli: Cli, small_esc50: Path, file: Path, name: str, error: type[BenchError], said: str
) -> None:
    import re

    status, out, err = run(cli, small_esc50, model=f"{file.parent}/{name}")
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert re.search(said, err), err
    with pytest.raises(error):
        select_models([f"{file.parent}/{name}"], {}, "default", [0])


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise RuntimeError('my bug')", "RuntimeError: my bug"),
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("raise OSError(2, 'x', 'y')", "FileNotFoundError"),
        ("return [1.0]", "returns a list"),
        ("return audio.numpy()", "returns a ndarray"),
    ],
)
def test_an_encoder_that_fails_does_not_stop_the_others(
    cli: Cli, small_esc50: Path, tmp_path: Path, file: Path, body: str, said: str
) -> None:
    whole = "return self.layer(torch.stack([level(audio), audio.std(1)], 1))"
    assert whole in file.read_text()
    file.write_text(file.read_text().replace(whole, body))
    results = ("--results-dir", tmp_path / "r")
    status, _, err = run(cli, small_esc50, *results, model=f"{file}:make,logmel")
    assert status == 2
    assert said in err
    assert "loud.py" in err
    assert [row["model"] for row in rows(tmp_path / "r")] == ["logmel"]


def test_a_sample_rate_beyond_all_bounds_is_refused(file: Path) -> None:
    file.write_text(file.read_text().replace("16000, 2, 2", "10**9, 2, 2"))
    with pytest.raises(ModelError, match="should lie between"):
        select_models([f"{file}:make"], {}, "default", [0])


def test_values_in_any_layout_are_the_model_s(file: Path) -> None:
    """Sparse and conjugate ones, too."""
    kinds = {
        "layout": "torch.eye(3) * {}).to_sparse()",
        "conjugate": "torch.eye(3) * {}j).conj()",
    }
    for name, values in kinds.items():
        for times in (1, 2):
            made = f'    made.register_buffer("values", ({values.format(times)})\n'
            with file.open("a") as code:
                code.write(f"\ndef {name}_{times}():\n    made = make()\n{made}    return made\n")
    loaded = {}
    for name in (f"{kind}_{times}" for kind in kinds for times in (1, 2)):
        forget()
        choice = select_model(f"{file}:{name}", {}, "default", 0)
        assert choice.weights == "module"
        loaded[name] = as_loaded("", choice.build())["state"]
    assert len(set(loaded.values())) == len(loaded)
