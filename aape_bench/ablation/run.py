"""From a request to answers: steps, learning rate, trainings and evaluations, tables and figures.

Every step is on disk before the next begins, and what is there is not done again: the same command goes on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aape_bench import planning
from aape_bench.ablation.plan import (
    LEARNING_RATE,
    Plan,
    Request,
    ablations,
    folder_of,
    make_plan,
    read_plan,
    write_plan,
)
from aape_bench.ablation.work import Outcome, Timing, Unit, finished, out_of, time_variant, train_and_evaluate
from aape_bench.errors import BenchError, DataError, StorageError, raise_all
from aape_bench.executor import Executor
from aape_bench.progress import Progress
from aape_bench.records import read_record
from aape_bench.storage import atomic_write, check_writable, create_json
from aape_bench.training import Setup, Training, Variant

#: Of the trainings that choose the learning rate; comparisons count theirs from 0.
TUNING_SEED = 1000
#: Their steps, as a share of a variant's.
TUNING_SHARE = 1 / 4
TUNING_PROTOCOL = "linear"


@dataclass(frozen=True)
class Surroundings:
    """Where an ablation is done, and what of the command's no result depends on. audio: as --audio names it."""

    training: Training
    audio: tuple[str, ...]
    options: planning.Options
    executor: Executor
    progress: Progress


@dataclass(frozen=True)
class Answers:
    """What an ablation ended with. computed: trainings of this call; sentences, files: written in `folder`."""

    folder: Path
    outcomes: list[Outcome]
    computed: int
    sentences: list[str]
    files: list[Path]
    failures: list[BenchError]


def begin(request: Request, around: Surroundings) -> Plan:
    """The plan of the request: the one on disk, else a new one, a budget turned into steps and written.

    Raises BenchError where a variant cannot be trained.
    """
    folder = folder_of(around.options.results_dir, request)
    if (plan := read_plan(folder)) is not None:
        return _with_learning_rate(plan, folder)
    check_writable(folder, "--results-dir")
    check(request, _steps(request, {}, around.training), around)
    seconds = {} if request.asked["budget"] is None else time_variants(request, around)
    steps = _steps(request, seconds, around.training)
    return _with_learning_rate(write_plan(folder, make_plan(request, steps, seconds)), folder)


@dataclass(frozen=True)
class Preview:
    """What a dry run tells. seconds: per step, of every variant. trained: seeds of it that are there already.

    tuning, total: seconds of training that are left, total with tuning. results: to be there in the end.
    """

    plan: Plan
    folder: Path
    seconds: dict[str, float]
    trained: dict[str, int]
    tuning: float
    total: float
    results: int


def preview(request: Request, seeds: int, around: Surroundings) -> Preview:
    """Time every variant, and what would be left to do; writes nothing."""
    folder = folder_of(around.options.results_dir, request)
    plan = read_plan(folder)
    check(request, _steps(request, {}, around.training), around)
    seconds = time_variants(request, around)
    if plan is None:
        plan = make_plan(request, _steps(request, seconds, around.training), seconds)
    plan = _with_learning_rate(plan, folder)
    todo, trained, left = units(plan, seeds, around), dict.fromkeys(seconds, 0), 0.0
    tuning = sum(
        unit.setup.steps * seconds.get(unit.variant.name, max(seconds.values()))
        for unit in ([] if plan.learning_rate is not None else tuning_units(plan, around))
        if finished(out_of(unit, around.training)) is None
    )
    for unit in todo:
        if finished(out_of(unit, around.training)) is not None:
            trained[unit.variant.name] += 1
        else:
            left += plan.steps * seconds[unit.variant.name]
    results = len(todo) * (len(plan.tasks) * len(plan.protocols) + (plan.stability is not None))
    processes = around.executor.processes
    return Preview(plan, folder, seconds, trained, tuning / processes, (tuning + left) / processes, results)


def check(request: Request, steps: int, around: Surroundings) -> None:
    """Raise BenchError where a variant, or what the learning rate is chosen on, cannot be trained."""
    for variant in [*request.variants, tuned_variant(around.training)]:
        rate = request.asked["learning_rate"]
        around.training.check(Setup(variant.settings, request.preset, steps, rate, around.audio))


def _steps(request: Request, seconds: Mapping[str, float], training: Training) -> int:
    """The steps asked for; where a budget is, what the slowest of the timed variants takes in it; else the preset's."""
    if (budget := request.asked["budget"]) is not None and seconds:
        return max(1, math.floor(60 * budget / max(seconds.values())))
    return int(request.asked["steps"] or training.preset_steps(request.preset))


def time_variants(request: Request, around: Surroundings) -> dict[str, float]:
    """Seconds per step of every variant, measured as they will be trained: as many side by side."""
    training = around.training
    setups = [
        Setup(one.settings, request.preset, training.preset_steps(request.preset), None, around.audio)
        for one in request.variants
    ]
    names = [one.name for one in request.variants]
    pieces = [Timing(request.model, setup, request.device) for setup in setups]
    timed = around.executor.map(time_variant, pieces, names, around.progress)
    raise_all([one.failure for one in timed if one.failure is not None])
    return {name: one.value for name, one in zip(names, timed, strict=True) if one.value is not None}


def tuned_variant(training: Training) -> Variant:
    """The variant that the learning rate is chosen on."""
    return next(one for one in training.variants() if one.name == training.tuned_on)


