"""Recipes: the published values, what is refused, and the learning rate over time."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import pytest

from aape_bench.errors import UsageError
from aape_bench.finetune.recipe import Recipe, schedule
from aape_bench.settings import describe, label_of, make_config

#: learning rate, updates, epochs, batch, mixup, SpecAugment (time, frequency), seconds, loss, smoothing, layer decay
PUBLISHED: dict[str, tuple[Any, ...]] = {
    "as20k": (5e-5, 40000, None, 48, 0.8, 0.2, 0.2, 10.24, "auto", 0.0, 0.65),
    "esc50": (5e-5, 4000, None, 48, 0.0, 0.4, 0.4, 5.12, "auto", 0.1, 0.65),
    "spcv2": (2e-4, 40000, None, 256, 0.8, 0.2, 0.2, 1.28, "bce", 0.1, 0.65),
    "vc1": (5e-4, None, 50, 64, 0.0, 48, 30 / 80, 8.32, "auto", 0.0, 1.0),
    "nsynth": (5e-5, 20000, None, 128, 0.0, 0.2, 0.2, 4.0, "auto", 0.0, 0.65),
    "other": (5e-5, 4000, None, 48, 0.0, 0.2, 0.2, 0.0, "auto", 0.0, 0.65),
}


def recipe(**settings: Any) -> Recipe:
    return make_config(Recipe, {"preset": "other", **settings}, "finetune")


def rates(made: Recipe) -> list[float]:
    assert made.updates is not None
    return [schedule(update, made) for update in range(made.updates)]


@pytest.mark.parametrize("preset", PUBLISHED)
def test_presets_have_the_published_values(preset: str) -> None:
    made = recipe(preset=preset)
    assert PUBLISHED[preset] == (
        *(made.learning_rate, made.updates, made.epochs, made.batch, made.mixup, made.spec_time, made.spec_frequency),
        *(made.clip_seconds, made.loss, made.smoothing, made.layer_decay),
    )
    assert (made.beta1, made.beta2, made.weight_decay, made.drop_path) == (0.9, 0.95, 0.05, 0.1)
    assert (made.final_rate, made.warmup, made.mixup_probability) == (1e-6, 0.1, 0.9)
    assert made.roll
    assert made.magnitude
    assert (made.noise > 0) == (preset == "spcv2")
    assert made.balanced == (preset == "as20k")
    unset = {field.name for field in dataclasses.fields(made) if getattr(made, field.name) is None}
    assert unset == {"validate_every", "patience", "budget", "updates" if preset == "vc1" else "epochs"}


def test_a_length_of_ones_own_replaces_the_presets() -> None:
    assert (recipe(preset="vc1", updates="20").updates, recipe(preset="vc1", updates="20").epochs) == (20, None)
    assert (recipe(preset="esc50", epochs="3").updates, recipe(preset="esc50", epochs="3").epochs) == (None, 3)
    assert recipe(preset="vc1").resolved() == recipe(preset="vc1")


def test_without_a_preset_what_is_not_given_waits_for_the_tasks() -> None:
    waiting = recipe(preset="none", mixup="0.3")
    assert (waiting.preset, waiting.learning_rate, waiting.mixup) == (None, None, 0.3)
    assert dataclasses.replace(waiting, preset="spcv2").resolved() == recipe(preset="spcv2", mixup=0.3)


def test_settings_are_described_and_labelled() -> None:
    assert {name for name, _, _ in describe(Recipe)} == {field.name for field in dataclasses.fields(Recipe)}
    assert label_of("finetune", recipe(preset="vc1", freeze=2, keep_weights=True)) == "finetune[preset=vc1,freeze=2]"
    assert recipe(pooling="none").pooling is None


@pytest.mark.parametrize(
    "bad",
    [
        {"learning_rate": 0.0},
        {"learning_rate": 1e-7},  # below the last rate
        {"updates": 0},
        {"updates": 5, "epochs": 5},
        {"batch": 0},
        {"accumulate": 49},
        {"layer_decay": 1.1},
        {"drop_path": 1.0},
        {"warmup": 1.0},
        {"freeze": -1},
        {"probe_updates": 4000},
        {"mixup": -0.1},
        {"mixup_probability": 1.5},
        {"spec_time": 1.5},
        {"spec_frequency": -1.0},
        {"smoothing": 1.0},
        {"patience": 0},
        {"validation_share": 0.9},
        {"preset": "esc51"},
    ],
)
def test_impossible_settings_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(bad))):
        recipe(**bad)


def test_the_rate_rises_to_its_peak_and_falls_to_the_last() -> None:
    made = recipe(updates=100, learning_rate=1e-3)
    factors = rates(made)
    assert factors[:10] == pytest.approx([0.1 * k for k in range(1, 11)])
    assert factors[9] == max(factors) == 1.0
    assert factors[54] == pytest.approx((1 + 1e-3) / 2)  # half way from update 9 to 99
    assert factors[-1] == pytest.approx(1e-6 / 1e-3)
    assert all(before > after for before, after in itertools.pairwise(factors[9:]))
    quarter = (45 / 2) / 90
    expected = 1e-3 + (1 - 1e-3) * 0.5 * (1 + math.cos(math.pi * quarter))
    assert (factors[31] + factors[32]) / 2 == pytest.approx(expected, abs=1e-4)


def test_short_schedules_and_no_warm_up() -> None:
    assert rates(recipe(updates=1, learning_rate=1e-3)) == [pytest.approx(1e-3)]
    without = rates(recipe(updates=4, learning_rate=1e-3, warmup=0))
    assert without[0] < 1
    assert without[-1] == pytest.approx(1e-3)
    assert rates(recipe(updates=2, warmup=0.99))[1] == 1.0


def test_the_head_alone_comes_first_at_a_rate_of_its_own() -> None:
    made = recipe(updates=60, probe_updates=10, probe_rate=1e-2, learning_rate=1e-3)
    factors = rates(made)
    assert factors[:10] == [10.0] * 10
    assert factors[10:] == rates(recipe(updates=50, learning_rate=1e-3))


def test_epochs_become_updates_of_whole_batches() -> None:
    made = recipe(preset="vc1").planned(138361)
    assert (made.updates, made.epochs, made.validate_every) == (math.ceil(50 * 138361 / 64), None, 2162)
    assert made.planned(1000) == made
    plain = recipe(preset="esc50", validate_every=7).planned(1200)
    assert (plain.updates, plain.validate_every) == (4000, 7)
    with pytest.raises(UsageError, match="planned"):
        schedule(0, recipe(preset="vc1"))
    with pytest.raises(UsageError, match="probe_updates"):
        recipe(epochs=1, probe_updates=30).planned(100)
