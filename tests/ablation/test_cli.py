"""The command `ablate`: its defaults, a dry run, what it refuses, and one real ablation killed and resumed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from toy_training import toy  # noqa: F401
from toys import Cli

MODULATION = ("alias", "chirp", "clicks", "pitch", "tremolo", "vibrato")


def plain(text: str) -> str:
    return " ".join(text.split())


def test_the_default_is_the_whole_plan_of_aape(cli: Cli, small_esc50: Path, tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    status, out, err = cli(
        "ablate", "--preset", "smoke", "--data-dir", small_esc50, "--results-dir", tmp_path / "r", "--dry-run"
    )
    assert status == 0, err
    for name in ("full", "gaussian", "no_contrastive", "no_sblu", "lambda_only", "patch_mlp"):
        assert re.search(rf"^{name} .* s +0 of 3", out, re.MULTILINE), name
    assert "20 steps of every variant, 3 seeds" in out
    assert "to be chosen on no_sblu" in out
    assert "stability: tremolo" in out
    for name in MODULATION:
        assert re.search(rf"^{name} +modulation", out, re.MULTILINE), name
    assert re.search(r"^esc50 +sound +45 of 2000", out, re.MULTILINE)
    assert "gtzan" not in out
    assert "mean over alias, chirp, clicks, tremolo, vibrato" in plain(out)
    assert "The contrastive loss helps" in out
    assert "esc50 is partial: 45 of 2000 clips" in err
    assert "of training are left" in out
    assert not (tmp_path / "r").exists()


def test_data_that_cannot_be_read_is_left_out_and_said(cli: Cli, small_esc50: Path) -> None:
    pytest.importorskip("lightning")
    (small_esc50 / "esc50" / "meta" / "esc50.csv").write_text("nothing\n")
    status, out, err = cli(
        "ablate", "--preset", "smoke", "--data-dir", small_esc50, "--variants", "no_sblu", "--dry-run"
    )
    assert status == 0, err
    assert re.search(r"^Note: esc50 is left out: .*esc50\.csv", err, re.MULTILINE)
    assert not re.search(r"^esc50", out, re.MULTILINE)
    status, _, err = cli("ablate", "--preset", "smoke", "--data-dir", small_esc50, "--task", "esc50", "--dry-run")
    assert status == 2
    assert "esc50.csv" in err


@pytest.mark.usefixtures("toy")
def test_a_dry_run_counts_what_is_there(cli: Cli, small_esc50: Path) -> None:
    line = ("ablate", "--model", "toy", "--task", "toy_tones,esc50", "--data-dir", small_esc50)
    fixed = ("--learning-rate", "0.005", "--variant", "slow:seconds=0.01")
    assert cli(*line, *fixed, "--seeds", 1)[0] == 0
    status, out, _ = cli(*line, *fixed, "--seeds", 2, "--dry-run")
    assert status == 0
    assert re.search(r"^slow +seconds=0.01 +0.01 s +0 s +1 of 2", out, re.MULTILINE)
    assert "besides 12 results" in out
    status, out, _ = cli(*line, "--preset", "long", "--budget", 0.5, "--variant", "slow:seconds=0.2", "--dry-run")
    assert status == 0
    assert "150 steps of every variant, 3 seeds" in out
    # 3 seeds of 150 steps: 0.2 s, 0.001 s and 0.001 s each; two learning rates, 38 steps of 0.001 s each
    assert "About 91 s of training are left, of which 0 s choose the learning rate" in out


@pytest.mark.usefixtures("toy")
def test_what_is_known_of_the_audio_is_said_once(cli: Cli) -> None:
    line = ("ablate", "--model", "toy", "--task", "toy_tones", "--dry-run")
    assert cli(*line, "--audio", "nothing")[2].count("Note: the toy hears nothing.") == 1
    assert "hears" not in cli(*line)[2]


@pytest.mark.usefixtures("toy")
def test_stability_is_measured_and_drawn(cli: Cli, tmp_path: Path) -> None:
    status, out, err = cli(
        *("ablate", "--model", "toy", "--task", "toy_tones,stability", "--learning-rate", "0.005", "--seeds", 1),
        *("--results-dir", tmp_path / "r"),
    )
    assert status == 0, err
    (folder,) = (tmp_path / "r" / "ablation").glob("toy-short-*")
    measured = pd.read_csv(folder / "stability.csv")
    assert set(measured["variant"]) == {"full", "narrow"}
    shifts = measured[(measured["kind"] == "shift") & (measured["quantity"] == "scene")]
    assert sorted(set(shifts["amount"])) == [0, 20, 40, 60, 80, 100, 120, 140, 160]
    assert shifts["value"][shifts["amount"] > 0].min() > 0
    for name in ("stability.png", "toy_loss.svg", "forest.png", "ablation.md"):
        assert (folder / name).stat().st_size > 0
    assert "Width helps: undecided at this scale" in plain(out)


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--model", "vit"), 'The model "vit" offers no training to ablate. Those that do: aape, toy.'),
        (("--preset", "lnog"), 'There is no preset "lnog" of toy. Did you mean "long"'),
        (("--variants", "narow"), 'There is no variant "narow". Did you mean "narrow"'),
        (("--variants", "full"), 'There is nothing to compare "full" with'),
        (("--variant", "odd:height=3"), "The toy has no setting height"),
        (("--steps", 3, "--budget", 1), "--steps and --budget both say"),
        (("--budget", 0), "--budget must be a number above 0"),
        (("--learning-rate", "nan"), "--learning-rate must be a number above 0"),
        (("--executor", "slurm"), 'There is no executor "slurm"'),
        (("--task", "stability"), "No task is named besides stability"),
        (("--task", "toy_tone"), 'There is no task "toy_tone"'),
        (("--task", "toy_tones,gtzan"), "gtzan"),
        (("--protocol", "lineal"), "lineal"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(
    cli: Cli, tmp_path: Path, more: tuple[object, ...], said: str
) -> None:
    base = ("ablate", "--model", "toy", "--task", "toy_tones", "--results-dir", tmp_path / "r")
    (tmp_path / "data").mkdir()
    status, _, err = cli(*base[: 3 if "--task" in more else 5], *base[5:], *more)
    assert status == 2
    assert said in plain(err)
    assert err.count("\n") == 1
    assert not (tmp_path / "r").exists()


def aape(folder: Path, results: str) -> list[str]:
    return [
        *("ablate", "--preset", "smoke", "--steps", "12", "--seeds", "2", "--variants", "gaussian"),
        *("--variant", "twin:workers=2", "--learning-rate", "1e-3", "--task", "esc50"),
        *("--data-dir", str(folder / "data"), "--cache-dir", str(folder / f"cache-{results}")),
        *("--results-dir", str(folder / results)),
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("small_esc50")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_aape_killed_in_the_middle_of_a_variant_comes_to_the_same_table(
    cli: Cli, tmp_path: Path, number: signal.Signals
) -> None:
    pytest.importorskip("lightning")
    assert cli(*aape(tmp_path, "whole"))[0] == 0
    process = subprocess.Popen(
        [sys.executable, "-c", "from aape_bench.cli import main; main()", *aape(tmp_path, "cut")],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    half = "ablation/training/aape/gaussian-0-*/state-*.pt"
    while process.poll() is None and not list((tmp_path / "cut").glob(half)):
        time.sleep(0.001)
    process.send_signal(number)
    _, said = process.communicate(timeout=100)
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number), said
    assert list((tmp_path / "cut").glob(half))
    assert not list((tmp_path / "cut").glob("ablation/training/aape/gaussian-0-*/trained.json"))

    status, out, err = cli(*aape(tmp_path, "cut"))
    assert status == 0, err
    assert "5 trainings done, 1 already there" in out
    assert "gaussian, seed 0: training goes on" in err
    (cut,), (whole,) = ((tmp_path / name / "ablation").glob("aape-*") for name in ("cut", "whole"))
    names = ["plan.json", "scores.csv"]
    assert [(cut / name).read_bytes() for name in names] == [(whole / name).read_bytes() for name in names]
    tables = [pd.read_csv(folder / "ablation.csv").drop(columns="seconds") for folder in (cut, whole)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)

    scores = pd.read_csv(cut / "scores.csv").pivot(index="seed", columns="variant", values=["score", "sha256"])
    assert (scores["score"]["twin"] == scores["score"]["full"]).all()
    assert (scores["sha256"]["twin"] == scores["sha256"]["full"]).all()
    assert (scores["sha256"]["gaussian"] != scores["sha256"]["full"]).all()
    twin = tables[0][tables[0]["variant"] == "twin"]
    assert len(twin)
    assert (twin["difference"] == 0).all()
