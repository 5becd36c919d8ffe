"""What the linear probe costs: against a plain loop of scikit-learn, and its two solvers against each other.

    python benchmarks/linear_probe.py [--quick]

All data are drawn from a seed, with classes that overlap as those of embeddings do. `esc50`: the protocol on ESC-50's
shape against what one would write with scikit-learn, in turn. `vc1`: one fit of VoxCeleb1's shape by either solver,
each in a process of its own. `nsynth`: the protocol, streamed, on 300 000 x 3840 embeddings, some steps of the solver
only: what it keeps in memory and what a pass takes do not depend on their number.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import Cost, Row, alternating, command, compared, in_process, table

from aape_bench.clip_table import Rotation
from aape_bench.problem import Problem
from aape_bench.protocols import linear
from aape_bench.protocols.common import fit_scaler, one_thread, threads_allowed
from aape_bench.protocols.logistic import Lesson, Whole, hearing_of_convergence
from aape_bench.protocols.streamed import Streamed, centred

RUNS = 5
#: Of ESC-50's shape, drawn from so many seeds; the first is timed.
SETS = 3


def measure(quick: bool) -> list[Row]:
    """All rows; quick: of smaller shapes."""
    with tempfile.TemporaryDirectory() as folder:
        return [*_esc50(quick), *_vc1(quick, Path(folder)), *_nsynth(quick, Path(folder))]


def drawn(rows: int, dimensions: int, classes: int, apart: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(rows, dimensions) float32 and labels: centres and clips in 128 directions of falling variance, and noise."""
    rng = np.random.default_rng(seed)
    latent = min(dimensions, 128)
    directions = rng.standard_normal((latent, dimensions)) * np.arange(1, latent + 1)[:, None] ** -0.5
    centres = rng.standard_normal((classes, latent)) * apart
    labels = np.arange(rows) % classes
    places = centres[labels] + 2 * rng.standard_normal((rows, latent))
    noise = 0.3 * rng.standard_normal((rows, dimensions), dtype=np.float32)
    return places.astype(np.float32) @ directions.astype(np.float32) + noise, labels


def problem_of(x: np.ndarray, y: np.ndarray, rotations: list[Rotation]) -> Problem:
    """Judged by accuracy."""
    names = [str(one) for one in range(int(y.max()) + 1)]
    return Problem(x, True, y, names, rotations, lambda rows, scores: float((scores.argmax(1) == y[rows]).mean()))


def _esc50(quick: bool) -> list[Row]:
    shape = rows, dimensions, classes = (400, 192, 10) if quick else (2000, 768, 50)
    sets = [_in_five_folds(*shape, seed) for seed in range(1 if quick else SETS)]

    def ours(number: int = 0) -> float:
        problem, y = sets[number]
        fits = linear.fit(problem, linear.Settings(), 0, lambda _: None)
        parts = zip(fits, problem.rotations, strict=True)
        return float(np.mean([(one.test[0].argmax(1) == y[rotation.test]).mean() for one, rotation in parts]))

    def theirs(number: int = 0) -> float:
        problem, y = sets[number]
        return float(np.mean([_plain(problem.embeddings, y, rotation) for rotation in problem.rotations]))

    def theirs_in_one_thread(number: int = 0) -> float:
        with one_thread(use_torch=False):
            return theirs(number)

    sides = [lambda work=work: in_process(work) for work in (ours, theirs, theirs_in_one_thread)]
    costs = alternating(1 if quick else RUNS, *sides)
    found = []
    what = f"{rows} x {dimensions}, {classes} classes, 5 folds, 8 strengths"
    for threads, cost in zip((f"{threads_allowed()}", "one"), costs[1:], strict=True):
        note = f"theirs: a plain loop of LogisticRegression, BLAS threads: {threads}"
        beside = f"loop with {threads} BLAS thread(s)"
        found.append(_row("esc50", f"{what}: wall, {beside}", costs[0], cost, lambda one: one.wall, "s", note))
        found.append(_row("esc50", f"{what}: CPU, {beside}", costs[0], cost, lambda one: one.cpu, "s", note))
    for number in range(len(sets)):
        drawn_from = f"{what}: accuracy, data of seed {number}"
        found.append(
            compared("linear_probe.esc50", drawn_from, [ours(number)], [theirs_in_one_thread(number)], "share right")
        )
    return found


