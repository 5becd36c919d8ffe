"""The embedding stage: how busy the encoder is, and what the stage costs beside hear-eval-kit's and beside its parts.

    python benchmarks/embedding.py [--quick]

Prints a table; `measure` gives the rows of `suite.py`. Clips are 2000 x 5 s of noise at 16 and at 44.1 kHz. Where the
variable HEAREVAL names a Python that has hear-eval-kit and PEERS a folder with its launcher `run_heareval.py` and the
HEAR module `logmelhear.py` (HEAREVAL_PATH: more folders for its PYTHONPATH), both harnesses embed the 16 kHz clips in
turn, from process start to end: ours hashes the files as well. The kit runs `logmelhear`, 64 mel bands every 25 ms;
ours runs the same module, and `logmel`, 128 every 10 ms.

The parts alone are a plain program: threads that read files with soundfile (and resample with soxr), and the same
batches through the same `logmel`; its imports are not counted, nor those of our stage beside it. On a processor whose
threads share one core, log-mel can hide behind resampling only as far as resampling leaves that core idle.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from common import Cost, Row, alternating, command, compared, table

from aape_bench.process import keep_freed_memory, wait_briefly

CLIPS, QUICK_CLIPS = 2000, 100
RUNS, QUICK_RUNS = 5, 1
SECONDS = 5
#: Of the encoder whose busy share is measured, and how many clips it gets.
BASE, BASE_CLIPS = "aape{preset=base;weights=random}", 96
NAME = "noise-v1-full"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a try: few clips, one run")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        what, task, out = given.one
        keep_freed_memory()  # as the command does; the parts alone, too
        wait_briefly()
        found = plain(Path(task), what) if what in PARTS else ours(Path(task), what, Path(out).parent)
        Path(out).write_text(json.dumps(found))
    else:
        print(table(measure(given.quick)).drop(columns="benchmark").to_string(index=False))


def measure(quick: bool) -> list[Row]:
    """The suite's rows."""
    clips, runs = (QUICK_CLIPS, QUICK_RUNS) if quick else (CLIPS, RUNS)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        tasks = {rate: make_clips(work / str(rate) / NAME, clips, rate) for rate in (16000, 44100)}
        few = make_clips(work / "few" / NAME, 16 if quick else BASE_CLIPS, 16000)
        rows = beside_parts(work, tasks, runs)
        rows += busy(work, few, runs)
        return rows + beside_the_kit(work, tasks[16000], runs)


def beside_parts(work: Path, tasks: dict[int, Path], runs: int) -> list[Row]:
    """`logmel` against decoding and log-mel alone; of 44.1 kHz against decoding and resampling alone, and in a loop."""
    rows = []
    for rate, part in ((16000, "decoding and log-mel"), (44100, "decoding and resampling"), (44100, LOOP)):
        stage, alone = Child(work, "logmel", tasks[rate]), Child(work, part, tasks[rate])
        alternating(runs, stage, alone)
        for field, unit in (("wall", "s"), ("cpu", "CPU s")):
            what = f"logmel at {rate / 1000:g} kHz, beside {part} alone"
            rows.append(compared("embedding", what, stage.values(field), alone.values(field), unit))
    return rows


def busy(work: Path, task: Path, runs: int) -> list[Row]:
    """The share of time during which encoders compute."""
    rows = []
    for model in (BASE, "logmel"):
        child = Child(work, model, task)
        alternating(runs, child)
        share = statistics.median(child.values("busy"))
        rows.append(Row("embedding", f"{model}, share of time that it computes", share, None, "1", None, runs))
    return rows


def beside_the_kit(work: Path, task: Path, runs: int) -> list[Row]:
    """From process start to end, and on disk, against hear-eval-kit; without the kit, ours alone."""
    kit, peers = os.environ.get("HEAREVAL"), os.environ.get("PEERS")
    theirs = Kit(work, kit, Path(peers), task) if kit and peers else None
    more = {"PYTHONPATH": os.pathsep.join(filter(None, (peers, os.environ.get("PYTHONPATH"))))}
    rows = []
    for model in ("hear:logmelhear", "logmel") if peers else ("logmel",):
        child = Child(work, model, task, more)
        costs = alternating(runs, child, theirs) if theirs else [*alternating(runs, child), []]
        for field, unit in (("wall", "s"), ("cpu", "CPU s"), ("peak", "MB")):
            mine, other = ([getattr(cost, field) for cost in side] for side in costs)
            rows.append(compared("embedding", f"{model}, process start to end", mine, other, unit))
        disk = theirs.bytes() if theirs else []
        rows.append(compared("embedding", f"{model}, bytes on disk", child.values("bytes")[-1:], disk, "bytes"))
    return rows


