"""Runs that end early and go on: every interruption keeps a whole checkpoint, and resuming loses nothing."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import signal
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from pretrain_runs import (
    STEPS,
    determined,
    equal,
    exact_rows,
    largest_difference,
    rows,
    same_run,
    settings,
    state,
    write_audio,
)

from aape_bench.checkpoint import read_header
from aape_bench.errors import CheckpointError, StorageError, UsageError
from aape_bench.fitting.table import Row
from aape_bench.models.aape.pretrain import engine, trainer
from aape_bench.models.aape.pretrain.data import Loader
from aape_bench.models.aape.pretrain.engine import Stopped, train
from aape_bench.models.aape.pretrain.log import COLUMNS, Show, Unwatched
from aape_bench.models.aape.pretrain.masks import batch_masks
from aape_bench.models.aape.pretrain.model import Losses, Pretrainer
from aape_bench.models.aape.pretrain.schedule import learning_rate, momentum
from aape_bench.models.aape.pretrain.sources import Source, open_source
from aape_bench.models.aape.pretrain.trainer import Diverged
from aape_bench.overlap import FIELD, TrainingAudio


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return open_source([str(write_audio(tmp_path_factory.mktemp("audio") / "clips"))])


@pytest.fixture(scope="module")
def unbroken(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing interrupted."""
    out = tmp_path_factory.mktemp("runs") / "unbroken"
    assert train(*settings(), source, out, 0) == out / f"teacher-{STEPS}.safetensors"
    return out


class Meddler(Unwatched):
    """Does something after a step, as the world might; remembers what was said."""

    def __init__(self, step: int, action: Callable[[], object]) -> None:
        self.step, self.action, self.said = step, action, list[str]()

    def say(self, text: str) -> None:
        self.said.append(text)

    @contextmanager
    def training(self, done: int, total: int) -> Iterator[Show]:  # noqa: ARG002
        def show(step: int, row: Row | None) -> None:
            if step == self.step and row is None:
                self.action()

        yield show


def test_a_run_leaves_checkpoints_log_and_settings(unbroken: Path) -> None:
    names = {path.name for path in unbroken.iterdir()}
    kinds = [("teacher", "safetensors"), ("student", "safetensors"), ("state", "pt")]
    assert names == {
        *("config.json", "log.csv", "modes.csv"),
        *(f"{kind}-{step}.{ending}" for kind, ending in kinds for step in (2, 4, 6)),
    }
    about = json.loads((unbroken / "config.json").read_text())["run"]
    assert (about["seed"], about["pretrain"]["batch"], about["model"]["stem"]) == (0, 4, "sblu")
    header = read_header(unbroken / "teacher-6.safetensors")
    assert (header.model, header.config["blocks"]) == ("aape", 1)
    assert (header.card["steps"], header.card["weights"], header.card["pretrain"]["masks"]) == (6, "teacher", 2)
    trained = TrainingAudio.from_card({FIELD: header.card[FIELD]})
    assert trained is not None
    assert len(trained.hashes) == 20  # ten files, each by its bytes and by its sound


def test_the_log_has_every_column_and_a_row_per_log_every(unbroken: Path) -> None:
    log = rows(unbroken)
    assert [row["step"] for row in log] == ["3", "6"]
    assert list(log[0]) == list(COLUMNS)
    empty = {name for row in log for name, value in row.items() if value == ""}
    assert empty == {"loss_scale", "warnings"}
    assert all(0 <= float(row["waiting"]) <= 1 and float(row["clips_per_second"]) > 0 for row in log)
    weighted = float(log[0]["masked"]) + float(log[0]["utterance"]) + 0.5 * float(log[0]["contrastive"])
    assert float(log[0]["loss"]) == pytest.approx(weighted, rel=1e-6)


def test_a_row_is_the_mean_over_its_steps(unbroken: Path, source: Source, tmp_path: Path) -> None:
    train(*settings(log_every=1), source, tmp_path / "out", 0)
    single = rows(tmp_path / "out")
    for name in ("loss", "gradient_norm", "lambda_gradient_norm", "target_token_variance"):
        mean = sum(float(row[name]) for row in single[3:]) / 3
        assert float(rows(unbroken)[1][name]) == pytest.approx(mean, rel=1e-6)
    assert rows(unbroken)[1]["learning_rate"] == single[5]["learning_rate"]


def test_clips_per_second_are_those_of_the_clock(unbroken: Path) -> None:
    first, second = rows(unbroken)
    seconds = float(second["seconds"]) - float(first["seconds"])
    assert float(second["clips_per_second"]) == pytest.approx(3 * 4 / seconds, rel=0.5)


