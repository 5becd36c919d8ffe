"""Log-mel statistics as an encoder. (Imports torch.)"""

from __future__ import annotations

import torch
from torch import Tensor

from aape_bench.encoder import Encoder
from aape_bench.features import LogMel


class LogMelStatistics(Encoder):
    """Scenes: mean and standard deviation of each mel bin over time; timestamps: the frames themselves."""

    def __init__(self, n_mels: int = 128) -> None:
        super().__init__()
        self.log_mel = LogMel(n_mels)
        self.sample_rate = self.log_mel.sample_rate
        self.scene_embedding_size = 2 * n_mels
        self.timestamp_embedding_size = n_mels

    def scene_embeddings(self, audio: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Means, then population standard deviations, over the real frames: (n, 2 * n_mels) float32.

        Summed in float64: a bin that never changes (an empty filter, silence) has exactly its value as mean and
        0 as deviation, so that no probe can raise the rounding noise of a clip's length to a feature.
        """
        log_mel, frames = self.log_mel(audio, lengths)
        values, count = log_mel.double(), frames[:, None].double()
        mean = values.sum(dim=1) / count  # frames past the end are 0
        deviation = values.sub_(mean[:, None])  # in place, here and below: no second array in float64
        if bool((frames < log_mel.shape[1]).any()):
            deviation.masked_fill_(_past_end(log_mel, frames)[..., None], 0.0)
        variance = deviation.square_().sum(dim=1) / count
        return torch.cat([mean, variance.sqrt()], dim=1).float()

    def timestamp_embeddings(self, audio: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One log-mel frame per 10 ms, (n, T, n_mels), and the centres of their 25 ms windows in ms.

        Only frames that lie whole inside a clip exist; past the last one the embedding is 0, the time NaN.
        """
        log_mel, frames = self.log_mel(audio, lengths)
        starts = torch.arange(log_mel.shape[1], device=log_mel.device) * self.log_mel.hop_length
        centres = (starts + self.log_mel.frame_length / 2) * (1000 / self.sample_rate)
        times = centres.expand(log_mel.shape[0], -1).masked_fill(_past_end(log_mel, frames), torch.nan)
        return log_mel, times


def _past_end(log_mel: Tensor, frames: Tensor) -> Tensor:
    return torch.arange(log_mel.shape[1], device=log_mel.device) >= frames[:, None]
