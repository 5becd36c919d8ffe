"""Architectures whose Python code comes with their weights, run only by --trust-remote-code. (Imports torch.)

Nothing is known of them but transformers' conventions: a feature extractor and a model with hidden states of
(1, tokens, width), which are taken to lie evenly over the clip. Each clip is encoded by itself.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import Tensor, nn

from aape_bench.errors import ModelError
from aape_bench.hub import HubConfig, HubSource
from aape_bench.models.hub.encoder import HubEncoder, full_lengths
from aape_bench.models.hub.loading import blamed, stored


class RemoteEncoder(HubEncoder):
    """Scenes are the mean over a clip's tokens; timestamps the tokens."""

    def __init__(self, source: HubSource, config: HubConfig, seed: int | None) -> None:
        with blamed(source), torch.random.fork_rng(devices=[]):
            trust: dict[str, Any] = {"trust_remote_code": True, "local_files_only": True}
            settings = transformers.AutoConfig.from_pretrained(source.folder, **trust)
            make_extractor: Any = transformers.AutoFeatureExtractor
            make_model: Any = transformers.AutoModel
            extractor = make_extractor.from_pretrained(source.folder, **trust)
            if seed is None:
                tower = stored(source, make_model, config=settings, trust_remote_code=True)
            else:
                torch.manual_seed(seed)
                tower = make_model.from_config(settings, trust_remote_code=True)
        depth = int(getattr(settings, "num_hidden_layers", 0))
        lists = [one for one in tower.modules() if isinstance(one, nn.ModuleList) and len(one) == depth]
        super().__init__(source, config, tower, list(lists[0]) if lists else [], (), 1)
        self.extractor, self.owner = extractor, source
        with torch.no_grad():
            width = self._tokens(torch.zeros(self.sample_rate)).shape[1]
        self.scene_embedding_size = self.timestamp_embedding_size = width

    def scene_embeddings(self, audio: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Mean over the tokens of each clip: (n, scene_embedding_size) float32."""
        lengths = full_lengths(audio, lengths)
        clips = zip(audio, lengths.tolist(), strict=True)
        return torch.stack([self._tokens(clip[:length]).mean(dim=0) for clip, length in clips])

    def timestamp_embeddings(self, audio: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One vector per token, (n, t, timestamp_embedding_size), 0 past a clip's end, and centres in ms (n, t)."""
        lengths = full_lengths(audio, lengths)
        clips = [self._tokens(clip[:n]) for clip, n in zip(audio, lengths.tolist(), strict=True)]
        times = [
            (torch.arange(len(tokens), device=audio.device) + 0.5) * (1000 * n / self.sample_rate / len(tokens))
            for tokens, n in zip(clips, lengths.tolist(), strict=True)
        ]
        pad = nn.utils.rnn.pad_sequence
        return pad(clips, batch_first=True), pad(times, batch_first=True, padding_value=float("nan"))

    def _tokens(self, clip: Tensor) -> Tensor:
        """(samples,) -> (tokens, size) float32."""
        with blamed(self.owner):
            inputs = self.extractor(clip.detach().cpu().numpy(), sampling_rate=self.sample_rate, return_tensors="pt")
            hidden = self.hidden(lambda: {name: value.to(clip.device) for name, value in inputs.items()})
        if hidden.ndim != 3 or len(hidden) != 1:
            raise ModelError(
                f"The hub model {self.owner.name} answers one clip with {list(hidden.shape)}, not (1, tokens, width), "
                "so its code cannot be run as an encoder here."
            )
        return hidden[0].float()
