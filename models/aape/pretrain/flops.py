"""What a training step computes, counted and not timed. (Imports torch.)"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from aape_bench.models.aape.config import AapeConfig
from aape_bench.models.aape.pretrain import masks
from aape_bench.models.aape.pretrain.config import PretrainConfig
from aape_bench.models.aape.pretrain.model import Pretrainer


class Size(NamedTuple):
    """parameters: of the encoder. flops_per_step: of student, teacher, predictor and losses, forward and backward."""

    parameters: int
    flops_per_step: int


@functools.cache
def size_of(encoder_config: AapeConfig, config: PretrainConfig) -> Size:
    """Count a step over all its clips; both configs resolved.

    Matrix products, convolutions and attention as torch counts them, and products element by element, which the SBLU's
    responses are made of; neither front end nor optimiser, which are alike for all stems. Independent of the device.
    """
    pretrainer = Pretrainer(encoder_config, config, seed=0)
    clips = config.batch // config.accumulate
    # a step costs a quadratic in its clips, the square being the comparison of all with all: three points give it
    one, two, three = (_count(pretrainer, number) for number in (1, 2, 3))
    slope, bend = two - one, three - 2 * two + one
    flops = one + (clips - 1) * slope + (clips - 1) * (clips - 2) // 2 * bend
    parameters = sum(parameter.numel() for parameter in pretrainer.student.parameters())
    return Size(parameters, config.accumulate * flops)


def step_flops(encoder_config: AapeConfig, config: PretrainConfig) -> float:
    """Matrix products, convolutions and attention of a step alone, as the share of a device's peak is reckoned.

    Counted on tensors without contents, so that any size takes no time; what is recomputed counts once.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    model = Pretrainer(dataclasses.replace(encoder_config, stem_recompute=False), config, 0)
    clips = 2  # the least that have negatives
    kept = round(config.keep * model.grid[0] * model.grid[1])
    counter = FlopCounterMode(display=False)
    with FakeTensorMode() as fake:
        weights: dict[str, Tensor] = {
            name: fake.from_tensor(value) for name, value in [*model.named_parameters(), *model.named_buffers()]
        }
        log_mel = torch.zeros(clips, 1, encoder_config.clip_frames, encoder_config.n_mels)
        keep = torch.zeros(clips, config.masks, kept, dtype=torch.int64)
        # the other backends' operations are not all known to the counter
        with counter, sdpa_kernel(SDPBackend.MATH):
            found = torch.func.functional_call(model, weights, (log_mel, keep, torch.arange(clips)))
            found.total.backward()
    return counter.get_total_flops() / clips * config.batch


def _count(pretrainer: Pretrainer, clips: int) -> int:
    encoder_config = pretrainer.student.config
    clip = torch.arange(clips)
    keep = masks.batch_masks(pretrainer.config, 0, 0, clip, *pretrainer.grid)
    log_mel = torch.zeros(clips, 1, encoder_config.clip_frames, encoder_config.n_mels)
    # other ways to compute attention hide their products from the counter on some devices
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, custom_mapping=_ELEMENT_BY_ELEMENT) as counter:
        pretrainer(log_mel, keep, clip).total.backward()
    pretrainer.zero_grad()
    return int(counter.get_total_flops())


def _products(*_: Any, out_shape: Sequence[int], **__: Any) -> int:
    return math.prod(out_shape)


def _products_and_sums(*_: Any, out_shape: Sequence[int], **__: Any) -> int:
    return 2 * math.prod(out_shape)


_ELEMENT_BY_ELEMENT = {torch.ops.aten.mul: _products, torch.ops.aten.addcmul_: _products_and_sums}
