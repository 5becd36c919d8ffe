"""`--budget`, `--updates` and what `--dry-run` says of a training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from toys import Cli, rows, run

from aape_bench.finetune import forecast as forecasts
from aape_bench.finetune.forecast import Forecast, Timing, facts
from aape_bench.finetune.recipe import Recipe
from aape_bench.training import Interrupted

VIT = "vit{blocks=2;width=48;heads=2}"
TUNE = ("--protocol", "finetune", "--no-references", "--protocol-set", "batch=6")
TIMING = Timing(timed=20, seconds=0.5, waiting=0.01, hearing=0.015, scoring=0.1, peak_memory_mb=100.0)


def choices(results: Path) -> list[dict[str, Any]]:
    (row,) = rows(results)
    return list(json.loads((results / row["record"]).read_text())["protocol"]["choices"])


def test_updates_are_the_setting_of_that_name(cli: Cli, small_esc50: Path, tmp_path: Path) -> None:
    for name, given in (("option", ("--updates", 2)), ("setting", ("--protocol-set", "updates=2"))):
        status, _, err = run(cli, small_esc50, *TUNE, *given, "--results-dir", tmp_path / name, model=VIT)
        assert status == 0, err
    one, two = (rows(tmp_path / name)[0]["record"] for name in ("option", "setting"))
    assert one == two


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("--protocol", "linear", "--updates", 2), "--updates is for --protocol finetune"),
        ((*TUNE, "--updates", 2, "--budget", 1), "exclude each other"),
        ((*TUNE, "--updates", 2, "--protocol-set", "updates=3"), "set twice"),
        ((*TUNE, "--budget", 0), "budget must lie between"),
        ((*TUNE, "--budget", 1, "--protocol-set", "epochs=3"), "exclude each other"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(
    cli: Cli, small_esc50: Path, tmp_path: Path, given: tuple[object, ...], words: str
) -> None:
    status, _, err = run(cli, small_esc50, *given, "--results-dir", tmp_path / "r", model=VIT)
    assert status == 2
    assert words in err
    assert not (tmp_path / "r").exists()


def test_a_budget_becomes_updates_once(
    cli: Cli, small_esc50: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forecasts, "_updates_within", lambda minutes, *_: round(minutes * 3))
    timed = []
    time = forecasts._time
    monkeypatch.setattr(forecasts, "_time", lambda *given: timed.append(given) or time(*given))
    given = (*TUNE, "--budget", 1, "--results-dir", tmp_path / "r")
    status, _, err = run(cli, small_esc50, *given, model=VIT)
    assert status == 0, err
    assert len(timed) == 1  # not once a fold
    assert "1 minutes a fold are 3 updates" in err
    assert [one["updates"] for one in choices(tmp_path / "r")] == [3] * 5
    assert "0 results computed, 1 already there" in run(cli, small_esc50, *given, model=VIT)[1]
    assert len(timed) == 1


def test_a_budget_on_disk_counts(cli: Cli, small_esc50: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that goes on trains as long as it set out to, however fast the machine is by now."""

    def stop(*_: object) -> None:
        raise Interrupted(15)

    monkeypatch.setattr(forecasts, "_updates_within", lambda *_: 4)
    given = (*TUNE, "--budget", 1, "--results-dir", tmp_path / "r")
    with monkeypatch.context() as broken:
        broken.setattr("aape_bench.finetune.trainer._FineTuning._train", stop)
        assert run(cli, small_esc50, *given, model=VIT)[0] == 128 + 15
    (settled,) = (tmp_path / "r").rglob(forecasts.SETTLED)
    assert json.loads(settled.read_text())["updates"] == 4
    monkeypatch.setattr(forecasts, "_updates_within", lambda *_: 9)
    assert run(cli, small_esc50, *given, model=VIT)[0] == 0
    assert [one["updates"] for one in choices(tmp_path / "r")] == [4] * 5


@pytest.mark.parametrize("content", ["", "{}", '{"updates": 0}', '{"updates": Infinity}', '{"updates": true}'])
def test_a_spoiled_budget_begins_anew(tmp_path: Path, content: str) -> None:
    (tmp_path / forecasts.SETTLED).write_text(content)
    assert forecasts._settled(tmp_path / forecasts.SETTLED) is None


def test_a_forecast_is_updates_validations_and_the_test() -> None:
    recipe = Recipe(preset="other", updates=10, batch=48, validate_every=4).resolved()
    found = Forecast(recipe, TIMING, train=100, validation=8, test=30, folds=5)
    # 10 updates; after 4, 8 and 10 a validation, and once more at the end
    assert found.fold_seconds == pytest.approx(10 * 0.5 + (4 * 8 + 30) * 0.1)
    assert TIMING.outside == pytest.approx(0.05)


def test_a_budget_is_kept_by_the_forecast_s_own_count() -> None:
    recipe = Recipe(preset="other", budget=2.0, batch=10).resolved()

    class Rotated:
        rotation = type("Rotation", (), {"train": range(100), "validation": range(20), "test": range(50)})
        recipe = None

    material: Any = Rotated()
    material.recipe = recipe.settled(1000)
    updates = forecasts._updates_within(2.0, TIMING, material)
    planned = recipe.settled(updates).planned(100)
    found = Forecast(planned, TIMING, train=100, validation=20, test=50, folds=1)
    assert found.fold_seconds <= 120 + 20 * TIMING.scoring
    longer = replace(found, recipe=replace(planned, updates=updates + 3))
    assert longer.fold_seconds > 118
    assert forecasts._updates_within(0.001, TIMING, material) == 1


def test_a_dry_run_says_what_would_be_trained_and_how_long(cli: Cli, small_esc50: Path, tmp_path: Path) -> None:
    folder = tmp_path / "r"
    given = (*TUNE, "--protocol-set", "probe_updates=3;mixup=0.5", "--updates", 30, "--results-dir", folder)
    assert run(cli, small_esc50, "--results-dir", tmp_path / "other", model=VIT)[0] == 0  # files are known then
    status, out, _ = run(cli, small_esc50, *given, "--dry-run", model=VIT)
    assert status == 0
    for part in (
        "5 folds of 30 updates of 6 clips, recipe esc50",
        "the head alone for 3 updates at 0.001",
        "5e-05 after 3 updates of warm-up, then half a cosine to 1e-06",
        "roll, magnitude, mixup 0.5 with probability 0.9, SpecAugment 0.4 of the frames, 0.4 of the bins",
        "(20 timed)",
        "outside the model",
        "a fold",
    ):
        assert part in out, part
    assert not folder.exists()


def test_facts_leave_out_what_is_not_done() -> None:
    plain = Recipe(preset="other", updates=10, spec_time=0.0, spec_frequency=0.0, roll=False, drop_path=0.0)
    found = Forecast(plain.resolved().planned(100), TIMING, 100, 10, 10, 1)
    said = facts(found)
    assert said["augmentation"] == "magnitude"
    assert "1 fold of 10 updates" in said["training"]
    assert "the head alone" not in said["schedule"]