def test_a_run_is_the_loop_that_a_textbook_has(source: Source, unbroken: Path) -> None:
    """Gradient, clipping, AdamW and the teacher's average in plain torch, step after step."""
    encoder, config = settings()
    model = Pretrainer(encoder, config, 0)
    adamw = torch.optim.AdamW(model.parameter_groups(0.05), betas=(0.9, 0.95))
    norms = []
    with closing(Loader(source, config, 0).batches(0)) as batches:
        for step in range(STEPS):
            batch = next(batches)
            keep = batch_masks(config, 0, step, batch.clip, *model.grid, batch.again)
            model(model.log_mel(batch.audio, batch.lengths), keep, batch.source).total.backward()
            trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
            norms.append(float(torch.nn.utils.clip_grad_norm_(trained, 4.0)))
            for group in adamw.param_groups:
                group["lr"] = learning_rate(step, config)
            adamw.step()
            adamw.zero_grad()
            share = momentum(step, config)
            with torch.no_grad():
                for theirs, ours in zip(model.teacher.parameters(), model.student.parameters(), strict=True):
                    theirs.mul_(share).add_((1 - share) * ours)
    assert max(norms) > 4  # the clipping acted
    found = state(unbroken, STEPS)["model"]
    assert largest_difference(determined(model.state_dict()), determined(found)) < 1e-6
    assert float(rows(unbroken)[1]["gradient_norm"]) == pytest.approx(sum(norms[3:]) / 3, rel=1e-4)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_after_its_step_and_it_goes_on_to_the_same_bytes(
    source: Source, unbroken: Path, tmp_path: Path, number: signal.Signals
) -> None:
    before = signal.getsignal(number)
    meddler = Meddler(5, lambda: signal.raise_signal(number))
    with pytest.raises(Stopped) as stopped:
        train(*settings(), source, tmp_path / "out", 0, progress=meddler)
    assert (stopped.value.number, stopped.value.step) == (number, 5)
    assert signal.getsignal(number) == before
    assert (tmp_path / "out" / "state-5.pt").is_file()
    meddler = Meddler(0, lambda: None)
    train(*settings(), source, tmp_path / "out", 0, resume=True, progress=meddler)
    assert meddler.said == ["Going on after step 5 of 6."]
    assert same_run(tmp_path / "out", unbroken)


def test_rows_beyond_the_checkpoint_are_taken_again(source: Source, unbroken: Path, tmp_path: Path) -> None:
    """What kill -9 leaves: a log that is ahead of the last state, its last line cut, and a half-written file."""
    out = Path(shutil.copytree(unbroken, tmp_path / "out"))
    for kind in ("state-6.pt", "student-6.safetensors", "state-4.pt"):
        (out / kind).unlink()
    (out / ".0123456789abcdef.tmp").write_bytes(b"half")
    with (out / "log.csv").open("a") as log:
        log.write("7,1.0,2.0\n8,3.")
    train(*settings(), source, out, 0, resume=True)
    assert same_run(out, unbroken)
    assert not list(out.glob(".*.tmp"))


def test_resuming_an_empty_folder_begins_and_a_finished_run_ends_at_once(
    source: Source, unbroken: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    train(*settings(), source, out, 0, resume=True)
    assert same_run(out, unbroken)
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir() if path.suffix != ".csv"}
    train(*settings(), source, out, 0, resume=True)
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir() if path.suffix != ".csv"} == before
    assert same_run(out, unbroken)


