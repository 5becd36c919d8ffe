"""What AaPE costs: stems in the encoder, generating kernels, a step of pre-training, an update of fine-tuning.

(Imports torch.)
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aape_bench.finetune import augment, objective
from aape_bench.finetune.groups import parameter_groups
from aape_bench.finetune.learner import Tuned
from aape_bench.finetune.recipe import Recipe
from aape_bench.fitting.fabric import launch
from aape_bench.models.aape.config import AapeConfig
from aape_bench.models.aape.encoder import AapeEncoder
from aape_bench.models.aape.pretrain.config import PretrainConfig
from aape_bench.models.aape.pretrain.crops import SAMPLE_RATE
from aape_bench.models.aape.pretrain.data import Batch
from aape_bench.models.aape.pretrain.flops import step_flops
from aape_bench.models.aape.pretrain.measuring import Case, Ratio, compare
from aape_bench.models.aape.pretrain.trainer import Trainer
from aape_bench.models.aape.sblu import kernels
from aape_bench.progress import Progress
from aape_bench.randomness import torch_stream
from aape_bench.settings import make_config
from aape_bench.storage import write_text

PARTS = ("stems", "kernels", "step", "finetune")
HEADS = ("what", "batch", "ms", "time ratio", "peak MB", "memory ratio", "notes")
#: The stems compared, the first being what the others are relative to, and the settings that make them.
STEMS: dict[str, dict[str, Any]] = {
    "plain": {"stem": "plain"},
    "sblu": {"stem": "sblu"},
    "sblu recomputed": {"stem": "sblu", "stem_recompute": True},
    "static": {"stem": "static"},
    "lambda_only": {"stem": "lambda_only"},
    "patch_mlp": {"stem": "patch_mlp"},
    "lowpass": {"stem": "lowpass"},
}
STEP_STEMS = ("plain", "sblu", "sblu recomputed")
KERNEL_FRAMES = (16, 33, 65, 129)
ESC50_SECONDS, ESC50_CLASSES = 5.12, 50
#: Settings of the encoder that every stem reads; the others have their defaults here.
_SHARED = (
    *("preset", "width", "blocks", "heads", "mlp_ratio", "norm", "norm_eps", "init_std", "position_base", "n_mels"),
    *("patch_frames", "patch_mels", "clip_frames", "norm_mean", "norm_std"),
)


def stems(config: AapeConfig, batches: Sequence[int], repeats: int, device: str, progress: Progress) -> list[Ratio]:
    """Forward and backward of the encoder on whole windows, with each of STEMS."""
    found = []
    for batch in batches:
        cases = [Case(f"encoder, {what}", batch, _encoder_pass(variant(config, what), batch, device)) for what in STEMS]
        found += compare(cases, repeats, device, progress)
    return found


def kernel_generation(
    config: AapeConfig, batches: Sequence[int], repeats: int, device: str, progress: Progress
) -> list[Ratio]:
    """Forward and backward of making the kernels of all patches at once, relative to the smallest batch and K."""
    patches = config.clip_frames // config.patch_frames * config.rows
    cases = []
    for batch in batches:
        for frames in KERNEL_FRAMES:
            notes = f"{batch * patches} patches x {config.modes} modes x {frames} complex values"
            call = _kernel_pass(config, batch * patches, frames, device)
            cases.append(Case(f"kernels, K = {frames}", batch, call, notes))
    return compare(cases, repeats, device, progress)


def training_step(
    encoder_config: AapeConfig,
    config: PretrainConfig,
    repeats: int,
    device: str,
    progress: Progress,
    peak_tflops: float | None = None,
) -> list[Ratio]:
    """A step of pre-training on noise, from the waveforms to the new teacher, with each of STEP_STEMS.

    peak_tflops: what the device can do at this precision; the notes then say how much of it is used. FLOPs are those of
    matrix products, convolutions and attention, without what is recomputed.
    """
    variants = {what: variant(encoder_config, what) for what in STEP_STEMS}
    cases = [Case(f"step, {what}", config.batch, _step(one, config, device)) for what, one in variants.items()]
    found, counted, noted = compare(cases, repeats, device, progress), dict[str, float](), []
    for ratio, one in zip(found, variants.values(), strict=True):
        if one.stem not in counted:
            counted[one.stem] = step_flops(one, config)
        seconds, flops = ratio.milliseconds / 1000, counted[one.stem]
        notes = f"{config.batch / seconds:.1f} clips/s, {flops / 1e12:.3g} TFLOP, {flops / seconds / 1e12:.3g} TFLOP/s"
        if peak_tflops is not None:
            notes += f", {flops / seconds / (peak_tflops * 1e12):.1%} of the peak"
        noted.append(dataclasses.replace(ratio, notes=notes))
    return noted


def fine_tuning_update(
    config: AapeConfig, batches: Sequence[int], repeats: int, device: str, progress: Progress
) -> list[Ratio]:
    """An update by ESC-50's recipe on noise, from the waveforms to the new weights, relative to the smallest batch.

    Without the augmentation of waveforms, which `run --dry-run` times with the rest.
    """
    cases = []
    for batch in batches:
        call = _update(config, Recipe(preset="esc50", batch=batch).resolved(), device)
        cases.append(Case(f"fine-tuning, {ESC50_SECONDS:g} s", batch, call))
    found = compare(cases, repeats, device, progress)
    return [
        dataclasses.replace(one, notes=f"{one.milliseconds / 1000 / one.batch:.3g} s a clip in the update")
        for one in found
    ]


def variant(config: AapeConfig, stem: str) -> AapeConfig:
    """The encoder of a config with one of STEMS; the same one where that is the config's own."""
    settings = STEMS[stem]
    if settings["stem"] == config.stem:
        return dataclasses.replace(config, **settings).resolved()
    shared = {name: getattr(config, name) for name in _SHARED}
    return make_config(AapeConfig, {**shared, **settings}, "aape")


