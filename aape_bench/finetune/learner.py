"""Encoder and head under Fabric: what they hear of a batch, one update, and scores. (Imports torch.)

An update is a function of the weights, of AdamW's moments and of (seed, number): every draw comes from named streams.
Of its clips each process takes every so-many-th; sums over clips are then the same over any number of processes, up to
rounding.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from aape_bench.clip_table import Rotation
from aape_bench.clips import ClipReader
from aape_bench.encoder import Encoder, SpectrogramEncoder
from aape_bench.errors import ModelError, UsageError
from aape_bench.finetune import augment, objective
from aape_bench.finetune.groups import parameter_groups
from aape_bench.finetune.recipe import Recipe, schedule
from aape_bench.finetune.shares import Rows, Shares
from aape_bench.finetune.waveforms import Draw, Waveforms
from aape_bench.fitting.fabric import launch
from aape_bench.problem import Problem
from aape_bench.protocols.common import spread, targets
from aape_bench.randomness import stream_seed

#: Audio (n, samples) and lengths (n,).
Audio = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]


@dataclass(frozen=True)
class Material:
    """What a rotation is trained and judged on.

    encoder: with its first weights. reader: of the task's clips. problem: labels, classes and quality (its embeddings
    are not read). recipe: resolved. seed: of the model. folder: this rotation's alone. name: for messages.
    """

    encoder: Encoder
    reader: ClipReader
    problem: Problem
    rotation: Rotation
    recipe: Recipe
    seed: int
    device: str
    folder: Path
    name: str


class Tuned(nn.Module):
    """Encoder and head: waveforms (n, samples) or spectrograms (n, T, bins), with sizes (n,) -> logits (n, classes)."""

    def __init__(self, encoder: Encoder, head: nn.Module) -> None:
        super().__init__()
        self.encoder: Encoder = encoder
        self.head = head

    def forward(self, heard: Tensor, sizes: Tensor, encoder_too: bool = True) -> Tensor:
        """encoder_too: whether a gradient is to reach the encoder."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and encoder_too):
            if isinstance(self.encoder, SpectrogramEncoder):
                embeddings = self.encoder.scene_embeddings_of(heard, sizes)
            else:
                embeddings = self.encoder.scene_embeddings(heard, sizes)
        if embeddings.shape != (len(heard), self.encoder.scene_embedding_size):
            raise ModelError(
                f"The encoder gave scene embeddings of shape {tuple(embeddings.shape)}, not "
                f"{(len(heard), self.encoder.scene_embedding_size)}."
            )
        logits: Tensor = self.head(embeddings.float())  # a foreign encoder may compute in another type
        return logits


@dataclass(frozen=True)
class Heard:
    """What an encoder is given of a process's clips in an update: waveforms or spectrograms, sizes, targets."""

    values: Tensor
    sizes: Tensor
    targets: Tensor

    def part(self, first: int, parts: int) -> Heard:
        """Every so-many-th clip."""
        here = slice(first, None, parts)
        return Heard(self.values[here], self.sizes[here], self.targets[here])

    def __len__(self) -> int:
        return len(self.values)


