"""A plugin as a third party would write it: a small encoder that is trained in milliseconds, and a task of two sounds.

Every step is on disk before the next, and `steps.txt` in a training's folder tells which were taken, and when resumed.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from aape_bench import registry
from aape_bench.checkpoint import save_checkpoint
from aape_bench.encoder import Encoder
from aape_bench.errors import ModelError, UsageError
from aape_bench.identity import digest, source_digest
from aape_bench.plugin import EncoderPlugin
from aape_bench.progress import Progress
from aape_bench.randomness import numpy_stream, torch_stream
from aape_bench.settings import make_config
from aape_bench.storage import atomic_write
from aape_bench.task import Generator, Task
from aape_bench.training import Curves, Interrupted, Question, Run, Setup, Trained, Variant

BANDS, CLIPS = 16, 20
ENTRIES = """[aape_bench.models]
toy = toy_training:plugin
[aape_bench.tasks]
toy_tones = toy_training:tones
toy_control = toy_training:control
"""


def make_tone(index: int) -> np.ndarray:
    """Noise, of every second clip without its upper half."""
    draw = numpy_stream(0, "tone", index)
    spectrum = np.fft.rfft(draw.standard_normal(12800))
    spectrum[len(spectrum) // (1 + index % 2) :] *= 0.3
    audio = np.fft.irfft(spectrum)
    return np.asarray(0.1 * audio / np.abs(audio).max(), np.float32)


def read_tones(_: Path) -> pd.DataFrame:
    rows = range(CLIPS)
    return pd.DataFrame(
        {
            "id": [f"tone-{row}" for row in rows],
            "path": "",
            "start": np.nan,
            "end": np.nan,
            "label": [("bright", "dull")[row % 2] for row in rows],
            "fold": [1 + row // 2 % 5 for row in rows],
            "group": None,
        }
    )


def two_sounds(name: str) -> Task:
    return Task(
        name=name, title="", domain="modulation", kind="multiclass", metric="accuracy", split_scheme="folds",
        clips=CLIPS, classes=2, clip_seconds=0.8, read=read_tones,
        generator=Generator(make_tone, 16000, (__name__,)),
    )  # fmt: skip


tones, control = two_sounds("toy_tones"), two_sounds("toy_control")


@dataclass(frozen=True)
class ToyConfig:
    width: int = 4


class ToyEncoder(Encoder):
    """The power of a clip's bands, projected."""

    sample_rate, takes_lengths = 16000, False

    def __init__(self, config: ToyConfig, seed: int) -> None:
        super().__init__()
        self.scene_embedding_size = self.timestamp_embedding_size = config.width
        drawn = torch.randn(BANDS, BANDS, generator=torch_stream(seed, "toy"))
        self.weight = torch.nn.Parameter(drawn[: config.width])

    def bands(self, audio: Tensor) -> Tensor:
        power = torch.fft.rfft(audio).abs().square()[:, 1:]
        parts = power.chunk(BANDS, dim=1)
        return torch.stack([part.mean(1) for part in parts], dim=1).add(1e-6).log()

    def scene_embeddings(self, audio: Tensor, lengths: Tensor | None = None) -> Tensor:
        del lengths
        return self.bands(audio) @ self.weight.T

    def timestamp_embeddings(self, audio: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        del lengths
        windows = audio.unfold(1, 800, 800)  # 50 ms
        times = torch.arange(windows.shape[1]) * 50.0 + 25.0
        return torch.stack([self.scene_embeddings(one) for one in windows]), times.expand(len(audio), -1)


class ToyTraining:
    """Principal components of noises' bands, by gradient descent on what a projection loses."""

    presets = ("short", "long")
    default_preset = "short"
    default_audio = ("noise",)
    default_variants = ("full", "narrow")
    reference, tuned_on = "full", "narrow"
    learning_rates = (0.001, 0.01)
    controls, stability_task = ("toy_control",), "toy_tones"

    def preset_steps(self, preset: str) -> int:
        return {"short": 8, "long": 80}[preset]

    def audio_remarks(self, audio: Sequence[str]) -> Sequence[str]:
        return ["the toy hears nothing."] if audio == ("nothing",) else []

    def audio_digest(self, audio: Sequence[str]) -> str:
        return digest(list(audio))

    def variants(self) -> Sequence[Variant]:
        return (Variant("full", {}, "four"), Variant("narrow", {"width": 1}, "one"), Variant("wide", {"width": 8}, ""))

    def questions(self) -> Sequence[Question]:
        return (
            Question("width", "Width helps", "full", ("narrow",)),
            Question("more", "More width helps", "wide", ("full",), "real"),
        )

    def development_tasks(self) -> Sequence[Task]:
        return (two_sounds("toy_development"),)

    def check(self, setup: Setup) -> None:
        if unknown := set(setup.settings) - {"width", "seconds", "fail", "crash"}:
            raise UsageError(f"The toy has no setting {min(unknown)}.")
        self._config(setup)

    def identity(self, setup: Setup, seed: int) -> str:
        return digest([asdict(setup), seed, source_digest([__name__])])

    def seconds_per_step(self, setup: Setup, device: str, progress: Progress) -> float:
        del device, progress
        return float(setup.settings.get("seconds", 0.001))

    def train(self, setup: Setup, seed: int, out: Path, device: str, progress: Progress) -> Trained:
        del device
        encoder = ToyEncoder(self._config(setup), seed)
        state, done = out / "state.pt", 0
        if state.is_file():
            saved = torch.load(state, weights_only=True)
            encoder.weight.data, done = saved["weight"], saved["step"]
            self._note(out, f"resumed at {done}")
        rate = 0.005 if setup.learning_rate is None else setup.learning_rate
        with noted_signals() as signals:
            for step in range(done, setup.steps):
                if signals:
                    raise Interrupted(signals[0])
                if float(setup.settings.get("fail", -1)) == step:
                    raise ModelError("The toy was told to fail.")
                if float(setup.settings.get("crash", -1)) == step:
                    raise ZeroDivisionError("the toy was told to crash")
                time.sleep(float(setup.settings.get("seconds", 0)))
                audio = torch.from_numpy(numpy_stream(seed, "noise", step).standard_normal((4, 1024), np.float32))
                bands = encoder.bands(audio)
                loss = (bands @ encoder.weight.T @ encoder.weight / BANDS - bands).square().mean()
                (slope,) = torch.autograd.grad(loss, encoder.weight)
                encoder.weight.data -= rate * slope / slope.norm()
                with atomic_write(state) as handle:
                    torch.save({"weight": encoder.weight.data, "step": step + 1}, handle)
                self._note(out, f"{step} loss {loss.item():.6f}")
        progress.say("the toy is trained")
        save_checkpoint(out / "toy.safetensors", encoder, "toy", asdict(self._config(setup)), {})
        return Trained(out / "toy.safetensors", 0.5, setup.steps, int(encoder.parameter_count or 0), 100.0)

    def curves(self, runs: Sequence[Run]) -> Sequence[Curves]:
        rows = [
            ("", run.variant.name, run.seed, int(line.split()[0]), float(line.split()[2]))
            for run in runs
            for line in (run.out / "steps.txt").read_text().splitlines()
            if "loss" in line
        ]
        table = pd.DataFrame(rows, columns=["panel", "variant", "seed", "x", "y"])
        return (Curves("toy_loss", "Loss of the toy", "step", "loss", table),)

    def _config(self, setup: Setup) -> ToyConfig:
        own: dict[str, Any] = {name: value for name, value in setup.settings.items() if name == "width"}
        return make_config(ToyConfig, own, "toy")

    def _note(self, out: Path, line: str) -> None:
        with (out / "steps.txt").open("a") as handle:
            handle.write(line + "\n")


@contextmanager
def noted_signals() -> Iterator[list[int]]:
    """Signals that came within the block, in place of what they do."""
    came: list[int] = []
    before = {number: signal.signal(number, lambda n, _: came.append(n)) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def training() -> ToyTraining:
    return ToyTraining()


plugin = EncoderPlugin(
    "toy", "bands", lambda config, seed: ToyEncoder(config, seed), ToyConfig, (__name__,), training=training
)


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The plugin installed, for this process and those that it starts; the folder that its entry points are in."""
    about = tmp_path / "site" / "toy-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(ENTRIES)
    monkeypatch.syspath_prepend(about.parent)
    registry._entries.cache_clear()
    yield about.parent
    registry._entries.cache_clear()
