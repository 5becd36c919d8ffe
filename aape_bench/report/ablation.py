"""Pictures of an ablation: the differences that answer its questions, those on every task, and curves by variant.

In every curve a strong line is the mean over training seeds, thin lines are the seeds; a variant has the same colour in
all pictures.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aape_bench.ablation.answers import Answer, answer_all, figures
from aape_bench.ablation.statistics import SMALLEST_GAIN, STABILITY_PROTOCOL, Difference, Scores, with_stability
from aape_bench.report.figures import BLUE, COLOURS, FAINT, INK, RULE, pictures, styled
from aape_bench.report.stability import DASHES, MARKS, PANELS
from aape_bench.stability.perturbations import Perturbation
from aape_bench.storage import atomic_write, safe_name
from aape_bench.training import Curves

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from aape_bench.ablation.plan import Plan

# Inches.
ROW, HEAD, FOOT = 0.24, 0.5, 0.45
PANELS_ACROSS = 3
#: Highest over lowest of a logarithmic axis, at least.
LEAST_SPAN = 1.5

Look = Mapping[str, Any]


def plot(
    plan: Plan,
    scores: pd.DataFrame,
    stability: pd.DataFrame,
    rates: pd.DataFrame,
    curves: Sequence[Curves],
    folder: Path,
) -> list[Path]:
    """Draw `answers`, `forest`, `rates`, `stability` and each of `curves` as PNG and SVG into `folder`.

    scores: as for `ablation.statistics.Scores`. stability: columns variant, seed, task, kind, amount, unit, quantity,
    value. rates: as `ablation.rates.rates` gives them. Whatever is empty has no picture. Returns the paths written;
    equal tables give equal bytes. Raises StorageError.
    """
    names = [variant.name for variant in plan.variants]
    looks = {name: _look(number) for number, name in enumerate(names)}
    known = with_stability(scores, stability)
    answers = [one for one in answer_all(known, plan.questions, plan.endpoints, plan.protocol) if one.pairs]
    drawn: dict[str, bytes] = {}
    with styled():
        if answers:
            drawn |= pictures("answers", _answers(answers))
        if panels := _forest_panels(plan, known, [name for name in names if name != plan.reference]):
            drawn |= pictures("forest", _forest(panels, plan.reference))
        if len(rates):
            drawn |= pictures("rates", _lines(_rate_curves(rates), looks))
        if len(stability):
            drawn |= pictures("stability", _stability(stability, looks))
        for one in curves:
            if len(one.table):
                drawn |= pictures(safe_name(one.name), _lines(one, looks))
    for name, picture in drawn.items():
        with atomic_write(folder / name) as file:
            file.write(picture)
    return [folder / name for name in drawn]


def _look(number: int) -> Look:
    count = len(COLOURS)
    return {"color": COLOURS[number % count], "linestyle": DASHES[number // count % len(DASHES)]}


def _answers(answers: Sequence[Answer]) -> Figure:
    """One panel per question, its pairs as rows: positive differences speak for the claim."""
    from matplotlib.figure import Figure

    heights = [HEAD + FOOT + ROW * (len(answer.pairs) + 1) for answer in answers]
    figure = Figure(figsize=(7.6, sum(heights)), facecolor="white", layout="constrained")
    grid = figure.subplots(len(answers), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    for axes, answer in zip(grid, answers, strict=True):
        axes.axvspan(0, SMALLEST_GAIN, color=RULE, linewidth=0, zorder=0)
        _rows(axes, answer.pairs, [pair.name for pair in answer.pairs])
        for row, pair in enumerate(answer.pairs):
            beside = axes.get_yaxis_transform()
            axes.text(1.02, row, figures(pair), transform=beside, va="center", fontsize=8)
        title = textwrap.fill(answer.headline, 64)
        axes.set_title(title, fontsize=10, fontweight="bold", loc="left", parse_math=False)
        axes.set_xlabel(f"difference of the mean over {len(answer.tasks)} tasks ({answer.question.endpoint})")
    figure.supxlabel(
        f"dots: training seeds; bars: 95 % t intervals over seeds; grey: gains below {SMALLEST_GAIN:g}",
        fontsize=8, color=FAINT,
    )  # fmt: skip
    return figure


Panel = tuple[str, str, list[Difference]]  # title, small print, rows


def _forest_panels(plan: Plan, scores: Scores, variants: Sequence[str]) -> list[Panel]:
    """Endpoints, then every task, with the differences of all variants to the reference."""
    cells = [(f"mean: {name}", list(tasks), plan.protocol) for name, tasks in plan.endpoints.items() if tasks]
    usual = (plan.protocol, STABILITY_PROTOCOL)
    cells += [(task if protocol in usual else f"{task} ({protocol})", [task], protocol)
              for task, protocol in scores.cells()]  # fmt: skip
    panels = []
    for title, tasks, protocol in cells:
        rows = [scores.difference(name, plan.reference, tasks, protocol) for name in variants]
        partial = scores.marked("partial", tasks, protocol)
        remarks = ["partial data"] if partial else []
        remarks += dict.fromkeys(scores.marked("overlap", tasks, protocol).values())
        if any(row.seeds for row in rows):
            panels.append((title, ", ".join(remarks), rows))
    return panels


def _forest(panels: Sequence[Panel], reference: str) -> Figure:
    from matplotlib.figure import Figure

    across = min(PANELS_ACROSS, len(panels))
    down = math.ceil(len(panels) / across)
    tallest = max(len(rows) for _, _, rows in panels)
    size = (1.3 + 2.3 * across, 0.8 + down * (HEAD + FOOT + ROW * tallest))
    figure = Figure(figsize=size, facecolor="white", layout="constrained")
    grid = figure.subplots(down, across, squeeze=False, sharey=True)
    for number, axes in enumerate(grid.flat):
        if number >= len(panels):
            axes.set_axis_off()
            continue
        title, remark, rows = panels[number]
        _rows(axes, rows, [row.ahead for row in rows])
        axes.set_title(title + (f"\n{remark}" if remark else ""), fontsize=8.5, parse_math=False)
        axes.tick_params(labelleft=number % across == 0)
    figure.suptitle(f"Difference to {reference}, right is better", fontsize=10, fontweight="bold", parse_math=False)
    figure.supxlabel(
        "dots: training seeds; bars: 95 % t intervals over seeds, not adjusted for their number; scales differ",
        fontsize=8, color=FAINT,
    )  # fmt: skip
    return figure


def _rows(axes: Axes, pairs: Sequence[Difference], labels: Sequence[str]) -> None:
    """Differences from top to bottom; hollow where there is no interval."""
    from matplotlib.ticker import MaxNLocator

    axes.axvline(0, color=INK, linewidth=0.8)
    for row, pair in enumerate(pairs):
        axes.axhline(row, color=RULE, linewidth=0.6, zorder=0)
        # beside the bar, which would hide them
        axes.plot(pair.values, [row + 0.25] * len(pair.values), ".", color=FAINT, markersize=3.5)
        if pair.low is not None and pair.high is not None:
            axes.plot([pair.low, pair.high], [row, row], color=BLUE, linewidth=1.6)
        if pair.mean is not None:
            face = "white" if pair.low is None else BLUE
            axes.plot([pair.mean], [row], "o", markersize=5, markeredgecolor=BLUE, markerfacecolor=face, zorder=3)
    axes.set_ylim(len(pairs) - 0.4, -0.6)
    axes.set_yticks(range(len(pairs)), labels, parse_math=False)
    axes.xaxis.set_major_locator(MaxNLocator(4, min_n_ticks=3))
    axes.spines[["left", "right", "top"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _rate_curves(rates: pd.DataFrame) -> Curves:
    table = rates.rename(columns={"task": "panel", "rate": "x", "accuracy": "y"})
    return Curves("rates", "Accuracy against rate", "rate (Hz)", "accuracy", table, log_x=True)


def _lines(curves: Curves, looks: Mapping[str, Look]) -> Figure:
    """Facets side by side, in each a line per variant, or per whatever else the plugin draws."""
    from matplotlib.figure import Figure

    further = [name for name in dict.fromkeys(curves.table["variant"]) if name not in looks]
    looks = {**looks, **{name: _look(len(looks) + number) for number, name in enumerate(further)}}
    panels = list(dict.fromkeys(curves.table["panel"]))
    across = min(PANELS_ACROSS, len(panels))
    down = math.ceil(len(panels) / across)
    shown = [name for name in looks if (curves.table["variant"] == name).any()]
    size = (max(4.6, 0.6 + 2.9 * across), 0.9 + 2.2 * down + 0.2 * math.ceil(len(shown) / 4))
    figure = Figure(figsize=size, facecolor="white", layout="constrained")
    grid = figure.subplots(down, across, squeeze=False)
    for number, axes in enumerate(grid.flat):
        if number >= len(panels):
            axes.set_axis_off()
            continue
        rows = curves.table[curves.table["panel"] == panels[number]]
        for name in shown:
            _seeds(axes, rows[rows["variant"] == name], looks[name])
        if curves.log_x:
            _log_axis(axes.xaxis, rows["x"])
        if curves.log_y:
            _log_axis(axes.yaxis, rows["y"])
        _frame(axes)
        axes.set_title(panels[number], fontsize=9, parse_math=False)
        if number % across == 0:
            axes.set_ylabel(curves.y, parse_math=False)
        if number + across >= len(panels):
            axes.set_xlabel(curves.x, parse_math=False)
    figure.suptitle(curves.title, fontsize=10, fontweight="bold", parse_math=False)
    _legend(figure, shown, looks)
    return figure


def _log_axis(axis: Any, values: pd.Series[float]) -> None:
    """A logarithmic axis that names round numbers, and does not blow up what hardly changes."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    horizontal = axis.axis_name == "x"
    (axis.axes.set_xscale if horizontal else axis.axes.set_yscale)("log", nonpositive="mask")
    positive = values[values > 0]
    low, high = (positive.min(), positive.max()) if len(positive) else (1.0, 1.0)
    decades = LogLocator(subs=(1, 2, 5) if high / low < 100 else (1,))
    axis.set_major_locator(MaxNLocator(5) if high / low < 4 else decades)
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
    if high / low < LEAST_SPAN:
        middle, side = math.sqrt(high * low), math.sqrt(LEAST_SPAN)
        (axis.axes.set_xlim if horizontal else axis.axes.set_ylim)(middle / side, middle * side)


