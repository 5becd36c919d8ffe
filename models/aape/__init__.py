"""AaPE: a vision transformer on log-mel patches with an aliasing-aware patch embedding.

Yamamoto & Okusa, arXiv 2512.03637. The authors published no weights; those that come with it are ours, small and
trained for an hour on free audio (see weights/CARD.md).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from aape_bench.hear_out import hear_functions
from aape_bench.models.aape.config import AapeConfig
from aape_bench.plugin import EncoderPlugin

if TYPE_CHECKING:
    from aape_bench.models.aape.encoder import AapeEncoder
    from aape_bench.training import Training

SOURCES = (
    "aape_bench.models.aape.config",
    "aape_bench.models.aape.sblu",
    "aape_bench.models.aape.lambda_encoder",
    "aape_bench.models.aape.stem",
    "aape_bench.models.aape.backbone",
    "aape_bench.models.aape.encoder",
    "aape_bench.features",
    "aape_bench.randomness",
)


def build(config: AapeConfig, seed: int) -> AapeEncoder:
    """The encoder on the CPU with weights drawn from the seed."""
    from aape_bench.models.aape.encoder import AapeEncoder

    return AapeEncoder(config, seed)


def shipped_weights() -> str:
    """Path of the checkpoint that comes with the package."""
    return str(Path(__file__).with_name("weights") / "aape-tiny.safetensors")


def training() -> Training:
    """How it is pre-trained and ablated."""
    from aape_bench.models.aape.pretrain.ablation import AapeTraining

    return AapeTraining()


plugin = EncoderPlugin(
    name="aape",
    title="AaPE: ViT with aliasing-aware patch embedding (SBLU stem)",
    build=build,
    config=AapeConfig,
    sources=SOURCES,
    default_weights=shipped_weights,
    training=training,
    licence="Apache-2.0",
    citation="Yamamoto & Okusa, AaPE: Aliasing-aware Patch Embedding for Self-Supervised Audio "
    "Representation Learning, arXiv 2512.03637",
    homepage="https://arxiv.org/abs/2512.03637",
)

# the module is a HEAR module: https://hearbenchmark.com/hear-api.html
load_model, get_scene_embeddings, get_timestamp_embeddings = hear_functions(plugin)
