"""All benchmarks: ours against peers, or against the plain way, as ratios in one run.

    python benchmarks/suite.py [--only NAME] [--quick] [--out results]      (or `make bench`)

Every benchmark runs in a process of its own; what one has measured is in OUT/benchmarks.csv before the next begins, in
place of what was there of it, so that a suite that is stopped keeps it. One that is absent or fails is named, and the
others go on; the exit status is then 1. Rows with something to compare with are drawn in OUT/benchmarks.png and .svg.

Peers are measured where they are: scikit-learn always, hear-eval-kit where the variable HEAREVAL names the Python of an
environment that has it and PEERS the folder of what drives it (see `embedding.py`).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from common import Row, table

from aape_bench.report.figures import BLUE, FAINT, INK, RULE, VERMILLION, pictures, styled
from aape_bench.storage import atomic_write, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = ("linear_probe", "heareval_grid", "embedding", "ray_nodes", "sblu", "growth")
#: Inches.
LINE, GAP, PLOT, MARGIN, FOOT = 0.2, 0.34, 4.4, 0.2, 0.55


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=NAMES, action="append", help="this one; repeats")
    parser.add_argument("--quick", action="store_true", help="a try: few runs on small shapes")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder of benchmarks.csv and its picture")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        return _measure_here(*given.one, given.quick)
    failed = []
    for name in given.only or NAMES:
        print(f"{name} ...", flush=True)
        found = measured(name, given.quick)
        if isinstance(found, str):
            failed.append(f"{name} {found}")
            print(failed[-1], flush=True)
            continue
        print(table(found).drop(columns="benchmark").to_string(index=False), flush=True)
        keep(found, given.out)
    if failed:
        print(f"Not measured: {'; '.join(failed)}.")
    return 1 if failed else 0


def measured(name: str, quick: bool) -> list[Row] | str:
    """The rows of a benchmark, or why there are none."""
    if not (Path(__file__).parent / f"{name}.py").is_file():
        return "is absent"
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "rows.json"
        command = [sys.executable, __file__, "--one", name, str(answer), *(["--quick"] if quick else [])]
        code = subprocess.run(command, check=False).returncode
        if code != 0:
            return f"failed (status {code})"
        return [Row(**row) for row in json.loads(answer.read_text(encoding="utf-8"))]


def _measure_here(name: str, answer: str, quick: bool) -> int:
    module = __import__(name)
    Path(answer).write_text(json.dumps([asdict(row) for row in module.measure(quick)]), encoding="utf-8")
    return 0


def keep(rows: list[Row], out: Path) -> None:
    """Write the rows into the CSV, in place of earlier ones of the same benchmarks, and draw them all."""
    new, path = table(rows), out / "benchmarks.csv"
    if path.is_file():
        before = pd.read_csv(path, keep_default_na=False, na_values={"theirs": [""], "ratio": [""]})
        before = before[~before["benchmark"].isin(new["benchmark"])]
        new = pd.concat([before.astype(object), new.astype(object)], ignore_index=True)
    new = new.astype(dict.fromkeys(("ours", "theirs", "ratio"), float))
    write_text(path, new.to_csv(index=False, lineterminator="\n", float_format="%.6g"))
    for name, content in drawn(new).items():
        with atomic_write(out / name) as handle:
            handle.write(content)


def drawn(rows: pd.DataFrame) -> dict[str, bytes]:
    """The picture of the rows that have a ratio; nothing where none has."""
    rows = rows[rows["ratio"].notna()]
    if rows.empty:
        return {}
    with styled():
        return pictures("benchmarks", _figure(rows))


def _inches(text: str) -> float:
    """How wide a label is."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    return float(TextPath((0, 0), text, size=8, prop=FontProperties()).get_extents().width) / 72


def _figure(rows: pd.DataFrame) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    groups = [(name, rows[rows["benchmark"] == name]) for name in dict.fromkeys(rows["benchmark"])]
    heights = [len(group) * LINE for _, group in groups]
    labels = [f"{what} [{unit}]" for what, unit in zip(rows["what"], rows["unit"], strict=True)]
    left = 0.1 + MARGIN + max(_inches(label) for label in labels)
    width, height = left + PLOT + 0.75, sum(heights) + GAP * len(groups) + FOOT + MARGIN
    figure = Figure(figsize=(width, height))
    ratios = rows["ratio"].astype(float)
    limits = min(0.5, float(ratios.min()) / 1.3), max(2.0, float(ratios.max()) * 1.3)
    top = height - MARGIN
    for at, ((name, group), tall) in enumerate(zip(groups, heights, strict=True)):
        top -= GAP + tall
        axes = figure.add_axes((left / width, top / height, PLOT / width, tall / height))
        axes.set_title(name, fontsize=9, fontweight="bold", loc="left", color=INK, pad=5)
        values = group["ratio"].astype(float).tolist()
        places = list(range(len(values)))[::-1]
        axes.set_xscale("log")
        axes.barh(
            places,
            [value - 1 for value in values],
            left=1,
            height=0.62,
            color=[BLUE if value >= 1 else VERMILLION for value in values],
        )
        for place, value in zip(places, values, strict=True):
            axes.annotate(
                f"{value:.3g}",
                (max(value, 1.0), place),
                (4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                annotation_clip=False,
            )
        axes.axvline(1, color=FAINT, linewidth=1)
        axes.set_yticks(
            places,
            [f"{what} [{unit}]" for what, unit in zip(group["what"], group["unit"], strict=True)],
            fontsize=8,
        )
        axes.set_ylim(-0.6, len(values) - 0.4)
        axes.set_xlim(*limits)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if limits[1] / limits[0] < 300 else (1,)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.grid(axis="x", color=RULE, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(axis="both", length=0, labelbottom=at == len(groups) - 1)
        for side in axes.spines.values():
            side.set_visible(False)
    axes.set_xlabel("theirs / ours: to the right of 1, ours takes less", fontsize=8)
    return figure


if __name__ == "__main__":
    sys.exit(main())
