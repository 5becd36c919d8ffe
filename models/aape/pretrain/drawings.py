"""Pictures of a checkpoint: kernels, their gain over the modulation axis, alpha and beta per subband, its training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from aape_bench.models.aape.pretrain import diagnostics
from aape_bench.models.aape.sblu import kernel_centre
from aape_bench.report.figures import BLUE, COLOURS, FAINT, INK, VERMILLION

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from aape_bench.models.aape.pretrain.inspect import Inspection

_ACROSS = 4
_LOWEST_DB = -40.0
#: Labels of the axes over alpha and beta: factor to the unit of the axis, and its name.
_AXES = {"alpha": (1.0, "α (per frame)"), "beta": (100 / (2 * math.pi), "β (Hz)")}

#: Panels of a training's picture: heading, whether the axis is logarithmic, and the columns of log.csv in it.
_CURVES = (
    ("losses", False, {"masked": "masked tokens", "utterance": "utterance", "contrastive": "contrastive"}),
    (
        "variance of the targets",
        False,
        {
            "target_token_variance": "over tokens",
            "target_clip_variance": "over clips",
            "target_raw_share": "share that varies over tokens",
        },
    ),
    ("gradient norm", True, {"gradient_norm": "all", "lambda_gradient_norm": "head of α and β"}),
    ("saturated share of modes", False, {"alpha_saturation": "α", "beta_saturation": "β"}),
)


def kernels(found: Inspection) -> Figure:
    """h[k] of every mode, real and imaginary part."""
    figure, panels = _panels(len(found.kernel_alpha))
    config = found.config
    lag = np.arange(config.kernel_frames) - kernel_centre(config.kernel_frames, config.window)
    scale, _ = _AXES["beta"]
    for mode, (axes, taps) in enumerate(zip(panels, found.kernels(), strict=True)):
        axes.axhline(0, color=FAINT, linewidth=0.5)
        axes.plot(lag, taps.real, color=BLUE, linewidth=1.2, label="real")
        axes.plot(lag, taps.imag, color=VERMILLION, linewidth=1.2, linestyle="--", label="imaginary")
        title = f"β = {scale * found.kernel_beta[mode]:.1f} Hz, α = {found.kernel_alpha[mode]:.2f}"
        axes.set_title(title, fontsize=7.5, color=INK)
    for axes in panels[-_ACROSS:]:
        axes.set_xlabel("lag (frames)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    figure.suptitle("Kernels at the median α and β of each mode" + _on(found), fontsize=10)
    return figure


def responses(found: Inspection) -> Figure:
    """The gain of every kernel over the modulation frequency, with the band that folds at the patch rate."""
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.6), facecolor="white", layout="constrained")
    axes = figure.subplots()
    hertz, gain = found.responses()
    decibels = 20 * np.log10(np.maximum(gain, 1e-9))
    order = np.argsort(found.kernel_beta)
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(order)))
    for colour, mode in zip(colours, order, strict=True):
        axes.plot(hertz, decibels[mode], color=colour, linewidth=1.1)
    axes.axvspan(found.folds_above_hz, hertz[-1], color=VERMILLION, alpha=0.08, linewidth=0)
    axes.axvline(found.folds_above_hz, color=VERMILLION, linewidth=1)
    axes.text(
        *(found.folds_above_hz + 0.5, 0.03),
        f"folds at the patch rate: above {found.folds_above_hz:g} Hz",
        transform=axes.get_xaxis_transform(), color=VERMILLION, fontsize=8,
    )  # fmt: skip
    axes.set_xlim(0, hertz[-1])
    axes.set_ylim(max(_LOWEST_DB, decibels.min()), decibels.max() + 3)
    axes.set_xlabel("modulation frequency (Hz)")
    axes.set_ylabel("gain (dB)")
    _frame(axes)
    axes.set_title("Kernels' gain, coloured by β" + _on(found), fontsize=10, color=INK)
    return figure


def modes(found: Inspection) -> Figure:
    """alpha and beta per subband: where they lie in their ranges, and the share at either end."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    figure = Figure(figsize=(7.6, 5.6), facecolor="white", layout="constrained")
    grid = figure.subplots(2, 2, gridspec_kw={"width_ratios": [3, 1.3]})
    ranges = diagnostics.ranges(found.config)
    for (left, right), (name, share) in zip(grid, found.shares().items(), strict=True):
        scale, label = _AXES[name]
        lowest, highest = (scale * end for end in ranges[name])
        subbands = share.shape[1]
        edges = np.geomspace(lowest, highest, diagnostics.BINS + 1)
        rows = np.arange(subbands + 1) - 0.5
        counts = np.stack([np.histogram(share[:, row], diagnostics.BINS, (0, 1))[0] for row in range(subbands)])
        mesh = left.pcolormesh(edges, rows, counts / counts.sum(axis=1, keepdims=True), cmap="Blues", vmin=0)
        mesh.set_rasterized(True)
        left.set_xscale("log")
        left.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        left.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        left.xaxis.set_minor_locator(NullLocator())
        left.set_xlabel(label)
        left.set_ylabel("subband (low to high)")
        figure.colorbar(mesh, ax=left, label="share")
        low, high = (100 * (end.mean(axis=(0, 2))) for end in (share < diagnostics.EDGE, share > 1 - diagnostics.EDGE))
        places = np.arange(subbands)
        right.barh(places - 0.2, low, height=0.4, color=BLUE, label="low end")
        right.barh(places + 0.2, high, height=0.4, color=VERMILLION, label="high end")
        right.axvline(100 * diagnostics.MOST_SATURATED, color=FAINT, linewidth=0.8, linestyle=":")
        right.set_xlim(0, 100)
        right.set_xlabel("saturated (%)")
        right.set_ylim(*left.get_ylim())
        _frame(right)
    grid[0][1].legend(frameon=False, fontsize=7)
    figure.suptitle(f"α and β on {found.clips} crops", fontsize=10)
    return figure


