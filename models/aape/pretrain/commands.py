"""The commands `pretrain`, `inspect` and `profile`: parse, call, print. What is heavy is imported on use."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from aape_bench import console
from aape_bench.cli_options import Device
from aape_bench.errors import UsageError
from aape_bench.models.aape.pretrain.config import PretrainConfig, encoder_settings

if TYPE_CHECKING:
    from aape_bench.models.aape.config import AapeConfig
    from aape_bench.models.aape.pretrain.measuring import Ratio
    from aape_bench.models.aape.pretrain.sources import Source

pretrain = typer.Typer(
    add_completion=False, rich_markup_mode="rich", help="Train AaPE without labels on any audio; stopped, it goes on."
)
inspect = typer.Typer(
    add_completion=False,
    rich_markup_mode="rich",
    help="Draw what a checkpoint's SBLU has learned and where it saturates.",
)
profile = typer.Typer(
    add_completion=False, rich_markup_mode="rich", help="Time and peak memory of stems, kernels and a training step."
)


def _list_settings(value: bool) -> None:
    from aape_bench.settings import describe

    if value:
        console.print_table(("setting (--set)", "laptop", "values"), describe(PretrainConfig))
        typer.echo("Those of the encoder: aape-bench models aape, and --set model.key=value.")
        raise typer.Exit


Set = Annotated[
    Optional[list[str]],  # noqa: UP045  (Typer on Python 3.11 reads Optional)
    typer.Option("--set", help="key=value of the pre-training, model.key=value of the encoder; repeat."),
]
Preset = Annotated[str, typer.Option("--preset", help="smoke, laptop, node or paper.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Of weights, order, crops and masks.")]
Audio = typer.Option(
    "--audio", help="A folder, file, manifest (CSV, Parquet), tar shards or generated:modulation; repeat."
)


@pretrain.command(
    epilog="Examples:\n\n"
    "  aape-bench pretrain --audio generated:modulation --preset smoke --out trial\n\n"
    "  aape-bench pretrain --audio ~/audio --preset laptop --out runs/laptop --dry-run\n\n"
    "  aape-bench pretrain --audio ~/audio --out runs/gaussian --set model.window=gaussian --set masks=4 --resume\n\n"
    "  aape-bench pretrain --audio clips.csv --preset node --out runs/node --devices 8 --log tensorboard"
)
def pretrain_(
    audio: Annotated[list[str], Audio],
    out: Annotated[Path, typer.Option("--out", help="Folder of this training alone: checkpoints, settings, log.")],
    preset: Preset = "laptop",
    set_: Set = None,
    seed: Seed = 0,
    steps: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--steps", min=1, help="Optimiser steps, in place of the preset's.", show_default=False),
    ] = None,
    init: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--init", help="Weights to begin with: a checkpoint, also of EAT's naming.", show_default=False),
    ] = None,
    minutes: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option("--minutes", min=0, help="Stop after so long, with a checkpoint.", show_default=False),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in --out.")] = False,
    device: Device = "auto",
    devices: Annotated[int, typer.Option("--devices", min=1, help="Processes on this machine, a GPU each.")] = 1,
    log: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--log", help="tensorboard, beside log.csv.", show_default=False),
    ] = None,
    settings: Annotated[  # noqa: ARG001
        bool, typer.Option("--settings", callback=_list_settings, is_eager=True, help="List the settings and stop.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Time a few steps, print what the training would be, write nothing.")
    ] = False,
) -> None:
    """Train AaPE without labels on any audio; stopped at any moment, --resume goes on.

    Masked teacher and student with three losses. OUT gets teacher-STEP.safetensors, which run --weights evaluates.
    """
    from aape_bench import environment
    from aape_bench.fitting import fabric

    fabric.require_lightning()
    if log not in (None, "tensorboard"):
        raise UsageError(f'There is no log "{log}". There is: tensorboard (log.csv is always written).')
    encoder_config, config = configs(preset, set_ or [], steps, init)
    place = environment.resolve_device(device)
    from aape_bench.models.aape.pretrain import engine
    from aape_bench.models.aape.pretrain.log import LiveProgress
    from aape_bench.models.aape.pretrain.sources import open_source

    source = open_source(audio)
    progress = LiveProgress()
    if fabric.rank() == 0:
        console.print_remarks(source.remarks)
    if dry_run:
        found = engine.estimate(encoder_config, config, source, seed, place, progress)
        _print_plan(encoder_config, config, source, found, out)
        return
    try:
        teacher = engine.train(
            encoder_config,
            config,
            source,
            out.absolute(),
            seed,
            resume,
            place,
            progress,
            devices=devices,
            minutes=minutes,
            tensorboard=log == "tensorboard",
            init=init,
        )
    except engine.Stopped as stopped:
        again = "The same command" + ("" if resume else " with --resume")
        typer.echo(f"aape-bench: stopped after step {stopped.step} of {config.steps}. {again} goes on.", err=True)
        raise typer.Exit(128 + stopped.number) from None
    if fabric.rank() > 0:
        return
    done = int(teacher.stem.rpartition("-")[2])
    if done < config.steps:
        typer.echo(f"{done} of {config.steps} steps are done. Go on with --resume.")
    typer.echo(f"Wrote {teacher}. Evaluate it: aape-bench run --model aape --weights {teacher} --task tremolo")


@inspect.command(
    epilog="Examples:\n\n"
    "  aape-bench inspect trial/teacher-20.safetensors --out figures\n\n"
    "  aape-bench inspect trial/teacher-20.safetensors --out figures --audio ~/audio --clips 500"
)
def inspect_(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A teacher or student.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the figures (PNG, SVG) and their numbers (CSV).")],
    audio: Annotated[Optional[list[str]], Audio] = None,  # noqa: UP045
    clips: Annotated[int, typer.Option("--clips", min=1, help="Crops of the audio to measure on.")] = 200,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Draw a checkpoint's kernels, their responses over the modulation axis, and with --audio alpha and beta on it.

    The band that folds at the patch rate, 3.125 to 50 Hz, is marked. Where the log of its training lies beside the
    checkpoint, the losses and their health are drawn, too.
    """
    from aape_bench import environment, selection
    from aape_bench.models.aape.pretrain import inspect as inspection

    encoder = selection.select_model("aape", {}, str(checkpoint), seed).build()
    log = inspection.log_beside(checkpoint)
    found = None
    if log is None or inspection.has_modes(encoder):
        place, progress = environment.resolve_device(device), console.RichProgress()
        found = inspection.measure(encoder, audio, clips, seed, place, progress)
    written = inspection.write(found, out, log)
    if found is not None:
        table = [(row["quantity"], *(f"{row[name]:.3g}" for name in inspection.SUMMARY)) for row in found.summary()]
        console.print_table(("", *inspection.SUMMARY), table)
    if found is None:
        console.print_remarks(["this stem has no alpha and beta: only the training is drawn."])
    elif not audio:
        console.print_remarks(["without --audio alpha and beta are those of a patch that says nothing of its own."])
    typer.echo(f"Wrote {', '.join(path.name for path in written)} in {out}.")


