"""`run --protocol finetune`: what it learns, that it goes on to the same bytes, and whom it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toys import FOLDS, Cli, rows, run, table

from aape_bench.checkpoint import read_header
from aape_bench.clip_table import rotations
from aape_bench.errors import UsageError
from aape_bench.finetune import learner, trainer
from aape_bench.finetune.job import check, rounds
from aape_bench.finetune.recipe import Recipe
from aape_bench.models.aape.encoder import AapeEncoder
from aape_bench.training import Interrupted

VIT = "vit{blocks=2;width=48;heads=2}"
SHORT = ("--protocol", "finetune", "--no-references")


def tune(cli: Cli, data: Path, results: Path, *settings: str, model: str = VIT) -> tuple[int, str, str]:
    batch = [] if any(one.startswith("batch=") for one in settings) else ["batch=6"]
    given = [part for one in [*batch, *settings] for part in ("--protocol-set", one)]
    return run(cli, data, *SHORT, *given, "--results-dir", results, model=model)


def record(results: Path) -> dict[str, Any]:
    (row,) = rows(results)
    return dict(json.loads((results / row["record"]).read_text()))


def predictions(results: Path) -> bytes:
    return (results / record(results)["predictions"]).read_bytes()


def test_it_learns_what_the_frozen_encoder_does_not_tell(cli: Cli, small_esc50: Path, tmp_path: Path) -> None:
    settings = ("updates=120", "learning_rate=0.001", "layer_decay=1", "spec_frequency=0", "batch=36")
    status, _, err = tune(cli, small_esc50, tmp_path / "r", *settings)
    assert status == 0, err
    found = record(tmp_path / "r")
    assert found["scores"]["score"] > 0.9
    choices = found["protocol"]["choices"]
    assert [one["fold"] for one in choices] == list("12345")
    assert all(one["curve"][-1]["update"] == 120 for one in choices)
    assert all(one["train"] + one["validation"] == 36 for one in choices)
    assert all(one["curve"][-1]["loss"] < one["curve"][0]["loss"] for one in choices)
    assert all(one["chosen"]["validation"] == max(point["validation"] for point in one["curve"]) for one in choices)
    assert found["protocol"]["settings"]["preset"] == "esc50"
    assert found["protocol"]["settings"]["smoothing"] == 0.1
    assert not list((tmp_path / "r" / "finetune" / "esc50").iterdir())
    assert "0 results computed, 1 already there" in tune(cli, small_esc50, tmp_path / "r", *settings)[1]


@pytest.mark.parametrize("update", [1, 7, 12])
def test_a_run_cut_anywhere_goes_on_to_the_same_bytes(
    cli: Cli, small_esc50: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, update: int
) -> None:
    settings = ("updates=12", "learning_rate=0.003", "mixup=0.8", "noise=0.1", "validate_every=5", "loss=bce")
    assert tune(cli, small_esc50, tmp_path / "whole", *settings)[0] == 0
    taken: list[int] = []
    step = learner.Learner.update

    def cut(self: Any, number: int, batch: Any) -> float:
        if len(taken) == 12 + update:  # in the second fold
            raise Interrupted(15)
        taken.append(number)
        return step(self, number, batch)

    monkeypatch.setattr(trainer, "SECONDS_BETWEEN_STATES", 0.0)
    with monkeypatch.context() as broken:
        broken.setattr(learner.Learner, "update", cut)
        status, _, err = tune(cli, small_esc50, tmp_path / "cut", *settings)
    assert status == 128 + 15
    assert "goes on" in err

    def counted(self: Any, number: int, batch: Any) -> float:
        taken.append(number)
        return step(self, number, batch)

    monkeypatch.setattr(learner.Learner, "update", counted)
    status, _, err = tune(cli, small_esc50, tmp_path / "cut", *settings)
    assert status == 0, err
    assert len(taken) == 5 * 12  # no update twice
    assert predictions(tmp_path / "cut") == predictions(tmp_path / "whole")
    ours, theirs = (record(tmp_path / name)["protocol"]["choices"] for name in ("cut", "whole"))
    assert ours == theirs


def test_a_damaged_state_is_said(cli: Cli, small_esc50: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(self: Any, *_: Any) -> None:
        self._save()
        raise Interrupted(15)

    with monkeypatch.context() as broken:
        broken.setattr(trainer._FineTuning, "_train", stop)
        assert tune(cli, small_esc50, tmp_path / "r", "updates=2")[0] == 143
    (state,) = (tmp_path / "r").rglob("state.pt")
    state.write_bytes(state.read_bytes()[:-100])
    status, _, err = tune(cli, small_esc50, tmp_path / "r", "updates=2")
    assert status == 2
    assert "is damaged" in err
    assert "Delete it" in err
    state.unlink()
    assert tune(cli, small_esc50, tmp_path / "r", "updates=2")[0] == 0


def test_the_best_update_is_kept_and_training_ends_early(cli: Cli, small_esc50: Path, tmp_path: Path) -> None:
    """With a rate of almost nothing no validation is better than the first."""
    still = ("learning_rate=1e-9", "final_rate=0", "updates=50", "validate_every=2", "patience=3")
    assert tune(cli, small_esc50, tmp_path / "r", *still)[0] == 0
    for one in record(tmp_path / "r")["protocol"]["choices"]:
        assert one["chosen"]["update"] == 2
        assert one["updates"] == 2 + 3 * 2
        assert one["stopped_early"]


def test_kept_weights_are_an_encoder_that_has_heard_the_task(cli: Cli, small_esc50: Path, tmp_path: Path) -> None:
    assert cli("export", "--model", VIT, "--weights", "random", "--out", tmp_path / "first")[0] == 0
    given = f"vit{{weights={tmp_path / 'first' / 'encoder.safetensors'}}}"
    status, _, err = tune(cli, small_esc50, tmp_path / "r", "updates=3", "keep_weights=true", model=given)
    assert status == 0, err
    assert record(tmp_path / "r")["model"]["weights"] == "random"
    files = sorted((tmp_path / "r" / "weights").rglob("*.safetensors"))
    assert [file.stem for file in files] == list("12345")
    assert read_header(files[0]).card["fine_tuned"]["task"] == "esc50"
    status, _, err = run(cli, small_esc50, "--weights", files[0], "--results-dir", tmp_path / "again", model="vit")
    assert status == 0, err
    again = record(tmp_path / "again")
    assert again["pretrain_overlap"] == "test"  # in linear every clip is tested
    assert again["model"]["weights"].startswith("file:")  # no longer random


def test_as_published_chooses_on_test_and_says_so(cli: Cli, small_esc50: Path, tmp_path: Path) -> None:
    assert tune(cli, small_esc50, tmp_path / "r", "updates=3", "as_published=true")[0] == 0
    protocol = record(tmp_path / "r")["protocol"]
    assert "chosen on the test clips" in protocol["remarks"][0]
    assert all(one["train"] == 36 and one["validation"] == 9 for one in protocol["choices"])
    assert all(one["chosen"]["validation"] is not None for one in protocol["choices"])


def test_the_head_alone_is_trained_first(
    cli: Cli, small_esc50: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: dict[int, tuple[bool, bool]] = {}
    step = learner.Learner.update

    def watched(self: Any, number: int, batch: Any) -> float:
        parts = (self.material.encoder, self.module.head)
        before = [[p.detach().clone() for p in part.parameters()] for part in parts]
        loss = step(self, number, batch)
        encoder, head = (
            any(not torch.equal(a, b) for a, b in zip(old, part.parameters(), strict=True))
            for old, part in zip(before, parts, strict=True)
        )
        moved[number] = (encoder, head)
        return loss

    monkeypatch.setattr(learner.Learner, "update", watched)
    assert tune(cli, small_esc50, tmp_path / "r", "updates=4", "probe_updates=2")[0] == 0
    assert moved == {0: (False, True), 1: (False, True), 2: (True, True), 3: (True, True)}


def test_accumulated_parts_make_the_same_update(
    cli: Cli, small_esc50: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[list[float]] = []
    step = learner.Learner.update

    def watched(self: Any, number: int, batch: Any) -> float:
        found[-1].append(step(self, number, batch))
        return found[-1][-1]

    monkeypatch.setattr(learner.Learner, "update", watched)
    for name, parts in (("one", 1), ("four", 4)):
        found.append([])
        assert tune(cli, small_esc50, tmp_path / name, "updates=4", f"accumulate={parts}")[0] == 0
    assert found[0] == pytest.approx(found[1], rel=1e-3)


FOREIGN = """
import torch
class Model(torch.nn.Module):
    sample_rate, scene_embedding_size, timestamp_embedding_size = 16000, 8, 8
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(400, 8)
        with torch.no_grad():
            self.layer.weight.copy_(torch.linspace(-1, 1, 3200).sin().view(8, 400))
        torch.nn.init.zeros_(self.layer.bias)
