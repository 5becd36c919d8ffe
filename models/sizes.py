"""Settings that published encoders of windows of a log-mel have in common. (Imports no torch.)"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeVar

from aape_bench.errors import UsageError

_MOST_PARAMETERS = 2e9

_Sizes = TypeVar("_Sizes", bound="TransformerSizes")


@dataclass(frozen=True)
class TransformerSizes:
    """Sizes of the transformer, of the base model.

    width, blocks, heads: of the transformer. clip_frames: frames of 10 ms in one window, a multiple of a patch's.
    """

    patch_frames: ClassVar[int]
    most_frames: ClassVar[int] = 8192

    width: int = 768
    blocks: int = 12
    heads: int = 12
    clip_frames: int = 1024

    def resolved(self: _Sizes) -> _Sizes:
        """The same config, checked. Raises UsageError naming the setting."""
        if min(self.width, self.blocks, self.heads) < 1 or self.width % self.heads:
            raise UsageError(f"heads={self.heads} does not divide width={self.width} with blocks={self.blocks}.")
        patch = self.patch_frames
        if not patch <= self.clip_frames <= self.most_frames or self.clip_frames % patch:
            raise UsageError(
                f"clip_frames must be a multiple of {patch} up to {self.most_frames}, not {self.clip_frames}."
            )
        if 12 * self.blocks * self.width**2 > _MOST_PARAMETERS:
            raise UsageError(
                f"width={self.width} and blocks={self.blocks} make more than two thousand million weights."
            )
        return self
