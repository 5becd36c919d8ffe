"""AaPE's side of `aape-bench ablate`: its variants, what they are to answer, and one training. (Imports no torch.)

All variants start from `full`, the defaults of `AapeConfig` and `PretrainConfig`. Their common weights, their order of
clips and their masks are the same bits: each comes from a stream of the seed that is named after it alone.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from aape_bench.errors import UsageError
from aape_bench.fitting import fabric
from aape_bench.identity import digest, source_digest
from aape_bench.models.aape import SOURCES as ENCODER
from aape_bench.models.aape.pretrain.commands import configs
from aape_bench.models.aape.pretrain.config import Preset, PretrainConfig
from aape_bench.models.aape.pretrain.sources import Source, open_source
from aape_bench.progress import Progress
from aape_bench.settings import deciding, make_config
from aape_bench.task import Task
from aape_bench.training import Curves, Interrupted, Question, Run, Setup, Trained, Variant

if TYPE_CHECKING:
    from aape_bench.fitting.table import Row
    from aape_bench.models.aape.config import AapeConfig
    from aape_bench.models.aape.pretrain.log import Show

#: Modules of this package by which settings, seed and audio become a checkpoint, besides the encoder's.
PRETRAINING = (
    *("config", "crops", "data", "engine", "losses", "masks", "model", "predictor", "schedule", "sources"),
    *("trainer", "listing", "shards"),
)
#: Modules of the core by which its steps are taken.
FITTING = ("aape_bench.fitting.fabric",)
#: Modules that read audio.
READING = ("aape_bench.audio", "aape_bench.containers")
#: Modules that make audio; the tasks' rates are those that it avoids.
GENERATING = (
    "aape_bench.models.aape.pretrain.modulated",
    *(f"aape_bench.tasks.modulation.{name}" for name in ("generated", "alias", "tremolo", "vibrato")),
)

VARIANTS = (
    Variant("full", {}, "AaPE: SBLU stem, two-sided exponential window, three losses"),
    Variant("gaussian", {"model.window": "gaussian"}, "Gaussian window of the same bandwidth"),
    Variant("no_contrastive", {"contrastive_weight": 0}, "without the multi-mask contrastive loss"),
    Variant("no_sblu", {"model.stem": "plain"}, "plain patch embedding"),
    Variant("lambda_only", {"model.stem": "lambda_only"}, "the Lambda Encoder's outputs, without kernels"),
    Variant("patch_mlp", {"model.stem": "patch_mlp"}, "an MLP of as many parameters and FLOPs in place of the SBLU"),
    Variant("one_sided", {"model.window": "one_sided"}, "causal exponential window of the same bandwidth"),
    Variant("static", {"model.stem": "static"}, "alpha and beta learned, but the same for every input"),
    Variant("lowpass", {"model.stem": "lowpass"}, "anti-alias filter before the stride, no SBLU"),
    Variant("even_phase", {"model.phase": "even"}, "kernels in |k - c|, blind to the odd part of the signal"),
    Variant("conv_decoder", {"predictor": "conv"}, "grouped convolutions as predictor"),
    Variant(
        "single_mask",
        {"masks": 1, "contrastive_weight": 0},
        "one mask per clip and so, for want of a second view, without the contrastive loss: compare with "
        "no_contrastive for the masks alone",
    ),
    Variant("kernel33", {"model.kernel_frames": 33}, "kernels of 33 frames, across patches"),
    Variant(
        "gaussian_kernel33",
        {"model.window": "gaussian", "model.kernel_frames": 33},
        "Gaussian window, kernels of 33 frames, across patches",
    ),
)

QUESTIONS = (
    Question("sblu", "The SBLU helps", "full", ("no_sblu", "lambda_only", "patch_mlp")),
    Question(
        "window",
        "The two-sided exponential window helps against a Gaussian one",
        ahead="full",
        of=("gaussian",),
        same_as=(("kernel33", "gaussian_kernel33"),),
    ),
    Question("contrastive", "The contrastive loss helps", "full", ("no_contrastive",), "real"),
)

#: Settings that a plan decides for all variants alike.
_THE_PLANS = ("preset", "steps", "learning_rate")
#: Rows of modes.csv and of log.csv that a training leaves at least.
_CHECKPOINTS, _ROWS = 20, 50


class AapeTraining:
    """`aape_bench.training.Training` of AaPE, by the engine of `aape-bench pretrain`."""

    presets: Sequence[str] = get_args(Preset)
    default_preset = "laptop"
    default_audio = ("generated:modulation",)
    default_variants: Sequence[str] = tuple(variant.name for variant in VARIANTS[:6])
    reference = "full"
    tuned_on = "no_sblu"
    learning_rates: Sequence[float] = (5e-4, 1e-3, 2e-3, 4e-3)
    controls: Sequence[str] = ("pitch",)
    stability_task = "tremolo"

    def preset_steps(self, preset: str) -> int:
        """Optimiser steps of a preset. Raises UsageError where there is none of that name."""
        return int(make_config(PretrainConfig, {"preset": preset}, "pretrain").steps)

    def audio_digest(self, audio: Sequence[str]) -> str:
        """Of what the clips are called and where they are cut. Raises UsageError or DataError where there are none."""
        return _source(tuple(audio)).digest

    def audio_remarks(self, audio: Sequence[str]) -> Sequence[str]:
        """What is passed over or named twice; and that made audio marks the modulation tasks' scores."""
        source = _source(tuple(audio))
        made = [
            "part of the training audio is made as the modulation tasks' sounds are: their scores are marked "
            '"same-generator" and decide nothing alone.'
        ]
        return [*source.remarks, *(made if source.generators else [])]

    def variants(self) -> Sequence[Variant]:
        """All that have a name."""
        return VARIANTS

    def questions(self) -> Sequence[Question]:
        """Whether the SBLU, its window and the contrastive loss help."""
        return QUESTIONS

    def development_tasks(self) -> Sequence[Task]:
        """The modulation tasks on clips of their own."""
        from aape_bench.tasks.modulation import alias, chirp, clicks, tremolo, vibrato
        from aape_bench.tasks.modulation.development import development

        return [development(module.task) for module in (tremolo, alias, clicks, vibrato, chirp)]

    def check(self, setup: Setup) -> None:
        """Raise UsageError or DataError where settings or audio do not fit, or Lightning is missing."""
        fabric.require_lightning()
        _configs(setup)
        _source(setup.audio)

    def identity(self, setup: Setup, seed: int) -> str:
        """Hash of settings, seed, audio and code."""
        encoder_config, config = _configs(setup)
        source = _source(setup.audio)
        modules = [*ENCODER, *(f"aape_bench.models.aape.pretrain.{name}" for name in PRETRAINING), *FITTING, *READING]
        if source.generators:
            modules += GENERATING
        return digest(
            {
                "model": deciding(encoder_config),
                "pretrain": deciding(config),
                "seed": seed,
                "audio": source.digest,
                "code": source_digest(modules),
            }
        )

    def seconds_per_step(self, setup: Setup, device: str, progress: Progress) -> float:
        """Median of three steps, the wait for audio included; nothing is written."""
        from aape_bench.models.aape.pretrain import engine

        return engine.estimate(*_configs(setup), _source(setup.audio), 0, device, progress).seconds

    def train(self, setup: Setup, seed: int, out: Path, device: str, progress: Progress) -> Trained:
        """Train, or go on; what only resuming needs is deleted in the end.

        `out` keeps the teacher, config.json, log.csv and modes.csv. Raises what `engine.train` does, but Interrupted
        in place of its Stopped.
        """
        from aape_bench.models.aape.pretrain import ablation_curves, engine, flops
        from aape_bench.models.aape.pretrain.state import Folder

        encoder_config, config = _configs(setup)
        source, folder = _source(setup.audio), Folder(out)
        checkpoint = folder.file("teacher", config.steps)
        if checkpoint.is_file():  # an earlier call ended here, its caller before it took note
            folder.check(engine.identity(encoder_config, config, source, seed), resume=True)
        else:
            try:
                engine.train(encoder_config, config, source, out, seed, True, device, _Steps(progress))
            except engine.Stopped as stopped:
                raise Interrupted(stopped.number) from None
        for kind in ("state", "student"):
            for step in folder.steps(kind):
                folder.file(kind, step).unlink(missing_ok=True)
        size = flops.size_of(encoder_config, config)
        seconds = float(ablation_curves.read_log(out)["seconds"].iloc[-1])
        return Trained(checkpoint, seconds, config.steps, size.parameters, float(size.flops_per_step))

    def curves(self, runs: Sequence[Run]) -> Sequence[Curves]:
        """Losses, alpha and beta over training, and the windows' gradients, see `ablation_curves`."""
        from aape_bench.models.aape.pretrain import ablation_curves

        return ablation_curves.of(runs, [_configs(run.setup)[0] for run in runs])