class Learner:
    """One rotation's encoder and head in training.

    Raises UsageError where an update has not a clip for each process and part.
    """

    def __init__(self, material: Material) -> None:
        m = self.material = material
        self.train_rows, self.seed = m.rotation.train, stream_seed(m.seed, "finetune", m.rotation.name)
        self.recipe = m.recipe.planned(len(self.train_rows))
        assert self.recipe.updates is not None
        self.updates = self.recipe.updates
        self._labels, self._columns = targets(m.problem, self.train_rows)
        self._kind = objective.loss_kind(self.recipe, m.problem.exclusive)
        head = objective.Head(m.encoder.scene_embedding_size, len(self._columns), self.seed)
        self.module = Tuned(m.encoder, head)
        #: The processes that were started for it; a fabric takes as many as there are.
        self.fabric = launch(m.device, world(), self.recipe.precision, parts=True)
        self.world, self.rank = self.fabric.world_size, self.fabric.global_rank
        if self.recipe.batch < self.world * self.recipe.accumulate:
            raise UsageError(
                f"finetune: batch={self.recipe.batch} clips cannot be shared by {self.world} processes with "
                f"accumulate={self.recipe.accumulate}. Make batch {self.world * self.recipe.accumulate} or more."
            )
        self._adam = torch.optim.AdamW(
            parameter_groups(m.encoder, head, self.recipe), lr=0.0, betas=(self.recipe.beta1, self.recipe.beta2)
        )
        self._tuned, self._optimizer = self.fabric.setup(self.module, self._adam)
        self._waveforms = Waveforms(m.reader)
        self._shares = Shares(self.train_rows, self._labels, self.recipe, self.seed, self.rank, self.world)

    def batches(self, first: int) -> Generator[Audio]:
        """This process's clips of every update from `first` on."""
        return self._waveforms.batches(self._shares.draws(first), self.recipe.clip_seconds or None)

    def update(self, number: int, batch: Audio) -> float:
        """Take the update with this number, from 0; its loss, the mean over all processes' clips."""
        return self.learn(number, self.hear(number, batch))

    def hear(self, number: int, batch: Audio) -> Heard:
        """A batch as the encoder is given it in this update: augmented, by its own front end where it shows that."""
        recipe, encoder, device, share = self.recipe, self.material.encoder, self.fabric.device, self._shares.of(number)
        audio, lengths = (torch.from_numpy(one).to(device) for one in batch)
        labels = torch.from_numpy(self._labels[share.clips])
        truth = objective.targets_of(labels, len(self._columns), recipe.smoothing).to(device)

        def streams(name: str, places: list[int] = share.places) -> list[np.random.Generator]:
            return augment.clip_streams(self.seed, name, number, share.rows, places)

        if recipe.roll:
            audio = augment.roll(audio, lengths, streams("roll"))
        if recipe.magnitude:
            audio = augment.magnitude(audio, streams("magnitude"))
        if recipe.noise:
            audio = augment.white_noise(audio, lengths, streams("noise"), recipe.noise)
        heard, sizes, quiet = audio[..., None], lengths, 0.0
        if isinstance(encoder, SpectrogramEncoder):
            with torch.no_grad():
                heard, sizes = encoder.spectrogram(audio, lengths)
            quiet = encoder.quiet
        if share.mixing is not None:
            heard, sizes, truth = augment.mixup(heard, sizes, truth, *share.mixing, quiet=quiet)
        if not isinstance(encoder, SpectrogramEncoder):
            return Heard(heard[..., 0], sizes, truth)
        if recipe.spec_time or recipe.spec_frequency:
            bands = {"time": recipe.spec_time, "frequency": recipe.spec_frequency, "quiet": quiet}
            heard = augment.spec_augment(heard, sizes, streams("spec", share.places[: share.own]), **bands)
        return Heard(heard, sizes, truth)

    def learn(self, number: int, heard: Heard) -> float:
        """Change the weights by this process's clips, and the others' by theirs; see `update`."""
        recipe, encoder = self.recipe, self.material.encoder
        for group in self._optimizer.param_groups:
            group["lr"] = recipe.learning_rate * schedule(number, recipe) * group["scale"]
        probing = number < recipe.probe_updates
        self.module.train()
        if number == recipe.probe_updates:
            self._check_gradient(heard)
        drops = None if probing else self._drops(number)
        total = torch.zeros((), device=self.fabric.device)
        parts = recipe.accumulate
        for part in range(parts):
            one = heard.part(part, parts)
            encoder.drop_path = None if drops is None else drops[part::parts].to(self.fabric.device)
            with (
                self.fabric.no_backward_sync(self._tuned, enabled=part < parts - 1),
                _foreign_draws(stream_seed(self.seed, "foreign", number, part, self.rank), self.fabric.device),
            ):
                logits = self._tuned(one.values, one.sizes, not probing)
                loss = objective.loss_of(logits, one.targets, self._kind) * (len(one) / recipe.batch)
                # DDP takes the mean over processes, of what is a sum over clips
                self.fabric.backward(loss * self.world)
            total += loss.detach()
        if self.world > 1:
            torch.distributed.all_reduce(total)
        found = float(total)
        if not math.isfinite(found):
            raise ModelError(
                f"{self.material.name}: the loss of update {number + 1} is {found}. A lower learning_rate or "
                "precision=32-true may help."
            )
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return found

    @torch.inference_mode()
    def scores(self, rows: Rows) -> npt.NDArray[np.float32]:
        """(rows, classes), on every process: log-probabilities of exclusive classes, else probabilities."""
        problem, device, encoder = self.material.problem, self.fabric.device, self.material.encoder
        self.module.eval()
        encoder.drop_path = None
        own = rows[self.rank :: self.world].tolist()
        draws = (Draw(part, [0.0] * len(part)) for part in _parts(own, self.recipe.batch))
        found = [np.zeros((0, len(self._columns)), np.float32)]
        with closing(self._waveforms.batches(draws)) as batches:
            for batch in batches:
                heard, sizes = (torch.from_numpy(one).to(device) for one in batch)
                if isinstance(encoder, SpectrogramEncoder):
                    heard, sizes = encoder.spectrogram(heard, sizes)
                # not by way of DDP, which wants as many batches of every process
                with self.fabric.autocast():
                    logits = self.module(heard, sizes)
                logits = logits.float()
                found.append((logits.log_softmax(dim=1) if problem.exclusive else logits.sigmoid()).cpu().numpy())
        return spread(self._gathered(np.concatenate(found), len(rows)), self._columns, len(problem.classes))

    def state(self) -> dict[str, Any]:
        """All that later updates depend on."""
        return {
            "model": self.module.state_dict(),
            "optimizer": self._adam.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self.module.load_state_dict(state["model"])
        self._adam.load_state_dict(state["optimizer"])
        self.fabric.strategy.precision.load_state_dict(state["precision"])

    def _drops(self, number: int) -> Tensor | None:
        blocks, share = self.material.encoder.drop_path_blocks, self._shares.of(number)
        if not blocks or not self.recipe.drop_path:
            return None
        streams = augment.clip_streams(self.seed, "drop path", number, share.rows, share.places[: share.own])
        return augment.drop_path(streams, self.recipe.drop_path, blocks)

    def _check_gradient(self, heard: Heard) -> None:
        """Raise ModelError where training would change nothing of the encoder."""
        encoder = self.material.encoder
        encoder.drop_path = None
        wanted = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
        if not wanted:
            raise ModelError(f"{self.material.name}: the encoder has no parameters to train. Use --protocol linear.")
        with _foreign_draws(self.seed, self.fabric.device):
            # not by way of Fabric, which wants to do every backward itself
            logits = self.module(heard.values[:1], heard.sizes[:1])
        found = torch.autograd.grad(logits.sum(), wanted, allow_unused=True)
        if all(one is None for one in found):
            raise ModelError(
                f"{self.material.name}: no gradient reaches the encoder's parameters from its scene embeddings "
                "(they are computed without one, or outside of torch), so it cannot be fine-tuned. "
                "Use --protocol linear."
            )

    def _gathered(self, own: npt.NDArray[np.float32], rows: int) -> npt.NDArray[np.float32]:
        """Every process's rows in their order."""
        if self.world == 1:
            return own
        parts: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(parts, own)
        whole = np.empty((rows, own.shape[1]), np.float32)
        for rank, part in enumerate(parts):
            whole[rank :: self.world] = part
        return whole


def chosen_on_test(rotation: Rotation) -> bool:
    """Whether the test clips are those that choose the best update."""
    return bool(np.array_equal(rotation.validation, rotation.test))


def world() -> int:
    """Processes that train together: those whose group this one has joined."""
    group = torch.distributed
    return group.get_world_size() if group.is_available() and group.is_initialized() else 1


@contextmanager
def _foreign_draws(seed: int, device: torch.device) -> Iterator[None]:
    """A foreign encoder's dropout draws from torch's global generators: here they are seeded, and as before after."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _parts(rows: list[int], size: int) -> Iterator[list[int]]:
    for first in range(0, len(rows), size):
        yield rows[first : first + size]