class Child:
    """Ours of a model, or a part alone, in a process of its own; `values` are what it says of each run."""

    def __init__(self, work: Path, what: str, task: Path, environment: dict[str, str] | None = None) -> None:
        self.work, self.what, self.task = work, what, task
        self.environment = environment or {}
        self.said: list[dict[str, float]] = []

    def __call__(self) -> Cost:
        with tempfile.TemporaryDirectory(dir=self.work) as folder:
            out = Path(folder) / "said.json"
            cost = command([sys.executable, __file__, "--one", self.what, self.task, out], self.environment)
            self.said.append(json.loads(out.read_text()))
        return cost

    def values(self, field: str) -> list[float]:
        """Of every run but the first, the warm-up."""
        return [said[field] for said in self.said[1:]]


class Kit:
    """hear-eval-kit's embedding stage with `logmelhear`."""

    def __init__(self, work: Path, python: str, peers: Path, task: Path) -> None:
        self.line = [python, peers / "run_heareval.py", "embeddings", "logmelhear", "--tasks-dir", task.parent]
        self.work = work
        path = (os.environ.get("HEAREVAL_PATH"), str(peers))
        self.environment = {"PYTHONPATH": os.pathsep.join(filter(None, path))}
        self.disk = 0.0

    def __call__(self) -> Cost:
        with tempfile.TemporaryDirectory(dir=self.work) as folder:
            cost = command([*self.line, "--embeddings-dir", folder], self.environment, Path(folder))
            self.disk = size_of(Path(folder))
        return cost

    def bytes(self) -> list[float]:
        """What it left on the disk."""
        return [self.disk]


def ours(task: Path, model: str, out: Path) -> dict[str, float | None]:
    """Embed the task's clips into a new cache. wall, cpu: seconds of the stage, the files' hashes known already."""
    from aape_bench import planning, selection
    from aape_bench.addresses import entry_of
    from aape_bench.frozen import embed_shards
    from aape_bench.progress import Silent

    options = planning.Options(out, out / "cache", out / "results", references=False)
    chosen = selection.select_models([model], {}, "default", [0])
    tasks = selection.select_tasks([f"hear:{task}"])
    (job,), _ = planning.plan(chosen, tasks, planning.choose_protocols(["knn"], {}), options)
    entry = entry_of(job.model, job.data, job.protocol, job.data.fingerprints(), options)
    job.model.build()  # its imports
    return {
        **timed(lambda: embed_shards(job, options, Silent())),
        "busy": entry.complete()["stage"]["busy"],
        "bytes": size_of(entry.folder),
    }


def plain(task: Path, what: str) -> dict[str, float]:
    """A part alone, of the task's clips."""
    import soundfile
    import soxr
    import torch

    from aape_bench.frozen import automatic_batch_size
    from aape_bench.selection import select_model

    encoder = select_model("logmel", {}, "default", 0).build()
    files = sorted(task.glob("*/*/*.wav"))
    size = automatic_batch_size("cpu", SECONDS)

    def read(file: Path) -> np.ndarray[Any, Any]:
        samples, rate = soundfile.read(file, dtype="float32")
        return np.asarray(samples if rate == 16000 else soxr.resample(samples, rate, 16000, quality="HQ"))

    def work() -> None:
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool, torch.inference_mode():
            waiting: list[np.ndarray[Any, Any]] = []
            for clip in map(read, files) if what == LOOP else pool.map(read, files):
                waiting.append(clip)
                if len(waiting) == size:
                    if PARTS[what]:
                        encoder.scene_embeddings(torch.from_numpy(np.stack(waiting)))
                    waiting.clear()

    return timed(work)


#: Part -> whether the encoder runs in it. In the loop there is one thread.
LOOP = "decoding and resampling in a plain loop"
PARTS = {"decoding and log-mel": True, "decoding and resampling": False, LOOP: False}


def timed(work: Callable[[], None]) -> dict[str, float]:
    """Seconds of a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def size_of(folder: Path) -> float:
    """Bytes of all files below it."""
    return float(sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()))


def make_clips(folder: Path, clips: int, rate: int) -> Path:
    """A task folder of HEAR's layout with clips of noise, two classes, five folds."""
    import soundfile

    folds = [f"fold{number:02d}" for number in range(5)]
    about = {
        "task_name": "noise", "version": "v1", "split_mode": "presplit_kfold", "nfolds": 5, "splits": folds,
        "embedding_type": "scene", "prediction_type": "multiclass", "sample_duration": float(SECONDS),
        "evaluation": ["top1_acc"], "mode": "full", "download_urls": [], "max_task_duration_by_fold": None,
    }  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "task_metadata.json").write_text(json.dumps(about))
    (folder / "labelvocabulary.csv").write_text("idx,label\n0,a\n1,b\n")
    rng = np.random.default_rng(0)
    for number, fold in enumerate(folds):
        (folder / str(rate) / fold).mkdir(parents=True)
        names = [f"clip{clip:05d}.wav" for clip in range(number, clips, 5)]
        for name in names:
            noise = 0.1 * rng.standard_normal(rate * SECONDS, dtype=np.float32)
            soundfile.write(folder / str(rate) / fold / name, noise, rate, subtype="PCM_16")
        (folder / f"{fold}.json").write_text(json.dumps({name: ["ab"[at % 2]] for at, name in enumerate(names)}))
    return folder


if __name__ == "__main__":
    main()
