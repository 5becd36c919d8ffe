"""What a checkpoint's SBLU has learned, in numbers and pictures. (Imports torch.)

    kernels.csv, .png, .svg      h[k] of every mode at its median alpha and beta
    responses.csv, .png, .svg    their gain over the modulation frequency, the band that folds marked
    distributions.csv            alpha and beta per subband: quantiles and saturation
    modes.png, .svg              them in pictures, on audio only
    training.png, .svg           losses and health over the steps, where the training's log lies beside it

A stem with alpha and beta but without kernels ("lambda_only") has modes only, one without them its training only.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from aape_bench.encoder import Encoder
from aape_bench.errors import DataError, UsageError
from aape_bench.features import HOP_MS
from aape_bench.metadata import read_csv, shown
from aape_bench.models.aape.config import AapeConfig
from aape_bench.models.aape.encoder import AapeEncoder
from aape_bench.models.aape.lambda_encoder import LambdaEncoder, modes_from_logits
from aape_bench.models.aape.pretrain import diagnostics
from aape_bench.models.aape.pretrain.config import PretrainConfig
from aape_bench.models.aape.pretrain.log import COLUMNS, LOG
from aape_bench.models.aape.sblu import kernel_centre, kernels
from aape_bench.progress import Progress
from aape_bench.settings import make_config
from aape_bench.storage import atomic_write

Numbers = npt.NDArray[np.float64]

FRAME_RATE = 1000 / HOP_MS
#: Points of the modulation axis, from 0 Hz to the frames' own Nyquist.
POINTS = 501
SUMMARY = ("5 %", "median", "95 %", "low end", "high end")
_BATCH = 16


@dataclasses.dataclass(frozen=True)
class Inspection:
    """alpha, beta: (patches, subbands, modes), per frame and in rad/frame; of one patch without audio.

    kernel_alpha, kernel_beta: (modes,), medians over patches and subbands. clips: crops of audio measured on.
    """

    config: AapeConfig
    alpha: Numbers
    beta: Numbers
    clips: int

    @property
    def kernel_alpha(self) -> Numbers:
        return np.asarray(np.median(self.alpha, axis=(0, 1)))

    @property
    def kernel_beta(self) -> Numbers:
        return np.asarray(np.median(self.beta, axis=(0, 1)))

    @property
    def has_kernels(self) -> bool:
        """Whether alpha and beta shape kernels in this stem."""
        return self.config.stem in ("sblu", "static")

    @property
    def folds_above_hz(self) -> float:
        """Half the patch rate: modulations above it fold."""
        return FRAME_RATE / self.config.patch_frames / 2

    def shares(self) -> dict[str, Numbers]:
        """Where alpha and beta lie in their ranges on the log scale, 0 to 1."""
        values = {"alpha": self.alpha, "beta": self.beta}
        ranges = diagnostics.ranges(self.config)
        return {name: diagnostics.range_share(torch.from_numpy(values[name]), *ranges[name]).numpy() for name in values}

    def kernels(self) -> Numbers:
        """h[k] at the median alpha and beta: (modes, K) complex."""
        alpha, beta = (torch.from_numpy(values) for values in (self.kernel_alpha, self.kernel_beta))
        config = self.config
        sampled = kernels(alpha, beta, config.kernel_frames, config.window, config.phase, config.scale).numpy()
        return np.asarray(sampled[:, 0] + 1j * sampled[:, 1])

    def responses(self) -> tuple[Numbers, Numbers]:
        """Modulation frequencies (points,), Hz, and the gain of every kernel there, (modes, points).

        That is the larger of the gains for the complex sinusoids that turn either way: only even kernels have one.
        """
        hertz = np.linspace(0, FRAME_RATE / 2, POINTS)
        lag = np.arange(self.config.kernel_frames) - kernel_centre(self.config.kernel_frames, self.config.window)
        turns = np.exp(2j * np.pi / FRAME_RATE * hertz[:, None] * lag)
        taps = self.kernels()
        return hertz, np.maximum(np.abs(taps @ turns.T), np.abs(taps @ turns.conj().T))

    def summary(self) -> list[dict[str, Any]]:
        """Quantiles of alpha (per frame) and beta (Hz) over everything, and the share at each end of the range."""
        return [
            {"quantity": f"{name} ({unit})", **_statistics(values * scale, self.shares()[name])}
            for name, unit, scale, values in self._quantities()
        ]

    def rows(self) -> list[dict[str, Any]]:
        """As `summary`, per subband and mode."""
        found = []
        for name, unit, scale, values in self._quantities():
            share = self.shares()[name]
            for subband, mode in np.ndindex(values.shape[1:]):
                statistics = _statistics(values[:, subband, mode] * scale, share[:, subband, mode])
                found.append({"quantity": f"{name} ({unit})", "subband": subband, "mode": mode, **statistics})
        return found

    def _quantities(self) -> list[tuple[str, str, float, Numbers]]:
        return [("alpha", "1/frame", 1.0, self.alpha), ("beta", "Hz", FRAME_RATE / (2 * np.pi), self.beta)]


def _statistics(values: Numbers, share: Numbers) -> dict[str, float]:
    quantiles = np.quantile(values, (0.05, 0.5, 0.95))
    low, high = (share < diagnostics.EDGE).mean(), (share > 1 - diagnostics.EDGE).mean()
    return dict(zip(SUMMARY, (float(number) for number in (*quantiles, low, high)), strict=True))


def measure(
    encoder: Encoder, audio: Sequence[str] | None, clips: int, seed: int, device: str, progress: Progress
) -> Inspection:
    """alpha and beta of an encoder on random crops of audio, as long as its windows.

    audio: what --audio takes, or None: then of a patch of which the Lambda Encoder's last layer knows nothing, its
    bias alone. Raises UsageError where the encoder has no alpha and beta.
    """
    config = encoder.config if isinstance(encoder, AapeEncoder) else None
    source = diagnostics.lambda_source(encoder.stem) if isinstance(encoder, AapeEncoder) else None
    if source is None or not isinstance(config, AapeConfig) or not isinstance(encoder, AapeEncoder):
        stem = getattr(config, "stem", "plain")
        raise UsageError(f"There is nothing to inspect: a checkpoint with stem={stem} has no alpha and beta.")
    encoder = encoder.eval().to(device)
    found: list[diagnostics.Modes] = []
    done = 0
    if audio:
        with progress.stage("measure", clips, "clips") as advance:
            for log_mel in _log_mels(encoder, config, audio, clips, seed, device):
                modes = diagnostics.modes(encoder.stem, log_mel)
                assert modes is not None
                found.append(diagnostics.Modes(*(values.cpu() for values in modes)))
                done += len(log_mel)
                advance(len(log_mel))
    else:
        logits = source.head.bias[None, None] if isinstance(source, LambdaEncoder) else source.logits[None]
        found = [diagnostics.Modes(*(values.detach().cpu() for values in modes_from_logits(logits, config)))]
    alpha, beta = (torch.cat(values).double().numpy() for values in zip(*found, strict=True))
    return Inspection(config, alpha, beta, done)


def _log_mels(
    encoder: AapeEncoder, config: AapeConfig, audio: Sequence[str], clips: int, seed: int, device: str
) -> Any:
    """Log-mel (n, 1, T, mels), normalised, of so many crops; only whole patches of sound."""
    from aape_bench.models.aape.pretrain.data import Loader
    from aape_bench.models.aape.pretrain.sources import open_source

    seconds = config.clip_frames / FRAME_RATE
    size = min(_BATCH, clips)
    settings = make_config(PretrainConfig, {"preset": "smoke", "clip_seconds": seconds, "batch": size}, "inspect")
    loader = Loader(open_source(audio), settings, seed)
    left = clips
    with closing(loader.batches(0)) as batches, torch.inference_mode():
        while left > 0:
            batch = next(batches)
            for row in range(min(size, left)):
                length = int(batch.lengths[row])
                log_mel, _ = encoder.front_end(batch.audio[row : row + 1, :length].to(device))
                frames = max(config.patch_frames, log_mel.shape[1] // config.patch_frames * config.patch_frames)
                yield encoder.normalised(log_mel)[:, None, :frames]
                left -= 1


def has_modes(encoder: Encoder) -> bool:
    """Whether its stem has alpha and beta."""
    return isinstance(encoder, AapeEncoder) and diagnostics.lambda_source(encoder.stem) is not None


def log_beside(checkpoint: Path) -> dict[str, Numbers] | None:
    """The numbers in the log of the training that a checkpoint is from: columns (rows,), NaN where a cell is empty.

    None where no log lies beside the checkpoint. Raises DataError where it is no such log.
    """
    path = checkpoint.parent / LOG
    if not path.is_file():
        return None
    numbers = {}
    for name, column in read_csv(path, [*COLUMNS]).items():
        if name != "warnings":
            try:
                numbers[str(name)] = column.to_numpy(dtype=np.float64)
            except ValueError:
                raise DataError(
                    f"{path} has a {shown(str(name))} that is no number. Move it away to inspect without it."
                ) from None
    return numbers


def write(found: Inspection | None, out: Path, log: Mapping[str, Numbers] | None = None) -> list[Path]:
    """Tables and figures into a folder, made where it is missing; the paths written.

    log: the training's, see `log_beside`.
    """
    from aape_bench.models.aape.pretrain import drawings
    from aape_bench.report.figures import pictures, styled

    files: dict[str, bytes] = {}
    with styled():
        if log is not None:
            files |= pictures("training", drawings.training(log))
        if found is not None and found.has_kernels:
            files |= {"kernels.csv": _table(_kernel_rows(found)), **pictures("kernels", drawings.kernels(found))}
            files |= {"responses.csv": _table(_response_rows(found))}
            files |= pictures("responses", drawings.responses(found))
        if found is not None:  # not modes.csv, which is the training's own table
            files["distributions.csv"] = _table(found.rows())
        if found is not None and found.clips:
            files |= pictures("modes", drawings.modes(found))
    for name, content in files.items():
        with atomic_write(out / name) as handle:
            handle.write(content)
    return [out / name for name in files]


def _kernel_rows(found: Inspection) -> list[dict[str, Any]]:
    lag = np.arange(found.config.kernel_frames) - kernel_centre(found.config.kernel_frames, found.config.window)
    return [
        {
            "mode": mode,
            "alpha (1/frame)": found.kernel_alpha[mode],
            "beta (Hz)": found.kernel_beta[mode] * FRAME_RATE / (2 * np.pi),
            "lag (frames)": lag[k],
            "real": taps[k].real,
            "imaginary": taps[k].imag,
        }
        for mode, taps in enumerate(found.kernels())
        for k in range(len(lag))
    ]


def _response_rows(found: Inspection) -> list[dict[str, Any]]:
    hertz, gain = found.responses()
    return [
        {"frequency (Hz)": f, **{f"mode {mode}": value for mode, value in enumerate(column)}}
        for f, column in zip(hertz, gain.T, strict=True)
    ]


def _table(rows: Sequence[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()} for row in rows
    )
    return text.getvalue().encode()
