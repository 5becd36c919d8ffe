"""`logmel`: the mean and standard deviation of the log-mel, the baseline that knows no order in time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aape_bench.hear_out import hear_functions
from aape_bench.plugin import EncoderPlugin

if TYPE_CHECKING:
    from aape_bench.encoder import Encoder


@dataclass(frozen=True)
class LogMelConfig:
    """Settings of `logmel`.

    n_mels: mel bins between 20 Hz and 8 kHz; the scene embedding has twice as many values.
    """

    n_mels: int = 128


def _build(config: LogMelConfig, seed: int) -> Encoder:  # noqa: ARG001 - nothing is drawn
    from aape_bench.models.logmel.encoder import LogMelStatistics

    return LogMelStatistics(config.n_mels)


plugin = EncoderPlugin(
    name="logmel",
    title="Mean and standard deviation over time of the log-mel spectrogram; nothing learned",
    build=_build,
    config=LogMelConfig,
    sources=("aape_bench.models.logmel", "aape_bench.models.logmel.encoder", "aape_bench.features"),
    sample_rate=16000,
    has_weights=False,
    licence="Apache-2.0",
)

# the module is a HEAR module: https://hearbenchmark.com/hear-api.html
load_model, get_scene_embeddings, get_timestamp_embeddings = hear_functions(plugin)
