"""The command `ablate`: parse, call, print. What it does is `aape_bench.ablation`'s."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from aape_bench import console
from aape_bench.cli_options import Address, CacheDir, DataDir, Device, ExecutorText
from aape_bench.cli_results import ResultsDir
from aape_bench.errors import UsageError, raise_all

if TYPE_CHECKING:
    from aape_bench.ablation.plan import Request
    from aape_bench.ablation.run import Answers, Surroundings
    from aape_bench.training import Training

EXAMPLES = (
    "Examples:\n\n  aape-bench ablate --dry-run\n\n"
    "  aape-bench ablate --preset smoke --seeds 2 --task tremolo\n\n"
    "  aape-bench ablate --variants no_sblu,kernel33,gaussian_kernel33 --seeds 5 --audio ~/audio --budget 10\n\n"
    "  aape-bench ablate --variants no_sblu --variant 'few_modes:model.modes=4' --executor local:4"
)


def ablate(
    model: Annotated[str, typer.Option("--model", "-m", help="An encoder that offers trainings.")] = "aape",
    variants: Annotated[
        Optional[list[str]],  # noqa: UP045  (Typer on Python 3.11 reads Optional)
        typer.Option(
            "--variants", help="Names at commas, or 'all'; the reference is always trained.", show_default=False
        ),
    ] = None,
    variant: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--variant", help="One more: 'NAME:key=value;key=value'; repeat.", show_default=False),
    ] = None,
    seeds: Annotated[
        int, typer.Option("--seeds", min=1, max=1000, help="Trainings of each variant; more extend fewer.")
    ] = 3,
    task: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--task",
            "-t",
            help="As in run, or 'stability'. Default: the modulation tasks, stability, and whatever data is there.",
            show_default=False,
        ),
    ] = None,
    protocol: Annotated[
        list[str],
        typer.Option("--protocol", "-p", help="How embeddings are judged; the first one answers the questions."),
    ] = ["linear"],  # noqa: B006
    preset: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--preset", help="The training's budget by name (aape: laptop).", show_default=False),
    ] = None,
    steps: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--steps", min=1, help="Of every variant, in place of the preset's.", show_default=False),
    ] = None,
    budget: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            "--budget", help="Minutes of a training: steps of all by the slowest's timing.", show_default=False
        ),
    ] = None,
    learning_rate: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option("--learning-rate", help="Of all, instead of choosing it first.", show_default=False),
    ] = None,
    audio: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--audio", help="What to train on, as in pretrain; repeat. Default: generated.", show_default=False
        ),
    ] = None,
    data_dir: DataDir = None,
    cache_dir: CacheDir = None,
    results_dir: ResultsDir = None,
    executor: ExecutorText = "local",
    address: Address = None,
    device: Device = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Time a few steps, print the whole plan, and write nothing.")
    ] = False,
) -> None:
    """Train variants of an encoder under one budget, evaluate each, and say what follows, with intervals.

    Stopped at any moment, the same command goes on; what is trained or evaluated already is not done again.
    """
    from aape_bench import environment, planning
    from aape_bench.ablation.request import make_request
    from aape_bench.ablation.run import Surroundings, begin
    from aape_bench.ablation.run import ablate as run_ablation
    from aape_bench.ablation.work import training_of
    from aape_bench.executor import parse_executor

    if steps is not None and budget is not None:
        raise UsageError("--steps and --budget both say how many steps to take. Leave one of them out.")
    for name, number in (("--budget", budget), ("--learning-rate", learning_rate)):
        if number is not None and not (math.isfinite(number) and number > 0):
            raise UsageError(f"{name} must be a number above 0, not {number}.")
    training = training_of(model)
    options = planning.Options(
        data_dir=(data_dir or environment.default_folder("data")).absolute(),
        cache_dir=(cache_dir or environment.default_folder("cache")).absolute(),
        results_dir=(results_dir or environment.default_folder("results")).absolute(),
        allow_partial=True,
        device=environment.resolve_device(device),
    )
    workers = parse_executor(executor, address)
    around = Surroundings(training, tuple(audio or training.default_audio), options, workers, console.RichProgress())
    asked = {"steps": steps, "budget": budget, "learning_rate": learning_rate}
    request, remarks = make_request(model, around, preset, variants, variant or [], task, protocol, asked)
    console.print_remarks(remarks)
    if dry_run:
        _print_dry(request, seeds, around)
        return
    answers = run_ablation(begin(request, around), seeds, around)
    _print_answers(answers)
    raise_all(answers.failures)


def _print_dry(request: Request, seeds: int, around: Surroundings) -> None:
    from aape_bench.ablation.run import preview

    seen = preview(request, seeds, around)
    console.print_facts(
        f"{request.model}, preset {request.preset}: {seen.plan.steps} steps of every variant, {seeds} "
        f"seed{'' if seeds == 1 else 's'}",
        audio=", ".join(request.audio),
        learning_rate=_rate_text(request, seen.plan.learning_rate, around.training),
        protocol=", ".join(request.protocols),
        stability=request.stability or "",
        folder=str(seen.folder),
    )
    rows = [
        (
            one.name,
            ";".join(f"{key}={value}" for key, value in one.settings.items()),
            f"{seen.seconds[one.name]:.3g} s",
            console.duration(seen.seconds[one.name] * seen.plan.steps),
            f"{seen.trained[one.name]} of {seeds}",
        )
        for one in request.variants
    ]
    console.print_table(("variant", "settings", "a step", "a training", "trained"), rows)
    tasks = [(task.name, task.domain, f"{task.clips} of {task.expected}") for task in request.tasks]
    console.print_table(("task", "domain", "clips"), tasks)
    questions = [
        (
            one.claim,
            f"{one.ahead} ahead of {', '.join(one.of)}",
            f"mean over {', '.join(request.endpoints[one.endpoint]) or 'nothing'}",
        )
        for one in request.questions
    ]
    console.print_table(("question", "holds where", "by the"), questions)
    tuning = f", of which {console.duration(seen.tuning)} choose the learning rate" if seen.tuning else ""
    left = console.duration(seen.total)
    typer.echo(f"About {left} of training are left{tuning}, besides {seen.results} results to evaluate.")


def _rate_text(request: Request, chosen: float | None, training: Training) -> str:
    if request.asked["learning_rate"] is not None:
        return f"{request.asked['learning_rate']:g}, as asked"
    if chosen is not None:
        return f"{chosen:g}, chosen on {training.tuned_on}"
    if not training.learning_rates:
        return "the preset's"
    rates = ", ".join(f"{rate:g}" for rate in training.learning_rates)
    return f"one of {rates}, to be chosen on {training.tuned_on} by development tasks"


def _print_answers(answers: Answers) -> None:
    for sentence in answers.sentences:
        typer.echo(sentence)
    there = len(answers.outcomes) - answers.computed
    typer.echo(
        f"{answers.computed} training{'' if answers.computed == 1 else 's'} done, {there} already there. Tables and "
        f"{len(answers.files)} pictures are in {answers.folder}."
    )