def _in_five_folds(rows: int, dimensions: int, classes: int, seed: int) -> tuple[Problem, np.ndarray]:
    x, y = drawn(rows, dimensions, classes, apart=0.7, seed=seed)
    fold = np.arange(rows) // classes % 5
    rotations = []
    for k in range(5):
        validation, test = fold == (k + 1) % 5, fold == k
        rotations.append(Rotation(str(k), *map(np.flatnonzero, (~validation & ~test, validation, test))))
    return problem_of(x, y, rotations), y


def _plain(x: np.ndarray, y: np.ndarray, rotation: Rotation) -> float:
    """Accuracy on the test rows, as one would write it by hand."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    x = x.astype(np.float64)
    scaler = StandardScaler().fit(x[rotation.train])
    train, validation = scaler.transform(x[rotation.train]), scaler.transform(x[rotation.validation])
    best, chosen = -1.0, 0.0
    for strength in 10.0 ** np.arange(-4, 4):
        model = LogisticRegression(C=strength, max_iter=10_000).fit(train, y[rotation.train])
        if (score := model.score(validation, y[rotation.validation])) > best:
            best, chosen = score, strength
    both = np.concatenate([rotation.train, rotation.validation])
    scaler = StandardScaler().fit(x[both])
    model = LogisticRegression(C=chosen, max_iter=10_000).fit(scaler.transform(x[both]), y[both])
    return float(model.score(scaler.transform(x[rotation.test]), y[rotation.test]))


def _vc1(quick: bool, folder: Path) -> list[Row]:
    shape = (2000, 192, 125) if quick else (20_000, 768, 1251)
    costs: dict[str, list[Cost]] = {"streamed": [], "scikit-learn": []}
    said: dict[str, list[dict[str, Any]]] = {"streamed": [], "scikit-learn": []}
    for solver in costs:
        print(f"vc1: {shape} by {solver}", file=sys.stderr, flush=True)
        path = folder / "vc1.json"
        costs[solver].append(command([sys.executable, __file__, "--part", "vc1", *map(str, shape), solver, path]))
        said[solver].append(json.loads(path.read_text()))
    what = "{} x {}, {} classes, C = 0.1".format(*shape)
    note = "ours: streamed, theirs: scikit-learn, each with one thread"
    ours, theirs = said["streamed"], said["scikit-learn"]
    seconds = [[one["seconds"] for one in side] for side in (ours, theirs)]
    difference = abs(ours[0]["objective"] / theirs[0]["objective"] - 1)
    passes = f"{ours[0]['passes']} passes over the rows; {note}"
    return [
        compared("linear_probe.vc1", f"{what}: one fit", seconds[0], seconds[1], "s", passes),
        _row("vc1", f"{what}: peak memory", costs["streamed"], costs["scikit-learn"], lambda one: one.peak, "MB", note),
        Row("linear_probe.vc1", f"{what}: objectives differ by", difference, None, "relative", None, 1, note),
    ]


def _vc1_part(rows: str, dimensions: str, classes: str, solver: str, path: str) -> None:
    """One fit in this process: its seconds, passes over the rows, and objective."""
    x, y = drawn(int(rows), int(dimensions), int(classes), apart=1.0)
    everything = np.arange(len(x))
    lesson = Lesson(x, everything, centred(fit_scaler(x, everything)), y)
    how = linear.Settings().tolerance, linear.Settings().max_iterations
    passes = _counted()
    with one_thread(use_torch=solver == "streamed"), hearing_of_convergence():
        started = time.perf_counter()
        fitter = Streamed(lesson, *how, "cpu", 1) if solver == "streamed" else Whole(lesson, *how)
        found = fitter.fit(0.1, None)
        seconds = time.perf_counter() - started
    assert found.converged
    loss = 0.0
    for part in np.array_split(everything, 20):
        logits = (x[part] - lesson.scaler.mean) / lesson.scaler.scale @ found.weights + found.offsets
        logits -= logits.max(axis=1, keepdims=True)
        loss += float((np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(part)), y[part]]).sum())
    objective = 0.1 * loss + float(np.square(found.weights).sum()) / 2
    Path(path).write_text(json.dumps({"seconds": seconds, "passes": len(passes), "objective": objective}))


def _nsynth(quick: bool, folder: Path) -> list[Row]:
    rows, dimensions = (30_000, 384) if quick else (300_000, 3840)
    print(f"nsynth: writing {rows} x {dimensions}", file=sys.stderr, flush=True)
    path = folder / "embeddings.npy"
    values = np.lib.format.open_memmap(path, "w+", np.float32, (rows, dimensions))
    for start in range(0, rows, 10_000):
        values[start : start + 10_000] = drawn(10_000, dimensions, 11, apart=0.1, seed=start)[0]
    values.flush()
    del values
    print("nsynth: fitting", file=sys.stderr, flush=True)
    said = folder / "nsynth.json"
    cost = command([sys.executable, __file__, "--part", "nsynth", path, said])
    about = json.loads(said.read_text())
    size, threads = rows * dimensions * 4 / 2**20, f"{about['threads']} threads"
    what = f"{rows} x {dimensions}, 11 classes"
    whole = f"theirs: the embeddings themselves; {threads}"
    one = f"{what}: one pass over the training rows"
    return [
        compared("linear_probe.nsynth", f"{what}: peak memory", [cost.peak], [size], "MB", whole),
        Row("linear_probe.nsynth", one, about["seconds"], None, "s", None, about["passes"], threads),
    ]


def _nsynth_part(path: str, said: str) -> None:
    """The protocol in this process: reading embeddings, three steps for the path, three for the refit, scores."""
    x = np.load(path)
    y = np.arange(len(x)) % 11
    parts = np.split(np.arange(len(x)), [int(0.945 * len(x)), int(0.986 * len(x))])
    passes = _counted()
    settings = linear.Settings(c_min=-2, c_max=-2, max_iterations=3, solver="streamed")
    linear.fit(problem_of(x, y, [Rotation("test", *parts)]), settings, 0, lambda _: None)
    about = {"seconds": float(np.median(passes)), "passes": len(passes), "threads": threads_allowed()}
    Path(said).write_text(json.dumps(about))


def _counted() -> list[float]:
    """Filled with the seconds of every pass of the streamed solver from here on."""
    seconds: list[float] = []
    plain = Streamed._value_and_gradient

    def timed(*arguments: Any) -> Any:
        started = time.perf_counter()
        value = plain(*arguments)
        seconds.append(time.perf_counter() - started)
        return value

    Streamed._value_and_gradient = timed  # type: ignore[method-assign]
    return seconds


def _row(
    part: str, what: str, ours: list[Cost], theirs: list[Cost], of: Callable[[Cost], float], unit: str, notes: str
) -> Row:
    sides = [[of(one) for one in side] for side in (ours, theirs)]
    return compared(f"linear_probe.{part}", what, sides[0], sides[1], unit, notes)


if __name__ == "__main__":
    if "--part" in sys.argv:
        name, *arguments = sys.argv[sys.argv.index("--part") + 1 :]
        {"vc1": _vc1_part, "nsynth": _nsynth_part}[name](*arguments)
    else:
        print(table(measure("--quick" in sys.argv)).to_csv(index=False))
