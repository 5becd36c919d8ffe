"""The commands as a person uses them: pretrain to evaluation, signals and kills in real processes, inspect, profile."""

from __future__ import annotations

import csv
import importlib.util
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pretrain_runs import rows, same_run, write_audio

Cli = Callable[..., tuple[int, str, str]]

SMALL = ("--preset", "smoke", "--set", "clip_seconds=0.65", "--set", "model.blocks=1", "--set", "batch=4")


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_audio(tmp_path_factory.mktemp("audio") / "clips")


def line(audio: Path, out: Path, *more: object) -> list[str]:
    return [str(part) for part in ("pretrain", "--audio", audio, "--out", out, "--device", "cpu", *SMALL, *more)]


def test_from_audio_to_an_evaluation(cli: Cli, tmp_path: Path) -> None:
    """The smoke preset as it is, on generated audio; then its teacher as the weights of a run."""
    status, out, err = cli(
        "pretrain", "--audio", "generated:modulation", "--preset", "smoke", "--out", tmp_path / "out"
    )
    assert status == 0, err
    teacher = tmp_path / "out" / "teacher-20.safetensors"
    assert f"aape-bench run --model aape --weights {teacher}" in out
    log = rows(tmp_path / "out")
    assert len(log) == 20
    assert float(log[-1]["loss"]) < 0.9 * float(log[0]["loss"])
    evaluate = ("run", "--model", "aape", "--task", "tremolo", "--no-references", "--dry-run")
    status, out, err = cli(*evaluate, "--weights", teacher)
    assert status == 0, err
    assert "aape[width=64,blocks=2,heads=2,clip_frames=128]@" in out
    assert "random" not in out + err


def test_a_killed_and_a_stopped_command_go_on_to_the_same_bytes(cli: Cli, audio: Path, tmp_path: Path) -> None:
    more = ("--steps", 100, "--set", "checkpoint_every=4", "--set", "log_every=3")
    ends = ((signal.SIGKILL, ""), (signal.SIGTERM, "The same command with --resume goes on."))
    started = [start(line(audio, tmp_path / number.name, *more)) for number, _ in ends]
    for process, (number, _) in zip(started, ends, strict=True):
        wait_for(process, tmp_path / number.name)
        process.send_signal(number)
    for process, (number, said) in zip(started, ends, strict=True):
        out = tmp_path / number.name
        _, err = process.communicate()
        assert process.returncode == (-9 if number == signal.SIGKILL else 128 + number), err
        assert said in err
        assert "Traceback" not in err
        assert not (out / "state-100.pt").exists()
    status, _, err = cli(*line(audio, tmp_path / "whole", *more))
    assert status == 0, err
    for name in ("SIGKILL", "SIGTERM"):
        status, _, err = cli(*line(audio, tmp_path / name, *more))
        assert status == 2
        assert "Go on with --resume" in err
        status, _, err = cli(*line(audio, tmp_path / name, *more, "--resume"))
        assert status == 0, err
        assert "Going on after step" in err
        assert same_run(tmp_path / "whole", tmp_path / name, step=100)


def start(arguments: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-P", "-c", "from aape_bench.cli import main; main()", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(process: subprocess.Popen[str], out: Path) -> None:
    """Until there is a checkpoint; of which step hangs on the machine, as older ones are deleted."""
    while next(out.glob("state-*.pt"), None) is None:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


@pytest.mark.slow
def test_processes_of_its_own_stop_together(audio: Path, tmp_path: Path) -> None:
    """--devices 2 without torchrun: the signal reaches the first process alone."""
    program = tmp_path / "program.py"  # Lightning starts the others by the name of the script
    program.write_text("from aape_bench.cli import main\nmain()\n")
    arguments = line(audio, tmp_path / "out", "--steps", 400, "--set", "checkpoint_every=4", "--devices", 2)
    command = [sys.executable, str(program), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(process, tmp_path / "out")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert err.count("stopped after step") == 1
    assert "Traceback" not in err


def test_a_dry_run_says_what_would_be(cli: Cli, audio: Path, tmp_path: Path) -> None:
    status, out, err = cli(*line(audio, tmp_path / "out", "--steps", 100, "--dry-run"))
    assert status == 0, err
    assert "smoke: 100 steps of 4 clips x 2 masks" in out
    assert "audio: 10 clips" in out
    assert "40.0 epochs" in out
    assert "sblu, 1 blocks of width 64" in out
    assert "s a step" in out
    assert not (tmp_path / "out").exists()


def test_the_settings_are_listed(cli: Cli) -> None:
    status, out, _ = cli("pretrain", "--settings")
    assert status == 0
    assert ["predictor", "cross_attention", "cross_attention", "|", "conv"] in [one.split() for one in out.splitlines()]
    assert ["contrastive_weight", "0.5", "float"] in [one.split() for one in out.splitlines()]


def test_settings_reach_the_run_and_are_saved(cli: Cli, audio: Path, tmp_path: Path) -> None:
    more = ("--steps", 2, "--seed", 7, "--set", "masks=3", "--set", "model.window=gaussian", "--set", "predictor=conv")
    status, _, err = cli(*line(audio, tmp_path / "out", *more))
    assert status == 0, err
    run = json.loads((tmp_path / "out" / "config.json").read_text())["run"]
    assert (run["seed"], run["pretrain"]["masks"], run["pretrain"]["predictor"]) == (7, 3, "conv")
    assert (run["model"]["window"], run["model"]["clip_frames"]) == ("gaussian", 64)
    assert str(tmp_path) not in (tmp_path / "out" / "config.json").read_text()


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (("--set", "mask=3"), 'no setting "mask". Did you mean "masks"?'),
        (("--set", "model.windows=hann"), 'no setting "windows". Did you mean "window"?'),
        (("--steps", 3, "--set", "steps=4"), "--steps and --set steps="),
        (("--preset", "huge"), 'cannot be "huge"'),
        (("--log", "wandb"), "There is: tensorboard"),
        (("--set", "model.clip_frames=1024"), "Set clip_seconds"),
        (("--device", "tpu"), 'no device "tpu"'),
    ],
)
def test_wrong_options_are_refused_before_anything_is_written(
    cli: Cli, audio: Path, tmp_path: Path, more: tuple[object, ...], reason: str
) -> None:
    status, _, err = cli(*line(audio, tmp_path / "out", *more))
    assert status == 2
    assert reason in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("package", "option"), [("lightning", ()), ("tensorboard", ("--log", "tensorboard"))])
