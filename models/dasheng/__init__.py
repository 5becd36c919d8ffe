"""Dasheng (Dinkel et al., Interspeech 2024): a ViT on 40 ms steps of a log-mel, with its authors' published weights.

Layout after github.com/RicherMans/Dasheng, dasheng/train/models.py (`AudioTransformerMAE_Encoder`) and
dasheng/pretrained/pretrained.py. Dasheng 0.6B is width=1280, blocks=32, heads=16; 1.2B is width=1536, blocks=40,
heads=24.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from aape_bench.hear_out import hear_functions
from aape_bench.models.sizes import TransformerSizes
from aape_bench.plugin import EncoderPlugin
from aape_bench.published_weights import PublishedWeights

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from aape_bench.models.dasheng.encoder import DashengEncoder


@dataclass(frozen=True)
class DashengConfig(TransformerSizes):
    """`TransformerSizes` of Dasheng's base model."""

    patch_frames: ClassVar[int] = 4

    clip_frames: int = 1008


def build(config: DashengConfig, seed: int) -> DashengEncoder:
    """The encoder on the CPU with weights drawn from the seed."""
    from aape_bench.models.dasheng.encoder import DashengEncoder

    return DashengEncoder(config, seed)


def load(encoder: DashengEncoder, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Put weights of the published naming into the encoder."""
    from aape_bench.models.dasheng.encoder import load_published

    load_published(encoder, tensors, path)


plugin = EncoderPlugin(
    name="dasheng",
    title="Dasheng: ViT on 40 ms steps of a log-mel; weights by --weights FILE",
    build=build,
    config=DashengConfig,
    sources=(
        *("aape_bench.models.dasheng", "aape_bench.models.dasheng.encoder", "aape_bench.models.decibels"),
        *("aape_bench.models.windows", "aape_bench.models.sizes", "aape_bench.models.aape.backbone"),
        *("aape_bench.models.aape.layouts", "aape_bench.randomness"),
    ),
    published=PublishedWeights(
        get="https://zenodo.org/records/11511780: dasheng_base.pt; of dasheng_06b.pt --set 'width=1280;blocks=32;"
        "heads=16' too, of dasheng_12b.pt --set 'width=1536;blocks=40;heads=24'",
        load=load,
    ),
    licence="MIT (as its pyproject.toml has it)",
    citation="Dinkel, Yan, Wang, Zhang, Wang, Wang: Scaling up masked audio encoder learning for general audio "
    "classification, Interspeech 2024, arXiv 2406.06992",
    homepage="https://github.com/RicherMans/Dasheng",
)

# the module is a HEAR module: https://hearbenchmark.com/hear-api.html
load_model, get_scene_embeddings, get_timestamp_embeddings = hear_functions(plugin)
