"""ATST (Li, Shao, Li): a pre-norm ViT on 40 ms steps of a log-mel, as a teacher of itself; ATST-Clip and ATST-Frame.

Layout after github.com/Audio-WestlakeU/audiossl: models/atst/audio_transformer.py (`AST`) and
methods/atstframe/audio_transformer.py (`FrameAST`): patches of 64 bands x 4 frames, 250 trained positions, queries,
keys and values without bias, `norm_eps` 1e-6; front end, scenes of all blocks side by side and windows as their
downstream/transform.py, downstream/model.py and methods/atstframe/embedding.py. Windows are of 1000 frames, where the
authors' 1001 leave out every 1001st frame, so that moments are 40 ms apart; windows count by their duration.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from aape_bench.errors import UsageError
from aape_bench.models.sizes import TransformerSizes
from aape_bench.settings import INFERENCE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from aape_bench.models.atst.encoder import AtstEncoder

SOURCES = (
    *("aape_bench.models.atst", "aape_bench.models.atst.encoder", "aape_bench.models.decibels"),
    *("aape_bench.models.windows", "aape_bench.models.sizes", "aape_bench.models.aape.backbone"),
    *("aape_bench.models.aape.layouts", "aape_bench.randomness"),
)

#: Of FrameATSTLightningModule; AST has no others.
TRAINED_WITH = {"n_mels": 64, "patch_h": 64, "patch_w": 4, "nprompt": 0, "pos_type": "cut", "patch_embed": "Linear"}

LICENCE = "MIT (code and linked checkpoints, LICENSE of the audiossl repository)"


@dataclass(frozen=True)
class AtstConfig(TransformerSizes):
    """`TransformerSizes` of an ATST.

    layers: how many of the last blocks' outputs stand side by side, each normalised; the authors' choice is all 12.
    """

    patch_frames: ClassVar[int] = 4
    most_frames: ClassVar[int] = 1000
    has_cls: ClassVar[bool]

    clip_frames: int = 1000
    layers: int = field(default=12, metadata=INFERENCE)

    def resolved(self) -> AtstConfig:
        """As `TransformerSizes`."""
        if not 1 <= self.layers <= self.blocks:
            raise UsageError(f"layers must lie between 1 and blocks={self.blocks}, not {self.layers}.")
        return super().resolved()


def build(config: AtstConfig, seed: int) -> AtstEncoder:
    """The encoder on the CPU with weights drawn from the seed."""
    from aape_bench.models.atst.encoder import AtstEncoder

    return AtstEncoder(config, seed)


def load(encoder: AtstEncoder, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Put weights of the published naming into the encoder."""
    from aape_bench.models.atst.encoder import load_published

    load_published(encoder, tensors, path)
