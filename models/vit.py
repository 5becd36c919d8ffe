"""The `vit` baseline: AaPE's front end and backbone with the plain convolutional patch embedding."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aape_bench.hear_out import hear_functions
from aape_bench.models.aape import SOURCES
from aape_bench.models.aape.config import VitConfig
from aape_bench.plugin import EncoderPlugin

if TYPE_CHECKING:
    from aape_bench.models.aape.encoder import AapeEncoder


def build(config: VitConfig, seed: int) -> AapeEncoder:
    """The encoder on the CPU with weights drawn from the seed, equal to those it shares with `aape`."""
    from aape_bench.models.aape.encoder import AapeEncoder

    return AapeEncoder(config, seed)


plugin = EncoderPlugin(
    name="vit",
    title="ViT on log-mel patches, plain patch embedding",
    build=build,
    config=VitConfig,
    sources=("aape_bench.models.vit", *SOURCES),
    licence="Apache-2.0",
    citation="Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021; positions and front end as EAT, "
    "arXiv 2401.03497",
)

# the module is a HEAR module: https://hearbenchmark.com/hear-api.html
load_model, get_scene_embeddings, get_timestamp_embeddings = hear_functions(plugin)
