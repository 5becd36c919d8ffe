"""Weights of plain ViTs on log-mel patches as others name them, under our names. (Imports torch when used.)

Known are EAT's naming (Chen et al., arXiv 2401.03497; github.com/cwx-worst-one/EAT, models/EAT_pretraining.py, with
and without the prefix of its only modality), which SSLAM has too, and timm's, which Audio-MAE has (Huang et al.,
arXiv 2207.06405; github.com/facebookresearch/AudioMAE, models_mae.py). MAE's fixed positions, which all of these have,
put the row's part before the time's, ours the time's first: the two halves of all channels change places, which leaves
the function as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from aape_bench.errors import CheckpointError
from aape_bench.models.aape.config import VitConfig
from aape_bench.published_weights import renamed

if TYPE_CHECKING:
    from torch import Tensor

    from aape_bench.models.aape.encoder import AapeEncoder

#: timm's names of a block's weights -> those of `backbone.Block`.
BLOCK_NAMES = (
    (r"blocks\.(\d+)\.attn\.qkv\.", r"blocks.\1.qkv."),
    (r"blocks\.(\d+)\.attn\.proj\.", r"blocks.\1.projection."),
    (r"blocks\.(\d+)\.mlp\.fc1\.", r"blocks.\1.mlp.0."),
    (r"blocks\.(\d+)\.mlp\.fc2\.", r"blocks.\1.mlp.2."),
    (r"blocks\.(\d+)\.(norm[12])\.", r"blocks.\1.\2."),
)
#: Names of EAT and timm, without their prefix -> ours.
_NAMES = (
    (r"(local_encoder|patch_embed)\.proj\.", "stem.conv_token."),
    (r"(extra_tokens|cls_token)$", "backbone.cls"),
    (r"(context_encoder\.norm|pre_norm)\.", "backbone.norm."),
    (r"norm\.", "backbone.norm."),
    *((theirs, f"backbone.{ours}") for theirs, ours in BLOCK_NAMES),
)
_PREFIX = re.compile(r"^(model\.)?(modality_encoders\.IMAGE\.)?")
_POSITIONS = re.compile(r"^(fixed_positional_encoder\.positions|pos_embed)$")
#: What serves the pre-training or classification of others.
_PASSED_OVER = re.compile(
    r"^(decoder|decoder_embed|decoder_pos_embed|decoder_blocks|decoder_norm|decoder_pred|mask_token|_ema|center"
    r"|shared_decoder|recon_proj|cls_proj|head|fc_norm|fc|linear_classifier)\b"
)
#: Weights whose first axis is not, or whose second is, the channels of the tokens.
_READS_TOKENS = re.compile(r"\.(qkv|mlp\.0)\.weight$")
_WRITES_NO_TOKENS = re.compile(r"\.(qkv|mlp\.0)\.")


def translated(
    tensors: Mapping[str, Tensor], config: VitConfig, owner: str, prefix: str = ""
) -> tuple[dict[str, Tensor], bool]:
    """Weights of EAT's or timm's naming under our names; whether `half_turned` is to be applied once shapes are known.

    owner: the file, as an error calls it. prefix: of the names of settings, as the user gives them. Raises
    CheckpointError where a weight has no place in a plain ViT, or positions are not the fixed ones of its grid.
    """
    found: dict[str, Tensor] = {}
    positions = None
    for full, tensor in tensors.items():
        name = _PREFIX.sub("", full)
        if _POSITIONS.match(name):
            positions = tensor
        elif not _PASSED_OVER.match(name):
            found[_renamed(name, full, owner)] = tensor.reshape(-1) if name in ("extra_tokens", "cls_token") else tensor
            order = {"pre_norm": "post", "context_encoder": "post", "norm": "pre"}.get(name.partition(".")[0])
            if order not in (None, config.norm):
                raise CheckpointError(f"{owner} is of norm={order}, not {config.norm}. Set {prefix}norm={order}.")
    return found, positions is not None and _rows_first(positions, config, owner, prefix)


def half_turned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same function with the two halves of the tokens' channels exchanged; our names, right shapes."""
    turned = {}
    for name, tensor in tensors.items():
        if _READS_TOKENS.search(name):
            tensor = tensor.roll(tensor.shape[1] // 2, dims=1)
        elif not _WRITES_NO_TOKENS.search(name):
            tensor = tensor.roll(tensor.shape[0] // 2, dims=0)
        turned[name] = tensor.contiguous()
    return turned


def _renamed(name: str, full: str, owner: str) -> str:
    if (ours := renamed(name, _NAMES)) is not None:
        return ours
    raise CheckpointError(
        f"{owner} holds {full}, which is no weight of a plain ViT as EAT or timm name them. Rename or remove it."
    )


def _rows_first(positions: Tensor, config: VitConfig, owner: str, prefix: str) -> bool:
    """Whether the positions in a file begin with the row's part; of other grids as many as we have are compared."""
    import torch

    from aape_bench.models.aape.backbone import grid_positions

    fits = positions.ndim > 1 and positions.shape[-1] == config.dim and not positions.is_complex()
    theirs = positions.reshape(-1, config.dim).float() if fits else torch.zeros(0, config.dim)
    if len(theirs) % config.rows == 1 and not theirs[0].any():
        theirs = theirs[1:]  # of CLS, which has none: zeros
    steps = min(len(theirs) // config.rows, config.clip_frames // config.patch_frames)
    theirs = theirs[: steps * config.rows]
    if steps:
        ours = grid_positions(steps, config.rows, config.dim, config.position_base).flatten(0, 1)
        if torch.allclose(theirs, ours, atol=1e-4):
            return False
        if torch.allclose(theirs, ours.roll(config.dim // 2, dims=1), atol=1e-4):
            return True
    raise CheckpointError(
        f"{owner} has positions that are not the fixed sines and cosines of a grid of {config.rows} rows at width "
        f"{config.dim}, which this encoder uses: theirs are {list(positions.shape)}. Name the settings it was trained "
        f"with ({prefix}width=...), or other weights."
    )


def load_published(encoder: AapeEncoder, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Put published weights into an encoder with the plain stem. Raises CheckpointError saying what does not fit."""
    from aape_bench.checkpoint import load_tensors

    named, turned = translated(tensors, encoder.config, f"The checkpoint {path}")
    load_tensors(encoder, named, path)
    if turned:
        encoder.load_state_dict(half_turned(encoder.state_dict()))
