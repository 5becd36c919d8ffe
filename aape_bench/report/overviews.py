"""Pictures over many tasks at once: heat map, radar by domain, cost against score, published figures beside ours.

Rows of different classes (complete data, partial data, random weights, overlap) keep their marks and are never averaged
with each other. A score counts from chance (0) to perfect (1) where tasks are put together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from aape_bench.report.figures import COLOURS, FAINT, GREY, INK, RULE, pictures, styled
from aape_bench.report.panels import Kind, kind_of
from aape_bench.report.plots import MARKS, file_name
from aape_bench.standings.overall import bounded
from aape_bench.storage import atomic_write

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

#: Models of one radar or cost plot: those with the best means; more could not be told apart.
MOST = 8
#: Characters of a label; longer ones lose their middle.
LABEL = 34
SIGNS: Mapping[Kind, str] = {"clean": "", "partial": "*", "random": "r", "overlap": "o", "published": "†"}


@dataclass(frozen=True)
class Mean:
    """A model under one protocol. value: its mean normalised score over `tasks`. seconds: of embedding and fitting."""

    model: str
    kind: Kind
    value: float
    tasks: int
    parameters: float | None
    seconds: float | None


def plot_overviews(
    board: pd.DataFrame, domains: Mapping[str, str], out: Path, published: pd.DataFrame | None = None
) -> list[Path]:
    """Draw `heatmap-<protocol>`, `radar-<protocol>`, `cost-<protocol>` and `published`, as PNG and SVG.

    board: the leaderboard. domains: of its tasks. published: `aape_bench.published.published()`. A picture that would
    show a single task or model is left out. Returns the paths; equal boards give equal bytes. Raises StorageError.
    """
    drawn: dict[str, bytes] = {}
    known = board[board["score"].notna()].copy()
    known["kind"] = [kind_of(row) for row in known.to_dict("records")]
    known["normalised"] = [normalised(row) for row in known.to_dict("records")]
    with styled():
        for protocol, same in known.groupby("protocol", sort=False):
            name = file_name(str(protocol))
            rows = same.assign(column=_columns(same))
            if rows["task"].nunique() > 1 and rows["model"].nunique() > 1:
                drawn |= pictures(f"heatmap-{name}", _heat_map(str(protocol), rows))
                if (figure := _radar(str(protocol), rows, domains)) is not None:
                    drawn |= pictures(f"radar-{name}", figure)
            if (figure := _cost(str(protocol), rows)) is not None:
                drawn |= pictures(f"cost-{name}", figure)
        if published is not None and (figure := _against_published(known, published)) is not None:
            drawn |= pictures("published", figure)
    for file, picture in drawn.items():
        with atomic_write(out / file) as handle:
            handle.write(picture)
    return [out / file for file in drawn]


def normalised(row: Mapping[Any, Any]) -> float:
    """(score - chance) / (1 - chance): 0 at chance, 1 at a perfect score; NaN where the metric has no such end."""
    score, chance = float(row["score"]), row["chance"]
    if not bounded(str(row["metric"])):
        return math.nan
    floor = float(chance) if isinstance(chance, int | float) and math.isfinite(chance) else 0.0
    return (score - floor) / (1 - floor) if floor < 1 else math.nan


def _heat_map(protocol: str, rows: pd.DataFrame) -> Figure:
    from matplotlib.figure import Figure

    models = _by_mean(rows)
    tasks = list(dict.fromkeys(rows["column"]))
    cells = {(row["model"], row["column"]): row for row in rows.to_dict("records")}
    shades = np.full((len(models), len(tasks)), np.nan)
    for (model, task), row in cells.items():
        shades[models.index(model), tasks.index(task)] = row["normalised"]
    names = [_short(model) for model in models]
    width = 2.0 + 0.085 * max(map(len, names)) + 0.78 * max(len(tasks), 3)
    figure = Figure(figsize=(width, 1.6 + 0.29 * max(len(models), 3)), facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(np.clip(shades, 0, 1), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (model, task), row in cells.items():
        y, x = models.index(model), tasks.index(task)
        dark = np.isfinite(shades[y, x]) and shades[y, x] > 0.6
        text = f"{row['score']:.3f}{SIGNS[row['kind']]}"
        axes.text(x, y, text, ha="center", va="center", size=8, color="white" if dark else INK, parse_math=False)
    axes.set_xticks(range(len(tasks)), tasks, rotation=30, ha="left", parse_math=False)
    axes.set_yticks(range(len(models)), names, parse_math=False)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, label="from chance to perfect", shrink=0.8)
    figure.suptitle(f"Scores by {_short(protocol, 44)}", size=10, parse_math=False, x=0.01, ha="left")
    _legend_of_signs(figure, rows)
    return figure


def _radar(protocol: str, rows: pd.DataFrame, domains: Mapping[str, str]) -> Figure | None:
    """One polygon per model over the tasks that all its class's models have; None of fewer than three domains.

    Where these are too few, over those of the models with most tasks: the others have no polygon.
    """
    from matplotlib.figure import Figure

    of = {column: domains.get(task, "other") for column, task in zip(rows["column"], rows["task"], strict=True)}
    panels = []
    for kind, same in rows.groupby("kind", sort=False):
        table = _shared(same).T.groupby(of).mean().T
        if len(table.columns) < 3:
            having = same.groupby("model")["column"].transform("nunique")
            table = _shared(same[having == having.max()]).T.groupby(of).mean().T
        if len(table.columns) >= 3 and len(table) >= 1:
            order = table.mean(axis=1).sort_values(ascending=False, kind="stable").index[:MOST]
            panels.append((str(kind), table.loc[order]))
    if not panels:
        return None
    figure = Figure(figsize=(5.6 * len(panels), 5.2), facecolor="white", layout="constrained")
    for number, (kind, table) in enumerate(panels):
        axes: Any = figure.add_subplot(1, len(panels), number + 1, projection="polar")
        angles = np.linspace(0, 2 * np.pi, len(table.columns), endpoint=False)
        for at, (model, values) in enumerate(table.iterrows()):
            closed = np.append(values.to_numpy(), values.iloc[0])
            style = {"color": COLOURS[at % len(COLOURS)], "marker": "osD^vP*X"[at % 8], "markersize": 4}
            axes.plot(np.append(angles, angles[0]), closed, linewidth=1.4, label=_short(str(model)), **style)
        axes.set_xticks(angles, list(table.columns))
        axes.set_ylim(min(0.0, float(np.nanmin(table.to_numpy()))), 1)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["chance", "", "0.5", "", "1"], size=7.5)
        axes.grid(color=RULE)
        axes.spines["polar"].set_color(RULE)
        said = MARKS[kind][3]  # type: ignore[index]
        axes.set_title(f"{_short(protocol, 40)}, mean by domain ({said})", size=10, parse_math=False, pad=14)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=2, frameon=False, fontsize=8)
    return figure


def _cost(protocol: str, rows: pd.DataFrame) -> Figure | None:
    """Normalised mean against parameters and seconds, over the tasks that all these models have.

    Of one class, that with the most models: means over other tasks or other parts of them share no axis.
    """
    from matplotlib.figure import Figure

    classes = [_means(cast(Kind, kind), same) for kind, same in rows.groupby("kind", sort=False)]
    means = max(classes, key=len)
    if len(means) < 2 or means[0].tasks < 2:
        return None
    figure = Figure(figsize=(9.2, 3.9), facecolor="white", layout="constrained")
    for number, (what, label) in enumerate((("parameters", "parameters"), ("seconds", "seconds over these tasks"))):
        axes = figure.add_subplot(1, 2, number + 1)
        points = [(getattr(mean, what), mean) for mean in means if getattr(mean, what)]
        for value, mean in points:
            marker, edge, face, _ = MARKS[mean.kind]
            axes.plot([value], [mean.value], marker, markeredgecolor=edge, markerfacecolor=face, markersize=6)
            axes.annotate(_short(mean.model, 24), (value, mean.value), xytext=(5, 4), textcoords="offset points",
                          size=7.5, parse_math=False)  # fmt: skip
        axes.set_xscale("log")
        axes.margins(x=0.25, y=0.15)
        axes.set_xlabel(label)
        axes.set_ylabel("mean, from chance to perfect" if number == 0 else "")
        axes.grid(color=RULE)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    about = f"{means[0].tasks} tasks, {MARKS[means[0].kind][3]}"
    figure.suptitle(f"Cost against score by {_short(protocol, 40)}: {about}", size=10, parse_math=False)
    return figure


def _against_published(board: pd.DataFrame, published: pd.DataFrame) -> Figure | None:
    """Per task the published figures of frozen encoders as diamonds, ours above them."""
    from matplotlib.figure import Figure

    frozen = board[~board["protocol"].str.startswith("finetune")]
    theirs = published[published["protocol"] != "finetune"]
    pairs = [
        (task, metric) for task, metric in dict.fromkeys(zip(frozen["task"], frozen["metric"], strict=True))
        if ((theirs["task"] == task) & (theirs["metric"] == metric)).any()
    ]  # fmt: skip
    if not pairs:
        return None
    figure = Figure(figsize=(8.2, 1.3 + 0.55 * len(pairs)), facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    shown: dict[str, Any] = {}
    for y, (task, metric) in enumerate(pairs):
        there = theirs[(theirs["task"] == task) & (theirs["metric"] == metric)]["value"].to_numpy()
        axes.axhline(y, color=RULE, linewidth=0.6, zorder=0)
        (shown["published by others (other code and splits)"],) = axes.plot(
            there, np.full(len(there), y + 0.14), "D", color=GREY, markersize=4, alpha=0.6
        )
        for row in frozen[(frozen["task"] == task) & (frozen["metric"] == metric)].to_dict("records"):
            marker, edge, face, said = MARKS[row["kind"]]  # type: ignore[index]
            if row["ci_low"] == row["ci_low"]:
                axes.plot([row["ci_low"], row["ci_high"]], [y - 0.14] * 2, color=edge, linewidth=1, alpha=0.4)
            (shown[f"ours, {said}"],) = axes.plot(
                [row["score"]], [y - 0.14], marker, markeredgecolor=edge, markerfacecolor=face, markersize=6
            )
    axes.set_yticks(range(len(pairs)), [f"{task}, {metric}" for task, metric in pairs], parse_math=False)
    axes.set_ylim(len(pairs) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("score of frozen encoders, any protocol, with 95 % intervals of ours")
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(handles=list(shown.values()), labels=list(shown), loc="outside lower left", frameon=False, ncols=2)
    return figure


def _means(kind: Kind, same: pd.DataFrame) -> list[Mean]:
    """Of one class's models over the tasks that all of them have, the best of them."""
    table = _shared(same)
    if not len(table.columns):
        return []
    found = []
    for model in table.mean(axis=1).sort_values(ascending=False, kind="stable").index[: 2 * MOST]:
        own = same[(same["model"] == model) & same["column"].isin(table.columns)]
        numbers = {name: own[name].dropna().astype(float) for name in ("parameters", "seconds")}
        parameters = float(numbers["parameters"].max()) if len(numbers["parameters"]) else None
        seconds = float(numbers["seconds"].sum()) if len(numbers["seconds"]) == len(own) else None
        found.append(Mean(model, kind, float(table.loc[model].mean()), len(table.columns), parameters, seconds))
    return found


