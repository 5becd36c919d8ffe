"""Hold this project against hear-eval-kit 2021.1.3, on the embeddings and predictions of hear-eval-kit's own run.

    python benchmarks/parity_hear.py EMBEDDINGS/MODULE TASKS [--protocols hear,hear-as-published,linear]

EMBEDDINGS/MODULE is what hear-eval-kit's two runners left (its predictions are pickles: read only your own), TASKS
the folder of task folders that it read. For every task it prints, each line ending in "equal" or "DIFFERS":

labels      what each moment is of, against the kit's target labels (event tasks)
events      events that this project makes of the kit's scores, against those the kit made (event tasks)
metrics     every metric of the task on the kit's predictions, against the kit's score, to 6 decimals
linear      protocol `linear` against scikit-learn's scaler and logistic regression used directly
hear        protocol `hear` on the same embeddings with its 95 % interval, beside the kit's score

Exit status 1 where something differs. `hear` trains other networks than the kit (shuffled, standardised, chosen in
every rotation), so it is only said whether the kit's score lies in the interval.
"""

from __future__ import annotations

import argparse
import json
import pickle
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from aape_bench import clip_table, metrics
from aape_bench.events import PostProcessing, find_events
from aape_bench.hear_tasks import read_description, read_hear_task
from aape_bench.moments import Moments, decide, moments_of, problem_of_moments
from aape_bench.predictions import Predictions
from aape_bench.problem import Fit, Problem
from aape_bench.protocols import hear, linear
from aape_bench.task import Task


@dataclass(frozen=True)
class Run:
    """One task as hear-eval-kit left it: its folder of embeddings, its scores, and the task."""

    folder: Path
    scores: dict[str, Any]
    task: Task
    table: pd.DataFrame
    rotations: list[clip_table.Rotation]

    @property
    def side(self) -> pd.Series[str]:
        return self.table[clip_table.side_column(self.task)]

    def kit_score(self, metric: str) -> float:
        """The kit's score: of the single test split, or its mean over folds."""
        parts = [self.scores[rotation.name][f"test_{metric}"] for rotation in self.rotations]
        return float(np.mean(parts))


def read_run(folder: Path, tasks: Path) -> Run:
    task = read_hear_task(tasks / folder.name)
    table = task.read(tasks / folder.name)
    scores = json.loads((folder / "test.predicted-scores.json").read_text())
    return Run(folder, scores, task, table, clip_table.rotations(task, table))


def kit_predictions(run: Run, split: str) -> dict[str, Any]:
    with (run.folder / f"{split}.predictions.pkl").open("rb") as handle:
        found: dict[str, Any] = pickle.load(handle)
    return {key: value.numpy() if hasattr(value, "numpy") else value for key, value in found.items()}


def vocabulary(run: Run) -> list[str]:
    return list(pd.read_csv(run.folder / "labelvocabulary.csv", dtype=str)["label"])


def scene_predictions(run: Run, split: str) -> Predictions:
    """The kit's predictions; its clips have no names there, and need none."""
    found, classes = kit_predictions(run, split), vocabulary(run)
    hot, scores = found["target"] > 0, found["prediction"]
    exclusive = run.task.kind == "multiclass"
    return Predictions(
        kind=run.task.kind,
        ids=[f"{split} {row}" for row in range(len(hot))],
        folds=np.full(len(hot), split),
        groups=[None] * len(hot),
        truth=[classes[row.argmax()] if exclusive else tuple(np.array(classes)[row]) for row in hot],
        classes=classes,
        scores=scores[None],
        decided=[[classes[at] for at in scores.argmax(axis=1)]] if exclusive else [],
    )


def event_predictions(run: Run, split: str) -> Predictions:
    found = kit_predictions(run, split)
    rows = run.table[run.side == split]
    return Predictions(
        kind="event",
        ids=list(rows["id"]),
        folds=np.full(len(rows), split),
        groups=[None] * len(rows),
        truth=list(rows["label"]),
        classes=vocabulary(run),
        scores=None,
        decided=[[as_tuples(found["predicted_events"][name]) for name in rows["id"]]],
    )


def as_tuples(events: list[dict[str, Any]]) -> tuple[tuple[str, float, float], ...]:
    found = [(str(event["label"]), float(event["start"]) / 1000, float(event["end"]) / 1000) for event in events]
    return tuple(sorted(found, key=lambda event: (event[1], event[2], event[0])))


