"""ATST-Frame (Li, Shao, Li, TASLP 2024): an ATST whose teacher's frames are predicted from masked ones.

Scenes are the mean over the tokens, of all blocks side by side: 12 x 768 values. See `aape_bench.models.atst`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from aape_bench.hear_out import hear_functions
from aape_bench.models import atst
from aape_bench.plugin import EncoderPlugin
from aape_bench.published_weights import PublishedWeights


@dataclass(frozen=True)
class AtstFrameConfig(atst.AtstConfig):
    """`AtstConfig` of ATST-Frame's base model; the small one is width=384, heads=6."""

    has_cls: ClassVar[bool] = False


plugin = EncoderPlugin(
    name="atst_frame",
    title="ATST-Frame: ViT on 40 ms steps of a log-mel, all blocks' outputs; weights by --weights FILE",
    build=atst.build,
    config=AtstFrameConfig,
    sources=("aape_bench.models.atst_frame", *atst.SOURCES),
    published=PublishedWeights(
        get="https://github.com/Audio-WestlakeU/audiossl, methods/atstframe, Pre-trained Checkpoints: atstframe_base; "
        "of atstframe_small --set 'width=384;heads=6' too",
        load=atst.load,
        trained_with=atst.TRAINED_WITH,
    ),
    licence=atst.LICENCE,
    citation="Li, Shao, Li: Self-Supervised Audio Teacher-Student Transformer for Both Clip-Level and Frame-Level "
    "Tasks, IEEE/ACM TASLP 32, 2024, arXiv 2306.04186",
    homepage="https://github.com/Audio-WestlakeU/audiossl",
)

# the module is a HEAR module: https://hearbenchmark.com/hear-api.html
load_model, get_scene_embeddings, get_timestamp_embeddings = hear_functions(plugin)
