"""What the command line says -> a request: names looked up, defaults filled in, data found, all of it refused early."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from aape_bench import inventory, planning, registry, selection
from aape_bench.ablation.plan import PlannedTask, Request, answerable, choose_variants, endpoints_of
from aape_bench.ablation.run import Surroundings
from aape_bench.errors import BenchError, UsageError, raise_all
from aape_bench.settings import suggestion
from aape_bench.task_data import load_task

#: Not a task, but asked for like one.
STABILITY = "stability"


def make_request(
    model: str,
    around: Surroundings,
    preset: str | None,
    variants: Sequence[str] | None,
    own: Sequence[str],
    tasks: Sequence[str] | None,
    protocols: Sequence[str],
    asked: dict[str, float | None],
) -> tuple[Request, list[str]]:
    """The request, and what a reader should know of it, one sentence each.

    preset, variants, tasks: None: the training's own; of tasks all that are generated or whose data is there, and
    stability. own: further variants, `name:key=value;...`. asked: see `Request`.
    Raises BenchError where something is not known, or a task that is named cannot be read.
    """
    training = around.training
    preset = preset or training.default_preset
    if preset not in training.presets:
        raise UsageError(f'There is no preset "{preset}" of {model}.{suggestion(preset, training.presets)}')
    names = training.default_variants if variants is None else selection.split_names(variants)
    chosen = choose_variants(training.variants(), names, training.reference, own)
    if len(chosen) == 1:
        raise UsageError(
            f'There is nothing to compare "{training.reference}" with. Name variants with --variants or --variant.'
        )
    texts, remarks = _all_tasks(around.options.data_dir) if tasks is None else (selection.split_names(tasks), [])
    planned = _read([text for text in texts if text != STABILITY], around.options)
    if not planned:
        raise UsageError("No task is named besides stability. Name one with --task, or leave the option out.")
    request = Request(
        model=model,
        preset=preset,
        device=around.options.device,
        reference=training.reference,
        variants=tuple(chosen),
        questions=tuple(answerable(training.questions(), chosen)),
        tasks=tuple(planned),
        endpoints=endpoints_of(planned, training.controls),
        protocols=tuple(one.label for one in planning.choose_protocols(selection.split_names(protocols), {})),
        stability=training.stability_task if STABILITY in texts else None,
        audio=tuple(Path(text).name for text in around.audio),
        audio_digest=training.audio_digest(around.audio),
        asked=asked,
    )
    return request, [*remarks, *training.audio_remarks(around.audio), *_lacking(request)]


def _all_tasks(data_dir: Path) -> tuple[list[str], list[str]]:
    """Stability, and every task that has something to judge by; and which were left out though their data is there."""
    known, broken = registry.every_task()
    remarks = [f"a task is left out: {one.reason}" for one in broken]
    names = [STABILITY]
    for task in sorted(known, key=lambda one: (one.domain != "modulation", one.name)):
        held = inventory.survey(task, data_dir)
        if held.state in ("generated", "complete", "partial"):
            names.append(task.name)
        elif held.state == "unusable":
            remarks.append(f"{task.name} is left out: {held.reason}")
    return names, remarks


def _read(texts: Sequence[str], options: planning.Options) -> list[PlannedTask]:
    planned: dict[str, PlannedTask] = {}
    failures: list[BenchError] = []
    for text in texts:
        for task in selection.select_tasks([text]):
            try:
                data = load_task(task, options.data_dir, options.cache_dir, options.allow_partial)
            except BenchError as error:
                failures.append(error)
                continue
            found = PlannedTask(text if task.root else task.name, task.name, task.domain, len(data.table), task.clips)
            planned.setdefault(task.name, found)
    raise_all(failures)
    return list(planned.values())


def _lacking(request: Request) -> list[str]:
    remarks = [
        f"{task.name} is partial: {task.clips} of {task.expected} clips."
        for task in request.tasks
        if task.clips < task.expected
    ]
    asked = {question.endpoint for question in request.questions}
    return remarks + [
        f'no task of the endpoint "{name}" is there, so nothing that it decides can be answered.'
        for name, tasks in request.endpoints.items()
        if name in asked and not tasks
    ]
