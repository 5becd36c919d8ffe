"""One rotation fine-tuned: encoder and head on its training clips, the best state by validation, test scores.

Every draw comes from named streams and the update's number, so that what is saved (weights, optimiser, best weights,
curve) is all there is: on one CPU process a run that was stopped and resumed equals, to the bit, one that was not.
(Imports torch.)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from aape_bench.encoder import SpectrogramEncoder
from aape_bench.errors import CheckpointError, StorageError
from aape_bench.finetune.learner import Learner, Material, chosen_on_test
from aape_bench.fitting.fabric import agree
from aape_bench.fitting.signals import Signals
from aape_bench.fitting.states import read_state, write_state
from aape_bench.problem import Fit
from aape_bench.protocols.common import judged, plain
from aape_bench.training import Interrupted

if TYPE_CHECKING:
    from aape_bench.progress import Progress

STATE = "state.pt"
FORMAT = 2
#: Seconds between two states on disk.
SECONDS_BETWEEN_STATES = 300.0


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
        self.material, self.progress = material, progress
        self.learner = Learner(material)
        self.first = self.learner.rank == 0
        recipe = self.recipe = self.learner.recipe
        assert recipe.validate_every is not None
        self.updates, self.validate_every = self.learner.updates, recipe.validate_every
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
        if agree(self.learner.fabric, self.done) != -agree(self.learner.fabric, -self.done):
            raise StorageError(
                f"The processes that train together do not see the same {m.folder}: put --results-dir on a disk that "
                "all of them share."
            )
        if not self._ended():
            title = f"{m.name}: fine-tuning fold {m.rotation.name}"
            with self.progress.stage(title, self.updates, "updates") as advance:
                advance(self.done)
                self._train(advance)
        assert self.best is not None
        self.learner.module.load_state_dict(self.best.weights)
        test = self.learner.scores(m.rotation.test)
        validation = self.learner.scores(m.rotation.validation)
        choice = {
            "fold": m.rotation.name,
            "updates": self.done,
            "stopped_early": self.done < self.updates,
            "chosen": {"update": self.best.update, "validation": plain(self.best.quality)},
            "curve": self.curve,
            "train": len(m.rotation.train),
            "validation": len(m.rotation.validation),
        }
        return Result(Fit(test[None], validation[None], choice, remarks=self._remarks()), self.seconds)

    def _train(self, advance: Callable[[int], None]) -> None:
        begun = saved = time.monotonic()
        before = self.seconds
        with Signals() as signals, closing(self.learner.batches(self.done)) as batches:
            for batch in batches:
                self.loss += self.learner.update(self.done, batch)
                self.done += 1
                advance(1)
                if self.done % self.validate_every == 0 or self.done == self.updates:
                    self._validate()
                self.seconds = before + time.monotonic() - begun
                stop = agree(self.learner.fabric, signals.number)
                if self.first and (stop or self._ended() or time.monotonic() - saved > SECONDS_BETWEEN_STATES):
                    self._save()
                    saved = time.monotonic()
                if self._ended():
                    return
                if stop:
                    raise Interrupted(stop)

    def _ended(self) -> bool:
        patience = self.recipe.patience
        return self.done >= self.updates or (patience is not None and self.bad >= patience)

    def _validate(self) -> None:
        since = self.done - int(self.curve[-1]["update"] or 0) if self.curve else self.done
        rows = self.material.rotation.validation
        quality = judged(self.material.problem, rows, self.learner.scores(rows))
        self.curve.append({"update": self.done, "loss": self.loss / since, "validation": plain(quality)})
        self.loss = 0.0
        self.bad += 1
        if self.best is None or quality > self.best.quality:
            weights = {name: tensor.detach().cpu().clone() for name, tensor in self.learner.module.state_dict().items()}
            self.best, self.bad = _Best(quality, self.done, weights), 0

    def _remarks(self) -> list[str]:
        remarks = []
        if not isinstance(self.material.encoder, SpectrogramEncoder):
            remarks.append("the encoder shows no spectrogram: no SpecAugment, and mixup, if any, of waveforms.")
        if self.recipe.as_published and chosen_on_test(self.material.rotation):
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
                "of": self.updates,
                **self.learner.state(),
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
            if state["of"] != self.updates:
                raise ValueError(f"it is of a training of {state['of']} updates, not {self.updates}")
            self.learner.load(state)
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
