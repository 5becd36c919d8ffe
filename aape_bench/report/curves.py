"""Pictures of what happened on the way to a score: learning curves of fine-tuning, and how far probabilities hold."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from aape_bench.report.figures import COLOURS, FAINT, RULE, pictures, styled
from aape_bench.storage import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from aape_bench.predictions import Predictions
    from aape_bench.records import Record

#: Of the reliability diagram: bins at most, and clips of each at least.
BINS, LEAST_CLIPS = 10, 10
ACROSS = 3
#: Lines of one panel: of more the first, as the leaderboard has them.
MOST = 8


def plot_learning(records: Sequence[Record], out: Path) -> list[Path]:
    """Draw `learning`: validation scores by update, a panel per task, data and protocol, thin lines the folds.

    Returns no paths where nothing was fine-tuned. Raises StorageError.
    """
    panels: dict[_Panel, list[Record]] = defaultdict(list)
    for record in records:
        if any(isinstance(choice.get("curve"), list) for choice in record.protocol["choices"]):
            panels[_panel_of(record)].append(record)
    return _write(out, "learning", lambda: _learning(panels)) if panels else []


def plot_reliability(found: Sequence[tuple[Record, Predictions]], out: Path) -> list[Path]:
    """Draw `reliability`: how often what was said with such a probability is right, a panel per task, data and
    protocol.

    Of results with exclusive classes whose scores are log-probabilities; the others are left out. Raises StorageError.
    """
    panels: dict[_Panel, list[tuple[Record, Reliability]]] = defaultdict(list)
    for record, predictions in found:
        if (measured := reliability(predictions)) is not None:
            panels[_panel_of(record)].append((record, measured))
    return _write(out, "reliability", lambda: _reliability(panels)) if panels else []


class Reliability:
    """confidence, right: (bins,) means of bins with about equally many clips, by rising confidence.

    error: expected calibration error over these bins (Guo et al. 2017, whose bins are equally wide).
    """

    def __init__(self, confidence: npt.NDArray[np.float64], right: npt.NDArray[np.bool_]) -> None:
        order = np.argsort(confidence, kind="stable")
        parts = np.array_split(order, max(1, min(BINS, len(order) // LEAST_CLIPS)))
        self.confidence = np.array([confidence[part].mean() for part in parts])
        self.right = np.array([right[part].mean() for part in parts])
        counts = np.array([len(part) for part in parts])
        self.error = float((counts * np.abs(self.confidence - self.right)).sum() / counts.sum())


def reliability(predictions: Predictions) -> Reliability | None:
    """None where scores are no log-probabilities of exclusive classes."""
    if predictions.kind != "multiclass" or predictions.scores is None or not len(predictions.ids):
        return None
    scores = predictions.scores.astype(np.float64)
    with np.errstate(over="ignore"):
        chances = np.exp(scores)
    if scores.max() > 1e-4 or not np.allclose(chances.sum(axis=2), 1, atol=1e-3):
        return None
    decided = np.array([list(repeat) for repeat in predictions.decided], dtype=object)
    right = decided == np.array(predictions.truth, dtype=object)
    return Reliability(chances.max(axis=2).ravel(), right.astype(bool).ravel())


class _Panel(NamedTuple):
    """What lines of one panel have in common. data: fingerprint."""

    task: str
    protocol: str
    metric: str
    data: str

    def title(self, records: int) -> str:
        return f"{self.task}\n{_short(self.protocol)}" + (f": the first {MOST}" if records > MOST else "")


def _panel_of(record: Record) -> _Panel:
    task = record.task
    name = f"{task['name']} ({task['partial']})" if task["partial"] else task["name"]
    return _Panel(name, record.protocol["label"], task["metric"], task["fingerprint"])


def _learning(panels: Mapping[_Panel, Sequence[Record]]) -> Figure:
    figure, every = _panels(len(panels))
    for axes, (panel, records) in zip(every, panels.items(), strict=True):
        for at, (name, record) in enumerate(zip(_names(records), records[:MOST], strict=True)):
            colour = COLOURS[at % len(COLOURS)]
            folds = []
            for choice in record.protocol["choices"]:
                curve = [(one["update"], one["validation"]) for one in choice.get("curve", [])]
                known = [(x, math.nan if y is None else y) for x, y in curve]
                axes.plot(*np.array(known, float).reshape(-1, 2).T, color=colour, linewidth=0.6, alpha=0.4)
                folds.append(dict(known))
            common = sorted(set(folds[0]).intersection(*folds[1:])) if folds else []
            mean = [float(np.mean([fold[update] for fold in folds])) for update in common]
            axes.plot(common, mean, color=colour, linewidth=1.8, label=name)
        axes.set_title(panel.title(len(records)), size=9, parse_math=False)
        axes.set_xlabel("update")
        axes.set_ylabel(f"{panel.metric} on validation", parse_math=False)
        axes.legend(frameon=False, fontsize=7)
    return figure


def _reliability(panels: Mapping[_Panel, Sequence[tuple[Record, Reliability]]]) -> Figure:
    figure, every = _panels(len(panels))
    for axes, (panel, found) in zip(every, panels.items(), strict=True):
        axes.plot([0, 1], [0, 1], color=FAINT, linewidth=0.8, linestyle="--")
        names = _names([record for record, _ in found])
        for at, (name, (_, measured)) in enumerate(zip(names, found[:MOST], strict=True)):
            style = {"color": COLOURS[at % len(COLOURS)], "marker": "osD^vP*X"[at % 8], "markersize": 3.5}
            label = f"{name}  {measured.error:.3f}"
            axes.plot(measured.confidence, measured.right, linewidth=1.2, label=label, **style)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_title(panel.title(len(found)), size=9, parse_math=False)
        axes.set_xlabel("probability of the class that was said")
        axes.set_ylabel("share that was right")
        legend = axes.legend(frameon=False, fontsize=7, title="expected calibration error", title_fontsize=7)
        legend.set_alignment("left")
    return figure


def _names(records: Sequence[Record]) -> list[str]:
    """Of the lines that are drawn; with the seed where one model has several."""
    labels = [record.model["label"] for record in records]
    return [
        f"{_short(label)}, seed {record.seed}" if labels.count(label) > 1 else _short(label)
        for label, record in zip(labels[:MOST], records[:MOST], strict=True)
    ]


def _panels(count: int) -> tuple[Figure, list[Any]]:
    from matplotlib.figure import Figure

    columns = min(ACROSS, count)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(4.2 * columns, 3.4 * rows), facecolor="white", layout="constrained")
    every = [figure.add_subplot(rows, columns, at + 1) for at in range(count)]
    for axes in every:
        axes.grid(color=RULE)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, every


def _write(out: Path, name: str, draw: Callable[[], Figure]) -> list[Path]:
    with styled():
        drawn = pictures(name, draw())
    for file, picture in drawn.items():
        with atomic_write(out / file) as handle:
            handle.write(picture)
    return [out / file for file in drawn]


def _short(label: str) -> str:
    return label if len(label) <= 36 else f"{label[:24]}…{label[-11:]}"