def _seeds(axes: Axes, rows: pd.DataFrame, look: Look) -> None:
    """A variant's line: thin for each seed where there are several, strong for their mean where all have a point."""
    by_seed = [own.sort_values("x") for _, own in rows.groupby("seed", sort=False, dropna=False)]
    if len(by_seed) > 1:
        for own in by_seed:
            axes.plot(own["x"], own["y"], linewidth=0.6, alpha=0.4, **look)
    at_all = rows.groupby("x")["y"].agg(["mean", "size"])
    mean = at_all[at_all["size"] == len(by_seed)]["mean"]
    marker = "o" if len(mean) <= 15 else ""
    axes.plot(mean.index, mean, linewidth=1.5, marker=marker, markersize=3, zorder=3, **look)


def _stability(stability: pd.DataFrame, looks: Mapping[str, Look]) -> Figure:
    """One row per quantity: over the shift on the left, the other perturbations on the right, one scale for both."""
    from matplotlib.figure import Figure

    quantities = [name for name in PANELS if (stability["quantity"] == name).any()]
    shown = [name for name in looks if (stability["variant"] == name).any()]
    version = [
        str(Perturbation(kind, amount)) for kind, amount in zip(stability["kind"], stability["amount"], strict=True)
    ]
    table = stability.assign(version=version)
    others = list(dict.fromkeys(table[table["kind"] != "shift"]["version"]))
    height = 1.75 * len(quantities) + 1.0 + 0.2 * math.ceil(len(shown) / 4)
    figure = Figure(figsize=(8.2 if others else 5.2, height), facecolor="white", layout="constrained")
    ratios = [5, 3] if others else [1]
    grid = figure.subplots(len(quantities), len(ratios), squeeze=False, sharex="col", sharey="row", width_ratios=ratios)
    for quantity, row in zip(quantities, grid, strict=True):
        for number, name in enumerate(shown):
            rows = table[(table["quantity"] == quantity) & (table["variant"] == name)]
            shifts = rows[rows["kind"] == "shift"].rename(columns={"amount": "x", "value": "y"})
            _seeds(row[0], shifts, looks[name])
            aside = (number + 0.5) / len(shown) - 0.5
            _others(row[-1], rows, others, looks[name], MARKS[number % len(MARKS)], aside)
        row[0].set_ylabel(PANELS[quantity])
        for axes in row:
            _frame(axes)
        if quantity != "accuracy":  # distances and shares begin at 0, so that small ones look small
            row[0].set_ylim(bottom=-0.03 * row[0].get_ylim()[1])
    grid[-1][0].set_xlabel("shift (ms)")
    if others:
        grid[-1][1].set_xticks(range(len(others)), others, rotation=40, ha="right", rotation_mode="anchor")
    tasks = ", ".join(dict.fromkeys(stability["task"]))
    figure.suptitle(f"Stability on {tasks}", fontsize=10, fontweight="bold", parse_math=False)
    _legend(figure, shown, looks)
    return figure


def _others(axes: Axes, rows: pd.DataFrame, names: Sequence[str], look: Look, marker: str, aside: float) -> None:
    for place, name in enumerate(names):
        values = rows[rows["version"] == name]["value"].dropna()
        if len(values):
            x = place + 0.6 * aside
            axes.plot([x, x], [values.min(), values.max()], color=look["color"], linewidth=1.2)
            axes.plot([x], [values.mean()], color=look["color"], marker=marker, markersize=4)


def _frame(axes: Axes) -> None:
    axes.spines[["right", "top"]].set_visible(False)
    axes.grid(axis="y", color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=FAINT, labelcolor=INK)


def _legend(figure: Figure, names: Sequence[str], looks: Mapping[str, Look]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], label=name.replace("$", r"\$"), linewidth=1.5, **looks[name]) for name in names]
    widest = 0.6 + 0.08 * max(map(len, names), default=0)  # inches of a line and a name
    across = max(1, min(4, int(figure.get_figwidth() / widest)))
    figure.legend(handles=handles, loc="outside lower left", frameon=False, ncols=across)
