"""A toy task of scenes from clips to scores, and HEAR's grid of perceptrons alone, beside hear-eval-kit 2021.1.3.

    HEAREVAL=KIT/bin/python PEERS=FOLDER [HEAREVAL_PATH=FOLDER] python benchmarks/heareval_grid.py [--quick]

PEERS has `make_toy_tasks.py`, `logmelhear.py` (the HEAR module that both harnesses run) and `run_heareval.py`; HEAREVAL
is the Python of an environment with the kit, HEAREVAL_PATH what else its PYTHONPATH needs. Without the kit there are
our figures alone, without PEERS none. 200 clips and, unless --quick, 2000 (the kit takes six minutes for these); whole
commands in turn, wall and CPU seconds:

end to end   ours: `aape-bench run`, nothing computed before, to the leaderboard's CSV, with the protocols `linear`,
             `hear`, and `hear` as published; theirs: embeddings, then predictions of the default grid, 8 of its points.
             The kit, and `hear` as published, compare the points in the first of five rotations (12 trainings), `hear`
             in each of them (40).
grid alone   theirs: the predictions command; ours: a process that trains the kit's points for the kit's epochs, as its
             log has them, on its embeddings.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common import Cost, Row, command, compared, table

from aape_bench.process import keep_freed_memory

RUNS, QUICK_RUNS = 5, 1
NAME = "toy_scene-v1-full"
PROTOCOLS = {"linear": ["linear"], "hear": ["hear"], "hear, as published": ["hear", "--as-published"]}

_POINT = re.compile(r"'hidden_layers': (\d+),.*?'initialization': <function (xavier_[a-z]+)_ .*?'lr': ([\d.e-]+)")
_EPOCHS = re.compile(r"run_training_epoch\s*\|\s*[\d.e+-]+\s*\|\s*(\d+)\s*\|")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a try: 200 clips, one run")
    parser.add_argument("--again", nargs=2, type=Path, metavar=("KIT_FOLDER", "TASKS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.again:
        keep_freed_memory()  # as the command does
        train_again(*given.again)
    else:
        print(table(measure(given.quick)).drop(columns="benchmark").to_string(index=False))


def measure(quick: bool) -> list[Row]:
    """The suite's rows; quick: of the smaller task, one run."""
    peers = os.environ.get("PEERS")
    if not peers:
        print("heareval_grid: PEERS names no folder with the toy tasks' maker: nothing is measured.")
        return []
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for scale in (1,) if quick else (1, 10):
            tasks = Path(folder) / f"tasks{scale}"
            command([sys.executable, Path(peers) / "make_toy_tasks.py", tasks, "--scale", str(scale)])
            rows += _rows(tasks, f"{200 * scale} clips", Path(peers), QUICK_RUNS if quick else RUNS)
    return rows


def _rows(tasks: Path, size: str, peers: Path, runs: int) -> list[Row]:
    work = tasks.parent
    ours = [Ours(name, words, tasks / NAME, peers, work) for name, words in PROTOCOLS.items()]
    kit = Kit(os.environ["HEAREVAL"], tasks, peers, work) if "HEAREVAL" in os.environ else None
    again: list[Cost] = []
    for _ in range(runs):
        if kit:
            kit.run()
            again.append(command([sys.executable, __file__, "--again", kit.folder, tasks]))
        for one in ours:
            one.run()
    rows = []
    for one in ours:
        theirs = kit.costs if kit else []
        rows += _compared(f"{size}, end to end, {one.name}", one.costs, theirs, _scores(one.scores, kit))
    if kit:
        note = f"{kit.trainings} trainings, {kit.epochs} epochs"
        rows += _compared(f"{size}, grid alone, same points and epochs", again, kit.predictions, note)
    return rows


def _compared(what: str, ours: Sequence[Cost], theirs: Sequence[Cost], note: str) -> list[Row]:
    sides: list[tuple[str, Callable[[Cost], float]]] = [("s", lambda cost: cost.wall), ("CPU s", lambda cost: cost.cpu)]
    return [
        compared("heareval_grid", what, [of(one) for one in ours], [of(one) for one in theirs], unit, note)
        for unit, of in sides
    ]


def _scores(ours: Sequence[float], kit: Kit | None) -> str:
    beside = f", theirs {statistics.median(kit.scores):.3f}" if kit else "; hear-eval-kit is not here"
    return f"top1_acc {statistics.median(ours):.3f}{beside}"