def tuning_units(plan: Plan, around: Surroundings) -> list[Unit]:
    """A short training for each learning rate to choose from; none where it is given or there is nothing to choose."""
    if plan.asked["learning_rate"] is not None:
        return []
    variant = tuned_variant(around.training)
    steps = max(1, round(TUNING_SHARE * plan.steps))
    folder = folder_of(around.options.results_dir, plan)
    return [
        Unit(
            model=plan.model,
            variant=variant,
            setup=Setup(dict(variant.settings), plan.preset, steps, rate, around.audio),
            seed=TUNING_SEED,
            tasks=None,
            protocols=(TUNING_PROTOCOL,),
            stability=None,
            trainings=ablations(around.options.results_dir) / "training",
            options=replace(around.options, results_dir=folder / "tuning", references=False, notes=False),
        )
        for rate in around.training.learning_rates
    ]


def units(plan: Plan, seeds: int, around: Surroundings) -> list[Unit]:
    """Every training and its evaluation, one seed of all variants after the other."""
    folder = folder_of(around.options.results_dir, plan)
    options = replace(around.options, results_dir=folder, allow_partial=True, references=False, notes=False)
    return [
        Unit(
            model=plan.model,
            variant=variant,
            setup=plan.setup(variant, around.audio),
            seed=seed,
            tasks=tuple(task.text for task in plan.tasks),
            protocols=plan.protocols,
            stability=plan.stability,
            trainings=ablations(around.options.results_dir) / "training",
            options=options,
        )
        for seed in range(seeds)
        for variant in plan.variants
    ]


def ablate(plan: Plan, seeds: int, around: Surroundings) -> Answers:
    """Choose the learning rate, unless that is done, train and evaluate what is missing, and write the answers.

    seeds: how many, from 0. A training that fails does not stop the others; the answers are then of what there is.
    Raises StorageError; Interrupted.
    """
    plan = _choose_learning_rate(plan, around)
    folder = folder_of(around.options.results_dir, plan)
    todo = units(plan, seeds, around)
    done = around.executor.map(train_and_evaluate, todo, [unit.name for unit in todo], around.progress)
    outcomes = [one.value for one in done if one.value is not None]
    failures = [one.failure for one in done if one.failure is not None]
    failures += [BenchError(text) for outcome in outcomes for text in outcome.failures]
    if not any(outcome.records for outcome in outcomes):
        raise_all(failures)
    sentences, files = _write(plan, outcomes, folder, around)
    return Answers(folder, outcomes, sum(outcome.new for outcome in outcomes), sentences, files, failures)


def _write(plan: Plan, outcomes: Sequence[Outcome], folder: Path, around: Surroundings) -> tuple[list[str], list[Path]]:
    """Tables, sentences and figures."""
    from aape_bench.ablation import tables
    from aape_bench.ablation.rates import rates
    from aape_bench.ablation.scores import score_table, stability_table
    from aape_bench.report.ablation import plot

    scores, stability = score_table(plan, outcomes, folder), stability_table(outcomes)
    for name, table in (("scores.csv", scores), ("stability.csv", stability)):
        with atomic_write(folder / name) as handle:
            table.to_csv(handle, index=False, lineterminator="\n")
    runs = [outcome.run for outcome in outcomes]
    sentences = tables.write(plan, scores, runs, folder, stability)
    around.progress.say("Drawing the figures.")
    by_rate = rates(folder, scores, plan.protocol)
    files = plot(plan, scores, stability, by_rate, around.training.curves(runs), folder)
    return sentences, files


def _choose_learning_rate(plan: Plan, around: Surroundings) -> Plan:
    """The plan with its learning rate, chosen once by the mean score over the development tasks, ties to the lower."""
    folder = folder_of(around.options.results_dir, plan)
    todo = tuning_units(plan, around)
    if not todo or (folder / LEARNING_RATE).is_file():
        return plan
    names = [f"{unit.variant.name} with learning rate {unit.setup.learning_rate:g}" for unit in todo]
    done = around.executor.map(train_and_evaluate, todo, names, around.progress)
    tried: list[dict[str, Any]] = []
    for unit, name, one in zip(todo, names, done, strict=True):
        scores, reason = {}, str(one.failure or "")
        if one.value is not None:
            records = [read_record(path) for path in one.value.records]
            scores = {record.task["name"]: record.scores["score"] for record in records}
            reason = "; ".join(one.value.failures)
            if not reason and None in scores.values():
                reason = "a score is undefined"
        mean = None if reason or not scores else sum(scores.values()) / len(scores)
        tried.append({"learning_rate": unit.setup.learning_rate, "score": mean, "scores": scores, "reason": reason})
        around.progress.say(f"{name}: {reason or f'mean score {mean:.4f} on the development tasks'}")
    usable = [one for one in tried if one["score"] is not None]
    if not usable:
        raise DataError(f"No learning rate could be chosen. {tried[0]['reason']} Name one with --learning-rate.")
    best = max(usable, key=lambda one: (one["score"], -one["learning_rate"]))
    chosen = {
        "learning_rate": best["learning_rate"],
        "chosen_on": todo[0].variant.name,
        "steps": todo[0].setup.steps,
        "seed": TUNING_SEED,
        "protocol": TUNING_PROTOCOL,
        "tried": tried,
    }
    create_json(folder / LEARNING_RATE, chosen)
    return _with_learning_rate(plan, folder)


def _with_learning_rate(plan: Plan, folder: Path) -> Plan:
    """The plan with the learning rate that was asked for or chosen, if it is known by now."""
    if (asked := plan.asked["learning_rate"]) is not None:
        return replace(plan, learning_rate=asked)
    file = folder / LEARNING_RATE
    if not file.is_file():
        return plan
    try:
        return replace(plan, learning_rate=float(json.loads(file.read_text(encoding="utf-8"))["learning_rate"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(
            f"{file} does not say the learning rate ({type(error).__name__}: {error}). Move it away and run again."
        ) from None
