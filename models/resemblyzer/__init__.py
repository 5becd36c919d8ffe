"""`resemblyzer`: Resemble AI's speaker encoder, three LSTM layers trained to tell voices apart.

Wan et al., Generalized End-to-End Loss for Speaker Verification, ICASSP 2018. Code and weights: the package
resemblyzer, Apache-2.0. Here are a front end and an encoder of our own that compute the same; of the package only the
file of weights is read. Its removal of pauses (webrtcvad) is left out: not every sound here is speech.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from aape_bench.errors import ModelError, UsageError
from aape_bench.hear_out import hear_functions
from aape_bench.packages import PackageWeights, fill, read_pickled_tensors
from aape_bench.plugin import EncoderPlugin
from aape_bench.settings import INFERENCE

if TYPE_CHECKING:
    from aape_bench.encoder import Encoder


@dataclass(frozen=True)
class ResemblyzerConfig:
    """Settings of `resemblyzer`.

    loudness_dbfs:    clips whose RMS lies below this are raised to it, as the package's `preprocess_wav` does (-30);
                      "none" leaves them as they are.
    windows_per_second: how densely windows of 1.6 s lie for scenes; 1.3 as the package.
    timestamp_hop_ms: between neighbouring windows for timestamps.
    """

    loudness_dbfs: float | None = field(default=-30.0, metadata=INFERENCE)
    windows_per_second: float = field(default=1.3, metadata=INFERENCE)
    timestamp_hop_ms: int = field(default=160, metadata=INFERENCE)

    def __post_init__(self) -> None:
        if not 0.625 <= self.windows_per_second <= 100:
            raise UsageError(
                f"windows_per_second must lie between 0.625, side by side, and 100, not {self.windows_per_second}."
            )
        if self.loudness_dbfs is not None and not -120 <= self.loudness_dbfs <= 0:
            raise UsageError(f"loudness_dbfs must lie between -120 and 0, not {self.loudness_dbfs}.")
        if self.timestamp_hop_ms % 10 or not 10 <= self.timestamp_hop_ms <= 1600:
            raise UsageError(f"timestamp_hop_ms must be a multiple of 10 up to 1600, not {self.timestamp_hop_ms}.")


def build(config: ResemblyzerConfig, seed: int) -> Encoder:
    """The encoder on the CPU with weights drawn from the seed."""
    from aape_bench.models.resemblyzer.encoder import SpeakerEncoder

    return SpeakerEncoder(config, seed)


def read_weights(encoder: Encoder, paths: Sequence[Path]) -> None:
    """Load the package's `pretrained.pt`."""
    (path,) = paths
    content = read_pickled_tensors(path)
    if not isinstance(content, dict) or not isinstance(content.get("model_state"), dict):
        raise ModelError(f"The weights {path.name} are not those of resemblyzer. Install the package again.")
    # the scale and offset of its training's loss are no part of the encoder
    fill(encoder, {name: t for name, t in content["model_state"].items() if not name.startswith("similarity_")}, path)


# Trained on LibriSpeech's "other" parts, VoxCeleb1 and VoxCeleb2 (Jemine, Real-Time Voice Cloning, 2019).
# VoxCeleb1 splits its clips for verification by speaker, its identification task within speakers: what was trained on
# are clips of all of the latter's parts.
_NOT_SEEN = ("esc50", "us8k", "spcv2", "cremad", "gtzan", "nsynth")

plugin = EncoderPlugin(
    name="resemblyzer",
    title="Speaker encoder of the package resemblyzer: three LSTM layers, 256-d",
    build=build,
    config=ResemblyzerConfig,
    sources=("aape_bench.models.resemblyzer.encoder", "aape_bench.packages", "aape_bench.randomness"),
    package=PackageWeights(
        distribution="resemblyzer",
        files=("resemblyzer/pretrained.pt",),
        read=read_weights,
        install="--no-deps resemblyzer==0.1.4",
        overlap={"vc1": "test", **dict.fromkeys(_NOT_SEEN, "none")},
    ),
    licence="Apache-2.0",
    citation="Wan et al., Generalized End-to-End Loss for Speaker Verification, ICASSP 2018; weights: Resemble AI",
    homepage="https://github.com/resemble-ai/Resemblyzer",
)

# the module is a HEAR module: https://hearbenchmark.com/hear-api.html
load_model, get_scene_embeddings, get_timestamp_embeddings = hear_functions(plugin)
