"""`logmel` as a graph for ONNX. (Imports torch.)"""

from __future__ import annotations

import torch
from torch import Tensor

from aape_bench.exporting.graphs import Graph, LogMelGraph, size
from aape_bench.models.logmel.encoder import LogMelStatistics


def graph(encoder: LogMelStatistics) -> Graph:
    """The graph of an encoder."""
    return LogMelStatisticsGraph(encoder)


class LogMelStatisticsGraph(Graph):
    """The encoder's statistics on the front end as a convolution."""

    def __init__(self, encoder: LogMelStatistics) -> None:
        super().__init__()
        front = encoder.log_mel
        self.log_mel = LogMelGraph(front)
        self.rate, self.hop, self.frame = front.sample_rate, front.hop_length, front.frame_length
        self.shortest = self.frame
        self.tried = (self.frame, 4321, 100000)

    def scene(self, audio: Tensor) -> Tensor:
        """Means, then population standard deviations, summed in float64 as the encoder's."""
        values = self.log_mel(audio).double()
        mean = values.mean(dim=1)
        variance = (values - mean[:, None]).square().mean(dim=1)
        return torch.cat([mean, variance.sqrt()], dim=1).float()

    def timestamps(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """The frames and the centres of their windows."""
        log_mel = self.log_mel(audio)
        twice = self.frame + 2 * self.hop * torch.arange(size(log_mel, 1))
        return log_mel, (twice * (500 / self.rate))[None].expand(size(audio, 0), -1)
