"""`example_bands`: levels in frequency bands, mixed by random weights. Imports no torch: planning a run needs none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aape_bench.hear_out import hear_functions
from aape_bench.plugin import EncoderPlugin

if TYPE_CHECKING:
    from aape_bench.encoder import Encoder


@dataclass(frozen=True)
class BandsConfig:
    """Settings, `--set bands=10`; all of them are part of a result's identity.

    bands: frequency bands of equal width. size: of embeddings.
    """

    bands: int = 20
    size: int = 32


def build(config: BandsConfig, seed: int) -> Encoder:
    """The encoder on the CPU, weights drawn from the seed; `--weights FILE` (safetensors) replaces them."""
    from aape_bench_example.encoder import Bands

    return Bands(config.bands, config.size, seed)


plugin = EncoderPlugin(
    name="example_bands",
    title="Levels in frequency bands, mixed by random weights",
    build=build,
    config=BandsConfig,
    # every module whose code decides the embeddings: when one changes, results are computed again
    sources=("aape_bench_example.encoder", "aape_bench.randomness"),
    sample_rate=16000,
    licence="Apache-2.0",
)

# makes this module a HEAR module, too: hear-eval-kit runs it as it is
load_model, get_scene_embeddings, get_timestamp_embeddings = hear_functions(plugin)