def test_time_that_is_up_ends_the_run_with_a_checkpoint(source: Source, unbroken: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert train(*settings(), source, out, 0, minutes=0) == out / "teacher-1.safetensors"
    train(*settings(), source, out, 0, resume=True)
    assert same_run(out, unbroken)


def test_the_teacher_of_the_step_come_to_is_returned(source: Source, unbroken: Path, tmp_path: Path) -> None:
    """Not one that a kill between the files of a checkpoint has left, nor none at all."""
    out = Path(shutil.copytree(unbroken, tmp_path / "out"))
    (out / "state-6.pt").unlink()
    assert train(*settings(), source, out, 0, resume=True, minutes=0) == out / "teacher-5.safetensors"
    train(*settings(), source, out, 0, resume=True)
    (out / "teacher-6.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"teacher-6.safetensors is missing, though state-6.pt is there"):
        train(*settings(), source, out, 0, resume=True)
    (out / "state-6.pt").unlink()
    train(*settings(), source, out, 0, resume=True)
    assert same_run(out, unbroken)


def test_another_runs_folder_is_refused(source: Source, unbroken: Path, tmp_path: Path) -> None:
    encoder, config = settings()
    with pytest.raises(UsageError, match="holds this training already, 6 steps of it"):
        train(encoder, config, source, unbroken, 0)
    with pytest.raises(UsageError, match="another training: seed is 0 there, not 1"):
        train(encoder, config, source, unbroken, 1, resume=True)
    with pytest.raises(UsageError, match=r"pretrain.masks is 2 there, not 3"):
        train(*settings(masks=3), source, unbroken, 0, resume=True)
    other = open_source([str(write_audio(tmp_path / "other", 9))])
    with pytest.raises(UsageError, match="another training: audio is"):
        train(encoder, config, other, unbroken, 0, resume=True)
    (tmp_path / "foreign").mkdir()
    shutil.copy(unbroken / "state-6.pt", tmp_path / "foreign")
    with pytest.raises(UsageError, match=r"holds state files, but no config.json"):
        train(encoder, config, source, tmp_path / "foreign", 0, resume=True)
    # what changes the work and not the result may differ
    train(*settings(workers=0, log_every=2), source, unbroken, 0, resume=True)


def test_two_processes_do_not_train_in_one_folder(source: Source, tmp_path: Path) -> None:
    out, refused = tmp_path / "out", list[str]()

    def second() -> None:
        with pytest.raises(UsageError, match="Another process is training in") as refusal:
            train(*settings(), source, out, 0, resume=True)
        refused.append(str(refusal.value))

    train(*settings(), source, out, 0, progress=Meddler(3, second))
    assert refused


def test_a_damaged_state_is_named(source: Source, unbroken: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(unbroken, tmp_path / "out"))
    (out / "state-6.pt").write_bytes((out / "state-6.pt").read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"state-6.pt is damaged .* --resume then goes on from step 4"):
        train(*settings(), source, out, 0, resume=True)
    (out / "state-6.pt").unlink()
    train(*settings(), source, out, 0, resume=True)
    assert same_run(out, unbroken)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda state: state.pop("loader"), "it has no 'loader'"),
        (lambda state: state.pop("window"), "it has no 'window'"),
        (lambda state: state.update(seconds="long"), "could not convert string to float"),
        (lambda state: state.update(optimizer={"state": {}, "param_groups": []}), "different number of parameter"),
        (lambda state: state["optimizer"]["state"][0].pop("exp_avg"), "it has no 'exp_avg'"),
        (lambda state: state["optimizer"]["state"][0].update(exp_avg=torch.zeros(3)), "exp_avg is .3. for weights"),
        (lambda state: state["model"].popitem(), "Missing key"),
        (lambda state: state["loader"].update(hashes=torch.zeros(3, dtype=torch.int8)), "must be a divisor"),
        (lambda state: state.update(step=7), "of step 7, there are 6"),
    ],
)
def test_a_state_that_does_not_fit_is_named(
    source: Source, unbroken: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], what: str
) -> None:
    out = Path(shutil.copytree(unbroken, tmp_path / "out"))
    changed: dict[str, Any] = torch.load(out / "state-6.pt", weights_only=True)
    change(changed)
    torch.save(changed, out / f"state-{changed['step']}.pt")
    with pytest.raises(CheckpointError, match=rf"state-\d.pt is damaged \(.*{what}.*\). Delete it; --resume then"):
        train(*settings(), source, out, 0, resume=True)


def test_settings_are_saved_with_those_that_do_not_decide(unbroken: Path) -> None:
    encoder, config = settings()
    saved = json.loads((unbroken / "config.json").read_text())["settings"]
    assert saved == {"model": dataclasses.asdict(encoder), "pretrain": dataclasses.asdict(config)}
    assert {"workers", "checkpoint_every", "log_every", "keep_checkpoints"} <= saved["pretrain"].keys()


