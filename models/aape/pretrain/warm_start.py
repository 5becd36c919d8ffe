"""Start from trained weights: an encoder of this package, or a plain ViT as EAT writes it. (Imports torch.)

What the file lacks of the stem (the SBLU and its fusion) keeps its own initial weights; with `fusion_init=zero` the
encoder then begins as the very function that the file holds. Files of EAT's and of timm's naming are understood (see
`layouts`).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from aape_bench.checkpoint import CheckpointHeader, is_common_float, is_pickle, read_header
from aape_bench.errors import CheckpointError
from aape_bench.identity import file_digest
from aape_bench.models.aape.config import AapeConfig, VitConfig
from aape_bench.models.aape.layouts import half_turned, translated
from aape_bench.overlap import TrainingAudio
from aape_bench.published_weights import read_published

if TYPE_CHECKING:
    from aape_bench.models.aape.encoder import AapeEncoder

_MODELS = ("aape", "vit")
#: Settings that decide nothing of a trained function but what shapes show, or only with what weights it began.
_MAY_DIFFER = (
    *("preset", "clip_frames", "lambda_width", "lambda_layers"),
    *("init_std", "lambda_head_std", "fusion_init", "fusion_rms"),
)
#: Stems without SBLU or control, whose weights any other stem can begin with.
_BARE = ("plain", "lowpass")
#: What a plain encoder lacks.
_ADDED = ("stem.unit.", "stem.fusion.")


def lacks_stem(path: Path) -> bool:
    """Whether a checkpoint is of an encoder without SBLU or control in its stem. Raises CheckpointError."""
    about = _header(path)
    return about.model not in _MODELS or _stem(about) in _BARE


def _header(path: Path) -> CheckpointHeader:
    """What a checkpoint says of itself: nothing where another program wrote it, as every pickle."""
    return CheckpointHeader("", {}, {}) if is_pickle(path) else read_header(path)


def _stem(about: CheckpointHeader) -> object:
    return about.config.get("stem", "plain")


def checkpoint_digest(path: Path) -> str:
    """SHA-256 of a checkpoint. Raises CheckpointError where there is none."""
    _header(path)
    return file_digest(path)


def load(encoder: AapeEncoder, path: Path) -> TrainingAudio:
    """Load what a file has of an encoder's weights; what it was trained on.

    Raises CheckpointError where the file cannot be read without running code, is of other shapes, or of another
    function.
    """
    about, tensors = _header(path), read_published(path)
    turned = False
    if about.model in _MODELS:
        _check_settings(encoder.config, about, path)
    else:
        tensors, turned = translated(tensors, encoder.config, f"--init {path}", "model.")
    own = encoder.state_dict()
    for name, tensor in own.items():
        if name in tensors:
            if tensors[name].shape != tensor.shape:
                raise CheckpointError(
                    f"--init {path} does not fit the model: {name} is {list(tensors[name].shape)} there and "
                    f"{list(tensor.shape)} in the model. Name its settings with --set model.key=value."
                )
            if not is_common_float(tensors[name]):
                raise CheckpointError(
                    f"--init {path} does not fit the model: {name} is of type {tensors[name].dtype}. Convert it to "
                    f"{tensor.dtype}."
                )
            if not tensors[name].isfinite().all():
                raise CheckpointError(f"--init {path} holds NaN or infinite values, in {name}.")
        elif not name.startswith(_ADDED):
            raise CheckpointError(f"--init {path} does not fit the model: it has no {name}.")
    if extra := sorted(set(tensors) - set(own)):
        raise CheckpointError(f"--init {path} does not fit the model, which has no {extra[0]}.")
    if turned:
        tensors = half_turned(tensors)
    encoder.load_state_dict({**own, **{name: tensor.to(own[name]) for name, tensor in tensors.items()}})
    # of what other programs trained on nothing is known
    return TrainingAudio.from_card(about.card) or TrainingAudio(complete=False)


def _check_settings(config: VitConfig, about: CheckpointHeader, path: Path) -> None:
    replaced = _stem(about) in _BARE and _stem(about) != getattr(config, "stem", "plain")
    for field in dataclasses.fields(VitConfig if replaced else config):
        if field.metadata.get("inference") or field.metadata.get("execution") or field.name not in about.config:
            continue
        if field.name in _MAY_DIFFER or (field.name in ("alpha_init", "input_rms") and not _scales(config, field.name)):
            continue
        here, there = getattr(config, field.name), about.config[field.name]
        if here != there:
            raise CheckpointError(
                f"--init {path} was trained with {field.name}={there}, not {here}. Name it: "
                f"--set model.{field.name}={there}"
            )


def _scales(config: VitConfig, name: str) -> bool:
    """Whether the fusion's fixed scales hang on a setting that otherwise is of the initial weights alone."""
    if not isinstance(config, AapeConfig):
        return False
    return config.measures_energy or (name == "alpha_init" and config.stem == "lambda_only")