def load_model(path=""):
    return Model()
def get_scene_embeddings(audio, model):
    {guard}
        return model.layer(audio[:, : audio.shape[1] // 400 * 400].unflatten(1, (-1, 400)).square()).mean(dim=1)
def get_timestamp_embeddings(audio, model):
    raise NotImplementedError
"""


def test_any_module_with_a_gradient_is_trained_and_others_are_refused(
    cli: Cli, small_esc50: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "open_hear.py").write_text(FOREIGN.format(guard="if True:"))
    (tmp_path / "closed_hear.py").write_text(FOREIGN.format(guard="with torch.no_grad():"))
    status, _, err = tune(cli, small_esc50, tmp_path / "open", "updates=3", model="hear:open_hear")
    assert status == 0, err
    assert "no SpecAugment" in record(tmp_path / "open")["protocol"]["remarks"][0]
    double = FOREIGN.format(guard="if True:").replace(".mean(dim=1)", ".mean(dim=1).double()")
    (tmp_path / "double_hear.py").write_text(double)
    status, _, err = tune(cli, small_esc50, tmp_path / "double", "updates=3", model="hear:double_hear")
    assert status == 0, err
    for model, says in (("hear:closed_hear", "no gradient reaches"), ("logmel", "no parameters to train")):
        status, _, err = tune(cli, small_esc50, tmp_path / "closed", "updates=3", model=model)
        assert status == 2
        assert says in err
        assert "--protocol linear" in err


def test_folds_side_by_side_are_the_same_folds(
    cli: Cli, small_esc50: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "open_hear.py").write_text(FOREIGN.format(guard="if True:"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for name in ("local", "local:2"):
            given = ("--protocol-set", "updates=3;batch=6", "--executor", name, "--results-dir", tmp_path / name)
            status, _, err = run(cli, small_esc50, *SHORT, *given, model="hear:open_hear")
            assert status == 0, err
    finally:
        torch.set_num_threads(threads)
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / name / "predictions").rglob("*.csv.gz")}
        for name in ("local", "local:2")
    )
    assert len(one) == 1
    assert one == two


@pytest.mark.parametrize("loader", ["return Model()", "return ONE"])
def test_a_module_s_folds_begin_with_its_own_weights(
    cli: Cli, small_esc50: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loader: str
) -> None:
    """And what is embedded after it was trained is as before."""
    monkeypatch.syspath_prepend(str(tmp_path))
    source = FOREIGN.format(guard="if True:").replace("return Model()", loader) + "ONE = Model()\n"
    name = f"hear_{loader.split()[1].strip('()').lower()}"
    (tmp_path / f"{name}.py").write_text(source)
    begun: list[torch.Tensor] = []
    step = learner.Learner.update

    def watched(self: Any, number: int, batch: Any) -> float:
        if number == 0:
            begun.append(self.material.encoder.model.layer.weight.detach().clone())
        return step(self, number, batch)

    monkeypatch.setattr(learner.Learner, "update", watched)
    given = ("--no-references", "--protocol-set", "updates=3;batch=6", "--results-dir", tmp_path / "r")
    assert run(cli, small_esc50, "--protocol", "linear", *given[:1], *given[3:], model=f"hear:{name}")[0] == 0
    (before,) = (tmp_path / "r" / "predictions").rglob("*.csv.gz")
    kept = before.read_bytes()
    assert run(cli, small_esc50, "--protocol", "finetune", *given, model=f"hear:{name}")[0] == 0
    assert len(begun) == 5
    assert all(torch.equal(one, begun[0]) for one in begun)
    again = ("--results-dir", tmp_path / "again", "--cache-dir", tmp_path / "other cache")
    assert run(cli, small_esc50, "--protocol", "linear", "--no-references", *again, model=f"hear:{name}")[0] == 0
    (after,) = (tmp_path / "again" / "predictions").rglob("*.csv.gz")
    assert after.read_bytes() == kept


def test_what_fails_in_a_process_is_said_once(cli: Cli, small_esc50: Path, tmp_path: Path) -> None:
    given = ("--protocol-set", "updates=3;batch=6", "--executor", "local:2", "--results-dir", tmp_path / "r")
    status, _, err = run(cli, small_esc50, *SHORT, *given, model="logmel")
    assert status == 2
    assert err.count("no parameters to train") == 1


def test_broken_clips_are_left_out_when_told(cli: Cli, small_esc50: Path, tmp_path: Path) -> None:
    (first, *_) = sorted((small_esc50 / "esc50" / "audio").iterdir())
    first.write_bytes(b"RIFF")
    status, _, err = tune(cli, small_esc50, tmp_path / "r", "updates=2")
    assert status == 2
    assert first.name in err
    given = ("--protocol-set", "updates=2;batch=6", "--skip-broken", "--results-dir", tmp_path / "r")
    assert run(cli, small_esc50, *SHORT, *given, model=VIT)[0] == 0
    assert [one["clip"] for one in record(tmp_path / "r")["task"]["skipped"]] == [first.name]


def test_rounds_of_folds_hold_out_whole_groups() -> None:
    clips = table()
    clips["group"] = [f"g{row // 4}" for row in range(12)]
    clips["fold"] = ["1", "2", "3"] * 4
    task = replace(FOLDS, clips=12)
    clips["group"] = [f"{fold}{row // 6}" for row, fold in enumerate(clips["fold"])]
    official = rotations(task, clips)
    for one, given in zip(rounds(task, clips, official, Recipe(validation_share=0.25)), official, strict=True):
        groups = clips["group"]
        assert not set(groups[one.train]) & set(groups[one.validation])
        assert sorted([*one.train, *one.validation, *one.test]) == list(range(12))
        assert np.array_equal(one.test, given.test)
        assert len(one.validation)
    for one in rounds(task, clips, official, Recipe(as_published=True)):
        assert np.array_equal(one.validation, one.test)
        assert len(one.train) == 8


def test_events_are_refused() -> None:
    with pytest.raises(UsageError, match="event task"):
        check(replace(FOLDS, kind="event"))


@pytest.mark.parametrize(
    ("setting", "says"),
    [("updates=0", "updates"), ("mixpu=1", 'Did you mean "mixup"'), ("freeze=9", "more than the encoder's 2")],
)
def test_settings_that_do_not_fit_are_refused(
    cli: Cli, small_esc50: Path, tmp_path: Path, setting: str, says: str
) -> None:
    length = [] if "updates" in setting else ["updates=2"]
    status, _, err = tune(cli, small_esc50, tmp_path / "r", *length, setting)
    assert status == 2
    assert says in err


def test_a_foreign_encoder_s_dropout_is_seeded(
    cli: Cli, small_esc50: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = AapeEncoder.scene_embeddings_of

    def dropped(self: AapeEncoder, *given: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.dropout(encode(self, *given), 0.3, self.training)

    monkeypatch.setattr(AapeEncoder, "scene_embeddings_of", dropped)
    state = torch.random.get_rng_state()
    for name in ("one", "two"):
        torch.rand(3)
        status, _, err = tune(cli, small_esc50, tmp_path / name, "updates=3")
        assert status == 0, err
    assert predictions(tmp_path / "one") == predictions(tmp_path / "two")
    torch.random.set_rng_state(state)


@pytest.mark.parametrize("place", [0, 700, -40])
def test_a_damaged_fold_is_trained_again(
    cli: Cli, small_esc50: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    """Also where the damage shows only when the file is unpacked."""

    def stop(*_: object) -> None:
        raise Interrupted(15)

    assert tune(cli, small_esc50, tmp_path / "whole", "updates=3")[0] == 0
    with monkeypatch.context() as broken:
        broken.setattr("aape_bench.tuned.key_of", lambda *_: "0" * 64)
        broken.setattr("aape_bench.evaluate.predictions_of_scenes", stop)
        assert tune(cli, small_esc50, tmp_path / "r", "updates=3")[0] == 143
    folds = sorted((tmp_path / "r").rglob("fit.npz"))
    assert len(folds) == 5
    content = bytearray(folds[1].read_bytes())
    content[place] ^= 0xFF
    folds[1].write_bytes(bytes(content))
    monkeypatch.setattr("aape_bench.tuned.key_of", lambda *_: "0" * 64)
    status, _, err = tune(cli, small_esc50, tmp_path / "r", "updates=3")
    assert status == 0, err
    assert predictions(tmp_path / "r") == predictions(tmp_path / "whole")


def test_as_published_says_so_only_where_it_is_so() -> None:
    from aape_bench.finetune.learner import chosen_on_test

    parts = table().rename(columns={"fold": "split"})
    published = Recipe(preset="other", as_published=True).resolved()
    for sides, on_test in ((["train", "valid", "test"], False), (["train", "train", "test"], True)):
        clips = parts.assign(split=np.resize(sides, len(parts)), fold=None)
        task = replace(FOLDS, split_scheme="parts", part_clips=None)
        (made,) = rounds(task, clips, rotations(task, clips), published)
        assert chosen_on_test(made) == on_test
        assert len(made.train) == (8 if on_test else 4)


def test_references_are_not_trained(cli: Cli, tmp_path: Path) -> None:
    given = ("--model", VIT, "--task", "chirp", "--protocol", "finetune,linear", "--updates", 2, "--dry-run")
    status, out, err = cli("run", *given, "--results-dir", tmp_path / "r", "--cache-dir", tmp_path / "c")
    assert status == 0, err
    assert next(line.split()[0] for line in out.splitlines() if "finetune" in line).startswith("vit")
    assert not any("finetune" in line for line in out.splitlines() if line.startswith("patch_"))
    assert any("linear" in line for line in out.splitlines() if line.startswith("patch_"))
