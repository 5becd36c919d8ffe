"""BEATs (Chen et al., ICML 2023): a transformer on log-mel patches with gated relative positions, by published weights.

Layout after github.com/microsoft/unilm, beats/BEATs.py and beats/backbone.py (MIT): patches of 16 x 16, the bands of a
moment one after the other; a convolution and bucketed distances for positions (as WavLM, arXiv 2110.13900, whose gate
reads a block's input where this one reads the query); post-norm with DeepNorm's factor (arXiv 2203.00555). The settings
are those that the files state (`cfg`). Not stated by the authors: the scene, here the mean over the last block's
tokens, as their classifier's logits are averaged; and windows, of the 10.24 s that EAT has too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from aape_bench.errors import UsageError
from aape_bench.hear_out import hear_functions
from aape_bench.models.sizes import TransformerSizes
from aape_bench.plugin import EncoderPlugin
from aape_bench.published_weights import PublishedWeights
from aape_bench.settings import INFERENCE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from aape_bench.models.beats.encoder import BeatsEncoder

CONV_GROUPS = 16


@dataclass(frozen=True)
class BeatsConfig(TransformerSizes):
    """`TransformerSizes` of BEATs.

    timestamp_hop_ms: spacing of timestamp embeddings; finer than a patch by interleaving shifted passes, as `eat`.
    """

    patch_frames: ClassVar[int] = 16

    timestamp_hop_ms: Literal[10, 20, 40, 80, 160] = field(default=40, metadata=INFERENCE)

    def resolved(self) -> BeatsConfig:
        """As `TransformerSizes`."""
        if self.width % CONV_GROUPS:
            raise UsageError(f"width must be a multiple of {CONV_GROUPS}, not {self.width}.")
        return super().resolved()


def build(config: BeatsConfig, seed: int) -> BeatsEncoder:
    """The encoder on the CPU with weights drawn from the seed."""
    from aape_bench.models.beats.encoder import BeatsEncoder

    return BeatsEncoder(config, seed)


def load(encoder: BeatsEncoder, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Put weights of the published naming into the encoder."""
    from aape_bench.models.beats.weights import load_published

    load_published(encoder, tensors, path)


plugin = EncoderPlugin(
    name="beats",
    title="BEATs: transformer on log-mel patches, relative positions; weights by --weights FILE",
    build=build,
    config=BeatsConfig,
    sources=(
        *("aape_bench.models.beats", "aape_bench.models.beats.encoder", "aape_bench.models.beats.block"),
        *("aape_bench.models.beats.weights", "aape_bench.models.windows", "aape_bench.models.sizes"),
        *("aape_bench.models.aape.backbone", "aape_bench.features", "aape_bench.randomness"),
    ),
    published=PublishedWeights(
        get="https://github.com/microsoft/unilm/tree/master/beats, Pre-Trained and Fine-Tuned Tokenizers and Models: "
        "BEATs_iter3+ (AS2M), or another Pre-Trained Model (of a fine-tuned one the classifier is left out)",
        load=load,
        trained_with={
            **{"input_patch_size": 16, "activation_fn": "gelu", "layer_norm_first": False, "deep_norm": True},
            **{"relative_position_embedding": True, "num_buckets": 320, "max_distance": 800, "gru_rel_pos": True},
            **{"conv_pos_groups": CONV_GROUPS},
        },
    ),
    licence="MIT (LICENSE of the unilm repository)",
    citation="Chen, Wu, Wang, Liu, Tompkins, Chen, Che, Yu, Wei: BEATs: Audio Pre-Training with Acoustic Tokenizers, "
    "ICML 2023, arXiv 2212.09058",
    homepage="https://github.com/microsoft/unilm/tree/master/beats",
)

# the module is a HEAR module: https://hearbenchmark.com/hear-api.html
load_model, get_scene_embeddings, get_timestamp_embeddings = hear_functions(plugin)
