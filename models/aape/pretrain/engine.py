"""Pre-training from a source of audio to checkpoints, resumable at any step. (Imports torch.)

Every draw comes from named streams and the position in the data is the step number, so what is saved (weights,
optimiser, loss scale, sums of the log) is all there is: a run of one CPU process that was stopped and resumed equals,
to the bit, one that was not. Several processes need `out` and the audio on a disk that all of them see.
"""

from __future__ import annotations

import dataclasses
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from aape_bench import environment
from aape_bench.checkpoint import save_checkpoint
from aape_bench.errors import BenchError, CheckpointError
from aape_bench.fitting.fabric import agree, launch, leave, rank, require_lightning
from aape_bench.fitting.generators import global_generators
from aape_bench.fitting.signals import Signals
from aape_bench.models.aape.config import AapeConfig
from aape_bench.models.aape.pretrain.config import PretrainConfig
from aape_bench.models.aape.pretrain.data import Batch, BrokenFiles, Loader
from aape_bench.models.aape.pretrain.log import BROKEN, Monitor, TensorBoard, Unwatched, require_tensorboard
from aape_bench.models.aape.pretrain.recorder import Recorder
from aape_bench.models.aape.pretrain.sources import Source
from aape_bench.models.aape.pretrain.state import Folder
from aape_bench.models.aape.pretrain.trainer import Diverged, Trainer
from aape_bench.models.aape.pretrain.warm_start import checkpoint_digest
from aape_bench.overlap import FIELD as TRAINING_AUDIO
from aape_bench.progress import Progress, Silent
from aape_bench.settings import deciding

if TYPE_CHECKING:
    from lightning.fabric import Fabric

#: Among signal numbers: the time is up.
_TIME_UP = 1000
#: Steps that an estimate times.
_TIMED = 3


class Stopped(Exception):
    """A signal ended the training between two steps; the checkpoint of `step` is on disk."""

    def __init__(self, number: int, step: int) -> None:
        self.number, self.step = number, step
        super().__init__(f"Stopped by {signal.Signals(number).name} after step {step}.")


def train(
    encoder_config: AapeConfig,
    config: PretrainConfig,
    source: Source,
    out: Path,
    seed: int,
    resume: bool = False,
    device: str = "cpu",
    progress: Monitor | None = None,
    *,
    devices: int = 1,
    minutes: float | None = None,
    tensorboard: bool = False,
    init: Path | None = None,
) -> Path:
    """Train for `config.steps` steps, or until the time is up. Returns the teacher's checkpoint of the step come to.

    encoder_config, config: resolved. out: folder of this run alone, see `state`. resume: go on from its last
    checkpoint, from the beginning where there is none. device: "cpu" or "cuda". devices: processes on this machine;
    torchrun says them itself. minutes: end after a step, with a checkpoint, once so much time has passed. init:
    weights to begin with, see `warm_start`.

    Raises Stopped after SIGTERM, SIGINT or SIGHUP; UsageError where the folder or the settings do not fit;
    StorageError where the disk is full; Diverged where a loss is not finite. In all of these the last checkpoint is
    whole, and the same call with resume=True goes on. Raises CheckpointError where the last one is damaged.
    """
    require_lightning()
    if tensorboard:
        require_tensorboard()
    folder, run = Folder(out), identity(encoder_config, config, source, seed, init)
    with ExitStack() as stack:
        # before any other process is there, which would wait in vain for this one
        if rank() == 0:
            folder.check(run, resume)
            resolved = {"model": dataclasses.asdict(encoder_config), "pretrain": dataclasses.asdict(config)}
            stack.enter_context(folder.claimed(run, {"settings": resolved, "versions": environment.versions()}))
        stack.callback(leave)
        fabric = launch(device, devices, config.precision)
        trainer = Trainer(fabric, encoder_config, config, seed)
        state = folder.read_state()
        first, progress = fabric.is_global_zero, progress or Unwatched()
        broken = BrokenFiles(out / BROKEN.format("" if first else f"-{fabric.global_rank}"), progress.say)
        loader = Loader(source, config, seed, fabric.global_rank, fabric.world_size, broken=broken)
        if init is not None:
            loader.trained.merge(trainer.begin_with(init))
        if state is not None:
            with folder.intact():
                if state["step"] > config.steps:
                    raise ValueError(f"of step {state['step']}, there are {config.steps}")
                trainer.load(state)
                _check_moments(trainer.optimizer.optimizer)
                loader.restore(state["loader"])
        done, recorder = state["step"] if state else 0, None
        if first:
            recorder = Recorder(
                folder, trainer, loader, state, progress, TensorBoard(out, done) if tensorboard else None
            )
            stack.callback(recorder.close)
        del state  # as large as all that is trained
        course = _Run(fabric, trainer, loader, folder, recorder, done)
        course.take(minutes)
        done = course.done
        # DDP must go before its group does: as the last that holds it, it would wait for gloo's thread with the
        # interpreter's lock, for which that thread waits to let go of the last tensor
        del course, recorder, trainer
    teacher = folder.file("teacher", done)
    if first and not teacher.is_file():
        beside = folder.file("state", done).name
        raise CheckpointError(
            f"{teacher} is missing, though {beside} is there. Restore it, or delete {beside}: --resume then takes the "
            "last steps again and writes both."
        )
    return teacher


