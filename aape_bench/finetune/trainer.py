"""One rotation fine-tuned: encoder and head on its training clips, the best state by validation, test scores.

Every draw comes from named streams and the update's number, so that what is saved (weights, optimiser, best weights,
curve) is all there is: on one CPU process a run that was stopped and resumed equals, to the bit, one that was not.
(Imports torch.)
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from aape_bench.clip_table import Rotation
from aape_bench.clips import ClipReader
from aape_bench.encoder import Encoder, SpectrogramEncoder
from aape_bench.errors import CheckpointError, ModelError
from aape_bench.finetune import augment, objective, sampler
from aape_bench.finetune.groups import parameter_groups
from aape_bench.finetune.recipe import Recipe, schedule
from aape_bench.finetune.waveforms import Draw, Waveforms
from aape_bench.fitting.fabric import launch
from aape_bench.fitting.signals import Signals
from aape_bench.fitting.states import read_state, write_state
from aape_bench.problem import Fit, Problem
from aape_bench.protocols.common import judged, plain, spread, targets
from aape_bench.randomness import stream_seed
from aape_bench.training import Interrupted

if TYPE_CHECKING:
    from lightning.fabric import Fabric

    from aape_bench.progress import Progress

STATE = "state.pt"
FORMAT = 1
#: Seconds between two states on disk.
SECONDS_BETWEEN_STATES = 300.0

Rows = npt.NDArray[np.int64]


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
        logits: Tensor = self.head(embeddings)
        return logits


@dataclass(frozen=True)
class Result:
    """The scores, and the seconds that training took, all resumed pieces together."""

    fit: Fit
    seconds: float


def fine_tune(material: Material, progress: Progress) -> Result:
    """Train, going on from what is in the folder, and score; the encoder then has its best weights.

    Raises Interrupted after a signal, its state on disk; ModelError where the encoder cannot be trained; StorageError.
    """
    return _FineTuning(material, progress).run()


@dataclass
class _Best:
    """The best validation so far: its quality, update, and weights."""

    quality: float
    update: int
    weights: dict[str, Tensor]


class _FineTuning:
    def __init__(self, material: Material, progress: Progress) -> None:
        m = self.material = material
        self.progress = progress
        self.train_rows, self.seed = m.rotation.train, stream_seed(m.seed, "finetune", m.rotation.name)
        self.recipe = m.recipe.planned(len(self.train_rows))
        assert self.recipe.updates is not None
        assert self.recipe.validate_every is not None
        self.updates, self.validate_every = self.recipe.updates, self.recipe.validate_every
        self.labels, self.columns = targets(m.problem, self.train_rows)
        self.kind = objective.loss_kind(self.recipe, m.problem.exclusive)
        self.head = objective.Head(m.encoder.scene_embedding_size, len(self.columns), self.seed)
        self.fabric: Fabric = launch(m.device, 1, self.recipe.precision)
        tuned = Tuned(m.encoder, self.head)
        self.optimizer_ = torch.optim.AdamW(
            parameter_groups(m.encoder, self.head, self.recipe), lr=0.0, betas=(self.recipe.beta1, self.recipe.beta2)
        )
        self.tuned, self.optimizer = self.fabric.setup(tuned, self.optimizer_)
        self.module = tuned
        self.waveforms = Waveforms(m.reader)
        self._orders: dict[int, Rows] = {}  # epoch -> its clips
        self.done = 0
        self.best: _Best | None = None
        self.curve: list[dict[str, float | int | None]] = []
        self.loss = 0.0  # summed since the last validation
        self.bad = 0  # validations since the best
        self.seconds = 0.0

    def run(self) -> Result:
        """See `fine_tune`."""
        m = self.material
        self._restore()
        if not self._ended():
            title = f"{m.name}: fine-tuning fold {m.rotation.name}"
            with self.progress.stage(title, self.updates, "updates") as advance:
                advance(self.done)
                self._train(advance)
        assert self.best is not None
        self.module.load_state_dict(self.best.weights)
        test = self._scores(m.rotation.test)
        validation = self._scores(m.rotation.validation)
        choice = {
            "fold": m.rotation.name,
            "updates": self.done,
            "stopped_early": self.done < self.updates,
            "chosen": {"update": self.best.update, "validation": plain(self.best.quality)},
            "curve": self.curve,
            "train": len(self.train_rows),
            "validation": len(m.rotation.validation),
        }
        return Result(Fit(test[None], validation[None], choice, remarks=self._remarks()), self.seconds)

    def _train(self, advance: Callable[[int], None]) -> None:
        begun = saved = time.monotonic()
        before = self.seconds
        with Signals() as signals, closing(self._batches()) as batches:
            for audio, lengths in batches:
                self.loss += self._update(torch.from_numpy(audio), torch.from_numpy(lengths))
                self.done += 1
                advance(1)
                if self.done % self.validate_every == 0 or self.done == self.updates:
                    self._validate()
                self.seconds = before + time.monotonic() - begun
                if signals.number or self._ended() or time.monotonic() - saved > SECONDS_BETWEEN_STATES:
                    self._save()
                    saved = time.monotonic()
                if self._ended():
                    return
                if signals.number:
                    raise Interrupted(signals.number)

    def _ended(self) -> bool:
        patience = self.recipe.patience
        return self.done >= self.updates or (patience is not None and self.bad >= patience)

    def _rows(self, update: int) -> Rows:
        """Places among the training rows."""
        return sampler.batch_of(update, self.recipe.batch, len(self.train_rows), self._order)

    def _order(self, epoch: int) -> Rows:
        if epoch not in self._orders:
            # the draws run a few batches ahead of the updates
            self._orders = {at: order for at, order in self._orders.items() if at >= epoch - 1}
            self._orders[epoch] = self._new_order(epoch)
        return self._orders[epoch]

    def _new_order(self, epoch: int) -> Rows:
        if not self.recipe.balanced:
            return sampler.shuffled(len(self.train_rows), self.seed, epoch)
        truth = self.labels if self.labels.ndim == 2 else np.eye(len(self.columns), dtype=bool)[self.labels]
        return sampler.balanced(truth, self.seed, epoch)

    def _batches(self) -> Generator[tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]]:
        return self.waveforms.batches(self._draws(), self.recipe.clip_seconds or None)

    def _draws(self) -> Iterator[Draw]:
        for update in range(self.done, self.updates):
            rows = self.train_rows[self._rows(update)].tolist()
            streams = augment.clip_streams(self.seed, "crop", update, rows)
            yield Draw(rows, [float(stream.random()) for stream in streams])

    def _update(self, audio: Tensor, lengths: Tensor) -> float:
        """Take one update; its loss, the mean over the batch."""
        recipe, update = self.recipe, self.done
        places = self._rows(update)
        rows = self.train_rows[places].tolist()
        labels = torch.from_numpy(self.labels[places])
        truth = objective.targets_of(labels, len(self.columns), recipe.smoothing)
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.learning_rate * schedule(update, recipe) * group["scale"]
        probing = update < recipe.probe_updates
        self.module.train()
        heard, sizes, truth = self._augmented(audio, lengths, truth, rows)
        if update == recipe.probe_updates:
            self._check_gradient(heard[:1], sizes[:1])
        drops = None if probing else self._drops(rows)
        total = 0.0
        parts = recipe.accumulate
        for part in range(parts):
            here = slice(part, None, parts)
            share = len(heard[here]) / len(heard)
            self.material.encoder.drop_path = None if drops is None else drops[here].to(self.fabric.device)
            with _foreign_draws(stream_seed(self.seed, "foreign", update, part), self.fabric.device):
                logits = self.tuned(heard[here], sizes[here], not probing)
            loss = objective.loss_of(logits, truth[here].to(logits.device), self.kind) * share
            self.fabric.backward(loss)
            total += float(loss.detach())
        if not math.isfinite(total):
            raise ModelError(
                f"{self.material.name}: the loss of update {update + 1} is {total}. A lower learning_rate or "
                "precision=32-true may help."
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total

    def _augmented(
        self, audio: Tensor, lengths: Tensor, truth: Tensor, rows: list[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What the encoder hears, its sizes, and the targets."""
        recipe, encoder, device = self.recipe, self.material.encoder, self.fabric.device
        audio, lengths, truth = audio.to(device), lengths.to(device), truth.to(device)

        def streams(name: str) -> list[np.random.Generator]:
            return augment.clip_streams(self.seed, name, self.done, rows)

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
        if recipe.mixup:
            how = {"strength": recipe.mixup, "probability": recipe.mixup_probability, "quiet": quiet}
            heard, sizes, truth = augment.mixup(heard, sizes, truth, streams("mixup"), **how)
        if not isinstance(encoder, SpectrogramEncoder):
            return heard[..., 0], sizes, truth
        if recipe.spec_time or recipe.spec_frequency:
            bands = {"time": recipe.spec_time, "frequency": recipe.spec_frequency, "quiet": quiet}
            heard = augment.spec_augment(heard, sizes, streams("spec"), **bands)
        return heard, sizes, truth

    def _drops(self, rows: list[int]) -> Tensor | None:
        blocks = self.material.encoder.drop_path_blocks
        if not blocks or not self.recipe.drop_path:
            return None
        streams = augment.clip_streams(self.seed, "drop path", self.done, rows)
        return augment.drop_path(streams, self.recipe.drop_path, blocks)

    def _check_gradient(self, heard: Tensor, sizes: Tensor) -> None:
        """Raise ModelError where training would change nothing of the encoder."""
        encoder = self.material.encoder
        encoder.drop_path = None
        wanted = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
        if not wanted:
            raise ModelError(f"{self.material.name}: the encoder has no parameters to train. Use --protocol linear.")
        with _foreign_draws(self.seed, self.fabric.device):
            logits = self.module(heard, sizes)  # not by way of Fabric, which wants to do every backward itself
        found = torch.autograd.grad(logits.sum(), wanted, allow_unused=True)
        if all(one is None for one in found):
            raise ModelError(
                f"{self.material.name}: no gradient reaches the encoder's parameters from its scene embeddings "
                "(they are computed without one, or outside of torch), so it cannot be fine-tuned. "
                "Use --protocol linear."
            )

    def _validate(self) -> None:
        since = self.done - int(self.curve[-1]["update"] or 0) if self.curve else self.done
        rows = self.material.rotation.validation
        quality = judged(self.material.problem, rows, self._scores(rows))
        self.curve.append({"update": self.done, "loss": self.loss / since, "validation": plain(quality)})
        self.loss = 0.0
        self.bad += 1
        if self.best is None or quality > self.best.quality:
            weights = {name: tensor.detach().cpu().clone() for name, tensor in self.module.state_dict().items()}
            self.best, self.bad = _Best(quality, self.done, weights), 0

    @torch.inference_mode()
    def _scores(self, rows: Rows) -> npt.NDArray[np.float32]:
        """(rows, classes): log-probabilities of exclusive classes, else probabilities."""
        problem = self.material.problem
        self.module.eval()
        self.material.encoder.drop_path = None
        size = self.recipe.batch
        draws = (Draw(part, [0.0] * len(part)) for part in _parts(rows.tolist(), size))
        found = []
        with closing(self.waveforms.batches(draws)) as batches:
            for audio, lengths in batches:
                heard, sizes = torch.from_numpy(audio).to(self.fabric.device), torch.from_numpy(lengths)
                sizes = sizes.to(self.fabric.device)
                if isinstance(self.material.encoder, SpectrogramEncoder):
                    heard, sizes = self.material.encoder.spectrogram(heard, sizes)
                logits = self.tuned(heard, sizes).float()
                found.append((logits.log_softmax(dim=1) if problem.exclusive else logits.sigmoid()).cpu().numpy())
        return spread(np.concatenate(found), self.columns, len(problem.classes))

    def _remarks(self) -> list[str]:
        remarks = []
        if not isinstance(self.material.encoder, SpectrogramEncoder):
            remarks.append("the encoder shows no spectrogram: no SpecAugment, and mixup, if any, of waveforms.")
        if self.recipe.as_published:
            remarks.append("the best update was chosen on the test clips, as published.")
        return remarks

    def _save(self) -> None:
        best = None if self.best is None else vars(self.best)
        self.material.folder.mkdir(parents=True, exist_ok=True)
        write_state(
            self.material.folder / STATE,
            {
                "format": FORMAT,
                "update": self.done,
                "model": self.module.state_dict(),
                "optimizer": self.optimizer_.state_dict(),
                "precision": self.fabric.strategy.precision.state_dict(),
                "best": best,
                "curve": self.curve,
                "loss": self.loss,
                "bad": self.bad,
                "seconds": self.seconds,
            },
        )

    def _restore(self) -> None:
        path = self.material.folder / STATE
        if not path.is_file():
            return
        try:
            state: Mapping[str, Any] = read_state(path)
            if state["format"] != FORMAT:
                raise ValueError("another version wrote it")
            self.module.load_state_dict(state["model"])
            self.optimizer_.load_state_dict(state["optimizer"])
            self.fabric.strategy.precision.load_state_dict(state["precision"])
            self.done, self.curve = int(state["update"]), list(state["curve"])
            self.loss, self.bad, self.seconds = float(state["loss"]), int(state["bad"]), float(state["seconds"])
            self.best = None if state["best"] is None else _Best(**state["best"])
        except (OSError, MemoryError):
            raise
        except Exception as error:  # whatever a damaged archive leads to
            raise CheckpointError(
                f"{path} is damaged ({type(error).__name__}: {str(error)[:200]}). Delete it and run the same command "
                "again: this fold then begins anew."
            ) from None
        self.progress.say(f"{self.material.name}: fold {self.material.rotation.name} goes on after update {self.done}.")


@contextmanager
def _foreign_draws(seed: int, device: torch.device) -> Iterator[None]:
    """A foreign encoder's dropout draws from torch's global generators: here they are seeded, and as before after."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _parts(rows: list[int], size: int) -> Iterator[list[int]]:
    for first in range(0, len(rows), size):
        yield rows[first : first + size]
