"""Charts of the site: inline SVG that takes its colours from the page, so that it follows dark, light and print.

Text of others (class names, labels) is escaped; numbers are formatted here. Every chart has a title for screen readers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup, escape

# Sizes in the chart's own units, which are about pixels on a desktop.
WIDTH, HEIGHT = 640, 320
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 10, 40
SERIES = 8  # colours that are told apart; style.css has them
CONFUSION_UP_TO = 60  # classes that a matrix shows legibly
CELL = 12
CD_SIDE = 170  # room for names beside the axis of ranks
SCALE = 1.2  # pixels per unit, where there is room


@dataclass(frozen=True)
class Line:
    """One series: points (x, y), perhaps with the ends (low, high) of each one's interval."""

    name: str
    points: Sequence[tuple[float, float]]
    ends: Sequence[tuple[float, float]] = ()


def lines(title: str, series: Sequence[Line], x_label: str, y_label: str, level: float | None = None) -> Markup:
    """Lines over a common axis, logarithmic where all x are above 0 and span a factor of 20. level: of chance."""
    xs = sorted({x for line in series for x, _ in line.points})
    ys = [y for line in series for _, y in line.points]
    ys += [y for line in series for ends in line.ends for y in ends] + ([level] if level is not None else [])
    if not xs:
        return Markup("")
    logarithmic = xs[0] > 0 and xs[-1] / xs[0] >= 20
    across = _scale(xs[0], xs[-1], LEFT, WIDTH - RIGHT, logarithmic)
    low, high = min(ys), max(ys)
    margin = 0.05 * (high - low) or 0.05 * max(1.0, abs(high))
    low, high = max(low - margin, 0.0) if low >= 0 else low - margin, high + margin
    up = _scale(low, high, HEIGHT - BOTTOM, TOP, logarithmic=False)
    parts = [_axes(across, up, _ticks_of(xs, logarithmic), _ticks(low, high), x_label, y_label)]
    if level is not None:
        parts.append(_tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=up(level), y2=up(level), class_="level"))
        parts.append(_text(WIDTH - RIGHT - 2, up(level) - 4, "chance", "end"))
    for number, line in enumerate(series):
        colour = f"s{number % SERIES}" + (" dashed" if number >= SERIES else "")
        for (x, _), (bottom, top) in zip(line.points, line.ends, strict=False):
            parts.append(_tag("line", x1=across(x), x2=across(x), y1=up(bottom), y2=up(top), class_=f"ends {colour}"))
        route = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in line.points)
        parts.append(_tag("polyline", points=route, class_=f"line {colour}"))
        for x, y in line.points:
            said = f"{line.name}: {y:.3f} at {_number(x)}"
            parts.append(_tag("circle", cx=across(x), cy=up(y), r=3, class_=f"dot {colour}", said=said))
    return _svg(title, WIDTH, HEIGHT, parts, "chart") + _legend([line.name for line in series])


def confusion(title: str, classes: Sequence[str], counts: npt.NDArray[np.int64]) -> Markup:
    """Rows are true classes, columns predicted ones; the shade is the share of the true class's clips."""
    count = len(classes)
    margin = min(160, 7 + 6 * max(len(name) for name in classes))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    parts = []
    for at, name in enumerate(classes):
        middle = margin + (at + 0.5) * CELL
        parts.append(_text(margin - 4, middle + 3, _shortened(name), "end", "name"))
        parts.append(_text(0, 0, _shortened(name), "start", "name", turn=(middle + 3, margin - 4)))
    for row, column in zip(*np.nonzero(counts), strict=True):
        said = f"{classes[row]} taken for {classes[column]}: {counts[row, column]} of {counts[row].sum()}"
        kind = "cell right" if row == column else "cell"
        place: dict[str, Any] = {"x": margin + column * CELL, "y": margin + row * CELL, "width": CELL, "height": CELL}
        parts.append(
            _tag("rect", **place, fill_opacity=round(0.1 + 0.9 * shares[row, column], 2), class_=kind, said=said)
        )
    side = count * CELL
    parts.append(_tag("rect", x=margin, y=margin, width=side, height=side, class_="frame"))
    return _svg(title, margin + side + 1, margin + side + 1, parts, "matrix")


def confused(classes: Sequence[str], counts: npt.NDArray[np.int64], most: int = 20) -> list[tuple[str, str, int, int]]:
    """The most frequent mistakes: (true class, predicted class, clips, clips of the true class)."""
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    places = [divmod(int(at), len(classes)) for at in order]
    return [(classes[r], classes[c], int(wrong[r, c]), int(counts[r].sum())) for r, c in places if wrong[r, c]]


