"""One rotation fine-tuned: what it may look at, what its scores are, several labels, classes that training lacks."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from toys import FOLDS, table

from aape_bench.clip_table import Rotation
from aape_bench.clips import ClipReader
from aape_bench.finetune.learner import Material
from aape_bench.finetune.recipe import Recipe
from aape_bench.finetune.trainer import fine_tune
from aape_bench.problem import Fit, Problem
from aape_bench.progress import Silent
from aape_bench.protocols.common import LOWEST
from aape_bench.selection import select_model

TRAIN, VALIDATION, TEST = np.arange(6), np.arange(6, 9), np.arange(9, 12)
NUMBER = itertools.count()
RECIPE: dict[str, Any] = {"preset": "other", "updates": 6, "batch": 3, "validate_every": 2, "learning_rate": 1e-3}


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    """12 clips of half a second of noise, each with a tone of its own."""
    (tmp_path / "audio").mkdir()
    time = np.arange(8000) / 16000
    for row, path in enumerate(table()["path"]):
        noise = np.random.default_rng(row).standard_normal(8000)
        soundfile.write(tmp_path / path, 0.1 * np.sin(2 * np.pi * (300 + 700 * (row % 2)) * time) + 0.02 * noise, 16000)
    return tmp_path


def trained(
    audio: Path, labels: np.ndarray, asked: list[np.ndarray] | None = None, seed: int = 0, **settings: Any
) -> Fit:
    exclusive = labels.ndim == 1
    columns = labels if exclusive else labels.argmax(axis=1)

    def quality(rows: np.ndarray, scores: np.ndarray) -> float:
        if asked is not None:
            asked.append(rows)
        return float((scores.argmax(axis=1) == columns[rows]).mean())

    rotation = Rotation("1", TRAIN, VALIDATION, TEST)
    classes = ["a", "b", "c"]
    embeddings = np.zeros((12, 0), np.float32)
    clips = table().assign(start=float("nan"), end=float("nan"))
    material = Material(
        encoder=select_model("vit", {"blocks": 1, "width": 16, "heads": 1}, "random", 0).build(),
        reader=ClipReader(FOLDS, audio, clips, None, 16000, full_length=False),
        problem=Problem(embeddings, exclusive, labels, classes, [rotation], quality),
        rotation=rotation,
        recipe=Recipe(**{**RECIPE, **settings}).resolved(),
        seed=seed,
        device="cpu",
        folder=audio / f"state-{next(NUMBER)}",
        name="toy",
    )
    return fine_tune(material, Silent()).fit


ONE = np.arange(12) % 2
SEVERAL = np.stack([ONE == 0, ONE == 1, np.arange(12) % 3 == 0], axis=1)


@pytest.mark.parametrize("labels", [ONE, SEVERAL], ids=["exclusive", "several"])
def test_labels_and_clips_of_the_test_part_change_nothing(audio: Path, labels: np.ndarray) -> None:
    asked: list[np.ndarray] = []
    first = trained(audio, labels, asked)
    assert all(np.array_equal(rows, VALIDATION) for rows in asked)
    other = labels.copy()
    other[TEST] = labels[TEST][::-1]
    again = trained(audio, other)
    assert np.array_equal(first.test, again.test)
    assert first.choice == again.choice
    samples, rate = soundfile.read(audio / "audio" / "c10.wav")
    soundfile.write(audio / "audio" / "c10.wav", samples[::-1].copy(), rate)
    moved = trained(audio, labels)
    assert np.array_equal(first.validation, moved.validation)
    assert np.array_equal(first.test[0, [0, 2]], moved.test[0, [0, 2]])
    assert not np.array_equal(first.test[0, 1], moved.test[0, 1])


def test_another_seed_is_another_training(audio: Path) -> None:
    assert not np.array_equal(trained(audio, ONE).test, trained(audio, ONE, seed=1).test)


def test_scores_have_the_contract_s_form(audio: Path) -> None:
    exclusive, several = trained(audio, ONE), trained(audio, SEVERAL, mixup=0.8, loss="bce", balanced=True)
    assert exclusive.test.shape == several.test.shape == (1, 3, 3)
    assert exclusive.test.dtype == np.float32
    assert np.exp(exclusive.test[..., :2]).sum(axis=2) == pytest.approx(1, abs=1e-5)
    assert (exclusive.test[..., 2] == LOWEST).all()  # a class that no training clip has
    assert ((several.test >= 0) & (several.test <= 1)).all()


@pytest.mark.parametrize("settings", [{"epochs": 3, "updates": None}, {"batch": 48}, {"freeze": 1}, {"noise": 0.3}])
def test_recipes_run(audio: Path, settings: dict[str, Any]) -> None:
    found = trained(audio, ONE, **settings)
    assert np.isfinite(found.validation[..., :2]).all()
    if "epochs" in settings:
        assert found.choice["updates"] == 6  # 3 x 6 clips in batches of 3


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_half_precision_is_close(audio: Path, precision: str) -> None:
    whole, half = trained(audio, ONE), trained(audio, ONE, precision=precision)
    assert np.abs(whole.test[..., :2] - half.test[..., :2]).max() < 0.1
