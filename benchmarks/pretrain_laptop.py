"""Does a pre-training of half an hour on one CPU core help? Scores before and after, on the same clips.

    python benchmarks/pretrain_laptop.py OUT                                          # on generated audio
    python benchmarks/pretrain_laptop.py OUT --data-dir DATA --on-training-parts --audio FOLDER

Trains the preset `laptop` (the same command goes on where it was stopped), evaluates its teacher and the same encoder
with random weights by `linear`, draws what was learned, and writes into OUT:

    scores.csv          both encoders on every task, with intervals and the overlap of training and test audio
    differences.csv     after less before, paired over the test clips, with interval and p
    pretrain/           the training: checkpoints, log.csv; inspect/: its pictures; results/: the records
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from pathlib import Path

from aape_bench import clip_table, registry
from aape_bench.compare import compare
from aape_bench.records import Record, predictions_of, read_record

SUITE = ("tremolo", "alias", "clicks", "vibrato", "chirp", "pitch")
#: Data sets with a training part. as20k's is left out: where it is the small stand-in, its clips are mixed of esc50's.
PARTS = ("spcv2", "vc1", "cremad", "gtzan", "nsynth")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data-dir", type=Path, help="folder of the data sets' folders")
    parser.add_argument("--on-training-parts", action="store_true", help=f"train on those of {', '.join(PARTS)}")
    parser.add_argument("--audio", action="append", default=[], help="more to train on; repeat")
    parser.add_argument("--tasks", default="spcv2,esc50", help="real tasks to evaluate on, with --data-dir")
    parser.add_argument("--steps", type=int, help="in place of the preset's")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    audio = list(options.audio)
    if options.on_training_parts:
        audio.append(str(write_training_list(options.data_dir, options.out / "training.csv")))
    audio = audio or ["generated:modulation"]

    folder = options.out / "pretrain"
    steps = [] if options.steps is None else ["--steps", str(options.steps)]
    command(
        *("pretrain", "--preset", "laptop", "--out", str(folder), "--resume", *steps),
        *(part for text in audio for part in ("--audio", text)),
    )
    newest = max(folder.glob("teacher-*.safetensors"), key=lambda path: int(path.stem.rpartition("-")[2]))
    command("inspect", str(newest), "--out", str(options.out / "inspect"), "--audio", audio[0])

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))["run"]["model"]
    before = f"aape{{blocks={config['blocks']};clip_frames={config['clip_frames']}}}"
    tasks = ",".join([*SUITE, *([options.tasks] if options.data_dir else [])])
    data = ["--data-dir", str(options.data_dir), "--allow-partial"] if options.data_dir else []
    results = options.out / "results"
    for weights in ("random", str(newest)):
        model = before if weights == "random" else "aape"
        command(
            *("run", "--model", model, "--weights", weights, "--task", tasks, "--no-references", *data),
            *("--results-dir", str(results)),
        )
    write_tables(results, options.out)


def write_training_list(data_dir: Path, path: Path) -> Path:
    """The files of the training parts that are there, as a manifest."""
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["path"])
        for name in PARTS:
            task = registry.task(name)
            table = clip_table.check(task, task.read(data_dir / name))
            part = table[table[clip_table.side_column(task)] == "train"]
            there = [data_dir / name / one for one in part["path"] if (data_dir / name / one).is_file()]
            writer.writerows([str(one.absolute())] for one in there)
            print(f"{name}: {len(there)} training clips")
    return path


def write_tables(results: Path, out: Path) -> None:
    """scores.csv and differences.csv."""
    found = [read_record(path) for path in sorted((results / "records").glob("*/linear/*.json"))]
    by_task: dict[str, dict[str, Record]] = {}
    for record in found:
        which = "random weights" if record.model["weights"] == "random" else "pre-trained"
        by_task.setdefault(record.task["name"], {})[which] = record
    scores, differences = [], []
    for name, records in by_task.items():
        before, after = records["random weights"], records["pre-trained"]
        for which, record in (("random weights", before), ("pre-trained", after)):
            interval, partial = record.scores["interval"], record.task["partial"]
            figures = [record.scores["score"], interval["low"], interval["high"]]
            scores.append([name, which, record.task["metric"], *figures, partial, record.pretrain_overlap])
        apart = compare(predictions_of(results, after), predictions_of(results, before), after.task["metric"], name, 0)
        differences.append([name, apart.difference, apart.low, apart.high, apart.p])
    for path, head, rows in (
        (out / "scores.csv", "task,weights,metric,score,ci_low,ci_high,partial,pretrain_overlap", scores),
        (out / "differences.csv", "task,difference,ci_low,ci_high,p", differences),
    ):
        with path.open("w", encoding="utf-8", newline="") as handle:
            writer = csv.writer(handle)
            writer.writerow(head.split(","))
            writer.writerows([f"{cell:.4f}" if isinstance(cell, float) else cell for cell in row] for row in rows)
        print(path.read_text(encoding="utf-8"))


def command(*arguments: str) -> None:
    """Run aape-bench, on one thread: two of these scripts then share two cores."""
    print("aape-bench", *arguments, flush=True)
    subprocess.run(
        [sys.executable, "-m", "aape_bench", *arguments], check=True, env={"OMP_NUM_THREADS": "1", **os.environ}
    )


if __name__ == "__main__":
    main()