def critical_difference(
    title: str, ranks: Sequence[tuple[str, float]], cliques: Sequence[Sequence[str]], critical: float
) -> Markup:
    """Mean ranks on one axis, a bar over models that the test does not tell apart (Demšar, JMLR 7, 2006, figure 1).

    ranks: (model, mean rank), the best first.
    """
    count, line = len(ranks), 18
    across = _scale(1, count, CD_SIDE, WIDTH - CD_SIDE, logarithmic=False)
    rank_of = dict(ranks)
    axis = 44
    bars = axis + 10 + 7 * len(cliques)
    half = math.ceil(count / 2)
    parts = [_tag("line", x1=across(1), x2=across(count), y1=axis, y2=axis, class_="axis")]
    for rank in range(1, count + 1):
        parts.append(_tag("line", x1=across(rank), x2=across(rank), y1=axis - 5, y2=axis, class_="axis"))
        if count <= 25 or rank % 5 == 0 or rank == 1:
            parts.append(_text(across(rank), axis - 9, str(rank), "middle"))
    if critical < count - 1:
        parts.append(_tag("line", x1=across(1), x2=across(1 + critical), y1=14, y2=14, class_="clique"))
        parts.append(_text(across(1 + critical) + 6, 18, f"critical difference {critical:.2f}", "start"))
    for number, names in enumerate(cliques):
        places = [rank_of[name] for name in names]
        height = axis + 9 + 7 * number
        ends: dict[str, Any] = {"x1": across(min(places)) - 4, "x2": across(max(places)) + 4}
        parts.append(_tag("line", **ends, y1=height, y2=height, class_="clique"))
    for at, (name, mean) in enumerate(ranks):
        left = at < half
        y = bars + line * (at + 1 if left else count - at)
        side = CD_SIDE - 8 if left else WIDTH - CD_SIDE + 8
        route = f"{across(mean):.1f},{axis} {across(mean):.1f},{y} {side},{y}"
        parts.append(_tag("polyline", points=route, class_="lead", said=f"{name}: mean rank {mean:.2f}"))
        parts.append(_text(side + (-4 if left else 4), y + 4, _shortened(name), "end" if left else "start"))
    return _svg(title, WIDTH, bars + line * (half + 1), parts, "chart")


class _scale:
    """Value -> place."""

    def __init__(self, low: float, high: float, start: float, end: float, logarithmic: bool) -> None:
        self.logarithmic = logarithmic
        self.low, self.high = (math.log(low), math.log(high)) if logarithmic else (low, high)
        self.start, self.end = start, end

    def __call__(self, value: float) -> float:
        at = math.log(value) if self.logarithmic else value
        share = (at - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return self.start + share * (self.end - self.start)


def _ticks(low: float, high: float) -> list[float]:
    step = 10 ** math.floor(math.log10(high - low))
    step = next(step * part for part in (0.2, 0.5, 1.0, 2.0) if (high - low) / (step * part) <= 6)
    return [round(at * step, 10) for at in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _ticks_of(xs: Sequence[float], logarithmic: bool) -> list[float]:
    if len(xs) <= 8:
        return list(xs)
    if not logarithmic:
        return _ticks(xs[0], xs[-1])
    return list(xs[:: math.ceil(len(xs) / 8)])


def _axes(across: _scale, up: _scale, xs: list[float], ys: list[float], x_label: str, y_label: str) -> Markup:
    parts = []
    for y in ys:
        parts.append(_tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=up(y), y2=up(y), class_="rule"))
        parts.append(_text(LEFT - 6, up(y) + 4, _number(y), "end"))
    for x in xs:
        parts.append(_text(across(x), HEIGHT - BOTTOM + 16, _number(x), "middle"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, x_label, "middle"))
    parts.append(_text(0, 0, y_label, "middle", turn=(12, (TOP + HEIGHT - BOTTOM) / 2)))
    return Markup("").join(parts)


def _legend(names: Sequence[str]) -> Markup:
    if len(names) < 2:
        return Markup("")
    items = [
        Markup('<li><span class="key s{}{}"></span>{}</li>').format(
            at % SERIES, " dashed" if at >= SERIES else "", name
        )
        for at, name in enumerate(names)
    ]
    return Markup('<ul class="legend">') + Markup("").join(items) + Markup("</ul>")


def _svg(title: str, width: float, height: float, parts: Sequence[Markup], kind: str) -> Markup:
    head = Markup('<svg class="{}" viewBox="0 0 {:.0f} {:.0f}" style="width:{:.0f}px" role="img" aria-label="{}">')
    return head.format(kind, width, height, SCALE * width, title) + Markup("").join(parts) + Markup("</svg>")


def _tag(name: str, said: str = "", **attributes: object) -> Markup:
    """class_ -> class, fill_opacity -> fill-opacity; said: shown under the pointer."""
    text = Markup("")
    for key, value in attributes.items():
        shown = f"{value:.1f}".rstrip("0").rstrip(".") if isinstance(value, float) and key != "fill_opacity" else value
        text += Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), shown)
    inside = Markup("<title>{}</title>").format(said) if said else Markup("")
    return Markup("<{}{}>{}</{}>").format(Markup(name), text, inside, Markup(name))


def _text(
    x: float, y: float, words: str, anchor: str, kind: str = "", turn: tuple[float, float] | None = None
) -> Markup:
    """turn: at this place, upwards."""
    place = f"translate({turn[0]:.1f} {turn[1]:.1f}) rotate(-90)" if turn else f"translate({x:.1f} {y:.1f})"
    head = Markup('<text transform="{}" text-anchor="{}" class="{}">').format(place, anchor, kind)
    return head + escape(words) + Markup("</text>")


def _number(value: float) -> str:
    return f"{value:.3g}" if 1e-3 <= abs(value) < 1e5 or value == 0 else f"{value:.0e}"


def _shortened(name: str) -> str:
    return name if len(name) <= 24 else name[:23] + "…"
