"""One optimiser step of pre-training, on any device, number of processes and precision. (Imports torch.)"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from aape_bench.errors import BenchError, UsageError
from aape_bench.models.aape.config import AapeConfig
from aape_bench.models.aape.pretrain import diagnostics, losses, masks, schedule, warm_start
from aape_bench.models.aape.pretrain.config import PretrainConfig
from aape_bench.models.aape.pretrain.data import Batch
from aape_bench.models.aape.pretrain.model import Losses, Pretrainer
from aape_bench.models.aape.pretrain.state import tensor_bytes
from aape_bench.overlap import TrainingAudio

if TYPE_CHECKING:
    from lightning.fabric import Fabric

#: Below this scale of 16-mixed precision gradients are not too large, they are NaN.
LEAST_LOSS_SCALE = 1e-4
#: Clips of the last part of a batch that alpha and beta are measured on.
SAMPLE = 4


class Diverged(BenchError):
    """A loss or gradient that is NaN or infinite; nothing of its step has reached the weights."""

    def __init__(self, step: int, what: str, left: str = "") -> None:
        """left: a sentence on what there is of the run."""
        self.step, self.what = step, what
        super().__init__(
            f"Training stopped in step {step}: {what}. {left} A lower learning_rate or clip_norm, a longer warmup or "
            "precision=32-true may help, as a new training; --resume alone comes to the same point again."
        )


def make_optimizer(groups: list[dict[str, Any]], config: PretrainConfig, device: str) -> torch.optim.Optimizer:
    """AdamW; the learning rate is set before each step."""
    # the fused one unscales gradients itself, which leaves no moment to clip them
    fused = device == "cuda" and config.precision != "16-mixed"
    return torch.optim.AdamW(groups, lr=0.0, betas=(config.beta1, config.beta2), fused=fused)


class Trainer:
    """Model and optimiser under Fabric.

    encoder_config and config are resolved. Raises UsageError where the clips of a step do not divide among the
    processes and the accumulated parts.
    """

    def __init__(self, fabric: Fabric, encoder_config: AapeConfig, config: PretrainConfig, seed: int) -> None:
        parts = fabric.world_size * config.accumulate
        if config.batch % parts:
            raise UsageError(
                f"batch={config.batch} clips do not divide among {fabric.world_size} processes with "
                f"accumulate={config.accumulate}: make batch a multiple of {parts}."
            )
        self.fabric, self.config, self.seed = fabric, config, seed
        self.pretrainer = Pretrainer(encoder_config, config, seed)
        if config.compile:
            self.pretrainer.compile_blocks()
        groups = self.pretrainer.parameter_groups(config.weight_decay)
        self._adam = make_optimizer(groups, config, fabric.device.type)
        self.model, self.optimizer = fabric.setup(self.pretrainer, self._adam)
        self.gather = losses.gathered if fabric.world_size > 1 else None
        self.head = diagnostics.head_parameters(self.pretrainer.student.stem)
        self.trained = [parameter for parameter in self.pretrainer.parameters() if parameter.requires_grad]
        #: Log-mel of some clips of the last step, (n, 1, T, mels).
        self.sample: Tensor | None = None

    def begin_with(self, path: Path) -> TrainingAudio:
        """Start student and teacher from the weights in a file; what those were trained on."""
        trained = warm_start.load(self.pretrainer.student, path)
        self.pretrainer.update_teacher(0.0)
        return trained

    def step(self, number: int, batch: Batch) -> dict[str, float]:
        """Take the step with this number, from 0, on this process's clips.

        Returns the losses and statistics, means over processes and accumulated parts, and gradient norms before
        clipping. Raises Diverged, on all processes alike, before anything unusable reaches the weights.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = schedule.learning_rate(number, self.config)
        total: Tensor | None = None
        parts = self.config.accumulate
        for index, part in enumerate(split(batch, parts)):
            with self.fabric.no_backward_sync(self.model, enabled=index < parts - 1):
                found = self._losses(number, part)
                self.fabric.backward(found.total / parts)
            names, values = _values(found)
            total = values / parts if total is None else total + values / parts
        assert total is not None
        if self.fabric.world_size > 1:
            torch.distributed.all_reduce(total)
            total = total / self.fabric.world_size
        measured = dict(zip(names, total.tolist(), strict=True))
        for name in ("masked", "utterance", "contrastive", "loss"):
            if not math.isfinite(measured[name]):
                what = name if name == "loss" else f"{name} loss"
                raise Diverged(number + 1, f"the {what} is {measured[name]}")
        measured |= self._clip(number)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.pretrainer.update_teacher(schedule.momentum(number, self.config))
        return measured

    def _losses(self, number: int, part: Batch) -> Losses:
        device = self.fabric.device
        keep = masks.batch_masks(self.config, self.seed, number, part.clip, *self.pretrainer.grid, part.again)
        audio, lengths = part.audio.to(device, non_blocking=True), part.lengths.to(device, non_blocking=True)
        log_mel = self.pretrainer.log_mel(audio, lengths)
        self.sample = log_mel[:SAMPLE]
        sources = part.source.to(device, non_blocking=True)
        return self.model(log_mel, keep.to(device, non_blocking=True), sources, self.gather)  # type: ignore[no-any-return]

    def _clip(self, number: int) -> dict[str, float]:
        """Clip the gradients; their norms before."""
        # an infinite limit: only unscales and measures
        norm = self.fabric.clip_gradients(self.pretrainer, self._adam, max_norm=math.inf, error_if_nonfinite=False)
        assert norm is not None
        head = diagnostics.gradient_norm(self.head)
        torch.nn.utils.clip_grads_with_norm_(self.trained, self.config.clip_norm, norm)
        measured = {"gradient_norm": norm.item()}
        if head is not None:
            measured["lambda_gradient_norm"] = head.item()
        if not math.isfinite(measured["gradient_norm"]):
            scale = self.loss_scale
            if scale is None:
                raise Diverged(number + 1, f"the losses are finite, but the gradient is {measured['gradient_norm']}")
            if scale < LEAST_LOSS_SCALE:
                raise Diverged(number + 1, "the gradient is not finite however small the loss scale")
            # too large for 16 bits: the scaler leaves this step out
            measured = dict.fromkeys(measured, 0.0)
        return measured

    @property
    def loss_scale(self) -> float | None:
        """By which 16-mixed precision multiplies the loss; None in other precisions."""
        scale = self._precision_state().get("scale")
        return None if scale is None else float(scale)

    def _precision_state(self) -> dict[str, Any]:
        return self.fabric.strategy.precision.state_dict()

    def state(self) -> dict[str, Any]:
        """All that later steps depend on."""
        return {
            "model": self.pretrainer.state_dict(),
            "optimizer": self._adam.state_dict(),
            "precision": self._precision_state(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from a state."""
        self.pretrainer.load_state_dict(state["model"])
        self._adam.load_state_dict(state["optimizer"])
        self.fabric.strategy.precision.load_state_dict(state["precision"])

    @property
    def checkpoint_bytes(self) -> int:
        """About what a checkpoint takes on disk: student and teacher twice, everything else and AdamW's moments."""
        everything = tensor_bytes(*self.pretrainer.state_dict().values())
        encoders = tensor_bytes(*self.pretrainer.student.state_dict().values()) * 2
        return everything + encoders + 2 * tensor_bytes(*self.trained)


def split(batch: Batch, parts: int) -> Iterator[Batch]:
    """A batch in parts, each of every so-many-th clip: parts then hold the same clips over any number of processes."""
    for first in range(parts):
        here = slice(first, None, parts)
        yield dataclasses.replace(
            batch,
            audio=batch.audio[here],
            lengths=batch.lengths[here],
            source=batch.source[here],
            clip=batch.clip[here],
            again=batch.again[here],
        )


def _values(found: Losses) -> tuple[list[str], Tensor]:
    """Names and values (n,) float32, without gradient."""
    values = {
        **{"loss": found.total, "masked": found.masked, "utterance": found.utterance, "contrastive": found.contrastive},
        **found.statistics,
    }
    return list(values), torch.stack([value.detach().float() for value in values.values()])
