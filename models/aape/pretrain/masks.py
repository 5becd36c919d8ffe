"""Inverse-block masks: which patches of the (time steps x rows) grid a view keeps.

b x b blocks around random centres are kept and everything else is masked; then patches are added or taken away at
random until exactly the wanted number is kept, so that views batch. As EAT (Chen et al., arXiv 2401.03497), after
data2vec 2.0 (Baevski et al., arXiv 2212.07525). Imports torch.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from aape_bench.models.aape.pretrain.config import PretrainConfig
from aape_bench.randomness import numpy_stream


def batch_masks(
    config: PretrainConfig, seed: int, step: int, clips: Tensor, steps: int, rows: int, again: Tensor | None = None
) -> Tensor:
    """`keep_indices` with a resolved config's settings."""
    return keep_indices(
        *(seed, step, clips, config.masks, steps, rows, config.keep, config.mask_block),
        excess=config.mask_excess,
        fewest=config.mask_fewest,
        again=again,
    )


def keep_indices(
    seed: int,
    step: int,
    clips: Tensor,
    masks: int,
    steps: int,
    rows: int,
    keep: float,
    block: int | None = None,
    *,
    excess: float = PretrainConfig.mask_excess,
    fewest: int = PretrainConfig.mask_fewest,
    again: Tensor | None = None,
) -> Tensor:
    """The patches that every view keeps, as positions in the flattened (steps x rows) grid.

    A mask depends on (seed, step, clip, again, its number) alone: not on the other clips of the batch, nor on how many
    masks there are. Parts of blocks that leave the grid are lost.

    clips: (n,) int64, index of each clip in the source list. again: (n,) int64, what tells crops of one clip apart
    within the step, None: there is one of each. keep: share; block, excess, fewest: as in PretrainConfig.
    Returns (n, masks, round(keep * steps * rows)) int64 on the CPU, ascending.
    """
    cells = steps * rows
    kept = round(keep * cells)
    side = block or block_side(steps, rows, keep, excess, fewest)
    count = max(1, int(blocks_of(side, steps, rows, keep, excess)))
    # A mask is a row of one draw per clip, so that it does not depend on their number.
    streams = zip(clips.tolist(), [0] * len(clips) if again is None else again.tolist(), strict=True)
    draws = np.stack(
        [
            numpy_stream(seed, "mask", step, clip, *([crop] if crop else [])).random((masks, count + cells))
            for clip, crop in streams
        ]
    ).reshape(-1, count + cells)
    centre = (draws[:, :count] * cells).astype(np.int64)
    in_step = _reach(centre // rows, steps, side)
    in_row = _reach(centre % rows, rows, side)
    in_block = (in_step.transpose(0, 2, 1) @ in_row).reshape(-1, cells) > 0
    # The highest scores: patches in blocks before all others, each kind in random order.
    score = draws[:, count:] + in_block
    chosen = np.argpartition(score, cells - kept, axis=1)[:, cells - kept :]
    chosen.sort(axis=1)
    return torch.from_numpy(chosen).reshape(-1, masks, kept)


def blocks_of(side: int, steps: int, rows: int, keep: float, excess: float) -> float:
    """How many blocks of this side have the area of the patches to keep and the excess."""
    return (keep + excess) * steps * rows / side**2


def block_side(steps: int, rows: int, keep: float, excess: float, fewest: int) -> int:
    """The largest side that leaves at least `fewest` blocks; at least 1."""
    sides = range(1, min(steps, rows) + 1)
    return max((side for side in sides if blocks_of(side, steps, rows, keep, excess) >= fewest), default=1)


def _reach(centre: np.ndarray, size: int, side: int) -> np.ndarray:
    """(views, blocks) centres on one axis -> (views, blocks, size) float32, 1 where a block lies."""
    distance = np.arange(size) - centre[..., None] + side // 2
    inside: np.ndarray = (distance >= 0) & (distance < side)
    return inside.astype(np.float32)
