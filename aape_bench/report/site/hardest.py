"""The clips that the models found hardest: which, what they sound and look like."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from aape_bench.clips import ClipReader
from aape_bench.errors import BenchError
from aape_bench.task_data import TaskData, load_task

if TYPE_CHECKING:
    from aape_bench.audio import Samples
    from aape_bench.predictions import Predictions
    from aape_bench.task import Task

SAMPLE_RATE = 16000
_WINDOW, _COLUMNS, _RANGE_DB = 400, 600, 60.0  # of the picture: samples, at most, down from its loudest point


@dataclass(frozen=True)
class HardClip:
    """place: of the true class by score, 1 the best, mean over models and true classes. taken_for: by each model."""

    id: str
    truth: str
    place: float
    taken_for: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Media:
    """A clip to look at and listen to: a PNG and an Ogg file."""

    spectrogram: bytes
    audio: bytes
    seconds: float


def hardest(predicted: Sequence[tuple[str, Predictions]], most: int) -> list[HardClip]:
    """The clips whose true class stood lowest, of those that every (model, predictions) tested; worst first.

    Empty for event tasks, whose clips have no class, and where there is nothing that was not right at once.
    """
    usable = [(name, one) for name, one in predicted if one.scores is not None]
    if not usable:
        return []
    common = set(usable[0][1].ids).intersection(*(one.ids for _, one in usable[1:]))
    places: dict[str, list[float]] = {clip: [] for clip in common}
    said: dict[str, list[tuple[str, str]]] = {clip: [] for clip in common}
    for name, one in usable:
        for clip, place, row in zip(one.ids, _places(one), range(len(one.ids)), strict=True):
            if clip in common:
                places[clip].append(place)
                said[clip].append((name, _best(one, row)))
    first = usable[0][1]
    truth = {clip: label for clip, label in zip(first.ids, first.truth, strict=True) if clip in common}
    mean = {clip: float(np.mean(values)) for clip, values in places.items()}
    order = sorted((clip for clip in common if mean[clip] > 1), key=lambda clip: (-mean[clip], clip))[:most]
    return [HardClip(clip, _words(truth[clip]), mean[clip], tuple(said[clip])) for clip in order]


def data_of(task: Task, data_dir: Path, cache_dir: Path) -> TaskData | None:
    """The task's data where it is on this disk, whole or in part."""
    try:
        return load_task(task, data_dir, cache_dir, allow_partial=True)
    except BenchError:
        return None


def media(data: TaskData, clip: str) -> Media | None:
    """What to show of a clip; None where its file cannot be read."""
    rows = np.flatnonzero(data.table["id"] == clip)
    if len(rows) != 1:
        return None
    reader = ClipReader(data.task, data.root, data.table, None, SAMPLE_RATE, full_length=False)
    try:
        samples = reader.read(int(rows[0]))
    except BenchError:
        return None
    return Media(_picture(samples), _ogg(samples), len(samples) / SAMPLE_RATE)


def _places(predictions: Predictions) -> npt.NDArray[np.float64]:
    """(m,) place of each clip's true classes, 1 the best, mean over them and over repeats; ties count half."""
    assert predictions.scores is not None
    columns = {name: at for at, name in enumerate(predictions.classes)}
    places = np.ones(len(predictions.ids))
    for row, label in enumerate(predictions.truth):
        names = (label,) if isinstance(label, str) else label
        known = [columns[name] for name in names if name in columns]
        if known:
            scores = predictions.scores[:, row]
            own = scores[:, known, None]
            above = (scores[:, None] > own).sum(axis=2) + 0.5 * ((scores[:, None] == own).sum(axis=2) - 1)
            # of several true classes the best possible places are 1, 2, ...: only false classes push down
            places[row] = 1 + float(above.mean()) - (len(known) - 1) / 2
    return places


def _best(predictions: Predictions, row: int) -> str:
    assert predictions.scores is not None
    return predictions.classes[int(predictions.scores[:, row].mean(axis=0).argmax())]


def _words(label: object) -> str:
    if isinstance(label, tuple):
        return ", ".join(map(str, label)) or "nothing"
    return str(label)


def _picture(samples: Samples) -> bytes:
    """A spectrogram without axes (the page says what it is): time to the right, 0 to 8 kHz upwards, the top 60 dB."""
    from matplotlib.image import imsave
    from scipy.signal import ShortTimeFFT
    from scipy.signal.windows import hann

    audio = np.zeros(max(len(samples), 2 * _WINDOW), np.float32)
    audio[: len(samples)] = samples
    hop = max(SAMPLE_RATE // 100, len(audio) // _COLUMNS)
    power = ShortTimeFFT(hann(_WINDOW), hop, SAMPLE_RATE, scale_to="psd").spectrogram(audio)
    decibels = 10 * np.log10(power + np.finfo(np.float32).tiny)
    top = float(decibels.max())
    packed = io.BytesIO()
    imsave(packed, decibels[::-1], cmap="magma", vmin=top - _RANGE_DB, vmax=top, format="png")
    return packed.getvalue()


def _ogg(samples: Samples) -> bytes:
    import soundfile

    packed = io.BytesIO()
    soundfile.write(packed, samples, SAMPLE_RATE, format="OGG", subtype="VORBIS")
    return packed.getvalue()