def same(text: str, equal: bool) -> bool:
    print(f"  {text}: {'equal' if equal else 'DIFFERS'}")
    return equal


def compare_metrics(run: Run) -> Iterator[bool]:
    read = event_predictions if run.task.kind == "event" else scene_predictions
    for rotation in run.rotations:
        predictions = read(run, rotation.name)
        for metric in (run.task.metric, *run.task.metrics):
            theirs, ours = run.scores[rotation.name][f"test_{metric}"], metrics.score(metric, predictions)
            measured = metrics.measure(metric, predictions, run.task.name, 0)
            # the kit logs float32; its infinite d' is an undefined score here
            equal = abs(theirs - ours) < 1e-6 if np.isfinite(theirs) else measured.score is None
            said = f"{ours:.9f}" if measured.score is not None else f"undefined ({measured.reason})"
            yield same(f"metrics {rotation.name} {metric}: hear-eval-kit {theirs:.9f}, here {said}", equal)


def moments(run: Run) -> tuple[Moments, np.ndarray]:
    """The kit's timestamp embeddings in clip-table order."""
    embeddings, times, clip = [], [], []
    for row, (split, name) in enumerate(zip(run.side, run.table["id"], strict=True)):
        stem = run.folder / split / name
        embeddings.append(np.load(f"{stem}.embedding.npy"))
        times.append(np.asarray(json.loads(Path(f"{stem}.timestamps.json").read_text()), float))
        clip.append(np.full(len(times[-1]), row))
    grid = read_description(run.folder).grid
    made = moments_of(run.task.metric, run.table, np.concatenate(times), np.concatenate(clip), grid)
    return made, np.concatenate(embeddings).astype(np.float32)


def compare_moments(run: Run) -> Iterator[bool]:
    made, embeddings = moments(run)
    problem = problem_of_moments(made, run.table, run.rotations, embeddings)
    differing = 0
    for row, (split, name) in enumerate(zip(run.side, run.table["id"], strict=True)):
        theirs = json.loads((run.folder / split / f"{name}.target-labels.json").read_text())
        ours = problem.labels[made.clip == row]
        differing += sum(
            set(there) != {made.classes[at] for at in np.flatnonzero(here)}
            for there, here in zip(theirs, ours, strict=True)
        )
    yield same(f"labels of {len(problem.labels)} moments, {differing} of them other than the kit's", not differing)
    how = dict(run.scores["postprocessing"])
    for rotation in run.rotations:
        found = kit_predictions(run, rotation.name)
        names = [Path(name).name for name, _ in json.loads(timestamps_file(run, rotation.name).read_text())]
        order = sorted(set(names))
        clip = np.array([order.index(name) for name in names])
        rows = np.argsort(clip, kind="stable")
        ours = find_events(
            found["prediction"][rows],
            found["timestamp"][rows],
            clip[rows],
            PostProcessing(how["median_filter_ms"], how["min_duration"]),
        ).tuples(vocabulary(run), len(order))
        theirs = [as_tuples(found["predicted_events"][name]) for name in order]
        yield same(f"events {rotation.name}: {sum(map(len, theirs))} in {len(order)} clips", ours == theirs)


def timestamps_file(run: Run, split: str) -> Path:
    return run.folder / f"{split}.filename-timestamps.json"


def problem_of_clips(run: Run) -> Problem:
    """The kit's scene embeddings in clip-table order."""
    stems = [run.folder / split / name for split, name in zip(run.side, run.table["id"], strict=True)]
    embeddings = np.stack([np.load(f"{stem}.embedding.npy") for stem in stems]).astype(np.float32)
    classes = vocabulary(run)
    exclusive = run.task.kind == "multiclass"
    column = {name: at for at, name in enumerate(classes)}
    if exclusive:
        labels = np.array([column[name] for name in run.table["label"]])
    else:
        labels = np.array([[name in names for name in classes] for names in run.table["label"]])

    def quality(rows: np.ndarray, scores: np.ndarray) -> float:
        return metrics.quality(run.task.metric, labels[rows], scores, classes)

    return Problem(embeddings, exclusive, labels, classes, run.rotations, quality)


