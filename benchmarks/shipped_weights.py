"""What the weights that come with AaPE are worth: against the same encoder with random weights, and against `logmel`.

    python benchmarks/shipped_weights.py OUT --data-dir DATA

Evaluates the three by `linear` on the modulation suite and on every real task whose data is there, in parts or whole,
and writes into OUT:

    scores.csv        score and interval of each, with what is partial and the overlap of training and test audio
    differences.csv   the shipped weights less each of the others, paired over the test clips: interval, p, and a word:
                      "ahead" or "behind" where the interval excludes 0, else "not distinguishable"
    differences.png   the same as a picture
    results/          the records
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
from pathlib import Path

from aape_bench import inventory, registry
from aape_bench.checkpoint import read_header
from aape_bench.compare import compare
from aape_bench.records import Record, predictions_of, read_record
from aape_bench.settings import label_of, make_config

SHIPPED, RANDOM, OTHER = "shipped weights", "random weights", "logmel"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of the data sets' folders")
    options = parser.parse_args()
    results = options.out / "results"
    command = [
        *(sys.executable, "-m", "aape_bench", "run", "--model", "aape", "--model", random_model(), "--model", "logmel"),
        *("--task", ",".join(tasks(options.data_dir)), "--data-dir", str(options.data_dir), "--allow-partial"),
        *("--no-references", "--results-dir", str(results)),
    ]
    subprocess.run(command, check=True, env={"OMP_NUM_THREADS": "1", **os.environ})
    by_task: dict[str, dict[str, Record]] = {name: {} for name in tasks(options.data_dir)}
    for path in sorted((results / "records").glob("*/linear/*.json")):
        record = read_record(path)
        by_task[record.task["name"]][which(record)] = record
    write_scores(by_task, options.out / "scores.csv")
    rows = differences(by_task, results)
    write(options.out / "differences.csv", "task,domain,than,difference,ci_low,ci_high,p,clips,verdict", rows)
    draw(rows, options.out / "differences.png")


def random_model() -> str:
    """The shipped encoder with weights drawn from the seed."""
    plugin = registry.model("aape")
    trained = make_config(plugin.config, read_header(Path(str(plugin.default_weights()))).config, "aape")
    _, _, changed = label_of("aape", trained).partition("[")
    return "aape{" + "".join(f"{one};" for one in changed.rstrip("]").split(",") if one) + "weights=random}"


def tasks(data_dir: Path) -> list[str]:
    """The suite, then every task with data."""
    known, _ = registry.every_task()
    ordered = sorted(known, key=lambda task: (task.domain != "modulation", task.name))
    there = ("generated", "complete", "partial")
    return [task.name for task in ordered if inventory.survey(task, data_dir).state in there]


def which(record: Record) -> str:
    """Which of the three a record is of."""
    if record.model["label"].startswith("logmel"):
        return OTHER
    return RANDOM if record.model["weights"] == "random" else SHIPPED


def write_scores(by_task: dict[str, dict[str, Record]], path: Path) -> None:
    """One row per task and encoder."""
    rows = []
    for name, records in by_task.items():
        for kind, record in sorted(records.items()):
            interval = record.scores["interval"]
            figures = [record.scores["score"], interval["low"], interval["high"], record.scores["chance"]]
            rows.append([name, kind, record.task["metric"], *figures, record.task["partial"], record.pretrain_overlap])
    write(path, "task,weights,metric,score,ci_low,ci_high,chance,partial,pretrain_overlap", rows)


def differences(by_task: dict[str, dict[str, Record]], results: Path) -> list[list[object]]:
    """One row per task and encoder that the shipped weights are compared with."""
    rows: list[list[object]] = []
    for name, records in by_task.items():
        first = records[SHIPPED]
        for other in (RANDOM, OTHER):
            apart = compare(
                predictions_of(results, first), predictions_of(results, records[other]), first.task["metric"], name, 0
            )
            verdict = "not distinguishable"
            if apart.low is not None and apart.high is not None and (apart.low > 0 or apart.high < 0):
                verdict = "ahead" if apart.low > 0 else "behind"
            figures = [apart.difference, apart.low, apart.high, apart.p, apart.clips, verdict]
            rows.append([name, registry.task(name).domain, other, *figures])
    return rows


def write(path: Path, head: str, rows: list[list[object]]) -> None:
    """A CSV, also printed."""
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(head.split(","))
        writer.writerows([f"{cell:.4f}" if isinstance(cell, float) else cell for cell in row] for row in rows)
    print(path.read_text(encoding="utf-8"))


def draw(rows: list[list[object]], path: Path) -> None:
    """Differences with their intervals, a panel for each encoder compared with."""
    from matplotlib.figure import Figure

    from aape_bench.report.figures import BLUE, INK, RULE

    names = list(dict.fromkeys(row[0] for row in rows))
    figure = Figure(figsize=(9, 0.32 * len(names) + 1.4), layout="constrained")
    for axes, other in zip(figure.subplots(1, 2, sharex=True, sharey=True), (RANDOM, OTHER), strict=True):
        axes.axvline(0, color=RULE)
        for row in rows:
            _, _, than, difference, low, high, *_, verdict = row
            if than != other or difference is None:
                continue
            place = len(names) - names.index(row[0])
            if low is not None and high is not None:
                axes.plot([low, high], [place, place], color=BLUE)
            filled = verdict != "not distinguishable"
            axes.plot(difference, place, "o", color=BLUE, markerfacecolor=BLUE if filled else "white")
        axes.set_yticks(range(len(names), 0, -1), names)
        axes.set_title(f"shipped weights less {other}", loc="left", color=INK)
        axes.set_xlabel("difference of the score; bar: 95 %")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
