"""Decode, make mono, resample: one clip as float32 samples at the rate an encoder wants."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aape_bench.containers import missing_bytes
from aape_bench.errors import BrokenAudio, DataError

#: Shortest clip that any encoder is given: one 25 ms analysis window.
MIN_SECONDS = 0.025

#: Float files may overshoot full scale; beyond this they are scaled otherwise (as 16-bit numbers, say).
LARGEST_SAMPLE = 10.0

#: Changes whenever the samples that reach an encoder change; part of every embedding's address.
TREATMENT = "mono mean, soxr HQ, head"

Samples = npt.NDArray[np.float32]


def read_clip(
    path: Path,
    sample_rate: int,
    max_seconds: float | None,
    start: float | None = None,
    end: float | None = None,
    place: float | None = None,
) -> Samples:
    """Decode one clip: channels averaged, resampled with soxr, cut to its first `max_seconds`.

    max_seconds: None for no limit. start, end: seconds within the file, None for its own. place: in [0, 1), where a
    longer clip is cut instead of at its head, as a share of what is left out.
    Returns (samples,) float32. Raises DataError naming the file where it is no audio, truncated, empty,
    shorter than 25 ms or holds NaN or infinite samples.
    """
    import soundfile

    try:
        with path.open("rb", buffering=0) as handle:
            size = os.fstat(handle.fileno()).st_size
            if size == 0:
                raise BrokenAudio(path, "is empty")
            if cut := missing_bytes(handle, size):
                raise BrokenAudio(path, f"is truncated ({cut[0]} of {cut[1]} bytes of audio)")
            # by its number, so that libsndfile reads it itself: by calls into Python it takes several times as long
            with soundfile.SoundFile(handle.fileno(), closefd=False) as sound:
                native = sound.samplerate
                first = round((start or 0.0) * native)
                last = sound.frames if end is None else min(round(end * native), sound.frames)
                wanted = last - first if max_seconds is None else min(last - first, round(max_seconds * native))
                if place is not None:
                    first += int(place * (last - first - wanted + 1))
                if wanted <= 0:
                    raise BrokenAudio(path, "holds no samples" if start is None else "ends before its start")
                if first:  # some codecs cannot seek
                    sound.seek(first)
                samples = sound.read(wanted, dtype="float32", always_2d=True)
    except FileNotFoundError:
        raise DataError(f"The audio file {path} is missing. Restore it, or run with --allow-partial.") from None
    except soundfile.LibsndfileError as error:
        reason = str(error.error_string).rstrip(".")
        raise BrokenAudio(path, f"is not audio that libsndfile can read ({reason})") from None
    except OSError as error:
        # the disk's or the network's fault, perhaps for a moment only: never a reason to skip a clip for good
        raise DataError(f"The audio file {path} cannot be read ({error.strerror or error}). Run again.") from None
    if len(samples) < wanted:
        raise BrokenAudio(path, f"is truncated ({len(samples)} of {wanted} samples)")
    mono = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)
    return to_rate(mono, native, sample_rate, max_seconds, path)


def to_rate(mono: Samples, native: int, sample_rate: int, max_seconds: float | None, name: object) -> Samples:
    """Check and resample (samples,) float32 from `native` to `sample_rate` Hz; see `read_clip`."""
    peak = float(max(mono.max(initial=0.0), -mono.min(initial=0.0)))
    if not math.isfinite(peak):
        raise BrokenAudio(name, "holds NaN or infinite samples")
    if peak > LARGEST_SAMPLE:
        raise BrokenAudio(name, f"has samples up to {peak:.3g}, where full scale is 1")
    if len(mono) < round(MIN_SECONDS * native):
        raise BrokenAudio(name, f"is too short ({1000 * len(mono) / native:.1f} ms, at least 25 ms are needed)")
    if native != sample_rate:
        import soxr

        mono = soxr.resample(mono, native, sample_rate, quality="HQ").astype(np.float32, copy=False)
        # rounding may leave a clip of exactly 25 ms one sample short of one analysis window
        if len(mono) < (least := round(MIN_SECONDS * sample_rate)):
            mono = np.pad(mono, (0, least - len(mono)))
    return np.ascontiguousarray(mono if max_seconds is None else mono[: round(max_seconds * sample_rate)])
