"""SSLAM (Alex et al., ICLR 2025): EAT's encoder and names of weights, trained on mixtures of clips.

"The inference and evaluation code is identical to EAT" (README of github.com/ta012/SSLAM).
"""

from __future__ import annotations

from aape_bench.hear_out import hear_functions
from aape_bench.models import eat
from aape_bench.plugin import EncoderPlugin
from aape_bench.published_weights import PublishedWeights

plugin = EncoderPlugin(
    name="sslam",
    title="SSLAM: EAT's encoder trained on mixtures; weights by --weights FILE",
    build=eat.build,
    config=eat.EatConfig,
    sources=("aape_bench.models.sslam", *eat.plugin.sources),
    published=PublishedWeights(get="https://github.com/ta012/SSLAM, Model Weights: Pre-Trained", load=eat.load),
    citation="Alex, Atito, Mustafa, Awais, Jackson: SSLAM: Enhancing Self-Supervised Models with Audio Mixtures for "
    "Polyphonic Soundscapes, ICLR 2025, openreview.net/forum?id=odU59TxdiB",
    homepage="https://github.com/ta012/SSLAM",
)

# the module is a HEAR module: https://hearbenchmark.com/hear-api.html
load_model, get_scene_embeddings, get_timestamp_embeddings = hear_functions(plugin)