@pytest.mark.parametrize("what", ["masked", "contrastive", "gradient"])
def test_what_is_not_finite_stops_the_run_before_it_reaches_the_weights(
    source: Source, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    whole, calls = Pretrainer.forward, []

    def faulty(self: Pretrainer, *arguments: Any) -> Losses:
        calls.append(0)
        found = whole(self, *arguments)
        if len(calls) != 5:
            return found
        if what == "gradient":  # finite itself, not its slope
            return found._replace(total=found.total + (found.total * 0).abs().sqrt())
        bad = getattr(found, what) * float("nan")
        return found._replace(total=found.total + bad, **{what: bad})

    monkeypatch.setattr(Pretrainer, "forward", faulty)
    out = tmp_path / "out"
    name = "the gradient is nan" if what == "gradient" else f"the {what} loss is nan"
    with pytest.raises(Diverged, match=f"Training stopped in step 5: .*{name}"):
        train(*settings(), source, out, 0)
    assert sorted(path.name for path in out.glob("state-*")) == ["state-2.pt", "state-4.pt"]
    assert equal(state(out, 4), state(unbroken, 4))
    assert [row["step"] for row in rows(out)] == ["3"]


def test_a_disk_that_fills_up_stops_the_run_and_room_lets_it_go_on(
    source: Source, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, usage, asked = tmp_path / "out", namedtuple("usage", "total used free"), []

    def disk_usage(_: Path) -> Any:
        asked.append(0)
        return usage(10**9, 0, 10**9 if len(asked) < 3 else 20 * 2**20 - 2**22)

    monkeypatch.setattr("aape_bench.models.aape.pretrain.state.shutil.disk_usage", disk_usage)
    with pytest.raises(StorageError, match=r"nearly full: a checkpoint takes \d+ MB and 16 MB are free. The last"):
        train(*settings(), source, out, 0)
    assert sorted(path.name for path in out.glob("state-*")) == ["state-2.pt"]
    monkeypatch.undo()
    train(*settings(), source, out, 0, resume=True)
    assert same_run(out, unbroken)


def test_a_disk_without_room_is_said_before_the_first_step(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("aape_bench.models.aape.pretrain.state.shutil.disk_usage", lambda _: usage(1, 1, 2**20))
    monkeypatch.setattr(trainer.Trainer, "step", lambda *_: pytest.fail("a step was taken"))
    with pytest.raises(StorageError, match="There is no checkpoint yet"):
        train(*settings(), source, tmp_path / "out", 0)


def test_old_checkpoints_go(source: Source, tmp_path: Path) -> None:
    out = tmp_path / "out"
    train(*settings(keep_checkpoints=1), source, out, 0)
    left = [path.name for path in out.iterdir() if path.suffix in (".pt", ".safetensors")]
    assert sorted(left) == ["state-6.pt", "student-6.safetensors", "teacher-6.safetensors"]


def test_accumulated_parts_make_the_same_step(source: Source, tmp_path: Path) -> None:
    for parts in (1, 2):
        train(*settings(accumulate=parts, contrastive_weight=0), source, tmp_path / str(parts), 0)
    one, two = (state(tmp_path / str(parts), 6)["model"] for parts in (1, 2))
    assert largest_difference(determined(one), determined(two)) < 1e-6
    names = ("loss", "masked", "gradient_norm")
    first, second = (rows(tmp_path / str(parts))[1] for parts in (1, 2))
    assert [float(first[name]) for name in names] == pytest.approx([float(second[name]) for name in names], rel=1e-4)


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_mixed_precision_resumes_to_the_same_bytes(source: Source, tmp_path: Path, precision: str) -> None:
    configs = settings(precision=precision, steps=4, log_every=1)
    train(*configs, source, tmp_path / "whole", 0)
    train(*configs, source, tmp_path / "cut", 0, minutes=0)
    train(*configs, source, tmp_path / "cut", 0, resume=True)
    assert same_run(tmp_path / "whole", tmp_path / "cut", step=4)
    first = rows(tmp_path / "cut")[0]
    # a scale of 65536 was too large for the first step, which is left out and halves it
    expected = ("32768", "0") if precision == "16-mixed" else ("", first["gradient_norm"])
    assert (first["loss_scale"], first["gradient_norm"]) == expected
    full = settings(steps=4, log_every=1)
    train(*full, source, tmp_path / "full", 0)
    losses = [float(exact_rows(tmp_path / name)[0]["loss"]) for name in ("whole", "full")]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_the_stem_sees_the_log_mel_in_full_precision(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, types = Pretrainer.forward, []

    def noting(self: Pretrainer, log_mel: torch.Tensor, *arguments: Any) -> Losses:
        types.append(log_mel.dtype)
        return whole(self, log_mel, *arguments)

    monkeypatch.setattr(Pretrainer, "forward", noting)
    train(*settings(precision="bf16-mixed", steps=1), source, tmp_path / "out", 0)
    assert types == [torch.float32]


def test_drawing_from_a_global_generator_is_found(source: Source, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="global random generator"):
        train(*settings(), source, tmp_path / "out", 0, progress=Meddler(1, random.random))


def test_an_unhealthy_run_warns_once(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aape_bench.models.aape.pretrain.diagnostics.LEAST_RAW_SHARE", 2.0)
    meddler = Meddler(0, lambda: None)
    train(*settings(log_every=1), source, tmp_path / "out", 0, progress=meddler)
    (warning,) = meddler.said
    assert warning.startswith("Warning, step 1: the targets hardly differ")
    assert {row["warnings"] for row in rows(tmp_path / "out")} == {"collapse"}


def test_clips_must_divide_among_processes_and_parts(source: Source, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not divide batch"):
        train(*settings(accumulate=3), source, tmp_path / "out", 0)


def test_an_estimate_times_steps_and_writes_nothing(source: Source, tmp_path: Path) -> None:
    found = engine.estimate(*settings(), source, 0)
    assert 0 < found.seconds < 10
    assert 0 <= found.waiting <= 1
    assert 0 < found.parameters < found.trained
    assert not list(tmp_path.iterdir())