@profile.command(
    epilog="Examples:\n\n"
    "  aape-bench profile\n\n"
    "  aape-bench profile --model 'aape{preset=base}' --batch 1,4 --part stems --out profile.csv\n\n"
    "  aape-bench profile --part step --preset paper --device cuda --peak-tflops 989"
)
def profile_(
    model: Annotated[str, typer.Option("--model", "-m", help="aape or aape{key=value;...}.")] = "aape",
    part: Annotated[
        str, typer.Option("--part", help="stems, kernels, step, finetune, at commas.")
    ] = "stems,kernels,step",
    batch: Annotated[str, typer.Option("--batch", help="Clips at once, but for step, at commas.")] = "1,4",
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Alternating rounds; medians are shown.")] = 5,
    preset: Annotated[str, typer.Option("--preset", help="Of the step: smoke, laptop, node, paper.")] = "smoke",
    set_: Set = None,
    device: Device = "auto",
    peak_tflops: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option("--peak-tflops", help="The device's, for the share of it that is used.", show_default=False),
    ] = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--out", help="Also write the table as CSV.", show_default=False),
    ] = None,
) -> None:
    """Measure time and peak memory, as ratios to the plain stem or the smallest case, in one run in turns."""
    from aape_bench import environment, selection
    from aape_bench.models.aape.config import AapeConfig
    from aape_bench.models.aape.pretrain import profile as profiling

    parts = selection.split_names([part])
    if unknown := [name for name in parts if name not in profiling.PARTS]:
        raise UsageError(f'There is nothing "{unknown[0]}" to profile. There is: {", ".join(profiling.PARTS)}.')
    (choice,) = selection.select_models([model], {}, "random", [0])
    model_config = getattr(choice, "config", None)
    if not isinstance(model_config, AapeConfig):
        raise UsageError(f'profile measures "aape" and its stems, not "{choice.label}".')
    if peak_tflops is not None and not 0 < peak_tflops < math.inf:
        raise UsageError(f"--peak-tflops takes a number above 0, not {peak_tflops:g}.")
    place, progress = environment.resolve_device(device), console.RichProgress()
    batches = _numbers(batch)
    rows: list[Ratio] = []
    if "stems" in parts:
        rows += profiling.stems(model_config, batches, repeats, place, progress)
    if "kernels" in parts:
        rows += profiling.kernel_generation(model_config, batches, repeats, place, progress)
    if "finetune" in parts:
        rows += profiling.fine_tuning_update(model_config, batches, repeats, place, progress)
    if "step" in parts:
        encoder_config, config = configs(preset, set_ or [], None)
        rows += profiling.training_step(encoder_config, config, repeats, place, progress, peak_tflops)
    console.print_table(profiling.HEADS, [profiling.cells(row) for row in rows])
    if out is not None:
        profiling.write_csv(rows, out)
        typer.echo(f"Wrote {out}.")