def training(log: Mapping[str, npt.NDArray[np.float64]]) -> Figure:
    """Losses, variance of the targets, gradient norms and saturation over the steps.

    log: columns of log.csv, (rows,) each, NaN where a cell is empty.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, 4.8), facecolor="white", layout="constrained")
    for axes, (heading, logarithmic, columns) in zip(figure.subplots(2, 2).flat, _CURVES, strict=True):
        for colour, (column, label) in zip(COLOURS, columns.items(), strict=False):
            if np.isfinite(log[column]).any():
                dotted = ":" if column.startswith(("contrastive", "beta")) else "-"
                axes.plot(log["step"], log[column], color=colour, linewidth=1.3, linestyle=dotted, label=label)
        if logarithmic:
            axes.set_yscale("log")
        else:
            top = max(axes.get_ylim()[1], 0.05)
            axes.set_ylim(-0.02 * top, top)  # a line at 0 shall be seen
        if axes.lines:
            axes.legend(frameon=False, fontsize=7)
        axes.set_title(heading, fontsize=9, color=INK)
        axes.set_xlabel("step")
        _frame(axes)
    return figure


def _panels(count: int) -> tuple[Figure, list[Any]]:
    from matplotlib.figure import Figure

    down = math.ceil(count / _ACROSS)
    figure = Figure(figsize=(7.6, 1.3 * down + 0.8), facecolor="white", layout="constrained")
    panels = list(figure.subplots(down, _ACROSS, sharex=True, sharey=True, squeeze=False).flat)
    for axes in panels[count:]:
        axes.set_axis_off()
    for axes in panels:
        _frame(axes)
    return figure, panels[:count]


def _frame(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=2)


def _on(found: Inspection) -> str:
    return f", on {found.clips} crops" if found.clips else ", no audio heard"
