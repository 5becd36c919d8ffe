"""Development tasks: the suite's questions on clips that the suite does not have."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from aape_bench import registry
from aape_bench.task import Task
from aape_bench.task_data import load_task
from aape_bench.tasks.modulation import generated
from aape_bench.tasks.modulation.development import SEED, development

SUITE = ("tremolo", "alias", "clicks", "vibrato", "chirp", "pitch")


@pytest.fixture(params=SUITE)
def task(request: pytest.FixtureRequest) -> Task:
    return registry.task(request.param)


def test_classes_and_folds_are_even(task: Task) -> None:
    fewer = development(task, 20)
    data = load_task(fewer, Path(), Path(), allow_partial=False)
    assert len(data.table) == fewer.clips == 20 * task.classes
    assert data.table.groupby(["label", "fold"]).size().eq(4).all()
    assert list(dict.fromkeys(data.table["label"])) == list(dict.fromkeys(task.read(Path())["label"]))
    assert data.table["id"].iloc[7] == f"{task.name}-development-00007"


def test_a_clip_is_what_its_label_says(task: Task) -> None:
    fewer, make_clip = development(task, 10), import_module(f"aape_bench.tasks.modulation.{task.name}").make_clip
    labels, own = fewer.read(Path())["label"], task.read(Path())["label"]
    assert fewer.generator is not None
    for row in (0, 9, 10, fewer.clips - 1):
        same = [index for index in np.flatnonzero(own == labels[row]) if index % 100 == row % 10]
        np.testing.assert_array_equal(fewer.generator.clip(row), make_clip(same[0], seed=SEED))


def test_no_clip_is_one_of_the_suites(task: Task) -> None:
    draw = import_module(f"aape_bench.tasks.modulation.{task.name}").clip_parameters
    levels = {seed: {draw(index, seed).level_db for index in range(task.clips)} for seed in (SEED, generated.SEED)}
    assert len(levels[SEED]) == task.clips
    assert not levels[SEED] & levels[generated.SEED]
    fewer = development(task)
    assert fewer.generator is not None
    assert task.generator is not None
    assert fewer.generator.clip(0).tobytes() != task.generator.clip(0).tobytes()


def test_results_never_stand_for_those_of_the_suite(task: Task) -> None:
    own, fewer = (load_task(one, Path(), Path(), allow_partial=False) for one in (task, development(task, 100)))
    assert own.fingerprints().data != fewer.fingerprints().data
    assert own.fingerprints().audio != fewer.fingerprints().audio
    assert fewer.task.name not in registry.task_names()


@pytest.mark.parametrize("clips", [0, 12, 105])
def test_uneven_folds_are_refused(clips: int) -> None:
    with pytest.raises(ValueError, match="multiple of 5, at most 100"):
        development(registry.task("tremolo"), clips)
