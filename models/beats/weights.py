"""BEATs' published weights under our names. (Imports torch.)"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from aape_bench.checkpoint import is_common_float, load_tensors
from aape_bench.errors import CheckpointError
from aape_bench.models.beats.encoder import BeatsEncoder
from aape_bench.published_weights import renamed

#: Published names -> ours.
_NAMES = (
    (r"patch_embedding\.", "patch."),
    (r"layer_norm\.", "patch_norm."),
    (r"post_extract_proj\.", "patch_projection."),
    (r"encoder\.pos_conv\.0\.", "conv."),
    (r"encoder\.layer_norm\.", "norm_in."),
    (r"encoder\.layers\.(\d+)\.self_attn\.q_proj\.", r"blocks.\1.query."),
    (r"encoder\.layers\.(\d+)\.self_attn\.k_proj\.", r"blocks.\1.key."),
    (r"encoder\.layers\.(\d+)\.self_attn\.v_proj\.", r"blocks.\1.value."),
    (r"encoder\.layers\.(\d+)\.self_attn\.out_proj\.", r"blocks.\1.projection."),
    (r"encoder\.layers\.(\d+)\.self_attn\.grep_linear\.", r"blocks.\1.gate."),
    (r"encoder\.layers\.(\d+)\.self_attn\.grep_a$", r"blocks.\1.gate_scale"),
    (r"encoder\.layers\.(\d+)\.self_attn_layer_norm\.", r"blocks.\1.norm1."),
    (r"encoder\.layers\.(\d+)\.fc1\.", r"blocks.\1.mlp.0."),
    (r"encoder\.layers\.(\d+)\.fc2\.", r"blocks.\1.mlp.2."),
    (r"encoder\.layers\.(\d+)\.final_layer_norm\.", r"blocks.\1.norm2."),
)
_CLASSIFIER = "predictor."
_BIAS = re.compile(r"encoder\.layers\.\d+\.self_attn\.relative_attention_bias\.weight$")


def load_published(encoder: BeatsEncoder, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Put the authors' weights into the encoder. Raises CheckpointError saying what does not fit."""
    named: dict[str, Tensor] = {}
    for full, tensor in tensors.items():
        if full.startswith(_CLASSIFIER):
            continue
        if _BIAS.match(full):  # one for all blocks, written with each
            first = named.setdefault("distance_bias", tensor)
            same = (first.shape, first.dtype) == (tensor.shape, tensor.dtype)
            if not same or not torch.equal(first, tensor):
                raise CheckpointError(
                    f"The checkpoint {path} has biases of distances of its own for each block ({full}); BEATs' blocks "
                    "have the first one's in common. Name the file that was published."
                )
            continue
        named[renamed(full, _NAMES) or full] = tensor
    _without_weight_norm(named)
    for name, tensor in named.items():
        if name == "patch.weight" or name.endswith(".gate_scale"):
            named[name] = tensor.flatten(1) if name == "patch.weight" and tensor.ndim > 1 else tensor.flatten()
    load_tensors(encoder, named, path)


def _without_weight_norm(named: dict[str, Tensor]) -> None:
    """The convolution's weight is `weight_g` times `weight_v` of length 1 at each place of the kernel."""
    if not {"conv.weight_g", "conv.weight_v"} <= named.keys():
        return
    length, direction = named["conv.weight_g"], named["conv.weight_v"]
    fits = direction.ndim == 3 and length.shape == (1, 1, direction.shape[2])
    if fits and is_common_float(length) and is_common_float(direction):
        del named["conv.weight_g"], named["conv.weight_v"]
        named["conv.weight"] = length * direction / direction.norm(dim=(0, 1), keepdim=True)
