"""Hub models through transformers: one file per kind of front end, one family per architecture.

Each is offered under transformers' name of the architecture by the entry points `aape_bench.hub`; importing this file
imports neither torch nor transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aape_bench.hub import REMOTE, HubConfig, HubFamily, HubSource

if TYPE_CHECKING:
    from aape_bench.encoder import Encoder

_SHARED = ("aape_bench.models.hub", "aape_bench.models.hub.encoder", "aape_bench.models.hub.loading")


def _waveform(source: HubSource, config: HubConfig, seed: int | None) -> Encoder:
    from aape_bench.models.hub.waveform import WaveformEncoder

    return WaveformEncoder(source, config, seed)


def _ast(source: HubSource, config: HubConfig, seed: int | None) -> Encoder:
    from aape_bench.models.hub.spectrogram_transformer import AstEncoder

    return AstEncoder(source, config, seed)


def _whisper(source: HubSource, config: HubConfig, seed: int | None) -> Encoder:
    from aape_bench.models.hub.whisper_encoder import WhisperTower

    return WhisperTower(source, config, seed)


def _clap(source: HubSource, config: HubConfig, seed: int | None) -> Encoder:
    from aape_bench.models.hub.clap_tower import ClapTower

    return ClapTower(source, config, seed)


def _remote(source: HubSource, config: HubConfig, seed: int | None) -> Encoder:
    from aape_bench.models.hub.remote_code import RemoteEncoder

    return RemoteEncoder(source, config, seed)


_WAVEFORM = (*_SHARED, "aape_bench.models.hub.waveform")
_WINDOWED = (*_SHARED, "aape_bench.models.hub.windowed")

wav2vec2 = HubFamily("wav2vec2", "wav2vec 2.0 (Baevski et al., NeurIPS 2020)", _waveform, _WAVEFORM)
hubert = HubFamily("hubert", "HuBERT (Hsu et al., TASLP 2021)", _waveform, _WAVEFORM)
wavlm = HubFamily("wavlm", "WavLM (Chen et al., JSTSP 2022)", _waveform, _WAVEFORM)
data2vec = HubFamily("data2vec-audio", "data2vec, audio (Baevski et al., ICML 2022)", _waveform, _WAVEFORM)
ast = HubFamily(
    "audio-spectrogram-transformer",
    "AST (Gong et al., Interspeech 2021)",
    _ast,
    (*_WINDOWED, "aape_bench.models.hub.spectrogram_transformer", "aape_bench.features"),
)
whisper = HubFamily(
    "whisper",
    "Whisper's encoder (Radford et al., ICML 2023)",
    _whisper,
    (*_WINDOWED, "aape_bench.models.hub.whisper_encoder"),
)
clap = HubFamily(
    "clap", "CLAP's audio tower (Wu et al., ICASSP 2023)", _clap, (*_WINDOWED, "aape_bench.models.hub.clap_tower")
)
remote = HubFamily(REMOTE, "code that comes with the weights", _remote, (*_SHARED, "aape_bench.models.hub.remote_code"))
