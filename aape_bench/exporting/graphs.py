"""Encoders as ONNX can hold them: fixed operations on (n, samples), whatever n and samples are. (Imports torch.)

An encoder decides by values (which windows has this clip, where does its padding begin?) and works in pieces that bound
its memory. Its graph is the same function of clips of one length without padding, of the same modules; what depends on
that length is computed from tensors (`size`), as tracing does not see Python's numbers. Which plugin has one is said by
the entry-point group `aape_bench.graphs`: `(encoder) -> Graph` under the model's name.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from aape_bench.features import ENERGY_FLOOR, PREEMPHASIS, LogMel


def size(tensor: Tensor, dimension: int) -> Any:
    """A dimension as a tensor, so that tracing follows what is computed from it; it may stand wherever an int may."""
    return torch.as_tensor(tensor.shape[dimension])


class Graph(nn.Module):
    """What is exported of an encoder.

    shortest: samples of the shortest clip that it takes. tried: lengths (samples) at which it takes different ways.
    """

    shortest: int = 1
    tried: tuple[int, ...] = ()

    def scene(self, audio: Tensor) -> Tensor:
        """(n, samples) -> (n, scene_embedding_size)."""
        raise NotImplementedError

    def timestamps(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """(n, samples) -> (n, t, timestamp_embedding_size) and times (n, t) in ms."""
        raise NotImplementedError


class Part(nn.Module):
    """One of a graph's two functions as a module."""

    def __init__(self, graph: Graph, name: str) -> None:
        super().__init__()
        self.graph = graph
        self.name = name

    def forward(self, audio: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """What the function returns."""
        return self.graph.scene(audio) if self.name == "scene" else self.graph.timestamps(audio)


class LogMelGraph(nn.Module):
    """`features.LogMel` as one convolution and one matrix product.

    Less its mean, pre-emphasised, windowed, transformed: all of what is done to a frame before the power is linear,
    hence one matrix, computed in float64.
    """

    kernels: Tensor
    filters: Tensor

    def __init__(self, front_end: LogMel) -> None:
        super().__init__()
        frame, self.bins = front_end.frame_length, front_end.n_fft // 2 + 1
        self.hop = front_end.hop_length
        one = torch.eye(frame, dtype=torch.float64)
        previous = torch.cat([one[:1], one[:-1]])  # a frame's first sample is its own predecessor
        prepared = front_end.window.double()[:, None] * (one - PREEMPHASIS * previous) @ (one - 1 / frame)
        angle = torch.outer(torch.arange(self.bins), torch.arange(frame)).double() * (2 * torch.pi / front_end.n_fft)
        kernels = torch.cat([angle.cos(), -angle.sin()]) @ prepared
        self.register_buffer("kernels", kernels.float()[:, None], persistent=False)
        self.register_buffer("filters", front_end.filters, persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        """(n, samples) -> the log-mel (n, T, mels)."""
        audio = audio - audio.mean(dim=1, keepdim=True)
        spectrum = nn.functional.conv1d(audio[:, None], self.kernels, stride=self.hop)
        power = spectrum[:, : self.bins].square() + spectrum[:, self.bins :].square()
        return torch.matmul(power.transpose(1, 2), self.filters).clamp(min=ENERGY_FLOOR).log()