def test_a_missing_package_is_named_with_the_line_that_installs_it(
    cli: Cli, audio: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, option: tuple[str, ...]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == package else find(name, *a))
    status, _, err = cli(*line(audio, tmp_path / "out", *option))
    extra = {"lightning": "pretrain"}.get(package, package)
    assert status == 2
    assert f'pip install "aape-bench[{extra}]"' in err
    assert not (tmp_path / "out").exists()


def test_inspect_draws_a_checkpoint(cli: Cli, audio: Path, tmp_path: Path) -> None:
    assert cli(*line(audio, tmp_path / "out", "--steps", 2))[0] == 0
    teacher = tmp_path / "out" / "teacher-2.safetensors"
    status, out, err = cli("inspect", teacher, "--out", tmp_path / "figures", "--audio", audio, "--clips", 12)
    assert status == 0, err
    assert "beta (Hz)" in out
    pictures = {f"{name}.{kind}" for name in ("kernels", "responses", "modes", "training") for kind in ("png", "svg")}
    tables = {"kernels.csv", "responses.csv", "distributions.csv"}
    assert {path.name for path in (tmp_path / "figures").iterdir()} == pictures | tables
    # the training's own folder loses nothing to it
    assert not tables & {path.name for path in (tmp_path / "out").iterdir()}
    assert (tmp_path / "figures" / "modes.png").read_bytes()[:4] == b"\x89PNG"
    assert "folds at the patch rate" in (tmp_path / "figures" / "responses.svg").read_text()
    with (tmp_path / "figures" / "distributions.csv").open(newline="") as handle:
        table = list(csv.DictReader(handle))
    assert len(table) == 2 * 8 * 16
    status, _, err = cli("inspect", teacher, "--out", tmp_path / "unheard")
    assert status == 0
    assert "without --audio" in err
    assert not (tmp_path / "unheard" / "modes.png").exists()


def test_inspect_of_a_checkpoint_without_modes_draws_its_training_alone(cli: Cli, audio: Path, tmp_path: Path) -> None:
    assert cli(*line(audio, tmp_path / "out", "--steps", 1, "--set", "model.stem=plain"))[0] == 0
    teacher = tmp_path / "out" / "teacher-1.safetensors"
    status, _, err = cli("inspect", teacher, "--out", tmp_path / "training")
    assert status == 0, err
    assert "only the training is drawn" in err
    assert {path.name for path in (tmp_path / "training").iterdir()} == {"training.png", "training.svg"}
    alone = teacher.rename(tmp_path / "alone.safetensors")
    status, _, err = cli("inspect", alone, "--out", tmp_path / "figures")
    assert status == 2
    assert "stem=plain has no alpha and beta" in err
    assert not (tmp_path / "figures").exists()


PROFILE: tuple[Any, ...] = ("profile", "--repeats", 1, "--device", "cpu")


def test_profile_compares_stems_and_kernels(cli: Cli, tmp_path: Path) -> None:
    small = (*PROFILE, "--model", "aape{width=32;blocks=1;heads=2;clip_frames=64}")
    tables = []
    for part, batches in (("stems", "1"), ("kernels", "1,2"), ("finetune", "1,3")):
        status, out, err = cli(*small, "--part", part, "--batch", batches, "--out", tmp_path / f"{part}.csv")
        assert status == 0, err
        assert "time ratio" in out
        with (tmp_path / f"{part}.csv").open(newline="") as handle:
            tables.append(list(csv.DictReader(handle)))
    stems, kernels, updates = tables
    assert len(stems) == 7
    assert (stems[0]["what"], stems[0]["time_ratio"], stems[0]["memory_ratio"]) == ("encoder, plain", "1", "1")
    assert [row["notes"].split(" patches")[0] for row in kernels] == ["32"] * 4 + ["64"] * 4
    assert [(row["what"], row["batch"]) for row in updates] == [("fine-tuning, 5.12 s", batch) for batch in "13"]
    assert float(updates[1]["milliseconds"]) > float(updates[0]["milliseconds"])


@pytest.mark.slow
def test_profile_measures_a_step(cli: Cli) -> None:
    status, out, err = cli(*PROFILE, "--part", "step", *SMALL, "--peak-tflops", 0.1)
    assert status == 0, err
    assert out.count("% of the peak") == 3
    assert out.count("clips/s") == 3


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        (("--part", "stem"), "There is: stems, kernels, step"),
        (("--model", "logmel"), 'not "logmel"'),
        (("--batch", "1,x"), "whole numbers from 1"),
        (("--peak-tflops", "0"), "takes a number above 0, not 0"),
        (("--peak-tflops", "nan"), "takes a number above 0, not nan"),
    ],
)
def test_profile_refuses_what_it_does_not_know(cli: Cli, option: tuple[str, str], reason: str) -> None:
    status, _, err = cli("profile", *option)
    assert status == 2
    assert reason in err
