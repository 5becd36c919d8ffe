"""What each stage costs as clips, classes, dimensions and encoders grow; every stage in a process of its own.

    python benchmarks/growth.py --work FOLDER [--quick]

The clips are generated: 0.1 s of noise with one of CLASSES tones, in a task folder of HEAR's layout, 8 of 10 to train
with, 1 to validate, 1 to test. `logmel` embeds them and `linear` and `knn` are fitted, through the command line. Prints
a Markdown table: seconds and peak memory at each number of clips, and the exponent between the last two (1: in
proportion).
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from common import Row, command

SIZES, QUICK_SIZES = (1000, 10_000, 100_000), (200, 2000)
RECORDS, QUICK_RECORDS = (100, 1000, 10_000), (20, 200)
SEEDS = 20
RATE, SAMPLES, CLASSES = 16000, 1600, 10
#: Of probes: rows, dimensions, classes; the first is what the others are compared with.
SHAPES = ((4000, 256, 10), (40_000, 256, 10), (4000, 2560, 10), (4000, 256, 100))
QUICK_SHAPES = ((400, 32, 4), (4000, 32, 4), (400, 320, 4), (400, 32, 40))
PROBES = ("linear", "knn")


@dataclass(frozen=True)
class Part:
    """What a part of a stage took. seconds: wall; cpu: seconds; peak, before: resident MB, during it and before it."""

    what: str
    size: int
    seconds: float
    cpu: float
    peak: float
    before: float = 0.0


def measure(quick: bool) -> list[Row]:
    """The suite's rows."""
    with tempfile.TemporaryDirectory() as work:
        return rows(measured(Path(work), quick))


def measured(work: Path, quick: bool) -> list[Part]:
    """Every part at every size."""
    parts = []
    for clips in QUICK_SIZES if quick else SIZES:
        folder = work / f"clips-{clips}"
        make_clips(folder / "task", clips)
        for stage in ("plan", "replan", "encoders", "run", "again", "cache", "predictions"):
            parts += apart(stage, folder, clips)
        shutil.rmtree(folder)  # 100 000 files
    for records in QUICK_RECORDS if quick else RECORDS:
        parts += apart("leaderboard", work / f"records-{records}", records)
        shutil.rmtree(work / f"records-{records}")
    for at, shape in enumerate(QUICK_SHAPES if quick else SHAPES):
        for name in PROBES:
            parts += apart("probe", work, at, name, *map(str, shape))
    return parts


def apart(stage: str, folder: Path, size: int, *more: str) -> list[Part]:
    """The parts of a stage, run in a new process."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [sys.executable, __file__, "--stage", stage, str(folder), str(size), *more],
        check=True,
        stdout=subprocess.PIPE,
    )
    return [Part(**part) for part in json.loads(done.stdout.splitlines()[-1])]


def rows(parts: Sequence[Part]) -> list[Row]:
    """What every part takes, and the exponents; embedding's peak at the largest number against that at the smallest."""
    found = []
    for what in dict.fromkeys(part.what for part in parts):
        group = [part for part in parts if part.what == what]
        for at, part in enumerate(group):
            size = "" if what.startswith("probe") else f", {part.size}"
            notes = f"exponent {_exponent(group[: at + 1])}" if at else ""
            found.append(Row("growth", what + size, part.seconds, None, "s", None, 1, notes))
            unit = "times the embeddings" if what.startswith("probe") else "MB peak"
            found.append(Row("growth", what + size, part.peak, None, unit, None, 1))
    first, *_, last = [part for part in parts if part.what == "run: embedding"]
    what = f"embedding: peak with {last.size} clips against {first.size}"
    found.append(Row("growth", what, last.peak, first.peak, "MB peak", first.peak / last.peak, 1))
    return found


def markdown(parts: Sequence[Part]) -> str:
    """The tables of `docs/growth.md`."""
    lines = []
    of_clips = [part for part in parts if not part.what.startswith(("probe", "leaderboard"))]
    for title, group in (("clips", of_clips), ("records", [p for p in parts if p.what.startswith("leaderboard")])):
        sizes = sorted({part.size for part in group})
        heads = [f"{size:,} {title}".replace(",", " ") for size in sizes]
        lines += [f"| stage | {' | '.join(heads)} | exponent | peak MB |", "|---|" + "---|" * (len(sizes) + 2)]
        for what in dict.fromkeys(part.what for part in group):
            found = {part.size: part for part in group if part.what == what}
            seconds = [f"{found[size].seconds:.3g} s" if size in found else "" for size in sizes]
            peaks = ", ".join(f"{found[size].peak:.0f}" for size in sizes if size in found)
            lines.append(f"| {what} | {' | '.join(seconds)} | {_exponent(list(found.values()))} | {peaks} |")
        lines.append("")
    lines += ["| probe | rows x dimensions, classes | seconds | peak over embeddings |", "|---|---|---|---|"]
    for part in parts:
        if part.what.startswith("probe"):
            _, name, shape, many = part.what.split(": ")
            lines.append(f"| {name} | {shape}, {many} | {part.seconds:.3g} | {part.peak:.1f} times |")
    return "\n".join(lines) + "\n"


