"""What a report draws of AaPE's trainings: losses, alpha and beta over the steps, and the windows' gradients.

Tables only, as of `aape_bench.training.Curves`. (Imports torch.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from aape_bench.errors import DataError
from aape_bench.models.aape.config import AapeConfig, Window
from aape_bench.models.aape.lambda_encoder import initial_modes
from aape_bench.models.aape.pretrain import diagnostics
from aape_bench.models.aape.pretrain.log import LOG
from aape_bench.models.aape.sblu import kernel_centre, kernels
from aape_bench.training import Curves, Run

Numbers = npt.NDArray[np.float64]
Quantity = Literal["alpha", "beta"]

_LOSSES = {"masked": "masked-token loss", "utterance": "utterance loss", "contrastive": "contrastive loss"}
_QUANTILES = {"10th percentile": 0.1, "median": 0.5, "90th percentile": 0.9}
_HERTZ = 100 / (2 * math.pi)  # of a radian per frame

#: A kernel so long that next to nothing of a window is cut off.
LONG_KERNEL = 129
#: Of the window argument: the signal's modulation, and the kernel's decay per frame.
SIGNAL_HZ, ALPHA = 10.0, 0.2
_BETAS = 200
#: Smaller gradients are as good as none, and soon rounding.
_LEAST_GRADIENT = 1e-8


def of(runs: Sequence[Run], configs: Sequence[AapeConfig]) -> list[Curves]:
    """All that there is to draw of finished trainings; configs: of each run's encoder, resolved."""
    in_use = sorted({config.kernel_frames for config in configs if config.stem in ("sblu", "static")})
    curves = [losses(runs), drift(runs, configs, "alpha"), drift(runs, configs, "beta")]
    if in_use:
        curves.append(beta_gradients(in_use))
    return [curve for curve in curves if len(curve.table)]


def losses(runs: Sequence[Run]) -> Curves:
    """The three losses of each training over its steps; one that a variant leaves out has no line."""
    lines = []
    for run in runs:
        log = read_log(run.out)
        for column, panel in _LOSSES.items():
            if log[column].any():
                lines.append(_line(run, panel, log["step"], log[column]))
    return Curves("training", "Losses in training", "step", "loss", _joined(lines), log_y=True)


def drift(runs: Sequence[Run], configs: Sequence[AapeConfig], quantity: Quantity) -> Curves:
    """Quantiles of alpha (per frame) or beta (Hz) over all subbands and modes, from before the first step on.

    configs: of each run's encoder. A training whose stem has no such quantity has no line.
    """
    unit, label = (1.0, "α (per frame)") if quantity == "alpha" else (_HERTZ, "β (Hz)")
    lines = []
    for run, config in zip(runs, configs, strict=True):
        table = _read(run.out / "modes.csv", run.out)
        table = table[table["quantity"] == quantity].drop(columns=["quantity", "subband"])
        if table.empty:
            continue
        counts = table.groupby("step").sum()
        steps = [0, *counts.index]
        every = [_initial_counts(config, quantity), *counts.to_numpy(np.float64)]
        lowest, highest = diagnostics.ranges(config)[quantity]
        for panel, share in _QUANTILES.items():
            places = np.array([_quantile(row, share) for row in every])
            lines.append(_line(run, panel, steps, unit * lowest * (highest / lowest) ** places))
    title = f"{label[0]} in training, over all subbands and modes"
    return Curves(f"{quantity}_drift", title, "step", label, _joined(lines), log_y=True)


def beta_gradients(in_use: Sequence[int]) -> Curves:
    """How strongly each window's response depends on beta, over the band that folds.

    in_use: kernel lengths K that were trained; `LONG_KERNEL` stands beside them.
    """
    beta = np.linspace(AapeConfig.beta_min, AapeConfig.beta_max, _BETAS)
    lines = []
    for frames in dict.fromkeys([*in_use, LONG_KERNEL]):
        panel = f"K = {frames}, in use" if frames in in_use else f"K = {frames}, next to nothing cut off"
        for window in get_args(Window):
            gradient = beta_gradient(window, frames, beta)
            line = pd.DataFrame({"panel": panel, "variant": window, "seed": None, "x": _HERTZ * beta, "y": gradient})
            lines.append(line[line["y"] >= _LEAST_GRADIENT])
    return Curves(
        "beta_gradient",
        f"Gradient to β where the modulation is at {SIGNAL_HZ:g} Hz (α = {ALPHA:g}, kernels of unit norm)",
        *("β (Hz)", f"|∂|y| / ∂β|, from {_LEAST_GRADIENT:g} on"),
        _joined(lines),
        log_y=True,
    )


def beta_gradient(window: Window, kernel_frames: int, beta: Numbers) -> Numbers:
    """|d|y| / d beta| in float64 at every beta (rad/frame), for kernels of unit norm as the SBLU has them.

    y is the response at the kernel's centre to exp(j omega (k - c)), omega that of `SIGNAL_HZ`, at a decay of `ALPHA`.
    """
    points = torch.tensor(beta, dtype=torch.float64, requires_grad=True)
    real, imaginary = kernels(torch.full_like(points, ALPHA), points, kernel_frames, window).unbind(-2)
    lag = torch.arange(kernel_frames, dtype=torch.float64) - kernel_centre(kernel_frames, window)
    angle = SIGNAL_HZ / _HERTZ * lag
    cos, sin = angle.cos(), angle.sin()
    magnitude = torch.hypot(real @ cos + imaginary @ sin, imaginary @ cos - real @ sin)
    (gradient,) = torch.autograd.grad(magnitude.sum(), points)
    return np.asarray(gradient.abs().numpy(), np.float64)


def read_log(out: Path) -> pd.DataFrame:
    """The log of a training. Raises DataError where it cannot be read."""
    return _read(out / LOG, out)


def _read(path: Path, out: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read ({str(error).splitlines()[0]}). Delete the folder {out}; the same command then "
            "trains this variant again."
        ) from None


def _initial_counts(config: AapeConfig, quantity: Quantity) -> Numbers:
    """How often the modes lie in each part of their range before the first step."""
    alpha, beta = initial_modes(config)
    share = diagnostics.range_share(alpha if quantity == "alpha" else beta, *diagnostics.ranges(config)[quantity])
    counts, _ = np.histogram(share.numpy(), diagnostics.BINS, (0.0, 1.0))
    return counts.astype(np.float64)


def _quantile(counts: Numbers, share: float) -> float:
    """Where in their range, 0 to 1, so many of the modes lie below.

    Within a part they count as evenly spread; between two parts with none between it is the middle.
    """
    below = np.concatenate([[0.0], np.cumsum(counts) / counts.sum()])
    either_side = np.interp([share - 1e-9, share + 1e-9], below, np.linspace(0.0, 1.0, len(below)))
    return float(either_side.mean())


def _line(run: Run, panel: str, x: Any, y: Any) -> pd.DataFrame:
    return pd.DataFrame({"panel": panel, "variant": run.variant.name, "seed": run.seed, "x": x, "y": y})


def _joined(lines: Sequence[pd.DataFrame]) -> pd.DataFrame:
    if not lines:
        return pd.DataFrame(columns=["panel", "variant", "seed", "x", "y"])
    return pd.concat(lines, ignore_index=True)