def identity(
    encoder_config: AapeConfig, config: PretrainConfig, source: Source, seed: int, init: Path | None = None
) -> dict[str, Any]:
    """What decides a run's result: config.json says it, and the folder of another run is refused."""
    return {
        "model": deciding(encoder_config),
        "pretrain": deciding(config),
        "seed": seed,
        "audio": source.digest,
        "init": None if init is None else checkpoint_digest(init),
    }


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What a run would be. seconds: per step, median. waiting: share of the time spent waiting for audio."""

    parameters: int
    trained: int
    seconds: float
    waiting: float
    checkpoint_bytes: int


def estimate(
    encoder_config: AapeConfig,
    config: PretrainConfig,
    source: Source,
    seed: int,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Estimate:
    """Time a few steps after a first one, in this process alone and without writing anything."""
    fabric = launch(device, 1, config.precision)
    trainer = Trainer(fabric, encoder_config, config, seed)
    loader = Loader(source, config, seed)
    times, waited = [], [0.0]
    steps = min(config.steps, 1 + _TIMED)
    show = (progress or Silent()).stage("timing", steps, "steps")
    with closing(loader.batches(0)) as batches, show as advance:
        for number in range(steps):
            started = time.perf_counter()
            trainer.step(number, next(batches))
            times.append(time.perf_counter() - started)
            waited.append(loader.waited)
            advance(1)
    skipped = min(1, len(times) - 1)
    return Estimate(
        parameters=sum(parameter.numel() for parameter in trainer.pretrainer.student.parameters()),
        trained=sum(parameter.numel() for parameter in trainer.trained),
        seconds=statistics.median(times[skipped:]),
        waiting=min(1.0, (waited[-1] - waited[skipped]) / sum(times[skipped:])),
        checkpoint_bytes=trainer.checkpoint_bytes,
    )


class _Run:
    """The steps from one start of the process to its end."""

    def __init__(
        self,
        fabric: Fabric,
        trainer: Trainer,
        loader: Loader,
        folder: Folder,
        recorder: Recorder | None,
        done: int,
    ) -> None:
        self.fabric, self.trainer, self.loader, self.folder = fabric, trainer, loader, folder
        self.recorder, self.done = recorder, done
        self.generators = global_generators()

    def take(self, minutes: float | None) -> None:
        """Take the steps that are left; processes other than the first end without an exception."""
        try:
            self._together(lambda _: self.folder.check_room(self.trainer.checkpoint_bytes))
            deadline = None if minutes is None else time.monotonic() + 60 * minutes
            with Signals() as signals, closing(self.loader.batches(self.done)) as batches:
                self._steps(batches, signals, deadline)
        except Diverged as error:
            if self.recorder is not None:
                raise Diverged(error.step, error.what, self.folder.last()) from None
        except (_EndedElsewhere, Stopped):
            if self.recorder is not None:
                raise

    def _steps(self, batches: Iterator[Batch], signals: Signals, deadline: float | None) -> None:
        config = self.trainer.config
        for number in range(self.done, config.steps):
            measured = self.trainer.step(number, next(batches))
            self.done = number + 1
            last = self.done == config.steps
            if self.recorder is not None:
                self.recorder.add(self.done, measured)
            if last or self.done % config.log_every == 0:
                self._together(lambda recorder: recorder.write_row())
            if last or self.done % config.checkpoint_every == 0:
                self._together(lambda recorder: recorder.write_modes())
            time_up = deadline is not None and time.monotonic() > deadline
            end = agree(self.fabric, signals.number or (_TIME_UP if time_up else 0))
            if last or end or self.done % config.checkpoint_every == 0:
                self._gather_training_audio()
                self._together(self._write)
            if end and not last:
                if end != _TIME_UP:
                    raise Stopped(end, self.done)
                return

    def _gather_training_audio(self) -> None:
        """Let the first process know what the others have trained on."""
        if self.fabric.world_size > 1:
            states: list[Any] = [None] * self.fabric.world_size
            torch.distributed.all_gather_object(states, self.loader.state())
            if self.recorder is not None:
                for state in states[1:]:
                    self.loader.restore(state)

    def _write(self, recorder: Recorder) -> None:
        """A checkpoint: what evaluates, then what resumes."""
        if global_generators() != self.generators:
            raise RuntimeError("Training drew from a global random generator: a resumed run would differ.")
        trainer, folder = self.trainer, self.folder
        folder.check_room(trainer.checkpoint_bytes)
        encoder_config = trainer.pretrainer.student.config
        for kind, encoder in (("teacher", trainer.pretrainer.teacher), ("student", trainer.pretrainer.student)):
            card = {"weights": kind, **self._card()}
            save_checkpoint(folder.file(kind, self.done), encoder, "aape", dataclasses.asdict(encoder_config), card)
        folder.write_state(self.done, {**trainer.state(), **recorder.state(), "loader": self.loader.state()})
        folder.prune(trainer.config.keep_checkpoints)

    def _card(self) -> dict[str, Any]:
        config = self.trainer.config
        return {
            "steps": self.done,
            "of_steps": config.steps,
            "seed": self.trainer.seed,
            "pretrain": deciding(config),
            TRAINING_AUDIO: self.loader.trained.card(),
        }

    def _together(self, action: Callable[[Recorder], None]) -> None:
        """Let the first process do it; where that fails all end, none waiting for the others."""
        failure: BenchError | None = None
        if self.recorder is not None:
            try:
                action(self.recorder)
            except BenchError as error:
                failure = error
        failed = agree(self.fabric, int(failure is not None))
        if failure is not None:
            raise failure
        if failed:
            raise _EndedElsewhere


def _check_moments(optimizer: torch.optim.Optimizer) -> None:
    """Raise KeyError or ValueError where AdamW lacks a moment or has one of another shape: its loading takes any."""
    for parameter, moments in optimizer.state.items():
        for name, shape in (("step", ()), ("exp_avg", parameter.shape), ("exp_avg_sq", parameter.shape)):
            if moments[name].shape != shape:
                raise ValueError(f"{name} is {list(moments[name].shape)} for weights {list(parameter.shape)}")


class _EndedElsewhere(Exception):
    """The first process has failed and says so."""
