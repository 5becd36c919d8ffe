"""What chance does to a training batch: waveforms, spectrograms, targets and the depth of the encoder. (Imports torch.)

Everything is a pure function of a batch and one generator per clip (`clip_streams`). Draws are made on the CPU and
applied where the batch is, so that devices agree; what a clip draws does not depend on the other clips or on the
padding. Give each function streams of its own name.

Waveforms are (n, samples) with (n,) real samples, spectrograms (n, T, bins) with (n,) real frames; both are returned
as new tensors, their padding as it was. (O) marks our own choices, the sources being silent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from aape_bench.randomness import numpy_stream

Streams = Sequence[np.random.Generator]


def clip_streams(
    seed: int, name: str, update: int, clips: Sequence[int], places: Sequence[int] | None = None
) -> list[np.random.Generator]:
    """One generator for each clip of an update.

    clips: row numbers of the whole batch: a clip that was drawn twice has other numbers the second time. places: which
    of them are wanted; None: all.
    """
    seen: Counter[int] = Counter()
    again = []
    for clip in clips:
        again.append([seen[clip]] if seen[clip] else [])
        seen[clip] += 1
    wanted = range(len(clips)) if places is None else places
    return [numpy_stream(seed, "finetune", name, update, clips[at], *again[at]) for at in wanted]


def roll(audio: Tensor, lengths: Tensor, streams: Streams) -> Tensor:
    """Shift each clip circularly within its real samples, by any number of them alike."""
    lengths = lengths.to(audio.device)[:, None]
    shift = _below(_uniform(streams, 1).to(audio.device), lengths)
    place = torch.arange(audio.shape[1], device=audio.device)
    return audio.gather(1, torch.where(place < lengths, (place - shift) % lengths, place))


def magnitude(audio: Tensor, streams: Streams) -> Tensor:
    """Scale each clip by 0.5 + Beta(10, 10), as EAT: 1 on average, standard deviation 0.11. Nothing is clipped."""
    gain = torch.tensor([[0.5 + stream.beta(10, 10)] for stream in streams], dtype=torch.float32)
    return audio * gain.to(audio.device)


def white_noise(audio: Tensor, lengths: Tensor, streams: Streams, most: float) -> Tensor:
    """Add white Gaussian noise to each clip's real samples.

    (O) Its RMS over the clip's is uniform from 0 to `most`; silence stays silent.
    """
    level = _uniform(streams, 1) * most
    noise = torch.from_numpy(np.stack([s.standard_normal(audio.shape[1], np.float32) for s in streams]))
    lengths = lengths.to(audio.device)[:, None]
    real = torch.arange(audio.shape[1], device=audio.device) < lengths
    rms = (audio.masked_fill(~real, 0.0).square().sum(dim=1, keepdim=True) / lengths).sqrt()
    return audio + (level.to(audio.device) * rms * noise.to(audio.device)).masked_fill(~real, 0.0)


def mixing(streams: Streams, *, strength: float, probability: float) -> tuple[Tensor, Tensor]:
    """Whom each clip of a batch is mixed with, (n,) places in the batch, and its own share (n,), on the CPU.

    The share is drawn from Beta(strength, strength) (Zhang et al., mixup, ICLR 2018). (O) Each clip draws for itself:
    whether it is mixed, its share, and its partner among the other clips; a clip that is not mixed, or alone in its
    batch, is its own partner.
    """
    n = len(streams)
    draws = _uniform(streams, 2)
    drawn = torch.tensor([stream.beta(strength, strength) for stream in streams], dtype=torch.float32)
    mixed = draws[:, 0] < probability
    step = 1 + _below(draws[:, 1], torch.full((n,), max(1, n - 1)))
    own = torch.arange(n)
    return torch.where(mixed, (own + step) % n, own), torch.where(mixed, drawn, 1.0)


def mixup(
    spectrogram: Tensor, frames: Tensor, targets: Tensor, partner: Tensor, share: Tensor, *, quiet: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Mix the first n clips with their partners, spectrograms and targets alike: share x + (1 - share) x'.

    (O) The shorter of two clips is filled up with `quiet`, and the mixture is as long as the longer.

    partner: (n,) places in the batch, which may have more clips than are mixed. share: (n,). targets: float32, a row
    for each clip of the batch. Returns n spectrograms, frames and targets.
    """
    n, device = len(partner), spectrogram.device
    partner, share, frames = partner.to(device), share.to(device), frames.to(device)
    filled = torch.where(_real(spectrogram, frames), spectrogram, quiet)
    longer = torch.maximum(frames[:n], frames[partner])
    mixture = torch.lerp(filled[partner], filled[:n], share[:, None, None])
    mixture = torch.where(_real(spectrogram, longer), mixture, spectrogram[:n])
    partner, share = partner.to(targets.device), share.to(targets.device)[:, None]
    return mixture, longer, torch.lerp(targets[partner], targets[:n], share)


def spec_augment(
    spectrogram: Tensor, frames: Tensor, streams: Streams, *, time: float, frequency: float, quiet: float
) -> Tensor:
    """Write `quiet` over one band of frames and one band of bins of each clip's real frames.

    SpecAugment (Park et al., Interspeech 2019): a band's width is uniform from 0 to its largest, then its place is.
    time, frequency: the largest width, up to 1 as a share of the clip's frames and of the bins, rounded down, above 1
    as a number of them.
    """
    device = spectrogram.device
    draws = _uniform(streams, 4).to(device)
    in_time = _band(draws[:, :2], frames.to(device), time, spectrogram.shape[1])
    bins = torch.full_like(frames, spectrogram.shape[2], device=device)
    in_frequency = _band(draws[:, 2:], bins, frequency, spectrogram.shape[2])
    hidden = in_time[:, :, None] | in_frequency[:, None, :]
    return spectrogram.masked_fill(hidden & _real(spectrogram, frames), quiet)


def drop_path(streams: Streams, rate: float, blocks: int) -> Tensor:
    """What `Encoder.drop_path` takes: (n, blocks, 2) on the CPU, 0 or what keeps the mean at 1.

    Either branch of block i is left out with probability rate * i / (blocks - 1) (Huang et al., ECCV 2016).
    """
    dropped = torch.linspace(0.0, rate, blocks)[None, :, None]
    draws = _uniform(streams, 2 * blocks).view(-1, blocks, 2)
    return (draws >= dropped) / (1 - dropped)


def _uniform(streams: Streams, count: int) -> Tensor:
    """(n, count) float32 in [0, 1)."""
    return torch.from_numpy(np.stack([stream.random(count, np.float32) for stream in streams]))


def _below(draws: Tensor, limit: Tensor) -> Tensor:
    """Whole numbers from 0 to limit - 1, all alike, from draws as `_uniform` makes them; limits up to 2^24."""
    return (draws * limit).long()  # the largest draw, 1 - 2^-24, does not round up to the limit


def _band(draws: Tensor, extent: Tensor, width: float, size: int) -> Tensor:
    """(n, 2) draws, (n,) extents -> (n, size) bool, True in one band inside each extent."""
    most = (width * extent).long() if width <= 1 else extent.clamp(max=int(width))
    wide = _below(draws[:, 0], most + 1)
    first = _below(draws[:, 1], extent - wide + 1)
    place = torch.arange(size, device=draws.device)
    return (place >= first[:, None]) & (place < (first + wide)[:, None])


def _real(spectrogram: Tensor, frames: Tensor) -> Tensor:
    """(n, T, 1) bool, False past each clip's frames."""
    place = torch.arange(spectrogram.shape[1], device=spectrogram.device)
    return (place < frames.to(spectrogram.device)[:, None])[..., None]
