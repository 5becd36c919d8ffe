"""Tremolo: how fast does the loudness of a sound go up and down? Generated; the task that needs no files.

Twelve modulation rates from 1.5 to 45 Hz, evenly spaced in their logarithm, on noises of random colour,
pitch, level, depth and background. Only the order of the log-mel frames tells the rate: statistics over time,
and encoders that see the frames shuffled, stay at chance (the tests gate this at the task's own size; with ten
times the clips a probe finds a trace of the 45 Hz class).

What it does not show: a patch of 160 ms holds more than one cycle of the rates above 6 Hz, so an encoder may
read those inside its patches; clip-level accuracy alone is no evidence about aliasing. And depths are evened
out for frames of 25 ms: in the waveform, or through another window, faster rates differ in depth as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from aape_bench.randomness import numpy_stream
from aape_bench.task import Generator, Task

if TYPE_CHECKING:
    import pandas as pd

SEED = 2512
SAMPLE_RATE = 16000
SECONDS = 4.0
SAMPLES = int(SAMPLE_RATE * SECONDS)
FOLDS = 5
CLIPS_PER_RATE = 100
RATES = tuple(float(rate) for rate in np.geomspace(1.5, 45.0, 12))  # Hz, neighbours 36 % apart
JITTER = 0.03  # a clip's rate lies within this fraction of its class's

#: Modulation depth of the power as frames see it. They pass 0.60 of it at 45 Hz, which allows up to 0.6; it is
#: lower because a fast, deep modulation reshapes the frame's effective window, which shows in single frames as
#: the square of the depth.
SEEN_DEPTH = (0.2, 0.4)
#: Root mean square of a clip, dB re full scale: so low that no peak reaches 1.
LEVEL_DB = (-36.0, -18.0)
#: Steady noise under the modulated one, dB re its power.
BACKGROUND_DB = (-40.0, -20.0)
COLOUR = (0.0, 1.0)  # power falls as frequency to minus this: 0 is white, 1 is pink
PITCH_HZ = (300.0, 900.0)  # spacing of the ripples in a pitched carrier's spectrum


@dataclass(frozen=True)
class Parameters:
    """What is drawn for a clip besides its noise; only `rate` and `depth` depend on the label.

    rate: Hz. phase: radians. seen_depth, depth: of the power's modulation, in frames and in the waveform.
    pitch: Hz, 0 where there is none. Levels and colours: as their ranges above.
    """

    rate: float
    phase: float
    seen_depth: float
    depth: float
    pitch: float
    colour: float
    level_db: float
    background_db: float
    background_colour: float


def frame_response(rate: float) -> float:
    """Share of a power modulation's depth that 25 ms Hanning frames pass, at `rate` Hz.

    The expected energy of a frame is the power weighted by the squared window, so the response is
    |W2(rate)| / W2(0), W2 the Fourier transform of the squared window.
    """
    samples = SAMPLE_RATE * 25 // 1000
    weights = np.hanning(samples) ** 2
    return float(abs(weights @ np.exp(2j * np.pi * rate / SAMPLE_RATE * np.arange(samples))) / weights.sum())


def clip_parameters(index: int, seed: int = SEED) -> Parameters:
    """Parameters of the clip in row `index` of the clip table."""
    draw = numpy_stream(seed, "tremolo", "parameters", index)
    rate = RATES[index // CLIPS_PER_RATE] * draw.uniform(1 - JITTER, 1 + JITTER)
    seen_depth = draw.uniform(*SEEN_DEPTH)
    return Parameters(
        rate=rate,
        phase=draw.uniform(0.0, 2 * np.pi),
        seen_depth=seen_depth,
        depth=seen_depth / frame_response(rate),
        pitch=draw.uniform(*PITCH_HZ) * draw.integers(2),
        colour=draw.uniform(*COLOUR),
        level_db=draw.uniform(*LEVEL_DB),
        background_db=draw.uniform(*BACKGROUND_DB),
        background_colour=draw.uniform(*COLOUR),
    )


def make_clip(index: int, seed: int = SEED) -> np.ndarray:
    """Audio of the clip in row `index` of the clip table: (64000,) float32 in [-1, 1] at 16 kHz."""
    clip = clip_parameters(index, seed)
    draw = numpy_stream(seed, "tremolo", "noise", index)
    # The power is sinusoidal, not the amplitude: a frame then sees a pure sinusoid whatever the rate.
    angle = 2 * np.pi * clip.rate / SAMPLE_RATE * np.arange(SAMPLES) + clip.phase
    audio = np.sqrt(1 + clip.depth * np.sin(angle)) * _noise(draw, clip.colour, clip.pitch)
    audio += 10 ** (clip.background_db / 20) * _noise(draw, clip.background_colour, 0.0)
    audio *= 10 ** (clip.level_db / 20) / np.sqrt(np.mean(audio**2))
    return np.asarray(audio / max(1.0, float(np.abs(audio).max())), dtype=np.float32)


def _noise(draw: np.random.Generator, colour: float, pitch: float) -> np.ndarray:
    # Gaussian noise of unit power. A pitch is a rippled spectrum, peaks at its multiples and nothing between,
    # not a row of lines: around a line frames resolve the sidebands of fast modulations, which tells the rate.
    frequency = np.fft.rfftfreq(SAMPLES, 1 / SAMPLE_RATE)
    amplitude = np.maximum(frequency, 50.0) ** (-colour / 2) * (frequency >= 20.0)
    if pitch:
        amplitude *= np.cos(np.pi * frequency / pitch)
    spectrum = draw.standard_normal(2 * frequency.size).view(np.complex128)
    audio = np.fft.irfft(amplitude * spectrum, SAMPLES)
    return np.asarray(audio / np.sqrt(np.mean(audio**2)))


def _read(_folder: Path) -> pd.DataFrame:
    import pandas as pd

    shuffle = numpy_stream(SEED, "tremolo", "folds")
    every_fold = np.repeat(np.arange(1, FOLDS + 1), CLIPS_PER_RATE // FOLDS)
    return pd.DataFrame(
        {
            "id": [f"tremolo-{index:05d}" for index in range(len(RATES) * CLIPS_PER_RATE)],
            "path": "",
            "start": np.nan,
            "end": np.nan,
            "label": [f"{rate:.2g} Hz" for rate in RATES for _ in range(CLIPS_PER_RATE)],
            "fold": np.concatenate([shuffle.permutation(every_fold) for _ in RATES]),
            "group": None,
        }
    )


task = Task(
    name="tremolo",
    title="Rate of a sound's amplitude modulation, 1.5 to 45 Hz (generated)",
    domain="modulation",
    kind="multiclass",
    metric="accuracy",
    split_scheme="folds",
    clips=len(RATES) * CLIPS_PER_RATE,
    classes=len(RATES),
    clip_seconds=SECONDS,
    read=_read,
    generator=Generator(make_clip, SAMPLE_RATE, ("aape_bench.tasks.tremolo", "aape_bench.randomness")),
    licence="Apache-2.0",
)
