"""Whole ablations of a small plugin: what is trained, what is not trained again, and what becomes of failures."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pytest
from toy_training import toy  # noqa: F401
from toys import Cli, contents

pytestmark = pytest.mark.usefixtures("toy", "small_esc50")
TASKS = ("--task", "toy_tones,toy_control,esc50")


def command(folder: Path, *more: object) -> list[object]:
    places = [("--data-dir", folder / "data"), ("--cache-dir", folder / "cache"), ("--results-dir", folder / "results")]
    return ["ablate", "--model", "toy", "--learning-rate", "0.005", *TASKS, *(x for p in places for x in p), *more]


def plan_folder(folder: Path) -> Path:
    (found,) = (folder / "results" / "ablation").glob("toy-short-*")
    return found


def steps_taken(folder: Path) -> dict[str, list[str]]:
    """Variant and seed -> what its training noted."""
    files = (folder / "results" / "ablation" / "training" / "toy").glob("*/steps.txt")
    return {file.parent.name.rpartition("-")[0]: file.read_text().splitlines() for file in files}


def table(folder: Path) -> pd.DataFrame:
    return pd.read_csv(plan_folder(folder) / "scores.csv")


def test_every_variant_is_trained_and_evaluated_once(cli: Cli, tmp_path: Path) -> None:
    status, out, err = cli(*command(tmp_path, "--seeds", 2))
    assert status == 0, err
    assert "4 trainings done, 0 already there" in out
    scores = table(tmp_path)
    assert len(scores) == 2 * 2 * 3
    assert set(scores["domain"][scores["task"] == "toy_tones"]) == {"modulation"}
    assert set(scores["domain"][scores["task"] == "esc50"]) == {"real"}
    assert set(scores["partial"][scores["task"] == "esc50"]) == {"45 of 2000"}
    records = [json.loads((plan_folder(tmp_path) / name).read_text()) for name in scores["record"]]
    assert [record["scores"]["score"] for record in records] == pytest.approx(scores["score"].tolist())
    assert [record["model"]["checkpoint"]["sha256"] for record in records] == scores["sha256"].tolist()
    assert [record["seed"] for record in records] == scores["seed"].tolist()
    assert {len(lines) for lines in steps_taken(tmp_path).values()} == {8}

    before = contents(plan_folder(tmp_path))
    status, out, _ = cli(*command(tmp_path, "--seeds", 3))
    assert status == 0
    assert "2 trainings done, 4 already there" in out
    assert {len(lines) for lines in steps_taken(tmp_path).values()} == {8}
    after = contents(plan_folder(tmp_path))
    assert {name for name in before if name.startswith("records")} < {n for n in after if n.startswith("records")}
    assert len(table(tmp_path)) == 3 * 2 * 3


def test_the_endpoints_and_questions_stand_in_the_plan(cli: Cli, tmp_path: Path) -> None:
    assert cli(*command(tmp_path, "--seeds", 1, "--variants", "narrow"))[0] == 0
    plan = json.loads((plan_folder(tmp_path) / "plan.json").read_text())
    assert plan["endpoints"] == {"modulation": ["toy_tones"], "real": ["esc50"]}
    assert [question["name"] for question in plan["questions"]] == ["width"]
    assert "seeds" not in plan
    assert plan["steps"] == 8


def test_another_variant_or_task_retrains_nothing(cli: Cli, tmp_path: Path) -> None:
    assert cli(*command(tmp_path, "--seeds", 1, "--variants", "narrow"))[0] == 0
    status, out, _ = cli(*command(tmp_path, "--seeds", 1, "--variants", "narrow,wide"))
    assert status == 0
    assert "1 training done, 2 already there" in out


def test_variants_of_one_function_differ_by_nothing(cli: Cli, tmp_path: Path) -> None:
    own = ("--variants", "narrow", "--variant", "twin:seconds=0.001", "--variant", "quadruplet:width=4")
    status, _, err = cli(*command(tmp_path, "--seeds", 2, *own))
    assert status == 0, err
    scores = table(tmp_path).pivot(index=["task", "seed"], columns="variant", values="score")
    assert (scores["twin"] - scores["full"]).abs().max() == 0
    assert (scores["quadruplet"] - scores["full"]).abs().max() == 0
    assert (scores["narrow"] - scores["full"]).abs().max() > 0
    compared = pd.read_csv(plan_folder(tmp_path) / "ablation.csv")
    assert set(compared["difference"][compared["variant"] == "twin"]) == {0.0}
    assert len(steps_taken(tmp_path)["twin-0"]) == 8


@pytest.mark.slow
def test_processes_side_by_side_come_to_the_same_table(cli: Cli, tmp_path: Path) -> None:
    results: dict[str, dict[str, bytes]] = {}
    for executor in ("local", "local:3"):
        places = (
            "--executor",
            executor,
            "--results-dir",
            tmp_path / executor,
            "--cache-dir",
            tmp_path / f"{executor}c",
        )
        status, _, err = cli(*command(tmp_path, "--seeds", 2, *places))
        assert status == 0, err
        (folder,) = (tmp_path / executor / "ablation").glob("toy-*")
        names = ("scores.csv", "ablation.csv", "ablation.md", "answers.csv", "plan.json")
        results[executor] = {name: (folder / name).read_bytes() for name in names}
        assert "narrow, seed 1: the toy is trained" in err
    assert results["local"] == results["local:3"]
    facts = [json.loads(file.read_text()) for file in (tmp_path / "local:3").rglob("trained.json")]
    assert [fact["threads"] for fact in facts] == [1] * 4


@pytest.mark.parametrize("executor", ["local", pytest.param("local:2", marks=pytest.mark.slow)])
def test_a_training_that_fails_does_not_stop_the_others(cli: Cli, tmp_path: Path, executor: str) -> None:
    own = ("--variants", "narrow", "--variant", "bad:fail=3", "--executor", executor)
    status, out, err = cli(*command(tmp_path, "--seeds", 2, *own))
    assert status == 2
    assert "aape-bench: bad, seed 0: The toy was told to fail." in err
    assert "bad, seed 1: The toy was told to fail." in err
    assert "4 trainings done" in out
    assert set(table(tmp_path)["variant"]) == {"full", "narrow"}


def test_a_damaged_checkpoint_is_refused(cli: Cli, tmp_path: Path) -> None:
    assert cli(*command(tmp_path, "--seeds", 1))[0] == 0
    (checkpoint,) = tmp_path.rglob("narrow-0-*/toy.safetensors")
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1] + b"x")
    status, _, err = cli(*command(tmp_path, "--seeds", 1))
    assert status == 2
    assert "toy.safetensors is not the checkpoint that was written" in err
    assert "Move the folder away" in err


def test_the_learning_rate_is_chosen_once_on_development_tasks(cli: Cli, tmp_path: Path) -> None:
    line = [part for part in command(tmp_path, "--seeds", 1) if part not in ("--learning-rate", "0.005")]
    status, _, err = cli(*line)
    assert status == 0, err
    chosen = json.loads((plan_folder(tmp_path) / "learning_rate.json").read_text())
    assert (chosen["chosen_on"], chosen["steps"]) == ("narrow", 2)
    scores = {one["learning_rate"]: one["score"] for one in chosen["tried"]}
    assert set(scores) == {0.001, 0.01}
    assert set(chosen["tried"][0]["scores"]) == {"toy_development"}
    assert chosen["learning_rate"] == max(scores, key=lambda rate: (scores[rate], -rate))
    # resumed, the choice stands, even against what would be chosen now
    other = next(rate for rate in scores if rate != chosen["learning_rate"])
    (plan_folder(tmp_path) / "learning_rate.json").write_text(json.dumps({**chosen, "learning_rate": other}))
    status, out, _ = cli(*line)
    assert status == 0
    assert "2 trainings done, 0 already there" in out
    assert f"learning rate {other:g}" in (plan_folder(tmp_path) / "ablation.md").read_text()


def test_a_budget_is_turned_into_steps_once_by_the_slowest(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = ("--variant", "slow:seconds=0.02", "--budget", 0.004, "--seeds", 1)
    assert cli(*command(tmp_path, *own))[0] == 0
    plan = json.loads((plan_folder(tmp_path) / "plan.json").read_text())
    assert plan["steps"] == 12
    assert plan["seconds_per_step"] == {"full": 0.001, "narrow": 0.001, "slow": 0.02}
    monkeypatch.setattr("toy_training.ToyTraining.seconds_per_step", lambda *_: 1.0)
    status, out, _ = cli(*command(tmp_path, *own))
    assert status == 0
    assert "0 trainings done, 3 already there" in out


def start(folder: Path, *more: object) -> subprocess.Popen[str]:
    path = os.pathsep.join(filter(None, sys.path))
    return subprocess.Popen(
        [sys.executable, "-c", "from aape_bench.cli import main; main()", *map(str, command(folder, *more))],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=folder, start_new_session=True,
        env={**os.environ, "PYTHONPATH": path},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.01)


def processes_of(session: int) -> Sequence[str]:
    done = subprocess.run(["ps", "-o", "pid=", "-s", str(session)], capture_output=True, text=True, check=False)
    return done.stdout.split()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("executor", "number"),
    [
        ("local", signal.SIGTERM),
        ("local", signal.SIGKILL),
        ("local:2", signal.SIGINT),
        ("local:2", signal.SIGTERM),
        ("local:2", signal.SIGKILL),
    ],
)
def test_stopped_in_the_middle_of_a_training_the_same_command_goes_on(
    cli: Cli,
    tmp_path: Path,
    executor: str,
    number: signal.Signals,
) -> None:
    own = ("--variant", "slow:seconds=0.2", "--seeds", 1, "--executor", executor)
    whole = tmp_path / "whole"
    assert cli(*command(tmp_path, *own, "--results-dir", whole))[0] == 0

    process = start(tmp_path, *own)
    wait_for(lambda: len(steps_taken(tmp_path).get("slow-0", ())) >= 2, process)
    process.send_signal(number)
    _, said = process.communicate(timeout=100)
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number), said
    if number != signal.SIGKILL:
        assert "The same command goes on" in said
        assert "Traceback" not in said
    end = time.monotonic() + 30
    while processes_of(process.pid) and time.monotonic() < end:
        time.sleep(0.1)
    assert not processes_of(process.pid)
    taken = len(steps_taken(tmp_path)["slow-0"])
    assert 2 <= taken < 8
    assert not list(plan_folder(tmp_path).glob("scores.csv"))

    status, _, err = cli(*command(tmp_path, *own))
    assert status == 0, err
    assert f"resumed at {taken}" in steps_taken(tmp_path)["slow-0"]
    (other,) = (whole / "ablation").glob("toy-*")
    for name in ("plan.json", "scores.csv", "ablation.csv", "ablation.md"):
        assert (plan_folder(tmp_path) / name).read_bytes() == (other / name).read_bytes(), name