@dataclass
class Ours:
    """Whole runs of `aape-bench` with one protocol."""

    name: str
    words: list[str]
    task: Path
    peers: Path
    work: Path
    costs: list[Cost] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)

    def run(self) -> None:
        """Once, with no cache and no results."""
        path = os.pathsep.join(filter(None, (str(self.peers), os.environ.get("PYTHONPATH"))))
        with tempfile.TemporaryDirectory(dir=self.work) as folder:
            places = ["--results-dir", f"{folder}/results", "--cache-dir", f"{folder}/cache"]
            line = [
                sys.executable,
                "-m",
                "aape_bench",
                "run",
                "--model",
                "hear:logmelhear",
                "--task",
                f"hear:{self.task}",
            ]
            self.costs.append(command([*line, "--protocol", *self.words, *places], {"PYTHONPATH": path}, Path(folder)))
            (record,) = Path(folder, "results", "records").rglob("*.json")
            self.scores.append(json.loads(record.read_text())["scores"]["score"])


@dataclass
class Kit:
    """Whole runs of hear-eval-kit; folder: where the last one's embeddings and scores are."""

    python: str
    tasks: Path
    peers: Path
    work: Path
    costs: list[Cost] = field(default_factory=list)
    predictions: list[Cost] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    trainings: int = 0
    epochs: int = 0

    @property
    def folder(self) -> Path:
        return self.tasks / "kit" / "logmelhear" / NAME

    def run(self) -> None:
        """Both stages, nothing left of earlier ones."""
        embeddings = self._stage("embeddings", "logmelhear", "--tasks-dir", self.tasks, "--task", NAME,
                                 "--embeddings-dir", self.tasks / "kit")  # fmt: skip
        (self.folder / "prediction-done.json").unlink(missing_ok=True)
        predictions = self._stage("predictions", self.folder, "--grid", "default", "--grid-points", "8")
        self.predictions.append(predictions)
        self.costs.append(Cost(*(a + b for a, b in zip(_of(embeddings), _of(predictions), strict=True))))
        scores = json.loads((self.folder / "test.predicted-scores.json").read_text())
        self.scores.append(scores["aggregated_scores"]["test_score_mean"])
        trained = read_trainings(self.folder)
        self.trainings, self.epochs = len(trained), sum(one.epochs for one in trained)

    def _stage(self, stage: str, *words: str | Path) -> Cost:
        """What it says goes to `<stage>.log` beside its embeddings."""
        log = self.tasks / "kit" / f"{stage}.log"
        log.parent.mkdir(exist_ok=True)
        path = os.pathsep.join(filter(None, (os.environ.get("HEAREVAL_PATH"), str(self.peers))))
        line = [self.python, self.peers / "run_heareval.py", stage, *words]
        shell = ["bash", "-c", 'exec "${@:2}" > "$1" 2>&1', "bash", log, *line]
        return command(shell, {"PYTHONPATH": path}, self.work)


def _of(cost: Cost) -> tuple[float, float, float]:
    return cost.wall, cost.cpu, cost.peak


@dataclass(frozen=True)
class Training:
    """One training of the kit. rotation: its number."""

    rotation: int
    hidden_layers: str
    initialisation: str
    learning_rate: str
    epochs: int


def read_trainings(folder: Path) -> list[Training]:
    """What the log of the predictions in `folder` says: the grid in the first rotation, its best point in others."""
    log = (folder.parents[1] / "predictions.log").read_text(errors="replace")
    points = [_POINT.search(line) for line in re.findall(r"Grid point \d+ of \d+: .*", log)]
    best = _POINT.search(log[log.index("Best Grid Point") :])
    others = [best] * log.count("Training split ")
    # the profiler's report of every training, and once more of those that are then tested
    epochs = [int(count) for count in _EPOCHS.findall(log)][: len(points) + len(others)]
    rotations = [0] * len(points) + list(range(1, len(others) + 1))
    found = zip(rotations, [*points, *others], epochs, strict=True)
    return [Training(rotation, *point.groups(), count) for rotation, point, count in found if point]


def train_again(kit_folder: Path, tasks: Path) -> None:
    """The same points, each for as many epochs, in the kit's manner, on the kit's embeddings; side by side as ours."""
    import parity_hear
    import torch

    from aape_bench.protocols import hear
    from aape_bench.protocols.common import one_thread, side_by_side, threads_allowed

    problem = parity_hear.problem_of_clips(parity_hear.read_run(kit_folder, tasks))

    def train(one: Training) -> None:
        torch.set_num_threads(1)  # of this thread
        settings = hear.Settings(
            hidden_layers=one.hidden_layers,
            learning_rates=one.learning_rate,
            initialisations=one.initialisation,
            max_epochs=one.epochs,
            patience=one.epochs,
            as_published=True,
        ).resolved()
        (point,) = settings.grid()
        with torch.no_grad():
            data = hear._prepare(problem, problem.rotations[one.rotation], settings)
            (trained,) = hear._train(problem, data, [point], settings, 0).values()
        assert trained.story["epochs"] == one.epochs

    threads = threads_allowed()
    longest_first = sorted(read_trainings(kit_folder), key=lambda one: (one.hidden_layers, one.epochs), reverse=True)
    with one_thread(use_torch=True):
        list(side_by_side(train, longest_first, threads))


if __name__ == "__main__":
    main()
