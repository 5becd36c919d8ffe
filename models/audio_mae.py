"""Audio-MAE (Huang et al., NeurIPS 2022): a pre-norm ViT on log-mel patches, with the weights its authors published.

Layout after github.com/facebookresearch/AudioMAE: models_mae.py (`mae_vit_base_patch16` on 1024 x 128, timm's names, a
LayerNorm after the blocks, positions fixed), main_pretrain.py (statistics), dataset.py (front end as EAT's). The
decoder is left out. Fine-tuned weights, whose positions were trained and whose last LayerNorm is gone, are refused.
"""

from __future__ import annotations

from dataclasses import dataclass

from aape_bench.hear_out import hear_functions
from aape_bench.models import eat
from aape_bench.models.aape.config import Preset, VitConfig
from aape_bench.plugin import EncoderPlugin
from aape_bench.published_weights import PublishedWeights


@dataclass(frozen=True)
class AudioMaeConfig(VitConfig):
    """`VitConfig` of Audio-MAE's ViT-B."""

    preset: Preset = "base"
    norm_mean: float = -4.2677393
    norm_std: float = 4.5689974


plugin = EncoderPlugin(
    name="audio_mae",
    title="Audio-MAE: ViT trained to fill in log-mel patches; weights by --weights FILE",
    build=eat.build,
    config=AudioMaeConfig,
    sources=("aape_bench.models.audio_mae", *eat.plugin.sources),
    published=PublishedWeights(
        get="https://github.com/facebookresearch/AudioMAE, Fine-tuning on AudioSet-2M: the pre-trained ckpt "
        "(pretrained.pth)",
        load=eat.load,
    ),
    licence="CC-BY-4.0 (weights)",
    citation="Huang, Xu, Li, Baevski, Auli, Galuba, Metze, Feichtenhofer: Masked Autoencoders that Listen, NeurIPS "
    "2022, arXiv 2207.06405",
    homepage="https://github.com/facebookresearch/AudioMAE",
)

# the module is a HEAR module: https://hearbenchmark.com/hear-api.html
load_model, get_scene_embeddings, get_timestamp_embeddings = hear_functions(plugin)