def cells(ratio: Ratio) -> tuple[str, ...]:
    """A row for people."""
    return (
        *(ratio.what, str(ratio.batch), f"{ratio.milliseconds:.1f}", f"{ratio.time_ratio:.3f}"),
        *("" if ratio.megabytes is None else f"{ratio.megabytes:.1f}",),
        *("" if ratio.memory_ratio is None else f"{ratio.memory_ratio:.3f}", ratio.notes),
    )


def write_csv(ratios: Sequence[Ratio], path: Path) -> None:
    """The same rows as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in dataclasses.fields(Ratio)])
    for ratio in ratios:
        values = dataclasses.astuple(ratio)
        writer.writerow(["" if v is None else f"{v:.6g}" if isinstance(v, float) else v for v in values])
    write_text(path, text.getvalue())


def _noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch_stream(0, "profile"))


def _encoder_pass(config: AapeConfig, batch: int, device: str) -> Callable[[], Callable[[], None]]:
    def build() -> Callable[[], None]:
        encoder = AapeEncoder(config, 0).to(device)
        log_mel = _noise(batch, 1, config.clip_frames, config.n_mels).to(device) / 2

        def call() -> None:
            tokens, cls = encoder.encode(log_mel)
            (tokens.square().mean() + cls.square().mean()).backward()  # type: ignore[no-untyped-call]
            encoder.zero_grad(set_to_none=True)

        return call

    return build


def _kernel_pass(config: AapeConfig, patches: int, frames: int, device: str) -> Callable[[], Callable[[], None]]:
    def build() -> Callable[[], None]:
        alpha, beta = (torch.full((patches, config.modes), value, device=device) for value in (0.3, 1.0))
        alpha.requires_grad_(), beta.requires_grad_()

        def call() -> None:
            made = kernels(alpha, beta, frames, config.window, config.phase, config.scale)
            torch.autograd.grad(made, (alpha, beta), torch.ones_like(made))

        return call

    return build


def _update(config: AapeConfig, recipe: Recipe, device: str) -> Callable[[], Callable[[], None]]:
    def build() -> Callable[[], None]:
        encoder = AapeEncoder(dataclasses.replace(config, pooling="cls"), 0)
        module = Tuned(encoder, objective.Head(encoder.scene_embedding_size, ESC50_CLASSES, 0)).to(device).train()
        groups = parameter_groups(encoder, module.head, recipe)
        optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(recipe.beta1, recipe.beta2))
        samples, clips = round(ESC50_SECONDS * SAMPLE_RATE), list(range(recipe.batch))
        audio, lengths = _noise(recipe.batch, samples).to(device) / 8, torch.full((recipe.batch,), samples)
        truth = objective.targets_of(torch.arange(recipe.batch) % ESC50_CLASSES, ESC50_CLASSES, recipe.smoothing)

        def call() -> None:
            streams = augment.clip_streams(0, "profile", 0, clips)
            encoder.drop_path = augment.drop_path(streams, recipe.drop_path, encoder.drop_path_blocks).to(device)
            with torch.no_grad():
                heard, sizes = encoder.spectrogram(audio, lengths.to(device))
            loss = objective.loss_of(module(heard, sizes), truth.to(device), "ce")
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return call

    return build


def _step(encoder_config: AapeConfig, config: PretrainConfig, device: str) -> Callable[[], Callable[[], object]]:
    def build() -> Callable[[], object]:
        trainer = Trainer(launch(device, 1, config.precision), encoder_config, config, 0)
        samples, clips = round(config.clip_seconds * SAMPLE_RATE), torch.arange(config.batch)
        audio = _noise(config.batch, samples).clamp(-4, 4) / 8
        batch = Batch(audio, torch.full((config.batch,), samples), clips, clips, torch.zeros_like(clips), 0)
        return lambda: trainer.step(0, batch)

    return build
