"""`aape-bench run --model hear:MODULE`: any HEAR module, and those that misbehave."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
from toys import Cli, rows, run

HEAR = """
import torch

class Model(torch.nn.Module):
    sample_rate, scene_embedding_size, timestamp_embedding_size = 22050, 2, 2
    def __init__(self, path):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(float(open(path).read()) if path else 1.0))

def load_model(model_file_path=""):
    return Model(model_file_path)

def get_scene_embeddings(audio, model):
    assert audio.shape[1] == 5 * 22050
    return torch.stack([audio.mean(1), audio.std(1)], 1) * model.gain

def get_timestamp_embeddings(audio, model):
    raise RuntimeError("not needed")
"""


def forget(*names: str) -> None:
    """Let a module be imported, and its code be read, as in a new process."""
    from aape_bench import identity

    for name in list(sys.modules):
        if name.split(".")[0] in names:
            del sys.modules[name]
    identity._code_digest.cache_clear()
    importlib.invalidate_caches()


RANDOM_HEAR = """
import itertools, torch
count = itertools.count(1)

class Model(torch.nn.Module):
    sample_rate, scene_embedding_size, timestamp_embedding_size = 16000, 4, 4
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 4)

def load_model(model_file_path=""):
    return Model()

def get_scene_embeddings(audio, model):
    return model.layer(torch.stack([audio.abs().mean(1), audio.std(1)], 1))