def predictions_of(run: Run, problem: Problem, made: Moments | None, fits: list[Fit]) -> Predictions:
    """What the fits say of every test clip, fold after fold."""
    rows = np.concatenate([rotation.test for rotation in run.rotations])
    scores = None if made else np.concatenate([fit.test for fit in fits], axis=1)
    if made:
        decisions = decide(made, run.rotations, fits)
        decided = [[events for decision in decisions for events in decision.events[0]]]
    elif problem.exclusive:
        assert scores is not None
        decided = [[problem.classes[at] for at in scores[0].argmax(axis=1)]]
    else:
        decided = []
    return Predictions(
        kind=run.task.kind,
        ids=list(run.table["id"].iloc[rows]),
        folds=np.concatenate([np.full(len(rotation.test), rotation.name) for rotation in run.rotations]),
        groups=[None] * len(rows),
        truth=list(run.table["label"].iloc[rows]),
        classes=list(problem.classes),
        scores=scores,
        decided=decided,
    )


def compare_linear(run: Run, problem: Problem) -> Iterator[bool]:
    """Accuracy per fold, with a reference that shares nothing with the protocol."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = problem.embeddings.astype(float), problem.labels
    fits = linear.fit(problem, linear.Settings(), 0, lambda _: None)
    theirs = []
    for rotation, fit in zip(run.rotations, fits, strict=True):

        def train(rows: np.ndarray, strength: float) -> Any:
            probe = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=10000))
            return probe.fit(x[rows], y[rows])

        strengths = [10.0**k for k in range(-4, 4)]
        validated = [train(rotation.train, c).score(x[rotation.validation], y[rotation.validation]) for c in strengths]
        best = strengths[int(np.argmax(validated))]
        both = np.sort(np.concatenate([rotation.train, rotation.validation]))
        theirs.append(train(both, best).score(x[rotation.test], y[rotation.test]))
        ours = float(np.mean(fit.test[0].argmax(axis=1) == y[rotation.test]))
        text = f"linear {rotation.name}: scikit-learn {theirs[-1]:.6f} (C={best:g}), here {ours:.6f}"
        yield same(f"{text} (C={fit.choice['chosen']['C']:g})", ours == theirs[-1])
    print(f"  linear mean over folds: {np.mean(theirs):.4f}")


def report_hear(run: Run, problem: Problem, made: Moments | None, name: str, settings: hear.Settings) -> None:
    start = time.perf_counter()
    fits = hear.fit(problem, settings, 0, lambda _: None)
    seconds = time.perf_counter() - start
    predictions = predictions_of(run, problem, made, fits)
    for metric in (run.task.metric, *run.task.metrics):
        ours, theirs = metrics.measure(metric, predictions, run.task.name, 0), run.kit_score(metric)
        if ours.score is None or ours.low is None or ours.high is None:
            print(f"  {name} {metric}: {ours.score} ({ours.reason}); hear-eval-kit {theirs:.4f}")
            continue
        where = "inside" if ours.low <= theirs <= ours.high else "OUTSIDE"
        print(
            f"  {name} {metric}: {ours.score:.4f} [{ours.low:.4f}, {ours.high:.4f}]; hear-eval-kit {theirs:.4f} is "
            f"{where} ({seconds:.0f} s)"
        )


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("embeddings", type=Path)
    parser.add_argument("tasks", type=Path)
    parser.add_argument("--protocols", default="linear,hear", help="of linear, hear, hear-as-published")
    parser.add_argument("--hear-set", action="append", default=[], metavar="KEY=VALUE", help="settings of hear")
    arguments = parser.parse_args(words)
    chosen = arguments.protocols.split(",")
    settings = {key: json.loads(value) if value[:1].isdigit() and "," not in value else value
                for key, value in (each.split("=", 1) for each in arguments.hear_set)}  # fmt: skip
    results: list[bool] = []
    for folder in sorted(path.parent for path in arguments.embeddings.glob("*/test.predicted-scores.json")):
        run = read_run(folder, arguments.tasks)
        print(f"{run.task.name}: {run.task.kind}, {run.task.clips} clips, {len(run.rotations)} rotations")
        results += compare_metrics(run)
        made = None
        if run.task.kind == "event":
            results += compare_moments(run)
            made, embeddings = moments(run)
            problem = problem_of_moments(made, run.table, run.rotations, embeddings)
        else:
            problem = problem_of_clips(run)
        if "linear" in chosen and problem.exclusive:
            results += compare_linear(run, problem)
        for name, published in (("hear", False), ("hear-as-published", True)):
            if name in chosen:
                report_hear(run, problem, made, name, partial(hear.Settings, **settings)(as_published=published))
    if not results:
        print(f"no test.predicted-scores.json under {arguments.embeddings}", file=sys.stderr)
    return 0 if results and all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
