"""What all hub encoders share: the choice of hidden states and the order of parameters by depth. (Imports torch.)"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from aape_bench.encoder import Encoder
from aape_bench.errors import UsageError
from aape_bench.hub import HubConfig, HubSource


class HubEncoder(Encoder):
    """A transformers model as an encoder.

    tower: the model. blocks: its blocks, or stages of blocks, by depth. after: beginnings of the names, within the
    tower, of parameters behind the blocks; all others are on the input side.
    """

    def __init__(
        self,
        source: HubSource,
        config: HubConfig,
        tower: nn.Module,
        blocks: Sequence[nn.Module],
        after: Iterable[str],
        width: int,
    ) -> None:
        super().__init__()
        self.tower = tower
        self.sample_rate = source.sample_rate
        self.layer = config.layer
        depth = len(blocks)
        if isinstance(self.layer, int) and not 0 <= self.layer <= depth:
            raise UsageError(
                f"The hub model {source.name} has hidden states 0 (input of the first block) to {depth} (output of the "
                f"last), so layer={self.layer} does not exist."
            )
        size = width * (depth + 1) if self.layer == "all" else width
        self.scene_embedding_size = self.timestamp_embedding_size = size
        names = {parameter: f"tower.{name}" for name, parameter in tower.named_parameters()}
        self._groups = [[names[parameter] for parameter in block.parameters()] for block in blocks]
        behind = tuple(f"tower.{name}" for name in after)
        in_blocks = {name for group in self._groups for name in group}
        self._stem = [name for name in names.values() if name not in in_blocks and not name.startswith(behind)]

    def layer_groups(self) -> list[list[str]]:
        """The parameters of each block."""
        return self._groups

    def stem_parameters(self) -> list[str]:
        """What comes before the first block."""
        return self._stem

    def hidden(self, **inputs: Tensor) -> Tensor:
        """Hidden states of the chosen layer: (n, tokens, timestamp_embedding_size), of `all` layers side by side."""
        output: Any = self.tower(**inputs, output_hidden_states=self.layer != "last", return_dict=True)
        if self.layer == "last":
            chosen = output.last_hidden_state
        elif self.layer == "all":
            chosen = torch.cat(output.hidden_states, dim=-1)
        elif self.layer == "mean":
            chosen = torch.stack(output.hidden_states).mean(dim=0)
        else:
            chosen = output.hidden_states[self.layer]
        return chosen  # type: ignore[no-any-return]


def full_lengths(audio: Tensor, lengths: Tensor | None) -> Tensor:
    """`lengths` on the device of the audio, of whole clips where they are None: (n,) int64."""
    if lengths is None:
        return torch.full((audio.shape[0],), audio.shape[1], device=audio.device)
    return lengths.to(audio.device, torch.int64)