get_timestamp_embeddings = get_scene_embeddings
"""


def test_what_finished_before_a_failure_is_on_the_leaderboard(cli: Cli, small_esc50: Path, tmp_path: Path) -> None:
    status, _, err = run(cli, small_esc50, model="logmel,vit{pooling=cls;width=96;blocks=1},logmel{n_mels=4}")
    assert status == 0, err
    bad = tmp_path / "hear_nan.py"
    bad.write_text(HEAR.replace("audio.mean", "float('nan') * audio.mean"))
    sys.path.insert(0, str(tmp_path))
    try:
        status, _, err = run(cli, small_esc50, model="hear:hear_nan,logmel{n_mels=8}")
    finally:
        sys.path.remove(str(tmp_path))
    assert status == 2
    assert "NaN or infinite" in err
    assert {row["model"] for row in rows(tmp_path / "results")} >= {"logmel", "logmel[n_mels=8]"}


def test_any_hear_module_by_name(cli: Cli, small_esc50: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hear_toy.py").write_text(HEAR)
    (tmp_path / "gain.txt").write_text("3.0")
    monkeypatch.syspath_prepend(tmp_path)
    status, _, err = run(cli, small_esc50, model="hear:hear_toy")
    assert status == 0, err
    status, _, err = run(cli, small_esc50, "--weights", tmp_path / "gain.txt", model="hear:hear_toy")
    assert status == 0, err
    assert "embedding" in err
    labels = {row["model"]: row for row in rows(tmp_path / "results")}
    assert set(labels) == {"hear:hear_toy", f"hear:hear_toy@{labels[max(labels)]['weights'][5:]}"}
    assert labels["hear:hear_toy"]["pretrain_overlap"] == "unknown"
    assert labels["hear:hear_toy"]["parameters"] == "1"
    assert "0 results computed" in run(cli, small_esc50, model="hear:hear_toy")[1]


def test_hear_modules_of_one_name_are_two_models(
    cli: Cli, small_esc50: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("first_hear", "second_hear"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("")
        (tmp_path / package / "toy.py").write_text(HEAR)
    monkeypatch.syspath_prepend(tmp_path)
    status, _, err = run(cli, small_esc50, model="hear:first_hear.toy,hear:second_hear.toy")
    assert status == 0, err
    assert {row["model"] for row in rows(tmp_path / "results")} == {"hear:first_hear.toy", "hear:second_hear.toy"}


@pytest.mark.parametrize("opaque", [False, True])
def test_a_hear_module_whose_code_or_answers_change_is_computed_again(
    cli: Cli, small_esc50: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opaque: bool
) -> None:
    """Its own file is the same: a helper beside it changes, or a model that is no torch module answers otherwise."""
    package = tmp_path / "changing_hear"
    package.mkdir()
    (package / "__init__.py").write_text("")
    text = HEAR.replace("import torch", "import torch\nfrom changing_hear.core import gain", 1)
    text = text.replace("* model.gain", "* gain()")
    if opaque:
        text = text.replace("    assert audio.shape[1] == 5 * 22050\n", "")
        text = text.replace("torch.nn.Module", "object").replace("super().__init__()", "pass")
        text = text.replace(
            "self.gain = torch.nn.Parameter(torch.tensor(float(open(path).read()) if path else 1.0))", ""
        )
    (package / "toy.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "gain.txt").write_text("1")
    code = f"def gain(): return float(open({str(tmp_path / 'gain.txt')!r}).read())"
    (package / "core.py").write_text(code)
    forget("changing_hear")
    assert "embedding" in run(cli, small_esc50, model="hear:changing_hear.toy")[2]
    forget("changing_hear")
    assert "embedding" not in run(cli, small_esc50, model="hear:changing_hear.toy")[2]
    if opaque:
        (tmp_path / "gain.txt").write_text("-7")
    else:
        (package / "core.py").write_text(code + " * 2")
    forget("changing_hear")
    status, _, err = run(cli, small_esc50, model="hear:changing_hear.toy")
    assert status == 0, err
    assert "embedding" in err
    (row,) = rows(tmp_path / "results")
    assert row["parameters"] == ("" if opaque else "1")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (HEAR.replace("* model.gain", "* exit()"), "failed in get_scene_embeddings: SystemExit"),
        (HEAR.replace("* model.gain", "* None"), "failed in get_scene_embeddings: TypeError"),
        (HEAR.replace("* model.gain", "* 1j"), "not real numbers"),
        (HEAR.replace("* model.gain", "* model.gain.to(torch.int32)").replace("audio.", "audio.int()."), "failed in"),
        ("x = 1", "is not a HEAR module"),
        ("import nothing_of_the_kind", "needs nothing_of_the_kind"),
        ("raise ValueError('oh')", "cannot be imported: ValueError: oh"),
        (HEAR.replace("22050, 2, 2", "22050, None, 2"), "no whole number scene_embedding_size"),
        (
            HEAR.replace("return Model(model_file_path)", "raise OSError('no weights here')"),
            "failed in load_model(): OSError: no weights here",
        ),
        (HEAR.replace("audio.std(1)], 1)", "audio.std(1)], 0)"), "shape (2, 16), not (16, 2)"),
    ],
)
def test_modules_that_are_none_are_refused(
    cli: Cli, small_esc50: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, says: str
) -> None:
    name = f"hear_bad_{abs(hash(text))}"
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    status, _, err = run(cli, small_esc50, model=f"hear:{name}")
    assert status == 2
    assert says in err


def test_a_hear_module_with_random_weights_is_marked_and_repeats(
    cli: Cli, small_esc50: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "random_hear.py").write_text(RANDOM_HEAR)
    monkeypatch.syspath_prepend(tmp_path)
    status, _, err = run(cli, small_esc50, "--seed", "0,1", model="hear:random_hear")
    assert status == 0, err
    assert "seeded random weights" in err
    (row,) = rows(tmp_path / "results")
    assert row["weights"] == "random"
    assert row["seeds"] == "2"
    assert "0 results computed, 2 already there" in run(cli, small_esc50, "--seed", "0,1", model="hear:random_hear")[1]


def test_our_own_hear_modules_say_that_their_weights_are_random(cli: Cli, small_esc50: Path, tmp_path: Path) -> None:
    status, _, err = run(cli, small_esc50, "--seed", "0,1", model="hear:aape_bench.models.vit")
    assert status == 0, err
    assert err.count("embedding") == 1  # HEAR's load_model knows no seed: it is one model
    (row,) = rows(tmp_path / "results")
    assert (row["model"], row["weights"]) == ("hear:aape_bench.models.vit", "random")
    assert row["seed_sd"] == ""


def test_a_hear_module_that_is_another_each_time_is_refused(
    cli: Cli, small_esc50: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fickle_hear.py").write_text(
        RANDOM_HEAR.replace("return Model()", "m = Model()\n    m.layer.bias.data.fill_(next(count))\n    return m")
    )
    monkeypatch.syspath_prepend(tmp_path)
    status, _, err = run(cli, small_esc50, model="hear:fickle_hear")
    assert status == 2
    assert "another model each time it is loaded" in err


@pytest.mark.usefixtures("small_esc50")
def test_a_module_that_changes_the_working_directory_moves_no_result(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "moving_hear.py").write_text(HEAR.replace("import torch", "import os, torch\nos.chdir('/')", 1))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    status, _, err = run(cli, Path("data"), "--results-dir", "mine", "--cache-dir", "own", model="hear:moving_hear")
    assert status == 0, err
    assert (tmp_path / "mine" / "leaderboard.csv").is_file()


def test_a_module_that_bf16_breaks_is_said_to_have_run_at_it(
    cli: Cli, small_esc50: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    broken = RANDOM_HEAR.replace("1))\n\nget_", "1)).detach().numpy()\n\nget_")  # NumPy has no bfloat16
    (tmp_path / "hear_numpy.py").write_text(broken)
    try:
        status, _, err = run(cli, small_esc50, "--precision", "bf16", model="hear:hear_numpy")
    finally:
        forget("hear_numpy")
    assert status == 2
    assert "BFloat16" in err
    assert "--precision bf16" in err
