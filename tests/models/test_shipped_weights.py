"""The checkpoint that comes with AaPE: what it is, what it was trained on, and that no evaluated clip was among it."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from aape_bench import registry
from aape_bench.checkpoint import read_header
from aape_bench.models import aape
from aape_bench.overlap import TrainingAudio, overlap_of
from aape_bench.selection import select_model
from aape_bench.task_data import load_task

FILE = Path(aape.shipped_weights())
REAL = ("esc50", "us8k", "spcv2", "vc1", "cremad", "gtzan", "nsynth", "as20k")


def test_it_is_small_and_half_precision() -> None:
    assert FILE.stat().st_size < 25e6
    tensors = load_file(FILE)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    assert all(tensor.isfinite().all() for tensor in tensors.values())


def test_it_is_the_default_and_computes_in_single_precision() -> None:
    choice = select_model("aape", {}, "default", 0)
    assert re.fullmatch(r"aape@[0-9a-f]{8}", choice.label)
    encoder = choice.build()
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}
    noise = torch.randn(2, 16000, generator=torch.Generator().manual_seed(0)) / 10
    trained, random = (one.scene_embeddings(noise) for one in (encoder, select_model("aape", {}, "random", 0).build()))
    assert trained.isfinite().all()
    assert not torch.allclose(trained, random, atol=1e-2)


def test_its_hear_module_is_trained() -> None:
    assert not aape.load_model().random_weights


def test_the_card_says_what_it_was_trained_on() -> None:
    card = read_header(FILE).card
    with FILE.with_name("packages.csv").open(encoding="utf-8", newline="") as handle:
        packages = list(csv.DictReader(handle))
    assert card["audio"] == [f"{row['package']} {row['version']}" for row in packages]
    audio = TrainingAudio.from_card(card)
    assert audio is not None
    assert audio.complete
    assert len(audio.hashes) > 1000
    assert card["steps"] == card["of_steps"]
    text = FILE.with_name("CARD.md").read_text(encoding="utf-8")
    assert all(f"| `{row['package']}` |" in text and row["licence"] in text for row in packages)
    assert f"{card['steps']} steps" in text


@pytest.mark.parametrize("name", REAL)
def test_no_clip_of_a_task_was_among_its_training_audio(name: str, real_data: Path, tmp_path: Path) -> None:
    data = load_task(registry.task(name), real_data, tmp_path, allow_partial=True)
    card = read_header(FILE).card
    found = overlap_of("shipped", card, None, data.task, data.root, data.table, data.hashes(), tmp_path)
    assert found.value == "none"


def test_generated_audio_is_known(tmp_path: Path) -> None:
    data = load_task(registry.task("chirp"), tmp_path, tmp_path, allow_partial=False)
    found = overlap_of("shipped", read_header(FILE).card, None, data.task, data.root, data.table, None, tmp_path)
    assert found.value == "same-generator"
