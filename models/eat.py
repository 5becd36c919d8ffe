"""EAT (Chen et al., IJCAI 2024): a post-norm ViT on log-mel patches, with the weights that its authors published.

Layout after github.com/cwx-worst-one/EAT: models/EAT_pretraining.py (`layer_norm_first` is False: one LayerNorm before
the blocks, none after), config/pretraining_AS2M.yaml (12 blocks of width 768, `norm_eps` 1e-6, one extra token),
feature_extract/feature_extract.py (front end, statistics). EAT-large is width=1024, blocks=24, heads=16.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from aape_bench.hear_out import hear_functions
from aape_bench.models.aape import SOURCES
from aape_bench.models.aape.config import Preset, VitConfig
from aape_bench.plugin import EncoderPlugin
from aape_bench.published_weights import PublishedWeights

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from aape_bench.models.aape.encoder import AapeEncoder


@dataclass(frozen=True)
class EatConfig(VitConfig):
    """`VitConfig` of EAT-base."""

    preset: Preset = "base"
    norm: Literal["pre", "post"] = "post"


def build(config: EatConfig, seed: int) -> AapeEncoder:
    """The encoder on the CPU with weights drawn from the seed."""
    from aape_bench.models.aape.encoder import AapeEncoder

    return AapeEncoder(config, seed)


def load(encoder: AapeEncoder, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Put weights of EAT's naming into the encoder."""
    from aape_bench.models.aape.layouts import load_published

    load_published(encoder, tensors, path)


plugin = EncoderPlugin(
    name="eat",
    title="EAT: post-norm ViT on log-mel patches; weights by --weights FILE",
    build=build,
    config=EatConfig,
    sources=("aape_bench.models.eat", "aape_bench.models.aape.layouts", *SOURCES),
    published=PublishedWeights(
        get="https://github.com/cwx-worst-one/EAT, Model Checkpoints: EAT-base_epoch30 (pre-training); of EAT-large "
        "--set 'width=1024;blocks=24;heads=16' too",
        load=load,
    ),
    licence="MIT (code and weights of the EAT repository)",
    citation="Chen, Liang, Ma, Zheng, Chen: EAT: Self-Supervised Pre-Training with Efficient Audio Transformer, IJCAI "
    "2024, arXiv 2401.03497",
    homepage="https://github.com/cwx-worst-one/EAT",
)

# the module is a HEAR module: https://hearbenchmark.com/hear-api.html
load_model, get_scene_embeddings, get_timestamp_embeddings = hear_functions(plugin)