def _shared(same: pd.DataFrame) -> pd.DataFrame:
    """Normalised scores of one class's models (rows) on what all of them have (columns)."""
    return same.pivot(index="model", columns="column", values="normalised").dropna(axis=1)


def _columns(rows: pd.DataFrame) -> list[str]:
    """The task of each row, with metric and data where it has several: their scores are of different things."""
    several = rows.groupby("task")[["metric", "data"]].nunique().max(axis=1) > 1
    return [
        f"{task}, {metric}, {data}" if several[task] else task
        for task, metric, data in zip(rows["task"], rows["metric"], rows["data"], strict=True)
    ]


def _by_mean(rows: pd.DataFrame) -> list[str]:
    """Models by their mean shade: an order for the eye, not a rank, as they may have different tasks."""
    means = rows.groupby("model")["normalised"].mean().fillna(-1.0)
    return sorted(means.index, key=lambda model: (-means[model], model))


def _legend_of_signs(figure: Figure, rows: pd.DataFrame) -> None:
    signs = [f"{SIGNS[kind]} {MARKS[kind][3]}" for kind in MARKS if SIGNS[kind] and (rows["kind"] == kind).any()]
    if signs:
        figure.supxlabel("   ".join(signs), size=8, color=FAINT, x=0.01, ha="left", parse_math=False)


def _short(label: str, most: int = LABEL) -> str:
    if len(label) <= most:
        return label
    head = (most - 1) * 2 // 3
    return f"{label[:head]}…{label[-(most - 1 - head) :]}"
