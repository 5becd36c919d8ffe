"""CREPE as an encoder: frames of 1024 samples, six convolutions. (Imports torch.)"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aape_bench.encoder import Encoder
from aape_bench.models.crepe import CrepeConfig
from aape_bench.randomness import torch_stream

RATE = 16000
FRAME = 1024  # samples

#: Channels after each layer, and frames computed at once.
_CHANNELS = {"tiny": (128, 16, 16, 16, 32, 64), "full": (1024, 128, 128, 128, 256, 512)}
_FRAMES_AT_ONCE = {"tiny": 256, "full": 32}

_NORM_EPS = 0.0010000000474974513


class Crepe(Encoder):
    """Scenes: the mean over frames of a layer's values; timestamps: the frames' own. A frame is centred at its time."""

    sample_rate = RATE

    def __init__(self, config: CrepeConfig, seed: int) -> None:
        super().__init__()
        self.config = config
        self.hop = round(config.hop_ms * RATE / 1000)
        channels = (1, *_CHANNELS[config.capacity])
        for layer in range(1, config.layer + 1):
            taps, stride = (512, 4) if layer == 1 else (64, 1)
            # built without storage first: the constructor would draw from the global generator
            convolution = nn.Conv2d(channels[layer - 1], channels[layer], (taps, 1), (stride, 1), device="meta")
            convolution = convolution.to_empty(device="cpu")
            generator = torch_stream(seed, "crepe", layer)
            nn.init.kaiming_uniform_(convolution.weight, nonlinearity="relu", generator=generator)
            nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
            self.add_module(f"conv{layer}", convolution)
            self.add_module(f"conv{layer}_BN", nn.BatchNorm2d(channels[layer], eps=_NORM_EPS))
        # each layer halves the 256 steps of the first
        self.scene_embedding_size = channels[config.layer] * (256 >> config.layer)
        self.timestamp_embedding_size = self.scene_embedding_size

    def layer_groups(self) -> list[list[str]]:
        """The parameters of each convolution with its normalisation."""
        names = [name for name, _ in self.named_parameters()]
        layers = range(1, self.config.layer + 1)
        return [[name for name in names if name.startswith((f"conv{at}.", f"conv{at}_BN."))] for at in layers]

    def scene_embeddings(self, audio: Tensor, lengths: Tensor | None = None) -> Tensor:
        """As `Encoder`."""
        moments, count = self._moments(audio, lengths)
        return moments.sum(dim=1) / count[:, None]

    def timestamp_embeddings(self, audio: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One vector every `hop_ms` from the clip's beginning on: (n, t, size), 0 past its end, and times (n, t)."""
        moments, count = self._moments(audio, lengths)
        place = torch.arange(moments.shape[1], device=audio.device)
        times = (place * self.hop * (1000 / RATE)).expand(len(audio), -1)
        return moments, times.masked_fill(place >= count[:, None], torch.nan)

    def _moments(self, audio: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """(n, t, size), 0 past a clip's end, and each clip's frames (n,)."""
        if lengths is None:
            lengths = torch.full((len(audio),), audio.shape[1])
        lengths = lengths.to(audio.device, torch.int64)
        with torch.autocast(audio.device.type, enabled=False):
            past_end = torch.arange(audio.shape[1], device=audio.device) >= lengths[:, None]
            padded = nn.functional.pad(audio.float().masked_fill(past_end, 0.0), (FRAME // 2, FRAME // 2))
            frames = padded.unfold(1, FRAME, self.hop)
            count = lengths // self.hop + 1
            real = torch.arange(frames.shape[1], device=audio.device) < count[:, None]
            clip, place = real.nonzero(as_tuple=True)
        size = _FRAMES_AT_ONCE[self.config.capacity]
        some = zip(torch.split(clip, size), torch.split(place, size), strict=True)
        parts = [self._layers(frames[clips, places]) for clips, places in some]
        moments = frames.new_zeros(*frames.shape[:2], self.timestamp_embedding_size)
        return moments.index_put((clip, place), torch.cat(parts)), count

    def _layers(self, frames: Tensor) -> Tensor:
        """(f, 1024) -> (f, size): frames of mean 0 and deviation 1, then the convolutions."""
        frames = frames - frames.mean(dim=1, keepdim=True)
        # a silent frame stays silent, with a gradient that is a number
        variance = frames.square().sum(dim=1, keepdim=True) / (FRAME - 1)
        values = (frames / variance.clamp(min=1e-20).sqrt())[:, None, :, None]
        for layer in range(1, self.config.layer + 1):
            convolution, norm = getattr(self, f"conv{layer}"), getattr(self, f"conv{layer}_BN")
            around = (0, 0, 254, 254) if layer == 1 else (0, 0, 31, 32)
            values = convolution(nn.functional.pad(values, around)).relu()
            # in training, too, by the statistics that came with the weights: frames of one clip are no sample
            values = nn.functional.batch_norm(
                values, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
            )
            values = nn.functional.max_pool2d(values, (2, 1))
        # (f, channels, steps, 1) -> steps, then channels, as the package's classifier reads them
        return values[..., 0].transpose(1, 2).flatten(1).float()
