"""Start from trained weights: an encoder of this package, or a plain ViT as EAT writes it. (Imports torch.)

What the file lacks of the stem (the SBLU and its fusion) keeps its own initial weights; with `fusion_init=zero` the
encoder then begins as the very function that the file holds. Files of EAT's (Chen et al., arXiv 2401.03497) and of
timm's naming are understood. MAE's fixed positions, which EAT has, put the row's part before the time's, ours the
time's first: the two halves of all channels change places, which leaves the function as it is.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING

from aape_bench.checkpoint import CheckpointHeader, is_common_float, read_header
from aape_bench.errors import CheckpointError
from aape_bench.identity import file_digest
from aape_bench.models.aape.config import AapeConfig, VitConfig
from aape_bench.overlap import TrainingAudio

if TYPE_CHECKING:
    from torch import Tensor

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

#: Names of EAT and timm, without their prefix -> ours.
_NAMES = (
    (r"(local_encoder|patch_embed)\.proj\.", "stem.conv_token."),
    (r"(extra_tokens|cls_token)$", "backbone.cls"),
    (r"(context_encoder\.norm|pre_norm)\.", "backbone.norm."),
    (r"norm\.", "backbone.norm."),
    (r"blocks\.(\d+)\.attn\.qkv\.", r"backbone.blocks.\1.qkv."),
    (r"blocks\.(\d+)\.attn\.proj\.", r"backbone.blocks.\1.projection."),
    (r"blocks\.(\d+)\.mlp\.fc1\.", r"backbone.blocks.\1.mlp.0."),
    (r"blocks\.(\d+)\.mlp\.fc2\.", r"backbone.blocks.\1.mlp.2."),
    (r"blocks\.(\d+)\.(norm[12])\.", r"backbone.blocks.\1.\2."),
)
_PREFIX = re.compile(r"^(model\.)?(modality_encoders\.IMAGE\.)?")
_POSITIONS = re.compile(r"^(fixed_positional_encoder\.positions|pos_embed)$")
#: What serves the pre-training or classification of others.
_PASSED_OVER = re.compile(r"^(decoder|_ema|recon_proj|cls_proj|head|fc_norm|fc|linear_classifier)\b")
#: Weights whose first axis is not, or whose second is, the channels of the tokens.
_READS_TOKENS = re.compile(r"\.(qkv|mlp\.0)\.weight$")
_WRITES_NO_TOKENS = re.compile(r"\.(qkv|mlp\.0)\.")


def lacks_stem(path: Path) -> bool:
    """Whether a checkpoint is of an encoder without SBLU or control in its stem. Raises CheckpointError."""
    about = read_header(path)
    return about.model not in _MODELS or _stem(about) in _BARE


def _stem(about: CheckpointHeader) -> object:
    return about.config.get("stem", "plain")


def checkpoint_digest(path: Path) -> str:
    """SHA-256 of a checkpoint. Raises CheckpointError where there is none."""
    read_header(path)
    return file_digest(path)


def load(encoder: AapeEncoder, path: Path) -> TrainingAudio:
    """Load what a file has of an encoder's weights; what it was trained on.

    Raises CheckpointError where the file is no safetensors file, of other shapes, or of another function.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    about = read_header(path)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"The checkpoint {path} is damaged ({error}). Copy the file again.") from None
    turned = False
    if about.model in _MODELS:
        _check_settings(encoder.config, about, path)
    else:
        tensors, turned = _translated(tensors, encoder.config, path)
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
        tensors = _half_turned(tensors)
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


def _translated(tensors: dict[str, Tensor], config: VitConfig, path: Path) -> tuple[dict[str, Tensor], bool]:
    """Weights of EAT's or timm's naming under our names; whether the halves of their channels are to be exchanged."""
    found: dict[str, Tensor] = {}
    positions = None
    for full, tensor in tensors.items():
        name = _PREFIX.sub("", full)
        if _POSITIONS.match(name):
            positions = tensor
        elif not _PASSED_OVER.match(name):
            found[_renamed(name, full, path)] = tensor.reshape(-1) if name in ("extra_tokens", "cls_token") else tensor
            order = {"pre_norm": "post", "context_encoder": "post", "norm": "pre"}.get(name.partition(".")[0])
            if order not in (None, config.norm):
                raise CheckpointError(f"--init {path} is of norm={order}, not {config.norm}. Set model.norm={order}.")
    return found, positions is not None and _rows_first(positions, config, path)


def _renamed(name: str, full: str, path: Path) -> str:
    for pattern, ours in _NAMES:
        if re.match(pattern, name):
            return re.sub("^" + pattern, ours, name)
    raise CheckpointError(
        f"--init {path} holds {full}, which is no weight of a plain ViT as EAT or timm name them. Rename or remove it."
    )


def _rows_first(positions: Tensor, config: VitConfig, path: Path) -> bool:
    """Whether the positions in a file begin with the row's part; of other grids as many as we have are compared."""
    import torch

    from aape_bench.models.aape.backbone import grid_positions

    fits = positions.ndim > 1 and positions.shape[-1] == config.dim and not positions.is_complex()
    theirs = positions.reshape(-1, config.dim).float() if fits else torch.zeros(0, config.dim)
    steps = min(len(theirs) // config.rows, config.clip_frames // config.patch_frames)
    theirs = theirs[: steps * config.rows]
    if steps:
        ours = grid_positions(steps, config.rows, config.dim, config.position_base).flatten(0, 1)
        if torch.allclose(theirs, ours, atol=1e-4):
            return False
        if torch.allclose(theirs, ours.roll(config.dim // 2, dims=1), atol=1e-4):
            return True
    raise CheckpointError(
        f"--init {path} has positions that are not the fixed sines and cosines of a grid of {config.rows} rows, which "
        "this encoder uses."
    )


def _half_turned(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same function with the two halves of the tokens' channels exchanged."""
    turned = {}
    for name, tensor in tensors.items():
        if _READS_TOKENS.search(name):
            tensor = tensor.roll(tensor.shape[1] // 2, dims=1)
        elif not _WRITES_NO_TOKENS.search(name):
            tensor = tensor.roll(tensor.shape[0] // 2, dims=0)
        turned[name] = tensor.contiguous()
    return turned