def configs(
    preset: str, assignments: Sequence[str], steps: int | None, init: Path | None = None
) -> tuple[AapeConfig, PretrainConfig]:
    """The resolved settings of encoder and training. Raises UsageError naming the setting.

    assignments: `key=value` of PretrainConfig, `model.key=value` of AapeConfig, over what the preset wants. init: with
    the weights of a plain encoder the fusion starts at zero, unless they say otherwise.
    """
    from aape_bench.models.aape.config import AapeConfig
    from aape_bench.settings import make_config, split_assignments

    given = split_assignments(";".join(assignments))
    own: dict[str, Any] = {name: value for name, value in given.items() if not name.startswith("model.")}
    if "preset" in own:
        preset = own.pop("preset")
    if steps is not None:
        if "steps" in own:
            raise UsageError("--steps and --set steps=... both say how many steps to take. Leave one of them out.")
        own["steps"] = steps
    config = make_config(PretrainConfig, {"preset": preset, **own}, "pretrain")
    wanted = encoder_settings(config.preset, config.clip_seconds)
    for_model: Mapping[str, Any] = {name[6:]: value for name, value in given.items() if name.startswith("model.")}
    if init is not None and for_model.get("stem", AapeConfig.stem) not in ("plain", "lowpass"):
        from aape_bench.models.aape.pretrain.warm_start import lacks_stem

        if lacks_stem(init):
            wanted["fusion_init"] = "zero"
    encoder_config = make_config(AapeConfig, {**wanted, **for_model}, "aape")
    config.check_encoder(encoder_config)
    return encoder_config, config


def _numbers(text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = [0]
    if min(numbers) < 1:
        raise UsageError(f'--batch takes whole numbers from 1 at commas, not "{text}".')
    return numbers


def _print_plan(encoder_config: AapeConfig, config: PretrainConfig, source: Source, found: Any, out: Path) -> None:
    import shutil

    there = next(place for place in (out.absolute(), *out.absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free
    seconds = found.seconds * config.steps
    size = f"{found.checkpoint_bytes / 2**20:.0f} MB"
    console.print_facts(
        f"{config.preset}: {config.steps} steps of {config.batch} clips x {config.masks} masks",
        audio=f"{len(source)} clips",
        crops=f"{config.clip_seconds:g} s; {config.steps * config.batch / len(source):.1f} epochs",
        encoder=f"{encoder_config.stem}, {encoder_config.depth} blocks of width {encoder_config.dim}, "
        f"{found.parameters / 1e6:.2f} million parameters ({found.trained / 1e6:.2f} million trained in all)",
        time=f"{found.seconds:.3g} s a step, {config.batch / found.seconds:.1f} clips/s, {100 * found.waiting:.0f} % "
        f"waiting for audio: {console.duration(seconds)} in all on one process",
        checkpoints=f"{size} each, {config.keep_checkpoints} stay; {free / 2**30:.1f} GB are free",
    )