def _configs(setup: Setup) -> tuple[AapeConfig, PretrainConfig]:
    """Resolved, with what makes a training of any length leave enough rows and few files."""
    for name in _THE_PLANS:
        if name in setup.settings:
            raise UsageError(
                f"A variant cannot set {name}: it is the same for all of them. Leave it out, and give it to the whole "
                f"ablation with --{name.replace('_', '-')}."
            )
    given = [f"{name}={value}" for name, value in setup.settings.items()]
    if setup.learning_rate is not None:
        given.append(f"learning_rate={setup.learning_rate!r}")
    encoder_config, config = configs(setup.preset, given, setup.steps)
    running: dict[str, Any] = {
        "checkpoint_every": min(config.checkpoint_every, math.ceil(config.steps / _CHECKPOINTS)),
        "log_every": min(config.log_every, math.ceil(config.steps / _ROWS)),
        "keep_checkpoints": 1,
    }
    return encoder_config, dataclasses.replace(config, **running)


@functools.lru_cache(maxsize=1)
def _source(audio: tuple[str, ...]) -> Source:
    """Listed once: a folder may hold millions of files."""
    return open_source(audio)


class _Steps:
    """Any `Progress` as the engine's `Monitor`: a training is a stage of so many steps."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.say = progress.say
        self.stage = progress.stage

    @contextmanager
    def training(self, done: int, total: int) -> Iterator[Show]:
        """Show a run of `total` steps, `done` already."""
        with self._progress.stage("training", total, "steps") as advance:
            advance(done)

            def show(step: int, row: Row | None) -> None:
                del step
                if row is None:  # every step is shown without its row, and some once more with it
                    advance(1)

            yield show
