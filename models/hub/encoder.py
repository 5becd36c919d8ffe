"""What all hub encoders share: the choice of hidden states and the order of parameters by depth. (Imports torch.)"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
        self.name, self._depth, self._width = source.name, len(blocks), width
        self.read_layer(config.layer)
        #: What the tower put out in this pass, and which of it is next.
        self._outputs: list[Any] | None = None
        self._next = 0
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

    def read_layer(self, layer: int | str) -> None:
        """Embed from this layer, of `HubConfig`. Raises UsageError where it does not exist."""
        if isinstance(layer, int) and not 0 <= layer <= self._depth:
            raise UsageError(
                f"The hub model {self.name} has hidden states 0 (input of the first block) to {self._depth} (output of "
                f"the last), so layer={layer} does not exist."
            )
        self.layer = layer
        size = self._width * (self._depth + 1) if layer == "all" else self._width
        self.scene_embedding_size = self.timestamp_embedding_size = size

    @contextmanager
    def one_pass(self) -> Iterator[Callable[[int | str], None]]:
        """Within, the tower runs for the first layer that is read; the others find what it put out, call by call.

        Gives what reads a layer: `read_layer`, from the first call on.
        """

        def read(layer: int | str) -> None:
            self.read_layer(layer)
            self._next = 0

        self._outputs = []
        try:
            yield read
        finally:
            self._outputs = None

    def hidden(self, inputs: Callable[[], Mapping[str, Tensor]]) -> Tensor:
        """Hidden states of the chosen layer: (n, tokens, timestamp_embedding_size), of `all` layers side by side.

        inputs: makes the tower's, where it has to run.
        """
        output: Any
        if self._outputs is None:
            output = self.tower(**inputs(), output_hidden_states=self.layer != "last", return_dict=True)
        else:
            if self._next == len(self._outputs):
                self._outputs.append(self.tower(**inputs(), output_hidden_states=True, return_dict=True))
            output = self._outputs[self._next]
            self._next += 1
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