def _exponent(parts: Sequence[Part]) -> str:
    if len(parts) < 2:
        return ""
    before, last = sorted(parts, key=lambda part: part.size)[-2:]
    if before.seconds < 0.02:
        return "-"
    return f"{math.log(last.seconds / before.seconds) / math.log(last.size / before.size):.2f}"


def make_clips(folder: Path, clips: int) -> None:
    """A task folder of HEAR's layout, made from a seed."""
    shares = {"train": 8, "valid": 1, "test": 1}
    folder.mkdir(parents=True)
    about = {
        "task_name": "growth", "version": "v1", "split_mode": "trainvaltest", "splits": list(shares),
        "embedding_type": "scene", "prediction_type": "multiclass", "sample_duration": SAMPLES / RATE,
        "evaluation": ["top1_acc"],
    }  # fmt: skip
    (folder / "task_metadata.json").write_text(json.dumps(about))
    names = [f"class{number}" for number in range(CLASSES)]
    (folder / "labelvocabulary.csv").write_text(
        "idx,label\n" + "".join(f"{at},{name}\n" for at, name in enumerate(names))
    )
    time_ = np.arange(SAMPLES) / RATE
    tones = [np.sin(2 * np.pi * 200 * 1.4**number * time_) for number in range(CLASSES)]
    header = struct.pack(
        "<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + 2 * SAMPLES, b"WAVE", b"fmt ", 16, 1, 1, RATE, 2 * RATE, 2, 16, b"data",
        2 * SAMPLES,
    )  # fmt: skip
    rng = np.random.default_rng(clips)
    for split, share in shares.items():
        (folder / str(RATE) / split).mkdir(parents=True)
        listed = {}
        for clip in range(clips * share // 10):
            samples = 3000 * rng.standard_normal(SAMPLES, dtype=np.float32) + 1500 * tones[clip % CLASSES]
            name = f"{split}{clip:06d}.wav"
            (folder / str(RATE) / split / name).write_bytes(header + samples.astype("<i2").tobytes())
            listed[name] = [names[clip % CLASSES]]
        (folder / f"{split}.json").write_text(json.dumps(listed))


class Watch:
    """Parts measured one after the other in this process."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.parts: list[Part] = []

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        from aape_bench import environment

        environment.reset_peak_memory()
        before, wall, cpu = environment.peak_memory_mb() or 0.0, time.perf_counter(), time.process_time()
        yield
        seconds, busy = time.perf_counter() - wall, time.process_time() - cpu
        self.parts.append(Part(what, self.size, seconds, busy, environment.peak_memory_mb() or 0.0, before))


def _task(folder: Path) -> Any:
    from aape_bench.hear_tasks import read_hear_task

    return replace(read_hear_task(folder / "task"), root=folder / "task")


def _task_and_options(folder: Path) -> tuple[Any, Any]:
    from aape_bench.planning import Options

    return _task(folder), Options(folder, folder / "cache", folder / "results")


def plan(watch: Watch, folder: Path, first: str = "first ") -> None:
    """What planning does with a task's files: metadata, stats, contents, fingerprints."""
    from aape_bench.task_data import load_task

    with watch(f"{first}plan: metadata twice, checks, stats"):
        task = _task(folder)
        data = load_task(task, folder, folder / "cache", False)
    with watch(f"{first}plan: contents"):
        data.hashes()
    with watch(f"{first}plan: fingerprints"):
        data.fingerprints()


def replan(watch: Watch, folder: Path) -> None:
    """The same in a new process, every content known."""
    plan(watch, folder, "later ")


def encoders(watch: Watch, folder: Path) -> None:
    """Planning for many encoders: seeds count as such."""
    from aape_bench.planning import choose_protocols
    from aape_bench.planning import plan as planned
    from aape_bench.selection import select_model

    task, options = _task_and_options(folder)
    models = [select_model("aape", {}, "random", seed) for seed in range(SEEDS)]
    with watch(f"whole plan, {SEEDS} encoders"):
        planned(models, [task], choose_protocols(["linear"], {}), options)


def _command(folder: Path) -> list[str | Path]:
    return [
        *(sys.executable, "-m", "aape_bench", "run", "--model", "logmel", "--task", f"hear:{folder / 'task'}"),
        *("--protocol", ",".join(PROBES), "--data-dir", folder),
        *("--cache-dir", folder / "cache", "--results-dir", folder / "results"),
    ]


def run(watch: Watch, folder: Path) -> None:
    """The command; stages as its records have them."""
    cost = command(_command(folder))
    watch.parts.append(Part("run, from start to end", watch.size, cost.wall, cost.cpu, cost.peak))
    for file in sorted((folder / "results" / "records").glob("*/*/*.json")):
        record = json.loads(file.read_text(encoding="utf-8"))
        name = record["protocol"]["name"]
        for stage, title in (("embed", "run: embedding"), ("fit", f"run: {name}")):
            of = record["stages"][stage]
            if stage == "fit" or name == PROBES[0]:
                watch.parts.append(Part(title, watch.size, of["seconds"], 0.0, of["peak_memory_mb"]))


def again(watch: Watch, folder: Path) -> None:
    """The same command with nothing left to do."""
    cost = command(_command(folder))
    watch.parts.append(Part("run, nothing left to do", watch.size, cost.wall, cost.cpu, cost.peak))


def cache(watch: Watch, folder: Path) -> None:
    """Checking and reading the embeddings."""
    from aape_bench.addresses import entry_of
    from aape_bench.planning import choose_protocols
    from aape_bench.planning import plan as planned
    from aape_bench.selection import select_model

    task, options = _task_and_options(folder)
    jobs, _ = planned([select_model("logmel", {}, "default", 0)], [task], choose_protocols(["linear"], {}), options)
    job = jobs[0]
    entry = entry_of(job.model, job.data, job.protocol, job.data.fingerprints(), options)
    with watch("cache: which parts are there"):
        assert not entry.missing()
    with watch("cache: checking every byte"):
        entry.discard_damaged()
    with watch("cache: reading"):
        entry.read()


def predictions(watch: Watch, folder: Path) -> None:
    """Scores and the file of predictions."""
    from aape_bench import evaluate
    from aape_bench import predictions as files

    task, _ = _task_and_options(folder)
    (file,) = (folder / "results" / "predictions").glob(f"*/{PROBES[0]}/*.csv.gz")
    with watch("predictions: reading"):
        found = files.read(file)
    with watch("predictions: writing"):
        files.write(folder / "again.csv.gz", found)
    with watch("scores and intervals"):
        evaluate.scores_of(task, 0, found)


def leaderboard(watch: Watch, folder: Path) -> None:
    """Over copies of one record under other labels."""
    from aape_bench import records
    from aape_bench.identity import digest
    from aape_bench.leaderboard import leaderboard as made

    make_clips(folder / "task", 200)
    command(_command(folder))
    results = folder / "results"
    paths = sorted((results / "records").glob("*/linear/*.json"))
    first = records.read_record(paths[0])
    for number in range(watch.size - 1):
        key = digest(number)[:16]
        one = replace(first, key=key, model={**first.model, "label": f"logmel[copy={number}]"})
        content = asdict(one)
        # unlike `write_record` without waiting for the disk
        path = results / records.record_paths(one.task["name"], "linear", one.model["label"], key)[0]
        path.write_text(json.dumps({**content, "seal": digest(content)}, indent=1), encoding="utf-8")
    with watch("leaderboard"):
        board, _ = made(results)
    assert len(board) == watch.size + 1


def probe(watch: Watch, folder: Path, name: str, *shape: str) -> None:
    """A fit of generated embeddings; its peak over the embeddings' bytes, which are counted in."""
    del folder
    from aape_bench.protocols import protocol

    count, dimension, classes = map(int, shape)
    chosen = protocol(name)
    settings = chosen.Settings()
    chosen.fit(_problem(50 * classes, 8, classes), settings, 0, lambda _: None)  # so that libraries are loaded
    problem = _problem(count, dimension, classes)
    with watch(f"probe: {name}: {count} x {dimension}: {classes} classes"):
        chosen.fit(problem, settings, 0, lambda _: None)
    size = problem.embeddings.nbytes / 2**20
    part = watch.parts[0]
    watch.parts[0] = replace(part, peak=(part.peak - part.before + size) / size)


def _problem(count: int, dimension: int, classes: int) -> Any:
    """Classes that overlap, 8 of 10 rows to train with, 1 to validate, 1 to test."""
    from aape_bench.clip_table import Rotation
    from aape_bench.problem import Problem

    rng = np.random.default_rng(0)
    labels = np.arange(count) % classes
    embeddings = rng.standard_normal((count, dimension), dtype=np.float32)
    embeddings += rng.standard_normal((classes, dimension), dtype=np.float32)[labels] / 4
    parts = np.split(np.arange(count), [count * 8 // 10, count * 9 // 10])

    def quality(rows: Any, scores: Any) -> float:
        return float((scores.argmax(axis=1) == labels[rows]).mean())

    return Problem(embeddings, True, labels, list(map(str, range(classes))), [Rotation("test", *parts)], quality)


STAGES: dict[str, Callable[..., None]] = {
    one.__name__: one for one in (plan, replan, encoders, run, again, cache, predictions, leaderboard, probe)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="where clips are generated and deleted, 500 MB")
    parser.add_argument("--quick", action="store_true", help="a try with few clips")
    parser.add_argument("--stage", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.stage:
        name, folder, size, *more = given.stage
        watch = Watch(int(size))
        STAGES[name](watch, Path(folder), *more)
        print(json.dumps([asdict(part) for part in watch.parts]))
        return
    with tempfile.TemporaryDirectory(dir=given.work) as work:
        print(markdown(measured(Path(work), given.quick)))


if __name__ == "__main__":
    main()
