"""What fine-tuning comes to on little data: AaPE's shipped weights and random ones, beside `linear` of the same.

    python benchmarks/fine_tuning.py OUT --data-dir DATA [--executor local:2]

On esc50 (5 folds), cremad and spcv2 for 100 updates, on every other real task whose data is there for 20. The published
recipes take thousands of updates on whole data sets; what is changed for small parts of them on a CPU is in `CHANGED`
and was chosen on spcv2's validation part. Writes into OUT:

    scores.csv        score and interval of each
    differences.csv   paired over the test clips: interval, p, and a word: "ahead" or "behind" where the interval
                      excludes 0, else "not distinguishable"
    differences.png   the same as a picture
    curves.png        loss and validation against the update, of the first fold of each task
    results/          the records
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from shipped_weights import random_model, write

from aape_bench import inventory, registry
from aape_bench.compare import compare
from aape_bench.records import Record, predictions_of, read_record

LONG, SHORT = ("esc50", "cremad", "spcv2"), ("us8k", "vc1", "gtzan", "nsynth", "as20k")
UPDATES = {**dict.fromkeys(LONG, 100), **dict.fromkeys(SHORT, 20)}
CHANGED = "batch=16;pooling=mean;mixup=0;learning_rate=1e-3;validate_every=5"
TUNED, FROZEN = "fine-tuned", "linear"
SHIPPED, RANDOM = "shipped weights", "random weights"
#: What is compared: each is (protocol, weights).
PAIRS = (
    ((TUNED, SHIPPED), (FROZEN, SHIPPED)),
    ((TUNED, SHIPPED), (TUNED, RANDOM)),
    ((TUNED, RANDOM), (FROZEN, RANDOM)),
    ((FROZEN, SHIPPED), (FROZEN, RANDOM)),
)
Records = dict[tuple[str, str], Record]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of the data sets' folders")
    parser.add_argument("--executor", default="local")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    results = options.out / "results"
    there = [name for name in UPDATES if inventory.survey(registry.task(name), options.data_dir).state != "absent"]
    for names, loss in ((LONG, ";loss=ce"), (SHORT, "")):
        tasks = [name for name in names if name in there]
        settings = f"updates={UPDATES[names[0]]};{CHANGED}{loss}"
        run(options, tasks, "--protocol", "finetune", "--protocol-set", settings)
    run(options, there, "--protocol", "linear")
    by_task = {name: of_task(results, name) for name in there}
    write_scores(by_task, options.out / "scores.csv")
    rows = differences(by_task, results)
    write(options.out / "differences.csv", "task,of,than,difference,ci_low,ci_high,p,clips,verdict", rows)
    draw(rows, options.out / "differences.png")
    draw_curves(by_task, options.out / "curves.png")


def run(options: argparse.Namespace, tasks: list[str], *protocol: str) -> None:
    """One command of aape-bench."""
    command = [
        *(sys.executable, "-m", "aape_bench", "run", "--model", "aape", "--model", random_model()),
        *("--task", ",".join(tasks), *protocol, "--executor", options.executor),
        *("--data-dir", str(options.data_dir), "--allow-partial", "--results-dir", str(options.out / "results")),
    ]
    subprocess.run(command, check=True, env=dict(os.environ))


def of_task(results: Path, name: str) -> Records:
    """The task's records by protocol and weights."""
    found = {}
    for path in sorted((results / "records" / name).glob("*/*.json")):
        record = read_record(path)
        protocol = TUNED if record.protocol["name"] == "finetune" else FROZEN
        found[protocol, RANDOM if record.model["weights"] == "random" else SHIPPED] = record
    return found


def write_scores(by_task: dict[str, Records], path: Path) -> None:
    """One row per task, protocol and weights."""
    rows: list[list[object]] = []
    for name, records in by_task.items():
        for (protocol, weights), record in sorted(records.items(), reverse=True):
            scores, interval = record.scores, record.scores["interval"]
            label = record.protocol["label"]
            figures = [scores["score"], interval["low"], interval["high"], scores["chance"]]
            rows.append([name, protocol, weights, record.task["metric"], *figures, record.task["partial"], label])
    write(path, "task,protocol,weights,metric,score,ci_low,ci_high,chance,partial,label", rows)


def differences(by_task: dict[str, Records], results: Path) -> list[list[object]]:
    """One row per task and pair."""
    rows: list[list[object]] = []
    for name, records in by_task.items():
        for pair in PAIRS:
            first, second = (records[one] for one in pair)
            apart = compare(
                predictions_of(results, first), predictions_of(results, second), first.task["metric"], name, 0
            )
            verdict = "not distinguishable"
            if apart.low is not None and apart.high is not None and (apart.low > 0 or apart.high < 0):
                verdict = "ahead" if apart.low > 0 else "behind"
            figures = [apart.difference, apart.low, apart.high, apart.p, apart.clips, verdict]
            rows.append([name, *(" ".join(one) for one in pair), *figures])
    return rows


def draw(rows: list[list[object]], path: Path) -> None:
    """Differences with their intervals, a panel for each pair."""
    from matplotlib.figure import Figure

    from aape_bench.report.figures import BLUE, INK, RULE

    names = list(dict.fromkeys(row[0] for row in rows))
    figure = Figure(figsize=(10, 0.6 * len(names) + 1.6), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True, sharey=True).flat
    for axes, pair in zip(panels, PAIRS, strict=True):
        of, than = (" ".join(one) for one in pair)
        axes.axvline(0, color=RULE)
        for row in rows:
            if row[1:3] != [of, than]:
                continue
            difference, low, high, *_, verdict = row[3:]
            place = len(names) - names.index(row[0])
            if low is not None and high is not None:
                axes.plot([low, high], [place, place], color=BLUE)
            filled = verdict != "not distinguishable"
            axes.plot(difference, place, "o", color=BLUE, markerfacecolor=BLUE if filled else "white")
        axes.set_yticks(range(len(names), 0, -1), names)
        axes.set_title(f"{of}\nless {than}", loc="left", color=INK, fontsize=10)
    figure.supxlabel("difference of the score; bar: 95 %; filled: the interval excludes 0", fontsize=9)
    figure.savefig(path, dpi=150)


def draw_curves(by_task: dict[str, Records], path: Path) -> None:
    """Training loss and validation of the first fold, shipped weights beside random ones."""
    from matplotlib.figure import Figure

    from aape_bench.report.figures import BLUE, INK

    figure = Figure(figsize=(2.2 * len(by_task), 4.6), layout="constrained")
    panels = figure.subplots(2, len(by_task), squeeze=False)
    for column, (name, records) in enumerate(by_task.items()):
        for weights, colour in ((SHIPPED, BLUE), (RANDOM, INK)):
            curve = records[TUNED, weights].protocol["choices"][0]["curve"]
            for axes, key in zip(panels[:, column], ("loss", "validation"), strict=True):
                axes.plot([one["update"] for one in curve], [one[key] for one in curve], color=colour, label=weights)
        panels[0, column].set_title(name, loc="left", color=INK, fontsize=10)
        panels[1, column].set_xlabel("update", fontsize=9)
    for axes, label in zip(panels[:, 0], ("training loss", "validation"), strict=True):
        axes.set_ylabel(label, fontsize=9)
    panels[0, 0].legend(fontsize=8)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
