"""Pictures of the leaderboard: every row a point with its interval, and nothing ranked that cannot be.

Leaderboard rows -> panels (plain values) -> figures, laid out in inches from measured text so that no label
meets another, whatever their number and length.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aape_bench.report.figures import BLUE, DOTS, FAINT, GREY, INK, RULE, VERMILLION, pictures, styled
from aape_bench.report.panels import Kind, Panel, Row, make_panels, without_published
from aape_bench.storage import atomic_write, safe_name

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Shape and filling say the same as the colour, for print in grey.
MARKS: dict[Kind, tuple[str, str, str, str]] = {  # marker, edge, face, legend
    "clean": ("o", BLUE, BLUE, "complete data"),
    "partial": ("o", VERMILLION, "white", "partial data"),
    "random": ("s", VERMILLION, "white", "random weights"),
    "overlap": ("^", VERMILLION, "white", "pre-training overlap"),
    "published": ("D", GREY, GREY, "published by others"),
}
# Inches.
LINE, ROW_GAP, GAP, TITLE_LINE, LEGEND_LINE = 0.165, 0.12, 0.12, 0.2, 0.24
PLOT, MARGIN, FOOT = 4.2, 0.25, 0.58
LABEL_CHARACTERS = 52


def plot_scores(board: pd.DataFrame, out: Path, published: pd.DataFrame | None = None) -> list[Path]:
    """Draw the leaderboard: one panel per (task, protocol, metric, data), one figure per task, one of all.

    board: the leaderboard, one row per (model label, task, protocol, data); a missing score or interval is
        said as "undefined". Rows with partial data, random weights or known overlap of pre-training and
        evaluation audio are hollow and stand apart from the ranked ones.
    out: folder for `scores-<task>.png` and `.svg` and, where there is more than one panel, `scores.png` and
        `.svg` (without published figures); made where it is missing.
    published: `aape_bench.published.published()`; the 10 best of a panel's task and metric are added in a
        block of their own. Fine-tuning is shown beside fine-tuning, frozen evaluation beside frozen.
    Returns the paths written, tasks in the board's order (none for an empty board); equal boards give equal
    bytes. Raises StorageError.
    """
    panels = list(make_panels(board, published))
    drawn: dict[str, bytes] = {}
    with styled():
        for task in dict.fromkeys(panel.task for panel in panels):
            figure = _figure([panel for panel in panels if panel.task == task], columns=1)
            drawn |= pictures(f"scores-{file_name(task)}", figure)
        if len(panels) > 1:
            ours = [without_published(panel) for panel in panels]
            drawn |= pictures("scores", _figure(ours, columns=2 if len(ours) <= 8 else 3))
    for name, picture in drawn.items():
        with atomic_write(out / name) as file:
            file.write(picture)
    return [out / name for name in drawn]


def _figure(panels: Sequence[Panel], columns: int) -> Figure:
    from matplotlib.figure import Figure

    columns = min(columns, len(panels))
    left = max(_width(line) for p in panels for line in _left_texts(p)) + GAP
    right = max(_width(row.figures) for p in panels for row in p.rows) + GAP
    panel_width = left + PLOT + right
    titles = [_fitted(panel.title, panel_width, 10, bold=True) for panel in panels]
    above = [TITLE_LINE * len(title) + GAP for title in titles]
    heights = [up + _body_height(panel) + FOOT for up, panel in zip(above, panels, strict=True)]
    tops = [max(heights[i : i + columns]) for i in range(0, len(panels), columns)]

    width = MARGIN + columns * (panel_width + MARGIN)
    handles = _legend_handles(panels)
    entry = max(_width(str(handle.get_label())) for handle in handles) + 0.55
    legend_columns = max(1, min(len(handles), int((width - 2 * MARGIN) / entry)))
    legend_height = LEGEND_LINE * math.ceil(len(handles) / legend_columns) + MARGIN
    height = MARGIN + sum(tops) + legend_height

    figure = Figure(figsize=(width, height), facecolor="white")
    for place, (panel, title) in enumerate(zip(panels, titles, strict=True)):
        x = MARGIN + place % columns * (panel_width + MARGIN)
        top = height - MARGIN - sum(tops[: place // columns])
        for number, line in enumerate(title):
            y = (top - TITLE_LINE * (number + 0.5)) / height
            figure.text(x / width, y, line, size=10, weight="bold", va="center", parse_math=False)
        bottom = top - above[place] - _body_height(panel)
        box = ((x + left) / width, bottom / height, PLOT / width, _body_height(panel) / height)
        _draw(figure.add_axes(box), panel)
    figure.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(MARGIN / width, 0.5 * MARGIN / height),
        ncols=legend_columns,
        frameon=False,
        borderaxespad=0,
        borderpad=0,
    )
    return figure


def _draw(axes: Axes, panel: Panel) -> None:
    """One panel; the y axis counts inches from the top."""
    _prepare(axes, panel)
    y = 0.0
    for block in panel.blocks:
        if block.heading:
            if y:
                axes.axhline(y, color=FAINT, linewidth=0.6)
            _write(axes, y + (LINE + ROW_GAP) / 2, block.heading, style="italic", color=FAINT)
            y += LINE + ROW_GAP
        for row in block.rows:
            _draw_row(axes, y, row)
            y += _row_height(row)


def _prepare(axes: Axes, panel: Panel) -> None:
    import numpy as np
    from matplotlib.ticker import MaxNLocator

    numbers = [n for row in panel.rows if row.score is not None for n in (row.score, row.low, row.high)]
    drawn = [number for number in (*numbers, *panel.chance) if number is not None] or [0.0, 1.0]
    pad = max(0.04 * (max(drawn) - min(drawn)), 0.02)
    limits = (min(drawn) - pad, max(drawn) + pad)
    ticks = np.asarray(MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(*limits))
    bounded = min(drawn) >= 0 and max(drawn) <= 1
    axes.set_xticks(ticks[(ticks > -1e-9) & (ticks < 1 + 1e-9)] if bounded else ticks)
    axes.set_xlim(*limits)
    axes.set_ylim(_body_height(panel), 0)
    axes.set_yticks([])
    axes.spines[["left", "right", "top"]].set_visible(False)
    axes.set_xlabel(panel.axis)
    for chance in panel.chance:
        axes.axvline(chance, color=INK, linestyle=":", linewidth=1.1, zorder=1)


def _draw_row(axes: Axes, y: float, row: Row) -> None:
    middle = y + _row_height(row) / 2
    axes.axhline(middle, color=RULE, linewidth=0.6, zorder=0)
    if row.score is not None:
        if row.low is not None and row.high is not None:
            edge = MARKS[row.kind][1]
            axes.plot([row.low, row.high], [middle] * 2, color=edge, linewidth=1.6, clip_on=False)
        axes.plot([row.score], [middle], clip_on=False, zorder=3, linestyle="none", **_marker(row.kind))
    line_y = y + (ROW_GAP + LINE) / 2
    for line in _label_lines(row.label):
        _write(axes, line_y, line)
        line_y += LINE
    if row.remark:
        _write(axes, line_y, row.remark, size=7.5, color=FAINT)
    _write(axes, middle, row.figures, x=1 + GAP / PLOT, ha="left")


def _write(axes: Axes, y: float, text: str, *, x: float = -GAP / PLOT, ha: str = "right", **style: Any) -> None:
    beside = axes.get_yaxis_transform()
    axes.text(x, y, text, transform=beside, ha=ha, va="center", parse_math=False, **style)


def _marker(kind: Kind) -> dict[str, Any]:
    marker, edge, face, _ = MARKS[kind]
    return {
        "marker": marker,
        "markersize": 6,
        "markeredgecolor": edge,
        "markerfacecolor": face,
        "markeredgewidth": 1.4,
    }


def _legend_handles(panels: Sequence[Panel]) -> list[Any]:
    from matplotlib.lines import Line2D

    shown = {row.kind for panel in panels for row in panel.rows}
    handles = [
        Line2D([], [], color=edge, label=label, **_marker(kind))
        for kind, (_, edge, _, label) in MARKS.items()
        if kind in shown
    ]
    if any(panel.chance for panel in panels):
        handles.append(Line2D([], [], color=INK, linestyle=":", label="chance"))
    return handles


def _body_height(panel: Panel) -> float:
    headings = sum(LINE + ROW_GAP for block in panel.blocks if block.heading)
    return headings + sum(map(_row_height, panel.rows))


def _row_height(row: Row) -> float:
    return LINE * (len(_label_lines(row.label)) + bool(row.remark)) + ROW_GAP


def _label_lines(label: str) -> list[str]:
    """The label broken after commas and before `@`, then anywhere, into lines that a column can hold."""
    lines = [""]
    for piece in re.split(r"(?<=[,;])|(?=@)", label):
        if lines[-1] and len(lines[-1]) + len(piece) > LABEL_CHARACTERS:
            lines.append("")
        lines[-1] += piece
        while len(lines[-1]) > LABEL_CHARACTERS:
            lines[-1:] = [lines[-1][:LABEL_CHARACTERS], lines[-1][LABEL_CHARACTERS:]]
    return [line.strip() for line in lines]


def _left_texts(panel: Panel) -> Iterator[str]:
    for block in panel.blocks:
        yield block.heading
        for row in block.rows:
            yield from _label_lines(row.label)
            yield row.remark


def _fitted(text: str, width: float, size: float, bold: bool = False) -> list[str]:
    lines: list[str] = []
    for word in text.split(" "):
        if lines and _width(f"{lines[-1]} {word}", size, bold) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _width(text: str, size: float = 9.0, bold: bool = False) -> float:
    """Inches that the text takes."""
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.font_manager import FontProperties

    font = FontProperties(size=size, weight="bold" if bold else "normal")
    renderer = RendererAgg(1, 1, DOTS)  # type: ignore[no-untyped-call]
    pixels, _, _ = renderer.get_text_width_height_descent(text, font, ismath=False)  # type: ignore[no-untyped-call]
    return float(pixels) / DOTS


def file_name(name: str) -> str:
    """Of a task or protocol: harmless as `safe_name`, and another for every one."""
    plain = safe_name(name)
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
