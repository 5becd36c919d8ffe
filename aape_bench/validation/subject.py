"""What is validated: a model as it was loaded, and the two functions that are asked. (Imports torch.)"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from aape_bench.encoder import Encoder
from aape_bench.errors import CheckpointError, ModelError
from aape_bench.randomness import torch_stream
from aape_bench.selection import is_model_file, select_model

#: The largest value of the noise that is asked about.
LOUDNESS = 0.5


@dataclass
class Subject:
    """A model, untouched, and how it is asked.

    name, weights, seed: as `selection.select_model` takes them. load: makes the model anew, of the same seed.
    module: the HEAR module whose functions are asked; None: the model is an Encoder.
    failure: why it could not be loaded; then there is no model.
    """

    name: str
    settings: Mapping[str, Any]
    weights: str
    seed: int
    device: str
    label: str
    module: ModuleType | None = None
    model: Any = None
    load: Callable[[], Any] | None = None
    failure: str = ""

    @property
    def takes_lengths(self) -> bool:
        return isinstance(self.model, Encoder) and self.module is None and self.model.takes_lengths

    def scenes(self, audio: Tensor, lengths: Tensor | None = None, model: Any = None) -> Any:
        """What the model returns for scenes, as it returns it; `model`: another one, loaded alike."""
        model = self.model if model is None else model
        if self.module is not None:
            return self.module.get_scene_embeddings(audio, model)
        return model.scene_embeddings(audio, lengths)

    def moments(self, audio: Tensor, lengths: Tensor | None = None) -> Any:
        """What the model returns for moments, as it returns it."""
        if self.module is not None:
            return self.module.get_timestamp_embeddings(audio, self.model)
        return self.model.timestamp_embeddings(audio, lengths)

    def noise(self, clips: int, seconds: float, stream: int = 0) -> Tensor:
        """(clips, samples) float32 on the device: white noise, each clip half as loud as the one before."""
        rate = int(self.model.sample_rate)
        generator = torch_stream(0, "validation", stream)
        audio = 2 * LOUDNESS * torch.rand(clips, round(seconds * rate), generator=generator) - LOUDNESS
        return (audio * 0.5 ** torch.arange(clips)[:, None]).to(self.device)

    @property
    def batch(self) -> Tensor:
        """Three clips of a second and a half; a copy, for the model may change it."""
        return self._batch.clone()

    @cached_property
    def _batch(self) -> Tensor:
        return self.noise(3, 1.5)

    @cached_property
    def batch_scenes(self) -> Any:
        """The first answer of scenes for `batch`."""
        with torch.inference_mode():
            return self.scenes(self.batch)

    @cached_property
    def batch_moments(self) -> Any:
        """The first answer of moments for `batch`."""
        with torch.inference_mode():
            return self.moments(self.batch)

    @cached_property
    def times(self) -> Any:
        """Of the moments of one clip of four seconds, as they are returned."""
        with torch.inference_mode():
            return self.moments(self.noise(1, 4.0))[1]


def open_subject(name: str, settings: Mapping[str, Any], weights: str, seed: int, device: str) -> Subject:
    """Load a model to validate; arguments as `selection.select_model`, name and weights absolute.

    Raises UsageError or CheckpointError where there is no such thing; one that cannot be loaded says so in `failure`.
    """
    subject = Subject(name, settings, weights, seed, device, label=name)
    try:
        if name.startswith("hear:"):
            _open_hear(subject)
        elif is_model_file(name):
            _open_file(subject)
        else:
            choice = select_model(name, settings, weights, seed)
            subject.label, subject.load = choice.label, choice.build_anew
        if subject.load is not None:
            subject.model = subject.load()
            if isinstance(subject.model, torch.nn.Module):
                subject.model.to(device)
    except CheckpointError:
        raise
    except ModelError as error:
        subject.failure = str(error)
    return subject


def _open_hear(subject: Subject) -> None:
    from aape_bench.foreign_model import foreign_weights
    from aape_bench.hear_in import import_foreign, load_seeded, owner_of

    name = subject.name.removeprefix("hear:")
    owner = owner_of(name)
    path, _ = foreign_weights(owner, subject.settings, subject.weights)
    subject.module = module = import_foreign(name)
    if not callable(getattr(module, "load_model", None)):
        raise ModelError(f'"{name}" is not a HEAR module: it has no function load_model.')
    arguments = () if path is None else (str(path),)
    doing = f"load_model({', '.join(arguments)})"
    subject.load = lambda: load_seeded(owner, doing, lambda: module.load_model(*arguments), subject.seed)


def _open_file(subject: Subject) -> None:
    from aape_bench.file_model import read_model_file
    from aape_bench.foreign_model import foreign_weights

    source = read_model_file(subject.name)
    subject.label = source.name
    path, _ = foreign_weights(source.owner, subject.settings, subject.weights)
    subject.module = source.module if source.is_hear else None
    # `run` puts an Encoder into evaluation mode itself
    subject.load = lambda: (source.make if source.is_hear else source.load)(path, subject.seed)
