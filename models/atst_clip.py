"""ATST-Clip (Li & Li, Interspeech 2022): an ATST whose CLS token is the same for two views of a clip.

Scenes are CLS and the mean over the tokens, of all blocks side by side: 2 x 12 x 768 values; timestamps are the
tokens. Windows are of 6 s, as it was trained. See `aape_bench.models.atst`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from aape_bench.hear_out import hear_functions
from aape_bench.models import atst
from aape_bench.plugin import EncoderPlugin
from aape_bench.published_weights import PublishedWeights


@dataclass(frozen=True)
class AtstClipConfig(atst.AtstConfig):
    """`AtstConfig` of ATST-Clip's base model; the small one is width=384, heads=6."""

    has_cls: ClassVar[bool] = True

    clip_frames: int = 600


plugin = EncoderPlugin(
    name="atst_clip",
    title="ATST-Clip: ViT on 40 ms steps of a log-mel, CLS and mean of all blocks; weights by --weights FILE",
    build=atst.build,
    config=AtstClipConfig,
    sources=("aape_bench.models.atst_clip", *atst.SOURCES),
    published=PublishedWeights(
        get="https://github.com/Audio-WestlakeU/audiossl, methods/atst, Download pretrained checkpoints: base.ckpt; of "
        "small.ckpt --set 'width=384;heads=6' too",
        load=atst.load,
    ),
    licence=atst.LICENCE,
    citation="Li, Li: ATST: Audio Representation Learning with Teacher-Student Transformer, Interspeech 2022, arXiv "
    "2204.12076",
    homepage="https://github.com/Audio-WestlakeU/audiossl",
)

# the module is a HEAR module: https://hearbenchmark.com/hear-api.html
load_model, get_scene_embeddings, get_timestamp_embeddings = hear_functions(plugin)
