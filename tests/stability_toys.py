"""A generated task of moving tones and encoders whose stability is known; for the tests of `aape_bench.stability`."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from aape_bench.choices import PluginChoice
from aape_bench.encoder import Encoder
from aape_bench.plugin import EncoderPlugin, NoSettings
from aape_bench.randomness import numpy_stream
from aape_bench.selection import choose_plugin
from aape_bench.task import Generator, Task

RATE = 8000
CLASSES = ("quiet", "middling", "loud")


def make_clip(index: int) -> np.ndarray:
    """1.2 s of noise whose level tells the class: of class i mod 3; some clips last 0.3 or 0.9 s."""
    draw = numpy_stream(0, "toy", index)
    seconds = {19: 0.3, 9: 0.9}.get(index % 20, 1.2)
    level = 0.02 * 3.0 ** (index % 3) * draw.uniform(0.9, 1.1)
    return (level * draw.standard_normal(int(seconds * RATE))).astype(np.float32)


def read(_folder: object) -> pd.DataFrame:
    """90 clips in 3 folds; two neighbouring clips of one fold are a group."""
    rows = range(90)
    return pd.DataFrame(
        {
            "id": [f"toy-{row:02d}" for row in rows],
            "path": "",
            "label": [CLASSES[row % 3] for row in rows],
            "fold": [str(row // 30) for row in rows],
            "group": [f"g{row // 2}" for row in rows],
        }
    )


TASK = Task(
    name="toy-levels", title="", domain="sound", kind="multiclass", metric="accuracy", split_scheme="folds",
    clips=90, classes=3, clip_seconds=1.2, read=read, generator=Generator(make_clip, RATE, ("stability_toys",)),
)  # fmt: skip
TAGS = replace(
    TASK,
    name="toy-tags",
    kind="multilabel",
    metric="mAP",
    read=lambda folder: read(folder).assign(label=lambda table: [(name,) for name in table["label"]]),
)


class Toy(Encoder):
    """Counts the clips that it was given."""

    sample_rate, scene_embedding_size, timestamp_embedding_size = RATE, 2, 2
    given: ClassVar[int] = 0
    fails_after: ClassVar[float] = np.inf

    def vectors(self, audio: Tensor, lengths: Tensor) -> Tensor:
        """(n, 2) of whole clips."""
        raise NotImplementedError

    def scene_embeddings(self, audio: Tensor, lengths: Tensor | None = None) -> Tensor:
        type(self).given += len(audio)
        if self.given > self.fails_after:
            raise KeyboardInterrupt
        return self.vectors(audio, torch.full((len(audio),), audio.shape[1]) if lengths is None else lengths)

    def timestamp_embeddings(self, audio: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The scene embedding every 40 ms."""
        lengths = torch.full((len(audio),), audio.shape[1]) if lengths is None else lengths
        times = torch.arange(0, audio.shape[1], RATE // 25)
        vectors = self.vectors(audio, lengths)[:, None].expand(-1, len(times), -1)
        centres = (times * 1000 / RATE).expand(len(audio), -1)
        return vectors, centres.masked_fill(times >= lengths[:, None], torch.nan)


class Level(Toy):
    """Level in dB and a constant: noise's hardly changes with where it is cut."""

    def vectors(self, audio: Tensor, lengths: Tensor) -> Tensor:
        level = 10 * torch.log10(audio.square().sum(dim=1) / lengths)
        return torch.stack([level, torch.ones_like(level)], dim=1)


class Unpadded(Level):
    """`Level` of an encoder that cannot be told where padding begins."""

    takes_lengths = False

    def vectors(self, audio: Tensor, lengths: Tensor) -> Tensor:
        assert audio[:, -1].all()
        return super().vectors(audio, lengths)


class Still(Toy):
    """What no shift, stretch or jitter changes: the class that the level stands for, and nothing else."""

    def vectors(self, audio: Tensor, lengths: Tensor) -> Tensor:
        level = (audio.square().sum(dim=1) / lengths).sqrt()
        steps = torch.log(level / 0.02) / np.log(3.0)
        return torch.stack([steps.round().cos(), steps.round().sin()], dim=1)


class Chaos(Toy):
    """Two normal numbers drawn anew for every other sequence of samples."""

    def vectors(self, audio: Tensor, lengths: Tensor) -> Tensor:
        drawn = []
        for clip, length in zip(audio.numpy(), lengths, strict=True):
            seed = int.from_bytes(hashlib.sha256(clip[: int(length)].tobytes()).digest()[:8], "big")
            drawn.append(np.random.default_rng(seed).standard_normal(2))
        return torch.tensor(np.array(drawn), dtype=torch.float32)


class Constant(Toy):
    """The same for every clip."""

    def vectors(self, audio: Tensor, lengths: Tensor) -> Tensor:  # noqa: ARG002
        return torch.ones(len(audio), 2)


def choice(kind: type[Toy], seed: int = 0) -> PluginChoice:
    """The encoder as `--model` would choose it."""
    kind.given, kind.fails_after = 0, np.inf

    def build(config: object, seed: int) -> Encoder:  # noqa: ARG001
        return kind().eval()

    plugin = EncoderPlugin(kind.__name__, "", build, NoSettings, sample_rate=RATE, has_weights=False)
    return choose_plugin(plugin, {}, "default", seed)
